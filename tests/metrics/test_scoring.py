"""``score`` as users call it: two files or two trajectories in, measurements by name out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.geometry.poses import inverse, pose_matrix
from lingbot_eval.types import Trajectory


def walk(count: int = 30) -> Trajectory:
    rng = np.random.default_rng(0)
    turns = Rotation.from_rotvec(np.cumsum(0.1 * rng.normal(size=(count, 3)), axis=0)).as_matrix()
    indices = np.arange(count)
    return Trajectory(indices, indices * 0.1, pose_matrix(turns, np.cumsum(rng.normal(size=(count, 3)), axis=0)))


def scaled(trajectory: Trajectory, factor: float) -> Trajectory:
    poses = trajectory.camera_to_world.copy()
    poses[:, :3, 3] *= factor
    return Trajectory(trajectory.indices, trajectory.timestamps, poses)


def test_measurements_by_name() -> None:
    truth = walk()
    found = lb.score(truth, scaled(truth, 0.5), align="none")
    expected = np.sqrt(np.mean(np.sum((0.5 * truth.positions) ** 2, axis=1)))
    assert found["ate_rmse"].value == pytest.approx(expected)
    assert found["ate_rmse"].variant == "none"
    assert "without alignment" in found["ate_rmse"].convention
    assert found["ate_rmse", "sim3"].value == pytest.approx(0, abs=1e-9)
    assert found["scale"].value == pytest.approx(2), "where an alignment has no part in it, Sim(3)'s"
    assert found["auc_30"].value == pytest.approx(100)
    assert found["rpe_rotation_rmse", "10 frames"].value == pytest.approx(0, abs=1e-6)
    assert found.notes == ()
    with pytest.raises(KeyError, match="'ate_rmse'"):
        found["ate_rsme"]
    with pytest.raises(KeyError, match="'none'"):
        found["ate_rmse", "sim4"]


def test_files_are_paired_and_are_what_the_command_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = walk()
    write_tum(tmp_path / "gt.txt", truth)
    half = scaled(truth, 0.5)
    estimate = Trajectory(half.indices[::2], half.timestamps[::2] + 0.004, half.camera_to_world[::2])
    write_tum(tmp_path / "est.txt", estimate)
    paths = tmp_path / "gt.txt", tmp_path / "est.txt"
    found = lb.score(*(lb.read_trajectory(path) for path in paths), align="se3")
    assert found.pairing is not None
    assert found.pairing.matched == 15
    assert found["coverage", "matched"].value == 100
    words = ["--gt", str(paths[0]), "--est", str(paths[1]), "--align", "se3", "--json"]
    assert main(["score", *words]) == 0
    printed = json.loads(capsys.readouterr().out)["measurements"]
    assert [(m["name"], m["variant"], m["value"]) for m in printed] == [
        (m.name, m.variant, m.value) for m in found.measurements
    ]
    table = found.to_pandas()
    assert len(table) == len(printed)
    row = table[(table["name"] == "ate_rmse") & (table["variant"] == "se3")].iloc[0]
    assert row["value"] == found["ate_rmse"].value
    assert row["samples"] == 15


def test_poses_are_read_as_they_are_told(tmp_path: Path) -> None:
    truth = walk()
    write_tum(tmp_path / "gt.txt", truth)
    write_tum(tmp_path / "est.txt", Trajectory(truth.indices, truth.timestamps, inverse(truth.camera_to_world)))
    reference, estimate = (lb.read_trajectory(tmp_path / f"{name}.txt") for name in ("gt", "est"))
    (note,) = lb.score(reference, estimate).notes
    assert "world-to-camera" in note
    read = lb.PoseReading(poses="world-to-camera").of(estimate, estimate.format)
    found = lb.score(reference, read)
    assert found.notes == ()
    assert found["ate_rmse", "none"].value == pytest.approx(0, abs=1e-9)


def test_families_and_progress() -> None:
    truth = walk(12)
    seen: list[tuple[int, int]] = []
    found = lb.score(truth, truth, without=["drift"], progress=lambda *counts: seen.append(counts))
    assert {m.family for m in found.measurements} == {"trajectory", "auc"}
    assert seen[-1] == (132, 132)
    assert lb.score(truth, truth, without=["trajectory", "auc"])["segment_translation"].variant == "sim3"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"align": "sim2"}, "align: expected one of sim3, se3, anchor, none, found 'sim2'"),
        ({"without": ["depth"]}, "without: expected some of trajectory, drift, auc"),
        ({"max_difference": -1}, "max_difference"),
        ({"anchor_frames": 2}, "anchor_frames"),
    ],
)
def test_arguments_without_meaning_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        lb.score(walk(), walk(), **wrong)  # type: ignore[arg-type]
