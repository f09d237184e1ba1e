"""What ``external check`` says of poses and depth, held against numbers of the tests' own; no program is run."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError
from lingbot_eval.methods.external_config import ExternalConfig
from lingbot_eval.types import Frame, FrameSequence, Prediction, Trajectory
from lingbot_eval.verification import wrapper as wrapper_module
from lingbot_eval.verification.wrapper import WrapperCheck

FRAMES = 10

Answer = Callable[[Frame], Prediction | None]


@dataclass
class Known:
    """A method in place of the outside one: it answers each frame at once."""

    answer: Answer
    order: Callable[[list[Prediction]], Iterable[Prediction]] = iter
    found: dict[str, Any] = field(default_factory=dict)
    ends_at: int | None = None
    calls: list[str] = field(default_factory=list)
    given: list[Frame] = field(default_factory=list)

    def open(self, sequence: FrameSequence) -> None:
        self.calls.append(f"open {sequence.scene}")

    def warm_up(self, frame: Frame) -> float:
        self.calls.append(f"warm_up {frame.index}")
        return 0.0

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        self.given = list(frames)
        answers = [said for frame in self.given if (said := self.answer(frame)) is not None]
        for number, said in enumerate(self.order(answers)):
            if number == self.ends_at:
                raise DataError("it ended with exit code 3")
            yield said

    def describe(self) -> dict[str, Any]:
        self.calls.append("describe")
        return {"found": self.found} if self.found else {}

    def close(self) -> None:
        self.calls.append("close")


Check = Callable[..., WrapperCheck]


@dataclass
class Kept:
    """A scene whose frames are rendered once for all the tests."""

    scene: str
    kept: list[Frame]
    truth: Trajectory | None

    def frames(self) -> Iterator[Frame]:
        return iter(self.kept)

    def reference(self) -> Trajectory | None:
        return self.truth


@functools.cache
def kept(name: str, options: tuple[tuple[str, Any], ...], scene: str) -> Kept:
    sequence = open_adapter(name, None, dict(options)).open(scene, Selection())
    return Kept(sequence.scene, list(sequence.frames()), sequence.reference())


@dataclass
class Adapter:
    name: str
    options: dict[str, Any]

    def open(self, scene: str, selection: Selection) -> Kept:
        assert selection == Selection()
        return kept(self.name, tuple(self.options.items()), scene)


@pytest.fixture(autouse=True)
def _rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper_module, "open_adapter", lambda name, root, options: Adapter(name, options))


@functools.cache
def scene() -> Kept:
    """What the check gives a wrapper: ten frames of 224 by 224 pixels, 0.2 m apart."""
    return kept("synthetic", (("frames", FRAMES), ("width", 224), ("height", 224), ("step", 0.2)), "room")


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    def checked(answer: Answer, mode: str = "pipe", **settings: Any) -> WrapperCheck:
        known = Known(answer, **settings)
        monkeypatch.setattr(ExternalConfig, "create", lambda config: known)
        (found,) = lb.check_wrapper([sys.executable], mode=mode, timeout_s=60)  # type: ignore[arg-type]
        return found

    return checked


def pose(frame: Frame, scale: float = 1.0, offset: np.ndarray | None = None) -> np.ndarray:
    assert frame.camera_to_world is not None
    found = np.array(frame.camera_to_world)
    found[:3, 3] = scale * (found[:3, 3] + (0 if offset is None else offset))
    return found


def said(
    scale: float = 1.0,
    depth: Callable[[Frame], np.ndarray | None] = lambda frame: None,
    offset: Callable[[int], np.ndarray] = lambda index: np.zeros(3),
) -> Answer:
    return lambda frame: Prediction(
        frame.index, frame.timestamp, pose(frame, scale, offset(frame.index)), depth=depth(frame)
    )


def true_depth(frame: Frame, times: float = 1.0) -> np.ndarray:
    assert frame.depth is not None
    return (times * frame.depth).astype(np.float32)


def positions() -> np.ndarray:
    truth = scene().truth
    assert truth is not None
    return truth.camera_to_world[:, :3, 3]


def share_left(truth: np.ndarray, guess: np.ndarray) -> float:
    """By the closed form of what the best Sim(3) leaves: no alignment is computed."""
    truth, guess = truth - truth.mean(axis=0), guess - guess.mean(axis=0)
    turn = guess.T @ truth
    values = np.linalg.svd(turn, compute_uv=False)
    if np.linalg.det(turn) < 0:
        values[-1] *= -1
    return float(np.sqrt(1 - values.sum() ** 2 / ((truth**2).sum() * (guess**2).sum())))


def wobble(size: float) -> np.ndarray:
    return size * np.random.default_rng(3).normal(size=(FRAMES, 3))


def test_ten_frames_of_a_path_of_two_metres_are_given_at_one_size(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(said())
    monkeypatch.setattr(ExternalConfig, "create", lambda config: known)
    (found,) = lb.check_wrapper([sys.executable], mode="job", timeout_s=60)
    assert known.calls == ["open room", "warm_up 0", "describe", "close"]
    assert [frame.index for frame in known.given] == list(range(FRAMES))
    assert {frame.image.shape for frame in known.given if frame.image is not None} == {(224, 224, 3)}
    walked = np.linalg.norm(np.diff([pose(frame)[:3, 3] for frame in known.given], axis=0), axis=1)
    assert walked == pytest.approx(0.2, rel=0.2)
    assert found == WrapperCheck(
        "job",
        10,
        10,
        (),
        (
            "poses are 0.0 % of the path off after alignment",
            "one metre is 1 of the poses' units; a scale of the method's own is fine",
        ),
        (),
    )


@pytest.mark.parametrize("scale", [0.3, 1.0, 40.0])
@pytest.mark.parametrize("size", [0.02, 0.05])
def test_what_an_alignment_leaves_is_a_share_of_the_path(check: Check, size: float, scale: float) -> None:
    truth, moved = positions(), wobble(size)
    spread = float(np.sqrt(((truth - truth.mean(axis=0)) ** 2).sum(axis=1).mean()))
    assert abs(spread - 1) > 0.3  # metres and the share are two numbers
    share = share_left(truth, truth + moved)
    found = check(said(scale, offset=lambda index: moved[index]))
    assert found.problems == ()
    assert found.notes[0] == f"poses are {100 * share:.1f} % of the path off after alignment"
    # The scale that fits best takes what is off as smaller than it is: it is that of guess into truth.
    centred, guess = truth - truth.mean(axis=0), scale * (truth + moved)
    guess = guess - guess.mean(axis=0)
    into_truth = np.linalg.svd(guess.T @ centred, compute_uv=False).sum() / (guess**2).sum()
    assert found.notes[1].startswith(f"one metre is {1 / into_truth:.4g} of the poses' units; ")


@pytest.mark.parametrize(("share", "tells"), [(0.19, True), (0.21, False)])
def test_a_fifth_of_the_path_may_be_left(check: Check, share: float, tells: bool) -> None:
    truth, one = positions(), wobble(1.0)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if share_left(truth, truth + middle * one) < share else (low, middle)
    # Depth in a scale of its own is a fault only where the poses' scale is known.
    found = check(said(2.0, lambda frame: true_depth(frame, 20), lambda index: low * one[index]))
    if tells:
        assert found.problems[0].startswith("depth is ")
        assert found.notes == ()
    else:
        words = "poses are off by 21 % of the path after alignment: what they mean cannot be told"
        assert (found.problems, found.notes) == ((), (words,))


@pytest.mark.parametrize(
    ("scale", "unit"),
    [
        (1000.0, "millimetres"),
        (1090.0, "millimetres"),
        (920.0, "millimetres"),
        (1110.0, None),
        (900.0, None),
        (100.0, "centimetres"),
        (109.0, "centimetres"),
        (92.0, "centimetres"),
        (112.0, None),
        (0.001, "kilometres"),
        (0.00109, "kilometres"),
        (0.0009, None),
        (0.01, None),
        (10.0, None),
    ],
)
def test_a_unit_is_named_within_a_tenth(check: Check, scale: float, unit: str | None) -> None:
    found = check(said(scale))
    if unit is None:
        assert found.problems == ()
        assert found.notes[1] == f"one metre is {scale:.4g} of the poses' units; a scale of the method's own is fine"
    else:
        line = f"positions look like {unit} ({scale:.4g} times the metres); give metres, or a scale of your own"
        assert (found.problems, found.notes) == ((line,), ())


@pytest.mark.parametrize(("step", "shape"), [(0.0, "in one point"), (0.25, "on one line")])
def test_poses_that_cannot_be_aligned_tell_nothing(check: Check, step: float, shape: str) -> None:
    def said_of(frame: Frame) -> Prediction:
        matrix = np.eye(4)
        matrix[0, 3] = step * frame.index
        return Prediction(frame.index, frame.timestamp, matrix)

    found = check(said_of)
    (line,) = (*found.problems, *found.notes)
    assert line.startswith("poses cannot be aligned with the true ones: degenerate covariance")
    assert f"lie {shape}, " in line
    assert line.endswith(": what they mean cannot be told")


def test_poses_the_other_way_round_are_turned_in_the_wrapper(check: Check) -> None:
    """What a score would have to be told instead is left out; the depth of such poses is looked at as well."""
    upside_down = check(
        lambda frame: Prediction(
            frame.index, frame.timestamp, np.linalg.inv(pose(frame)), depth=1 / true_depth(frame, 3)
        )
    )
    first, second = upside_down.problems
    assert first.startswith("the poses look inverse (world-to-camera)")
    assert first.endswith("; turn them in the wrapper")
    assert "--est-" not in first
    assert second == "depth falls where the truth grows: it looks like inverse depth (disparity); give depth along z"
    assert upside_down.notes == ()


def noise(frame: Frame, size: float) -> np.ndarray:
    """Of each pixel a number of its own, the same in each run."""
    return size * np.random.default_rng(frame.index).normal(size=(224, 224))


def ray(frame: Frame) -> np.ndarray:
    assert frame.intrinsics is not None
    (fx, _, cx), (_, fy, cy), _ = frame.intrinsics
    rows, columns = np.indices((224, 224))
    return np.sqrt(1 + ((columns - cx) / fx) ** 2 + ((rows - cy) / fy) ** 2)


def along_ray(frame: Frame, share: float) -> np.ndarray:
    """Distances that are off so far that the spread along the ray is ``share`` of that along z."""
    spread = float(np.log(ray(frame)).std())
    size = spread * share / np.sqrt(1 - share**2)
    return true_depth(frame) * ray(frame) * np.exp(noise(frame, size))


def falling(frame: Frame, correlation: float) -> np.ndarray:
    """Depth whose logarithm has so much of a correlation with that of the truth."""
    logs = np.log(true_depth(frame).astype(np.float64))
    size = float(np.sqrt(1 / correlation**2 - 1))
    mean, spread = true_logs()
    return np.exp(-(logs - mean) / spread + noise(frame, size))


@functools.cache
def true_logs() -> tuple[float, float]:
    """Mean and spread of the logarithm of all true depths."""
    logs = np.log(np.stack([true_depth(frame) for frame in scene().kept]).astype(np.float64))
    return float(logs.mean()), float(logs.std())


FALLS = "depth falls where the truth grows: it looks like inverse depth (disparity); give depth along z"
IS_A_RAY = "depth looks like the distance along the ray; give depth along z, the camera's third coordinate"
IS_NOTHING = "depth is 0 everywhere; leave it out where the method has none"


def with_holes(frame: Frame, of: np.ndarray) -> np.ndarray:
    of[: frame.index * 20] = 0
    return of


def far_in_places(frame: Frame) -> np.ndarray:
    """A third of the pixels is far off: the median is not."""
    found = true_depth(frame, 2)
    found[::3] *= 50
    return found


@pytest.mark.parametrize(
    ("depth", "problem"),
    [
        (lambda frame: true_depth(frame, 2), None),
        (lambda frame: true_depth(frame, 2.98), None),
        (lambda frame: true_depth(frame, 1.35), None),
        (lambda frame: true_depth(frame, 3.06), "depth is 1.53 times the scale of the poses; give both in one scale"),
        (lambda frame: true_depth(frame, 1.3), "depth is 0.65 times the scale of the poses; give both in one scale"),
        (
            lambda frame: true_depth(frame, 100),
            "depth is 50 times the scale of the poses and looks like centimetres; give both in one scale",
        ),
        (
            lambda frame: true_depth(frame, 0.001),
            "depth is 0.0005 times the scale of the poses and looks like kilometres; give both in one scale",
        ),
        (
            lambda frame: with_holes(frame, true_depth(frame, 100)) if frame.index == 9 else None,
            "depth is 50 times the scale of the poses and looks like centimetres; give both in one scale",
        ),
        (far_in_places, None),
        (lambda frame: np.zeros((224, 224), np.float32), IS_NOTHING),
        (lambda frame: np.full((224, 224), 2 * np.exp(true_logs()[0]), np.float32), None),
        (lambda frame: 2 / true_depth(frame), FALLS),
        (lambda frame: falling(frame, 0.53), FALLS),
        (lambda frame: true_depth(frame, 2) * ray(frame), IS_A_RAY),
        (lambda frame: along_ray(frame, 0.30), IS_A_RAY),
        (lambda frame: 2 * along_ray(frame, 0.36), None),
    ],
)
def test_what_depth_looks_like(check: Check, depth: Callable[[Frame], Any], problem: str | None) -> None:
    """Of poses in halves of a metre."""
    found = check(said(2.0, lambda frame: None if (d := depth(frame)) is None else d.astype(np.float32)))
    assert found.problems == (() if problem is None else (problem,))
    assert bool(found.notes) == (problem is None)


def test_depth_that_hardly_falls_is_no_inverse(check: Check) -> None:
    found = check(said(2.0, lambda frame: falling(frame, 0.46).astype(np.float32)))
    assert all("inverse depth" not in problem for problem in found.problems)


def test_a_unit_of_positions_comes_before_their_depth(check: Check) -> None:
    found = check(said(1000, lambda frame: true_depth(frame, 1)))
    assert [problem.partition(" (")[0] for problem in found.problems] == [
        "positions look like millimetres",
        "depth is 0.001 times the scale of the poses; give both in one scale",
    ]


def test_frames_without_a_pose_are_counted_and_named(check: Check) -> None:
    answer = said()
    found = check(lambda frame: None if frame.index in (2, 3, 7) else answer(frame))
    line = (
        "3 of 10 frames have no pose: 2, 3, 7; answer each frame of which the method has one, at the latest in finish"
    )
    assert (found.frames, found.poses, found.problems, found.notes) == (10, 7, (line,), ())


@pytest.mark.parametrize("order", ["5678901234", "0123465789", "1023456789", "0123456798"])
def test_poses_out_of_order_are_named_as_they_came(check: Check, order: str) -> None:
    """What they mean is told of the right frames all the same."""
    found = check(said(1000), order=lambda answers: [answers[int(index)] for index in order])
    first, second = found.problems
    assert first == f"poses must come in frame order, found {', '.join(order)}; sort them"
    assert second.startswith("positions look like millimetres (1000 times the metres)")


def test_one_pose_says_nothing_of_geometry(check: Check) -> None:
    answer = said(1000)
    found = check(lambda frame: answer(frame) if frame.index == 4 else None)
    (line,) = found.problems
    assert line.startswith("9 of 10 frames have no pose: 0, 1, 2, 3, 5, 6, 7, 8, 9; ")
    assert found.poses == 1


@pytest.mark.parametrize("left", [1, 2])
def test_a_program_that_ends_early_says_why_and_how_far_it_came(check: Check, left: int) -> None:
    """That frames are missing is no news then; what their poses mean still is."""
    found = check(said(1000), ends_at=8, found={"left_running": left, "log_tail": ["first", "last"]})
    assert found.poses == 8
    assert found.problems == (
        "it ended with exit code 3",
        f"processes that ran on after the program had ended: {left}",
        "positions look like millimetres (1000 times the metres); give metres, or a scale of your own",
    )
    assert (found.notes, found.log) == ((), ("first", "last"))


@dataclass
class Stops(Known):
    """It goes no further than its warm-up."""

    error: BaseException = field(default_factory=KeyboardInterrupt)

    def warm_up(self, frame: Frame) -> float:
        raise self.error


def test_a_program_that_does_not_start_has_that_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Stops(said(), error=DataError("it ended in its warm-up"), found={"log_tail": ["why"]})
    monkeypatch.setattr(ExternalConfig, "create", lambda config: known)
    (found,) = lb.check_wrapper([sys.executable], mode="pipe", timeout_s=60)
    assert found == WrapperCheck("pipe", 10, 0, ("it ended in its warm-up",), (), ("why",))
    assert known.calls == ["open room", "describe", "close"]


def test_a_check_that_is_broken_off_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Stops(said())
    monkeypatch.setattr(ExternalConfig, "create", lambda config: known)
    with pytest.raises(KeyboardInterrupt):
        list(lb.check_wrapper([sys.executable], mode="pipe", timeout_s=60))
    assert known.calls == ["open room", "close"]


CHECKS = (
    WrapperCheck("pipe", 10, 9, ("first", "second"), (), tuple(f"line {number}" for number in range(12))),
    WrapperCheck("job", 11, 11, (), ("poses are fine", "as are scales"), ("quiet",)),
)


@pytest.mark.parametrize(("checks", "code"), [(CHECKS, 1), (CHECKS[::-1], 1), (CHECKS[1:], 0)])
def test_every_line_that_the_command_prints(
    checks: tuple[WrapperCheck, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[Any, ...]] = []

    def check_wrapper(command: Any, modes: Any, timeout_s: float) -> Iterator[WrapperCheck]:
        asked.append((command, modes, timeout_s))
        return iter(checks)

    monkeypatch.setattr(wrapper_module, "check_wrapper", check_wrapper)
    lines = {
        "pipe": [
            "pipe: PROBLEMS: 9 of 10 frames have a pose",
            "  PROBLEM first",
            "  PROBLEM second",
            "  its log ends:",
            *(f"    line {number}" for number in range(2, 12)),
        ],
        "job": [
            "job: fine: 11 of 11 frames have a pose",
            "          poses are fine",
            "          as are scales",
        ],
    }
    assert main(["external", "check", "--timeout", "7", "--mode", "job", "--", "prog", "--size", "3"]) == code
    assert capsys.readouterr().out.splitlines() == [line for check in checks for line in lines[check.mode]]
    assert main(["external", "check", "prog", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == ["prog"]
    assert [list(each) for each in document["checks"]] == [
        ["mode", "frames", "poses", "problems", "notes", "log"] for _ in checks
    ]
    assert [each["problems"] for each in document["checks"]] == [list(check.problems) for check in checks]
    assert asked == [(["prog", "--size", "3"], ("job",), 7.0), (["prog"], ("pipe", "job"), 600.0)]
