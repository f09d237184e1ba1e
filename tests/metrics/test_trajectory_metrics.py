"""Trajectory metrics: the reference figures, evo end to end, invariances, and every way to be unscorable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from lingbot_eval.files.trajectories import read_kitti
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.metrics.trajectory import TrajectoryScore, TrajectorySettings, score_trajectory
from lingbot_eval.types import Measurement, Trajectory

DATA = Path(__file__).parents[1] / "data"
FIGURES = json.loads((DATA / "metrics_figures.json").read_text())
REAL = Path(__file__).parents[3] / "shared" / "data" / "trajectories"


def trajectory(poses: np.ndarray, indices: np.ndarray | None = None) -> Trajectory:
    indices = np.arange(len(poses)) if indices is None else np.asarray(indices)
    return Trajectory(indices.astype(np.int64), indices * 0.1, poses)


def by_name(score: TrajectoryScore) -> dict[tuple[str, str], Measurement]:
    found = {(m.name, m.variant): m for m in score.measurements}
    assert len(found) == len(score.measurements), "a name and variant appear twice"
    return found


def value(score: TrajectoryScore, name: str, variant: str = "") -> float:
    measured = by_name(score)[name, variant]
    assert measured.value is not None, measured.reason
    return measured.value


def wandering(count: int, seed: int = 0, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random path and a disturbed copy of it in another world and scale."""
    rng = np.random.default_rng(seed)
    positions = np.cumsum(np.cumsum(rng.normal(size=(count, 3)), axis=0), axis=0) / count
    rotations = Rotation.from_rotvec(np.cumsum(0.05 * rng.normal(size=(count, 3)), axis=0))
    truth = pose_matrix(rotations.as_matrix(), positions)
    shaken = pose_matrix(
        (rotations * Rotation.from_rotvec(noise * rng.normal(size=(count, 3)))).as_matrix(),
        positions + noise * rng.normal(size=(count, 3)),
    )
    world = Sim3(0.37, Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))
    return truth, world.apply_poses(shaken)


def check_figures(name: str, truth: np.ndarray, estimate: np.ndarray) -> None:
    score = score_trajectory(trajectory(truth), trajectory(estimate), len(truth))
    figures = FIGURES[name]
    assert value(score, "ate_rmse", "sim3") == pytest.approx(figures["ate"], rel=1e-6)
    assert value(score, "rpe_translation_rmse", "sim3") == pytest.approx(figures["rpe_trans"], rel=1e-4)
    assert value(score, "rpe_rotation_rmse", "sim3") == pytest.approx(figures["rpe_rot"], rel=1e-4)
    np.testing.assert_allclose(score.alignments["sim3"].matrix(), figures["alignment"], rtol=1e-6, atol=1e-9)
    assert value(score, "coverage") == 100.0


