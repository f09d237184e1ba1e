"""``score`` as users call it: two files or two trajectories in, measurements by name out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError
from lingbot_eval.files.trajectories import TrajectoryFile, read_trajectory, write_tum
from lingbot_eval.geometry.poses import inverse, pose_matrix
from lingbot_eval.metrics.scoring import PoseScore
from lingbot_eval.types import FloatArray, Trajectory


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
    with pytest.raises(KeyError, match="nothing is called 'ate_rsme'; there is 'ate_rmse'"):
        found["ate_rsme"]
    with pytest.raises(KeyError, match=r"there is 'ate_rmse', .*'segment_translation', .*'auc_30'"):
        found["zzz"]
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
    # Eleven rows of pairs under each of two definitions, one after the other.
    assert [done for done, _ in seen[:3]] == [11, 21, 30]
    assert [done for done, _ in seen[10:13]] == [66, 77, 87]
    assert {pairs for _, pairs in seen} == {132}
    # One name needs no list, and is not read letter by letter.
    assert {m.family for m in lb.score(truth, truth, without="drift").measurements} == {"trajectory", "auc"}
    assert lb.score(truth, truth, without=["trajectory", "auc"])["segment_translation"].variant == "sim3"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"align": "sim2"}, "align: expected one of sim3, se3, anchor, none, found 'sim2'"),
        ({"without": ["depth"]}, "without: expected some of trajectory, drift, auc"),
        ({"max_difference": -1}, "max_difference: expected seconds, 0 or more, found -1"),
        ({"max_difference": float("inf")}, "max_difference: expected seconds, 0 or more, found inf"),
        ({"max_difference": float("nan")}, "max_difference: expected seconds, 0 or more, found nan"),
        ({"anchor_frames": 2}, "anchor_frames"),
    ],
)
def test_arguments_without_meaning_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        lb.score(walk(), walk(), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("gt.txt", r"expected a Trajectory, found str; read_trajectory\(FILE\)"),
        (walk().camera_to_world, "expected a Trajectory, found ndarray"),
        (replace(walk(), indices=np.arange(29)), r"found ndarray of \(29,\), \(30,\), \(30, 4, 4\)"),
        (replace(walk(), camera_to_world=walk().camera_to_world[:, :3]), r"\(30, 3, 4\)"),
        (replace(walk(), camera_to_world=walk().camera_to_world.tolist()), "found list of"),
        (replace(walk(), indices=np.arange(30)[::-1]), "expected indices that rise, found 28 after 29"),
        (replace(walk(), indices=np.arange(30) // 2), "expected indices that rise, found 0 after 0"),
    ],
)
def test_what_is_no_trajectory_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^reference: .*{words}"):
        lb.score(given, walk())
    with pytest.raises(ConfigError, match=f"^estimate: .*{words}"):
        lb.score(walk(), given)


def test_of_trajectories_the_frames_of_the_estimate_are_all_there_are() -> None:
    """Of its 15 poses ten are of frames that the reference has, one of which is lost."""
    truth = walk()
    kept = np.flatnonzero(~np.isin(np.arange(30), [1, 2, 3, 5, 7]))
    reference = Trajectory(truth.indices[kept], truth.timestamps[kept], truth.camera_to_world[kept])
    estimate = Trajectory(truth.indices[:15], truth.timestamps[:15], truth.camera_to_world[:15].copy())
    estimate.camera_to_world[14] = np.nan
    found = lb.score(reference, estimate)
    assert found.pairing is None
    assert found.estimate is None
    assert (found["coverage"].value, found["coverage"].samples) == (pytest.approx(100 * 14 / 15), 15)
    assert (found["matched_frames"].value, found["dropped_frames"].value) == (9, 1)
    assert [found["unmatched_frames", side].value for side in ("no_estimate", "no_reference")] == [15, 5]
    assert (found["ate_rmse"].samples, found["auc_30"].samples) == (9, 36)


def test_arguments_reach_every_family() -> None:
    truth = walk()
    found = lb.score(truth, scaled(truth, 0.5), align="anchor", anchor_frames=5)
    anchored = [m for m in found.measurements if "anchor" in m.variant and not m.name.endswith("95")]
    assert {m.family for m in anchored} == {"trajectory", "drift"}
    for measured in anchored:
        assert "first 5 matched frames" in measured.convention, measured.name
    assert found.align == "anchor"
    # Intervals come under the first alignment, and always under Sim(3).
    intervals = {m.variant for m in found.measurements if m.name == "rpe_translation_low95"}
    assert {"1 frames", "1 frames anchor"} <= intervals
    assert "1 frames none" not in intervals
    (auc,) = [m for m in found.measurements if m.name == "auc_30"]
    assert auc.value == pytest.approx(100)


def file_of(folder: Path, name: str, times: FloatArray, poses: FloatArray, **read: float) -> TrajectoryFile:
    write_tum(folder / name, Trajectory(np.arange(len(times)), times, poses))
    return read_trajectory(folder / name, **read)  # type: ignore[arg-type]


def path_at(times: FloatArray) -> FloatArray:
    """A path that never repeats itself, looking along its way; metres and seconds."""
    positions = np.stack([4 * np.sin(times), 3 * np.sin(1.7 * times + 1), 2 * np.cos(0.6 * times)], axis=1)
    turns = Rotation.from_rotvec(np.stack([0.3 * np.sin(times), 0.5 * times, 0.2 * np.cos(times)], axis=1))
    return pose_matrix(turns.as_matrix(), positions)


TIMES = 0.1 * np.arange(100)


def of_files(folder: Path, own: FloatArray, real: FloatArray, noise: float = 0.0, **read: float) -> PoseScore:
    """own: the estimate's stamps. real: when its poses were taken."""
    poses = path_at(real)
    poses[:, :3, 3] += noise * np.random.default_rng(0).normal(size=(len(poses), 3))
    return lb.score(
        file_of(folder, "gt.txt", TIMES, path_at(TIMES)),
        file_of(folder, "est.txt", own, poses, **read),
        max_difference=0.02,
    )


