"""Drift: analytic paths with planted drift, jumps and collapses, and a plain form of KITTI's segments as oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.metrics.drift import (
    DriftScore,
    DriftSettings,
    collapse_step,
    jump_steps,
    local_scale,
    score_drift,
    step_errors,
)
from lingbot_eval.metrics.segments import Step, segment_lengths, step_pairs
from lingbot_eval.metrics.trajectory import score_trajectory
from lingbot_eval.statistics import rmse_interval
from lingbot_eval.types import Trajectory


def trajectory(poses: np.ndarray) -> Trajectory:
    return Trajectory(np.arange(len(poses)), np.arange(len(poses)) * 0.1, poses)


def score(truth: np.ndarray, estimate: np.ndarray, **settings: object) -> DriftScore:
    return score_drift(trajectory(truth), trajectory(estimate), DriftSettings.model_validate(settings))


def value(found: DriftScore, name: str, variant: str = "sim3") -> float:
    (measured,) = [m for m in found.measurements if (m.name, m.variant) == (name, variant)]
    assert measured.value is not None, measured.reason
    return measured.value


def reason(found: DriftScore, name: str, variant: str = "sim3") -> str:
    (measured,) = [m for m in found.measurements if (m.name, m.variant) == (name, variant)]
    assert measured.reason is not None, measured.value
    return measured.reason


def steps_to_path(turns_deg: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Dead reckoning: yaw by each turn, then go forward."""
    yaw = np.radians(np.concatenate([[0.0], np.cumsum(turns_deg)]))
    rotations = Rotation.from_rotvec(yaw[:, None] * [0.0, 1, 0]).as_matrix()
    forward = rotations[:-1] @ [0.0, 0, 1] * lengths[:, None]
    return pose_matrix(rotations, np.concatenate([np.zeros((1, 3)), np.cumsum(forward, axis=0)]))


