"""Where the camera of a film stands: it follows the stream, looks from above, circles, stands, turns, or flies a path.

Worlds are the method's own; cameras are camera-to-world in OpenCV axes. Up is the median over the frames of what their
cameras call up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lingbot_eval.errors import ConfigError
from lingbot_eval.files.trajectories import read_trajectory
from lingbot_eval.geometry.poses import rotation_between
from lingbot_eval.types import DepthMap, FloatArray

Vector = tuple[float, float, float]
_FLAT = 0.1  # a direction of unit length whose level part is shorter has no heading
_MIDDLE = (1.0, 99.0)  # percentiles of the points that a view from above has to hold


class Segment(BaseModel):
    """One way of looking, over some frames of the stream.

    mode: ``follow`` the camera from behind; ``birdeye`` from above over everything; ``orbit`` around the middle;
    ``static`` from eye towards look_at (else as the stream's first camera); ``pivot`` from eye, turning after the
    stream; ``path``: camera-to-world poses of a trajectory file in the method's world, spread over the segment.
    frames: first and last frame, -1 = the stream's last. back, up, look: of follow, as shares of the scene's scale
    (diagonal of the box of the first scale_frames camera centres, 0 = all): how far behind and above, and how far
    ahead it looks. smooth: frames of the running mean. margin: of birdeye and orbit, distance as a multiple of what
    just holds the scene. turns: of an orbit over the segment. elevation: of an orbit, degrees.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["follow", "birdeye", "orbit", "static", "pivot", "path"] = "follow"
    frames: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-1)]] = (0, -1)
    back: Annotated[float, Field(ge=0)] = 0.4
    up: float = 0.1
    look: Annotated[float, Field(gt=0)] = 0.4
    smooth: Annotated[int, Field(ge=1)] = 40
    scale_frames: Annotated[int, Field(ge=0)] = 100
    margin: Annotated[float, Field(gt=0)] = 1.15
    turns: float = 1.0
    elevation: Annotated[float, Field(gt=-90, lt=90)] = 35.0
    eye: Vector | None = None
    look_at: Vector | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "path" and self.file is None:
            raise ValueError("a segment of mode path needs file: a trajectory of camera-to-world poses")
        if self.mode == "pivot" and self.eye is None:
            raise ValueError("a segment of mode pivot needs eye: [x, y, z] in the method's world")
        return self


def camera_path(
    segments: Sequence[Segment],
    cameras: FloatArray,
    points: DepthMap,
    *,
    angle: float,
    aspect: float,
    transition: int = 30,
) -> FloatArray:
    """Cameras of a film, one a frame of the stream.

    Args:
        segments: in order; a frame belongs to the last of those that hold it, and to the nearest where none does.
        cameras: (N, 4, 4) camera-to-world of the stream's frames.
        points: (M, 3) of the cloud, for views that hold all of it.
        angle: vertical, degrees.
        aspect: width of the picture by its height.
        transition: frames over which one segment turns into the next.

    Returns:
        (N, 4, 4) camera-to-world.

    Raises:
        ConfigError: a segment begins after the stream's end, or a file of poses cannot be read.
    """
    count = len(cameras)
    spans = []
    for segment in segments:
        first, last = segment.frames[0], segment.frames[1] if segment.frames[1] >= 0 else count - 1
        if first >= count or last < first:
            raise ConfigError(
                f"camera {segment.mode}: expected frames within 0 to {count - 1}, found {first} to {segment.frames[1]}"
            )
        spans.append((first, min(last, count - 1)))
    scene = _Scene(cameras, points, angle, aspect)
    paths = [scene.path(segment, *span) for segment, span in zip(segments, spans, strict=True)]
    frames = np.arange(count)
    owner = np.zeros(count, np.int64)
    nearest = np.full(count, count + 1)
    for position, (first, last) in enumerate(spans):
        outside = np.maximum(np.maximum(first - frames, frames - last), 0)
        owner[outside <= nearest] = position
        nearest = np.minimum(nearest, outside)
    found = np.stack([paths[owner[frame]][frame] for frame in frames])
    for change in np.flatnonzero(np.diff(owner)) + 1:
        before, after = paths[owner[change - 1]], paths[owner[change]]
        ends = np.flatnonzero(np.diff(owner[change:]))
        length = min(transition, int(ends[0]) + 1 if len(ends) else count - change)
        for step in range(length):
            share = (step + 1) / (length + 1)
            found[change + step] = _between(before[change + step], after[change + step], 3 * share**2 - 2 * share**3)
    return found


