"""Poses, quaternions and cameras against SciPy and first principles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation, Slerp

from lingbot_eval.geometry.cameras import guessed_intrinsics, project, resized_intrinsics, world_points
from lingbot_eval.geometry.poses import (
    decode_camera_to_world,
    decode_intrinsics,
    decode_rotation,
    inverse,
    nearest_rotation,
    orthogonalised,
    path_length,
    pose_matrix,
    quaternion_from_rotation,
    relative,
    rotation_angle,
    rotation_between,
    rotation_from_quaternion,
    rotation_from_vector,
    rotation_vector,
)

seeds = st.integers(0, 2**32 - 1)
K = np.array([[500.0, 0, 320], [0, 510.0, 240], [0, 0, 1]])


def poses(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return pose_matrix(Rotation.random(count, random_state=rng).as_matrix(), rng.normal(size=(count, 3)))


@given(seeds)
def test_inverse_and_relative(seed: int) -> None:
    a, b = poses(2, seed)
    np.testing.assert_allclose(inverse(a), np.linalg.inv(a), atol=1e-12)
    np.testing.assert_allclose(relative(a, b), np.linalg.solve(a, b), atol=1e-12)
    np.testing.assert_allclose(inverse(np.stack([a, b]))[1], inverse(b))


@given(st.floats(0, np.pi), seeds)
def test_rotation_angle(angle: float, seed: int) -> None:
    axis = np.random.default_rng(seed).normal(size=3)
    rotation = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    assert rotation_angle(rotation) == pytest.approx(angle, abs=2e-8)


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 1e-3])
def test_small_angles_keep_their_digits(angle: float) -> None:
    skew = np.array([[0, -3.0, 2.0], [3.0, 0, -1.0], [-2.0, 1.0, 0]]) / np.sqrt(14)
    assert rotation_angle(expm(angle * skew)) == pytest.approx(angle, rel=1e-9)


@given(seeds, st.floats(0, 0.3))
def test_nearest_rotation_is_a_rotation_and_nearest(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = Rotation.random(random_state=rng).as_matrix() + noise * rng.normal(size=(3, 3))
    found = nearest_rotation(matrix)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(found) == pytest.approx(1)
    others = found @ Rotation.from_rotvec(0.2 * rng.normal(size=(50, 3))).as_matrix()
    assert (np.linalg.norm(others - matrix, axis=(1, 2)) >= np.linalg.norm(found - matrix) - 1e-12).all()


def test_nearest_rotation_of_a_mirror_image() -> None:
    found = nearest_rotation(np.diag([1.0, 1.0, -1.0])[None])[0]
    assert np.linalg.det(found) == pytest.approx(1)


def test_orthogonalised_keeps_positions() -> None:
    pose = poses(3, 1)
    sheared = pose.copy()
    sheared[:, 0, 0] += 1e-3
    np.testing.assert_array_equal(orthogonalised(sheared)[:, :3, 3], pose[:, :3, 3])
    np.testing.assert_allclose(orthogonalised(pose), pose, atol=1e-12)


@given(seeds)
def test_quaternions(seed: int) -> None:
    rotations = Rotation.random(4, random_state=seed)
    matrices = rotations.as_matrix().reshape(2, 2, 3, 3)
    quaternions = quaternion_from_rotation(matrices)
    assert (quaternions[..., 3] >= 0).all()
    np.testing.assert_allclose(rotation_from_quaternion(-3 * quaternions), matrices, atol=1e-12)
    x, y, z, w = quaternions[0, 0]
    assert matrices[0, 0][1, 0] == pytest.approx(2 * (x * y + z * w))  # the textbook's entry fixes the scalar's place


def test_projection_by_hand() -> None:
    np.testing.assert_allclose(project(np.array([1.0, -2.0, 4.0]), K), [320 + 125, 240 - 255])
    assert not np.isfinite(project(np.zeros(3), K)).any()


def test_intrinsics_follow_the_image() -> None:
    point = np.array([0.3, -0.2, 2.0])
    pixel = project(point, K)
    smaller = resized_intrinsics(K, (640, 480), (320, 120))
    np.testing.assert_allclose(project(point, smaller), (pixel + 0.5) * [0.5, 0.25] - 0.5)  # from corner to corner
    cut = resized_intrinsics(K, (640, 480), (640, 480), 10, 4)
    np.testing.assert_allclose(project(point, cut), pixel - [10, 4])


def test_an_encoding_by_hand() -> None:
    """Height before width, fields of view vertical before horizontal, quaternion scalar last."""
    half = np.sqrt(0.5)
    encoding = np.array([1.0, 2, 3, 0, 0, half, half, np.radians(60), np.radians(90)])
    camera = decode_intrinsics(encoding, 300, 800)
    np.testing.assert_allclose(camera, [[400, 0, 400], [0, 150 * np.sqrt(3), 150], [0, 0, 1]])
    expected = [[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(decode_camera_to_world(encoding), expected, atol=1e-12)


HALF_TURNS = [[np.pi, 0, 0], [0, -np.pi, 0], [0, 0, np.pi], [0, 0, 0], [1e-9, 0, 0], [np.pi - 1e-7, 1e-8, 0]]


def test_rotations_are_those_of_scipy() -> None:
    """Quaternions, matrices and vectors, of all turns, none and half ones; and the way between two of them."""
    turns = Rotation.concatenate([Rotation.random(200, rng=1), Rotation.from_rotvec(HALF_TURNS)])
    matrices = turns.as_matrix()
    np.testing.assert_allclose(rotation_from_quaternion(3 * turns.as_quat()), matrices, rtol=0, atol=1e-15)
    found, expected = quaternion_from_rotation(matrices), Rotation.from_matrix(matrices).as_quat(canonical=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(rotation_vector(matrices), Rotation.from_matrix(matrices).as_rotvec(), atol=1e-14)
    np.testing.assert_allclose(rotation_from_vector(turns.as_rotvec()), matrices, rtol=0, atol=3e-15)
    share = np.linspace(0, 1, 199)
    between = [Slerp([0, 1], turns[[i, i + 1]])(share[i]).as_matrix() for i in range(199)]
    np.testing.assert_allclose(rotation_between(matrices[:199], matrices[1:200], share), between, atol=1e-12)
    with pytest.raises(ValueError, match="zero"):
        rotation_from_quaternion(np.zeros(4))


def test_quaternions_that_a_network_may_give() -> None:
    half = np.sqrt(0.5)
    given = [[0, 0, 3 * half, 3 * half], [0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 1]]
    found = decode_rotation(np.array(given, np.float32))
    np.testing.assert_allclose(found[0], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    assert np.isnan(found[1:]).all()


def test_a_field_of_view_of_nothing_is_infinitely_long() -> None:
    camera = decode_intrinsics(np.array([0, 0, 0, 0, 0, 0, 1, 0, np.pi / 2]), 20, 30)
    np.testing.assert_allclose(camera, [[15, 0, 15], [0, np.inf, 10], [0, 0, 1]])


def test_pixels_come_back_to_where_their_points_are() -> None:
    """Points of the world are projected; their depths along z in a map give them back."""
    pose = poses(1, 5)[0]
    camera = np.array([[4.0, 0, 2], [0, 5.0, 1], [0, 0, 1]])
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, (3, 5)).astype(np.float32)
    pixels = np.array([0, 4, 7, 14])
    for flat, point in zip(pixels, world_points(depth, pixels, camera, pose), strict=True):
        seen = (inverse(pose) @ [*point, 1])[:3]
        assert seen[2] == pytest.approx(depth.flat[flat], rel=1e-5)
        np.testing.assert_allclose(project(seen, camera), [flat % 5, flat // 5], atol=1e-4)
    assert world_points(depth, pixels, camera, pose).dtype == np.float32
    # A camera of focal length 0 sees no directions: its points are nowhere, and end no stream.
    assert np.isnan(world_points(depth, pixels, np.diag([0.0, 0, 1]), pose)).all()


@pytest.mark.parametrize(("width", "height", "focal"), [(640, 480, 448.0), (480, 640, 448.0)])
def test_a_camera_that_nobody_calibrated(width: int, height: int, focal: float) -> None:
    expected = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
    np.testing.assert_allclose(guessed_intrinsics(width, height), expected)


def test_the_length_of_a_path() -> None:
    assert path_length(np.array([[0, 0, 0], [3, 4, 0], [3, 4, 2.0]])) == 7
    assert path_length(np.zeros((1, 3))) == path_length(np.zeros((0, 3))) == 0
