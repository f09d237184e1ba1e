"""The few frames of a unit that are kept for the depth panels, and their file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.files.arrays import load_arrays
from lingbot_eval.files.atomic import atomic_open

_ARRAYS = {"index": ("i", 1), "image": ("u", 4), "truth": ("f", 3), "prediction": ("f", 3)}


@dataclass(frozen=True, eq=False)
class DepthPanels:
    """K frames side by side.

    index: (K,) int64 frame indices. image: (K, H, W, 3) uint8 RGB. truth: (K, H, W) float32 metres along z, 0 = none.
    prediction: (K, H, W) float32 metres after the per-frame ``scale_only`` alignment, 0 = none.
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
