"""Depth figures that need a whole sequence at once, from an even sample of pixels: one alignment for all, curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from lingbot_eval.metrics.depth_sums import (
    DepthSums,
    least_absolute_scale,
    least_squares,
    median,
    walked_scale_and_shift,
)
from lingbot_eval.metrics.measuring import Quantity
from lingbot_eval.types import DepthMap, FloatArray, Measurement

VideoAlignment = Literal["video_metric", "video_scale", "video_scale_shift"]
"""As the papers of CUT3R's family compute video depth: one alignment for the sequence, clipped afterwards."""
SequenceAlignment = Literal["sequence_scale", "sequence_lstsq", "trajectory_scale"] | VideoAlignment

DISTANCES_M = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, np.inf)
TENTHS = 10
_IN_WORDS = {
    "sequence_scale": "every prediction multiplied by median(truth)/median(prediction) of the whole sequence",
    "sequence_lstsq": "every prediction moved by one scale and shift of least squares over the whole sequence",
    "trajectory_scale": "every prediction multiplied by the scale of the trajectory's Sim(3)",
    "video_metric": "every prediction as it is",
    "video_scale": "every prediction multiplied by one scale of the whole sequence, that of least absolute deviations"
    " (10 reweighted least squares from the ratio of the means, as in CUT3R's evaluation)",
    "video_scale_shift": "every prediction moved by one scale and shift of the whole sequence, sought as in CUT3R's"
    " evaluation: 1,000 steps of Adam at 1e-4 on the absolute deviations, from the ratio of the medians",
}
_WALKED_PIXELS = 50_000
"""Of a sample that scale and shift are sought on: the walk looks at all of them a thousand times."""
_TRUTH, _PREDICTION, _RELATIVE, _CONFIDENCE = range(4)