def winding(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Turns and lengths of a walk of 1 m steps that never lies on a line."""
    turns = 3 * np.sin(np.arange(count) / 40) + np.random.default_rng(seed).normal(scale=0.5, size=count)
    return turns, np.ones(count)


def noisy(poses: np.ndarray, seed: int, noise: float = 0.02) -> np.ndarray:
    shaken = poses.copy()
    shaken[:, :3, 3] += noise * np.random.default_rng(seed).normal(size=(len(poses), 3))
    return shaken


def test_a_yaw_drift_of_one_degree_a_frame() -> None:
    """A circle driven with 1° too much turn a frame: each segment of L metres turns L degrees too far."""
    truth = steps_to_path(np.full(400, 2.0), np.ones(400))
    estimate = steps_to_path(np.full(400, 3.0), np.ones(400))
    found = score(truth, estimate, segment_lengths_m=(5.0, 10.0))
    # KITTI's segment ends at the first pose beyond its length: 6 and 11 steps.
    starts = found.series.segment_length_m if found.series else np.empty(0)
    weights = [np.count_nonzero(starts == 5), np.count_nonzero(starts == 10)]
    expected = np.average([6 / 5, 11 / 10], weights=weights)
    assert value(found, "segment_rotation") == pytest.approx(expected, rel=1e-6)
    assert value(found, "rpe_rotation_rmse", "10 frames") == pytest.approx(10.0, rel=1e-6)
    assert value(found, "rpe_rotation_rmse", "1 frames") == pytest.approx(1.0, rel=1e-6)


def test_segments_equal_kittis_loop() -> None:
    """The benchmark's own nested loops, written out."""
    turns, lengths = winding(300)
    truth = steps_to_path(turns, lengths)
    estimate = noisy(steps_to_path(turns * 1.02, lengths), 1)
    found = score(truth, estimate, segment_lengths_m=(20.0, 50.0))
    aligned = score_trajectory(trajectory(truth), trajectory(estimate), 301).alignments["sim3"].apply_poses(estimate)
    distance = [0.0]
    for i in range(1, len(truth)):
        distance.append(distance[-1] + float(np.linalg.norm(truth[i, :3, 3] - truth[i - 1, :3, 3])))
    translation, rotation = [], []
    for first in range(0, len(truth), 10):
        for length in (20.0, 50.0):
            last = next((i for i in range(first, len(truth)) if distance[i] > distance[first] + length), None)
            if last is None:
                continue
            true_step = np.linalg.inv(truth[first]) @ truth[last]
            error = np.linalg.inv(np.linalg.inv(aligned[first]) @ aligned[last]) @ true_step
            translation.append(100 * np.linalg.norm(error[:3, 3]) / length)
            rotation.append(np.degrees(Rotation.from_matrix(error[:3, :3]).magnitude()) / length)
    assert value(found, "segment_translation") == pytest.approx(np.mean(translation))
    assert value(found, "segment_rotation") == pytest.approx(np.mean(rotation))
    samples = {m.name: m.samples for m in found.measurements if m.variant == "sim3"}
    assert samples["segment_translation"] == samples["segment_rotation"] == len(translation)
    assert samples["jumps"] == 301


@pytest.mark.parametrize(
    ("path", "first"),
    [
        *((3724.0, 100.0), (1000.0, 100.0), (999.0, 50.0), (12.0, 1.0), (60.0, 5.0), (0.4, 0.02)),
        *((50.0, 5.0), (49.9, 2.0), (20.0, 2.0), (19.9, 1.0), (10.0, 1.0), (9.9, 0.5), (0.3, 0.02), (0.2, 0.02)),
    ],
)
def test_segment_lengths_fit_the_scene(path: float, first: float) -> None:
    lengths = segment_lengths(path)
    assert lengths == pytest.approx([first * k for k in range(1, 9)])
    assert lengths[0] <= path / 5


def test_scale_drift_is_recovered() -> None:
    turns, lengths = winding(1000)
    truth = steps_to_path(turns, lengths)
    estimate = steps_to_path(turns, 0.3 * lengths * 1.01 ** (np.arange(1000) / 100))
    assert value(score(truth, estimate), "scale_drift") == pytest.approx(1.0, rel=0.01)
    assert value(score(truth, truth), "scale_drift") == pytest.approx(0.0, abs=1e-9)


def test_local_scale_leaves_standstills_out() -> None:
    turns, lengths = winding(200)
    lengths[80:100] = 0
    truth = steps_to_path(turns, lengths)
    estimate = steps_to_path(turns, np.where(np.arange(200) < 100, lengths, 2 * lengths))
    scale = local_scale(truth, estimate, 21)
    assert scale[:60] == pytest.approx(np.ones(60))
    assert scale[130:] == pytest.approx(np.full(71, 2.0))
    assert np.isnan(scale[90])


def test_a_standstill_is_judged_by_the_steps_that_move() -> None:
    """A camera that mostly stands still, with jitter of 0.1 mm that the estimate makes 5 mm of; where it walks, twice
    its steps. Held against the median of all steps, which is 0, the jitter would be walking at 50 times its length."""
    steps = np.array([0.0] * 60 + [1, 1e-4, 1e-4, 1, 1e-4, 1e-4, 1] + [1.0] * 20)
    stretched = np.where(steps == 1e-4, 5e-3, 2 * steps)
    turns = np.full(len(steps), 2.0)
    scale = local_scale(steps_to_path(turns, steps), steps_to_path(turns, stretched), 7)
    assert scale[63] == pytest.approx(2.0)
    assert np.nanmax(scale) == pytest.approx(2.0)


def test_scale_drift_is_a_percentage_and_no_logarithm() -> None:
    """Half as large again every 100 frames is 50 %, whose logarithm is 40.5 %."""
    turns, lengths = winding(600)
    estimate = steps_to_path(turns, lengths * 1.5 ** (np.arange(600) / 100))
    assert value(score(steps_to_path(turns, lengths), estimate), "scale_drift") == pytest.approx(50.0, rel=0.02)


@pytest.mark.parametrize(("steps", "enough"), [(100, False), (101, True)])
def test_scale_drift_needs_two_windows_of_frames(steps: int, enough: bool) -> None:
    truth = steps_to_path(*winding(steps))
    found = score(truth, truth)
    if enough:
        assert value(found, "scale_drift") == pytest.approx(0, abs=1e-9)
    else:
        assert reason(found, "scale_drift") == "only 101 frames with a local scale, at least 102 are needed"


def test_scale_drift_looks_at_a_long_sequence_to_its_end() -> None:
    """Of 2,400 frames the scale grows in the second half alone: in three of four pairs of frames."""
    turns, lengths = winding(2400)
    growing = 1.05 ** (np.maximum(np.arange(2400) - 1200, 0) / 100)
    found = score(steps_to_path(turns, lengths), steps_to_path(turns, lengths * growing), alignments=("sim3",))
    assert 1.0 < value(found, "scale_drift") < 5.0


def test_a_local_scale_rests_on_three_steps_that_move() -> None:
    turns, lengths = winding(60)
    lengths[:] = 0.0
    lengths[[30, 31]] = 1.0
    truth = steps_to_path(turns, lengths)
    assert np.isnan(local_scale(truth, truth, 11)).all()
    lengths[32] = 1.0
    truth = steps_to_path(turns, lengths)
    assert np.flatnonzero(np.isfinite(local_scale(truth, truth, 11))).size == 11 - 2


def test_one_long_step_makes_no_standstill_of_the_others() -> None:
    """The reference lacks frames on the way: a hundredth of the mean step would be more than each of the others."""
    turns, lengths = winding(200)
    lengths[100] = 50_000.0
    truth = steps_to_path(turns, lengths)
    assert local_scale(truth, steps_to_path(turns, 2 * lengths), 21)[:80] == pytest.approx(np.full(80, 2.0))


SETTINGS = [
    ({"segment_lengths_m": (20.0,)}, {"segment_translation", "segment_rotation"}),
    ({"segment_every": 7}, {"segment_translation", "segment_rotation"}),
    ({"anchor_frames": 20}, {"anchored_final_error"}),
]


@pytest.mark.parametrize(("setting", "names"), SETTINGS)
def test_every_setting_changes_what_it_is_of(setting: dict[str, object], names: set[str]) -> None:
    """An estimate whose scale drifts, with a jump and a breakdown; what is after Sim(3) and no more."""
    turns, lengths = winding(400)
    estimate = noisy(steps_to_path(turns * 1.02, 0.5 * lengths * 1.02 ** (np.arange(400) / 100)), 3)
    estimate[130:, 1, 3] += 2.0
    estimate[340:] = estimate[339]
    truth, of = steps_to_path(turns, lengths), ("sim3", "anchor")
    found = [score(truth, estimate, alignments=of, **given) for given in ({}, setting)]
    plain, changed = ({(m.name, m.variant): (m.value, m.reason) for m in each.measurements} for each in found)
    differing = {key for key, result in changed.items() if result != plain[key]}
    assert {name for name, variant in differing if variant == "sim3"} == names
    if "anchor_frames" in setting:
        assert ("segment_translation", "anchor") in differing
    own = {"rpe_frames", "rpe_metres", "alignments"}  # which are in the names of what they give
    assert {name for each, _ in SETTINGS for name in each} == set(DriftSettings.model_fields) - own


@pytest.mark.parametrize(("size", "jump", "found"), [(1, 0.9, 1), (1, 0.4, 0), (0.01, 0.009, 1), (100, 40, 0)])
def test_a_jump_is_large_beside_the_median_motion(size: float, jump: float, found: int) -> None:
    """Every fifth step is ten times as long, so the mean motion is 2.8 times the median: a jump of 0.9 of the median
    is one, of 0.4 is none, in a path of centimetres as in one of hundreds of metres."""
    turns, lengths = winding(200)
    lengths[::5] = 10
    truth = steps_to_path(turns, size * lengths)
    estimate = noisy(truth, 2, 0.001 * size)
    estimate[103:, :3, 3] += [0.0, jump, 0.0]
    drift = score(truth, estimate, alignments=("none",))
    assert value(drift, "jumps", "none") == found
    assert drift.series is not None
    assert drift.series.jump_frame.tolist() == [103] * found


def test_a_wobble_where_the_reference_stands_is_no_jump() -> None:
    """The camera stands for more than half of the frames: 1 cm there is held against its usual step of a metre."""
    turns, lengths = winding(100)
    lengths[:60] = 0.0
    truth = steps_to_path(turns, lengths)
    estimate = truth.copy()
    estimate[30, 1, 3] += 0.01
    found = score(truth, estimate, alignments=("none",))
    assert (value(found, "jumps", "none"), value(found, "collapsed", "none")) == (0, 0)
    assert value(found, "largest_step_error", "none") == pytest.approx(0.01)
    estimate[30, 1, 3] += 0.6
    assert value(score(truth, estimate, alignments=("none",)), "jumps", "none") == 2  # there and back


def test_intervals_resample_blocks_of_twice_the_step() -> None:
    """190 pairs ten frames apart are 9 blocks of 20, too few for an interval; 210 pairs are 10. Likewise in metres."""
    for count, enough in ((200, False), (220, True)):
        turns, lengths = winding(count - 1)
        truth = steps_to_path(turns, 1.01 * lengths)
        found = score(truth, noisy(truth, 3))
        if enough:
            assert value(found, "rpe_translation_low95", "10 frames") < value(
                found, "rpe_translation_high95", "10 frames"
            )
        else:
            assert "only 9 independent blocks of 20 pairs" in reason(found, "rpe_translation_low95", "10 frames")
            assert "only 9 independent blocks of 20 pairs" in reason(found, "rpe_rotation_high95", "10 m")


def test_a_planted_jump_is_found_at_its_frame() -> None:
    turns, lengths = winding(400)
    truth = steps_to_path(turns, lengths)
    estimate = noisy(truth, 2)
    estimate[250:, :3, 3] += [0.0, 3.0, 0.0]
    found = score(truth, estimate)
    assert found.series is not None
    assert found.series.jump_frame.tolist() == [250]
    assert value(found, "jumps") == 1
    assert value(found, "largest_step_error_frame") == 250
    assert value(found, "collapsed") == 0
    assert "no collapse" in reason(found, "collapse_frame")


def test_a_planted_collapse_is_found_at_its_frame() -> None:
    turns, lengths = winding(400)
    truth = steps_to_path(turns, lengths)
    estimate = noisy(truth, 3)
    # Tracking is lost: from here on the camera tumbles on the spot.
    estimate[300:] = estimate[299]
    found = score(truth, estimate)
    assert value(found, "collapsed") == 1
    assert value(found, "collapse_frame") == 300
    assert found.series is not None
    assert found.series.collapse_frame.tolist() == [300]
    assert value(score(truth, noisy(truth, 4)), "collapsed") == 0


def test_frames_are_those_of_the_sequence() -> None:
    """Every second frame from the fifth on has poses: what is said of a frame names it, and not its row."""
    truth = steps_to_path(*winding(400))
    estimate = noisy(truth, 3)
    estimate[250:, :3, 3] += [0.0, 30.0, 0.0]
    estimate[300:] = estimate[299]
    frames = 5 + 2 * np.arange(401)
    pair = [Trajectory(frames, frames * 0.1, poses) for poses in (truth, estimate)]
    found = score_drift(*pair, DriftSettings(alignments=("none",), segment_lengths_m=(20.0,)))
    assert value(found, "largest_step_error_frame", "none") == 5 + 2 * 250
    assert value(found, "collapse_frame", "none") == 5 + 2 * 300
    assert found.series is not None
    series = found.series
    assert series.frame.tolist() == frames.tolist()
    assert 505 in series.jump_frame
    assert series.collapse_frame.tolist() == [605]
    assert (series.prefix_frame[0], series.prefix_frame[-1]) == (5 + 2 * 9, 805)
    assert series.segment_frame[:3].tolist() == [5, 25, 45]
    # The error of a step stands at the frame that it leads to.
    assert np.isnan(series.step_error_m[0])
    assert np.nanargmax(series.step_error_m) == 250
    assert len(series.local_scale) == len(series.anchored_error_m) == len(series.step_error_m) == 401


@pytest.mark.parametrize(("left", "collapsed"), [(31, 1), (30, 1), (29, 0)])
def test_a_collapse_needs_a_whole_window_of_steps_to_the_end(left: int, collapsed: int) -> None:
    """A window of 30 steps: a breakdown that lasts as long is one, a shorter one nobody can tell."""
    turns, lengths = winding(400)
    truth = steps_to_path(turns, lengths)
    estimate = noisy(truth, 3)
    estimate[-left:] = estimate[-left - 1]
    found = score(truth, estimate)
    assert value(found, "collapsed") == collapsed
    if collapsed:
        assert value(found, "collapse_frame") == len(truth) - left


def test_loop_gap() -> None:
    turns = np.full(359, 360 / 359)
    truth = steps_to_path(turns, np.ones(359))
    estimate = truth.copy()
    estimate[-1, :3, 3] += [0, 2.0, 0]
    found = score(truth, estimate)
    assert value(found, "loop_gap") == pytest.approx(2.0, rel=0.02)
    assert value(found, "loop_gap_share") == pytest.approx(100 * 2.0 / 359, rel=0.02)
    # Where it ends 10 m from its start, within 5 % of its path, it is a loop still.
    nearly = truth[:349].copy()
    nearly[-1, :3, 3] += [0, 2.0, 0]
    apart = np.linalg.norm(truth[348, :3, 3] - truth[0, :3, 3])
    assert 9 < apart < 0.05 * 348
    assert value(score(truth[:349], nearly), "loop_gap") == pytest.approx(2.0, rel=0.02)
    assert value(score(truth[:343], truth[:343]), "loop_gap") == pytest.approx(0, abs=1e-9)
    assert reason(score(truth[:342], truth[:342]), "loop_gap_share") == (
        "no loop: the reference ends 17.9 m from its start, more than 5 % of its path of 341 m"
    )
    half = score(truth[:180], estimate[:180])
    assert "no loop" in reason(half, "loop_gap")
    assert {m.samples for m in half.measurements if m.name == "loop_gap"} == {180}


def test_prefixes_are_the_ate_of_the_cut_sequence() -> None:
    turns, lengths = winding(200)
    truth, estimate = steps_to_path(turns, lengths), noisy(steps_to_path(turns * 1.01, lengths), 5)
    series = score(truth, estimate).series
    assert series is not None
    for k in (0, 20, 63):
        end = int(series.prefix_frame[k]) + 1
        cut = score_trajectory(trajectory(truth[:end]), trajectory(estimate[:end]), end)
        expected = next(m.value for m in cut.measurements if (m.name, m.variant) == ("ate_rmse", "sim3"))
        assert series.prefix_ate_m[k] == pytest.approx(expected)
    assert series.prefix_frame[-1] == 200


def test_relative_errors_at_a_distance_are_evos() -> None:
    """Steps of 0.4 to 1.6 m and a standstill: pairs are evo's all_pairs within a tenth of the step."""
    from evo.core.metrics import RPE, PoseRelation, StatisticsType, Unit
    from evo.core.trajectory import PosePath3D

    turns, _ = winding(200)
    lengths = np.random.default_rng(7).uniform(0.4, 1.6, 200)
    lengths[60:70] = 0
    truth, estimate = steps_to_path(turns, lengths), noisy(steps_to_path(turns + 0.5, 2 * lengths), 4)
    found = score(truth, estimate, alignments=("none",))
    for step in (1.0, 10.0):
        metric = RPE(PoseRelation.translation_part, step, Unit.meters, 0.1, all_pairs=True, pairs_from_reference=True)
        metric.process_data((PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(estimate))))
        expected = metric.get_statistic(StatisticsType.rmse)
        assert value(found, "rpe_translation_rmse", f"{step:g} m none") == pytest.approx(expected, rel=1e-9)
        (measured,) = [
            m for m in found.measurements if (m.name, m.variant) == ("rpe_rotation_rmse", f"{step:g} m none")
        ]
        assert measured.samples == len(metric.error) > 30
        assert "within 10 %" in measured.convention


