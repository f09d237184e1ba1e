"""How a file's poses are to be read: which way they map, in which order quaternions stand, from where to the camera."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict

from lingbot_eval.errors import ConfigError
from lingbot_eval.geometry.poses import (
    inverse,
    nearest_rotation,
    not_rigid,
    orthogonalised,
    pose_matrix,
    quaternion_from_rotation,
    rotation_from_quaternion,
)
from lingbot_eval.types import FloatArray, Trajectory

TrajectoryT = TypeVar("TrajectoryT", bound=Trajectory)

PosesMeaning = Literal["camera-to-world", "world-to-camera", "world-to-camera-rotations"]
QuaternionOrder = Literal["xyzw", "wxyz"]
Handedness = Literal["right", "left"]

OPENGL = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""``to_camera`` of a camera that looks along −z with y up: half a turn about x makes it OpenCV's."""

SCALAR_FIRST = ("euroc", "colmap")
"""Formats that write quaternions w x y z."""
WORLD_TO_CAMERA = ("colmap",)
"""Formats that write inverse poses with quaternions; their readers turn them round."""

_MIRROR = np.diag([1.0, -1.0, 1.0])


def _numbers(given: object) -> object:
    """``opengl``, 7 numbers (x y z qx qy qz qw) or a matrix of 12 or 16, as text or lists → 7 numbers."""
    if given is None:
        return None
    if isinstance(given, str):
        if given.strip().lower() == "opengl":
            return OPENGL
        given = given.replace(",", " ").split()
    if isinstance(given, (list, tuple)):
        flat = [item for row in given for item in (row if isinstance(row, (list, tuple)) else (row,))]
        try:
            values = [float(item) for item in flat if not isinstance(item, bool) and _is_plain(item)]
        except (TypeError, ValueError):
            values = []
        if len(values) == len(flat) and all(map(math.isfinite, values)):
            if len(values) == 7:
                return _unit(values)
            if len(values) in (12, 16):
                return _from_matrix(np.array([*values, 0, 0, 0, 1][:16]).reshape(4, 4))
    raise ValueError(
        "expected opengl, 7 numbers (x y z qx qy qz qw) or a 4x4 matrix: the camera's pose in the frame that the file's"
        f" poses are of; found {str(given)[:60]!r}"
    )


def _is_plain(item: object) -> bool:
    """Whether text is a number as files write it; Python reads ``1_0`` and digits of other scripts, too."""
    return not isinstance(item, str) or (item.isascii() and "_" not in item)


def _unit(values: list[float]) -> tuple[float, ...]:
    length = math.hypot(*values[3:])
    if not 0.9 < length < 1.1:
        raise ValueError(f"expected a unit quaternion qx qy qz qw in numbers 4 to 7, found one of length {length:.3g}")
    return (*values[:3], *(value / length for value in values[3:]))


def _from_matrix(matrix: FloatArray) -> tuple[float, ...]:
    if not_rigid(matrix) is not None:
        raise ValueError("expected a rigid 4x4 matrix: a rotation, a translation, and 0 0 0 1 in its last row")
    return (*matrix[:3, 3].tolist(), *quaternion_from_rotation(nearest_rotation(matrix[:3, :3])).tolist())


ToCamera = Annotated[tuple[float, float, float, float, float, float, float] | None, BeforeValidator(_numbers)]


class PoseReading(BaseModel):
    """What the poses of a file mean; the defaults are what this program works with.

    poses: ``world-to-camera`` for inverse poses, ``world-to-camera-rotations`` where only the rotations are inverse and
    the positions are the camera's. quaternion: order of the four numbers in the file, None as its format says.
    handedness: ``left`` for poses in left-handed axes (mirror images). to_camera: pose of the camera in the frame that
    the poses are of (x y z qx qy qz qw, in their unit), where that is a body's and not the camera's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    poses: PosesMeaning = "camera-to-world"
    quaternion: QuaternionOrder | None = None
    handedness: Handedness = "right"
    to_camera: ToCamera = None

    def apply(
        self, poses: FloatArray, own_order: QuaternionOrder = "xyzw", *, inverse_in_file: bool = False
    ) -> FloatArray:
        """(N, 4, 4) camera-to-world poses of (N, 4, 4) poses as the reader took them.

        own_order: order of quaternions in the file's format, which the reader took them in. inverse_in_file: whether
        the file has world-to-camera poses, which the reader turned round: its quaternions are those of the inverse.
        """
        if self.quaternion not in (None, own_order):
            written = inverse(poses) if inverse_in_file else poses
            read_so = reordered(written, self.quaternion == "wxyz")
            poses = inverse(read_so) if inverse_in_file else read_so
        if self.handedness == "left":
            poses = mirrored(poses)
        if self.poses != "camera-to-world":
            poses = orthogonalised(poses)
            turned = inverse(poses)
            poses = turned if self.poses == "world-to-camera" else pose_matrix(turned[:, :3, :3], poses[:, :3, 3])
        if self.to_camera is not None:
            poses = poses @ camera_in_body(self.to_camera)
        return poses

    def of(self, trajectory: TrajectoryT, format: str) -> TrajectoryT:
        """The trajectory with its poses read so.

        Args:
            trajectory: poses as the reader of its format took them; a file keeps all that was found in it.
            format: of the file, which says how its quaternions were read.

        Raises:
            ConfigError: positions without orientation, of which no more can be read than their handedness.
        """
        if not self.changes:
            return trajectory
        if not trajectory.has_orientation and set(self.changes) - {"handedness"}:
            asked = ", ".join(sorted(set(self.changes) - {"handedness"}))
            raise ConfigError(f"{asked}: expected poses, found positions without orientation; leave it out")
        own_order: QuaternionOrder = "wxyz" if format in SCALAR_FIRST else "xyzw"
        inverse_in_file = format in WORLD_TO_CAMERA
        poses = self.apply(trajectory.camera_to_world, own_order, inverse_in_file=inverse_in_file)
        return replace(trajectory, camera_to_world=poses)

    @property
    def changes(self) -> dict[str, object]:
        """The settings that are not the defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)


def camera_in_body(numbers: tuple[float, ...]) -> FloatArray:
    """(4, 4) pose of x y z qx qy qz qw."""
    return pose_matrix(rotation_from_quaternion(np.array(numbers[3:])), np.array(numbers[:3]))


def reordered(poses: FloatArray, scalar_was_first: bool) -> FloatArray:
    """(N, 4, 4) poses whose quaternions were read in the other order than they were written in.

    scalar_was_first: they were written w x y z and read as x y z w; else the other way round.
    """
    read = quaternion_from_rotation(nearest_rotation(poses[:, :3, :3]))
    right = np.roll(read, -1, axis=1) if scalar_was_first else np.roll(read, 1, axis=1)
    return pose_matrix(rotation_from_quaternion(right), poses[:, :3, 3])


def mirrored(poses: FloatArray) -> FloatArray:
    """(N, 4, 4) poses with the y axes of world and camera turned round: left-handed axes become right-handed."""
    return pose_matrix(_MIRROR @ poses[:, :3, :3] @ _MIRROR, poses[:, :3, 3] @ _MIRROR)
