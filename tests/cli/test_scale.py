"""``lingbot-eval scale``: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lingbot_eval.cli.main import main
from lingbot_eval.methods import model

SMALL = [
    word
    for setting in (
        "cases.0.frames=20",
        "defaults.size=[56, 42]",
        "defaults.backend=sdpa",
        "device=cpu",
        "input={kind: noise, pool: 4}",
    )
    for word in ("--set", setting)
]


def test_a_small_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["scale", *SMALL, "--out", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (case,) = document["cases"]
    assert document["status"] == "complete"
    assert (case["status"], case["predictions"]) == ("ok", 20)
    assert all(Path(file).is_file() for file in document["files"])
    assert Path(document["run"]).parent == tmp_path

    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "done before" in printed.err
    assert "Growth a kept frame" in printed.out
    assert "a slope needs" in printed.out or "the window never filled" in printed.out


# Of 20 frames 8 are scale frames; of the 12 after them every first, every third is kept.
@pytest.mark.parametrize(("interval", "kept"), [(1, 20), (3, 12)])
def test_a_dry_run_predicts_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], interval: int, kept: int
) -> None:
    words = ["scale", *SMALL, "--set", f"cases.0.keyframe_interval={interval}", "--out", str(tmp_path / "runs")]
    assert main([*words, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (predicted,) = document["predicted"]
    assert (document["name"], predicted["unit"][0], predicted["unit"][2]) == ("scaling", "scaling", "ci")
    assert (predicted["size"], predicted["reason"]) == ([56, 42], None)
    estimate = predicted["estimate"]
    assert (estimate["frames"], estimate["kept"], estimate["interval"]) == (20, kept, interval)
    assert main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scaling: 1 case"
    (row,) = [line.split() for line in lines if "56×42" in line]
    assert (row[:4], row[-1]) == (["20", "56×42", str(interval), str(kept)], "/".join(predicted["unit"]))
    assert not (tmp_path / "runs").exists()


def test_running_out_of_memory_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **settings: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(model, "open_session", full)
    assert main(["scale", *SMALL, "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "out of memory" in printed.err
    assert "1 of 1 cases failed" in printed.err


@pytest.mark.parametrize(
    ("setting", "says"),
    [("sweep.bakend=[sdpa]", "did you mean 'backend'"), ("device=cuda:63", "device cuda:63")],
)
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, says: str) -> None:
    assert main(["scale", *SMALL, "--set", setting, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_study_refused_for_its_weights_leaves_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    words = ["--set", f"model.checkpoint={tmp_path}/w.pt", "--out", str(tmp_path / "runs")]
    assert main(["scale", *SMALL, *words]) == 2
    assert "w.pt: not a checkpoint but a Git LFS pointer" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_scene_too_short_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = "input={kind: dataset, dataset: {name: synthetic, scenes: [room], options: {frames: 9}}}"
    assert main(["scale", *SMALL, "--set", dataset, "--out", str(tmp_path)]) == 2
    assert "has 9 frames, the case wants 20" in capsys.readouterr().err


def test_bad_input_of_one_case_outweighs_other_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two cases one asks for more frames than there are, and the other runs out of memory."""
    whole = model.open_session

    def full(*args: Any, frames: int, **settings: Any) -> Any:
        if frames == 5:
            raise torch.OutOfMemoryError("no room")
        return whole(*args, frames=frames, **settings)

    monkeypatch.setattr(model, "open_session", full)
    dataset = "input={kind: dataset, dataset: {name: synthetic, scenes: [room], options: {frames: 9}}}"
    words = ["--set", dataset, "--set", "cases=[{frames: 20}, {frames: 5}]", "--out", str(tmp_path)]
    assert main(["scale", *SMALL, *words]) == 2
    said = capsys.readouterr().err
    assert "has 9 frames, the case wants 20" in said
    assert "out of memory" in said
    assert "2 of 2 cases failed" in said


def test_a_removed_record_is_said_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["scale", *SMALL, "--out", str(tmp_path)]
    assert main(arguments) == 0
    (record,) = tmp_path.glob("*/scale.json")
    record.unlink()
    capsys.readouterr()
    assert main(arguments) == 1
    assert f"error: {record} was not there beside results" in capsys.readouterr().err
    assert main(arguments) == 0
