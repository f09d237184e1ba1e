"""The stored form of a scaling run, and how a case's samples become what its record says: pace, latency, formula, error
so far, and what a kept frame costs.

Layout::

    RUN/scale.json                 ScaleRecord: what was asked, where, how to repeat it
    RUN/scale.md  RUN/scale.png    the page and its figure, made anew after every run
    RUN/cases/CASE/
        case.json                  CaseRecord; its presence means the case has its result
        samples.csv                one row a frame (columns: COLUMNS)
        traceback.txt              of a case that failed
    RUN/cases/.partial-…/          a case under way
    RUN/.lock                      held while a process writes here
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, model_validator

from lingbot_eval.metrics.drift import prefix_errors
from lingbot_eval.metrics.matching import MIN_MATCHED, match_poses
from lingbot_eval.metrics.trajectory import TrajectorySettings, score_trajectory
from lingbot_eval.profiling.timing import summarise, throughput_measurements
from lingbot_eval.scaling.settings import Case
from lingbot_eval.statistics import CONFIDENCE, FEWEST_SLOPE_VALUES, robust_slope
from lingbot_eval.stored.records import JobRecord, Names, ResultRecord, StoredRecord
from lingbot_eval.stored.store import Store
from lingbot_eval.stored.unit_files import Layout
from lingbot_eval.streaming.estimate import NetworkSize, estimate, kept_frame_bytes
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.types import CACHE_KINDS, FloatArray, FrameType, Measurement, Trajectory

COLUMNS: Mapping[str, str] = {
    "index": "frame, from 0",
    "frame_type": "scale, kept or unkept",
    "kept": "frames kept so far, this one included",
    "forward_ms": "the step on its device: between CUDA events, on a CPU wall clock; scale frames share their pass",
    "interval_ms": "wall clock since the prediction before came: end to end",
    "latency_ms": "from given (single stream) or arrived (camera) to the outputs on the host; empty in offline",
    "backlog": "frames waiting when this one was given; camera only",
    **{f"cache_{kind}_bytes": f"keys and values of the {kind.replace('_', ' ')} in view" for kind in CACHE_KINDS},
    "cache_allocated_bytes": "cache buffers held, headroom included",
    "device_allocated_bytes": "live tensors on the device",
    "device_reserved_bytes": "what torch's allocator holds on the device",
    "driver_bytes": "what the driver books (the record says how it was asked)",
    "process_bytes": "resident set size of the process",
}
"""Column → what it is. The last three are asked for every few frames only; empty cells were not measured."""

SAMPLES_FILE = "samples.csv"


class GrowthRecord(StoredRecord):
    """What one more kept frame costs once the window is full, or why that cannot be said.

    quantity: a name of `lingbot_eval.scaling.records.QUANTITIES`. unit: of a kept frame: ``B`` or ``us``. value, low,
    high: slope and its 95 % interval. expected: by the formula of model.md section 7, where it has a say. kept: kept
    frames it rests on.
    """

    quantity: str
    unit: Literal["B", "us"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    expected: float | None = None
    kept: int = 0
    reason: str | None = None

    @model_validator(mode="after")
    def _value_or_reason(self) -> Self:
        numbers = (self.value, self.low, self.high)
        if (None in numbers) == (self.reason is None):
            raise ValueError(f"{self.quantity}: expected a slope with its interval or a reason, one of them")
        if not all(math.isfinite(number) for number in numbers if number is not None):
            raise ValueError(f"{self.quantity}: expected finite numbers, found {numbers}")
        return self


def _pairs(rows: Any) -> Any:
    """JSON knows no tuples."""
    return [tuple(row) if isinstance(row, list) else row for row in rows] if isinstance(rows, list) else rows


class CheckpointRecord(StoredRecord):
    """The stream after its first ``frames`` frames.

    forward_ms, interval_ms: medians of the step frames among the last 100 before it.
    cache_bytes: in view, by kind; formula_bytes: the same by model.md section 7, None where the settings have no
    closed form. device_…, driver_bytes, process_bytes: the last sample at or before it. ate_m: RMSE after Sim(3)
    alignment of these frames alone; None exactly when ate_reason says why.
    """

    frames: int
    kept: int
    forward_ms: float | None
    interval_ms: float | None
    cache_bytes: dict[str, int]
    formula_bytes: dict[str, int] | None
    cache_allocated_bytes: int | None
    device_allocated_bytes: int | None
    device_reserved_bytes: int | None
    driver_bytes: int | None
    process_bytes: int | None
    ate_m: float | None
    ate_reason: str | None


class CaseRecord(ResultRecord):
    """The result of one case: measurements as far as it came, and why it came no further.

    status: ``failed`` for what the case could not do (a cut by its own limit is not a failure: see stopped).
    out_of_memory: whether memory was what was missing. error_curve: frames and ATE in metres of growing prefixes.
    expected_growth: bytes a kept frame of trajectory memory and camera head cache, by formula.
    """

    name: str
    case: dict[str, Any]
    out_of_memory: bool = False
    bad_input: bool = False
    stopped: str | None = None
    facts: dict[str, Any]
    input: dict[str, Any]
    sampling: dict[str, str]
    growth: list[GrowthRecord]
    checkpoints: list[CheckpointRecord]
    error_curve: Annotated[list[tuple[int, float]], BeforeValidator(_pairs)]

    @property
    def names(self) -> Names:
        return (self.name,)


class ScaleRecord(JobRecord):
    """A study that was run. cases: their names, in the order in which they run."""

    study: dict[str, Any]
    cases: list[str]
    weights: str

    @property
    def planned(self) -> tuple[Names, ...]:
        return tuple((name,) for name in self.cases)


SCALE_LAYOUT = Layout("scale.json", "cases", 1, "case.json", SAMPLES_FILE, tuple(COLUMNS), "case")


def scale_store(path: Path) -> Store[ScaleRecord, CaseRecord]:
    """The directory of a study's run."""
    return Store(path, SCALE_LAYOUT, ScaleRecord, CaseRecord)