def test_pairs_at_a_distance_by_hand() -> None:
    """A straight way with stops at 0, 0.95, 1, 2.2, 3.15 m, forward along z, and an estimate that is off at one pose.

    Pairs 1 m apart within a tenth: 0 to 1 m (nearest), 2.2 to 3.15 m. From 0.95 and 1 m the nearest is 2.2 m: too far.
    """
    truth = pose_matrix(np.tile(np.eye(3), (5, 1, 1)), np.array([[0, 0, z] for z in (0, 0.95, 1, 2.2, 3.15)]))
    estimate = truth.copy()
    estimate[2, :3, 3] += [0.3, 0, 0]
    estimate[4, :3, 3] += [0, 0.4, 0]
    found = score(truth, estimate, alignments=("none",), rpe_metres=(1.0, 0.05, 0.2, 4.0))
    assert value(found, "rpe_translation_rmse", "1 m none") == pytest.approx(np.sqrt((0.3**2 + 0.4**2) / 2))
    assert value(found, "rpe_translation_rmse", "0.05 m none") == pytest.approx(0.3)
    assert "no two poses are 0.2 m of path apart within 10 %" in reason(found, "rpe_translation_rmse", "0.2 m none")
    assert "0.95 m apart" in reason(found, "rpe_rotation_rmse", "0.2 m none")
    assert "shorter than a step of 4 m" in reason(found, "rpe_rotation_rmse", "4 m none")
    assert "shorter than a step" in reason(found, "rpe_rotation_rmse", "10 frames none")


