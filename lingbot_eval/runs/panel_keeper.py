"""Chooses the few frames that are kept for the depth panels, evenly over a stream of unknown length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lingbot_eval.metrics.depth import DepthSettings
from lingbot_eval.runs.panels import DepthPanels
from lingbot_eval.types import DepthMap, Frame, Image, Prediction

PANELS = 4


@dataclass(frozen=True, eq=False)
class _Kept:
    index: int
    image: Image
    truth: DepthMap
    prediction: DepthMap


class PanelKeeper:
    """Holds at most twice PANELS frames: each time it is full, every other one goes."""

    def __init__(self, settings: DepthSettings) -> None:
        self._settings = settings
        self._kept: list[_Kept] = []
        self._every = 1
        self._offered = 0

    def offer(self, frame: Frame, prediction: Prediction) -> None:
        """Look at a frame whose depth was scored; one without an image is passed over."""
        if frame.image is None or frame.depth is None or prediction.depth is None:
            return
        if self._offered % self._every == 0:
            if len(self._kept) == 2 * PANELS:
                self._kept = self._kept[::2]
                self._every *= 2
            # When it is full, the frame at hand is an even multiple of the old spacing: one of the new spacing.
            self._kept.append(_Kept(frame.index, frame.image, frame.depth, prediction.depth))
        self._offered += 1

    def panels(self) -> DepthPanels | None:
        """Up to PANELS of the frames kept, first and last among them, predictions at the scale of the truth.

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
        valid = (depth > self._settings.min_depth) & (depth < self._settings.max_depth)
        return np.where(valid, depth, 0).astype(np.float32)

    def _scaled(self, truth: DepthMap, prediction: DepthMap) -> DepthMap:
        usable = np.where(np.isfinite(prediction) & (prediction > 0), prediction, 0)
        both = (self._truth(truth) > 0) & (usable > 0)
        scale = float(np.median(truth[both])) / float(np.median(usable[both]))
        return np.asarray(usable * scale, dtype=np.float32)
