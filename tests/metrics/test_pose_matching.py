"""Which poses are scored: matched by frame, usable, and whether they have an orientation at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.metrics.matching import finite_poses, match_poses, usable_poses
from lingbot_eval.types import FloatArray, Trajectory


def trajectory(poses: FloatArray, first: int = 0, has_orientation: bool = True) -> Trajectory:
    indices = np.arange(first, first + len(poses))
    return Trajectory(indices, indices / 10, poses, has_orientation)


def straight(count: int = 12, degrees: float = 0.0, aside: float = 0.0) -> FloatArray:
    """A way straight ahead that ends ``aside`` as a share of it, the camera turned so far in the end."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    share = np.linspace(0, 1, count)
    poses[:, :3, :3] = Rotation.from_rotvec(np.radians(degrees) * share[:, None] * [0.0, 1, 0]).as_matrix()
    poses[:, 2, 3] = 10 * share
    poses[:, 0, 3] = 10 * aside * np.sin(2 * np.pi * share)
    return poses


def still(poses: FloatArray) -> FloatArray:
    """The same positions, and one orientation throughout."""
    found = poses.copy()
    found[:, :3, :3] = np.eye(3)
    return found


@pytest.mark.parametrize(
    ("truth", "what"),
    [
        (straight(degrees=2.5), None),
        (straight(degrees=3.5), "camera"),
        (straight(aside=0.02), None),
        (straight(aside=0.2), "path"),
        (straight(degrees=20.0, aside=0.2), "path"),
    ],
)
def test_an_orientation_that_never_changes_is_none_where_something_turns(truth: FloatArray, what: str | None) -> None:
    found = match_poses(trajectory(truth), trajectory(still(truth)))
    words = f"the orientation of the estimate never changes while the {what} turns: it is taken as none"
    assert found.without_orientation == (None if what is None else words)
    turned = match_poses(trajectory(still(truth)), trajectory(truth))
    # Of the reference its own path decides alone: its camera never turned.
    assert (turned.without_orientation is not None) is (what == "path")


def test_two_poses_are_too_few_to_tell() -> None:
    truth = straight(degrees=60.0, aside=0.3)
    for count, told in ((2, False), (3, True)):
        found = match_poses(trajectory(truth[:: 12 // count][:count]), trajectory(still(truth[:: 12 // count][:count])))
        assert (found.without_orientation is not None) is told, count
    found = match_poses(trajectory(truth), trajectory(truth))
    assert found.without_orientation is None


@pytest.mark.parametrize("change", [1e-7, 1e-5])
def test_rounding_is_no_turn(change: float) -> None:
    truth = straight(aside=0.3)
    guess = still(truth)
    guess[5, 0, 1] += change
    found = match_poses(trajectory(straight(degrees=10.0, aside=0.3)), trajectory(guess))
    assert (found.without_orientation is not None) is (change < 1e-6)


@pytest.mark.parametrize("side", ["reference", "estimate"])
def test_positions_alone_have_no_orientation(side: str) -> None:
    poses = straight(degrees=10.0)
    pair = [trajectory(poses, has_orientation=name != side) for name in ("reference", "estimate")]
    assert match_poses(*pair).without_orientation == f"the {side} has positions only: there is no orientation"
    both = match_poses(*[trajectory(poses, has_orientation=False)] * 2)
    assert both.without_orientation == "the estimate has positions only: there is no orientation"


@pytest.mark.parametrize(("shear", "usable"), [(0.04, True), (0.09, True), (0.12, False), (0.4, False)])
def test_what_is_nearly_a_rotation_is_mended_and_the_rest_is_counted(shear: float, usable: bool) -> None:
    """RᵀR − I of a matrix with one sheared entry: the shear itself, and its square."""
    poses = straight(degrees=10.0)
    guess = poses.copy()
    guess[4, :3, :3] = guess[4, :3, :3] @ [[1, shear, 0], [0, 1, 0], [0, 0, 1]]
    guess[7, 0, 3] = np.nan
    found = match_poses(trajectory(poses), trajectory(guess))
    assert (found.dropped, found.not_rigid) == (1, 0 if usable else 1)
    kept = [row for row in range(12) if row != 7 and (usable or row != 4)]
    assert found.indices.tolist() == kept
    assert len(found) == len(kept)
    rotations = found.estimate[:, :3, :3]
    np.testing.assert_allclose(
        np.swapaxes(rotations, 1, 2) @ rotations, np.tile(np.eye(3), (len(kept), 1, 1)), atol=1e-12
    )
    np.testing.assert_array_equal(found.estimate[:, :3, 3], guess[kept, :3, 3])


def test_mirror_images_and_numbers_beyond_float64_are_no_poses() -> None:
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[1, 0, 0] = -1.0
    poses[2, 0, 3] = np.inf
    poses[3, :3, :3] *= 1e200
    poses[4, 0, 3] = 1e300
    assert finite_poses(poses).tolist() == [True, True, False, True, True]
    assert usable_poses(poses).tolist() == [True, False, False, False, True]
    assert usable_poses(np.empty((0, 4, 4))).tolist() == []


def test_frames_meet_by_their_numbers() -> None:
    poses = straight(degrees=10.0)
    reference = replace(trajectory(poses[:8], 2), computed_by="somebody")
    found = match_poses(reference, trajectory(poses[3:], 7))
    assert found.indices.tolist() == [7, 8, 9]
    np.testing.assert_allclose(found.reference, poses[5:8], atol=1e-12)
    np.testing.assert_allclose(found.estimate, poses[3:6], atol=1e-12)
    assert (found.dropped, found.not_rigid, found.computed_by) == (0, 0, "somebody")
