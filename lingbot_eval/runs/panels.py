"""The few frames of a unit that are kept for the depth panels: their choice, and their file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.files.arrays import load_arrays
from lingbot_eval.files.atomic import atomic_open
from lingbot_eval.metrics.depth import DepthSettings
from lingbot_eval.types import DepthMap, Frame, Image, Prediction

_ARRAYS = {"index": ("i", 1), "image": ("u", 4), "truth": ("f", 3), "prediction": ("f", 3)}


@dataclass(frozen=True, eq=False)
class DepthPanels:
    """K frames side by side.

    index: (K,) int64 frame indices. image: (K, H, W, 3) uint8 RGB. truth: (K, H, W) float32 metres along z, 0 = none.
    prediction: (K, H, W) float32 metres after the per-frame ``scale_only`` alignment, 0 = none; in the method's own
    unit where no frame has truth.
    Raises ValueError when the shapes do not go together.
    """

    index: NDArray[np.int64]
    image: NDArray[np.uint8]
    truth: NDArray[np.float32]
    prediction: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = self.truth.shape
        if len(shape) != 3 or self.index.shape != shape[:1]:
            raise ValueError(f"expected index (K,) and truth (K, H, W), found {self.index.shape} and {shape}")
        if self.prediction.shape != shape or self.image.shape != (*shape, 3):
            raise ValueError(
                f"expected prediction {shape} and image {(*shape, 3)}, "
                f"found {self.prediction.shape} and {self.image.shape}"
            )


def save_panels(path: Path, panels: DepthPanels) -> None:
    """Write ``panels.npz``, whole or not at all. Raises StoreError."""
    with atomic_open(path, "wb") as stream:
        np.savez_compressed(
            stream,
            index=panels.index.astype(np.int64),
            image=panels.image.astype(np.uint8),
            truth=panels.truth.astype(np.float32),
            prediction=panels.prediction.astype(np.float32),
        )


def load_panels(path: Path) -> DepthPanels:
    """Read ``panels.npz``. Raises StoreError naming the file when it is damaged or not what it should be."""
    return load_arrays(path, _ARRAYS, "depth panels", _panels)


def _panels(arrays: dict[str, NDArray[Any]]) -> DepthPanels:
    for name, (kind, dimensions) in _ARRAYS.items():
        if arrays[name].dtype.kind != kind or arrays[name].ndim != dimensions:
            raise ValueError(f"array {name} of {arrays[name].dtype}, shape {arrays[name].shape}")
    return DepthPanels(**arrays)


PANELS = 4


@dataclass(frozen=True, eq=False)
class KeptPanel:
    index: int
    image: Image
    truth: DepthMap
    prediction: DepthMap


class PanelKeeper:
    """Holds at most twice PANELS frames: each time it is full, every other one goes.

    Frames whose depth was scored drive out those without truth. settings: of the scores; None where there are none.
    """

    def __init__(self, settings: DepthSettings | None) -> None:
        self._settings = settings
        self._scored = False
        self._kept: list[KeptPanel] = []
        self._every = 1
        self._offered = 0

    def offer(self, frame: Frame, prediction: Prediction, *, scored: bool) -> None:
        """Look at a frame and whether its depth was scored; one without an image or depth is passed over."""
        if frame.image is None or prediction.depth is None or frame.image.shape[:2] != prediction.depth.shape:
            return
        if scored != self._scored:
            if not scored:
                return
            self._kept, self._every, self._offered, self._scored = [], 1, 0, True
        if self._offered % self._every == 0:
            if len(self._kept) == 2 * PANELS:
                self._kept = self._kept[::2]
                self._every *= 2
            # When it is full, the frame at hand is an even multiple of the old spacing: one of the new spacing.
            truth = frame.depth if scored and frame.depth is not None else np.zeros_like(prediction.depth)
            self._kept.append(KeptPanel(frame.index, frame.image, truth, prediction.depth))
        self._offered += 1

    def panels(self) -> DepthPanels | None:
        """Up to PANELS of the frames kept, first and last among them, predictions at the scale of the truth;
        without truth in the method's own unit.

        The scale is ``scale_only`` of each frame: median(truth)/median(prediction) over the pixels valid in both
        (protocol.md section 1). None when nothing was offered.
        """
        if not self._kept:
            return None
        last = len(self._kept) - 1
        chosen = [self._kept[position] for position in sorted({round(last * k / (PANELS - 1)) for k in range(PANELS)})]
        return DepthPanels(
            index=np.array([kept.index for kept in chosen], dtype=np.int64),
            image=np.stack([kept.image for kept in chosen]),
            truth=np.stack([self._truth(kept.truth) for kept in chosen]),
            prediction=np.stack([self._scaled(kept.truth, kept.prediction) for kept in chosen]),
        )

    def _truth(self, depth: DepthMap) -> DepthMap:
        if self._settings is None:
            return np.zeros_like(depth, dtype=np.float32)
        valid = (depth > self._settings.min_depth) & (depth < self._settings.max_depth)
        return np.where(valid, depth, 0).astype(np.float32)

    def _scaled(self, truth: DepthMap, prediction: DepthMap) -> DepthMap:
        usable = np.where(np.isfinite(prediction) & (prediction > 0), prediction, 0)
        if not self._scored:
            return np.asarray(usable, dtype=np.float32)
        both = (self._truth(truth) > 0) & (usable > 0)
        scale = float(np.median(truth[both])) / float(np.median(usable[both]))
        return np.asarray(usable * scale, dtype=np.float32)
