"""Unit quaternions, scalar last (x, y, z, w), and rotation vectors, to and from rotation matrices.

By formula, as SciPy has them: it takes longer to load than a file of poses to be scored.
"""

from __future__ import annotations

import numpy as np

from lingbot_eval.types import FloatArray


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
