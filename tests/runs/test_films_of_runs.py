"""Films of stored runs through the command line: which files, which words, which exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image as Pictures

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.stored.disk import component

SMALL = ["--set", "size=[128,72]", "--set", "frames=[0,-1,4]"]
EXPERIMENT = {
    "name": "filmed",
    "datasets": [
        {
            "name": "synthetic",
            "scenes": ["room", "corridor"],
            "options": {"frames": 9, "width": 56, "height": 42},
            "size": {"mode": "exact", "width": 56, "height": 42},
        }
    ],
    "methods": [
        {"kind": "lingbot", "name": "ours", "model": {"config": "ci", "checkpoint": "shipped"}, "device": "cpu"}
    ],
    "metrics": {"trajectory": {}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lb.run(EXPERIMENT, out=tmp_path_factory.mktemp("runs")).path


def test_each_scene_has_its_film(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av")
    assert main(["render", str(run), "-o", str(tmp_path / "films"), *SMALL, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [Path(file).name for file in document["files"]] == ["synthetic-room-ours.mp4", "synthetic-corridor-ours.mp4"]
    for file in document["files"]:
        with av.open(file) as film:
            assert [frame.width for frame in film.decode(video=0)] == [128] * 3


def test_one_scene_goes_into_one_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = tmp_path / "still.png"
    words = ["render", str(run), "-o", str(still), "--still", "-1"]
    assert main([*words, "--units", "*/room/*", "--settings", "indoor"]) == 0
    with Pictures.open(still) as picture:
        assert picture.size == (1280, 720)
        assert picture.getpixel((1279, 719)) == (43, 43, 43)
    capsys.readouterr()
    assert main(words) == 2
    assert "expected one scene and method for one file, found synthetic/room/ours, synth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "film.gif"], "expected a folder or a name that ends with .mp4, found"),
        (
            ["-o", "film.mp4", "--units", "*/rom/*"],
            "expected a scene with results like '*/rom/*'; there are: synthetic/",
        ),
        (["-o", "films", "--settings", "outdor"], "no film 'outdor' (did you mean 'outdoor'?)"),
        (["-o", "films", "--set", "camera.0.mode=orbt"], "found 'orbt' (did you mean 'orbit'?)"),
        (["-o", "films", "--set", "beside=[depth]"], "see keep.depth"),
        (["-o", "films", "--still", "99"], "expected a frame with a pose within 0 to 8, found 99"),
        (["-o", "film.mp4", "--still", "0"], "expected a folder or a name that ends with .png, found film.mp4"),
        (["-o", "film.png"], "expected a folder or a name that ends with .mp4, found film.png"),
        (["-o", "films", "--still", "99"], "films: nothing could be drawn (left out: synthetic/room/ours: expected a"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    run: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_of_several_runs_one_that_cannot_be_read_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", str(run), str(tmp_path), "-o", str(tmp_path / "films"), "--still", "0"]) == 1
    captured = capsys.readouterr()
    assert f"left out: {tmp_path}: " in captured.err
    assert len(captured.out.splitlines()) == 2
    assert all(Path(line).parent.name == run.name for line in captured.out.splitlines())


def test_pictures_of_several_runs_lie_beside_each_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same scenes and methods in both: each run has a folder of its own name."""
    other = shutil.copytree(run, tmp_path / "the other")
    assert main(["render", str(run), str(other), "-o", str(tmp_path / "films"), "--still", "0", *SMALL, "--json"]) == 0
    files = [Path(file) for file in json.loads(capsys.readouterr().out)["files"]]
    assert len(set(files)) == 4
    assert all(file.is_file() for file in files)
    assert {file.parent.name for file in files} == {run.name, component("the other")}
