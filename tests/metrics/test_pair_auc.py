"""Relative-pose AUC: the reference figures, the all-pairs form as an oracle, and what moves it and what does not."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import UnscorableError
from lingbot_eval.files.trajectories import read_kitti
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.metrics.pair_auc import PairAucSettings, count_pairs, pair_measurements
from lingbot_eval.types import Trajectory

DATA = Path(__file__).parents[1] / "data"
FIGURES = json.loads((DATA / "metrics_figures.json").read_text())
REAL = Path(__file__).parents[3] / "shared" / "data" / "trajectories"


def trajectory(poses: np.ndarray) -> Trajectory:
    return Trajectory(np.arange(len(poses)), np.arange(len(poses)) * 0.1, poses)


def values(truth: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    found = {m.name: m.value for m in pair_measurements(trajectory(truth), trajectory(estimate))}
    assert all(v is not None for v in found.values())
    return {name: v for name, v in found.items() if v is not None}


def random_poses(count: int, seed: int, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(count, 3))
    rotations = Rotation.random(count, random_state=rng)
    turned = rotations * Rotation.from_rotvec(noise * rng.normal(size=(count, 3)))
    shaken = positions + noise * rng.normal(size=(count, 3))
    return pose_matrix(rotations.as_matrix(), positions), pose_matrix(turned.as_matrix(), shaken)


def all_pairs(truth: np.ndarray, estimate: np.ndarray, definition: str, threshold: int) -> float:
    """protocol.md section 1 word by word, with N² matrices and numpy's histogram."""
    worlds = []
    for poses in (truth, estimate):
        moved = np.linalg.inv(poses[0]) @ poses if definition == "auc_first_camera" else poses
        worlds.append(np.linalg.inv(moved))
    i, j = np.triu_indices(len(truth), 1)
    pairs = []
    for w in worlds:
        first, second = (w[i], np.linalg.inv(w[j])) if definition == "auc" else (np.linalg.inv(w[i]), w[j])
        pairs.append(first @ second)
    turn = np.swapaxes(pairs[0][:, :3, :3], 1, 2) @ pairs[1][:, :3, :3]
    rotation = np.degrees(Rotation.from_matrix(turn).magnitude())
    a, b = (p[:, :3, 3] / np.linalg.norm(p[:, :3, 3], axis=1, keepdims=True) for p in pairs)
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.sum(a * b, axis=1)))
    error = np.maximum(rotation, np.minimum(angle, 180 - angle))
    histogram, _ = np.histogram(error, bins=np.arange(threshold + 1))
    return 100 * float(np.mean(np.cumsum(histogram / len(error))))


def check_figures(name: str, truth: np.ndarray, estimate: np.ndarray, tolerance: float) -> None:
    found = values(truth, estimate)
    for short, long in (("auc", "AUC"), ("racc", "Racc"), ("tacc", "Tacc")):
        for suffix in ("", "_first_camera"):
            for threshold in (3, 5, 15, 30):
                expected = FIGURES[name][f"{long}_{threshold:02d}{suffix}"]
                key = f"{short}{suffix}_{threshold}"
                assert found[key] == pytest.approx(expected, abs=tolerance), key


@pytest.mark.parametrize("name", ["helix_100", "helix_400"])
def test_reference_figures(name: str) -> None:
    """Within a pair or two of 79,800: the original works in float32."""
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as case:
        check_figures(name, case["gt"], case["pred"], 2e-4)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real trajectories are not beside this checkout")
def test_reference_figures_on_kitti() -> None:
    truth, estimate = (read_kitti(REAL / f"KITTI_00_{which}.txt").camera_to_world[:1000] for which in ("gt", "ORB"))
    check_figures("kitti00_orb_first1000", truth, estimate, 0.05)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(3, 40), st.floats(0.01, 1))
def test_equals_the_all_pairs_form(seed: int, count: int, noise: float) -> None:
    truth, estimate = random_poses(count, seed, noise)
    for definition in ("auc", "auc_first_camera"):
        counts = count_pairs(truth, estimate, definition)  # type: ignore[arg-type]
        assert counts.pairs == count * (count - 1) // 2
        for threshold in (3, 30, 90):
            expected = all_pairs(truth, estimate, definition, threshold)
            assert counts.area(threshold) == pytest.approx(expected, abs=1e-9)


def test_moving_the_worlds_leaves_the_first_definition_alone() -> None:
    truth, estimate = random_poses(60, 1)
    rng = np.random.default_rng(2)
    world = Sim3(3.7, Rotation.random(random_state=rng).as_matrix(), 10 * rng.normal(size=3))
    assert values(truth, world.apply_poses(estimate)) == pytest.approx(values(truth, estimate), abs=1e-9)


def test_an_error_of_the_first_frame_leaks_only_into_the_second_definition() -> None:
    truth, _ = random_poses(50, 3)
    estimate = truth.copy()
    estimate[0, :3, :3] = truth[0, :3, :3] @ Rotation.from_rotvec([0, np.radians(20.5), 0]).as_matrix()
    found = values(truth, estimate)
    # 49 of 1225 pairs have frame 0 and are 20.5° off in rotation; the others are exact.
    share = 49 / 1225
    assert found["racc_15"] == pytest.approx(100 * (1 - share))
    assert found["racc_30"] == 100
    assert found["auc_15"] == pytest.approx(100 * (1 - share))
    assert found["auc_first_camera_15"] < 50
    counts = count_pairs(truth, estimate, "auc_first_camera")
    # Conjugated by the wrong turn of frame 0: pairs without frame 0 are off, too.
    assert counts.rotation[0] < counts.pairs / 2


