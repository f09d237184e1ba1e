"""Rigid poses as 4×4 matrices, rotations as quaternions (scalar last) and vectors, and the encodings of the network.

Quaternions by formula, as SciPy has them: it takes longer to load than a file of poses to be scored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import FloatArray

# Real files carry 3 to 9 digits and some were scaled by a hair; a similarity or a projection matrix is far beyond.
ROTATION_TOLERANCE = 0.05


def pose_matrix(rotation: FloatArray, translation: FloatArray) -> FloatArray:
    """(..., 4, 4) poses from (..., 3, 3) rotations and (..., 3) translations."""
    pose = np.zeros((*np.shape(translation)[:-1], 4, 4))
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = translation
    pose[..., 3, 3] = 1.0
    return pose


@np.errstate(over="ignore", invalid="ignore")
def rotation_faults(matrices: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """How far matrices are from rotations.

    Args:
        matrices: (..., 3, 3).

    Returns:
        (...) the largest entry of |RᵀR − I|, and (...) whether each is a mirror image, or flat.
    """
    deviation = np.abs(np.swapaxes(matrices, -1, -2) @ matrices - np.eye(3)).max(axis=(-2, -1), initial=0.0)
    return np.asarray(deviation), np.asarray(np.linalg.det(matrices) <= 0)


def not_rigid(pose: FloatArray) -> str | None:
    """Why a finite (4, 4) matrix is no rigid motion; None where it is one, to within ``ROTATION_TOLERANCE``."""
    deviation, mirrored = rotation_faults(pose[:3, :3])
    if not deviation <= ROTATION_TOLERANCE:
        return f"R^T R deviates from the identity by {deviation:.3g} (at most {ROTATION_TOLERANCE})"
    if mirrored:
        return "the determinant is negative (a mirror image)"
    if np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        return "the last line is not 0 0 0 1"
    return None


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


def rotation_from_quaternion(quaternion: FloatArray) -> FloatArray:
    """(..., 3, 3) rotations of (..., 4) quaternions x, y, z, w of any length but zero (ValueError)."""
    quaternion = np.asarray(quaternion, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.sqrt(np.sum(quaternion**2, axis=-1, keepdims=True))
        if not length.all():
            raise ValueError("expected quaternions that are not zero")
        x, y, z, w = np.moveaxis(quaternion / length, -1, 0)
    rows = (
        (x * x - y * y - z * z + w * w, 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), -x * x + y * y - z * z + w * w, 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), -x * x - y * y + z * z + w * w),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_rotation(rotation: FloatArray) -> FloatArray:
    """(..., 4) unit quaternions x, y, z, w with w ≥ 0 of (..., 3, 3) rotations."""
    rotation = np.asarray(rotation, dtype=np.float64)
    matrices = rotation.reshape(-1, 3, 3)
    trace = np.trace(matrices, axis1=1, axis2=2)
    largest = np.argmax(np.column_stack([matrices[:, range(3), range(3)], trace]), axis=1)
    found = np.empty((len(matrices), 4))
    # Divided by the largest of the four, so that nothing is lost where others are near zero.
    for first in range(3):
        rows, (i, j, k) = largest == first, ((first + shift) % 3 for shift in range(3))
        m = matrices[rows]
        found[rows, i] = 1 - trace[rows] + 2 * m[:, i, i]
        found[rows, j] = m[:, j, i] + m[:, i, j]
        found[rows, k] = m[:, k, i] + m[:, i, k]
        found[rows, 3] = m[:, k, j] - m[:, j, k]
    rows = largest == 3
    m = matrices[rows]
    skew = [m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]]
    found[rows] = np.column_stack([*skew, 1 + trace[rows]])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    # Of a half turn, whose scalar is zero, the first that is not is positive.
    signs = np.take_along_axis(found, np.argmax(found[:, [3, 0, 1, 2]] != 0, axis=1)[:, None] - 1, axis=1)
    return np.where(signs < 0, -found, found).reshape(*rotation.shape[:-2], 4)


def rotation_vector(rotation: FloatArray) -> FloatArray:
    """(..., 3) axes times angles in [0, π] of (..., 3, 3) rotations."""
    quaternion = quaternion_from_rotation(rotation)
    half = np.arctan2(np.linalg.norm(quaternion[..., :3], axis=-1), quaternion[..., 3])
    return np.asarray(quaternion[..., :3] * (2 / np.sinc(half / np.pi))[..., None])


def rotation_from_vector(vector: FloatArray) -> FloatArray:
    """(..., 3, 3) rotations about (..., 3) axes by their lengths in radians."""
    vector = np.asarray(vector, dtype=np.float64)
    half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2
    return rotation_from_quaternion(np.concatenate([vector / 2 * np.sinc(half / np.pi), np.cos(half)], axis=-1))


def rotation_between(first: FloatArray, second: FloatArray, share: FloatArray) -> FloatArray:
    """(..., 3, 3) rotations at (...) shares of the shortest way from the first to the second (..., 3, 3)."""
    way = rotation_vector(np.swapaxes(first, -1, -2) @ second)
    return np.asarray(first @ rotation_from_vector(share[..., None] * way))


def decode_rotation(quaternion: NDArray[np.floating]) -> FloatArray:
    """(..., 4) scalar-last quaternions of any length → (..., 3, 3) rotations; NaN where the length is 0 or not finite.

    A network may give such a quaternion; what is made of it is for the metrics to drop and count.
    """
    q = np.asarray(quaternion, dtype=np.float64)
    length = np.linalg.norm(q, axis=-1)
    usable = np.isfinite(length) & (length > 0)
    rotation = np.full((*q.shape[:-1], 3, 3), np.nan)
    rotation[usable] = rotation_from_quaternion(q[usable])
    return rotation


def decode_camera_to_world(encoding: NDArray[np.floating]) -> FloatArray:
    """(..., 9) encodings [t, quaternion scalar last, fov_y, fov_x] → (..., 4, 4) float64 camera-to-world."""
    numbers: FloatArray = np.asarray(encoding, dtype=np.float64)
    return pose_matrix(decode_rotation(numbers[..., 3:7]), numbers[..., :3])


def decode_intrinsics(encoding: NDArray[np.floating], height: int, width: int) -> FloatArray:
    """(..., 9) encodings → (..., 3, 3) float64 pinhole matrices in pixels of an H×W image.

    fy = (H/2)/tan(fov_y/2), fx = (W/2)/tan(fov_x/2), principal point (W/2, H/2). A field of view of 0, which the
    network's ReLU allows, gives an infinite focal length.
    """
    encoding = np.asarray(encoding, dtype=np.float64)
    with np.errstate(divide="ignore"):
        fy = height / 2 / np.tan(encoding[..., 7] / 2)
        fx = width / 2 / np.tan(encoding[..., 8] / 2)
    matrix = np.zeros((*encoding.shape[:-1], 3, 3))
    matrix[..., 0, 0], matrix[..., 1, 1] = fx, fy
    matrix[..., 0, 2], matrix[..., 1, 2] = width / 2, height / 2
    matrix[..., 2, 2] = 1
    return matrix
