"""Scenarios under a clock that a test turns: who waits for whom, how long, and what queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lingbot_eval.scaling.settings import Case, Scenario
from lingbot_eval.scaling.stream import PacedStream, Timed
from lingbot_eval.types import Frame, FrameType, Prediction


class FakeClock:
    """Time that passes only when somebody works or waits."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept = 0.0

    def now(self) -> float:
        return self.time

    def sleep_until(self, moment: float) -> None:
        self.slept += max(0.0, moment - self.time)
        self.time = max(self.time, moment)


class Worker:
    """Takes ``seconds(i)`` for frame i; its predictions come ``behind`` frames later."""

    def __init__(self, clock: FakeClock, seconds: Callable[[int], float], behind: int = 0) -> None:
        self.clock, self.seconds, self.behind = clock, seconds, behind
        self.held: list[Prediction] = []

    def step(self, frame: Frame) -> tuple[Prediction, ...]:
        self.clock.time += self.seconds(frame.index)
        self.held.append(Prediction(frame.index, frame.timestamp, np.eye(4), frame_type=FrameType.KEPT))
        return self._ready(self.behind)

    def finish(self) -> tuple[Prediction, ...]:
        return self._ready(0)

    def _ready(self, held: int) -> tuple[Prediction, ...]:
        count = max(0, len(self.held) - held)
        ready, self.held = self.held[:count], self.held[count:]
        return tuple(ready)


def frames(count: int) -> Iterator[Frame]:
    return (Frame(index, index / 30, None, "") for index in range(count))


def streamed(
    scenario: Scenario, seconds: Callable[[int], float], count: int = 12, behind: int = 0, **changes: float
) -> tuple[list[Timed], FakeClock, PacedStream]:
    clock = FakeClock()
    stream = PacedStream(
        Case(frames=count, scenario=scenario, **changes),
        Worker(clock, seconds, behind),
        clock,  # type: ignore[arg-type]
    )
    return list(stream.run(frames(count))), clock, stream


def test_single_stream_is_latency() -> None:
    found, clock, stream = streamed("single_stream", lambda i: 0.1 + 0.01 * i)
    assert [timed.latency_s for timed in found] == pytest.approx([0.1 + 0.01 * i for i in range(12)])
    assert [timed.interval_s for timed in found] == pytest.approx([0.1 + 0.01 * i for i in range(12)])
    assert clock.slept == 0
    assert stream.given == 12
    assert all(timed.backlog is None for timed in found)


def test_offline_has_a_pace_and_no_latency() -> None:
    found, clock, _ = streamed("offline", lambda i: 0.2, behind=1)
    assert [timed.prediction.index for timed in found] == list(range(12))
    assert all(timed.latency_s is None for timed in found)
    assert sum(timed.interval_s for timed in found) == pytest.approx(clock.time - 100.0)


def test_a_camera_that_is_fast_enough_to_serve() -> None:
    found, clock, _ = streamed("camera", lambda i: 0.04, camera_hz=10.0)
    assert [timed.latency_s for timed in found] == pytest.approx([0.04] * 12)
    assert [timed.backlog for timed in found] == [0] * 12
    # It waits for every frame but the first, which is there at once.
    assert clock.slept == pytest.approx(11 * (0.1 - 0.04))


def test_a_camera_that_is_too_fast_queues_and_drops_nothing() -> None:
    found, clock, stream = streamed("camera", lambda i: 0.15, camera_hz=10.0)
    assert [timed.prediction.index for timed in found] == list(range(12))
    assert [timed.latency_s for timed in found] == pytest.approx([0.15 + 0.05 * i for i in range(12)])
    # Frame i is taken at 0.15·i; by then the frames up to ⌊1.5·i⌋ have come, of the twelve that there are.
    assert [timed.backlog for timed in found] == [min(int(1.5 * i), 11) - i for i in range(12)]
    assert clock.slept == 0
    assert stream.given == 12


def test_a_queue_empties_again() -> None:
    found, _, _ = streamed("camera", lambda i: 0.35 if i == 2 else 0.05, camera_hz=10.0)
    backlog = [timed.backlog for timed in found]
    assert max(entry for entry in backlog if entry is not None) == 2
    assert backlog[-1] == 0
    late = [timed for timed in found if timed.latency_s is not None and timed.latency_s > 0.1]
    assert 2 <= len(late) <= 7


def test_a_limit_ends_the_stream_and_loses_no_prediction() -> None:
    found, _, stream = streamed("offline", lambda i: 1.0, behind=1, limit_s=4.5)
    assert stream.stopped
    assert stream.given == len(found) == 5


def test_a_failure_leaves_the_frame_that_it_belongs_to() -> None:
    def seconds(index: int) -> float:
        if index == 7:
            raise MemoryError
        return 0.1

    clock = FakeClock()
    stream = PacedStream(Case(frames=12), Worker(clock, seconds), clock)
    with pytest.raises(MemoryError):
        list(stream.run(frames(12)))
    assert (stream.given, stream.at_frame) == (8, 7)


def test_a_frame_that_cannot_be_read_is_the_one_named() -> None:
    def broken() -> Iterator[Frame]:
        yield from frames(7)
        raise OSError("frame 7 is damaged")

    clock = FakeClock()
    stream = PacedStream(Case(frames=12), Worker(clock, lambda i: 0.1, behind=1), clock)
    with pytest.raises(OSError, match="frame 7"):
        list(stream.run(broken()))
    assert (stream.given, stream.at_frame) == (7, 7)


def test_a_failure_at_the_end_belongs_to_the_last_frame() -> None:
    class Full(Worker):
        def finish(self) -> tuple[Prediction, ...]:
            raise MemoryError

    clock = FakeClock()
    stream = PacedStream(Case(frames=5), Full(clock, lambda i: 0.1, behind=2), clock)
    with pytest.raises(MemoryError):
        list(stream.run(frames(5)))
    assert (stream.given, stream.at_frame) == (5, 4)