CONVENTION = (
    f"Theil–Sen slope over medians of stretches of kept frames, from the first frame with a full window on, with its "
    f"{CONFIDENCE:.0%} interval; of frames with the same number of kept ones before them the median counts"
)
FEWEST_LEVELS = 5
"""Buffers grow in chunks: a line through fewer levels than these says where the chunks fell, not how fast they come."""


@dataclass(frozen=True)
class GrowthQuantity:
    """What may grow. unit: of a kept frame; scale: of the samples' own unit to that one. title: in words."""

    name: str
    title: str
    unit: Literal["B", "us"]
    scale: float = 1.0


QUANTITIES = (
    GrowthQuantity("cache", "cache in view", "B"),
    GrowthQuantity("cache_allocated", "cache as allocated", "B"),
    GrowthQuantity("device_allocated", "allocated on the device", "B"),
    GrowthQuantity("device_reserved", "reserved on the device", "B"),
    GrowthQuantity("driver", "the driver's figure", "B"),
    GrowthQuantity("process", "process memory", "B"),
    GrowthQuantity("process_beyond_cache", "process memory less the cache", "B"),
    GrowthQuantity("forward", "forward time", "us", 1e3),
)


def growth(
    quantity: GrowthQuantity, kept: FloatArray, values: FloatArray, expected: float | None = None
) -> GrowthRecord:
    """How ``values`` (N,) change along ``kept`` (N,), of frames with a full window; NaN in values is left out."""

    def failed(reason: str) -> GrowthRecord:
        return GrowthRecord(quantity=quantity.name, unit=quantity.unit, expected=expected, reason=reason)

    there = np.isfinite(values)
    if not there.any():
        return failed("not measured" if len(values) else "the window never filled")
    clock, medians = _by_kept(kept[there], values[there])
    levels = len(np.unique(medians))
    if 1 < levels < FEWEST_LEVELS:
        return failed(f"it grows in steps; a slope needs {FEWEST_LEVELS - 1} of them, there are {levels - 1}")
    slope = robust_slope(clock, medians)
    if slope is None:
        needs = f"a slope needs samples at {FEWEST_SLOPE_VALUES} kept frames after the window is full"
        return failed(f"{needs}, there are {len(clock)}")
    return GrowthRecord(
        quantity=quantity.name,
        unit=quantity.unit,
        value=slope.value * quantity.scale,
        low=slope.low * quantity.scale,
        high=slope.high * quantity.scale,
        expected=expected,
        kept=len(clock),
    )


