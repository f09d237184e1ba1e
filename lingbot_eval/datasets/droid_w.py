"""DROID-W: walks through a town centre among people, poses by lidar or GNSS odometry (protocol.md section 2)."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.listing import names_in, scene_folders, shown, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.reference_poses import facts_of, poses_by_time
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, selected
from lingbot_eval.errors import DataError
from lingbot_eval.files.text import parse_number
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.types import FloatArray

MAX_TIME_DIFFERENCE = 0.05  # seconds between an image and its pose
TRAJECTORIES = ("traj_gt.txt", "traj_gt_fastlivo.txt")

_IMAGES = "images_anonymized"
_SUFFIXES = (".jpg", ".jpeg", ".png")


class DroidWOptions(BaseModel):
    """There is nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DroidWAdapter:
    """ROOT/SCENE/{images_anonymized/TIME.jpg, traj_gt.txt or traj_gt_fastlivo.txt}."""

    name = "droid_w"
    Options = DroidWOptions

    def __init__(self, root: Path, options: DroidWOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Folders with images_anonymized. Raises DataError for a root of another shape."""
        layout = f"ROOT/SCENE folders with {_IMAGES}/"
        return tuple(scene_folders(self._root, "droid_w", layout, _is_scene))

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One walk. Raises DataError when it is not there or its poses are of another time."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene("droid_w", scene, scenes)
        folder = self._root / scene
        images, times = _images(folder / _IMAGES)
        truth = _truth(folder)
        trajectory = read_tum(truth)
        chosen = selected("droid_w", scene, selection, len(images))
        poses = poses_by_time(trajectory, times, MAX_TIME_DIFFERENCE, _IMAGES)
        return FileSequence(
            dataset="droid_w",
            scene=scene,
            root=self._root,
            files=[FrameFiles(images[i], float(times[i]), poses.get(i)) for i in chosen],
            intrinsics=None,
            conventions={
                "poses": f"{truth.name}, camera-to-world, metres; nearest in time to the image, one to one, within"
                f" {MAX_TIME_DIFFERENCE:g} s",
                "depth": "none",
                "intrinsics": "none",
                "timestamps": "the images' names, seconds",
                **facts_of(trajectory, len(poses)),
                "licence": "see the dataset's page; not redistributed here",
            },
            index_files=(truth,),
        )


def _is_scene(folder: Path) -> bool:
    return (folder / _IMAGES).is_dir()


def _truth(folder: Path) -> Path:
    for name in TRAJECTORIES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"droid_w: expected {' or '.join(TRAJECTORIES)} in {folder}, found {shown(names_in(folder))}; download it"
    )


def _images(folder: Path) -> tuple[list[Path], FloatArray]:
    """Images in order of the times that are their names, and these times."""
    stamped: list[tuple[float, str]] = []
    for name in names_in(folder):
        if name.startswith(".") or not name.lower().endswith(_SUFFIXES):
            continue
        stem = name.rpartition(".")[0]
        try:
            time = parse_number(stem)
        except ValueError:
            time = math.nan
        if not math.isfinite(time):
            raise DataError(f"droid_w: {folder / name}: expected a time in seconds as the name, found {stem[:40]!r}")
        stamped.append((time, name))
    stamped.sort()
    for (before, first), (time, second) in itertools.pairwise(stamped):
        if time == before:
            raise DataError(f"droid_w: {folder}: two images of one time: {shown((first, second))}; remove one of them")
    return [folder / name for _, name in stamped], np.array([time for time, _ in stamped])
