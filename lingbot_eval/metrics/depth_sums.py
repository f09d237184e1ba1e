"""Running sums of depth errors over pixels, and the figures that they give (protocol.md section 1, "Depth")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lingbot_eval.metrics.measuring import Quantity
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
