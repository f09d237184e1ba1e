"""Compares two backends on the same frames: each alone against the clock, then all together frame by frame."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from lingbot_eval.comparison.contenders import (
    Bench,
    Contender,
    PreparedFrames,
    Selected,
    parse_contender,
    reference_contender,
)
from lingbot_eval.machine.environment import environment
from lingbot_eval.methods.base import free_device_memory
from lingbot_eval.methods.stepper import Stepper, warm_up
from lingbot_eval.model.build import choose_device
from lingbot_eval.profiling.memory import reset_peaks
from lingbot_eval.reports.agreement import Differences, pose_differences
from lingbot_eval.runs.scoring import PoseLog
from lingbot_eval.statistics import FEWEST_ROUNDS, judge_rounds
from lingbot_eval.types import DepthMap, FloatArray, Frame, FrameType, Prediction

Stage = Literal["warm-up", "alone", "together"]


@dataclass(frozen=True)
class OutOfMemory:
    """A side ran out of device memory. frame: the one that it could not take, None while the network was loaded.

    stage: on its own (``warm-up``, ``alone``), or only beside the others (``together``), which says nothing against it.
    """

    stage: Stage
    frame: int | None
    reason: str

    def text(self) -> str:
        """In words."""
        where = "while loading the network" if self.frame is None else f"at frame {self.frame}"
        how = {"warm-up": "in the warm-up", "alone": "on its own", "together": "beside the others"}[self.stage]
        return f"out of device memory {where}, {how}: {self.reason}"


@contextmanager
def memory_guarded(failing: Side | _Lane, stage: Stage, frame: Callable[[], int | None]) -> Iterator[None]:
    """Turns the device's refusal of memory inside the block into the failure of whom it befell, at ``frame()``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        failing.failure = OutOfMemory(stage, frame(), " ".join(str(error).split()).partition(". ")[0])


@dataclass
class Side:
    """One contender and what was measured of it.

    weights_bytes: of its network. warm_up_s: first streams of a few frames, compilation included.
    step_ms: one (N,) a round, milliseconds of every frame, device synchronised, NaN from the frame on that it failed
    at; scale frames carry equal shares of their pass.
    cache_bytes: in view at its fullest, by kind; cache_allocated: the most that was held.
    device_bytes: peak above what was there before its own pass, None on a CPU. failure: why it has no full measurement.
    """

    contender: Contender
    weights_bytes: int | None = None
    warm_up_s: float | None = None
    step_ms: list[FloatArray] = field(default_factory=list)
    cache_bytes: dict[str, int] = field(default_factory=dict)
    cache_allocated: int | None = None
    device_bytes: int | None = None
    failure: OutOfMemory | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """Two sides held against each other, frame by frame.

    keyframes_differ: frames that one kept and the other did not. ended: why they could not be compared to the end.
    """

    first: Contender
    second: Contender
    differences: Differences
    keyframes_differ: int
    ended: OutOfMemory | None


_VERDICTS = {"held": "no difference", "better": "faster", "regression": "slower", "incomparable": None}


@dataclass(frozen=True)
class Ratio:
    """Time of B / time of A, of the step frames, over rounds in turn; what the gate would say of it.

    low, high: what it may be by chance, each end missed with the chance `statistics.ALPHA`. verdict: ``slower`` or
    ``faster`` (B, by more than `statistics.MIN_EFFECT` and by more than chance), ``no difference``. All None where
    reason says why there is none.
    """

    value: float
    low: float | None = None
    high: float | None = None
    verdict: str | None = None
    reason: str | None = None


def step_median(step_ms: FloatArray, scale_frames: int) -> float | None:
    """Median of a round's (N,) milliseconds without its scale frames; None when no step frame was reached."""
    steps = step_ms[scale_frames:]
    steps = steps[np.isfinite(steps)]
    return float(np.median(steps)) if len(steps) else None


def time_ratio(first: Side, second: Side, scale_frames: int) -> Ratio | str:
    """How long ``second`` takes against ``first``, or why that cannot be said."""
    for side in (first, second):
        if side.failure is not None:
            return f"{side.contender.label}: {side.failure.text()}"
    ratios = []
    for one, other in zip(first.step_ms, second.step_ms, strict=True):
        before, after = step_median(one, scale_frames), step_median(other, scale_frames)
        if before is None or after is None:
            return "the stream ends with its scale phase: there is no step to time"
        ratios.append(after / before)
    value = float(np.median(ratios))
    if len(ratios) < FEWEST_ROUNDS:
        return Ratio(value, reason=f"an interval needs {FEWEST_ROUNDS} rounds, there are {len(ratios)}")
    first_ms, second_ms = ([step_ms[scale_frames:] for step_ms in side.step_ms] for side in (first, second))
    found = judge_rounds(first_ms, second_ms, in_turn=True)
    if found.effect is None or found.low is None or found.high is None:
        return Ratio(value, reason=found.reason)
    reason = found.reason if found.status == "incomparable" else None
    return Ratio(1 + found.effect, 1 + found.low, 1 + found.high, _VERDICTS[found.status], reason)