def growth_text(found: GrowthRecord) -> str:
    """``+0.59 MB (0.59 to 0.59)``, or the reason."""
    if found.value is None or found.low is None or found.high is None:
        return found.reason or ""
    size, unit = _readable(max(abs(found.value), abs(found.low), abs(found.high)), found.unit)
    low, value, high = (number / size for number in (found.low, found.value, found.high))
    return f"{value:+.3g} {unit} ({low:.3g} to {high:.3g})"


def _readable(largest: float, unit: str) -> tuple[float, str]:
    steps = ((1e6, "MB"), (1e3, "kB"), (1.0, "B")) if unit == "B" else ((1e3, "ms"), (1.0, "µs"), (1e-3, "ns"))
    return next(((size, name) for size, name in steps if largest >= size), steps[-1])


def _by_kept(kept: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Each number of kept frames once, and the median of the values there; kept does not fall."""
    clock, starts = np.unique(kept, return_index=True)
    return clock, np.array([np.median(group) for group in np.split(values, starts[1:])])


LATENCIES = (50, 90, 99)
"""MLPerf's single stream is judged by its p90."""
NEAR = 100
"""Step frames that a checkpoint's times are the median of, at most."""


class SampleLog:
    """The samples of one case as they come, as columns."""

    def __init__(self) -> None:
        self._values = {name: array("d") for name in COLUMNS}

    def __len__(self) -> int:
        return len(self._values["index"])

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Keep one frame: column → number, a FrameType by its number; None and columns left out were not measured."""
        for name, values in self._values.items():
            value = row.get(name)
            values.append(math.nan if value is None else value)

    def latest(self, name: str) -> int:
        """A count as it was last known; 0 before the first."""
        return next((int(value) for value in reversed(self._values[name]) if math.isfinite(value)), 0)

    def column(self, name: str) -> FloatArray:
        """(N,) float64, NaN where not measured; frame types as their numbers."""
        return np.array(self._values[name], dtype=np.float64)


@dataclass(frozen=True)
class Setting:
    """What the formula needs to know of a case. streaming: with the interval resolved. on_cpu: where it ran."""

    case: Case
    network: NetworkSize
    streaming: StreamSettings
    on_cpu: bool

    @property
    def window(self) -> int:
        """Kept frames seen whole, besides the scale frames."""
        return self.streaming.window or self.network.config.window

    def formula(self, frames: int) -> dict[str, int] | None:
        """Cache bytes in view after ``frames`` frames (model.md section 7); None where the images have a say."""
        if self.streaming.flow is not None or self.streaming.windowed is not None:
            return None
        width, height = self.case.size
        return dict(estimate(self.network, self.streaming, height, width, frames).cache_bytes)

    def kept_frame_bytes(self) -> int | None:
        """Bytes of every kept frame beyond the window, for ever; None where windows start anew."""
        return None if self.streaming.windowed is not None else kept_frame_bytes(self.network, self.streaming)


def case_measurements(case: Case, log: SampleLog, warm_up_s: float | None) -> tuple[Measurement, ...]:
    """The families ``throughput`` and ``memory`` of one case, as far as it came."""
    types = [None if math.isnan(number) else FrameType(int(number)) for number in log.column("frame_type")]
    forward, interval = ((log.column(name) / 1e3).tolist() for name in ("forward_ms", "interval_ms"))
    told = not any(map(math.isnan, forward))
    pace = throughput_measurements(forward if told else None, types, interval, warm_up_s)
    if case.scenario == "camera":
        waits = "the frames come at the camera's pace, and the waits between them are not the harness's"
        pace = tuple(replace(m, value=None, reason=waits) if m.name == "harness_overhead" else m for m in pace)
    return (*pace, *_latency(case, log, types), *_peaks(log))


def case_growth(setting: Setting, log: SampleLog) -> tuple[GrowthRecord, ...]:
    """What one more kept frame costs, for everything in QUANTITIES that the machine has."""
    kept, types = log.column("kept"), log.column("frame_type")
    # Not the count of scale frames: in windowed mode every window has some.
    full = (types != FrameType.SCALE) & (kept >= setting.streaming.scale_frames + setting.window)
    cache = np.sum([log.column(f"cache_{kind}_bytes") for kind in CACHE_KINDS], axis=0)
    held = log.column("cache_allocated_bytes")
    values = {
        "cache": cache,
        "cache_allocated": held,
        "device_allocated": log.column("device_allocated_bytes"),
        "device_reserved": log.column("device_reserved_bytes"),
        "driver": log.column("driver_bytes"),
        "process": log.column("process_bytes"),
        "process_beyond_cache": log.column("process_bytes") - held,
        "forward": log.column("forward_ms"),
    }
    bytes_a_frame = setting.kept_frame_bytes()
    expected = dict.fromkeys(("cache", "cache_allocated"), bytes_a_frame)
    absent = {"device_allocated", "device_reserved", "driver"} if setting.on_cpu else {"process_beyond_cache"}
    return tuple(
        growth(quantity, kept[full], values[quantity.name][full], expected.get(quantity.name))
        for quantity in QUANTITIES
        if quantity.name not in absent
    )


def case_checkpoints(
    setting: Setting | None, log: SampleLog, checkpoints: Sequence[int], truth: Trajectory | None, guess: Trajectory
) -> tuple[CheckpointRecord, ...]:
    """The stream at each of ``checkpoints`` that it reached, and at its end. setting: None where no formula holds."""
    end = log.latest("index") + 1
    reached = [*(frames for frames in checkpoints if frames < end), end]
    return tuple(_checkpoint(setting, log, frames, truth, guess) for frames in reached)


def error_curve(truth: Trajectory | None, guess: Trajectory) -> tuple[tuple[int, float], ...]:
    """Frames and ATE (metres, Sim(3)) of up to 64 growing prefixes; empty where there is nothing to compare."""
    if truth is None:
        return ()
    matched = match_poses(truth, guess)
    if len(matched.indices) < MIN_MATCHED:
        return ()
    ends, errors = prefix_errors(matched.reference[:, :3, 3], matched.estimate[:, :3, 3])
    pairs = zip(matched.indices[ends].tolist(), errors.tolist(), strict=True)
    return tuple((index + 1, error) for index, error in pairs if np.isfinite(error))


def _latency(case: Case, log: SampleLog, types: Sequence[FrameType | None]) -> tuple[Measurement, ...]:
    if case.scenario == "offline":
        return ()
    steps = np.array([kind is not FrameType.SCALE for kind in types], dtype=bool)
    latency = log.column("latency_ms")[steps]
    if case.scenario == "single_stream":
        given = "from the frame given to its outputs on the host, the next frame given after that; step frames only"
        return summarise("latency", latency, given, LATENCIES)
    arrived = f"from a frame's arrival at {case.camera_hz:g} Hz to its outputs on the host; step frames only"
    return (*summarise("latency", latency, arrived, LATENCIES), *_queue(case, log, latency))


def _queue(case: Case, log: SampleLog, latency: FloatArray) -> tuple[Measurement, ...]:
    backlog = log.column("backlog")
    late = int(np.count_nonzero(latency > 1e3 / case.camera_hz))
    deadline = f"outputs on the host later than the next arrival, {1e3 / case.camera_hz:.4g} ms after the frame's own"
    waiting = "frames that had arrived and waited when one was given; they queue, none is dropped"
    empty = None if len(latency) else "no step frame was reached"

    def one(name: str, variant: str, value: float, unit: str, convention: str) -> Measurement:
        found = None if empty else value
        return Measurement("throughput", name, variant, found, unit, convention, len(latency), empty)

    return (
        one("deadline_misses", "", late, "frames", deadline),
        one("deadline_miss_rate", "", 100 * late / max(1, len(latency)), "%", deadline),
        one("backlog", "largest", float(backlog.max(initial=0)), "frames", waiting),
        one("backlog", "last", float(backlog[-1]) if len(backlog) else 0, "frames", f"{waiting}; at the last one"),
    )


def _peaks(log: SampleLog) -> tuple[Measurement, ...]:
    """The largest of what was sampled; what a machine does not have is left to the record's words on sampling."""
    found = []
    for column, words in (
        ("cache_allocated_bytes", "cache buffers held, headroom included, at every frame"),
        ("device_allocated_bytes", "live tensors on the device, between steps, at every frame"),
        ("device_reserved_bytes", "what torch's allocator holds on the device, as sampled"),
        ("driver_bytes", "what the driver books, as sampled"),
        ("process_bytes", "resident set size of the process, as sampled"),
    ):
        values = log.column(column)
        values = values[np.isfinite(values)]
        if len(values):
            name = f"largest_{column.removesuffix('_bytes')}"
            found.append(Measurement("memory", name, "", float(values.max()) / 2**20, "MiB", words, len(values)))
    return tuple(found)


def _checkpoint(
    setting: Setting | None, log: SampleLog, frames: int, truth: Trajectory | None, guess: Trajectory
) -> CheckpointRecord:
    # A method may leave frames out.
    until = int(np.searchsorted(log.column("index"), frames))
    rows = slice(max(0, until - NEAR), until)
    steps = log.column("frame_type")[rows] != FrameType.SCALE

    def near(name: str) -> float | None:
        values = log.column(name)[rows][steps]
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) else None

    def last(name: str) -> int | None:
        values = log.column(name)[:until]
        values = values[np.isfinite(values)]
        return int(values[-1]) if len(values) else None

    ate, reason = _ate(truth, guess, frames)
    return CheckpointRecord(
        frames=frames,
        kept=last("kept") or 0,
        forward_ms=near("forward_ms"),
        interval_ms=near("interval_ms"),
        cache_bytes={kind: last(f"cache_{kind}_bytes") or 0 for kind in CACHE_KINDS},
        formula_bytes=None if setting is None else setting.formula(frames),
        cache_allocated_bytes=last("cache_allocated_bytes"),
        device_allocated_bytes=last("device_allocated_bytes"),
        device_reserved_bytes=last("device_reserved_bytes"),
        driver_bytes=last("driver_bytes"),
        process_bytes=last("process_bytes"),
        ate_m=ate,
        ate_reason=reason,
    )


def _ate(truth: Trajectory | None, guess: Trajectory, frames: int) -> tuple[float | None, str | None]:
    if truth is None:
        return None, "the input has no true poses"
    settings = TrajectorySettings(alignments=("sim3",))
    score = score_trajectory(first_poses(truth, frames), first_poses(guess, frames), frames, settings)
    (ate,) = [m for m in score.measurements if m.name == "ate_rmse"]
    return ate.value, ate.reason


def first_poses(poses: Trajectory, frames: int) -> Trajectory:
    """Those of the first ``frames`` frames."""
    among = poses.indices < frames
    return replace(
        poses,
        indices=poses.indices[among],
        timestamps=poses.timestamps[among],
        camera_to_world=poses.camera_to_world[among],
    )
