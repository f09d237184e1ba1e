"""VBR: long walks and drives in and around Rome, in the processed layout (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from lingbot_eval.datasets.calibration import read_matrix, read_times, read_yaml
from lingbot_eval.datasets.euroc import sensor_of
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import numbered_files
from lingbot_eval.datasets.reference_poses import moved, poses_by_time
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.trajectories import TrajectoryFile, read_tum
from lingbot_eval.types import FloatArray

MAX_TIME_DIFFERENCE = 0.06  # seconds between an image and its pose: truth is that of the lidar's sweeps, at 10 Hz

_SUFFIX = "_processed_aligned"
_FRAME = re.compile(r"(\d{1,10})\.(?:png|jpg|jpeg)", re.IGNORECASE)
_IMAGE = re.compile(r"(\d{1,9})\.(?:png|jpg|jpeg)", re.IGNORECASE)


class VbrAdapter(FileDataset):
    """ROOT/SCENE_processed_aligned and ROOT/processed_gt/SCENE_gt.txt; the scene is called SCENE."""

    name = "vbr"
    layout = f"ROOT/SCENE{_SUFFIX} folders with rgb/"
    licence = "see the dataset's page; not redistributed here"

    def is_scene(self, folder: Path) -> bool:
        return folder.name.endswith(_SUFFIX) and (folder / "rgb").is_dir()

    def scenes(self) -> tuple[str, ...]:
        """Folders called SCENE_processed_aligned. Raises DataError for a root of another shape."""
        return tuple(name.removesuffix(_SUFFIX) for name in self.scenes_on_disk())

    def read(self, scene: str) -> FileSequence:
        """One walk. Raises DataError when its poses are not of its frames."""
        folder = self.root / f"{scene}{_SUFFIX}"
        images = numbered_files(folder / "rgb", _IMAGE, self.name)
        truth = self.root / "processed_gt" / f"{scene}_gt.txt"
        trajectory = read_tum(truth)
        poses = _poses(trajectory)
        if images and not poses.keys() & images.keys():
            raise DataError(
                f"{truth}: no pose is of a frame in {folder / 'rgb'}: poses are of frames {min(poses)} to {max(poses)},"
                f" images of {min(images)} to {max(images)}; is it the ground truth of this scene?"
            )
        return self.sequence(
            scene,
            [FrameFiles(image, float(n), poses.get(n)) for n, image in images.items()],
            read_matrix(folder / "intrinsics.txt"),
            {
                "poses": "lidar, inertial and RTK-GPS fusion, camera-to-world, metres; time in the file = number in the"
                " image's name",
                "intrinsics": "intrinsics.txt",
                "timestamps": "number of the frame; the processed layout has no times",
            },
            trajectory=trajectory,
            numbers=list(images),
            index_files=(folder / "intrinsics.txt",),
        )


class VbrFullAdapter(FileDataset):
    """SCENE_kitti/camera_left/{data/N.png, timestamps.txt}, SCENE/{SCENE_gt.txt, vbr_calib.yaml}.

    The bags as ``vbr convert kitti`` of the dataset's kit unpacks them, beside what ``vbr download`` gave.
    """

    name = "vbr_full"
    layout = "SCENE_kitti/camera_left/data/NNNNNNNNNN.png and timestamps.txt, with SCENE_gt.txt and vbr_calib.yaml"
    licence = "see the dataset's page; not redistributed here"
    nesting = 2

    def is_scene(self, folder: Path) -> bool:
        return (folder / "camera_left" / "timestamps.txt").is_file()

    def scenes(self) -> tuple[str, ...]:
        """Folders with ``camera_left``, without the ending _kitti. Raises DataError for a root of another shape."""
        self.scenes_on_disk()
        self.folders = {name.removesuffix("_kitti"): path for name, path in self.folders.items()}
        return tuple(self.folders)

    def read(self, scene: str) -> FileSequence:
        """One whole recording. Raises DataError when images, times and truth do not fit together."""
        folder = self.folders[scene]
        name = scene.rpartition("/")[2]
        images = numbered_files(folder / "camera_left" / "data", _FRAME, self.name)
        index = folder / "camera_left" / "timestamps.txt"
        times = read_times(index, max(images, default=-1), in_order=False)
        latest = np.maximum.accumulate(times)  # some messages of the bags have one time
        numbers = [n for n in images if n == 0 or times[n] > latest[n - 1]]
        calibration = _beside(folder, name, "vbr_calib.yaml")
        document = read_yaml(calibration).get("cam_l")
        if not isinstance(document, dict):
            raise DataError(f"{calibration}: expected the left camera as 'cam_l', found none")
        lens, on_body, pinhole = sensor_of(document, calibration, "T_b", "distortion_coeffs")
        trajectory = read_tum(_beside(folder, name, f"{name}_gt.txt"))
        found = poses_by_time(trajectory, times[numbers], MAX_TIME_DIFFERENCE, index.name) if numbers else {}
        poses = moved(found, on_body)
        again = len(images) - len(numbers)
        return self.sequence(
            scene,
            [
                FrameFiles(images[n], float(times[n]), poses.get(i), lens=lens if lens.bends else None)
                for i, n in enumerate(numbers)
            ],
            pinhole,
            {
                "poses": "of the left camera: lidar, inertial and RTK-GPS fusion of the base, times T_b of"
                f" vbr_calib.yaml; metres; nearest in time to the image within {MAX_TIME_DIFFERENCE:g} s",
                "intrinsics": "vbr_calib.yaml; lens distortion is removed",
                "timestamps": "timestamps.txt, seconds",
            },
            trajectory=trajectory,
            numbers=list(images),
            index_files=(index, calibration),
            notes=[f"{again} images are no later than one before: left out"] if again else [],
        )


def _beside(folder: Path, scene: str, name: str) -> Path:
    """A file of the download in the folder of the images, beside it, or in SCENE beside it."""
    places = (folder / name, folder.parent / name, folder.parent / scene / name)
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise DataError(f"vbr_full: expected {name} in {places[0].parent} or {places[2].parent}; download it")
    return found


def _poses(trajectory: TrajectoryFile) -> dict[int, FloatArray]:
    poses = {}
    for stamp, pose, line in zip(
        trajectory.timestamps.tolist(), trajectory.camera_to_world, trajectory.lines.tolist(), strict=True
    ):
        if abs(stamp - round(stamp)) > 1e-6 or stamp < 0:
            raise DataError(
                f"{at(trajectory.path, line)}: expected the number of a frame as the time, found {stamp:.6f}; use"
                " processed_gt, not the raw ground truth"
            )
        poses[round(stamp)] = pose
    return poses