def test_coarse_poses_have_no_error_at_one_metre() -> None:
    """Poses 5 m apart: a step of 1 m is none of them, whatever the label wishes."""
    turns, _ = winding(60)
    found = score(steps_to_path(turns, np.full(60, 5.0)), noisy(steps_to_path(turns, np.full(60, 5.0)), 6))
    for name in ("rpe_translation_rmse", "rpe_translation_low95", "rpe_rotation_rmse", "rpe_rotation_high95"):
        assert "no two poses are 1 m" in reason(found, name, "1 m")
    assert value(found, "rpe_translation_rmse", "10 m") > 0


def test_intervals_cover_what_they_should() -> None:
    """Blocks of dependent errors: the truth lies within the 95 % interval about that often, the plain one fails."""
    inside = 0
    for seed in range(100):
        innovations = np.random.default_rng(seed).normal(size=2100)
        errors = np.convolve(innovations, np.ones(20) / np.sqrt(20), mode="valid")[:2000]
        low, high = rmse_interval(errors, 40)
        inside += low <= 1.0 <= high
    assert 84 <= inside <= 99
    assert "independent blocks" in reason(
        score(*(steps_to_path(*winding(60)),) * 2), "rpe_translation_low95", "10 frames"
    )


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda t: (t, np.full_like(t, np.nan)), "only 0 matched frames"),
        (lambda t: (t[:2], t[:2]), "only 2 matched frames"),
        (lambda t: (np.tile(t[3], (50, 1, 1)), t[:50]), "static reference"),
        (lambda t: (t[:50], np.tile(t[3], (50, 1, 1))), "the estimate does not move"),
    ],
)
def test_what_cannot_be_scored_has_its_reason(spoil: object, why: str) -> None:
    truth, estimate = spoil(steps_to_path(*winding(60)))  # type: ignore[operator]
    found = score(truth, estimate)
    assert found.series is None
    defined = "none" if "estimate" in why else ""  # a still estimate has errors where it is not aligned
    aligned = [m for m in found.measurements if not (defined and m.variant.endswith(defined))]
    assert all(m.reason is not None and (why in m.reason or "anchors" in m.reason) for m in aligned)
    whole = score(steps_to_path(*winding(60)), steps_to_path(*winding(60)))
    assert [(m.name, m.variant) for m in found.measurements] == [(m.name, m.variant) for m in whole.measurements]


