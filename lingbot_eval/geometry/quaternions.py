"""Unit quaternions, scalar last (x, y, z, w), to and from rotation matrices."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from lingbot_eval.types import FloatArray


def rotation_from_quaternion(quaternion: FloatArray) -> FloatArray:
    """(..., 3, 3) rotations of (..., 4) quaternions x, y, z, w of any length but zero (ValueError)."""
    quaternion = np.asarray(quaternion, dtype=np.float64)
    if quaternion.size == 0:  # older SciPy refuses to make no rotations
        return np.empty((*quaternion.shape[:-1], 3, 3))
    matrices = Rotation.from_quat(quaternion.reshape(-1, 4)).as_matrix()
    return np.asarray(matrices.reshape(*quaternion.shape[:-1], 3, 3))


def quaternion_from_rotation(rotation: FloatArray) -> FloatArray:
    """(..., 4) unit quaternions x, y, z, w with w ≥ 0 of (..., 3, 3) rotations."""
    rotation = np.asarray(rotation, dtype=np.float64)
    if rotation.size == 0:
        return np.empty((*rotation.shape[:-2], 4))
    quaternions = Rotation.from_matrix(rotation.reshape(-1, 3, 3)).as_quat(canonical=True)
    return np.asarray(quaternions.reshape(*rotation.shape[:-2], 4))
