"""Scenarios under a clock that a test turns: who waits for whom, how long, and what queues."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
import pytest

from lingbot_eval.runs import stream as stream_module
from lingbot_eval.runs.stream import Output, Pace, SceneStream
from lingbot_eval.types import Frame, FrameType, Prediction


class FakeClock:
    """Time that passes only when somebody works or waits; stands in for the module ``time``."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept = 0.0

    def perf_counter(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.time += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr(stream_module, "time", made)
    return made


class Worker:
    """A method that takes ``seconds(i)`` for frame i; its predictions come ``behind`` frames later."""

    name = "worker"

    def __init__(self, clock: FakeClock, seconds: Callable[[int], float], behind: int = 0) -> None:
        self.clock, self.seconds, self.behind = clock, seconds, behind

    def predict(self, stream: Iterable[Frame]) -> Iterator[Prediction]:
        held: list[Prediction] = []
        for frame in stream:
            self.clock.time += self.seconds(frame.index)
            held.append(Prediction(frame.index, frame.timestamp, np.eye(4), frame_type=FrameType.KEPT))
            while len(held) > self.behind:
                yield held.pop(0)
        yield from self.end(held)

    def end(self, held: list[Prediction]) -> list[Prediction]:
        return held


def frames(count: int) -> Generator[Frame, None, None]:
    return (Frame(index, index / 30, None, "") for index in range(count))


def streamed(
    clock: FakeClock,
    seconds: Callable[[int], float],
    pace: Pace = Pace(),  # noqa: B008 - frozen
    behind: int = 0,
    count: int = 12,
) -> tuple[list[Output], SceneStream]:
    stream = SceneStream(Worker(clock, seconds, behind), lambda: frames(count), pace)  # type: ignore[arg-type]
    return list(stream.outputs()), stream


CAMERA = Pace(hertz=10.0, frames=12)


def test_latency_counts_from_the_frame_given(clock: FakeClock) -> None:
    found, stream = streamed(clock, lambda i: 0.1 + 0.01 * i)
    assert [output.latency_s for output in found] == pytest.approx([0.1 + 0.01 * i for i in range(12)])
    assert [output.interval_s for output in found] == pytest.approx([0.1 + 0.01 * i for i in range(12)])
    assert clock.slept == 0
    assert stream.given == 12
    assert all(output.backlog is None for output in found)


def test_overlapped_steps_have_a_pace(clock: FakeClock) -> None:
    found, _ = streamed(clock, lambda i: 0.2, behind=1)
    assert [output.prediction.index for output in found] == list(range(12))
    assert sum(output.interval_s for output in found) == pytest.approx(clock.time - 100.0)


def test_a_camera_that_is_fast_enough_to_serve(clock: FakeClock) -> None:
    found, _ = streamed(clock, lambda i: 0.04, CAMERA)
    assert [output.latency_s for output in found] == pytest.approx([0.04] * 12)
    assert [output.backlog for output in found] == [0] * 12
    # It waits for every frame but the first, which is there at once.
    assert clock.slept == pytest.approx(11 * (0.1 - 0.04))


def test_a_camera_that_is_too_fast_queues_and_drops_nothing(clock: FakeClock) -> None:
    found, stream = streamed(clock, lambda i: 0.15, CAMERA)
    assert [output.prediction.index for output in found] == list(range(12))
    assert [output.latency_s for output in found] == pytest.approx([0.15 + 0.05 * i for i in range(12)])
    # Frame i is taken at 0.15·i; by then the frames up to ⌊1.5·i⌋ have come, of the twelve that there are.
    assert [output.backlog for output in found] == [min(int(1.5 * i), 11) - i for i in range(12)]
    assert clock.slept == 0
    assert stream.given == 12


def test_a_queue_empties_again(clock: FakeClock) -> None:
    found, _ = streamed(clock, lambda i: 0.35 if i == 2 else 0.05, CAMERA)
    backlog = [output.backlog for output in found]
    assert max(entry for entry in backlog if entry is not None) == 2
    assert backlog[-1] == 0
    late = [output for output in found if output.latency_s > 0.1]
    assert 2 <= len(late) <= 7


def test_a_limit_ends_the_stream_and_loses_no_prediction(clock: FakeClock) -> None:
    found, stream = streamed(clock, lambda i: 1.0, Pace(limit_s=4.5), behind=1)
    assert stream.stopped
    assert stream.given == len(found) == 5


def begun(method: Worker, source: Callable[[], Generator[Frame, None, None]]) -> SceneStream:
    return SceneStream(method, source)  # type: ignore[arg-type]


def test_a_failure_leaves_the_frame_that_it_belongs_to(clock: FakeClock) -> None:
    def seconds(index: int) -> float:
        if index == 7:
            raise MemoryError
        return 0.1

    stream = begun(Worker(clock, seconds), lambda: frames(12))
    with pytest.raises(MemoryError):
        list(stream.outputs())
    assert (stream.given, stream.at_frame) == (8, 7)


def test_a_frame_that_cannot_be_read_is_the_one_named(clock: FakeClock) -> None:
    def broken() -> Generator[Frame, None, None]:
        yield from frames(7)
        raise OSError("frame 7 is damaged")

    stream = begun(Worker(clock, lambda i: 0.1, behind=1), broken)
    with pytest.raises(OSError, match="frame 7"):
        list(stream.outputs())
    assert (stream.given, stream.at_frame) == (7, 7)


def test_a_failure_at_the_end_belongs_to_the_last_frame(clock: FakeClock) -> None:
    class Full(Worker):
        def end(self, held: list[Prediction]) -> list[Prediction]:
            raise MemoryError

    stream = begun(Full(clock, lambda i: 0.1, behind=2), lambda: frames(5))
    with pytest.raises(MemoryError):
        list(stream.outputs())
    assert (stream.given, stream.at_frame) == (5, 4)