def test_poses_that_are_not_rigid_are_left_out_and_counted() -> None:
    truth = steps_to_path(*winding(60))
    estimate = truth.copy()
    estimate[7, :3, :3] *= 2
    estimate[9, :3, 0] *= -1
    scored = score_trajectory(trajectory(truth), trajectory(estimate), 61)
    counts = {(m.name, m.variant): m.value for m in scored.measurements}
    assert counts["dropped_frames", "not_rigid"] == 2
    assert counts["matched_frames", ""] == 59


@pytest.mark.parametrize("turning", ["path", "camera", "neither"])
def test_an_orientation_that_never_changes_is_none_where_there_is_something_to_turn_for(turning: str) -> None:
    """An estimate without orientation beside a path that winds, a camera that pans on a rail, and a plain rail."""
    lengths = np.ones(60)
    truth = steps_to_path(winding(60)[0] if turning == "path" else np.zeros(60), lengths)
    if turning == "camera":
        truth[:, :3, :3] = Rotation.from_rotvec(np.linspace(0, 1, 61)[:, None] * [0.0, 1, 0]).as_matrix()
    truth[:, :3, 3] += 1e-3 * np.random.default_rng(0).normal(size=(61, 3))
    estimate = truth.copy()
    estimate[:, :3, :3] = np.eye(3)
    scored = score_trajectory(trajectory(truth), trajectory(estimate), 61)
    found = {(m.name, m.variant): m for m in scored.measurements}
    assert found["ate_rmse", "sim3"].value == pytest.approx(0, abs=1e-9)
    rotation = found["rpe_rotation_rmse", "none"]
    if turning == "neither":
        assert rotation.value == pytest.approx(0, abs=1e-9)
        assert len(scored.rotation_error_deg) == 61
    else:
        assert f"never changes while the {turning} turns" in (rotation.reason or "")
        assert len(scored.rotation_error_deg) == 0


