"""Cameras: intrinsics under resizing and cropping, projection; lenses (COLMAP's models) taken out of what they bend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import DepthMap, FloatArray, Image


def pinhole(fx: float, fy: float, cx: float, cy: float) -> FloatArray:
    """(3, 3) intrinsic matrix in pixels."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def resized_intrinsics(
    intrinsics: FloatArray, old: tuple[int, int], new: tuple[int, int], left: int = 0, top: int = 0
) -> FloatArray:
    """(3, 3) intrinsics of images that were resized from ``old`` to ``new`` (width, height) pixels, and then cut.

    left, top: columns and rows that were cut away. Scaling is about the image's corner, which lies half a pixel before
    the first pixel's centre.
    """
    from_corner = np.array(intrinsics, dtype=np.float64)
    from_corner[:2, 2] += 0.5
    resized = np.diag([new[0] / old[0], new[1] / old[1], 1.0]) @ from_corner
    resized[:2, 2] -= [left + 0.5, top + 0.5]
    return resized


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
    """(n, 3) float32 world coordinates of some pixels (flat indices) of an (H, W) depth along z.

    NaN from a camera that sees no directions: a focal length of 0.
    """
    rows, columns = np.divmod(pixels, depth.shape[1])
    try:
        to_ray = np.linalg.inv(intrinsics).T
    except np.linalg.LinAlgError:
        return np.full((len(pixels), 3), np.nan, np.float32)
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=1).astype(np.float64) @ to_ray
    in_camera = rays * depth.reshape(-1)[pixels, None]
    with np.errstate(over="ignore", invalid="ignore"):  # whoever uses the points leaves out those that are not finite
        return np.asarray(in_camera @ camera_to_world[:3, :3].T + camera_to_world[:3, 3], dtype=np.float32)


MODELS: dict[str, tuple[str, ...]] = {
    name: tuple(numbers.split())
    for name, numbers in {
        "SIMPLE_PINHOLE": "f cx cy",
        "PINHOLE": "fx fy cx cy",
        "SIMPLE_RADIAL": "f cx cy k1",
        "RADIAL": "f cx cy k1 k2",
        "OPENCV": "fx fy cx cy k1 k2 p1 p2",
        "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
        "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
        "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
        "RADIAL_FISHEYE": "f cx cy k1 k2",
        "THIN_PRISM_FISHEYE": "fx fy cx cy k1 k2 p1 p2 k3 k4 sx sy",
    }.items()
}
"""Lens models of COLMAP (src/colmap/sensor/models.h) → their numbers in order."""

_ROWS_AT_A_TIME = 256


