"""``external check``: what is wrong with a wrapper, in lines that say what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from guests import WRAPPER

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.methods.external_config import ExternalConfig
from lingbot_eval.verification import wrapper as wrapper_module
from lingbot_eval.verification.wrapper import OPTIONS, SCENE, Mode, WrapperCheck


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Poses and depth of the check's own scene, for wrappers that know the answer."""
    folder = tmp_path_factory.mktemp("known")
    frames = list(lb.open_dataset("synthetic", **OPTIONS).scene(SCENE))
    poses = [frame.camera_to_world.tolist() for frame in frames if frame.camera_to_world is not None]
    (folder / "truth.json").write_text(json.dumps(poses))
    np.save(folder / "depth.npy", np.stack([frame.depth for frame in frames if frame.depth is not None]))
    return {
        "TRUTH": str(folder / "truth.json"),
        "OUTSIDE": str(folder / "truth.json"),
        "DEPTH": str(folder / "depth.npy"),
        "PYTHONPATH": str(Path(lb.__file__).parents[1]),
    }


@pytest.fixture
def environment(known: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in known.items():
        monkeypatch.setenv(name, value)


def checked(fault: str, mode: Mode = "pipe") -> WrapperCheck:
    (check,) = lb.check_wrapper([sys.executable, str(WRAPPER), fault], mode=mode, timeout_s=60)
    return check


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("mode", ["pipe", "job"])
@pytest.mark.parametrize("fault", ["none", "depth_true"])
def test_nothing_is_wrong_with_a_wrapper_that_knows(fault: str, mode: Mode) -> None:
    check = checked(fault, mode)
    assert (check.problems, check.poses) == ((), OPTIONS["frames"])
    assert "one metre is 1 of the poses' units; a scale of the method's own is fine" in check.notes


PROBLEMS: list[tuple[str, Mode, str]] = [
    ("inverse", "pipe", "the poses look inverse (world-to-camera)"),
    ("inverse", "job", "the poses look inverse (world-to-camera)"),
    ("millimetres", "pipe", "positions look like millimetres (1000 times the metres)"),
    ("missing", "pipe", "2 of 10 frames have no pose: 2, 7"),
    ("missing", "job", "2 of 10 frames have no pose: 2, 7"),
    ("times", "job", "line 1 has the time 0.500000 s, which no frame has"),
    ("nan", "pipe", "frame 4: expected a camera-to-world pose: it is not finite"),
    ("nan_file", "job", "are not finite"),
    ("scaled", "pipe", "R^T R deviates from the identity"),
    ("scaled", "job", "the pose is no rigid motion"),
    ("protocol", "pipe", "expected ready with protocol 1, found"),
    ("job_protocol", "job", "expected protocol 1, found 99"),
    ("dies", "pipe", "it ended with exit code 3"),
    ("depth_millimetres", "pipe", "depth is 1000 times the scale of the poses and looks like millimetres"),
    ("depth_inverse", "pipe", "it looks like inverse depth (disparity)"),
    ("depth_ray", "pipe", "depth looks like the distance along the ray"),
    ("children", "pipe", "processes that ran on after the program had ended: 3"),
]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("fault", "mode", "words"), PROBLEMS)
def test_what_is_wrong_is_said(fault: str, mode: Mode, words: str) -> None:
    check = checked(fault, mode)
    assert any(words in problem for problem in check.problems), check.problems
    assert check.notes == ()  # what its poses may mean is said of a wrapper that is right alone
    assert all("\n" not in problem for problem in check.problems)


@pytest.mark.usefixtures("environment")
def test_the_command_prints_both_ways_and_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["external", "check", "--", sys.executable, "-B", str(WRAPPER), "none"]) == 0
    said = capsys.readouterr().out
    assert "pipe: fine: 10 of 10 frames have a pose" in said
    assert "job: fine: 10 of 10 frames have a pose" in said
    words = ["external", "check", sys.executable, str(WRAPPER), "dies", "--mode", "pipe"]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "PROBLEM no answer to frame 4" in said
    assert "    about to give up" in said
    assert main([*words, "--json"]) == 1
    (check,) = json.loads(capsys.readouterr().out)["checks"]
    assert check["mode"] == "pipe"
    assert check["problems"][0].startswith("no answer to frame 4")


def test_a_wrapper_is_run_in_every_way_with_the_time_that_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a frame as well: its first one may compile."""
    asked: list[tuple[str, tuple[str, ...], float, float]] = []

    def checked(config: ExternalConfig) -> str:
        asked.append((config.mode, tuple(config.command), config.timeout_s, config.frame_timeout_s))
        return config.mode

    monkeypatch.setattr(wrapper_module, "_checked", checked)
    words = [sys.executable, "it.py"]
    assert list(lb.check_wrapper(words, timeout_s=7)) == ["pipe", "job"]
    assert list(lb.check_wrapper(words, mode="job")) == ["job"]
    assert [(mode, *limits) for mode, _, *limits in asked] == [("pipe", 7, 7), ("job", 7, 7), ("job", 600, 600)]
    assert {command[1:] for _, command, *_ in asked} == {("it.py",)}


def test_a_program_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["external", "check", "no-such-program-here"]) == 2
    assert "no program 'no-such-program-here' that can be run" in capsys.readouterr().err


def test_poses_that_nothing_explains_are_no_fault_of_the_wrapper() -> None:
    """A method may be bad; what its poses mean is then not to be told from ten frames."""
    code = (
        "import math\nfrom lingbot_eval.external import Pose, Wrapper, serve\n"
        "class W(Wrapper):\n"
        "    def step(self, frame):\n"
        "        x, y = math.sin(7.0 * frame.index), math.cos(5.0 * frame.index)\n"
        "        return Pose(frame.index, [[1, 0, 0, x], [0, 1, 0, y], [0, 0, 1, 0.1], [0, 0, 0, 1]])\n"
        "serve(W())\n"
    )
    (check,) = lb.check_wrapper([sys.executable, "-c", code], mode="pipe", timeout_s=60)
    assert check.problems == ()
    assert "what they mean cannot be told" in check.notes[0]