def test_the_anchored_final_error_is_the_last_one() -> None:
    """5 m off on the way, 1 m off at the end."""
    truth = steps_to_path(*winding(60))
    estimate = truth.copy()
    estimate[40, 1, 3] += 5.0
    estimate[-1, 1, 3] += 1.0
    found = score(truth, estimate)
    assert value(found, "anchored_final_error") == pytest.approx(1.0, rel=1e-6)
    assert found.series is not None
    assert found.series.anchored_error_m[40] == pytest.approx(5.0, rel=1e-6)


def test_the_anchored_error_is_in_the_scale_of_the_first_frames() -> None:
    """The estimate is twice as large for 50 frames: what comes after them is half as long as it should be."""
    turns, lengths = winding(100)
    truth = steps_to_path(turns, lengths)
    found = score(truth, steps_to_path(turns, np.where(np.arange(100) < 50, 2 * lengths, lengths)))
    expected = 0.5 * np.linalg.norm(truth[-1, :3, 3] - truth[50, :3, 3])
    assert value(found, "anchored_final_error") == pytest.approx(expected, rel=1e-6)


def test_a_straight_beginning_leaves_a_gap_and_its_reason() -> None:
    """Frames on one line determine no alignment; from the first that lies beside it on there is one."""
    turns, lengths = winding(60)
    turns[:12] = 0.0
    truth = steps_to_path(turns, lengths)
    assert not truth[:14, :2, 3].any()
    assert truth[14, 0, 3] != 0
    found = score(truth, truth, anchor_frames=8)
    assert found.series is not None
    gaps = np.isnan(found.series.prefix_ate_m)
    assert found.series.prefix_frame[gaps].tolist() == [frame for frame in found.series.prefix_frame if frame <= 13]
    assert gaps.any()
    assert np.isnan(found.series.anchored_error_m).all()
    assert reason(found, "anchored_final_error").startswith("degenerate covariance: the first 8 matched frames lie")
    assert value(found, "jumps") == 0


@pytest.mark.parametrize("name", ["segment_translation", "segment_rotation"])
def test_a_path_shorter_than_its_segments_has_none(name: str) -> None:
    truth = steps_to_path(*winding(20))
    found = score(truth, noisy(truth, 1), segment_lengths_m=(50.0, 30.0))
    assert reason(found, name) == "the path is shorter than the shortest segment of 30 m"


def test_steps_of_a_slow_walk_have_a_ratio_too() -> None:
    """From a hundredth of the usual step on; twice as long in the estimate."""
    turns, lengths = winding(200)
    lengths[80:120] = 0.012
    truth = steps_to_path(turns, lengths)
    estimate = steps_to_path(turns, np.where(lengths == 1, lengths, 2 * lengths))
    assert local_scale(truth, estimate, 21)[90:110] == pytest.approx(np.full(20, 2.0))


def test_of_two_poses_as_near_to_a_step_the_first_is_taken() -> None:
    """From the beginning 15/16 and 17/16 of a metre: a metre lies in the middle."""
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 2, 3] = [0.0, 0.9375, 1.0625, 9.0]
    first, last = step_pairs(poses, Step(1.0, "m"))
    assert (first.tolist(), last.tolist()) == ([0], [1])


@pytest.mark.parametrize(("way", "there"), [(0.95, True), (1.05, True), (0.85, False), (1.15, False)])
def test_a_way_of_nearly_one_step_is_one(way: float, there: bool) -> None:
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 2, 3] = way
    if there:
        first, last = step_pairs(poses, Step(1.0, "m"))
        assert (first.tolist(), last.tolist()) == ([0], [1])
        return
    words = "the path of 0.85 m is shorter than a step of 1 m" if way < 1 else "no two poses are 1 m of path apart"
    with pytest.raises(UnscorableError, match=words):
        step_pairs(poses, Step(1.0, "m"))


@pytest.mark.parametrize(("size", "there"), [(4.0, True), (5.0, False)])
def test_the_longest_step_in_frames_is_from_the_first_to_the_last(size: float, there: bool) -> None:
    poses = np.tile(np.eye(4), (5, 1, 1))
    if there:
        first, last = step_pairs(poses, Step(size, "frames"))
        assert (first.tolist(), last.tolist()) == ([0], [4])
        return
    with pytest.raises(UnscorableError, match="the path is shorter than a step of 5 frames"):
        step_pairs(poses, Step(size, "frames"))


