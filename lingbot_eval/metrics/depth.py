"""Depth accuracy: per-frame alignment, pixels of all frames pooled, in constant memory (protocol.md section 1)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lingbot_eval.errors import DataError
from lingbot_eval.metrics.measuring import Quantity
from lingbot_eval.types import DepthMap, FloatArray, Measurement

DepthAlignment = Literal["scale_only", "lstsq", "none"]

CLIP = 1e-5
THRESHOLD = 1.25
_BLOCK = 16384

_ALIGNMENT_IN_WORDS = {
    "scale_only": "each frame's prediction multiplied by median(truth)/median(prediction)",
    "lstsq": "each frame's prediction moved by scale and shift of least squares",
    "none": "prediction as it is",
}
_SKIPPED_IN_WORDS = {
    "no_truth": "frames without true depth: not scored",
    "no_prediction": "frames without predicted depth: not scored",
    "few_valid_pixels": "frames with too few valid pixels: not scored",
}


class DepthSettings(BaseModel):
    """Which conventions are computed. Depths in metres; truth is valid strictly between min_depth and max_depth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alignments: Annotated[tuple[DepthAlignment, ...], Field(min_length=1)] = ("scale_only", "lstsq", "none")
    min_depth: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_depth: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 80.0
    min_valid_pixels: Annotated[int, Field(ge=2)] = 100

    @model_validator(mode="after")
    def _ordered(self) -> DepthSettings:
        if self.min_depth >= self.max_depth:
            raise ValueError(f"min_depth {self.min_depth} must be smaller than max_depth {self.max_depth}")
        return self


@dataclass
class _Sums:
    """Running float64 sums over the pixels of all scored frames, for one alignment."""

    pixels: int = 0
    abs_rel: float = 0.0
    sq_rel: float = 0.0
    squared: float = 0.0
    log_squared: float = 0.0
    within: list[int] = field(default_factory=lambda: [0, 0, 0])  # δ < 1.25, 1.25², 1.25³

    def add(self, truth: FloatArray, prediction: FloatArray, scale: float, shift: float) -> float:
        """Add one frame's valid pixels, compared with ``scale · prediction + shift``.

        Returns the frame's own mean absolute relative error.
        """
        before = self.abs_rel
        # Blocks that fit the processor's cache: on whole frames, fetching fresh memory takes most of the time.
        for start in range(0, len(truth), _BLOCK):
            block = slice(start, start + _BLOCK)
            self._add_block(truth[block], prediction[block] * scale + shift)
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
            self.sq_rel += _dot(error, relative)
            self.squared += _dot(error, error)
            self.log_squared += _dot(log_error, log_error)
            for power in range(3):
                self.within[power] += int(np.count_nonzero(ratio < THRESHOLD ** (power + 1)))


def _dot(a: FloatArray, b: FloatArray) -> float:
    # Not np.dot: the BLAS behind it spreads even this over threads, which on busy processors wait for each other.
    return float(np.einsum("i,i->", a, b))