def test_of_files_the_pairing_says_how_much_was_covered(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    gt = file_of(tmp_path, "gt.txt", TIMES, path_at(TIMES))
    times = np.concatenate([TIMES[20:81], [8.06, 8.07]])
    found = lb.score(gt, file_of(tmp_path, "est.txt", times, path_at(times)), progress=lambda *now: seen.append(now))
    assert [(m.name, m.variant) for m in found.measurements[1:3]] == [("coverage", "matched"), ("coverage", "duration")]
    matched, duration = found.measurements[1:3]
    assert (matched.value, matched.samples) == (pytest.approx(100 * 61 / 63), 63)
    assert (duration.value, duration.samples) == (pytest.approx(100 * 6.07 / 9.9), 100)
    assert matched.convention == (
        "share of the estimate's poses that met one of the reference: one to one by nearest timestamp within 0.01 s"
    )
    assert duration.convention == "share of the reference's duration inside the estimate's time span"
    assert {(m.family, m.unit) for m in (matched, duration)} == {("trajectory", "%")}
    assert seen[-1] == (2 * 61 * 60 / 2, 2 * 61 * 60 / 2)
    names = {m.name for m in found.measurements}
    assert names.isdisjoint({"matched_frames", "dropped_frames", "unmatched_frames"})
    assert found.notes == ()


@pytest.mark.parametrize(("last", "noted"), [(49, True), (51, False)])
def test_half_of_the_duration_must_be_covered(tmp_path: Path, last: int, noted: bool) -> None:
    times = TIMES[: last + 1]
    notes = [note for note in of_files(tmp_path, times, times).notes if "the numbers say nothing of the rest" in note]
    assert notes == (
        ["the estimate covers 49.5 % of the reference's duration: the numbers say nothing of the rest"] * noted
    )


def test_few_matches_are_held_against_all_poses_of_both_files(tmp_path: Path) -> None:
    """Twelve of thirty reference poses met one of the hundred estimated."""
    times = np.concatenate([TIMES[:12], TIMES[12:30] + 0.05])
    gt = file_of(tmp_path, "gt.txt", times, path_at(times))
    notes = lb.score(gt, file_of(tmp_path, "est.txt", TIMES, path_at(TIMES))).notes
    assert any(
        note.startswith("few poses match: 12 of 100 estimated and 30 reference poses are scored") for note in notes
    )


def test_poses_of_one_time_are_all_scored_and_said(tmp_path: Path) -> None:
    times = np.concatenate([TIMES[:51], TIMES[50:]])
    poses = path_at(times)
    poses[51, :3, 3] += 0.5
    gt = file_of(tmp_path, "gt.txt", TIMES, path_at(TIMES))
    found = lb.score(gt, file_of(tmp_path, "est.txt", times, poses))
    assert found.estimate is not None
    assert found.pairing is not None
    assert (len(found.estimate), found.pairing.matched) == (101, 101)
    assert found["ate_rmse"].samples == 101
    assert found.notes[0].startswith("1 of the 101 scored poses are others of a time that the estimate has twice")


def clock_notes(found: PoseScore) -> list[str]:
    return [note for note in found.notes if note.startswith("the clocks may differ")]


@pytest.mark.parametrize(
    ("own", "read", "says"),
    [
        (
            TIMES + 0.5,
            {},
            ("both files last as long, and if they begin together (100 pairs)", "; --time-offset -0.5 ("),
        ),
        (TIMES / 2, {}, ("estimate's runs at 0.5 times the rate of the reference's (100 pairs)", "; --time-scale 2 (")),
        (2 * TIMES, {}, ("estimate's runs at 2 times the rate of the reference's (100 pairs)", "--time-scale 0.5 (")),
        (500 * TIMES, {"time_scale": 1e-3}, ("at 0.5 times the rate of", "; --time-scale 0.002 (in an experiment")),
        (
            TIMES / 2 + 2,
            {},
            ("at 0.5 times the rate of the reference's and they begin together", "--time-scale 2 --time-offset -4 ("),
        ),
        (  # without the offset each pose meets the one after its own: better than now, not best
            TIMES / 2 + 0.05,
            {},
            ("at 0.5 times the rate of the reference's and they begin together", "--time-scale 2 --time-offset -0.1 ("),
        ),
    ],
)
def test_a_clock_under_which_the_path_fits_is_named(
    tmp_path: Path, own: FloatArray, read: dict[str, float], says: tuple[str, ...]
) -> None:
    found = of_files(tmp_path, own, TIMES, noise=0.001, **read)
    (note,) = clock_notes(found)
    for part in (*says, ", ATE would be 0.001", f" m instead of {found['ate_rmse'].value:.4g} m"):
        assert part in note


@pytest.mark.parametrize(
    ("own", "real", "noise"),
    [
        (TIMES, TIMES, 0.0),
        (TIMES + 0.1, TIMES, 0.2),  # not three times better
        (TIMES + 0.02, TIMES, 0.0),  # within the difference that pairs
        (TIMES[:9] + 0.5, TIMES[:9], 0.001),  # too few to tell
        (TIMES, TIMES / 2, 0.001),  # half as many poses would pair
        (TIMES[:90] + 0.5, TIMES[:90], 0.001),  # that they begin together is likely where they last as long
    ],
    ids=["right", "noise", "near", "few", "fewer pairs", "shorter"],
)
def test_no_other_clock_is_named_without_evidence(
    tmp_path: Path, own: FloatArray, real: FloatArray, noise: float
) -> None:
    assert clock_notes(of_files(tmp_path, own, real, noise)) == []


def test_a_path_that_fits_well_enough_leaves_the_clock_alone(tmp_path: Path) -> None:
    """A small shift of a long way: less than 2 % of its spread, however exactly another clock would fit."""
    slow = TIMES / 20
    gt = file_of(tmp_path, "gt.txt", TIMES, path_at(slow))
    found = lb.score(gt, file_of(tmp_path, "est.txt", TIMES + 0.2, path_at(slow)), max_difference=0.02)
    assert clock_notes(found) == []


def test_without_the_trajectory_no_clock_is_judged(tmp_path: Path) -> None:
    """All else of the files is said."""
    gt = file_of(tmp_path, "gt.txt", TIMES, path_at(TIMES))
    estimate = file_of(tmp_path, "est.txt", TIMES + 0.5, path_at(TIMES))
    found = lb.score(gt, estimate, max_difference=0.02, without=["trajectory", "drift"])
    assert clock_notes(found) == []
    assert (found.trajectory, found.drift) == (None, None)
    assert found.pairing is not None
    assert found["coverage", "matched"].value == pytest.approx(95)
    assert found["coverage", "duration"].value == pytest.approx(100 * 9.4 / 9.9)


def test_a_table_has_no_number_where_there_is_a_reason() -> None:
    table = lb.score(walk(2), walk(2), without=["trajectory", "drift"]).to_pandas()
    assert list(table.columns)[:7] == ["family", "name", "variant", "value", "unit", "convention", "samples"]
    assert table["value"].dtype == np.float64
    assert table["value"].isna().all()
    assert set(table["reason"]) == {"only 2 matched frames, at least 3 are needed"}


def test_exact_times_alone_can_be_asked_for(tmp_path: Path) -> None:
    gt = file_of(tmp_path, "gt.txt", TIMES, path_at(TIMES))
    times = np.where(np.arange(100) % 2 == 0, TIMES, TIMES + 1e-6)
    found = lb.score(gt, file_of(tmp_path, "est.txt", times, path_at(times)), max_difference=0)
    assert found.pairing is not None
    assert found.pairing.matched == 50


@pytest.mark.parametrize(("count", "named"), [(9, 0), (10, 1)])
def test_ten_poses_can_tell_another_clock(tmp_path: Path, count: int, named: int) -> None:
    times, poses = TIMES[:count], path_at(TIMES[:count] * 4)
    gt = file_of(tmp_path, "gt.txt", times, poses)
    found = lb.score(gt, file_of(tmp_path, "est.txt", times + 0.4, poses), max_difference=0.02)
    assert len(clock_notes(found)) == named


def test_what_pairs_within_the_difference_that_was_asked_for_is_one_clock(tmp_path: Path) -> None:
    """40 ms apart, 50 are allowed: that the path would fit without them is what was asked for."""
    gt = file_of(tmp_path, "gt.txt", TIMES, path_at(TIMES))
    found = lb.score(gt, file_of(tmp_path, "est.txt", TIMES + 0.04, path_at(TIMES)), max_difference=0.05)
    assert clock_notes(found) == []
    later = lb.score(gt, file_of(tmp_path, "est.txt", TIMES + 0.14, path_at(TIMES)), max_difference=0.05)
    assert len(clock_notes(later)) == 1