@pytest.mark.parametrize("name", ["helix_100", "helix_400"])
def test_reference_figures(name: str) -> None:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as case:
        check_figures(name, case["gt"], case["pred"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real trajectories are not beside this checkout")
@pytest.mark.parametrize(("name", "count"), [("kitti00_orb", None), ("kitti00_orb_first1000", 1000)])
def test_reference_figures_on_kitti(name: str, count: int | None) -> None:
    truth, estimate = (read_kitti(REAL / f"KITTI_00_{which}.txt").camera_to_world[:count] for which in ("gt", "ORB"))
    check_figures(name, truth, estimate)


@pytest.mark.parametrize("variant", ["sim3", "se3", "none"])
def test_equals_evo_end_to_end(variant: str) -> None:
    """evo's own alignment and statistics, from poses to figures."""
    from evo.core.metrics import APE, RPE, PoseRelation, StatisticsType, Unit
    from evo.core.trajectory import PosePath3D

    truth, estimate = wandering(60)
    reference, path = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(estimate))
    if variant != "none":
        path.align(reference, correct_scale=variant == "sim3")
    score = score_trajectory(
        trajectory(truth), trajectory(estimate), 60, TrajectorySettings(alignments=(variant,), rpe_delta_frames=3)
    )
    absolute = APE(PoseRelation.translation_part)
    absolute.process_data((reference, path))
    for statistic in ("rmse", "mean", "median", "max"):
        expected = absolute.get_statistic(StatisticsType[statistic])
        assert value(score, f"ate_{statistic}", variant) == pytest.approx(expected, rel=1e-9)
    for name, relation in (
        ("rpe_translation_rmse", PoseRelation.translation_part),
        ("rpe_rotation_rmse", PoseRelation.rotation_angle_deg),
    ):
        metric = RPE(relation, delta=3, delta_unit=Unit.frames)
        metric.process_data((reference, path))
        assert value(score, name, variant) == pytest.approx(metric.get_statistic(StatisticsType.rmse), rel=1e-9)


def test_relative_pose_error_from_its_definition() -> None:
    truth, estimate = wandering(40)
    score = score_trajectory(trajectory(truth), trajectory(estimate), 40)
    aligned = score.alignments["sim3"].apply_poses(estimate)
    errors = [
        np.linalg.inv(np.linalg.inv(truth[i]) @ truth[i + 1]) @ (np.linalg.inv(aligned[i]) @ aligned[i + 1])
        for i in range(39)
    ]
    translation = np.sqrt(np.mean([np.sum(e[:3, 3] ** 2) for e in errors]))
    rotation = np.degrees(np.sqrt(np.mean([Rotation.from_matrix(e[:3, :3]).magnitude() ** 2 for e in errors])))
    assert value(score, "rpe_translation_rmse", "sim3") == pytest.approx(translation)
    assert value(score, "rpe_rotation_rmse", "sim3") == pytest.approx(rotation)
    assert by_name(score)["rpe_rotation_rmse", "sim3"].samples == 39


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_the_estimates_world_and_scale_do_not_matter(seed: int, scale: float) -> None:
    truth, estimate = wandering(20)
    rng = np.random.default_rng(seed)
    world = Sim3(scale, Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3) * 10)
    plain = score_trajectory(trajectory(truth), trajectory(estimate), 20)
    moved = score_trajectory(trajectory(truth), trajectory(world.apply_poses(estimate)), 20)
    for name, variant in (
        ("ate_rmse", "sim3"),
        ("ate_rmse", "anchor"),
        ("rpe_translation_rmse", "sim3"),
        ("rpe_rotation_rmse", "sim3"),
    ):
        assert value(moved, name, variant) == pytest.approx(value(plain, name, variant), rel=1e-6)
    assert value(moved, "scale", "sim3") == pytest.approx(value(plain, "scale", "sim3") / scale, rel=1e-6)


def test_a_perfect_estimate_in_another_world() -> None:
    truth, estimate = wandering(30, noise=0.0)
    score = score_trajectory(trajectory(truth), trajectory(estimate), 30)
    assert value(score, "ate_rmse", "sim3") < 1e-9
    assert value(score, "ate_rmse", "anchor") < 1e-6
    assert value(score, "rpe_translation_rmse", "sim3") < 1e-9
    assert value(score, "scale", "sim3") == pytest.approx(1 / 0.37)
    assert score.position_error_m.max() < 1e-9
    assert score.rotation_error_deg.max() < 1e-5


def test_shares_are_of_the_root_mean_square_and_of_the_way() -> None:
    """Six positions around their mean, five near and one far: mean and RMS distance differ by a third."""
    positions = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [9, 1, 1]], float)
    truth = np.tile(np.eye(4), (6, 1, 1))
    truth[:, :3, 3] = positions
    off = truth.copy()
    off[:, 0, 3] += 0.5
    score = score_trajectory(trajectory(truth), trajectory(off), 6)
    distances = np.linalg.norm(positions - positions.mean(axis=0), axis=1)
    rms = float(np.sqrt((distances**2).mean()))
    assert rms > 1.2 * float(distances.mean())
    assert value(score, "ate_share_of_motionless", "none") == pytest.approx(100 * 0.5 / rms)
    way = float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
    assert value(score, "ate_share_of_path", "none") == pytest.approx(100 * 0.5 / way)


