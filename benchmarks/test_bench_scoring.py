"""How long scoring takes: 10,000 poses, and depth frames at 518×378 (pytest-benchmark)."""

from __future__ import annotations

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.spatial.transform import Rotation

from lingbot_eval.files.times import associate
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.metrics.depth import DepthScorer
from lingbot_eval.metrics.trajectory import score_trajectory
from lingbot_eval.types import Trajectory


def _trajectory(noise: float) -> Trajectory:
    rng = np.random.default_rng(0)
    positions = np.cumsum(rng.normal(size=(10_000, 3)), axis=0)
    turns = Rotation.from_rotvec(np.cumsum(0.02 * rng.normal(size=(10_000, 3)), axis=0))
    shaken = positions + noise * np.random.default_rng(1).normal(size=positions.shape)
    return Trajectory(np.arange(10_000), np.arange(10_000) / 30, pose_matrix(turns.as_matrix(), shaken))


def test_score_10000_poses(benchmark: BenchmarkFixture) -> None:
    """ATE under four alignments and RPE."""
    reference, estimate = _trajectory(0.0), _trajectory(0.1)
    score = benchmark.pedantic(score_trajectory, args=(reference, estimate, 10_000), rounds=3)
    assert all(m.reason is None for m in score.measurements)


def test_associate_30000_stamps(benchmark: BenchmarkFixture) -> None:
    """Two unrelated series over the same span."""
    reference, times = np.sort(np.random.default_rng(0).random((2, 30_000)), axis=1) * 1000
    assert len(benchmark(associate, reference, times, 0.02)[0]) > 10_000


def test_score_a_depth_frame(benchmark: BenchmarkFixture) -> None:
    """One frame at 518×378, all three alignments; wanted: 60 frames a second or more."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 6.5, (378, 518)).astype(np.float32)
    prediction = (truth * np.exp(0.1 * rng.normal(size=truth.shape))).astype(np.float32)
    scorer = DepthScorer()
    assert benchmark(scorer.update, 0, truth, prediction) is not None
