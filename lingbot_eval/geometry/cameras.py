"""Pinhole cameras: intrinsics under resizing and cropping, projection and back-projection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import DepthMap, FloatArray


def pinhole(fx: float, fy: float, cx: float, cy: float) -> FloatArray:
    """(3, 3) intrinsic matrix in pixels."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def scale_intrinsics(intrinsics: FloatArray, scale_x: float, scale_y: float) -> FloatArray:
    """(3, 3) intrinsics after resizing the image by ``scale_x``, ``scale_y`` (new size / old size).

    Focal lengths and principal point are multiplied (protocol.md section 2: "intrinsics scale with each axis").
    With pixel centres at integers this moves the principal point by (scale − 1)/2 of a pixel, at most half a
    pixel when shrinking; the reference results were made so, and it is kept for comparability.
    """
    return np.diag([scale_x, scale_y, 1.0]) @ np.asarray(intrinsics, dtype=np.float64)


def crop_intrinsics(intrinsics: FloatArray, left: float, top: float) -> FloatArray:
    """(3, 3) intrinsics after ``left`` columns and ``top`` rows of pixels were cut away."""
    cropped = np.array(intrinsics, dtype=np.float64)
    cropped[0, 2] -= left
    cropped[1, 2] -= top
    return cropped


def resized_intrinsics(
    intrinsics: FloatArray, old: tuple[int, int], new: tuple[int, int], left: int = 0, top: int = 0
) -> FloatArray:
    """(3, 3) intrinsics of images that were resized from ``old`` to ``new`` (width, height) pixels, and then cut.

    left, top: columns and rows that were cut away. Scaling is about the image's corner, which lies half a pixel before
    the first pixel's centre.
    """
    from_corner = crop_intrinsics(intrinsics, -0.5, -0.5)
    scaled = scale_intrinsics(from_corner, new[0] / old[0], new[1] / old[1])
    return crop_intrinsics(scaled, left + 0.5, top + 0.5)


def guessed_intrinsics(width: int, height: int) -> FloatArray:
    """(3, 3) intrinsics of a camera that nobody has calibrated: a guess to begin an estimate with.

    Focal length 0.7 of the longer side, a field of view of 71°, principal point in the middle. Rather too short than
    too long: phones have 0.7 to 0.8, cars' cameras 0.5 to 0.6.
    """
    focal = 0.7 * max(width, height)
    return pinhole(focal, focal, (width - 1) / 2, (height - 1) / 2)


def project(points: FloatArray, intrinsics: FloatArray) -> FloatArray:
    """(..., 2) pixels of (..., 3) points in camera coordinates (z forward); not finite for points with z = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        homogeneous = points @ intrinsics.T
        return np.asarray(homogeneous[..., :2] / homogeneous[..., 2:])


def world_points(
    depth: DepthMap, pixels: NDArray[np.int64], intrinsics: FloatArray, camera_to_world: FloatArray
) -> DepthMap:
    """(n, 3) float32 world coordinates of some pixels (flat indices) of an (H, W) depth along z."""
    rows, columns = np.divmod(pixels, depth.shape[1])
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=1).astype(np.float64) @ np.linalg.inv(intrinsics).T
    in_camera = rays * depth.reshape(-1)[pixels, None]
    with np.errstate(over="ignore", invalid="ignore"):  # whoever uses the points leaves out those that are not finite
        return np.asarray(in_camera @ camera_to_world[:3, :3].T + camera_to_world[:3, 3], dtype=np.float32)