def test_whole_degrees_fall_into_numpys_bins() -> None:
    """One pair exactly 3° off counts below 3 for AUC@3, whose last bin is closed, and not for Racc@3."""
    truth, _ = random_poses(3, 5)
    counts = count_pairs(truth, truth)
    counts.error[:], counts.whole[:] = 0, 0
    counts.error[3], counts.whole[3] = 1, 1
    expected, _ = np.histogram([3.0], bins=np.arange(4))
    assert counts.area(3) == pytest.approx(100 * np.mean(np.cumsum(expected)))
    assert counts.area(5) == pytest.approx(100 * 2 / 5)


def test_pairs_without_a_direction_count_ninety_degrees() -> None:
    truth, _ = random_poses(4, 6)
    truth[1, :3, 3] = truth[0, :3, 3]
    found = values(truth, truth)
    assert found["tacc_30"] == pytest.approx(100 * 5 / 6)
    assert found["racc_3"] == 100


def test_memory_grows_with_frames_not_with_pairs() -> None:
    truth, estimate = random_poses(2000, 9)
    tracemalloc.start()
    count_pairs(truth, estimate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6, "an array of all pairs alone would be 16 MB"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t, e: (t[:2], e[:2]), "only 2 matched frames"),
        (lambda t, e: (t, np.full_like(e, np.nan)), "only 0 matched frames"),
        (lambda t, e: (pose_matrix(t[:, :3, :3], np.ones((len(t), 3))), e), "static reference"),
        (lambda t, e: (t, pose_matrix(e[:, :3, :3], np.ones((len(t), 3)))), "static estimate"),
        (lambda t, e: (t, 5 * e), "only 0 matched frames"),
    ],
)
def test_what_cannot_be_scored_has_its_reason(spoil: object, reason: str) -> None:
    truth, estimate = spoil(*random_poses(6, 10))  # type: ignore[operator]
    found = pair_measurements(trajectory(truth), trajectory(estimate))
    assert len(found) == 24
    assert all(m.value is None and m.reason is not None and reason in m.reason for m in found)


@pytest.mark.parametrize("side", [0, 1])
def test_positions_alone_have_no_relative_poses(side: int) -> None:
    pair = [trajectory(poses) for poses in random_poses(6, 0)]
    pair[side] = replace(pair[side], has_orientation=False)
    found = pair_measurements(*pair)
    assert len(found) == 24
    assert all(m.value is None and "orientation" in (m.reason or "") for m in found)


def test_settings_are_strict() -> None:
    for wrong in ((3, 3), (0,), (181,), (2.5,), ()):
        with pytest.raises(ValidationError):
            PairAucSettings.model_validate({"thresholds_deg": wrong})
    with pytest.raises(ValidationError):
        PairAucSettings.model_validate({"definitions": ("auc",)})


def test_half_a_turn_is_the_largest_error() -> None:
    """Three of six pairs are exactly 180° off: in the last bin of AUC, which is closed, and not below it."""
    quarter = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    turns = np.stack([np.linalg.matrix_power(quarter, k) for k in range(4)])
    truth = pose_matrix(turns, np.random.default_rng(0).normal(size=(4, 3)))
    estimate = truth.copy()
    estimate[0, :3, :3] = np.diag([1.0, -1, -1])
    settings = PairAucSettings(thresholds_deg=(180, 1))
    measured = pair_measurements(trajectory(truth), trajectory(estimate), settings)
    found = {m.name: m.value for m in measured}
    assert found["auc_180"] == pytest.approx(100 * (179 * 3 + 6) / (180 * 6))
    assert found["racc_180"] == found["racc_1"] == found["auc_1"] == pytest.approx(50)
    assert {m.samples for m in measured} == {6}
    assert [m.name for m in measured][:4] == ["auc_180", "auc_1", "racc_180", "racc_1"]


def test_each_is_asked_for_once() -> None:
    with pytest.raises(ValidationError, match="each once, found 5, 3, 5"):
        PairAucSettings.model_validate({"thresholds_deg": (5, 3, 5)})


@pytest.mark.parametrize("side", ["reference", "estimate"])
def test_positions_beyond_float64_have_no_directions(side: str) -> None:
    pair = dict(zip(("reference", "estimate"), random_poses(5, 0), strict=True))
    pair[side][1, :3, 3], pair[side][2, :3, 3] = 1.7e308, -1.7e308
    for measured in pair_measurements(trajectory(pair["reference"]), trajectory(pair["estimate"])):
        assert measured.reason == f"the positions of the {side} are too large for float64"


@pytest.mark.parametrize("side", ["reference", "estimate"])
@pytest.mark.parametrize(("moved", "scored"), [(1e-7, False), (1e-5, True)])
def test_what_rounding_makes_of_a_camera_that_stands_far_away_is_no_motion(
    side: str, moved: float, scored: bool
) -> None:
    """A kilometre from the origin: less than a billionth of it."""
    pair = dict(zip(("reference", "estimate"), random_poses(6, 10), strict=True))
    positions = pair[side][:, :3, 3]
    pair[side][:, :3, 3] = 1000 + moved * positions / np.ptp(positions, axis=0).max()
    counted = None if scored else f"static {side}: it does not move, so its pairs have no directions"
    for definition in ("auc", "auc_first_camera"):
        try:
            count_pairs(pair["reference"], pair["estimate"], definition)  # type: ignore[arg-type]
            reason = None
        except UnscorableError as error:
            reason = str(error)
        assert reason == counted


def test_who_waits_is_told_how_many_pairs_are_done() -> None:
    truth, estimate = random_poses(6, 0)
    told: list[int] = []
    count_pairs(truth, estimate, report=told.append)
    assert told == [5, 9, 12, 14, 15]
