"""The camera's way: a smooth closed walk, a wandering gaze, any distance, every frame by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from lingbot_eval.types import FloatArray

TABLE_SPACING = 0.02  # metres between the points of a walk


@dataclass(frozen=True, eq=False)
class Walk:
    """A closed smooth curve on the floor. points: (K, 2) metres, about TABLE_SPACING apart; length: metres a lap."""

    points: FloatArray
    length: float

    @classmethod
    def along(cls, corners: FloatArray, rounding: float) -> Walk:
        """The closed polygon through ``corners`` (M, 2), its corners rounded over about ``rounding`` metres."""
        dense = _resample(corners, TABLE_SPACING)
        for axis in (0, 1):
            dense[:, axis] = gaussian_filter1d(dense[:, axis], rounding / TABLE_SPACING, mode="wrap")
        points = _resample(dense, TABLE_SPACING)
        length = float(np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1).sum())
        return cls(points, length)


def _resample(corners: FloatArray, spacing: float) -> FloatArray:
    closed = np.concatenate([corners, corners[:1]])
    distance = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    count = max(16, round(distance[-1] / spacing))
    at = np.arange(count) * (distance[-1] / count)
    return np.stack([np.interp(at, distance, closed[:, axis]) for axis in (0, 1)], axis=1)


class CameraPath:
    """Poses along a walk as a function of the distance walked; laps follow each other with other small motions."""

    def __init__(self, walk: Walk, seed: int) -> None:
        self.walk = walk
        count = len(walk.points)
        knots = np.arange(count + 1) * (walk.length / count)
        closed = np.concatenate([walk.points, walk.points[:1]])
        self._position = CubicSpline(knots, closed, bc_type="periodic")
        step = self._position(knots[:-1], 1)
        heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        turn = _wrapped(heading[0] - heading[-1]) + heading[-1] - heading[0]  # ±2π a lap, or 0
        ramp = turn * np.arange(count) / count
        # The head turns before and after the feet do: a wider smoothing than the walk's own corners.
        smooth = gaussian_filter1d(heading - ramp, 0.35 / TABLE_SPACING, mode="wrap")
        self._heading = CubicSpline(knots, np.append(smooth, smooth[0]), bc_type="periodic")
        self._turn = turn
        rng = np.random.default_rng(np.random.SeedSequence([seed, 77]))
        # amplitude, and the wavelengths in metres of walking that it is spread over
        self._yaw = _Wander(rng, np.radians(24.0), (2.5, 9.0))
        self._pitch = _Wander(rng, np.radians(9.0), (2.0, 7.0), offset=np.radians(rng.uniform(2.0, 10.0)))
        self._roll = _Wander(rng, np.radians(2.0), (1.2, 4.0))
        self._side = _Wander(rng, 0.09, (2.0, 6.0))
        self._height = _Wander(rng, 0.05, (0.9, 3.0), offset=rng.uniform(1.35, 1.65))

    def camera_to_world(self, distance: float) -> FloatArray:
        """(4, 4) pose, OpenCV camera axes, after walking ``distance`` metres."""
        at = distance % self.walk.length
        x, y = self._position(at)
        heading = float(self._heading(at)) + self._turn * distance / self.walk.length
        side = self._side(distance)
        tangent = self._position(at, 1)
        tangent = tangent / np.hypot(*tangent)
        yaw, pitch, roll = heading + self._yaw(distance), self._pitch(distance), self._roll(distance)
        # Camera axes for a level gaze along the yaw, then pitched down and rolled about the optical axis.
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        down = np.cross(forward, right)
        pose = np.eye(4)
        pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
        pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
        pose[:3, 2] = forward
        pose[:3, 3] = (x - side * tangent[1], y + side * tangent[0], self._height(distance))
        return pose


class _Wander:
    """A smooth endless function that stays within ``offset ± amplitude``: a few sines of unrelated wavelengths."""

    def __init__(
        self, rng: np.random.Generator, amplitude: float, wavelengths: tuple[float, float], offset: float = 0.0
    ) -> None:
        self.offset = offset
        self.frequency: NDArray[np.float64] = 2 * np.pi / rng.uniform(*wavelengths, 4)
        self.phase = rng.uniform(0, 2 * np.pi, 4)
        weights = rng.uniform(0.5, 1.0, 4)
        self.weights = amplitude * weights / weights.sum()

    def __call__(self, distance: float) -> float:
        return self.offset + float(self.weights @ np.sin(self.frequency * distance + self.phase))


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
