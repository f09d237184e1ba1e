"""Walks, flights and drives: EuRoC, Oxford Spires, VBR, DROID-W; Long3D, which has a cloud in place of poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lingbot_eval.datasets.calibration import (
    checked_pinhole,
    numbers_of,
    read_matrix,
    read_numbers,
    read_times,
    read_yaml,
    refuse_focal_lengths,
)
from lingbot_eval.datasets.file_dataset import FileDataset, moved, poses_by_time
from lingbot_eval.datasets.listing import IMAGE, NUMBER, names_in, names_listed, shown, timed_files
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.images import image_size
from lingbot_eval.files.pose_tables import checked_rigid
from lingbot_eval.files.reading import numbered_lines
from lingbot_eval.files.times import read_stamps
from lingbot_eval.files.trajectories import TrajectoryFile, read_kitti, read_trajectory, read_tum
from lingbot_eval.geometry.cameras import LensCamera, pinhole
from lingbot_eval.types import FloatArray

MAX_TIME_DIFFERENCE = 0.01  # seconds between an image and its pose

_TRUTH = ("state_groundtruth_estimate0", "mocap0")  # EuRoC, and TUM VI in its layout
# How Kalibr, ROS and others call them, by their first letters.
_LENSES = {"rad": "OPENCV", "plumb": "OPENCV", "equi": "OPENCV_FISHEYE", "fisheye": "OPENCV_FISHEYE"}


class EurocAdapter(FileDataset):
    """SCENE/mav0/{cam0/{data.csv, data/*.png, sensor.yaml}, state_groundtruth_estimate0/data.csv}."""

    name = "euroc"
    layout = "SCENE/mav0/cam0/data.csv"
    licence = "In Copyright, non-commercial use permitted; see the dataset's page"
    marks = ("mav0/cam0/data.csv",)
    nesting = 2

    def read(self, scene: str) -> FileSequence:
        """One flight. Raises DataError when its lists or its calibration are malformed."""
        folder = self.folders[scene] / "mav0"
        index, sensor = folder / "cam0" / "data.csv", folder / "cam0" / "sensor.yaml"
        images, times, missing = listed_images(index)
        lens, on_body = sensor_of(read_yaml(sensor), sensor, "T_BS", "distortion_coefficients")
        truth = next((path for name in _TRUTH if (path := folder / name / "data.csv").is_file()), None)
        trajectory = None if truth is None else read_trajectory(truth, "euroc")
        poses = {}
        if trajectory is not None and images:
            poses = moved(poses_by_time(trajectory, times, MAX_TIME_DIFFERENCE, "cam0/data.csv"), on_body)
        bent = lens if lens.bends else None
        how = "nearest in time to the image, one to one, within"
        return self.sequence(
            scene,
            [FrameFiles(image, float(times[i]), poses.get(i), lens=bent) for i, image in enumerate(images)],
            lens.intrinsics,
            {
                "poses": f"of the camera: {truth.parent.name if truth else 'none'}, body-to-world, times T_BS of"
                f" sensor.yaml; metres; {how} {MAX_TIME_DIFFERENCE:g} s",
                "intrinsics": "sensor.yaml; lens distortion is removed, bilinearly, at the same focal length",
                "timestamps": "cam0/data.csv, nanoseconds",
                "found": {"entries": len(images) + missing, "entries_without_file": missing},
            },
            trajectory=trajectory,
            index_files=(index, sensor),
            notes=[f"{missing} entries of {index.name} have no image: left out"] if missing else [],
        )


def listed_images(index: Path) -> tuple[list[Path], FloatArray, int]:
    """Images of a ``data.csv`` (nanoseconds,file) that are there, their times in seconds, and how many are not.

    Raises DataError with file and line.
    """
    folder = index.parent / "data"
    there = names_listed(folder)
    words: list[str] = []
    names: list[str] = []
    lines: list[int] = []
    missing = 0
    for number, line in numbered_lines(index, "list of images"):
        fields = [field.strip() for field in line.split(",")]
        if not fields[0] or fields[0].startswith("#"):
            continue
        if not fields[0].isdecimal():
            raise DataError(f"{at(index, number)}: expected 'nanoseconds,filename', found {line[:60]!r}")
        name = fields[1] if len(fields) > 1 and fields[1] else f"{fields[0]}.png"
        if name not in there:
            missing += 1
            continue
        words.append(fields[0])
        names.append(name)
        lines.append(number)
    if not words and missing:
        raise DataError(f"{index}: none of its {missing} images is in {folder}, which holds {shown(sorted(there), 4)}")
    if not words:
        return [], np.empty(0), missing
    times, _, _ = read_stamps(words, "ns")
    wrong = np.flatnonzero(~(np.diff(times) > 0))
    if len(wrong):
        raise DataError(f"{at(index, lines[int(wrong[0]) + 1])}: expected increasing times; sort the list")
    return [folder / name for name in names], times, missing


def sensor_of(document: dict[str, Any], path: Path, key: str, coefficients: str) -> tuple[LensCamera, FloatArray]:
    """The camera that a calibration describes, and its (4, 4) pose on the body.

    key: of the pose. coefficients: key of the lens's numbers. Raises DataError.
    """
    said = str(document.get("distortion_model", "radial-tangential")).lower()
    model = next((name for start, name in _LENSES.items() if said.startswith(start)), None)
    if model is None:
        raise DataError(f"{path}: expected distortion_model radial-tangential or equidistant, found {said[:40]!r}")
    width, height = numbers_of(document, "resolution", 2, path)
    numbers = [*numbers_of(document, "intrinsics", 4, path), *_coefficients(document, coefficients, path)]
    refuse_focal_lengths(numbers, path)
    lens = LensCamera(model, (int(width), int(height)), tuple(numbers))
    pose = checked_rigid(np.array(numbers_of(document, key, 16, path)).reshape(4, 4), f"{path}: {key}")
    return lens, pose


def _coefficients(document: dict[str, Any], key: str, path: Path) -> list[float]:
    """Four numbers of a lens; a fifth that is 0, which some write, is passed over."""
    listed = document.get(key)
    if isinstance(listed, list) and len(listed) == 5 and listed[4] == 0:
        document = {key: listed[:4]}
    return numbers_of(document, key, 4, path)


class OxfordSpiresAdapter(FileDataset):
    """ROOT/SCENE/{images, poses_c2w.txt, intrinsics.txt, depth}, the prepared layout (protocol.md section 2).

    Sparse and long are selections (stride 12 and 1).
    """

    name = "oxford_spires"
    layout = "prepared ROOT/SCENE folders with images/ and poses_c2w.txt"
    licence = "CC BY-NC-SA 4.0 (Oxford Spires)"
    nesting = 1
    marks = ("images/", "poses_c2w.txt")

    def read(self, scene: str) -> FileSequence:
        """One walk. Raises DataError when it is malformed."""
        folder = self.folders[scene]
        images = self.numbered(folder / "images", NUMBER + IMAGE)
        depths = self.numbered(folder / "depth", rf"{NUMBER}\.npy", optional=True)
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
            [FrameFiles(image, float(i), poses.get(i), depths.get(n)) for i, (n, image) in enumerate(images.items())],
            _spires_intrinsics(folder / "intrinsics.txt", next(iter(images.values()))) if images else None,
            {
                "poses": "lidar against a survey scan, camera-to-world, metres, line n for image n",
                "depth": "NumPy arrays, metres, not finite or not positive = none" if depths else "none",
                "intrinsics": "intrinsics.txt (undistorted images)",
                "timestamps": "position in the scene; the prepared layout has none",
            },
            trajectory=trajectory,
            index_files=(folder / "intrinsics.txt",),
        )


def _spires_intrinsics(path: Path, image: Path) -> FloatArray:
    *numbers, width, height = read_numbers(path, ("fx", "fy", "cx", "cy", "w", "h"))
    size = image_size(image, "oxford_spires: first image")
    if (width, height) != (float(size[0]), float(size[1])):
        raise DataError(
            f"{path}: expected intrinsics for images of {size[0]}x{size[1]} pixels as {image.name}, found"
            f" {width:g}x{height:g}; prepare the scene again"
        )
    return checked_pinhole(pinhole(*numbers), str(path))


class VbrAdapter(FileDataset):
    """ROOT/SCENE_processed_aligned and ROOT/processed_gt/SCENE_gt.txt; the scene is called SCENE (protocol.md
    section 2).
    """

    name = "vbr"
    suffix = "_processed_aligned"
    layout = f"ROOT/SCENE{suffix} folders with rgb/"
    licence = "see the dataset's page; not redistributed here"
    marks = ("rgb/",)
    frames_per_second = 1.0  # numbers stand for times

    def is_scene(self, folder: Path) -> bool:
        return folder.name.endswith(self.suffix) and super().is_scene(folder)

    def scenes(self) -> tuple[str, ...]:
        """Folders called SCENE_processed_aligned. Raises DataError for a root of another shape."""
        return tuple(name.removesuffix(self.suffix) for name in self.scenes_on_disk())

    def read(self, scene: str) -> FileSequence:
        """One walk. Raises DataError when its poses are not of its frames."""
        folder = self.root / f"{scene}{self.suffix}"
        images = self.numbered(folder / "rgb", NUMBER + IMAGE)
        truth = self.root / "processed_gt" / f"{scene}_gt.txt"
        trajectory = read_tum(truth)
        poses = _poses_by_frame(trajectory)
        if images and not poses.keys() & images.keys():
            raise DataError(
                f"{truth}: no pose is of a frame in {folder / 'rgb'}: poses are of frames {min(poses)} to {max(poses)},"
                f" images of {min(images)} to {max(images)}; is it the ground truth of this scene?"
            )
        return self.by_number(
            scene,
            images,
            {
                "poses": "lidar, inertial and RTK-GPS fusion, camera-to-world, metres; time in the file = number in the"
                " image's name",
                "intrinsics": "intrinsics.txt",
                "timestamps": "number of the frame; the processed layout has no times",
            },
            poses=poses,
            intrinsics=read_matrix(folder / "intrinsics.txt"),
            trajectory=trajectory,
            index_files=(folder / "intrinsics.txt",),
        )


def _poses_by_frame(trajectory: TrajectoryFile) -> dict[int, FloatArray]:
    """Poses of a file whose times are numbers of frames. Raises DataError where they are not."""
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


class VbrFullAdapter(FileDataset):
    """SCENE_kitti/camera_left/{data/N.png, timestamps.txt}, SCENE/{SCENE_gt.txt, vbr_calib.yaml}.

    The bags as ``vbr convert kitti`` of the dataset's kit unpacks them, beside what ``vbr download`` gave.
    """

    name = "vbr_full"
    layout = "SCENE_kitti/camera_left/data/NNNNNNNNNN.png and timestamps.txt, with SCENE_gt.txt and vbr_calib.yaml"
    licence = "see the dataset's page; not redistributed here"
    marks = ("camera_left/timestamps.txt",)
    nesting = 2

    max_time_difference = 0.06  # seconds between an image and its pose: truth is of the lidar's sweeps, at 10 Hz

    def scenes(self) -> tuple[str, ...]:
        """Folders with ``camera_left``, without the ending _kitti. Raises DataError for a root of another shape."""
        self.scenes_on_disk()
        self.folders = {name.removesuffix("_kitti"): path for name, path in self.folders.items()}
        return tuple(self.folders)

    def read(self, scene: str) -> FileSequence:
        """One whole recording. Raises DataError when images, times and truth do not fit together."""
        folder = self.folders[scene]
        name = scene.rpartition("/")[2]
        images = self.numbered(folder / "camera_left" / "data", NUMBER + IMAGE)
        index = folder / "camera_left" / "timestamps.txt"
        times = read_times(index, max(images, default=-1), in_order=False)
        latest = np.maximum.accumulate(times)  # some messages of the bags have one time
        numbers = [n for n in images if n == 0 or times[n] > latest[n - 1]]
        calibration = _beside(folder, name, "vbr_calib.yaml")
        document = read_yaml(calibration).get("cam_l")
        if not isinstance(document, dict):
            raise DataError(f"{calibration}: expected the left camera as 'cam_l', found none")
        lens, on_body = sensor_of(document, calibration, "T_b", "distortion_coeffs")
        trajectory = read_tum(_beside(folder, name, f"{name}_gt.txt"))
        found = poses_by_time(trajectory, times[numbers], self.max_time_difference, index.name) if numbers else {}
        poses = moved(found, on_body)
        bent = lens if lens.bends else None
        again = len(images) - len(numbers)
        return self.sequence(
            scene,
            [FrameFiles(images[n], float(times[n]), poses.get(i), lens=bent) for i, n in enumerate(numbers)],
            lens.intrinsics,
            {
                "poses": "of the left camera: lidar, inertial and RTK-GPS fusion of the base, times T_b of"
                f" vbr_calib.yaml; metres; nearest in time to the image within {self.max_time_difference:g} s",
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


class DroidWAdapter(FileDataset):
    """ROOT/SCENE/{images_anonymized/TIME.jpg, traj_gt.txt or traj_gt_fastlivo.txt} (protocol.md section 2)."""

    name = "droid_w"
    images = "images_anonymized"
    layout = f"ROOT/SCENE folders with {images}/"
    licence = "see the dataset's page; not redistributed here"
    nesting = 1
    marks = (f"{images}/",)

    truths = ("traj_gt.txt", "traj_gt_fastlivo.txt")
    max_time_difference = 0.05  # seconds between an image and its pose

    def read(self, scene: str) -> FileSequence:
        """One walk. Raises DataError when its poses are of another time."""
        folder = self.folders[scene]
        images, times = timed_files(folder / self.images, self.name)
        truth = next((folder / name for name in self.truths if (folder / name).is_file()), None)
        if truth is None:
            found = shown(names_in(folder))
            raise DataError(f"droid_w: expected {' or '.join(self.truths)} in {folder}, found {found}; download it")
        trajectory = read_tum(truth)
        poses = poses_by_time(trajectory, times, self.max_time_difference, self.images) if images else {}
        return self.sequence(
            scene,
            [FrameFiles(image, float(times[i]), poses.get(i)) for i, image in enumerate(images)],
            None,
            {
                "poses": f"{truth.name}, camera-to-world, metres; nearest in time to the image, one to one, within"
                f" {self.max_time_difference:g} s",
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