def test_errors_along_the_sequence() -> None:
    truth, estimate = wandering(30)
    score = score_trajectory(trajectory(truth), trajectory(estimate), 30)
    assert np.sqrt(np.mean(score.position_error_m**2)) == pytest.approx(value(score, "ate_rmse", "sim3"))
    aligned = score.alignments["sim3"].apply_poses(estimate)
    turns = Rotation.from_matrix(truth[:, :3, :3]).inv() * Rotation.from_matrix(aligned[:, :3, :3])
    np.testing.assert_allclose(score.rotation_error_deg, np.degrees(turns.magnitude()), atol=1e-6)


def test_anchor_is_aligned_on_the_first_frames_only() -> None:
    truth, _ = wandering(40)
    estimate = truth.copy()
    estimate[8:, :3, 3] += np.arange(1, 33)[:, None] * [0.1, 0, 0]  # drifts after the anchors
    score = score_trajectory(trajectory(truth), trajectory(estimate), 40)
    np.testing.assert_allclose(score.alignments["anchor"].matrix(), np.eye(4), atol=1e-9)
    expected = np.sqrt(np.sum((0.1 * np.arange(1, 33)) ** 2) / 40)
    assert value(score, "ate_rmse", "anchor") == pytest.approx(expected)
    assert value(score, "ate_rmse", "sim3") < expected


def test_frames_are_matched_by_index() -> None:
    truth, estimate = wandering(30)
    kept = np.array([i for i in range(30) if i % 3 != 1])
    reference_frames = np.arange(2, 30)
    score = score_trajectory(trajectory(truth[2:], reference_frames), trajectory(estimate[kept], kept), 30)
    common = [i for i in kept if i >= 2]
    assert score.indices.tolist() == common
    dense = score_trajectory(trajectory(truth[common]), trajectory(estimate[common]), len(common))
    assert value(score, "ate_rmse", "sim3") == value(dense, "ate_rmse", "sim3")
    assert value(score, "rpe_rotation_rmse", "sim3") == value(dense, "rpe_rotation_rmse", "sim3")
    assert value(score, "coverage") == pytest.approx(100 * 20 / 30)
    assert value(score, "matched_frames") == 19
    assert value(score, "unmatched_frames", "no_estimate") == 9
    assert value(score, "unmatched_frames", "no_reference") == 1


def test_poses_that_are_not_finite_are_dropped_and_counted() -> None:
    truth, estimate = wandering(30)
    clean = np.delete(np.arange(30), [4, 9])
    truth_hurt, estimate_hurt = truth.copy(), estimate.copy()
    truth_hurt[4, 0, 0] = np.nan
    estimate_hurt[9, 1, 3] = np.inf
    score = score_trajectory(trajectory(truth_hurt), trajectory(estimate_hurt), 30)
    expected = score_trajectory(trajectory(truth[clean]), trajectory(estimate[clean]), 28)
    assert value(score, "ate_rmse", "sim3") == value(expected, "ate_rmse", "sim3")
    assert value(score, "dropped_frames") == 2
    assert value(score, "dropped_frames", "not_rigid") == 0
    estimate_hurt[20, :3, :3] *= 2
    of_each = score_trajectory(trajectory(truth_hurt), trajectory(estimate_hurt), 30)
    assert [value(of_each, "dropped_frames", kind) for kind in ("", "not_rigid")] == [2, 1]
    assert value(score, "coverage") == pytest.approx(100 * 29 / 30)
    assert score.indices.tolist() == clean.tolist()


def test_rotations_are_orthogonalised_first() -> None:
    truth, estimate = wandering(30)
    rough = truth.copy()
    rough[:, :3, :3] *= 1.002  # evo refuses such matrices
    score = score_trajectory(trajectory(rough), trajectory(estimate), 30)
    plain = score_trajectory(trajectory(truth), trajectory(estimate), 30)
    assert value(score, "rpe_rotation_rmse", "sim3") == pytest.approx(value(plain, "rpe_rotation_rmse", "sim3"))


VARIANTS = ("sim3", "se3", "anchor", "none")
MOVED = ("ate_rmse", "ate_mean", "ate_median", "ate_max", "ate_share_of_motionless", "ate_share_of_path")
RELATIVE = ("rpe_translation_rmse", "rpe_rotation_rmse")
ACCURACY = {(name, variant) for name in (*MOVED, *RELATIVE) for variant in VARIANTS} | {
    ("scale", "sim3"),
    ("scale", "anchor"),
}
UNALIGNED = {key for key in ACCURACY if key[1] == "none"}