def race(bench: Bench, sides: list[Side], frames: PreparedFrames, rounds: int, each_frame: Callable[[], None]) -> None:
    """Warm every side up, then stream ``frames`` through each, ``rounds`` times in turn; results go into ``sides``.

    Every other round goes the other way about, so that a drift of the machine favours nobody. A side that runs out of
    device memory is out of the race, with its frame. each_frame: called after every timed frame.
    """
    for side in sides:
        _warm_up(bench, side, frames)
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            if side.failure is None:
                _one_pass(bench, side, frames, each_frame)


def _warm_up(bench: Bench, side: Side, frames: PreparedFrames) -> None:
    first = frames.first()
    opened: list[Stepper] = []

    def begin() -> Stepper:
        opened.append(bench.open(side.contender))
        return opened[0]

    with memory_guarded(side, "warm-up", lambda: None):
        side.weights_bytes = bench.model(side.contender).weights_bytes
    if side.failure is None:
        with memory_guarded(side, "warm-up", lambda: _at(opened)):
            side.warm_up_s = warm_up(begin, first, bench.method.streaming.scale_frames, bench.device)
    opened.clear()
    free_device_memory()


def _one_pass(bench: Bench, side: Side, frames: PreparedFrames, each_frame: Callable[[], None]) -> None:
    reset_peaks(str(bench.device))
    before = _allocated(bench.device)
    step_ms: dict[int, float] = {}
    opened: list[Stepper] = []
    with memory_guarded(side, "alone", lambda: _at(opened)):
        opened.append(bench.open(side.contender))
        for prediction in opened[0].drive(frames.frames()):
            cost = prediction.cost
            if cost is None or cost.cache_allocated is None:
                raise TypeError("the streaming model tells the cost of every frame")
            step_ms[prediction.index] = 1e3 * cost.forward_s
            if sum(cost.cache_bytes.values()) > sum(side.cache_bytes.values()):
                side.cache_bytes = dict(cost.cache_bytes)
            side.cache_allocated = max(side.cache_allocated or 0, cost.cache_allocated)
            each_frame()
    given = opened[0].given if opened else 0
    side.step_ms.append(np.array([step_ms.get(index, np.nan) for index in range(given)], dtype=np.float64))
    if before is not None:
        side.device_bytes = max(side.device_bytes or 0, torch.cuda.max_memory_allocated(bench.device) - before)
    opened.clear()
    free_device_memory()


def _allocated(device: torch.device) -> int | None:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def _at(opened: list[Stepper]) -> int:
    """The frame that was given last."""
    return max(0, opened[0].given - 1) if opened else 0


SMALLEST_DEPTH = 1e-6


def lockstep(
    bench: Bench,
    contenders: Sequence[Contender],
    pairs: Sequence[tuple[Contender, Contender]],
    frames: PreparedFrames,
    each_frame: Callable[[], None],
) -> tuple[Pair, ...]:
    """Stream ``frames`` through all ``contenders`` side by side and compare the ``pairs`` among them.

    Outputs that windowed mode holds back are paired by their index. A side that runs out of device memory ends its
    pairs there, and the others go on.
    """
    lanes = {contender: _Lane(bench, contender) for contender in contenders}
    logs = [_PairLog(lanes[first], lanes[second]) for first, second in pairs]
    compared = 0
    for frame in frames.frames():
        for lane in lanes.values():
            lane.step(frame)
        compared = _compare(list(lanes.values()), logs, compared)
        each_frame()
    for lane in lanes.values():
        lane.step(None)
    _compare(list(lanes.values()), logs, compared)
    return tuple(log.pair() for log in logs)


class _Lane:
    """One side's stream; predictions wait here until all sides have theirs."""

    def __init__(self, bench: Bench, contender: Contender) -> None:
        self.contender = contender
        self.waiting: deque[Prediction] = deque()
        self.failure: OutOfMemory | None = None
        self._stepper: Stepper | None = None
        self._at: int | None = None
        with self._guarded():
            self._stepper = bench.open(contender)

    def step(self, frame: Frame | None) -> None:
        """Take the next frame, or the end; when the device refuses memory, this lane ends and gives back its own."""
        if self._stepper is None:
            return
        self._at = max(0, self._stepper.given - (frame is None))
        with self._guarded():
            self.waiting += self._stepper.finish() if frame is None else self._stepper.step(frame)

    def has(self, index: int) -> bool:
        return bool(self.waiting) and self.waiting[0].index == index

    def never_has(self, index: int) -> bool:
        return self.failure is not None and not self.has(index)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with memory_guarded(self, "together", lambda: self._at):
            yield
        if self.failure is not None:
            self._stepper = None
            free_device_memory()