class DepthScorer:
    """Accumulates frames one by one; nothing of a frame is kept but its sums."""

    def __init__(self, settings: DepthSettings | None = None) -> None:
        self._settings = settings or DepthSettings()
        # scale_only is always kept: the error of single frames, which update returns, is under it.
        names: tuple[DepthAlignment, ...] = ("scale_only", *self._settings.alignments)
        self._sums = {name: _Sums() for name in names}
        self._skipped: Counter[str] = Counter()
        self._frames = 0
        self._true_pixels = 0
        self._unpredicted_pixels = 0

    def update(self, index: int, truth: DepthMap | None, prediction: DepthMap | None) -> float | None:
        """Add one frame: (H, W) true depth in metres (0 or not finite = unknown), (H, W) prediction in any scale.

        Valid are pixels with min_depth < truth < max_depth, both finite, prediction > 0. Returns this frame's mean
        absolute relative error under ``scale_only``, or None where the frame cannot be scored (it is counted with
        its reason). Raises DataError when the shapes differ.
        """
        self._frames += 1
        if truth is None or prediction is None:
            self._skipped["no_truth" if truth is None else "no_prediction"] += 1
            return None
        if truth.shape != prediction.shape:
            raise DataError(
                f"frame {index}: predicted depth of shape {prediction.shape} does not match the true depth of shape"
                f" {truth.shape}; both must be at the prepared image size"
            )
        in_range = (truth > self._settings.min_depth) & (truth < self._settings.max_depth)
        valid = in_range & (prediction > 0) & np.isfinite(prediction)
        pixels, true_pixels = int(np.count_nonzero(valid)), int(np.count_nonzero(in_range))
        self._true_pixels += true_pixels
        self._unpredicted_pixels += true_pixels - pixels
        if pixels < self._settings.min_valid_pixels:
            self._skipped["few_valid_pixels"] += 1
            return None
        return self._add(truth[valid], prediction[valid])

    def _add(self, valid_truth: DepthMap, valid_prediction: DepthMap) -> float:
        scale = _median(valid_truth) / _median(valid_prediction)
        truth, prediction = valid_truth.astype(np.float64), valid_prediction.astype(np.float64)
        abs_rel = self._sums["scale_only"].add(truth, prediction, scale, 0.0)
        if "lstsq" in self._sums:
            self._sums["lstsq"].add(truth, prediction, *_least_squares(truth, prediction))
        if "none" in self._sums:
            self._sums["none"].add(truth, prediction, 1.0, 0.0)
        return abs_rel

    def compute(self) -> tuple[Measurement, ...]:
        """Everything measured so far; each with its reason where no frame could be scored."""
        counts = [
            Quantity("depth", "frames_scored", "", "frames", "frames whose depth was scored").value(
                self._frames - self._skipped.total(), self._frames
            )
        ]
        for reason, words in _SKIPPED_IN_WORDS.items():
            quantity = Quantity("depth", "frames_skipped", reason, "frames", words)
            counts.append(quantity.value(self._skipped[reason], self._frames))
        missing = Quantity(
            "depth",
            "unpredicted_pixels",
            "",
            "%",
            "share of pixels with valid truth whose prediction is ≤ 0 or not finite",
        )
        counts.append(
            missing.value(100.0 * self._unpredicted_pixels / self._true_pixels, self._true_pixels)
            if self._true_pixels
            else missing.failed("no pixel with valid true depth", 0)
        )
        return tuple(m for name in self._settings.alignments for m in self._errors(name)) + tuple(counts)

    def _errors(self, name: DepthAlignment) -> list[Measurement]:
        sums, settings = self._sums[name], self._settings
        limits = f"{settings.min_depth:g} < truth < {settings.max_depth:g} m and prediction > 0"
        where = f"{_ALIGNMENT_IN_WORDS[name]}; pixels with {limits}, all frames pooled"
        totals: list[tuple[str, str, str, float]] = [
            ("abs_rel", "1", "mean of |prediction − truth| / truth", sums.abs_rel),
            ("sq_rel", "m", "mean of (prediction − truth)² / truth", sums.sq_rel),
            ("rmse", "m", "root mean square of prediction − truth", sums.squared),
            (
                "log_rmse",
                "1",
                f"root mean square of ln prediction − ln truth, clipped at {CLIP:g}",
                sums.log_squared,
            ),
        ]
        for power, (suffix, count) in enumerate(zip(("", "_2", "_3"), sums.within, strict=True), start=1):
            exponent = ("", "²", "³")[power - 1]
            words = (
                f"share of pixels with max(prediction/truth, truth/prediction) < 1.25{exponent}, clipped at {CLIP:g}"
            )
            totals.append((f"delta_1_25{suffix}", "%", words, 100.0 * count))
        found = []
        for key, unit, words, total in totals:
            quantity = Quantity("depth", key, name, unit, f"{words}; {where}")
            if not sums.pixels:
                found.append(quantity.failed(self._why_nothing(), 0))
                continue
            mean = total / sums.pixels
            found.append(quantity.value(float(np.sqrt(mean)) if key in ("rmse", "log_rmse") else mean, sums.pixels))
        return found

    def _why_nothing(self) -> str:
        if not self._frames:
            return "no frame was given"
        parts = [
            f"{count} {_SKIPPED_IN_WORDS[reason].removesuffix(': not scored')}"
            for reason, count in self._skipped.items()
        ]
        return f"no frame could be scored: {', '.join(parts)}"


def _median(values: DepthMap) -> float:
    """The middle of finite values, or the float64 mean of the two middle ones; in half the time of np.median."""
    half = len(values) // 2
    parted = np.partition(values, half)
    upper = float(parted[half])
    return upper if len(values) % 2 else (float(parted[:half].max()) + upper) / 2


def _least_squares(truth: FloatArray, prediction: FloatArray) -> tuple[float, float]:
    """Scale and shift of the prediction with the least squared difference to the truth."""
    mean_truth, mean_prediction = float(truth.mean()), float(prediction.mean())
    centred = prediction - mean_prediction
    variance = _dot(centred, centred)
    # A prediction without variation leaves the scale free; the best fit is the mean of the truth either way.
    scale = _dot(centred, truth) / variance if variance > 0 else 0.0
    return scale, mean_truth - scale * mean_prediction
