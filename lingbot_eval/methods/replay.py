"""The ``replay`` method: trajectories, and optionally depth maps, that somebody else's method wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.files.depth_maps import read_depth_map
from lingbot_eval.files.reading import folder_contents
from lingbot_eval.files.times import Clock, pair_times
from lingbot_eval.files.trajectories import TrajectoryFile, TrajectoryFormat, read_trajectory
from lingbot_eval.geometry.pose_reading import Handedness, PoseReading, PosesMeaning, QuaternionOrder, ToCamera
from lingbot_eval.methods.base import BaseMethod, Method, MethodSettings
from lingbot_eval.resources import expanded
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import DepthMap, Frame, FrameSequence, Prediction

_PLACEHOLDERS = ("dataset", "scene")


class FrameNumbers(StrictModel):
    """How saved files count the frames of a selection: frame i of the selection is number ``start + i · stride``."""

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


@dataclass(frozen=True, eq=False)
class _Scene:
    """Saved predictions bound to a sequence: which row and which depth map belong to which frame."""

    poses: TrajectoryFile
    row_of_frame: Mapping[int, int]
    depth_of_frame: Mapping[int, Path]
    frames: int | None
    unused_depth_files: int


class ReplayMethod(BaseMethod):
    """Gives back saved poses (and depth) frame by frame; frames for which nothing was saved are left out."""

    needs_images = False

    def __init__(self, config: ReplayConfig) -> None:
        super().__init__(config)
        self._config = config
        self._scene: _Scene | None = None

    def describe(self) -> Mapping[str, Any]:
        """The configuration and, once opened, how the saved poses met the frames."""
        facts = dict(super().describe())
        if self._scene is None:
            return facts
        scene, frames = self._scene, self._scene.frames
        poses, matched = scene.poses, len(scene.row_of_frame)
        found: dict[str, Any] = {
            "trajectory_file": str(poses.path),
            "format": poses.format,
            "time_unit": poses.time_unit if poses.timed else None,
            "poses_in_file": poses.rows,
            "lost_poses": poses.lost,
            "repeated_stamps": poses.repeated,
            "poses_matched": matched,
            "poses_without_frame": len(poses) - matched,
            "frames": frames,
            "frames_without_pose": None if frames is None else frames - matched,
            "coverage_percent": None if not frames else 100.0 * matched / frames,
        }
        if self._config.depth is not None:
            found |= {
                "depth_maps_matched": len(scene.depth_of_frame),
                "depth_maps_without_frame": scene.unused_depth_files,
            }
        facts |= {"association": _association(self._config, timed=poses.timed), "found": found}
        if poses.notes:
            facts["notes"] = list(poses.notes)
        return facts

    def open(self, sequence: FrameSequence) -> None:
        """Read the scene's trajectory and match it to the frames.

        Raises DataError for a missing or malformed file, a KITTI file with another number of rows than frames,
        timestamps that match no frame, or a sequence that has no timestamps to match.
        """
        self.close()
        path = scene_path(self._config.trajectory, sequence.dataset, sequence.scene)
        config = self._config
        poses = read_trajectory(path, config.format, time_scale=config.time_scale, time_offset=config.time_offset)
        poses = config.reading.of(poses, poses.format)
        if poses.timed:
            row_of_frame = _rows_by_time(poses, sequence, config.max_time_difference_s)
        else:
            row_of_frame = _rows_by_number(poses, sequence, config.frame_numbers)
        depth_of_frame: Mapping[int, Path] = {}
        unused = 0
        if self._config.depth is not None:
            folder = scene_path(self._config.depth, sequence.dataset, sequence.scene)
            depth_of_frame, unused = _depth_files(folder, sequence, self._config.frame_numbers or FrameNumbers())
        self._scene = _Scene(poses, row_of_frame, depth_of_frame, sequence.length, unused)

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """Saved predictions in frame order. Raises DataError for a depth map that cannot be read or does not fit."""
        if self._scene is None:
            raise RuntimeError("open() must come before predict()")
        scene = self._scene
        for frame in frames:
            row = scene.row_of_frame.get(frame.index)
            depth = self._depth(scene.depth_of_frame.get(frame.index), frame)
            if row is None and depth is None:
                continue
            pose = None if row is None else scene.poses.camera_to_world[row].copy()
            yield Prediction(
                frame.index,
                frame.timestamp,
                camera_to_world=pose,
                depth=depth,
                has_orientation=scene.poses.has_orientation,
            )

    def close(self) -> None:
        """Forget the scene."""
        self._scene = None

    def _depth(self, path: Path | None, frame: Frame) -> DepthMap | None:
        if path is None:
            return None
        depth = read_depth_map(path, self._config.depth_units_per_metre)
        if frame.depth is not None and frame.depth.shape != depth.shape:
            raise DataError(
                f"depth map {path} of frame {frame.index} has shape {depth.shape}, but the prepared frame has"
                f" {frame.depth.shape}; save depth at the prepared size, or set the dataset's size to that of the maps"
            )
        return depth


def _association(config: ReplayConfig, *, timed: bool) -> str:
    if timed:
        return f"one to one by nearest timestamp within {config.max_time_difference_s:g} s"
    if config.frame_numbers is None:
        return "row i belongs to frame i of the selection"
    return f"row {config.frame_numbers.start} + {config.frame_numbers.stride}·i belongs to frame i of the selection"


def _rows_by_number(poses: TrajectoryFile, sequence: FrameSequence, numbers: FrameNumbers | None) -> dict[int, int]:
    length = sequence.length
    if length is None:
        raise DataError(
            f"{poses.path}: poses without times go by row, but {sequence.dataset}/{sequence.scene} cannot tell how many"
            " frames it has; use an extracted folder of images"
        )
    if numbers is None:
        if poses.rows != length:
            raise DataError(
                f"{poses.path}: expected one row for each of the {length} selected frames of"
                f" {sequence.dataset}/{sequence.scene}, found {poses.rows} rows; if the file counts all frames of the"
                " recording, set frame_numbers (start, stride) to the dataset's selection"
            )
        numbers = FrameNumbers()
    needed = numbers.start + numbers.stride * (length - 1) + 1 if length else 0
    if poses.rows < needed:
        raise DataError(
            f"{poses.path}: frame_numbers start {numbers.start}, stride {numbers.stride} need {needed} rows for the"
            f" {length} selected frames of {sequence.dataset}/{sequence.scene}, found {poses.rows}"
        )
    place = {row: position for position, row in enumerate(poses.indices.tolist())}
    rows = {frame: numbers.start + numbers.stride * frame for frame in range(length)}
    return {frame: place[row] for frame, row in rows.items() if row in place}


def _rows_by_time(poses: TrajectoryFile, sequence: FrameSequence, max_difference: float) -> dict[int, int]:
    frame_times = sequence.timestamps()
    if frame_times is None:
        raise DataError(
            f"{poses.path}: timestamped poses cannot be matched to {sequence.dataset}/{sequence.scene}, which has no"
            " timestamps before it is decoded; use format kitti (row i for frame i) or an extracted folder of images"
        )
    clock = Clock(f"{sequence.dataset}/{sequence.scene}", frame_times, "frames")
    frames, rows = pair_times(clock, poses.clock(str(poses.path)), max_difference)
    return dict(zip(frames.tolist(), rows.tolist(), strict=True))


def _depth_files(folder: Path, sequence: FrameSequence, numbers: FrameNumbers) -> tuple[dict[int, Path], int]:
    """Frame → its file, and how many files belong to no frame of the selection."""
    if not folder.is_dir():
        raise DataError(f"expected a folder of depth maps at {folder}, found none; {folder_contents(folder.parent)}")
    found: dict[int, Path] = {}
    unused = 0
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"folder of depth maps {folder} cannot be listed: {error.strerror or error}") from error
    for path in paths:
        if path.suffix not in (".npy", ".png"):
            continue
        if not (path.stem.isascii() and path.stem.isdecimal()):
            raise DataError(f"depth map {path}: expected the frame's number as its name, such as 000012{path.suffix}")
        frame, rest = divmod(int(path.stem) - numbers.start, numbers.stride)
        if rest or frame < 0 or (sequence.length is not None and frame >= sequence.length):
            unused += 1
        elif frame in found:
            raise DataError(f"depth maps {found[frame].name} and {path.name} in {folder} are of one frame; remove one")
        else:
            found[frame] = path
    if not found:
        raise DataError(f"expected depth maps named by frame number (.npy or .png); {folder_contents(folder)}")
    return found, unused