class _PairLog:
    """Differences of two lanes, frame by frame: numbers only."""

    def __init__(self, first: _Lane, second: _Lane) -> None:
        self._lanes = (first, second)
        self._poses = (PoseLog(), PoseLog())
        self._depth = array("d")
        self._keyframes_differ = 0

    def add(self) -> None:
        """Compare the predictions that both lanes have first in their queues."""
        first, second = (lane.waiting[0] for lane in self._lanes)
        for poses, prediction in zip(self._poses, (first, second), strict=True):
            if prediction.camera_to_world is not None:
                poses.append(prediction.index, prediction.timestamp, prediction.camera_to_world)
        self._depth.append(depth_difference(first.depth, second.depth))
        kept = [prediction.frame_type is not FrameType.UNKEPT for prediction in (first, second)]
        self._keyframes_differ += kept[0] != kept[1]

    def both_have(self, index: int) -> bool:
        return all(lane.has(index) for lane in self._lanes)

    def pair(self) -> Pair:
        """Everything in one object."""
        first, second = self._lanes
        poses = [log.trajectory() for log in self._poses]
        rotation, position = pose_differences(poses[0].camera_to_world, poses[1].camera_to_world)
        return Pair(
            first.contender,
            second.contender,
            Differences(poses[0].indices, rotation, position, np.array(self._depth, np.float64)),
            self._keyframes_differ,
            first.failure or second.failure,
        )


def depth_difference(first: DepthMap | None, second: DepthMap | None) -> float:
    """Median over pixels of |first − second| / |second| for two (H, W) depths, the lower one of two in the middle; NaN
    where no pixel can be compared."""
    if first is None or second is None:
        return float("nan")
    usable = np.isfinite(first) & np.isfinite(second) & (np.abs(second) > SMALLEST_DEPTH)
    ratio = np.abs(first[usable] - second[usable]) / np.abs(second[usable])
    return float(np.percentile(ratio, 50, method="lower")) if len(ratio) else float("nan")


def _compare(lanes: list[_Lane], logs: list[_PairLog], index: int) -> int:
    """Compare and drop every frame that all lanes have, or that those without it will never have."""
    while all(lane.has(index) or lane.never_has(index) for lane in lanes) and any(lane.has(index) for lane in lanes):
        for log in logs:
            if log.both_have(index):
                log.add()
        for lane in lanes:
            if lane.has(index):
                lane.waiting.popleft()
        index += 1
    return index


@dataclass(frozen=True, eq=False)
class BackendComparison:
    """Everything found out. untrained: whether the outputs are those of untrained weights.

    sides: A and B. pairs: A–B, and each of them against the reference unless it is one itself. ratio: time of B / time
    of A, or why it cannot be said. scale_frames: those at the beginning that enter together.
    """

    dataset: str
    scene: str
    frames: int
    size: tuple[int, int]
    model: str
    weights: str
    untrained: bool
    streaming: Mapping[str, Any]
    device: str
    rounds: int
    scale_frames: int
    sides: tuple[Side, Side]
    pairs: tuple[Pair, ...]
    ratio: Ratio | str
    environment: Mapping[str, Any]


def compare_backends(
    a: str,
    b: str,
    selected: Selected,
    frames: PreparedFrames,
    each_frame: Callable[[], None],
    *,
    rounds: int,
    with_reference: bool,
) -> BackendComparison:
    """Race the two, then hold their outputs against each other and, with_reference, against a float32 reference.

    a, b: ``BACKEND[:PRECISION][:8]``. rounds: timed passes of each side. each_frame: called after every frame of every
    timed pass and of the pass in lockstep. Running out of device memory becomes a result. Raises ConfigError for a
    backend or precision that there is not, DependencyError or ConfigError for one that cannot be had here, DataError
    for frames that cannot be read.
    """
    device = choose_device(selected.method.device)
    bench = Bench(selected.method, device, frames.sequence.length)
    first, second = (parse_contender(*given, selected.method, device) for given in (("A", a), ("B", b)))
    sides = [Side(first), Side(second)]
    race(bench, sides, frames, rounds, each_frame)
    # Built after the race: its weights are not on the device while the others' memory is measured.
    pairs = lockstep(bench, *_drawn(first, second, with_reference=with_reference), frames, each_frame)
    image = frames.first().image
    if image is None:
        raise TypeError("a frame that was streamed has an image")
    scale_frames = selected.method.streaming.scale_frames
    return BackendComparison(
        dataset=frames.sequence.dataset,
        scene=frames.sequence.scene,
        frames=max((len(step_ms) for side in sides for step_ms in side.step_ms), default=0),
        size=(image.shape[1], image.shape[0]),
        model=selected.method.model.config,
        weights=selected.weights,
        untrained=selected.method.model.checkpoint is None,
        streaming=selected.method.streaming.model_dump(mode="json", exclude={"backend", "cache_precision"}),
        device=str(device),
        rounds=rounds,
        scale_frames=scale_frames,
        sides=(sides[0], sides[1]),
        pairs=pairs,
        ratio=time_ratio(sides[0], sides[1], scale_frames),
        environment=environment(),
    )


def _drawn(
    a: Contender, b: Contender, *, with_reference: bool
) -> tuple[list[Contender], list[tuple[Contender, Contender]]]:
    """Who streams and which pairs are compared; a side that computes what the reference does needs no other one."""
    if not with_reference or a.is_reference or b.is_reference:
        return [a, b], [(a, b)]
    reference = reference_contender()
    return [a, b, reference], [(a, b), (a, reference), (b, reference)]