def reasons(score: TrajectoryScore) -> dict[tuple[str, str], str]:
    return {key: m.reason for key, m in by_name(score).items() if m.reason is not None}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_matched_frames(count: int) -> None:
    truth, estimate = wandering(10)
    score = score_trajectory(trajectory(truth), trajectory(estimate[:count]), 10)
    found = reasons(score)
    assert found.keys() >= ACCURACY
    assert all(f"only {count} matched frames" in found[key] for key in ACCURACY)
    assert value(score, "coverage") == 10 * count
    assert len(score.position_error_m) == 0
    assert found.get(("path_length", "")) == (None if count else "no matched frames")
    # What was there, though it was too little.
    assert {by_name(score)[name, "sim3"].samples for name in ("ate_rmse", "ate_max", "scale")} == {count}


def test_static_reference() -> None:
    truth, estimate = wandering(10)
    truth[:, :3, 3] = [1e5, 2e5, 3.0]
    score = score_trajectory(trajectory(truth), trajectory(estimate), 10)
    found = reasons(score)
    assert found.keys() == ACCURACY
    assert all("static reference" in reason for reason in found.values())
    assert value(score, "path_length") == 0.0
    assert value(score, "coverage") == 100.0


@pytest.mark.parametrize(("size", "stands"), [(0.9e-6, False), (0.6e-6, True)])
def test_a_reference_moves_from_a_micrometre_on(size: float, stands: bool) -> None:
    """From corner to corner of the box around its way, here a square."""
    truth, estimate = wandering(10)
    truth[:, :3, 3] = 0.0
    truth[3:6, 0, 3] = truth[6:, 1, 3] = size
    found = by_name(score_trajectory(trajectory(truth), trajectory(estimate), 10))["ate_rmse", "none"]
    assert ("static reference" in (found.reason or "")) is stands
    assert (found.value is None) is stands


@pytest.mark.parametrize(("away", "stands"), [(0.0, False), (4e6, False), (6e6, True)])
def test_far_away_a_reference_that_rounding_may_move_stands(away: float, stands: bool) -> None:
    """From corner to corner its way is 5 mm: a billionth of its distance at 5,000 km."""
    truth, estimate = wandering(10)
    truth[:, :3, 3] *= 5e-3 / np.linalg.norm(np.ptp(truth[:, :3, 3], axis=0))
    truth[:, :3, 3] += [0.0, away, 0.0]
    found = by_name(score_trajectory(trajectory(truth), trajectory(estimate), 10))["ate_rmse", "none"]
    assert (found.reason is not None) is stands
    assert str(found.reason).startswith("static reference: it moves by no more than 0.005 m") is stands


@pytest.mark.parametrize(("size", "stands"), [(1e-5, False), (0.5e-6, True)])
def test_an_estimate_moves_where_rounding_cannot_make_it(size: float, stands: bool) -> None:
    """A kilometre from the origin a micrometre is what rounding may make."""
    truth, estimate = wandering(10)
    estimate[:, :3, 3] = size * truth[:, :3, 3] / np.linalg.norm(np.ptp(truth[:, :3, 3], axis=0)) + [1000.0, 0, 0]
    found = by_name(score_trajectory(trajectory(truth), trajectory(estimate), 10))["ate_rmse", "sim3"]
    assert ("the estimate does not move" in (found.reason or "")) is stands
    assert (found.value is None) is stands


@pytest.mark.parametrize("where", [[0.0, 0, 0], [0.1, 0.7, 1e6]])
def test_constant_estimate(where: list[float]) -> None:
    truth, estimate = wandering(10)
    estimate[:, :3, 3] = where
    score = score_trajectory(trajectory(truth), trajectory(estimate), 10)
    found = reasons(score)
    assert found.keys() == ACCURACY - UNALIGNED, "without alignment the error is defined"
    assert all("estimate does not move" in reason for reason in found.values())
    expected = np.sqrt(np.mean(np.sum((truth[:, :3, 3] - where) ** 2, axis=1)))
    assert value(score, "ate_rmse", "none") == pytest.approx(expected)