class DepthSample:
    """Every k-th valid pixel of every frame; k doubles each time the sample is full, so memory stays constant.

    Up to ``capacity`` pixels nothing is left out and all figures are exact.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._frames: list[DepthMap] = []  # (4, n) float32: truth, prediction, relative error, confidence
        self._every = 1
        self._kept = 0
        self._seen = 0

    @np.errstate(over="ignore", invalid="ignore")  # what left the range of floats becomes a reason
    def add(self, truth: DepthMap, prediction: DepthMap, scale: float, confidence: DepthMap | None) -> None:
        """Look at the (n,) valid pixels of one frame; scale: of its own ``scale_only`` alignment."""
        # Another start in each frame: a fixed one would always take the same columns.
        picked = slice(int(len(self._frames) * 0.6180339887 % 1 * self._every), None, self._every)
        rows = np.empty((4, len(truth[picked])), dtype=np.float32)
        rows[_TRUTH], rows[_PREDICTION] = truth[picked], prediction[picked]
        rows[_RELATIVE] = np.abs(scale * rows[_PREDICTION].astype(np.float64) - rows[_TRUTH]) / rows[_TRUTH]
        rows[_CONFIDENCE] = np.nan if confidence is None else confidence[picked]
        self._frames.append(rows)
        self._seen += len(truth)
        self._kept += rows.shape[1]
        while self._kept > self._capacity:
            self._every *= 2
            self._frames = [kept[:, k % 2 :: 2].copy() for k, kept in enumerate(self._frames)]
            self._kept = sum(kept.shape[1] for kept in self._frames)

    @property
    def _words(self) -> str:
        if self._every == 1:
            return "all valid pixels of all frames"
        return f"a sample of every {self._every}th valid pixel of each frame"

    @np.errstate(over="ignore", invalid="ignore")  # what left the range of floats becomes a reason
    def errors(
        self,
        names: tuple[SequenceAlignment, ...],
        trajectory_scale: float | None,
        max_depth: float,
        why_nothing: Callable[[], str],
    ) -> list[Measurement]:
        """The depth figures under alignments of the whole sequence, and how far sampling can have moved them.

        max_depth: metres at which video depth is clipped.
        """
        found: list[Measurement] = []
        for name in names:
            sums = DepthSums()
            reason = why_nothing
            largest = max_depth if name in get_args(VideoAlignment) else np.inf
            if self._kept and name == "trajectory_scale" and trajectory_scale is None:
                reason = _no_trajectory
            elif self._kept:
                scale, shift = self._alignment(name, trajectory_scale)
                for rows in self._frames:
                    if rows.shape[1]:
                        truth, prediction = rows[:2].astype(np.float64)
                        sums.add(truth, prediction, scale, shift, largest)
            clipped = f", then clipped at {largest:g} m" if np.isfinite(largest) else ""
            found += sums.measurements(name, f"{_IN_WORDS[name]}{clipped}; {self._words}", reason)
        bound = Quantity(
            "depth",
            "sampling_error",
            "",
            "1",
            "1.96 standard errors that sampling pixels adds to abs_rel under scale_only; 0 where none were left out",
        )
        if not self._kept:
            return [*found, bound.failed(why_nothing(), 0)]
        relative = self._column(_RELATIVE)
        left_out = 1.0 - self._kept / self._seen
        spread = float(np.std(relative)) if left_out > 0 else 0.0
        return [*found, bound.value(1.96 * spread * np.sqrt(left_out / self._kept), self._kept)]

    @np.errstate(over="ignore", invalid="ignore")  # what left the range of floats becomes a reason
    def curves(self, why_nothing: Callable[[], str]) -> list[Measurement]:
        """Relative error against true distance and against predicted confidence, under ``scale_only``."""
        return [*self._by_distance(why_nothing), *self._by_confidence(why_nothing)]

    def _by_distance(self, why_nothing: Callable[[], str]) -> Iterator[Measurement]:
        truth, relative = self._column(_TRUTH), self._column(_RELATIVE)
        for low, high in pairwise(DISTANCES_M):
            variant = f"{low:g}…{high:g} m" if np.isfinite(high) else f"above {low:g} m"
            words = (
                f"mean of |prediction − truth| / truth of pixels whose truth is {variant}, scale_only; {self._words}"
            )
            quantity = Quantity("depth", "abs_rel_at_distance", variant, "1", words)
            inside = relative[(truth >= low) & (truth < high)]
            if len(inside):
                yield quantity.value(float(inside.mean()), len(inside))
            else:
                yield quantity.failed("no pixel at this distance" if self._kept else why_nothing(), 0)

    def _by_confidence(self, why_nothing: Callable[[], str]) -> Iterator[Measurement]:
        confidence, relative = self._column(_CONFIDENCE), self._column(_RELATIVE)
        known = np.isfinite(confidence)
        confidence, relative = confidence[known], relative[known]
        # Stable: where confidences are equal, the order of the frames decides and not the sort.
        order = np.argsort(confidence, kind="stable")
        reason = why_nothing() if not self._kept else "the method gives no confidence"
        if len(order) >= TENTHS and confidence[order[0]] == confidence[order[-1]]:
            reason, order = "the confidence is the same everywhere", order[:0]
        parts = np.array_split(relative[order], TENTHS)
        for number, part in enumerate(parts, start=1):
            quantity = Quantity(
                "depth",
                "abs_rel_by_confidence",
                f"tenth {number}",
                "1",
                "mean of |prediction − truth| / truth, scale_only, by tenths of pixels from least to most confident;"
                f" {self._words}",
            )
            yield quantity.value(float(part.mean()), len(part)) if len(part) else quantity.failed(reason, 0)
        rank = Quantity(
            "depth",
            "confidence_rank_correlation",
            "",
            "1",
            "Spearman's correlation of predicted confidence and relative error: −1 is perfectly calibrated in order;"
            f" {self._words}",
        )
        if len(order) < TENTHS or relative.min() == relative.max():
            yield rank.failed(reason if len(order) < TENTHS else "the error is the same everywhere", 0)
        else:
            from scipy.stats import spearmanr

            yield rank.value(float(spearmanr(confidence, relative).statistic), len(order))

    def _alignment(self, name: SequenceAlignment, trajectory_scale: float | None) -> tuple[float, float]:
        if name in ("trajectory_scale", "video_metric"):
            return float(trajectory_scale or 1.0) if name == "trajectory_scale" else 1.0, 0.0
        truth, prediction = self._column(_TRUTH), self._column(_PREDICTION)
        if name == "sequence_lstsq":
            return least_squares(truth, prediction)
        if name == "video_scale":
            return least_absolute_scale(truth, prediction), 0.0
        if name == "video_scale_shift":
            every = -(-len(truth) // _WALKED_PIXELS)
            return walked_scale_and_shift(truth[::every], prediction[::every])
        return median(truth.astype(np.float32)) / median(prediction.astype(np.float32)), 0.0

    def _column(self, which: int) -> FloatArray:
        parts = [rows[which] for rows in self._frames]
        return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def _no_trajectory() -> str:
    return "the trajectory has no Sim(3) alignment, whose scale this needs"