def test_conventions_say_what_was_asked_for_and_how_the_estimate_was_moved() -> None:
    truth = steps_to_path(*winding(60))
    asked = {"segment_lengths_m": (5.0, 7.5), "segment_every": 7, "anchor_frames": 20, "alignments": ("anchor", "se3")}
    found = score(truth, truth, **asked, rpe_frames=(3,), rpe_metres=(2.5,))
    of = {(m.name, m.variant): (m.unit, m.convention) for m in found.measurements}
    moved = {
        "anchor": "after Sim(3) alignment on the first 20 matched frames, then free to drift",
        "se3": "after SE(3) alignment (no scale) over all matched frames",
        "sim3": "after Sim(3) alignment over all matched frames",
    }
    for name, words in moved.items():
        for part, unit, error in (("translation", "%", "translation"), ("rotation", "deg/m", "rotation angle")):
            assert of[f"segment_{part}", name] == (
                unit,
                f"KITTI odometry: {error} error over path length, mean over all segments of 5, 7.5 m, one starting"
                f" every 7 matched frames, {words}",
            )
        for quantity, unit in (
            *(("loop_gap", "m"), ("loop_gap_share", "%"), ("jumps", "1"), ("largest_step_error", "m")),
            *(("largest_step_error_frame", "frames"), ("collapsed", "1"), ("collapse_frame", "frames")),
        ):
            assert of[quantity, name][0] == unit
            assert (words in of[quantity, name][1]) is (name != "sim3"), quantity
        for part, unit in (("translation", "m"), ("rotation", "deg")):
            start = f"RMSE of the {part} of the relative pose error over all (overlapping) pairs"
            for step in ("3 frames", "2.5 m"):
                variant = step if name == "sim3" else f"{step} {name}"
                measured_in, convention = of[f"rpe_{part}_rmse", variant]
                assert measured_in == unit
                assert convention.startswith(f"{start} {step} ")
                assert convention.endswith(f", {words}")
                ends = [of.get((f"rpe_{part}_{end}95", variant)) for end in ("low", "high")]
                if name == "se3":  # intervals stand under the first alignment and under Sim(3)
                    assert ends == [None, None]
                    continue
                for side, end in zip(("lower", "upper"), ends, strict=True):
                    assert end is not None
                    assert end[0] == unit
                    assert end[1].startswith(f"{side} end of the 95 % interval of rpe_{part}_rmse, by")
    once = {key for key in of if key[0] in ("scale_drift", "anchored_final_error")}
    assert once == {("scale_drift", "sim3"), ("anchored_final_error", "sim3")}
    assert "after Sim(3) alignment on the first 20;" in of["anchored_final_error", "sim3"][1]
    assert (of["scale_drift", "sim3"][0], of["anchored_final_error", "sim3"][0]) == ("%", "m")
    assert of["scale_drift", "sim3"][1].endswith("of 51 steps")


@pytest.mark.parametrize("side", [0, 1])
def test_without_orientation_what_rests_on_positions_is_there(side: int) -> None:
    """A circle of which one side knows positions alone, the estimate's last one 2 m too high."""
    truth = steps_to_path(np.full(359, 360 / 359), np.ones(359))
    estimate = truth.copy()
    estimate[-1, 1, 3] += 2.0
    pair = [trajectory(truth), trajectory(estimate)]
    pair[side] = replace(pair[side], has_orientation=False)
    found = score_drift(*pair, DriftSettings(alignments=("none",)))
    assert value(found, "loop_gap", "none") == pytest.approx(2.0)
    assert value(found, "anchored_final_error") == pytest.approx(2.0, rel=1e-6)
    assert value(found, "scale_drift") == pytest.approx(0, abs=1e-6)
    names = ("segment_translation", "segment_rotation", "jumps", "largest_step_error", "largest_step_error_frame")
    why = f"the {('reference', 'estimate')[side]} has positions only: there is no orientation"
    for name in (*names, "collapsed", "collapse_frame"):
        assert reason(found, name, "none") == why
    for name in ("rpe_translation_rmse", "rpe_rotation_rmse", "rpe_translation_low95", "rpe_rotation_high95"):
        assert {reason(found, name, f"{step} none") for step in ("1 frames", "10 m")} == {why}
    series = found.series
    assert series is not None
    assert np.isnan(series.step_error_m).all()
    assert len(series.step_error_m) == len(series.anchored_error_m) == 360
    assert np.isfinite(series.prefix_ate_m).all()
    for none in (series.segment_frame, series.segment_translation, series.jump_frame, series.collapse_frame):
        assert len(none) == 0


def test_a_jump_stands_out_from_twenty_five_steps_on_each_side() -> None:
    """Thirteen of the 25 steps after the first one are small; the last of them decides."""
    errors = np.array([2.0] + 12 * [1.0] + 13 * [0.01] + 40 * [1.0])
    motion = np.ones(len(errors))
    assert jump_steps(errors, motion, 10.0).tolist() == [0]
    errors[25] = 1.0
    assert jump_steps(errors, motion, 10.0).tolist() == []
    assert jump_steps(errors[::-1].copy(), motion, 10.0).tolist() == []
    errors[25] = 0.01
    assert jump_steps(errors[::-1].copy(), motion, 10.0).tolist() == [len(errors) - 1]