@pytest.mark.parametrize("direction", [[0.0, 0, 1], [0.3, -2.0, 0.7]])
def test_an_exactly_straight_reference_is_unscorable_and_a_real_straight_road_is_not(direction: list[float]) -> None:
    _, estimate = wandering(50)
    straight = pose_matrix(np.tile(np.eye(3), (50, 1, 1)), np.linspace(0, 100, 50)[:, None] * direction + [5.0, 1, 0])
    found = reasons(score_trajectory(trajectory(straight), trajectory(estimate), 50))
    assert found.keys() == ACCURACY - UNALIGNED
    assert all("degenerate covariance (rank 1 of 3)" in reason for reason in found.values())
    rng = np.random.default_rng(1)
    road = straight.copy()
    road[:, :3, 3] += 1e-3 * rng.normal(size=(50, 3))
    driven = road.copy()
    driven[:, :3, 3] = 0.5 * (road[:, :3, 3] + 1e-3 * rng.normal(size=(50, 3)))
    assert value(score_trajectory(trajectory(road), trajectory(driven), 50), "ate_rmse", "sim3") < 5e-3


def test_too_few_frames_for_the_anchors_or_the_step() -> None:
    truth, estimate = wandering(8)
    score = score_trajectory(trajectory(truth), trajectory(estimate), 8, TrajectorySettings(rpe_delta_frames=8))
    found = reasons(score)
    anchored = {key for key in ACCURACY if key[1] == "anchor"}
    assert found.keys() == anchored | {key for key in ACCURACY if key[0] in RELATIVE}
    assert found["ate_rmse", "anchor"] == "only 8 matched frames, more than the 8 anchors are needed"
    assert found["rpe_rotation_rmse", "sim3"] == "only 8 matched frames, more than the step of 8 are needed"


@pytest.mark.parametrize(("delta", "pairs"), [(8, 1), (4, 2), (3, 2)])
def test_one_frame_more_than_the_anchors_and_the_step_is_enough(delta: int, pairs: int) -> None:
    truth, estimate = wandering(9)
    of_steps = TrajectorySettings(rpe_delta_frames=delta)
    score = score_trajectory(trajectory(truth), trajectory(estimate), 9, of_steps)
    assert not reasons(score)
    for name in RELATIVE:
        found = by_name(score)[name, "anchor"]
        assert found.samples == pairs
        assert f" between matched frames {delta} apart (pairs do not overlap), after" in found.convention


def test_an_estimate_that_begins_with_a_standstill_has_no_anchor() -> None:
    truth, estimate = wandering(20)
    estimate[:8, :3, 3] = estimate[0, :3, 3]
    found = reasons(score_trajectory(trajectory(truth), trajectory(estimate), 20))
    assert {variant for _, variant in found} == {"anchor"}
    assert found["ate_rmse", "anchor"].endswith("the estimate does not move in its first 8 frames")


@pytest.mark.parametrize(
    ("alignment", "words"),
    [
        ("sim3", "after Sim(3) Umeyama alignment over all matched frames"),
        ("se3", "after SE(3) Umeyama alignment (no scale) over all matched frames"),
        ("anchor", "after Sim(3) Umeyama alignment on the first 5 matched frames, then free to drift"),
        ("none", "without alignment, in the estimate's own world and scale"),
    ],
)
def test_a_convention_says_how_the_estimate_was_moved(alignment: str, words: str) -> None:
    truth, estimate = wandering(10)
    found = by_name(score_trajectory(trajectory(truth), trajectory(estimate), 10, TrajectorySettings(anchor_frames=5)))
    ate, rpe = (found[name, alignment].convention for name in ("ate_rmse", "rpe_rotation_rmse"))
    factor = "factor by which the Sim(3) alignment {} matched frames multiplies the estimate's lengths"
    assert found["scale", "sim3"].convention == factor.format("over all")
    assert found["scale", "anchor"].convention == factor.format("on the first 5")
    assert ate == f"RMSE of the position errors of all matched frames, {words}"
    assert rpe == f"RMSE of the rotation angle of the relative pose error between consecutive matched frames, {words}"


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("large", [1e160, 1e300, 1.7e308])
def test_numbers_beyond_float64_become_reasons(large: float) -> None:
    truth, estimate = wandering(10)
    estimate[5, 0, 3] = large
    estimate[6, 0, 3] = -large
    score = score_trajectory(trajectory(truth), trajectory(estimate), 10)
    assert {m.variant for m in score.measurements if m.name == "ate_rmse" and m.reason} >= {"none"}
    assert value(score, "coverage") == 100.0


