"""One pass through a method: pairing, memory in flight, and a clock that gives nothing away."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lingbot_eval.errors import DataError, StreamError
from lingbot_eval.prepare import prefetch
from lingbot_eval.runs import stream as stream_module
from lingbot_eval.runs.scene import AHEAD
from lingbot_eval.runs.stream import Pace, SceneStream
from lingbot_eval.types import Frame, FrameSequence, Measurement, Prediction

Predict = Callable[[Iterable[Frame]], Iterator[Prediction]]


class Scripted:
    """A method whose ``predict`` is a plain function."""

    name = "scripted"
    needs_images = False

    def __init__(self, predict: Predict) -> None:
        self.predict = predict

    def describe(self) -> Mapping[str, Any]:
        return {}

    def open(self, sequence: FrameSequence) -> None: ...

    def warm_up(self, frame: Frame) -> float:
        return 0.0

    def resources(self) -> tuple[Measurement, ...]:
        return ()

    def close(self) -> None: ...


def frames(count: int, seconds: float = 0.0) -> Iterator[Frame]:
    for index in range(count):
        time.sleep(seconds)
        yield Frame(index, float(index), np.zeros((12, 12, 3), np.uint8), f"frame {index}")


def answer(frame: Frame) -> Prediction:
    return Prediction(frame.index, frame.timestamp, np.eye(4))


def each(stream: Iterable[Frame]) -> Iterator[Prediction]:
    return (answer(frame) for frame in stream)


def streamed(predict: Predict, source: Iterable[Frame]) -> SceneStream:
    return SceneStream(Scripted(predict), lambda: prefetch(source, AHEAD))


def test_predictions_meet_their_frames() -> None:
    stream = streamed(each, frames(20))
    outputs = list(stream.outputs())
    assert [output.frame.index for output in outputs] == list(range(20))
    assert all(output.prediction.index == output.frame.index for output in outputs)
    assert stream.exhausted
    assert stream.given == 20


def test_held_back_and_left_out_frames() -> None:
    def third_of_groups(stream: Iterable[Frame]) -> Iterator[Prediction]:
        group: list[Frame] = []
        for frame in stream:
            group.append(frame)
            if len(group) == 10:
                yield from (answer(held) for held in group[::3])
                group.clear()

    outputs = list(streamed(third_of_groups, frames(40)).outputs())
    assert [output.frame.index for output in outputs] == [10 * g + k for g in range(4) for k in (0, 3, 6, 9)]


MAX_IN_FLIGHT = 40


@pytest.fixture
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_BYTES_IN_FLIGHT", MAX_IN_FLIGHT * (1024 + 12 * 12 * 3))


@pytest.mark.usefixtures("small_bound")
def test_a_sparse_method_may_skip_more_than_may_be_in_flight() -> None:
    def last_only(stream: Iterable[Frame]) -> Iterator[Prediction]:
        return (answer(frame) for frame in stream if frame.index == 2 * MAX_IN_FLIGHT)

    (output,) = streamed(last_only, frames(3 * MAX_IN_FLIGHT)).outputs()
    assert output.frame.index == 2 * MAX_IN_FLIGHT


@pytest.mark.usefixtures("small_bound")
def test_holding_back_too_much_is_refused() -> None:
    def everything_at_the_end(stream: Iterable[Frame]) -> Iterator[Prediction]:
        return iter([answer(frame) for frame in stream])

    assert len(list(streamed(everything_at_the_end, frames(MAX_IN_FLIGHT)).outputs())) == MAX_IN_FLIGHT
    with pytest.raises(StreamError, match=r"'scripted': predicted frame 0 when it had been given 41 frames"):
        list(streamed(everything_at_the_end, frames(MAX_IN_FLIGHT + 1)).outputs())


def test_depth_that_is_held_back_counts_as_its_image_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with_depth = [replace(frame, depth=np.ones((12, 12), np.float32)) for frame in frames(11)]
    monkeypatch.setattr(stream_module, "MAX_BYTES_IN_FLIGHT", 10 * (1024 + 12 * 12 * (3 + 4)))

    def everything_at_the_end(stream: Iterable[Frame]) -> Iterator[Prediction]:
        return iter([answer(frame) for frame in stream])

    assert len(list(streamed(everything_at_the_end, iter(with_depth[:10])).outputs())) == 10
    with pytest.raises(StreamError, match="predicted frame 0 when it had been given 11 frames"):
        list(streamed(everything_at_the_end, iter(with_depth)).outputs())


def test_a_frame_that_was_never_given_is_refused() -> None:
    def ahead(stream: Iterable[Frame]) -> Iterator[Prediction]:
        return (Prediction(frame.index + 1, frame.timestamp + 1, np.eye(4)) for frame in stream)

    with pytest.raises(StreamError) as refused:
        list(streamed(ahead, frames(3)).outputs())
    assert str(refused.value) == (
        "method 'scripted': predicted frame 1 when it had been given 1 frames, which is none of those or longer ago"
        " than 1024 MiB of frames; it must hold back fewer"
    )


@pytest.mark.parametrize(("off_s", "told"), [(9e-7, False), (-9e-7, False), (1.1e-6, True), (-1.1e-6, True)])
def test_a_time_is_the_frames_to_a_microsecond(off_s: float, told: bool) -> None:
    """Programs that print their times round them."""

    def rounded(stream: Iterable[Frame]) -> Iterator[Prediction]:
        return (Prediction(frame.index, frame.timestamp + off_s, np.eye(4)) for frame in stream)

    stream = streamed(rounded, frames(3)).outputs()
    if told:
        with pytest.raises(StreamError, match=r"frame 0 with its own time 0\.0 s, found -?1\.1e-06; give each"):
            list(stream)
    else:
        assert [output.frame.index for output in stream] == [0, 1, 2]


@pytest.mark.usefixtures("small_bound")
def test_what_was_held_back_too_long_is_decoded_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its latency is the whole stream's: a second a frame that was decoded, by a clock that only that moves."""
    now = [1000.0]
    monkeypatch.setattr(stream_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def everything_at_the_end(stream: Iterable[Frame]) -> Iterator[Prediction]:
        return iter([answer(frame) for frame in stream if frame.index % 2])

    count = 3 * MAX_IN_FLIGHT
    passes: list[list[int]] = []

    def begun() -> Generator[Frame, None, None]:
        passes.append([])
        seen = passes[-1]
        for frame in frames(count):
            seen.append(frame.index)
            now[0] += 1
            yield frame

    stream = SceneStream(Scripted(everything_at_the_end), begun)
    outputs = [(output.frame.index, output.latency_s) for output in stream.outputs()]
    assert [index for index, _ in outputs] == list(range(1, count, 2))
    # After the first pass, the first two frames of the second; all of both before what was in flight to the end.
    assert (outputs[0], outputs[-1]) == ((1, count + 2), (count - 1, 2 * MAX_IN_FLIGHT))
    # One more pass, and no further than to the last frame that was forgotten.
    assert passes == [list(range(count)), list(range(2 * MAX_IN_FLIGHT))]


def test_numbers_of_numpy_are_numbers() -> None:
    def theirs(stream: Iterable[Frame]) -> Iterator[Prediction]:
        return (Prediction(np.int64(f.index), np.float32(f.timestamp), np.eye(4, dtype=int)) for f in stream)  # type: ignore[arg-type]

    assert [output.frame.index for output in streamed(theirs, frames(3)).outputs()] == [0, 1, 2]


@pytest.mark.parametrize("order", [[0, 0], [1, 0]])
def test_disorder_is_refused(order: list[int]) -> None:
    def disordered(stream: Iterable[Frame]) -> Iterator[Prediction]:
        held = list(stream)
        return (answer(held[index]) for index in order)

    with pytest.raises(StreamError, match="must come in frame order"):
        list(streamed(disordered, frames(3)).outputs())


@pytest.mark.parametrize(
    ("predict", "says"),
    [
        (lambda stream: None, "expected predict to yield a Prediction a frame, found None"),
        (lambda stream: [np.eye(4) for _ in stream], "expected a lingbot_eval.Prediction from predict, found ndarray"),
        (lambda stream: [Prediction(f.index, None) for f in stream], "its time in seconds, found 0 and None"),
        (lambda stream: [Prediction(0.5, f.timestamp) for f in stream], "its time in seconds, found 0.5 and 0.0"),  # type: ignore[arg-type]
        *(
            (lambda stream, part=part: [Prediction(f.index, f.timestamp, **part) for f in stream], says)
            for part, says in (
                ({"camera_to_world": np.eye(4)[:3]}, r"camera_to_world: .* shape \(4, 4\), found \(3, 4\)"),
                ({"camera_to_world": np.eye(4).tolist()}, r"camera_to_world: .*, found list"),
                ({"camera_to_world": np.full((4, 4), None)}, r"camera_to_world: .* of numbers, found object"),
                ({"depth": np.ones((3, 5), bool)}, r"depth: .* of numbers, found bool"),
                ({"points": np.ones((3, 5, 4))}, r"points: .* shape \(H, W, 3\), found \(3, 5, 4\)"),
                ({"depth": np.ones((12, 12, 1))}, r"frame 0: depth: .* shape \(H, W\), found \(12, 12, 1\)"),
                ({"points": np.ones((12, 12))}, r"points: .* shape \(H, W, 3\), found \(12, 12\)"),
                ({"intrinsics": np.ones(4)}, r"intrinsics: .* shape \(3, 3\), found \(4,\)"),
                ({"depth_confidence": np.ones(4)}, r"depth_confidence: .* shape \(H, W\), found \(4,\)"),
                ({"points_confidence": np.ones((3, 5, 3))}, r"points_confidence: .* shape \(H, W\), found \(3, 5, 3\)"),
            )
        ),
    ],
)
def test_what_is_no_prediction_is_refused(predict: Any, says: str) -> None:
    with pytest.raises(StreamError, match=rf"^method 'scripted': .*{says}$"):
        list(streamed(predict, frames(2)).outputs())


def test_only_frames_in_flight_are_decoded() -> None:
    decoded: list[int] = []

    def noted() -> Iterator[Frame]:
        for frame in frames(100):
            decoded.append(frame.index)
            yield frame

    outputs = streamed(each, noted()).outputs()
    for _ in range(10):
        next(outputs)
    outputs.close()
    assert 10 <= len(decoded) <= 10 + AHEAD + 1


def test_a_failure_belongs_to_its_frame() -> None:
    def broken(stream: Iterable[Frame]) -> Iterator[Prediction]:
        for frame in stream:
            if frame.index == 7:
                raise RuntimeError("boom")
            yield answer(frame)

    stream = streamed(broken, frames(20))
    with pytest.raises(RuntimeError, match="boom"):
        list(stream.outputs())
    assert stream.at_frame == 7

    def undecodable() -> Iterator[Frame]:
        yield from frames(12)
        raise DataError("frame 12 is damaged")

    stream = streamed(each, undecodable())
    taken = []
    with pytest.raises(DataError, match="frame 12"):
        taken.extend(stream.outputs())
    assert stream.at_frame == 12


def test_the_clock_is_the_wall_s() -> None:
    """Decoding, predicting and what the caller does with an output are all in the intervals."""

    def slow(stream: Iterable[Frame]) -> Iterator[Prediction]:
        for frame in stream:
            time.sleep(0.01)
            yield answer(frame)

    started = time.perf_counter()
    intervals = []
    for output in streamed(slow, frames(10)).outputs():
        intervals.append(output.interval_s)
        time.sleep(0.02)
    # What the caller does with the last output is after the last interval.
    assert 10 * 0.01 + 9 * 0.02 <= sum(intervals) <= time.perf_counter() - started - 0.02


DECODES, PREDICTS, RESTS, STORES = 1.0, 2.0, 100.0, 4.0


class ByHand:
    """A stream by a clock that moves only where something is done. It rests once, when it is asked so often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rests_at: int) -> None:
        self.now, self.rests_at = 1000.0, rests_at
        self.rested: list[tuple[int, float]] = []
        self.asked = 0
        monkeypatch.setattr(stream_module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def frames(self) -> Generator[Frame, None, None]:
        for frame in frames(8):
            self.now += DECODES
            yield frame

    def predict(self, given: Iterable[Frame | None]) -> Iterator[Prediction]:
        for frame in given:
            if frame is not None:
                self.now += PREDICTS
                yield answer(frame)

    def due(self) -> bool:
        self.asked += 1
        return self.asked == self.rests_at

    def at_rest(self, given: int, seconds: float) -> None:
        self.rested.append((given, seconds))
        self.now += RESTS

    def outputs(self, **settings: Any) -> tuple[SceneStream, list[tuple[int, float, float]]]:
        """Index, interval and latency of each."""
        stream = SceneStream(Scripted(self.predict), self.frames, rest=self, **settings)
        found = []
        for output in stream.outputs():
            found.append((output.frame.index, output.interval_s, output.latency_s))
            self.now += STORES
        return stream, found


def test_a_rest_is_of_no_interval_and_costs_no_time_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ByHand(monkeypatch, rests_at=3)
    stream, outputs = clock.outputs(pace=Pace(limit_s=45.0))
    each = DECODES + PREDICTS + STORES
    assert outputs == [(0, DECODES + PREDICTS, PREDICTS)] + [(index, each, PREDICTS) for index in range(1, 7)]
    assert clock.rested == [(3, 3 * each)]
    # Six frames and the decoding of the seventh take 43 s, that of the eighth ends after 50.
    assert (stream.given, stream.stopped, stream.exhausted) == (7, True, False)


def test_a_stream_that_goes_on_counts_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ByHand(monkeypatch, rests_at=2)
    stream, outputs = clock.outputs(first=3, before_s=500.0, pace=Pace(limit_s=515.0))
    assert [index for index, _, _ in outputs] == [3, 4]
    # Nothing is saved before its first frame; the frames that it has had are decoded in its time.
    assert clock.rested == [(5, 500.0 + 5 * DECODES + 2 * (PREDICTS + STORES))]
    assert (stream.given, stream.stopped, stream.at_frame) == (5, True, 4)
