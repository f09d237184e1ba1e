"""Metrics beside what they replace: AUC with all-pairs arrays, ATE and RPE with evo (pytest-benchmark)."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.spatial.transform import Rotation

from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.metrics.pair_auc import count_pairs
from lingbot_eval.metrics.trajectory import TrajectorySettings, score_trajectory
from lingbot_eval.types import Trajectory


def poses(count: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    positions = np.cumsum(rng.normal(size=(count, 3)), axis=0)
    turns = Rotation.from_rotvec(np.cumsum(0.02 * rng.normal(size=(count, 3)), axis=0))
    shaken = positions + noise * np.random.default_rng(1).normal(size=positions.shape)
    return pose_matrix(turns.as_matrix(), shaken)


def all_pairs_auc(truth: np.ndarray, guess: np.ndarray, threshold: int = 30) -> float:
    """AUC with arrays over all pairs, as evaluators commonly have it."""
    i, j = np.triu_indices(len(truth), 1)
    relative = []
    for camera_to_world in (truth, guess):
        world_to_camera = np.linalg.inv(camera_to_world)
        relative.append(world_to_camera[i] @ camera_to_world[j])
    turn = np.swapaxes(relative[0][:, :3, :3], 1, 2) @ relative[1][:, :3, :3]
    cosine = (np.trace(turn, axis1=1, axis2=2) - 1) / 2
    rotation = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    a, b = (r[:, :3, 3] / np.linalg.norm(r[:, :3, 3], axis=1, keepdims=True) for r in relative)
    angle = np.degrees(np.arccos(np.clip(np.sum(a * b, axis=1), -1, 1)))
    error = np.maximum(rotation, np.minimum(angle, 180 - angle))
    histogram, _ = np.histogram(error, bins=np.arange(threshold + 1))
    return 100 * float(np.mean(np.cumsum(histogram / len(error))))


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_auc_of_10000_frames(benchmark: BenchmarkFixture) -> None:
    """Wanted: 15 s and 1 GB at most for one definition."""
    truth, guess = poses(10_000, 0.0), poses(10_000, 0.5)
    counts = benchmark.pedantic(count_pairs, args=(truth, guess), rounds=1)
    assert counts.pairs == 10_000 * 9_999 // 2
    assert benchmark.stats is None or benchmark.stats.stats.max < 15


def test_auc_against_all_pairs_at_4000_frames(benchmark: BenchmarkFixture) -> None:
    """Wanted: at least 5 times faster and 10 times leaner, and the same number."""
    truth, guess = poses(4000, 0.0), poses(4000, 0.5)
    ours = benchmark.pedantic(count_pairs, args=(truth, guess), rounds=3)
    started = time.perf_counter()
    expected = all_pairs_auc(truth, guess)
    theirs_s = time.perf_counter() - started
    started = time.perf_counter()
    count_pairs(truth, guess)
    ours_s = time.perf_counter() - started
    small_truth, small_guess = truth[::4], guess[::4]  # memory of both at 1,000 frames: tracing slows them
    leaner = peak_bytes(lambda: all_pairs_auc(small_truth, small_guess)) / peak_bytes(
        lambda: count_pairs(small_truth, small_guess)
    )
    benchmark.extra_info.update(all_pairs_s=theirs_s, times_faster=theirs_s / ours_s, times_leaner=leaner)
    assert ours.area(30) == pytest.approx(expected, abs=1e-6)
    assert theirs_s > 5 * ours_s
    assert leaner > 10


def test_ate_and_rpe_of_10000_poses_against_evo(benchmark: BenchmarkFixture) -> None:
    """Wanted: not slower than calling evo for the same figures (one alignment, ATE, RPE in metres and degrees)."""
    truth, guess = poses(10_000, 0.0), poses(10_000, 0.1)
    frames = np.arange(10_000)
    reference, estimate = Trajectory(frames, frames / 30, truth), Trajectory(frames, frames / 30, guess)
    settings = TrajectorySettings(alignments=("sim3",))
    benchmark.pedantic(score_trajectory, args=(reference, estimate, 10_000, settings), rounds=3)
    started = time.perf_counter()
    score_trajectory(reference, estimate, 10_000, settings)
    ours_s = time.perf_counter() - started
    started = time.perf_counter()
    by_evo(truth, guess)
    theirs_s = time.perf_counter() - started
    benchmark.extra_info.update(evo_s=theirs_s, times_faster=theirs_s / ours_s)
    assert ours_s < theirs_s


def by_evo(truth: np.ndarray, guess: np.ndarray) -> None:
    from evo.core.metrics import APE, RPE, PoseRelation, Unit
    from evo.core.trajectory import PosePath3D

    reference, path = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(guess))
    path.align(reference, correct_scale=True)
    for metric in (
        APE(PoseRelation.translation_part),
        RPE(PoseRelation.translation_part, 1, Unit.frames),
        RPE(PoseRelation.rotation_angle_deg, 1, Unit.frames),
    ):
        metric.process_data((reference, path))
        metric.get_all_statistics()
