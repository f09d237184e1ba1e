"""A note on what saved poses mean goes from the scores to every place where somebody reads the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from lingbot_eval.cli.main import main
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Trajectory

FRAMES = 24
SIZE = {"frames": FRAMES, "width": 56, "height": 42}
NOTE = "the poses look inverse (world-to-camera): read so, ATE would be"
PLACE = "synthetic/room with saved"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A replay of the inverse of the true poses."""
    reference = open_adapter("synthetic", None, SIZE).open("room", Selection()).reference()
    assert reference is not None
    turned = Trajectory(reference.indices, reference.timestamps, inverse(reference.camera_to_world))
    write_tum(tmp_path / "room.txt", turned)
    document = {
        "name": "tiny",
        "datasets": [
            {
                "name": "synthetic",
                "scenes": ["room"],
                "options": SIZE,
                "size": {"mode": "exact", "width": 56, "height": 42},
            }
        ],
        "methods": [{"kind": "replay", "name": "saved", "trajectory": f"{tmp_path}/{{scene}}.txt"}],
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def run(experiment: Path, *more: str) -> Path:
    out = experiment.parent / f"runs{len(more)}"
    assert main(["run", str(experiment), "--out", str(out), *more]) == 0
    (folder,) = out.iterdir()
    return folder


def test_from_the_scores_to_run_report_and_gate(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(experiment)
    said = capsys.readouterr()
    assert f"note: {PLACE}: {NOTE}" in said.err
    assert f"    note: {NOTE}" in said.out
    assert "coverage 100 %" in said.out
    (unit,) = RunStore.open(folder).read_units().units
    (note,) = unit.record.notes
    assert note.startswith(NOTE)
    assert "(for saved poses in an experiment, poses: world-to-camera)" in note
    for page in ("report.md", "report.html"):
        text = (folder / "report" / page).read_text(encoding="utf-8")
        assert "the poses look inverse" in text
        assert "poses: world-to-camera" in text

    assert main(["report", str(folder)]) == 0
    assert f"note: synthetic / room · saved: {NOTE}" in capsys.readouterr().out
    assert main(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [f"synthetic / room · saved: {note}"]

    baseline = str(experiment.parent / "baseline.yaml")
    assert main(["gate", str(folder), "--baseline", baseline, "--update", "--reason", "first"]) == 0
    capsys.readouterr()
    assert main(["gate", str(folder), "--baseline", baseline, "--json"]) == 0
    assert f"synthetic/room/saved: {note}" in json.loads(capsys.readouterr().out)["notes"]
    assert main(["gate", str(folder), "--baseline", baseline]) == 0
    assert "the poses look inverse" in capsys.readouterr().out


def test_the_setting_that_it_names_reads_the_poses_so(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(experiment, "--set", "methods.0.poses=world-to-camera", "--json")
    (unit,) = json.loads(capsys.readouterr().out)["units"]
    assert unit["notes"] == []
    measured = {(m["name"], m["variant"]): m["value"] for m in unit["measurements"]}
    assert measured["ate_rmse", "none"] == pytest.approx(0, abs=1e-9)
    assert measured["auc_30", ""] == pytest.approx(100)
    assert unit["method_facts"]["poses"] == "world-to-camera"
    assert "the poses look" not in (folder / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"poses": "camera"}, "methods.0.poses"),
        ({"to_camera": [1, 2, 3]}, "expected opengl, 7 numbers"),
        ({"quaternion": "wxy"}, "methods.0.quaternion"),
    ],
)
def test_wrong_settings_are_one_line(
    experiment: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], problem: str
) -> None:
    document = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    document["methods"][0] |= settings
    experiment.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert main(["run", str(experiment), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


def test_a_scene_of_few_poses_says_so(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.loadtxt(experiment.parent / "room.txt")
    np.savetxt(experiment.parent / "room.txt", rows[:5])
    folder = run(experiment, "--no-report")
    (unit,) = RunStore.open(folder).read_units().units
    assert unit.record.notes[:2] == [
        f"few poses match: 5 of 5 estimated and {FRAMES} reference poses are scored, and every number rests on these"
        " alone",
        f"few frames have a pose: 5 of {FRAMES}; the numbers say nothing of the others",
    ]
    said = capsys.readouterr()
    assert f"coverage {100 * 5 / FRAMES:.4g} %" in said.out
    assert f"[1/1] synthetic/room/saved: 5 of {FRAMES} frames in " in said.err


@pytest.mark.parametrize("columns", [4, 8])
def test_positions_alone_are_scored_as_positions(
    experiment: Path, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    """A replay without orientation: positions are right, nothing that rests on rotations has a number or a curve."""
    path = experiment.parent / "room.txt"
    reference = open_adapter("synthetic", None, SIZE).open("room", Selection()).reference()
    assert reference is not None
    write_tum(path, reference)
    rows = np.loadtxt(path)
    rows[:, 4:] = [0, 0, 0, 1]
    np.savetxt(path, rows[:, :columns])
    folder = run(experiment)
    (unit,) = RunStore.open(folder).read_units().units
    measured = {(m.name, m.variant): m for m in unit.record.measurements}
    assert measured["ate_rmse", "sim3"].value == pytest.approx(0, abs=1e-9)
    for name in (("rpe_rotation_rmse", "sim3"), ("auc_30", ""), ("segment_translation", "none"), ("jumps", "sim3")):
        assert "orientation" in (measured[name].reason or "")
    frames = pd.read_csv(unit.folder / "frames.csv")
    assert frames["position_error_m"].notna().all()
    assert frames["rotation_error_deg"].isna().all()
    capsys.readouterr()
    plot = experiment.parent / "drift.png"
    words = ["--gt", str(unit.folder / "reference.tum"), "--est", str(path), "--drift-plot", str(plot)]
    assert main(["score", *words]) == 0
    assert plot.is_file()
