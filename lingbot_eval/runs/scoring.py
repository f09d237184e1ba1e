"""Scores one scene while it streams: poses, depth, panels and times go in as they leave, measurements come out."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lingbot_eval.metrics.base import FAMILIES, SceneContext, ScoredScene
from lingbot_eval.metrics.scoring import notes_on
from lingbot_eval.metrics.trajectory import TrajectoryScore
from lingbot_eval.profiling.memory import process_memory_measurements, process_resident_bytes
from lingbot_eval.profiling.timing import throughput_measurements
from lingbot_eval.runs.experiment import MetricsConfig
from lingbot_eval.runs.panels import DepthPanels, PanelKeeper
from lingbot_eval.runs.poses import PoseLog
from lingbot_eval.runs.stream import Output
from lingbot_eval.types import DriftSeries, Frame, FrameType, Measurement, Prediction, Trajectory
from lingbot_eval.viewing.masks import LeftOut

_UNTYPED = 255  # in the bytes that keep the frame types
MOTIONLESS = (
    "the estimate stands still by design: every alignment puts it at the mean of the reference positions, and its"
    " errors are the distances from there"
)

_OF_PIXELS = ("depth", "points")  # families

_WALL_CLOCK = ("end_to_end_fps", "end_to_end_interval", "harness_overhead")

Row = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Scoring:
    """What is scored on a scene: the experiment's families, depth limits of the dataset put in.

    depth_limits: metres, for the clouds.
    gives_depth, is_timed: whether the method predicts depth, and computes anything whose time means something.
    motionless: whether its poses stand still by design. left_out: what decides which pixels are not scored.
    """

    metrics: MetricsConfig
    depth_limits: tuple[float, float] = (0.0, 80.0)
    gives_depth: bool = True
    is_timed: bool = True
    motionless: bool = False
    left_out: LeftOut | None = None


@dataclass(frozen=True, eq=False)
class SceneScore:
    """Measurements of a scene, and what the per-frame table could not know while it was written.

    columns: column of ``frames.csv`` → frame index → value. estimate: all predicted poses. drift: None where there is
    none to show. notes: what a reader must know of the numbers, a sentence each.
    """

    measurements: tuple[Measurement, ...]
    columns: Mapping[str, Mapping[int, float]]
    estimate: Trajectory
    drift: DriftSeries | None = None
    notes: tuple[str, ...] = ()


class SceneScorer:
    """Takes the outputs of one scene one by one; keeps poses and times, and a few frames for the panels."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        metrics = scoring.metrics
        context = SceneContext(scoring.depth_limits, scoring.gives_depth, scoring.motionless)
        self._families = [
            FAMILIES.get(name)(settings, context)
            for name in FAMILIES.names()
            if (settings := metrics.of(name)) is not None
        ]
        self._poses = PoseLog()
        self._forward_s = array("d")
        self._interval_s = array("d")
        self._types = bytearray()
        self._panels = PanelKeeper(metrics.depth)
        self.paced = True
        """Whether nothing but the stream's own work has kept it; else its wall-clock pace is no result."""

    @property
    def predictions(self) -> int:
        """Outputs taken so far."""
        return len(self._interval_s)

    def add(self, output: Output) -> Row:
        """Take one output; returns its row of ``frames.csv``. Raises DataError when depth shapes differ."""
        frame, prediction = output.frame, output.prediction
        if prediction.camera_to_world is not None:
            self._poses.append(
                prediction.index,
                prediction.timestamp,
                prediction.camera_to_world,
                has_orientation=prediction.has_orientation,
            )
        found: dict[str, float | None] = {}
        scored = self._scored(frame, prediction)
        for family in self._families:
            found |= family.add(*scored)
        abs_rel = found.get("depth_abs_rel")
        self._panels.offer(frame, prediction, scored=abs_rel is not None)
        cost = prediction.cost
        if cost is not None:
            self._forward_s.append(cost.forward_s)
        self._interval_s.append(output.interval_s)
        self._types.append(_UNTYPED if prediction.frame_type is None else int(prediction.frame_type))
        cache = cost.cache_bytes if cost is not None else {}
        return {
            "index": prediction.index,
            "timestamp": prediction.timestamp,
            "frame_type": None if prediction.frame_type is None else prediction.frame_type.name.lower(),
            "forward_ms": None if cost is None else 1e3 * cost.forward_s,
            "interval_ms": 1e3 * output.interval_s if self._scoring.is_timed else None,
            "depth_abs_rel": abs_rel,
            "cache_anchor_bytes": cache.get("anchor"),
            "cache_window_bytes": cache.get("window"),
            "cache_memory_bytes": cache.get("memory"),
            "cache_camera_head_bytes": cache.get("camera_head"),
            "device_bytes": None if cost is None else cost.device_bytes,
            "process_bytes": process_resident_bytes(),
        }

    def _scored(self, frame: Frame, prediction: Prediction) -> tuple[Frame, Prediction]:
        """Without the depth of pixels that are left out."""
        mask = None if self._scoring.left_out is None else self._scoring.left_out.found(frame, prediction)
        if mask is None or frame.depth is None or prediction.depth is None or frame.depth.shape != mask.shape:
            return frame, prediction
        nothing = np.float32(0)
        return (
            replace(frame, depth=np.where(mask, nothing, frame.depth)),
            replace(prediction, depth=np.where(mask, nothing, prediction.depth)),
        )

    def score(self, reference: Trajectory | None, total_frames: int, warm_up_s: float | None) -> SceneScore:
        """Everything measured, after the last output. What cannot be computed has its reason; nothing is left out.

        reference: poses of the frames that have one, metres, camera-to-world. total_frames: of the sequence.
        """
        scene = ScoredScene(reference, self._poses.trajectory(), total_frames)
        measurements = [found for family in self._families for found in family.compute(scene)]
        if self._scoring.left_out is not None and (words := self._scoring.left_out.words()):
            measurements = [
                replace(m, convention=f"{m.convention}; without the pixels that {words} leave out")
                if m.family in _OF_PIXELS
                else m
                for m in measurements
            ]
        measurements += self._throughput(warm_up_s)
        measurements += process_memory_measurements()
        columns = _error_columns(scene.trajectory) if scene.trajectory is not None else {}
        notes = notes_on(scene.truth, scene.estimate, total_frames)
        if self._scoring.motionless:
            notes = (*notes, MOTIONLESS)
        return SceneScore(tuple(measurements), columns, scene.estimate, scene.drift, notes)

    def panels(self) -> DepthPanels | None:
        """A few frames from first to last, scored ones where there are some; None without depth."""
        return self._panels.panels()

    def _throughput(self, warm_up_s: float | None) -> tuple[Measurement, ...]:
        # Times of predictions that lack one would pair up with the wrong frames.
        complete = len(self._forward_s) == len(self._interval_s) > 0
        found = throughput_measurements(
            forward_s=self._forward_s if complete else None,
            frame_types=[None if kind == _UNTYPED else FrameType(kind) for kind in self._types],
            interval_s=self._interval_s,
            warm_up_s=warm_up_s,
        )
        if not self.paced:
            words = "shorter lengths were scored along this stream: for its pace, run one length alone"
            found = tuple(replace(m, value=None, reason=words) if m.name in _WALL_CLOCK else m for m in found)
        if self._scoring.is_timed:
            return found
        return tuple(replace(m, value=None, samples=None, reason="no image is read: nothing is timed") for m in found)


def _error_columns(score: TrajectoryScore) -> dict[str, Mapping[int, float]]:
    columns = {"position_error_m": score.position_error_m, "rotation_error_deg": score.rotation_error_deg}
    indices = score.indices.tolist()
    return {name: dict(zip(indices, errors.tolist(), strict=True)) for name, errors in columns.items() if len(errors)}
