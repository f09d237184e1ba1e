"""Scores one scene while it streams: poses, depth, panels and times go in as they leave, measurements come out.

The poses are the one thing that grows with its length, 144 bytes a frame; of frames a few are kept for the panels.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lingbot_eval.metrics.base import FAMILIES, SceneContext, ScoredScene, told_apart
from lingbot_eval.metrics.depth import DepthSettings
from lingbot_eval.metrics.scoring import notes_on
from lingbot_eval.metrics.trajectory import TrajectoryScore
from lingbot_eval.profiling.memory import process_memory_measurements, process_resident_bytes
from lingbot_eval.profiling.timing import throughput_measurements
from lingbot_eval.runs.experiment import MetricsConfig
from lingbot_eval.runs.stream import Output
from lingbot_eval.stored.unit_files import DepthPanels
from lingbot_eval.types import (
    CACHE_KINDS,
    DepthMap,
    DriftSeries,
    FloatArray,
    Frame,
    FrameType,
    Image,
    Measurement,
    Prediction,
    Trajectory,
)
from lingbot_eval.viewing.masks import LeftOut


class PoseLog:
    """Collects poses by frame; ``trajectory`` gives them as one object."""

    def __init__(self) -> None:
        self._indices = array("q")
        self._timestamps = array("d")
        self._poses = array("d")
        self._has_orientation = True

    def append(
        self, index: int, timestamp: float, camera_to_world: FloatArray, *, has_orientation: bool = True
    ) -> None:
        """Keep a (4, 4) pose. Raises ValueError for another shape (a fault of the method)."""
        pose = np.ascontiguousarray(camera_to_world, dtype=np.float64)
        if pose.shape != (4, 4):
            raise ValueError(f"expected a (4, 4) pose of frame {index}, found shape {pose.shape}")
        self._indices.append(index)
        self._timestamps.append(timestamp)
        self._poses.frombytes(pose.tobytes())
        self._has_orientation = self._has_orientation and has_orientation

    def trajectory(self) -> Trajectory:
        """Everything kept so far, as arrays of its own."""
        return Trajectory(
            indices=np.array(self._indices, dtype=np.int64),
            timestamps=np.array(self._timestamps, dtype=np.float64),
            camera_to_world=np.array(self._poses, dtype=np.float64).reshape(-1, 4, 4),
            has_orientation=self._has_orientation,
        )


_UNTYPED = 255  # in the bytes that keep the frame types
MOTIONLESS = (
    "the estimate stands still by design: every alignment puts it at the mean of the reference positions, and its"
    " errors are the distances from there"
)

_OF_PIXELS = ("depth", "points")  # families

_WALL_CLOCK = ("end_to_end_fps", "end_to_end_interval", "harness_overhead")

Row = dict[str, float | int | str | None]


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

    def __init__(
        self,
        metrics: MetricsConfig,
        *,
        depth_limits: tuple[float, float] = (0.0, 80.0),
        gives_depth: bool = True,
        is_timed: bool = True,
        motionless: bool = False,
        left_out: LeftOut | None = None,
    ) -> None:
        """metrics: the experiment's families, depth limits of the dataset put in. depth_limits: metres, for the clouds.

        gives_depth, is_timed: whether the method predicts depth, and computes anything whose time means something.
        motionless: whether its poses stand still by design. left_out: what decides which pixels are not scored.
        """
        self._is_timed, self._motionless, self._left_out = is_timed, motionless, left_out
        context = SceneContext(depth_limits, gives_depth, motionless)
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
            "interval_ms": 1e3 * output.interval_s if self._is_timed else None,
            "depth_abs_rel": abs_rel,
            **{f"cache_{kind}_bytes": cache.get(kind) for kind in CACHE_KINDS},
            "device_bytes": None if cost is None else cost.device_bytes,
            "process_bytes": process_resident_bytes(),
        }

    def _scored(self, frame: Frame, prediction: Prediction) -> tuple[Frame, Prediction]:
        """Without the depth of pixels that are left out."""
        mask = None if self._left_out is None else self._left_out.found(frame, prediction)
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
        measurements = told_apart(found for family in self._families for found in family.compute(scene))
        if self._left_out is not None and (words := self._left_out.words()):
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
        if self._motionless:
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
        if self._is_timed:
            return found
        return tuple(replace(m, value=None, samples=None, reason="no image is read: nothing is timed") for m in found)


def _error_columns(score: TrajectoryScore) -> dict[str, Mapping[int, float]]:
    columns = {"position_error_m": score.position_error_m, "rotation_error_deg": score.rotation_error_deg}
    indices = score.indices.tolist()
    return {name: dict(zip(indices, errors.tolist(), strict=True)) for name, errors in columns.items() if len(errors)}


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