def world_up(cameras: FloatArray) -> FloatArray:
    """(3,) of length 1: the median of what the cameras call up, their -y axis."""
    up = np.median(-cameras[:, :3, 1], axis=0)
    length = np.linalg.norm(up)
    # Cameras that turned upside down half of the time agree on nothing: then the first one decides.
    return up / length if length > _FLAT else -cameras[0, :3, 1]


def look_from(eye: FloatArray, target: FloatArray, up: FloatArray) -> FloatArray:
    """(4, 4) camera-to-world of a camera at ``eye`` that looks at ``target``, its picture upright towards ``up``."""
    forward = _unit(target - eye, np.array([0.0, 0.0, 1.0]))
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:
        # It looks along up: any direction across will do, always the same one.
        right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right = _unit(right, right)
    found = np.eye(4)
    found[:3, 0], found[:3, 1], found[:3, 2], found[:3, 3] = right, np.cross(forward, right), forward, eye
    return found


class _Scene:
    """What all segments share: the stream's cameras, up, and the box that holds the cloud and them."""

    def __init__(self, cameras: FloatArray, points: DepthMap, angle: float, aspect: float) -> None:
        self.cameras, self.up = cameras, world_up(cameras)
        self.centres = cameras[:, :3, 3]
        self.tangent = float(np.tan(np.radians(angle) / 2))
        self.aspect = aspect
        self._points = points
        self.low, self.high = self.held(np.eye(3))
        self.middle = (self.low + self.high) / 2

    def held(self, axes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Least and greatest coordinates along ``axes`` (3, 3), a row each, of what a view from outside has to hold.

        That is the middle of the points and the middle of the stream's cameras: they are few beside the points, and may
        stand where none are.
        """
        kinds = [each @ axes.T for each in (self._points.astype(np.float64), self.centres) if len(each)]
        spans = np.stack([np.percentile(values, _MIDDLE, axis=0) for values in kinds])
        return spans[:, 0].min(axis=0), spans[:, 1].max(axis=0)

    def path(self, segment: Segment, first: int, last: int) -> FloatArray:
        """(N, 4, 4) of this segment for every frame, beyond its own ones as well: transitions need them."""
        paths = {
            "follow": self._follow,
            "birdeye": self._birdeye,
            "orbit": self._orbit,
            "static": self._static,
            "pivot": self._pivot,
            "path": self._file,
        }
        return paths[segment.mode](segment, first, last)

    def scale(self, frames: int) -> float:
        """Diagonal of the box of the first ``frames`` camera centres (0: of all); of the cloud where it is a point."""
        centres = self.centres[: frames or None]
        found = float(np.linalg.norm(np.ptp(centres, axis=0)))
        return found if found > 0 else float(np.linalg.norm(self.high - self.low)) or 1.0

    def _follow(self, segment: Segment, first: int, last: int) -> FloatArray:
        place = _running_mean(self.centres, segment.smooth)
        ahead = _running_mean(self.cameras[:, :3, 2], segment.smooth)
        moved = np.gradient(place, axis=0) if len(place) > 1 else np.zeros_like(place)
        scale = self.scale(segment.scale_frames)
        heading = _across(self.up)
        found = []
        for position, forward, velocity in zip(place, ahead, moved, strict=True):
            forward = _unit(forward, heading)
            heading = self._heading(forward, velocity, heading)
            eye = position - segment.back * scale * heading + segment.up * scale * self.up
            found.append(look_from(eye, position + segment.look * scale * forward, self.up))
        return np.stack(found)

    def _heading(self, forward: FloatArray, velocity: FloatArray, before: FloatArray) -> FloatArray:
        """The level direction in which a camera looks, else moves, else looked before."""
        for direction in (forward, _unit(velocity, before)):
            level = direction - (direction @ self.up) * self.up
            if np.linalg.norm(level) >= _FLAT:
                return _unit(level, before)
        return before

    def _birdeye(self, segment: Segment, first: int, last: int) -> FloatArray:
        # The way from start to end lies across the picture, or along it where the picture is a portrait.
        way = self.centres[-1] - self.centres[0]
        way = _unit(way - (way @ self.up) * self.up, _across(self.up))
        across = np.cross(self.up, way)
        right, upward = (way, across) if self.aspect >= 1 else (across, way)
        axes = np.stack([right, upward, self.up])
        low, high = self.held(axes)
        halves = (high - low) / 2
        middle = (low + high) / 2 @ axes
        height = segment.margin * max(halves[1] / self.tangent, halves[0] / (self.aspect * self.tangent), 1e-6)
        eye = middle + (halves[2] + height) * self.up
        return np.repeat(look_from(eye, middle, upward)[None], len(self.cameras), axis=0)

    def _orbit(self, segment: Segment, first: int, last: int) -> FloatArray:
        radius = float(np.linalg.norm(self.high - self.low)) / 2 or 1.0
        distance = segment.margin * radius / min(self.tangent, self.aspect * self.tangent)
        start = _across(self.up)
        side = np.cross(self.up, start)
        rise = np.radians(segment.elevation)
        turned = 2 * np.pi * segment.turns * (np.arange(len(self.cameras)) - first) / max(last - first, 1)
        level = np.cos(turned)[:, None] * start + np.sin(turned)[:, None] * side
        eyes = self.middle + distance * (np.cos(rise) * level + np.sin(rise) * self.up)
        return np.stack([look_from(eye, self.middle, self.up) for eye in eyes])

    def _static(self, segment: Segment, first: int, last: int) -> FloatArray:
        start = self.cameras[0]
        eye = start[:3, 3] if segment.eye is None else np.array(segment.eye)
        target = eye + start[:3, 2] if segment.look_at is None else np.array(segment.look_at)
        return np.repeat(look_from(eye, target, self.up)[None], len(self.cameras), axis=0)

    def _pivot(self, segment: Segment, first: int, last: int) -> FloatArray:
        eye = np.array(segment.eye)
        targets = _running_mean(self.centres + 0.5 * self.cameras[:, :3, 2], segment.smooth)
        return np.stack([look_from(eye, target, self.up) for target in targets])

    def _file(self, segment: Segment, first: int, last: int) -> FloatArray:
        assert segment.file is not None
        keys = read_trajectory(segment.file).camera_to_world
        places = np.clip((np.arange(len(self.cameras)) - first) / max(last - first, 1), 0, 1) * (len(keys) - 1)
        found = np.repeat(np.eye(4)[None], len(places), axis=0)
        if len(keys) == 1:
            found[:] = keys[0]
            return found
        steps = np.arange(len(keys))
        before = np.minimum(places.astype(np.int64), len(keys) - 2)
        turns = keys[:, :3, :3]
        found[:, :3, :3] = rotation_between(turns[before], turns[before + 1], places - before)
        for axis in range(3):
            found[:, axis, 3] = np.interp(places, steps, keys[:, axis, 3])
        return found


def _running_mean(values: FloatArray, window: int) -> FloatArray:
    """The mean over a centred window; shorter, still centred, at both ends."""
    count = len(values)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    frames = np.arange(count)
    reach = np.minimum(np.minimum(frames, count - 1 - frames), window // 2)
    return np.asarray((sums[frames + reach + 1] - sums[frames - reach]) / (2 * reach + 1)[:, None])


def _between(one: FloatArray, other: FloatArray, share: float) -> FloatArray:
    found = np.eye(4)
    found[:3, 3] = (1 - share) * one[:3, 3] + share * other[:3, 3]
    found[:3, :3] = rotation_between(one[:3, :3], other[:3, :3], np.asarray(share))
    return found


def _unit(vector: FloatArray, otherwise: FloatArray) -> FloatArray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-12 else otherwise


def _across(up: FloatArray) -> FloatArray:
    """A direction of length 1 across ``up``, always the same one."""
    axis = np.eye(3)[np.argmin(np.abs(up))]
    return _unit(axis - (axis @ up) * up, axis)