@dataclass(frozen=True)
class LensCamera:
    """A camera whose lens bends the picture.

    Attributes:
        model: one of ``MODELS``.
        size: (width, height) in pixels.
        numbers: of the model, in its order. Pixel (0, 0) is the centre of the first; COLMAP counts half a pixel more.
    """

    model: str
    size: tuple[int, int]
    numbers: tuple[float, ...]

    @property
    def intrinsics(self) -> FloatArray:
        """(3, 3) pinhole matrix of the same focal lengths and centre."""
        of = self._named()
        fx, fy = of.get("fx", of.get("f", 0.0)), of.get("fy", of.get("f", 0.0))
        return pinhole(fx, fy, of["cx"], of["cy"])

    @property
    def bends(self) -> bool:
        """Whether a pinhole camera would see another picture."""
        lens = [value for name, value in self._named().items() if name[0] in "kps"]
        return "FISHEYE" in self.model or any(lens)

    def project(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Columns and rows, in pixels, of the rays (x, y, 1)."""
        of = self._named()
        k1, k2, k3, k4, k5, k6, p1, p2, sx, sy = (
            of.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "sx", "sy")
        )
        fisheye = "FISHEYE" in self.model
        if fisheye:
            radius = np.hypot(x, y)
            angle = np.where(radius > 1e-9, np.arctan(radius) / np.maximum(radius, 1e-9), 1.0)
            x, y = x * angle, y * angle
        r2 = x * x + y * y
        radial = r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4 * fisheye)))
        if not fisheye:
            denominator = 1.0 + r2 * (k4 + r2 * (k5 + r2 * k6))
            radial = (1.0 + radial) / denominator - 1.0
        x, y = (
            x + x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + sx * r2,
            y + y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + sy * r2,
        )
        camera = self.intrinsics
        return camera[0, 0] * x + camera[0, 2], camera[1, 1] * y + camera[1, 2]

    def _named(self) -> dict[str, float]:
        return dict(zip(MODELS[self.model], self.numbers, strict=True))


def undistorted(image: Image, lens: LensCamera) -> Image:
    """The (H, W, 3) picture that a pinhole camera of the lens's ``intrinsics`` would take; black where there is none.

    Bilinear between the four pixels around.
    """
    height, width = image.shape[:2]
    corner, right, down, inside = _bilinear(lens, (width, height))
    grey = bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())
    planes = []
    for channel in range(1 if grey else 3):
        flat = image[..., channel].reshape(-1)
        top = flat[corner] + right * (flat[corner + 1].astype(np.float32) - flat[corner])
        below = corner + width
        bottom = flat[below] + right * (flat[below + 1].astype(np.float32) - flat[below])
        planes.append(np.rint((top + down * (bottom - top)) * inside).astype(np.uint8))
    return np.stack(planes * (3 if grey else 1), axis=-1)


@lru_cache(maxsize=1)
def _bilinear(
    lens: LensCamera, size: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Of each pixel of the undistorted picture: the first of four pixels around, its distance to it, whether there."""
    columns, rows = pixels(lens, lens.intrinsics, size, 0, size[1])
    inside = (columns >= -0.5) & (columns <= size[0] - 0.5) & (rows >= -0.5) & (rows <= size[1] - 0.5)
    left = np.clip(np.nan_to_num(np.floor(columns)), 0, size[0] - 2).astype(np.int32)
    top = np.clip(np.nan_to_num(np.floor(rows)), 0, size[1] - 2).astype(np.int32)
    right = np.nan_to_num(np.clip(columns - left, 0.0, 1.0)).astype(np.float32)
    down = np.nan_to_num(np.clip(rows - top, 0.0, 1.0)).astype(np.float32)
    return top * np.int32(size[0]) + left, right, down, inside


def carried(depth: DepthMap, lens: LensCamera, intrinsics: FloatArray, size: tuple[int, int]) -> DepthMap:
    """A depth map in the pixels of a pinhole camera at the same place: the nearest measurement along each ray.

    Args:
        depth: (H, W) along z, in the pixels of ``lens``.
        lens: the camera that measured it.
        intrinsics: (3, 3) of the pinhole camera.
        size: (width, height) of its pictures.

    Returns:
        (height, width) float32; 0 where there is no measurement.
    """
    found = np.zeros((size[1], size[0]), np.float32)
    for top in range(0, size[1], _ROWS_AT_A_TIME):  # all at once would take gigabytes at 24 megapixels
        columns, rows = pixels(lens, intrinsics, size, top, min(top + _ROWS_AT_A_TIME, size[1]))
        column, row = np.rint(columns).astype(np.int64), np.rint(rows).astype(np.int64)
        inside = (column >= 0) & (column < depth.shape[1]) & (row >= 0) & (row < depth.shape[0])
        found[top : top + len(columns)][inside] = depth[row[inside], column[inside]]
    return found


def pixels(
    lens: LensCamera, intrinsics: FloatArray, size: tuple[int, int], top: int, bottom: int
) -> tuple[FloatArray, FloatArray]:
    """Columns and rows in the lens's picture of a pinhole camera's rows ``top`` to ``bottom``, (rows, width) each."""
    x = (np.arange(size[0]) - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (np.arange(top, bottom) - intrinsics[1, 2]) / intrinsics[1, 1]
    return lens.project(*np.meshgrid(x, y))