@pytest.mark.parametrize(("share", "found"), [(0.15, None), (0.25, 40)])
def test_a_collapse_is_a_fifth_of_the_motion_at_least(share: float, found: int | None) -> None:
    """However good the trajectory was before."""
    errors = np.array(40 * [0.001] + 40 * [share])
    assert collapse_step(errors, np.ones(80), 10, 5.0) == found


def test_errors_of_short_steps_are_held_against_the_usual_motion() -> None:
    truth = np.tile(np.eye(4), (6, 1, 1))
    truth[:, 2, 3] = [0.0, 1.0, 2.0, 2.25, 4.25, 4.25]
    estimate = truth.copy()
    estimate[3:, 0, 3] = 0.5
    errors, motion = step_errors(truth, estimate)
    assert errors.tolist() == [0, 0, 0.5, 0, 0]
    assert motion.tolist() == [1, 1, 1, 2, 1]


def test_prefixes_begin_with_ten_frames_and_end_with_all() -> None:
    truth = steps_to_path(*winding(400))
    found = score(truth, truth)
    assert found.series is not None
    frames = found.series.prefix_frame.tolist()
    assert (frames[0], frames[-1], len(frames)) == (9, 400, 64)


def test_the_steps_that_are_measured_unless_an_experiment_says_otherwise() -> None:
    truth = steps_to_path(*winding(60))
    found = score(truth, truth, alignments=("none",))
    steps = ("1 frames", "10 frames", "100 frames", "1 m", "10 m")
    for name in ("rpe_translation_rmse", "rpe_rotation_rmse", "rpe_translation_low95", "rpe_rotation_high95"):
        variants = [m.variant for m in found.measurements if m.name == name]
        assert variants == [*(f"{step} none" for step in steps), *steps]


def test_of_a_short_sequence_the_whole_is_the_only_prefix() -> None:
    truth = steps_to_path(*winding(6))
    found = score(truth, truth)
    assert found.series is not None
    assert found.series.prefix_frame.tolist() == [6]


def test_the_anchors_are_the_first_frames_and_no_more() -> None:
    """From the first frame behind the anchors on the estimate lies 3 m aside: all of it is error."""
    truth = steps_to_path(*winding(60))
    estimate = truth.copy()
    estimate[8:, 1, 3] += 3.0
    found = score(truth, estimate)
    assert found.series is not None
    assert found.series.anchored_error_m[:8] == pytest.approx(np.zeros(8), abs=1e-6)
    assert found.series.anchored_error_m[8:] == pytest.approx(np.full(53, 3.0), rel=1e-6)


def wobbling(errors: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """A straight walk of 1 m steps, and an estimate that is off by these lengths, step by step, to and fro."""
    truth = np.tile(np.eye(4), (len(errors) + 1, 1, 1))
    truth[:, 2, 3] = np.arange(len(errors) + 1)
    estimate = truth.copy()
    signs = np.where(np.arange(len(errors)) % 2, -1.0, 1.0)
    estimate[1:, 0, 3] = np.cumsum(signs * errors)
    return truth, estimate


@pytest.mark.parametrize(("error", "jumps"), [(0.68, 0), (0.72, 1)])
def test_a_jump_is_ten_times_its_surroundings(error: float, jumps: int) -> None:
    found = score(*wobbling([0.07] * 40 + [error] + [0.07] * 40), alignments=("none",))
    assert value(found, "jumps", "none") == jumps


@pytest.mark.parametrize(("error", "collapsed"), [(0.48, 0), (0.52, 1)])
def test_a_collapse_is_five_times_what_was_before(error: float, collapsed: int) -> None:
    found = score(*wobbling([0.1] * 45 + [error] * 60), alignments=("none",))
    assert value(found, "collapsed", "none") == collapsed


def test_the_median_of_an_even_number_of_steps_lies_between_two() -> None:
    errors = np.array([0.1] * 5 + [0.5] * 5 + [2.0] * 20)
    assert collapse_step(errors, np.ones(30), 10, 5.0) == 10


def test_a_single_bad_step_among_few_is_no_breakdown() -> None:
    """The mean of a window is high where one step is far off; its median is not."""
    errors = np.array([0.1] * 20 + [0.6, 0.1, 0.1, 40.0, 0.1, 0.1, 0.1] + [0.1] * 20)
    assert collapse_step(errors, np.ones(len(errors)), 7, 5.0) is None


@pytest.mark.parametrize(
    "setting",
    [
        {"anchor_frames": 2},
        {"segment_every": 0},
        {"rpe_metres": (0.0,)},
        {"rpe_metres": (float("inf"),)},
        {"rpe_frames": (0,)},
        {"segment_lengths_m": ()},
        {"segment_lengths_m": (-1.0,)},
        {"alignments": ()},
        {"alignments": ("sim2",)},
        {"alignments": ("se3", "none", "se3")},
        {"rpe_frames": (2, 2)},
        {"rpe_metres": (1, 2.0, 1.0)},
        {"segment_lengths_m": (5.0, 5)},
        {"jump_factor": 3.0},
    ],
)
def test_settings_without_meaning_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DriftSettings.model_validate(setting)