def test_an_empty_sequence() -> None:
    nothing = trajectory(np.empty((0, 4, 4)))
    assert "no frames" in reasons(score_trajectory(nothing, nothing, 0))["coverage", ""]


def test_settings_are_strict() -> None:
    for wrong in (
        {"alignments": ("sim2",)},
        {"alignments": ()},
        {"alignments": ("sim3", "sim3")},
        {"anchor_frames": 2},
        {"rpe_delta": 1},
        {"rpe_delta_frames": 0},
    ):
        with pytest.raises(ValidationError):
            TrajectorySettings.model_validate(wrong)


def test_lengths_of_a_computed_reference_are_its_own() -> None:
    """Where nobody measured the reference there are no metres to compare with: what fits the scale is all there is."""
    truth, estimate = wandering(20)
    reference = replace(trajectory(truth), computed_by="structure from motion (test)")
    found = by_name(score_trajectory(reference, trajectory(estimate), 20))
    for name in ("ate_rmse", "rpe_translation_rmse"):
        for variant in ("se3", "none"):
            assert found[name, variant].reason == (
                "the reference is structure from motion (test): its unit of length is its own, not the metre"
            )
        for variant in ("sim3", "anchor"):
            assert found[name, variant].value is not None


@pytest.mark.parametrize(("moved", "scored"), [(1e-7, False), (1e-4, True)])
def test_a_micrometre_is_no_motion_and_a_tenth_of_a_millimetre_is(moved: float, scored: bool) -> None:
    truth, estimate = wandering(10)
    truth[:, :3, 3] *= moved / np.linalg.norm(np.ptp(truth[:, :3, 3], axis=0))
    found = by_name(score_trajectory(trajectory(truth), trajectory(estimate), 10))
    assert (found["ate_rmse", "sim3"].value is not None) is scored


def test_an_estimate_in_one_point_has_the_distances_from_the_mean() -> None:
    """Where that is so by design; every alignment puts it there."""
    truth, estimate = wandering(10)
    estimate[:, :3, 3] = [1.0, 2.0, 3.0]
    score = score_trajectory(trajectory(truth), trajectory(estimate), 10, motionless=True)
    positions = truth[:, :3, 3]
    away = np.linalg.norm(positions - positions.mean(axis=0), axis=1)
    np.testing.assert_allclose(score.position_error_m, away)
    assert value(score, "ate_rmse", "sim3") == pytest.approx(np.sqrt(np.mean(away**2)))
    assert value(score, "ate_share_of_motionless", "sim3") == pytest.approx(100)
    # Of an alignment on the first eight it is their mean.
    first = np.linalg.norm(positions - positions[:8].mean(axis=0), axis=1)
    assert value(score, "ate_rmse", "anchor") == pytest.approx(np.sqrt(np.mean(first**2)))
    assert value(score, "ate_max", "anchor") == pytest.approx(first.max())


def test_counts_are_of_the_frames_of_the_sequence() -> None:
    truth, estimate = wandering(10)
    estimate[4, 0, 0] = np.nan
    reference = trajectory(truth[:8], np.arange(8))
    score = score_trajectory(reference, trajectory(estimate[2:], np.arange(2, 10)), 40)
    for name, variant, expected in (
        ("coverage", "", 100 * 7 / 40),
        ("matched_frames", "", 5),
        ("dropped_frames", "", 1),
        ("dropped_frames", "not_rigid", 0),
        ("unmatched_frames", "no_estimate", 2),
        ("unmatched_frames", "no_reference", 2),
    ):
        measured = by_name(score)[name, variant]
        assert (measured.value, measured.samples) == (pytest.approx(expected), 40), (name, variant)
