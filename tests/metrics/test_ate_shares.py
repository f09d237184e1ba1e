"""ATE beside that of an estimate that never moves, and beside the way walked: on a trajectory done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lingbot_eval.metrics.trajectory import score_trajectory
from lingbot_eval.types import Trajectory


def along(positions: list[list[float]]) -> Trajectory:
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, 3] = positions
    indices = np.arange(len(positions))
    return Trajectory(indices, indices.astype(float), poses)


SQUARE = [[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]


def shares(estimate: list[list[float]]) -> dict[str, float | None]:
    found = score_trajectory(along(SQUARE), along(estimate), 4).measurements
    return {m.name: m.value for m in found if m.name.startswith("ate_share") and m.variant == "sim3"}


def test_shares_of_a_square() -> None:
    # From the middle every corner is √2 away, so a motionless estimate errs by √2; the path is 6 long.
    assert shares(SQUARE) == pytest.approx({"ate_share_of_motionless": 0.0, "ate_share_of_path": 0.0}, abs=1e-6)
    found = score_trajectory(along(SQUARE), along([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 3, 0]]), 4).measurements
    ate = next(m.value for m in found if (m.name, m.variant) == ("ate_rmse", "sim3"))
    assert ate is not None
    assert ate > 0.1
    value = shares([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 3, 0]])
    assert value["ate_share_of_motionless"] == pytest.approx(100 * ate / np.sqrt(2))
    assert value["ate_share_of_path"] == pytest.approx(100 * ate / 6)


def test_an_estimate_that_stands_still_has_a_reason() -> None:
    found = score_trajectory(along(SQUARE), along([[1.0, 1, 1]] * 4), 4).measurements
    for measured in found:
        if measured.name.startswith("ate_share") and measured.variant in ("sim3", "se3"):
            assert measured.value is None
            assert "does not move" in str(measured.reason)


def test_a_floor_that_stands_still_by_design_errs_by_the_spread_of_the_reference() -> None:
    score = score_trajectory(along(SQUARE), along([[1.0, 5, 1]] * 4), 4, motionless=True)
    values = {(m.name, m.variant): m.value for m in score.measurements}
    for alignment in ("sim3", "se3"):
        assert values["ate_rmse", alignment] == pytest.approx(np.sqrt(2))
        assert values["ate_share_of_motionless", alignment] == pytest.approx(100)
        assert values["ate_share_of_path", alignment] == pytest.approx(100 * np.sqrt(2) / 6)
    assert values["ate_rmse", "none"] == pytest.approx(np.sqrt(np.mean([27, 27, 11, 11])))
    np.testing.assert_allclose(score.position_error_m, np.sqrt(2))
    assert len(score.rotation_error_deg) == 0, "no rotation aligns it better than another"
    reasons = {(m.name, m.variant): m.reason for m in score.measurements if m.reason}
    assert "does not move" in reasons["scale", "sim3"]
    assert "does not move" in reasons["rpe_rotation_rmse", "sim3"]
    assert "only 4 matched frames, more than the 8 anchors" in reasons["ate_rmse", "anchor"]
    still = score_trajectory(along([[1.0, 1, 1]] * 4), along([[1.0, 5, 1]] * 4), 4, motionless=True)
    assert all("static reference" in str(m.reason) for m in still.measurements if m.name == "ate_rmse")


def test_every_alignment_has_its_share() -> None:
    """Twice as large, unaligned: corners off by 0, 2, √8 and 2, so RMSE 2, of a spread of √2 and a path of 6."""
    twice = [[2 * x, 2 * y, 2 * z] for x, y, z in SQUARE]
    found = score_trajectory(along(SQUARE), along(twice), 4).measurements
    values = {(m.name, m.variant): m.value for m in found}
    assert values["ate_share_of_motionless", "none"] == pytest.approx(100 * 2 / np.sqrt(2))
    assert values["ate_share_of_path", "none"] == pytest.approx(100 * 2 / 6)
    assert values["ate_share_of_path", "se3"] == pytest.approx(100 * np.sqrt(2) / 6)
    assert values["ate_share_of_path", "sim3"] == pytest.approx(0, abs=1e-9)
    assert values["scale", "sim3"] == pytest.approx(0.5)
