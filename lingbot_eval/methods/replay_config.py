"""Settings of the ``replay`` method as an experiment file writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lingbot_eval.errors import ConfigError
from lingbot_eval.files.trajectories import TrajectoryFormat
from lingbot_eval.geometry.pose_reading import Handedness, PoseReading, PosesMeaning, QuaternionOrder, ToCamera
from lingbot_eval.methods.base import Method, MethodSettings
from lingbot_eval.resources import expanded
from lingbot_eval.types import FrameSequence

_PLACEHOLDERS = ("dataset", "scene")


class FrameNumbers(BaseModel):
    """How saved files count the frames of a selection: frame i of the selection is number ``start + i · stride``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Annotated[int, Field(ge=0)] = 0
    stride: Annotated[int, Field(ge=1)] = 1


class ReplayConfig(MethodSettings):
    """Predictions that somebody else's method wrote.

    trajectory: a file's path with ``{dataset}`` and ``{scene}``, relative to the current directory, ``~`` expanded;
    format: found from the content unless it is named. max_time_difference_s: how far a
    pose's timestamp may be from its frame's. time_scale: seconds to one unit of the file's stamps (None: found from
    them). time_offset: seconds added to its times. poses, quaternion, handedness, to_camera: what the file's poses mean
    where they are not camera-to-world poses in its format's order (see PoseReading).
    depth: a folder's path, likewise, with one map a frame named by the frame's number: ``000012.npy`` (floats,
    metres or the method's own scale) or ``000012.png`` (16 bit, ``depth_units_per_metre`` to the metre, 0 = none),
    at the prepared image size; frames may be missing. frame_numbers: which KITTI row and which depth file belong
    to frame i; left out, they count the selected frames 0, 1, 2 … and a KITTI file must have exactly as many rows.
    """

    kind: Literal["replay"]
    name: Annotated[str, Field(min_length=1)] = "replay"
    trajectory: Annotated[str, Field(min_length=1)]
    format: TrajectoryFormat = "auto"
    max_time_difference_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.02
    time_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    time_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    poses: PosesMeaning = "camera-to-world"
    quaternion: QuaternionOrder | None = None
    handedness: Handedness = "right"
    to_camera: ToCamera = None
    depth: Annotated[str, Field(min_length=1)] | None = None
    depth_units_per_metre: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0
    frame_numbers: FrameNumbers | None = None

    @field_validator("trajectory", "depth")
    @classmethod
    def _known_placeholders(cls, pattern: str | None) -> str | None:
        for name in re.findall(r"\{([^{}]*)\}", pattern or ""):
            if name not in _PLACEHOLDERS:
                raise ValueError(f"unknown placeholder {{{name}}} in {pattern!r}; there are {{dataset}} and {{scene}}")
        return pattern

    @property
    def reading(self) -> PoseReading:
        """What the file's poses mean."""
        return PoseReading(
            poses=self.poses, quaternion=self.quaternion, handedness=self.handedness, to_camera=self.to_camera
        )

    def create(self) -> Method:
        from lingbot_eval.methods.replay import ReplayMethod

        return ReplayMethod(self)

    @property
    def needs_images(self) -> bool:
        return False

    @property
    def gives_depth(self) -> bool:
        return self.depth is not None

    def check(self, sequence: FrameSequence) -> None:
        """Reads and matches the scene's trajectory. Raises DataError as the unit would."""
        method = self.create()
        try:
            method.open(sequence)
        finally:
            method.close()

    def input_files(self, dataset: str, scene: str) -> Iterator[Path]:
        yield scene_path(self.trajectory, dataset, scene)
        if self.depth is not None:
            folder = scene_path(self.depth, dataset, scene)
            yield from sorted(folder.iterdir()) if folder.is_dir() else ()


def scene_path(pattern: str, dataset: str, scene: str) -> Path:
    """The path that a pattern means for one scene; a scene in folders (``a/b``) becomes folders.

    Raises ConfigError for a name that would lead out of the pattern's folder, such as ``../x`` or ``/x``.
    """
    for name in (dataset, scene):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ConfigError(
                f"{name!r} cannot be put into the path {pattern!r}: it leads out of the folder; rename it"
            )
    return expanded(pattern.replace("{dataset}", dataset).replace("{scene}", scene))
