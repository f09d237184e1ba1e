"""Depth errors over pixels: running sums of single frames, and an even sample for what needs a whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from lingbot_eval.metrics.base import Quantity
from lingbot_eval.types import DepthMap, FloatArray, Measurement

CLIP = 1e-5
THRESHOLD = 1.25
_BLOCK = 16384


@dataclass
class DepthSums:
    """Running float64 sums over pixels, for one alignment."""

    pixels: int = 0
    abs_rel: float = 0.0
    sq_rel: float = 0.0
    squared: float = 0.0
    log_squared: float = 0.0
    within: list[int] = field(default_factory=lambda: [0, 0, 0])  # δ < 1.25, 1.25², 1.25³

    def add(
        self, truth: FloatArray, prediction: FloatArray, scale: float, shift: float, largest: float = np.inf
    ) -> float:
        """Add one frame's valid pixels, compared with ``scale · prediction + shift``, clipped at ``largest``.

        Returns the frame's own mean absolute relative error.
        """
        before = self.abs_rel
        # Blocks that fit the processor's cache: on whole frames, fetching fresh memory takes most of the time.
        for start in range(0, len(truth), _BLOCK):
            block = slice(start, start + _BLOCK)
            self._add_block(truth[block], np.minimum(prediction[block] * scale + shift, largest))
        self.pixels += len(truth)
        return (self.abs_rel - before) / len(truth)

    def _add_block(self, truth: FloatArray, prediction: FloatArray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(prediction - truth)
            relative = error / truth
            # Clipped, so that a prediction that alignment made ≤ 0 is far off instead of having no logarithm.
            truth, prediction = np.maximum(truth, CLIP), np.maximum(prediction, CLIP)
            ratio = np.maximum(truth / prediction, prediction / truth)
            log_error = np.log(ratio)  # |ln prediction − ln truth|
            self.abs_rel += float(relative.sum())
            self.sq_rel += dot(error, relative)
            self.squared += dot(error, error)
            self.log_squared += dot(log_error, log_error)
            for power in range(3):
                self.within[power] += int(np.count_nonzero(ratio < THRESHOLD ** (power + 1)))

    def measurements(self, variant: str, where: str, why_nothing: Callable[[], str]) -> list[Measurement]:
        """The seven figures. where: which pixels after which alignment. why_nothing: asked where there is no pixel."""
        totals: list[tuple[str, str, str, float]] = [
            ("abs_rel", "1", "mean of |prediction − truth| / truth", self.abs_rel),
            ("sq_rel", "m", "mean of (prediction − truth)² / truth", self.sq_rel),
            ("rmse", "m", "root mean square of prediction − truth", self.squared),
            (
                "log_rmse",
                "1",
                f"root mean square of ln prediction − ln truth, clipped at {CLIP:g}",
                self.log_squared,
            ),
        ]
        for power, (suffix, count) in enumerate(zip(("", "_2", "_3"), self.within, strict=True), start=1):
            exponent = ("", "²", "³")[power - 1]
            words = (
                f"share of pixels with max(prediction/truth, truth/prediction) < 1.25{exponent}, clipped at {CLIP:g}"
            )
            totals.append((f"delta_1_25{suffix}", "%", words, 100.0 * count))
        found = []
        for key, unit, words, total in totals:
            quantity = Quantity("depth", key, variant, unit, f"{words}; {where}")
            if not self.pixels:
                found.append(quantity.failed(why_nothing(), 0))
                continue
            mean = total / self.pixels
            found.append(quantity.value(float(np.sqrt(mean)) if key in ("rmse", "log_rmse") else mean, self.pixels))
        return found


def dot(a: FloatArray, b: FloatArray) -> float:
    """Inner product of two (N,) arrays."""
    # Not np.dot: the BLAS behind it spreads even this over threads, which on busy processors wait for each other.
    return float(np.einsum("i,i->", a, b))


def median(values: DepthMap | FloatArray) -> float:
    """The middle of finite values, or the float64 mean of the two middle ones; in half the time of np.median."""
    half = len(values) // 2
    parted = np.partition(values, half)
    upper = float(parted[half])
    return upper if len(values) % 2 else (float(parted[:half].max()) + upper) / 2


def least_squares(truth: FloatArray, prediction: FloatArray) -> tuple[float, float]:
    """Scale and shift of the prediction with the least squared difference to the truth."""
    mean_truth, mean_prediction = float(truth.mean()), float(prediction.mean())
    centred = prediction - mean_prediction
    variance = dot(centred, centred)
    # A prediction without variation leaves the scale free; the best fit is the mean of the truth either way.
    scale = dot(centred, truth) / variance if variance > 0 else 0.0
    return scale, mean_truth - scale * mean_prediction


def least_absolute_scale(truth: FloatArray, prediction: FloatArray) -> float:
    """Scale of the prediction with the least sum of absolute differences to the truth, as CUT3R's evaluation finds it:
    ten reweighted least squares, from the ratio of the means."""
    scale = float(truth.mean()) / float(prediction.mean())
    for _ in range(10):
        weighted = prediction / (np.abs(scale * prediction - truth) + 1e-8)
        scale = dot(weighted, truth) / dot(weighted, prediction)
    return max(scale, 1e-3)


def walked_scale_and_shift(truth: FloatArray, prediction: FloatArray) -> tuple[float, float]:
    """Scale and shift of the prediction as CUT3R's evaluation finds them, which is not where the sum of absolute
    differences is least: 1,000 steps of Adam at a rate of 1e-4 from the ratio of the medians and no shift, so that
    neither comes further than about 0.1."""
    scale, shift = median(truth) / median(prediction), 0.0
    mean, square = np.zeros(2), np.zeros(2)
    for step in range(1, 1001):
        sign = np.sign(scale * prediction + shift - truth)
        gradient = np.array([dot(sign, prediction), float(sign.sum())])
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        move = 1e-4 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        scale, shift = scale - float(move[0]), shift - float(move[1])
    return scale, shift


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
