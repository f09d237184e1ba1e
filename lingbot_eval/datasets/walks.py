"""Long walks and drives with poses by lidar: Oxford Spires, VBR, DROID-W; Long3D, which has a cloud in their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lingbot_eval.datasets.calibration import checked_pinhole, read_matrix, read_numbers, read_times, read_yaml
from lingbot_eval.datasets.euroc import sensor_of
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import IMAGE, NUMBER, names_in, shown, timed_files
from lingbot_eval.datasets.reference_poses import moved, poses_by_time
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.images import image_size
from lingbot_eval.files.trajectories import TrajectoryFile, read_kitti, read_tum
from lingbot_eval.geometry.cameras import pinhole
from lingbot_eval.types import FloatArray


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
