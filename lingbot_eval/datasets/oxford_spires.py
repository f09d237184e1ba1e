"""Oxford Spires in its prepared layout: long outdoor and indoor walks with lidar poses (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

from lingbot_eval.datasets.calibration import checked_pinhole, read_numbers
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import numbered_files
from lingbot_eval.datasets.readers import image_size
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, pinhole
from lingbot_eval.errors import DataError
from lingbot_eval.files.trajectories import read_kitti
from lingbot_eval.types import FloatArray

_IMAGE = re.compile(r"(\d{1,9})\.(?:png|jpg|jpeg)", re.IGNORECASE)
_DEPTH = re.compile(r"(\d{1,9})\.npy")


class OxfordSpiresAdapter(FileDataset):
    """ROOT/SCENE/{images, poses_c2w.txt, intrinsics.txt, depth}; sparse and long are selections (stride 12 and 1)."""

    name = "oxford_spires"
    layout = "prepared ROOT/SCENE folders with images/ and poses_c2w.txt"
    licence = "CC BY-NC-SA 4.0 (Oxford Spires)"

    def is_scene(self, folder: Path) -> bool:
        return (folder / "images").is_dir() and (folder / "poses_c2w.txt").is_file()

    def read(self, scene: str) -> FileSequence:
        """One walk. Raises DataError when it is malformed."""
        folder = self.folders[scene]
        images = numbered_files(folder / "images", _IMAGE, self.name)
        depths = numbered_files(folder / "depth", _DEPTH, self.name, optional=True)
        path = folder / "poses_c2w.txt"
        trajectory = read_kitti(path)
        poses = trajectory.by_row()
        if images and trajectory.rows != len(images):
            raise DataError(
                f"{path}: expected one line for each of the {len(images)} images in {folder / 'images'}, found"
                f" {trajectory.rows}; prepare the scene again"
            )
        return self.sequence(
            scene,
            [
                FrameFiles(path, float(i), poses.get(i), depths.get(number))
                for i, (number, path) in enumerate(images.items())
            ],
            _intrinsics(folder / "intrinsics.txt", next(iter(images.values()))) if images else None,
            {
                "poses": "lidar against a survey scan, camera-to-world, metres, line n for image n",
                "depth": "NumPy arrays, metres, not finite or not positive = none" if depths else "none",
                "intrinsics": "intrinsics.txt (undistorted images)",
                "timestamps": "position in the scene; the prepared layout has none",
            },
            trajectory=trajectory,
            index_files=(folder / "intrinsics.txt",),
        )


def _intrinsics(path: Path, image: Path) -> FloatArray:
    fx, fy, cx, cy, width, height = read_numbers(path, ("fx", "fy", "cx", "cy", "w", "h"))
    size = image_size(image, "oxford_spires: first image")
    if (width, height) != (float(size[0]), float(size[1])):
        raise DataError(
            f"{path}: expected intrinsics for images of {size[0]}x{size[1]} pixels as {image.name}, found"
            f" {width:g}x{height:g}; prepare the scene again"
        )
    return checked_pinhole(pinhole(fx, fy, cx, cy), str(path))
