"""Walks whose images are named by their time: DROID-W (protocol.md section 2) and Long3D."""

from __future__ import annotations

from pathlib import Path

from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import names_in, shown, timed_files
from lingbot_eval.datasets.reference_poses import poses_by_time
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError
from lingbot_eval.files.trajectories import read_tum

MAX_TIME_DIFFERENCE = 0.05  # seconds between an image and its pose
TRAJECTORIES = ("traj_gt.txt", "traj_gt_fastlivo.txt")

_IMAGES = "images_anonymized"


class DroidWAdapter(FileDataset):
    """ROOT/SCENE/{images_anonymized/TIME.jpg, traj_gt.txt or traj_gt_fastlivo.txt}."""

    name = "droid_w"
    layout = f"ROOT/SCENE folders with {_IMAGES}/"
    licence = "see the dataset's page; not redistributed here"

    def is_scene(self, folder: Path) -> bool:
        return (folder / _IMAGES).is_dir()

    def read(self, scene: str) -> FileSequence:
        """One walk. Raises DataError when its poses are of another time."""
        folder = self.folders[scene]
        images, times = timed_files(folder / _IMAGES, self.name)
        truth = _truth(folder)
        trajectory = read_tum(truth)
        poses = poses_by_time(trajectory, times, MAX_TIME_DIFFERENCE, _IMAGES) if images else {}
        return self.sequence(
            scene,
            [FrameFiles(image, float(times[i]), poses.get(i)) for i, image in enumerate(images)],
            None,
            {
                "poses": f"{truth.name}, camera-to-world, metres; nearest in time to the image, one to one, within"
                f" {MAX_TIME_DIFFERENCE:g} s",
                "timestamps": "the images' names, seconds",
            },
            trajectory=trajectory,
        )


class Long3dAdapter(FileDataset):
    """ROOT/SCENE/{images/scan_images/TIME.jpg, dense_cloud_map.pcd}: no poses, a scanner's cloud of the whole scene."""

    name = "long3d"
    layout = "ROOT/SCENE/images/scan_images/TIME.jpg beside dense_cloud_map.pcd"
    licence = "see the dataset's page; not redistributed here"
    nesting = 1

    def is_scene(self, folder: Path) -> bool:
        return _scan_images(folder) is not None

    def read(self, scene: str) -> FileSequence:
        """One walk. Raises DataError for names that are no times."""
        folder = self.folders[scene]
        images, times = timed_files(_scan_images(folder) or folder, self.name)
        cloud = folder / "dense_cloud_map.pcd"
        return self.sequence(
            scene,
            [FrameFiles(image, float(times[i])) for i, image in enumerate(images)],
            None,
            {
                "timestamps": "the images' names, seconds",
                "cloud": f"{cloud.name}, by laser scanner" if cloud.is_file() else "none",
            },
            notes=["the dataset has no poses: trajectories cannot be scored"],
        )


def _scan_images(folder: Path) -> Path | None:
    places = (folder / "images" / "scan_images", folder / "scan_images")
    return next((place for place in places if place.is_dir()), None)


def _truth(folder: Path) -> Path:
    for name in TRAJECTORIES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"droid_w: expected {' or '.join(TRAJECTORIES)} in {folder}, found {shown(names_in(folder))}; download it"
    )
