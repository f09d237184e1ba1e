"""The stepper: predictions meet their frames and their time, at once or a step later."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from lingbot_eval.errors import DataError
from lingbot_eval.methods import stepper as stepper_module
from lingbot_eval.methods.stepper import Arrival, HostArray, HostTransfer, Stepper
from lingbot_eval.profiling import timing
from lingbot_eval.streaming.session import FrameOutput
from lingbot_eval.types import Frame, FrameType, Prediction

CPU = torch.device("cpu")


class LateTransfer(HostTransfer):
    """A GPU's behaviour without one: the outputs of a step are under way while the next one is given.

    They are not there before somebody asks; it writes down who asked when.
    """

    def __init__(self, in_flight: int, log: list[str]) -> None:
        self.in_flight = in_flight
        self._log = log
        self._number = 0

    def download(self, tensors: Sequence[Tensor | None]) -> Arrival:
        self._number += 1
        # As they are now: what is written to them later does not come.
        number, arrays = self._number, [None if tensor is None else tensor.clone().numpy() for tensor in tensors]

        def arrived() -> tuple[HostArray | None, ...]:
            self._log.append(f"take {number}")
            return tuple(arrays)

        return arrived


class Session:
    """Three scale frames together, then one by one; the pose says which frame it was."""

    interval = 1
    bfloat16_from: int | None = None

    def __init__(self, log: list[str], again: int | None = None) -> None:
        self.seen = 0
        self.log = log
        self.again = again
        self.unsettled: FrameOutput | None = None

    def step(self, image: Tensor) -> tuple[FrameOutput, ...]:
        self.log.append(f"step {self.seen}")
        self.seen += 1
        if self.seen < 3:
            return ()
        outputs = tuple(self._output(i) for i in ((0, 1, 2) if self.seen == 3 else (self.seen - 1,)))
        self.unsettled = outputs[-1]
        return outputs

    def finish(self) -> tuple[FrameOutput, ...]:
        return tuple(self._output(i) for i in range(self.seen)) if self.seen < 3 else ()

    def settle(self) -> bool:
        """The last frame that was given is computed again, in place, where it is to be."""
        again = self.unsettled is not None and self.unsettled.index == self.again
        if self.unsettled is not None and again:
            self.unsettled.depth.neg_()
        self.unsettled = None
        return again

    def used_bytes(self) -> dict[str, int]:
        return {"anchor": self.seen}

    def allocated_bytes(self) -> int:
        return 10 * self.seen

    def _output(self, index: int) -> FrameOutput:
        views = {2: (0.0, 1.2), 4: (0.8, 0.0)}  # of up and down, of left and right
        pose = torch.tensor([index, 0, 0, 0, 0, 0, 1, *views.get(index, (0.8, 1.2))], dtype=torch.float32)
        kind = FrameType.SCALE if index < 3 else FrameType.KEPT if index % 2 else FrameType.UNKEPT
        maps = [torch.full((2, 3), index + more) for more in (0.0, 0.25, 0.75)]
        # Frame 5 has no points: those of its neighbours do not move into their place.
        points, sure = (None, None) if index == 5 else (torch.full((2, 3, 3), index + 0.5), maps[2])
        return FrameOutput(index, kind, pose, maps[0], maps[1], points, sure)


class Tick:
    """A span of as many seconds as spans were begun before it."""

    count = 0

    def __init__(self, device: str) -> None:
        Tick.count += 1
        self._seconds = float(Tick.count)

    def stop(self) -> None: ...

    def seconds(self) -> float:
        return self._seconds


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tick, "count", 0)
    monkeypatch.setattr(stepper_module, "begin_span", Tick)


def frame(index: int) -> Frame:
    return Frame(index, index / 10, np.full((14, 14, 3), index, np.uint8), f"frame {index}")


def stream(in_flight: int, count: int, log: list[str]) -> list[list[Prediction]]:
    """What each step returned, and at the end what the finish did."""
    stepper = Stepper(Session(log), CPU, LateTransfer(in_flight, log))
    return [list(stepper.step(frame(index))) for index in range(count)] + [list(stepper.finish())]


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("in_flight", [0, 1, 2])
def test_predictions_are_the_same_however_many_steps_are_in_flight(in_flight: int) -> None:
    found = [prediction for step in stream(in_flight, 7, []) for prediction in step]
    assert [prediction.index for prediction in found] == list(range(7))
    for index, prediction in enumerate(found):
        assert prediction.camera_to_world is not None
        assert prediction.camera_to_world[0, 3] == index
        assert prediction.depth is not None
        assert (prediction.depth == index).all()
        assert prediction.timestamp == index / 10
        maps = (prediction.depth_confidence, prediction.points, prediction.points_confidence)
        assert [None if found is None else float(found.flat[0]) - index for found in maps] == (
            [0.25, None, None] if index == 5 else [0.25, 0.5, 0.75]
        )
        assert prediction.frame_type == ([FrameType.SCALE] * 3 + [FrameType.KEPT, FrameType.UNKEPT] * 2)[index]
        # Of two rows and three columns; a field of view that collapsed, of either axis, says nothing.
        camera = [[1.5 / np.tan(0.6), 0, 1.5], [0, 1 / np.tan(0.4), 1], [0, 0, 1]]
        if index in (2, 4):
            assert prediction.intrinsics is None
        else:
            np.testing.assert_allclose(prediction.intrinsics, camera, rtol=1e-6)
    # Steps 1, 2, 3 are one pass that its frames share; every later frame has its own.
    costs = [prediction.cost for prediction in found]
    assert [cost.forward_s for cost in costs if cost] == [2, 2, 2, 4, 5, 6, 7]
    # The cache is what it was right after the frame's own step.
    assert [cost.cache_bytes["anchor"] for cost in costs if cost] == [3, 3, 3, 4, 5, 6, 7]
    assert [cost.cache_allocated for cost in costs if cost] == [30, 30, 30, 40, 50, 60, 70]
    assert [cost.device_bytes for cost in costs if cost] == [None] * 7  # of a GPU alone


def test_outputs_are_taken_a_step_later_when_one_is_in_flight() -> None:
    log: list[str] = []
    steps = stream(1, 5, log)
    assert [[prediction.index for prediction in step] for step in steps] == [[], [], [], [0, 1, 2], [3], [4]]
    assert log == ["step 0", "step 1", "step 2", "step 3", "take 1", "step 4", "take 2", "take 3"]
    log.clear()
    steps = stream(0, 4, log)
    assert [[prediction.index for prediction in step] for step in steps] == [[], [], [0, 1, 2], [3], []]
    assert log == ["step 0", "step 1", "step 2", "take 1", "step 3", "take 2"]


@pytest.mark.parametrize("in_flight", [0, 1])
@pytest.mark.parametrize("again", [2, 4, 5])
def test_what_the_session_computes_again_is_fetched_again(in_flight: int, again: int) -> None:
    stepper = Stepper(Session([], again), CPU, LateTransfer(in_flight, []))
    found = list(stepper.drive([*map(frame, range(5)), None, frame(5)]))
    assert [float(prediction.depth[0, 0]) for prediction in found if prediction.depth is not None] == [
        -index if index == again else index for index in range(6)
    ]


@pytest.mark.usefixtures("ticking")
def test_a_stream_shorter_than_its_scale_phase_comes_at_the_end() -> None:
    steps = stream(1, 2, [])
    assert [len(step) for step in steps] == [0, 0, 2]
    # Both steps and the finish that did the work.
    assert [prediction.cost.forward_s for prediction in steps[-1] if prediction.cost] == [3, 3]


@pytest.mark.parametrize(("count", "each"), [(1, 6.0), (2, 3.5), (4, 1.0)])
def test_what_the_session_does_at_the_end_counts_as_its_steps_do(
    monkeypatch: pytest.MonkeyPatch, count: int, each: float
) -> None:
    """A second a step and five at the end, which the frames share that come there."""
    clock = [0.0]

    class Span:
        def __init__(self, device: str) -> None:
            self.begun = self.ended = clock[0]

        def stop(self) -> None:
            self.ended = clock[0]

        def seconds(self) -> float:
            return self.ended - self.begun

    class Slow(Session):
        def step(self, image: Tensor) -> tuple[FrameOutput, ...]:
            clock[0] += 1
            return super().step(image)

        def finish(self) -> tuple[FrameOutput, ...]:
            clock[0] += 5
            return super().finish()

    monkeypatch.setattr(stepper_module, "begin_span", Span)
    found = list(Stepper(Slow([]), CPU, LateTransfer(0, [])).drive(map(frame, range(count))))
    assert [prediction.cost and prediction.cost.forward_s for prediction in found] == [each] * count


def test_the_warm_up_is_a_stream_of_its_own_that_outlives_what_the_device_does_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    begun: list[weakref.ref[Stepper]] = []

    def begin() -> Stepper:
        stepper = Stepper(Session(log), CPU, HostTransfer())
        begun.append(weakref.ref(stepper))
        return stepper

    def wait() -> None:
        log.append(f"waited for, held {[each() is not None for each in begun]}")

    monkeypatch.setattr(timing, "synchroniser", lambda _: wait)
    assert 0 < stepper_module.warm_up(begin, frame(3), 3, CPU) < 60
    steps = [f"step {number}" for number in range(3 + stepper_module.WARM_UP_STEPS)]
    assert log == ["waited for, held []", *steps, "waited for, held [True]"]
    assert [each() for each in begun] == [None]


def test_at_none_all_leaves_that_there_is_and_then_the_stream_is_at_rest() -> None:
    stepper = Stepper(Session([]), CPU, LateTransfer(2, []))
    rested: list[tuple[int, bool]] = []

    def frames() -> Iterator[Frame | None]:
        for asked in (0, 1, None, 2, 3, None, 4):
            yield None if asked is None else frame(asked)
            rested.append((stepper.given, stepper.is_at_rest))

    assert not stepper.is_at_rest, "nothing was given"
    assert [prediction.index for prediction in stepper.drive(frames())] == [0, 1, 2, 3, 4]
    # After two frames the scale phase holds both; after four a None has fetched what was under way.
    assert rested == [(1, False), (2, False), (2, False), (3, False), (4, False), (4, True), (5, False)]


@pytest.mark.parametrize(("device", "overlapped", "in_flight"), [("cuda:1", True, 1), ("cuda:1", False, 0)])
def test_steps_of_a_gpu_overlap_unless_somebody_needs_each_at_once(
    monkeypatch: pytest.MonkeyPatch, device: str, overlapped: bool, in_flight: int
) -> None:
    monkeypatch.setattr(stepper_module, "DeviceTransfer", lambda device, in_flight: (str(device), in_flight))
    assert stepper_module.transfer_for(torch.device(device), overlapped=overlapped) == (device, in_flight)
    assert isinstance(stepper_module.transfer_for(CPU, overlapped=overlapped), HostTransfer)


def test_a_frame_without_an_image_is_named() -> None:
    stepper = Stepper(Session([]), CPU, HostTransfer())
    with pytest.raises(DataError, match=r"walk/7\.png: frame 7 came without its image"):
        stepper.step(Frame(7, 0.7, None, "walk/7.png"))


def test_pixels_are_normalised_as_the_model_wants_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (14, 28, 3), dtype=np.uint8)
    pixels = HostTransfer().upload(image)
    assert pixels.shape == (3, 14, 28)
    np.testing.assert_allclose(pixels.numpy(), image.transpose(2, 0, 1) / 255, atol=1e-7)
