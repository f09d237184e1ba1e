"""Umeyama alignment: recovery of known motions, optimality, agreement with evo, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import Sim3, umeyama
from lingbot_eval.geometry.poses import pose_matrix

seeds = st.integers(0, 2**32 - 1)


def random_sim3(seed: int, scale: float) -> Sim3:
    rng = np.random.default_rng(seed)
    return Sim3(scale, Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3) * 5)


@given(seeds, st.floats(1e-9, 1e6), st.sampled_from([3, 4, 50]))
def test_recovers_a_similarity(seed: int, scale: float, count: int) -> None:
    source = np.random.default_rng(seed).normal(size=(count, 3))
    true = random_sim3(seed, scale)
    target = source @ (scale * true.rotation).T + true.translation
    found = umeyama(source, target, with_scale=True)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=1e-5)
    assert found.scale == pytest.approx(scale, rel=1e-5)
    np.testing.assert_allclose(found.apply_points(source), target, atol=1e-8 * max(1, scale))


@given(seeds, st.booleans())
def test_equals_evo(seed: int, with_scale: bool) -> None:
    from evo.core.geometry import umeyama_alignment

    source, target = np.random.default_rng(seed).normal(size=(2, 20, 3))
    rotation, translation, scale = umeyama_alignment(source.T, target.T, with_scale)
    found = umeyama(source, target, with_scale)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-9)
    np.testing.assert_allclose(found.translation, translation, atol=1e-9)
    assert found.scale == pytest.approx(scale)


@given(seeds)
def test_no_neighbour_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(2, 12, 3))
    best = umeyama(source, target, with_scale=True)
    error = np.sum((best.apply_points(source) - target) ** 2)
    for _ in range(20):
        turn = Rotation.from_rotvec(0.05 * rng.normal(size=3)).as_matrix()
        other = Sim3(best.scale * (1 + 0.05 * rng.normal()), turn @ best.rotation, best.translation)
        assert np.sum((other.apply_points(source) - target) ** 2) >= error - 1e-9


def test_a_mirror_image_gets_a_rotation() -> None:
    source = np.random.default_rng(0).normal(size=(30, 3))
    found = umeyama(source, source * [1, 1, -1], with_scale=True)
    assert np.linalg.det(found.rotation) == pytest.approx(1)


def test_planar_points_are_enough() -> None:
    source = np.random.default_rng(0).normal(size=(30, 3)) * [1, 1, 0]
    true = random_sim3(3, 2.0)
    np.testing.assert_allclose(umeyama(source, true.apply_points(source), True).matrix(), true.matrix(), atol=1e-9)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((5, 3)), "rank 0"),
        (np.arange(15.0).reshape(5, 3) * [1, 0, 0], "rank 1"),
        (1e6 + np.arange(300.0)[:, None] * [0.1, 0.7, -0.3], "rank 1"),
        (np.empty((0, 3)), "no points"),
    ],
)
def test_degenerate_points_are_unscorable(source: np.ndarray, reason: str) -> None:
    target = np.random.default_rng(0).normal(size=source.shape)
    with pytest.raises(UnscorableError, match=reason):
        umeyama(source, target, with_scale=True)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one length"):
        umeyama(np.zeros((3, 3)), np.zeros((4, 3)), with_scale=True)


@given(seeds)
def test_poses_move_with_their_points(seed: int) -> None:
    """A point fixed in the (scaled) camera lies, through the moved pose, where the moved world has it."""
    sim3 = random_sim3(seed, 1.7)
    pose = pose_matrix(Rotation.random(random_state=seed).as_matrix(), np.array([1.0, 2, 3]))
    moved = sim3.apply_poses(pose[None])[0]
    in_camera = np.array([0.1, -0.4, 0.9, 1])
    scaled = in_camera * [1.7, 1.7, 1.7, 1]
    np.testing.assert_allclose((moved @ scaled)[:3], sim3.apply_points((pose @ in_camera)[:3]), atol=1e-12)
    np.testing.assert_allclose(Sim3.identity().apply_poses(pose[None])[0], pose)


@given(seeds, st.floats(1e-3, 1e3))
def test_an_inverse_leads_back(seed: int, scale: float) -> None:
    sim3 = random_sim3(seed, scale)
    points = np.random.default_rng(seed).normal(size=(5, 3))
    np.testing.assert_allclose(sim3.inverse().apply_points(sim3.apply_points(points)), points, atol=1e-9)
    np.testing.assert_allclose(sim3.inverse().matrix() @ sim3.matrix(), np.eye(4), atol=1e-9)
    whole = sim3.matrix() @ np.column_stack([points, np.ones(5)]).T
    np.testing.assert_allclose(sim3.apply_points(points), whole[:3].T, atol=1e-9)
