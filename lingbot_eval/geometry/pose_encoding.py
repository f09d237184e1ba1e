"""Pose encodings of the network → matrices (model.md section 5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.geometry.quaternions import rotation_from_quaternion
from lingbot_eval.types import FloatArray


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
