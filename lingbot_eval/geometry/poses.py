"""Rigid poses as 4×4 matrices: inverse, relative pose, rotation angle, nearest rotation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import FloatArray


def pose_matrix(rotation: FloatArray, translation: FloatArray) -> FloatArray:
    """(..., 4, 4) poses from (..., 3, 3) rotations and (..., 3) translations."""
    pose = np.zeros((*np.shape(translation)[:-1], 4, 4))
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = translation
    pose[..., 3, 3] = 1.0
    return pose


def inverse(pose: FloatArray) -> FloatArray:
    """Inverse of rigid (..., 4, 4) poses: camera-to-world becomes world-to-camera.

    The rotation part is transposed, so it must be a rotation (see :func:`nearest_rotation`).
    """
    transposed = np.swapaxes(pose[..., :3, :3], -1, -2)
    return pose_matrix(transposed, -(transposed @ pose[..., :3, 3:])[..., 0])


def relative(first: FloatArray, second: FloatArray) -> FloatArray:
    """``first⁻¹ · second``: (..., 4, 4) pose of the second camera seen from the first (both camera-to-world)."""
    return inverse(first) @ second


def rotation_angle(rotation: FloatArray) -> FloatArray:
    """Angle in radians, in [0, π], of (..., 3, 3) rotations.

    The arc cosine of the trace loses half of all digits near 0, where odometry errors are; sine and cosine
    together lose none.
    """
    axis = np.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        axis=-1,
    )
    sine = np.linalg.norm(axis, axis=-1)
    cosine = np.trace(rotation, axis1=-2, axis2=-1) - 1.0
    return np.asarray(np.arctan2(sine, cosine))


def nearest_rotation(matrix: FloatArray) -> FloatArray:
    """The rotation closest to each finite (..., 3, 3) matrix in the Frobenius norm (SVD; determinant +1)."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(u @ vt))
    u = np.concatenate([u[..., :2], u[..., 2:] * sign[..., None, None]], axis=-1)
    return np.asarray(u @ vt)


def orthogonalised(pose: FloatArray) -> FloatArray:
    """(..., 4, 4) poses with the rotation part replaced by the nearest rotation (protocol.md section 1)."""
    return pose_matrix(nearest_rotation(pose[..., :3, :3]), pose[..., :3, 3])


def finite_poses(poses: FloatArray) -> NDArray[np.bool_]:
    """(N,) whether all 16 numbers of (N, 4, 4) poses are finite."""
    return np.asarray(np.isfinite(poses).all(axis=(1, 2)))


def spread(positions: FloatArray) -> float:
    """RMS distance of (N, 3) positions from their mean, in their unit."""
    return float(np.sqrt(np.mean(np.sum((positions - positions.mean(axis=0)) ** 2, axis=1))))


def path_length(positions: FloatArray) -> float:
    """Sum of the straight steps between (N, 3) consecutive positions, in their unit; 0 for fewer than two."""
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
