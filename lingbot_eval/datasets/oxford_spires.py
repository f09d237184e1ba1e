"""Oxford Spires in its prepared layout: long outdoor and indoor walks with lidar poses (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.calibration import checked_pinhole, read_numbers
from lingbot_eval.datasets.listing import numbered_files, scene_folders, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.readers import array_depth, image_size
from lingbot_eval.datasets.reference_poses import facts_of
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, pinhole, selected
from lingbot_eval.errors import DataError
from lingbot_eval.files.trajectories import read_kitti
from lingbot_eval.types import FloatArray

_IMAGE = re.compile(r"(\d{1,9})\.(?:png|jpg|jpeg)", re.IGNORECASE)
_DEPTH = re.compile(r"(\d{1,9})\.npy")


class OxfordSpiresOptions(BaseModel):
    """There is nothing to choose: sparse and long are selections (stride 12 and stride 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OxfordSpiresAdapter:
    """ROOT/SCENE/{images, poses_c2w.txt, intrinsics.txt, depth}."""

    name = "oxford_spires"
    Options = OxfordSpiresOptions

    def __init__(self, root: Path, options: OxfordSpiresOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Folders with ``images`` and ``poses_c2w.txt``. Raises DataError for a root of another shape."""
        layout = "prepared ROOT/SCENE folders with images/ and poses_c2w.txt"
        return tuple(scene_folders(self._root, "oxford_spires", layout, _is_scene))

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One walk. Raises DataError when it is not there or malformed."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene("oxford_spires", scene, scenes)
        folder = self._root / scene
        images = list(numbered_files(folder / "images", _IMAGE, "oxford_spires").items())
        depths = numbered_files(folder / "depth", _DEPTH, "oxford_spires") if (folder / "depth").is_dir() else {}
        chosen = selected("oxford_spires", scene, selection, len(images))
        path = folder / "poses_c2w.txt"
        trajectory = read_kitti(path)
        poses = trajectory.by_row()
        if trajectory.rows != len(images):
            raise DataError(
                f"{path}: expected one line for each of the {len(images)} images in {folder / 'images'}, found"
                f" {trajectory.rows}; prepare the scene again"
            )
        return FileSequence(
            dataset="oxford_spires",
            scene=scene,
            root=self._root,
            files=[FrameFiles(images[i][1], float(i), poses.get(i), depths.get(images[i][0])) for i in chosen],
            intrinsics=_intrinsics(folder / "intrinsics.txt", images[0][1]),
            conventions={
                "poses": "lidar against a survey scan, camera-to-world, metres, line n for image n",
                "depth": "NumPy arrays, metres, not finite or not positive = none" if depths else "none",
                "intrinsics": "intrinsics.txt (undistorted images)",
                "timestamps": "position in the scene; the prepared layout has none",
                **facts_of(trajectory, len(poses)),
                "licence": "CC BY-NC-SA 4.0 (Oxford Spires)",
            },
            index_files=(path, folder / "intrinsics.txt"),
            depth_reader=array_depth,
        )


def _is_scene(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "poses_c2w.txt").is_file()


def _intrinsics(path: Path, image: Path) -> FloatArray:
    fx, fy, cx, cy, width, height = read_numbers(path, ("fx", "fy", "cx", "cy", "w", "h"))
    size = image_size(image, "oxford_spires: first image")
    if (width, height) != (float(size[0]), float(size[1])):
        raise DataError(
            f"{path}: expected intrinsics for images of {size[0]}x{size[1]} pixels as {image.name}, found"
            f" {width:g}x{height:g}; prepare the scene again"
        )
    return checked_pinhole(pinhole(fx, fy, cx, cy), str(path))
