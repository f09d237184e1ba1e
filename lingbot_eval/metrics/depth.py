"""Depth accuracy: per-frame alignment, pixels of all frames pooled, in constant memory (protocol.md section 1)."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from lingbot_eval.errors import DataError
from lingbot_eval.metrics.base import DepthMetrics, MetricFamily, Quantity, SceneContext, ScoredScene, because
from lingbot_eval.metrics.depth_sample import DepthSample, DepthSums, SequenceAlignment, least_squares, median
from lingbot_eval.settings import EACH_ONCE, StrictModel
from lingbot_eval.types import Declaration, DepthMap, Frame, Measurement, Prediction

DepthAlignment = Literal["scale_only", "lstsq", "none"]

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


DECLARED = (
    Declaration("abs_rel", "lower", "scale_only", headline=7, line="abs rel", title="AbsRel"),
    Declaration("delta_1_25", "higher", "scale_only", headline=8, title="δ<1.25 (%)"),
    *(
        declared
        for variant, words in (("metric", "metric"), ("scale", "one scale"), ("scale_shift", "scale and shift"))
        for declared in (
            Declaration(
                "abs_rel", "lower", f"video_{variant}", title=f"AbsRel, {words}", published=f"video_abs_rel_{variant}"
            ),
            Declaration(
                "delta_1_25",
                "higher",
                f"video_{variant}",
                title=f"δ<1.25, {words} (%)",
                published=f"video_delta_1_25_{variant}_percent",
            ),
        )
    ),
    # Shares of pixels in percent: a few sit on the threshold on any machine.
    Declaration("delta_*", "higher", tolerance={"kind": "absolute", "worse_by": 0.2}),
    Declaration("abs_rel*", "lower"),
    Declaration("sq_rel", "lower"),
    Declaration("rmse", "lower"),
    Declaration("log_rmse", "lower"),
    Declaration("sampling_error", None),
    # −1 is a confidence that falls as the error grows.
    Declaration("confidence_rank_correlation", "lower", "", tolerance={"kind": "absolute", "worse_by": 0.01}),
    Declaration("frames_scored", "higher"),
    Declaration("frames_skipped", "lower"),
    Declaration("unpredicted_pixels", "lower"),
)


class DepthSettings(StrictModel):
    """Which conventions are computed. Depths in metres; truth is valid strictly between min_depth and max_depth.

    alignments: of each frame alone. sequence_alignments: one for the whole sequence (see depth_sample.py), on at most
    sample_pixels pixels spread evenly over all frames; () also leaves the curves out. ``video_metric``, ``video_scale``
    and ``video_scale_shift`` are the three under which papers print video depth, clipped at max_depth.
    """

    alignments: Annotated[tuple[DepthAlignment, ...], Field(min_length=1), EACH_ONCE] = ("scale_only", "lstsq", "none")
    sequence_alignments: Annotated[tuple[SequenceAlignment, ...], EACH_ONCE] = (
        "sequence_scale",
        "sequence_lstsq",
        "trajectory_scale",
    )
    sample_pixels: Annotated[int, Field(ge=1000, le=50_000_000)] = 2_000_000
    min_depth: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_depth: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 80.0
    min_valid_pixels: Annotated[int, Field(ge=2)] = 100

    @model_validator(mode="after")
    def _ordered(self) -> DepthSettings:
        if self.min_depth >= self.max_depth:
            raise ValueError(f"min_depth {self.min_depth} must be smaller than max_depth {self.max_depth}")
        return self


class DepthScorer:
    """Accumulates frames one by one; nothing of a frame is kept but its sums."""

    def __init__(self, settings: DepthSettings | None = None) -> None:
        self._settings = settings or DepthSettings()
        # scale_only is always kept: the error of single frames, which update returns, is under it.
        names: tuple[DepthAlignment, ...] = ("scale_only", *self._settings.alignments)
        self._sums = {name: DepthSums() for name in names}
        self._skipped: Counter[str] = Counter()
        self._sample = DepthSample(self._settings.sample_pixels) if self._settings.sequence_alignments else None
        self._frames = 0
        self._true_pixels = 0
        self._unpredicted_pixels = 0

    def update(
        self, index: int, truth: DepthMap | None, prediction: DepthMap | None, confidence: DepthMap | None = None
    ) -> float | None:
        """Add one frame: (H, W) true depth in metres (0 or not finite = unknown), (H, W) prediction in any scale.

        confidence: (H, W), larger is surer, for the calibration; None where the method gives none.

        Valid are pixels with min_depth < truth < max_depth, both finite, prediction > 0. Returns this frame's mean
        absolute relative error under ``scale_only``, or None where the frame cannot be scored (it is counted with
        its reason). Raises DataError when the shapes differ.
        """
        self._frames += 1
        if truth is None or prediction is None:
            self._skipped["no_truth" if truth is None else "no_prediction"] += 1
            return None
        if confidence is not None and confidence.shape != prediction.shape:
            raise DataError(
                f"frame {index}: confidence of shape {confidence.shape} does not match the predicted depth of shape"
                f" {prediction.shape}; a method gives both at one size"
            )
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
        return self._add(truth[valid], prediction[valid], None if confidence is None else confidence[valid])

    def _add(self, valid_truth: DepthMap, valid_prediction: DepthMap, confidence: DepthMap | None) -> float:
        scale = median(valid_truth) / median(valid_prediction)
        if self._sample is not None:
            self._sample.add(valid_truth, valid_prediction, scale, confidence)
        truth, prediction = valid_truth.astype(np.float64), valid_prediction.astype(np.float64)
        abs_rel = self._sums["scale_only"].add(truth, prediction, scale, 0.0)
        if "lstsq" in self._sums:
            self._sums["lstsq"].add(truth, prediction, *least_squares(truth, prediction))
        if "none" in self._sums:
            self._sums["none"].add(truth, prediction, 1.0, 0.0)
        return abs_rel

    def compute(self, trajectory_scale: float | None = None) -> tuple[Measurement, ...]:
        """Everything measured so far; each with its reason where no frame could be scored.

        trajectory_scale: of the Sim(3) from the estimated to the reference trajectory; None where there is none.
        """
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
        found = [m for name in self._settings.alignments for m in self._errors(name)]
        if self._sample is not None:
            names = self._settings.sequence_alignments
            found += self._sample.errors(names, trajectory_scale, self._settings.max_depth, self._why_nothing)
            found += self._sample.curves(self._why_nothing)
        return (*found, *counts)

    def _errors(self, name: DepthAlignment) -> list[Measurement]:
        sums, settings = self._sums[name], self._settings
        limits = f"{settings.min_depth:g} < truth < {settings.max_depth:g} m and prediction > 0"
        where = f"{_ALIGNMENT_IN_WORDS[name]}; pixels with {limits}, all frames pooled"
        return sums.measurements(name, where, self._why_nothing)

    def _why_nothing(self) -> str:
        if not self._frames:
            return "no frame was given"
        parts = [
            f"{count} {_SKIPPED_IN_WORDS[reason].removesuffix(': not scored')}"
            for reason, count in self._skipped.items()
        ]
        return f"no frame could be scored: {', '.join(parts)}"


class DepthFamily(MetricFamily):
    """Depth accuracy under every alignment, and what plugins declare of depth."""

    Settings = DepthSettings

    def __init__(self, settings: DepthSettings, context: SceneContext) -> None:
        super().__init__(settings, context)
        self._scorer = DepthScorer(settings)
        self._plugins = DepthMetrics(context.depth_limits)

    def add(self, frame: Frame, prediction: Prediction) -> dict[str, float | None]:
        if not self.context.gives_depth:
            return {"depth_abs_rel": None}
        self._plugins.add(frame.depth, prediction.depth)
        found = self._scorer.update(prediction.index, frame.depth, prediction.depth, prediction.depth_confidence)
        return {"depth_abs_rel": found}

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        alignments = scene.trajectory.alignments if scene.trajectory is not None else {}
        found = self._scorer.compute(alignments["sim3"].scale if "sim3" in alignments else None)
        why = None if self.context.gives_depth else "the method gives no depth"
        return [*(found if why is None else because(found, why)), *self._plugins.measurements(why)]
