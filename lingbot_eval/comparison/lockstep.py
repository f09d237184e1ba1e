"""Agreement: every frame goes through all sides before the next one comes, so that no output is held for long."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lingbot_eval.comparison.agreement import Differences, pose_differences
from lingbot_eval.comparison.contenders import Bench, Contender
from lingbot_eval.comparison.frames import PreparedFrames, on_device
from lingbot_eval.comparison.outcome import Failure, OutOfMemory, Pair, memory_guarded
from lingbot_eval.comparison.race import release
from lingbot_eval.geometry.pose_encoding import decode_camera_to_world
from lingbot_eval.streaming.open import Session
from lingbot_eval.streaming.session import FrameOutput
from lingbot_eval.types import FloatArray, FrameType, Image

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
    emitted = 0
    for frame, image in enumerate(frames.images()):
        for lane in lanes.values():
            lane.step(frame, image)
        emitted = _emit(list(lanes.values()), logs, emitted)
        each_frame()
    for lane in lanes.values():
        lane.finish()
    _emit(list(lanes.values()), logs, emitted)
    return tuple(log.pair() for log in logs)


class _Lane:
    """One side's stream; outputs wait here until all sides have theirs."""

    def __init__(self, bench: Bench, contender: Contender) -> None:
        self.contender = contender
        self.waiting: deque[FrameOutput] = deque()
        self.failure: Failure | None = None
        self._bench = bench
        self._session: Session | None = None
        self._frames = 0
        self._guarded(None, self._open)

    def step(self, frame: int, image: Image) -> None:
        self._frames = frame + 1
        self._guarded(frame, lambda: self._step(image))

    def finish(self) -> None:
        last = max(0, self._frames - 1)
        self._guarded(last, lambda: self._session.finish() if self._session is not None else ())

    def has(self, index: int) -> bool:
        return bool(self.waiting) and self.waiting[0].index == index

    def never_has(self, index: int) -> bool:
        return self.failure is not None and not self.has(index)

    def _step(self, image: Image) -> tuple[FrameOutput, ...]:
        # Uploaded once a lane: whoever meets a full device is the one that ends.
        return self._session.step(on_device(image, self._bench.device)) if self._session is not None else ()

    def _open(self) -> tuple[FrameOutput, ...]:
        self._session = self._bench.open(self.contender)
        return ()

    def _guarded(self, frame: int | None, work: Callable[[], tuple[FrameOutput, ...]]) -> None:
        """Take the outputs of ``work``; when the device refuses memory, this lane ends and gives back its own."""
        try:
            with memory_guarded("together", frame):
                self.waiting += work()
        except OutOfMemory as out:
            self.failure = out.failure
            self._session = None
            release(self._bench.device)


class _PairLog:
    """Differences of two lanes, frame by frame: numbers only."""

    def __init__(self, first: _Lane, second: _Lane) -> None:
        self._lanes = (first, second)
        self._indices = array("q")
        self._poses = (array("d"), array("d"))
        self._depth = array("d")
        self._keyframes_differ = 0

    def add(self, index: int) -> None:
        """Compare the outputs that both lanes have first in their queues, on the host: the device may be full."""
        first, second = (lane.waiting[0] for lane in self._lanes)
        self._indices.append(index)
        for poses, output in zip(self._poses, (first, second), strict=True):
            poses.extend(output.pose.double().cpu().tolist())
        self._depth.append(depth_difference(first.depth.cpu(), second.depth.cpu()))
        kept = [output.frame_type is not FrameType.UNKEPT for output in (first, second)]
        self._keyframes_differ += kept[0] != kept[1]

    def both_have(self, index: int) -> bool:
        return all(lane.has(index) for lane in self._lanes)

    def pair(self) -> Pair:
        """Everything in one object."""
        first, second = self._lanes
        poses = [decode_camera_to_world(_rows(poses)) for poses in self._poses]
        rotation, position = pose_differences(poses[0], poses[1])
        return Pair(
            first.contender,
            second.contender,
            Differences(np.array(self._indices, np.int64), rotation, position, np.array(self._depth, np.float64)),
            self._keyframes_differ,
            first.failure or second.failure,
        )


def depth_difference(first: Tensor, second: Tensor) -> float:
    """Median over pixels of |first − second| / |second| for two (H, W) depths; NaN where no pixel can be compared."""
    usable = torch.isfinite(first) & torch.isfinite(second) & (second.abs() > SMALLEST_DEPTH)
    ratio = ((first - second).abs() / second.abs())[usable]
    return float(ratio.median()) if len(ratio) else float("nan")


def _rows(encodings: array[float]) -> FloatArray:
    return np.array(encodings, dtype=np.float64).reshape(-1, 9)


def _emit(lanes: list[_Lane], logs: list[_PairLog], index: int) -> int:
    """Compare and drop every frame that all lanes have, or that those without it will never have."""
    while all(lane.has(index) or lane.never_has(index) for lane in lanes) and any(lane.has(index) for lane in lanes):
        for log in logs:
            if log.both_have(index):
                log.add(index)
        for lane in lanes:
            if lane.has(index):
                lane.waiting.popleft()
        index += 1
    return index
