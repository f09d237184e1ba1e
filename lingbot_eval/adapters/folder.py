"""Any folder of images, with a trajectory file as reference if there is one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lingbot_eval.adapters.listing import existing_folder, folders_in, names_in, shown, unknown_scene
from lingbot_eval.adapters.protocol import Selection
from lingbot_eval.adapters.readers import IMAGE_SUFFIXES
from lingbot_eval.adapters.sequence import FileSequence, FrameFiles, pinhole
from lingbot_eval.errors import DataError
from lingbot_eval.formats.association import associate
from lingbot_eval.formats.trajectories import TrajectoryFormat, read_trajectory
from lingbot_eval.types import FloatArray

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

_NAME_UNITS = {"seconds_in_names": 1.0, "nanoseconds_in_names": 1e9}


class FolderOptions(BaseModel):
    """How images become frames.

    timestamps: ``fps`` (position / fps), or the number that is the image's name, in seconds (TUM) or nanoseconds
    (EuRoC). trajectory: reference poses, a path relative to the scene's folder. trajectory_format: KITTI rows go
    with images one by one; TUM and EuRoC poses go with the image nearest in time, within ``max_time_difference``
    seconds. intrinsics: fx, fy, cx, cy in pixels of the images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fps: Positive = 30.0
    timestamps: Literal["fps", "seconds_in_names", "nanoseconds_in_names"] = "fps"
    trajectory: str | None = None
    trajectory_format: TrajectoryFormat = "tum"
    max_time_difference: Positive = 0.02
    intrinsics: tuple[Positive, Positive, float, float] | None = None

    @model_validator(mode="after")
    def _needed_together(self) -> FolderOptions:
        for name in ("trajectory_format", "max_time_difference"):
            if self.trajectory is None and name in self.model_fields_set:
                raise ValueError(f"{name}: has a meaning with 'trajectory' only; give the trajectory file too")
        return self


class FolderAdapter:
    """Images directly in the root are one scene, named like the root; otherwise each subfolder with images is one."""

    name = "folder"
    Options = FolderOptions

    def __init__(self, root: Path, options: FolderOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Raises DataError when there is no image in the root nor in any folder in it."""
        return tuple(self._folders())

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One folder of images in natural order (``2.png`` before ``10.png``)."""
        folders = self._folders()
        if scene not in folders:
            raise unknown_scene("folder", scene, folders)
        folder = folders[scene]
        images = [folder / name for name in _images_in(folder)]
        times = self._times(images)
        poses, facts = self._poses(folder, times)
        chosen = selection.indices(len(images))
        if not chosen:
            raise DataError(
                f"folder: scene {scene} has {len(images)} images and the selection starts at {selection.start}:"
                " no frame is left; start earlier"
            )
        options = self._options
        by_fps = f"position / {options.fps:g} Hz"
        return FileSequence(
            dataset="folder",
            scene=scene,
            root=self._root,
            files=[FrameFiles(images[i], float(times[i]), poses.get(i)) for i in chosen],
            intrinsics=None if options.intrinsics is None else pinhole(*options.intrinsics),
            conventions={
                **facts,
                "depth": "none",
                "intrinsics": "none" if options.intrinsics is None else "given in the options",
                "timestamps": by_fps if options.timestamps == "fps" else options.timestamps.replace("_", " "),
                "licence": "the user's own data",
            },
            index_files=() if options.trajectory is None else (folder / options.trajectory,),
        )

    def _folders(self) -> dict[str, Path]:
        root = existing_folder(self._root, "root of dataset folder").resolve()
        if _images_in(root):
            return {root.name or "images": root}
        folders = {name: root / name for name in folders_in(root) if _images_in(root / name)}
        if folders:
            return folders
        for name in folders_in(root):
            if any(_images_in(root / name / inner) for inner in folders_in(root / name)):
                hint = f"found some under {name}: the root is one level too high, use {root / name}"
                break
        else:
            hint = f"found {shown(names_in(root))}"
        raise DataError(f"folder: expected images ({', '.join(IMAGE_SUFFIXES)}) in {root} or its folders, {hint}")

    def _times(self, images: list[Path]) -> FloatArray:
        if self._options.timestamps == "fps":
            return np.arange(len(images)) / self._options.fps
        unit = _NAME_UNITS[self._options.timestamps]
        times = np.array([_number_in_name(image) / unit for image in images])
        wrong = np.flatnonzero(~(np.diff(times) > 0))
        if len(wrong):
            later = images[int(wrong[0]) + 1]
            raise DataError(
                f"folder: {later}: expected timestamps in the names to increase in natural order, found the one after"
                f" {images[int(wrong[0])].name} not larger; use timestamps: fps"
            )
        return times

    def _poses(self, folder: Path, times: FloatArray) -> tuple[dict[int, FloatArray], dict[str, Any]]:
        options = self._options
        if options.trajectory is None:
            return {}, {"poses": "none"}
        path = folder / options.trajectory
        trajectory = read_trajectory(path, options.trajectory_format)
        if trajectory.timestamps is None:
            if len(trajectory) != len(times):
                raise DataError(
                    f"{path}: expected one KITTI row for each of the {len(times)} images in {folder}, found"
                    f" {len(trajectory)}; give the trajectory of these images"
                )
            return dict(enumerate(trajectory.camera_to_world)), {"poses": "KITTI file, row by row, taken as metres"}
        pose_index, image_index = associate(trajectory.timestamps, times, options.max_time_difference)
        if len(pose_index) == 0:
            raise DataError(
                f"{path}: no pose is within {options.max_time_difference:g} s of an image: poses run from"
                f" {trajectory.timestamps[0]:.3f} to {trajectory.timestamps[-1]:.3f} s, images from {times[0]:.3f} to"
                f" {times[-1]:.3f} s; set options.timestamps or options.fps"
            )
        matched = {int(i): trajectory.camera_to_world[p] for p, i in zip(pose_index, image_index, strict=True)}
        return matched, {
            "poses": f"{options.trajectory_format} file, nearest in time to the image, one to one, within"
            f" {options.max_time_difference:g} s; taken as camera-to-world, metres",
            "poses_in_file": len(trajectory),
            "images_with_pose": len(matched),
        }


def _images_in(folder: Path) -> list[str]:
    # Hidden files are thumbnails and leftovers of other systems (._name.jpg), never frames.
    return [n for n in names_in(folder) if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith(".")]


def _number_in_name(image: Path) -> float:
    try:
        number = float(image.stem)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"folder: {image}: expected a timestamp as the image's name, found {image.stem[:40]!r}")
    return number
