"""Drives: KITTI odometry, its raw data and its selection for depth as downloaded, Waymo's front camera as exported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from lingbot_eval.datasets.calibration import (
    checked_pinhole,
    read_keyed,
    read_matrix,
    read_numbers,
    read_rows,
    read_times,
)
from lingbot_eval.datasets.file_dataset import FileDataset, moved, poses_by_number
from lingbot_eval.datasets.listing import IMAGE, NUMBER, existing_folder, folders_in, names_in, root_hint
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError
from lingbot_eval.files.depth_maps import png_depth
from lingbot_eval.files.pose_tables import checked_rigid, read_pose
from lingbot_eval.files.times import associate
from lingbot_eval.files.trajectories import read_kitti
from lingbot_eval.geometry.cameras import LensCamera, pinhole
from lingbot_eval.geometry.poses import inverse, pose_matrix
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import FloatArray

MAX_TIME_DIFFERENCE = 0.02  # seconds between an image that is not synchronised and its GPS/INS packet
DEPTH_UNITS = 256.0  # a metre of KITTI's depth maps

_EARTH_RADIUS = 6378137.0  # metres, of the development kit
_DRIVE = re.compile(r"\d{4}_\d\d_\d\d_drive_\d{4}_(sync|extract)")


class KittiOptions(StrictModel):
    """camera: ``image_2`` is the left colour camera, ``image_0`` the left grey one, whose poses the file has.

    None: image_2, or image_0 where only that is there.
    """

    camera: Literal["image_0", "image_1", "image_2", "image_3"] | None = None


class KittiAdapter(FileDataset):
    """ROOT/sequences/NN and ROOT/poses/NN.txt: each sequence is a scene called ``NN`` (protocol.md section 2)."""

    name = "kitti"
    layout = "sequences/NN folders"
    licence = "CC BY-NC-SA 3.0 (KITTI)"
    Options = KittiOptions

    with_truth = tuple(f"{number:02d}" for number in range(11))

    def scenes(self) -> tuple[str, ...]:
        """All sequences on disk; those from 11 have no ground truth. Raises DataError for a root of another shape."""
        root = existing_folder(self.root, "root of dataset kitti")
        found = _sequences(root)
        if not found:
            hint = root_hint(root, lambda folder: bool(_sequences(folder)))
            raise DataError(f"kitti: expected {self.layout} under {root}, {hint}")
        return tuple(found)

    def read(self, scene: str) -> FileSequence:
        """One sequence. Raises DataError when images, times and poses do not fit together."""
        folder, truth = self.root / "sequences" / scene, self.root / "poses" / f"{scene}.txt"
        camera = self.options.camera or next((c for c in ("image_2", "image_0") if (folder / c).is_dir()), "image_2")
        images = self.numbered(folder / camera, NUMBER + IMAGE)
        last = max(images, default=-1)
        times = read_times(folder / "times.txt", last)
        trajectory = read_kitti(truth) if scene in self.with_truth or truth.is_file() else None
        poses = {} if trajectory is None else poses_by_number(trajectory, last)
        projection = f"P{camera[-1]}"
        values, place = read_keyed(folder / "calib.txt", {projection: 12})[projection]
        beside = "" if camera == "image_0" else f"; the images are of camera {camera[-1]} beside it, as published"
        return self.by_number(
            scene,
            images,
            {
                "poses": f"GPS/INS, camera-to-world of camera 0 (grey left), metres, row n for image n{beside}",
                "intrinsics": f"{projection} of calib.txt (rectified)",
                "timestamps": "times.txt, seconds",
            },
            times=times,
            poses=poses,
            intrinsics=checked_pinhole(values.reshape(3, 4)[:, :3], place),
            trajectory=trajectory,
            index_files=(folder / "calib.txt", folder / "times.txt"),
        )


def _sequences(root: Path) -> list[str]:
    folder = root / "sequences"
    return [name for name in folders_in(folder) if re.fullmatch(r"\d\d", name)] if folder.is_dir() else []


class KittiRawOptions(StrictModel):
    """camera: ``02`` is the left colour camera, ``00`` the left grey one."""

    camera: Literal["00", "01", "02", "03"] = "02"


class KittiRawAdapter(FileDataset):
    """DATE/DATE_drive_NNNN_{sync,extract}/{image_02/data, oxts/data}, DATE/calib_*.txt."""

    name = "kitti_raw"
    layout = "DATE/DATE_drive_NNNN_sync/image_02/data beside DATE/calib_cam_to_cam.txt"
    licence = "CC BY-NC-SA 3.0 (KITTI)"
    Options = KittiRawOptions
    nesting = 2

    def is_scene(self, folder: Path) -> bool:
        return _DRIVE.fullmatch(folder.name) is not None and (folder / f"image_{self.options.camera}").is_dir()

    def read(self, scene: str) -> FileSequence:
        """One drive. Raises DataError when images, times, packets and calibration do not fit together."""
        folder = self.folders[scene]
        raw = folder.name.endswith("_extract")
        camera = str(self.options.camera)
        images = self.numbered(folder / f"image_{camera}" / "data", NUMBER + IMAGE)
        index = folder / f"image_{camera}" / "timestamps.txt"
        times = read_times(index, max(images, default=-1))
        packets = self.numbered(folder / "oxts" / "data", rf"{NUMBER}\.txt", optional=True)
        on_body, lens, files = _cameras(folder.parent, camera, raw=raw)
        if raw:
            stamps = folder / "oxts" / "timestamps.txt"
            packets = _nearest(packets, stamps, {n: float(times[n]) for n in images}) if packets else {}
            files += [stamps] if packets else []
        packets = {n: path for n, path in packets.items() if n in images}
        poses = moved(oxts_poses(packets), on_body)
        truth = folder / "proj_depth" / "groundtruth" / f"image_{camera}"
        depths = self.numbered(truth, NUMBER + IMAGE, optional=True)
        how = f"nearest in time within {MAX_TIME_DIFFERENCE:g} s" if raw else "packet n for image n"
        return self.by_number(
            scene,
            images,
            {
                "poses": f"of camera {camera}: GPS/INS in Mercator's projection as in the development kit, {how}, and"
                " the calibration; metres",
                "depth": f"uint16 / {DEPTH_UNITS:g} metres, accumulated lidar" if depths else "none",
                "intrinsics": f"calib_cam_to_cam.txt; lens distortion is removed {'here' if raw else '(rectified)'}",
                "timestamps": f"image_{camera}/timestamps.txt, seconds",
                "found": {"poses_in_file": len(packets), "images_with_pose": len(poses)},
            },
            times=times,
            poses=poses,
            depths=depths,
            intrinsics=lens.intrinsics,
            lens=lens if lens.bends else None,
            index_files=[index, *files, *packets.values()],
            depth_reader=png_depth(DEPTH_UNITS),
        )


def _cameras(folder: Path, camera: str, *, raw: bool) -> tuple[FloatArray, LensCamera, list[Path]]:
    """(4, 4) of the camera on the GPS/INS unit, the camera, and the files that say so.

    raw: images before rectification.
    """
    files = [folder / f"calib_{name}.txt" for name in ("cam_to_cam", "velo_to_cam", "imu_to_velo")]
    of_raw = {f"K_{camera}": 9, f"D_{camera}": 5, f"R_{camera}": 9, f"T_{camera}": 3, f"S_{camera}": 2}
    rectified = {f"P_rect_{camera}": 12, "R_rect_00": 9, f"S_rect_{camera}": 2}
    found = read_keyed(files[0], of_raw if raw else rectified)
    to_camera = _rigid(files[1]) @ _rigid(files[2])
    value = {name: values for name, (values, _) in found.items()}
    if raw:
        to_camera = pose_matrix(value[f"R_{camera}"].reshape(3, 3), value[f"T_{camera}"]) @ to_camera
        matrix = checked_pinhole(value[f"K_{camera}"].reshape(3, 3), found[f"K_{camera}"][1])
        k1, k2, p1, p2, k3 = value[f"D_{camera}"].tolist()
        lens = (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)
    else:
        projection = value[f"P_rect_{camera}"].reshape(3, 4)
        matrix = checked_pinhole(projection[:, :3], found[f"P_rect_{camera}"][1])
        turned = pose_matrix(value["R_rect_00"].reshape(3, 3), np.zeros(3)) @ to_camera
        beside: FloatArray = np.linalg.inv(matrix) @ projection[:, 3]
        to_camera = pose_matrix(np.eye(3), beside) @ turned
        lens = (0.0,) * 8
    width, height = value[f"S_{camera}" if raw else f"S_rect_{camera}"].astype(int).tolist()
    numbers = (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], *lens)
    return inverse(to_camera), LensCamera("FULL_OPENCV", (width, height), tuple(map(float, numbers))), files


def _rigid(path: Path) -> FloatArray:
    """(4, 4) of a calibration's R and T. Raises DataError."""
    found = read_keyed(path, {"R": 9, "T": 3})
    return checked_rigid(pose_matrix(found["R"][0].reshape(3, 3), found["T"][0]), found["R"][1])


def _nearest(packets: dict[int, Path], stamps: Path, times: dict[int, float]) -> dict[int, Path]:
    """Image → its GPS/INS packet. stamps: of the packets, some of which are out of order."""
    seconds = read_times(stamps, max(packets), in_order=False)
    order = sorted(packets, key=lambda n: float(seconds[n]))
    clock = np.array([seconds[n] for n in order])
    fresh = np.concatenate([[True], np.diff(clock) > 0])
    order, clock = [n for n, kept in zip(order, fresh, strict=True) if kept], clock[fresh]
    images = list(times)
    first, second = associate(clock, np.array(list(times.values())), MAX_TIME_DIFFERENCE)
    return {images[i]: packets[order[p]] for p, i in zip(first.tolist(), second.tolist(), strict=True)}


def oxts_poses(packets: dict[int, Path]) -> dict[int, FloatArray]:
    """Poses of the GPS/INS unit in a flat world (x east, y north, z up), metres, from its first packet on.

    packets: files of 30 numbers, latitude and longitude in degrees, altitude, roll, pitch, yaw first (KITTI's
    development kit: Mercator's projection at the first latitude). Raises DataError with the file.
    """
    if not packets:
        return {}
    values = np.array([read_rows(path, 30, "lat lon alt roll pitch yaw …")[0, :6] for path in packets.values()])
    latitude, longitude = np.radians(values[:, 0]), np.radians(values[:, 1])
    scale = np.cos(latitude[0]) * _EARTH_RADIUS
    positions = np.stack([scale * longitude, scale * np.log(np.tan(np.pi / 4 + latitude / 2)), values[:, 2]], axis=1)
    (roll, pitch, yaw) = ((np.cos(angle), np.sin(angle)) for angle in values[:, 3:].T)
    zero, one = np.zeros(len(values)), np.ones(len(values))
    about_x = np.array([[one, zero, zero], [zero, roll[0], -roll[1]], [zero, roll[1], roll[0]]])
    about_y = np.array([[pitch[0], zero, pitch[1]], [zero, one, zero], [-pitch[1], zero, pitch[0]]])
    about_z = np.array([[yaw[0], -yaw[1], zero], [yaw[1], yaw[0], zero], [zero, zero, one]])
    rotations = np.einsum("ijn,jkn,kln->nil", about_z, about_y, about_x)
    return dict(zip(packets, pose_matrix(rotations, positions - positions[0]), strict=True))


_SELECTED = re.compile(rf"([^.]+_sync)_image_{NUMBER}_image_(\d\d){IMAGE}", re.IGNORECASE)


class KittiDepthAdapter(FileDataset):
    """depth_selection/val_selection_cropped/{image, groundtruth_depth, intrinsics}: a scene for each drive and camera.

    Or ``image_gathered`` and ``groundtruth_depth_gathered``, a folder for each: whole images, as tables of video depth
    gather them from the annotated depth and the raw data.
    """

    name = "kitti_depth"
    layout = "val_selection_cropped/image/DRIVE_sync_image_N_image_02.png beside groundtruth_depth and intrinsics"
    licence = "CC BY-NC-SA 3.0 (KITTI)"

    def scenes(self) -> tuple[str, ...]:
        """DRIVE_sync_NN of the root, or of val_selection_cropped in it. Raises DataError for another shape."""
        root = existing_folder(self.root, f"root of dataset {self.name}")
        folder = next((f for f in _bases(root) if _has_depth(f)), None)
        if folder is None:
            hint = root_hint(root, lambda path: any(map(_has_depth, _bases(path))))
            raise DataError(f"{self.name}: expected {self.layout} under {root}, {hint}")
        self.folders = {}
        if (folder / "image_gathered").is_dir():
            self.folders = dict.fromkeys(folders_in(folder / "image_gathered"), folder)
        else:
            matches = (_SELECTED.fullmatch(name) for name in names_in(folder / "image"))
            self.folders = {f"{match[1]}_{match[3]}": folder for match in matches if match is not None}
        return tuple(self.folders)

    def read(self, scene: str) -> FileSequence:
        """The selected frames of one drive and camera, in order of their numbers. Raises DataError."""
        folder = self.folders[scene]
        if (folder / "image_gathered").is_dir():
            images = self.numbered(folder / "image_gathered" / scene, NUMBER + IMAGE)
            depths = self.numbered(folder / "groundtruth_depth_gathered" / scene, NUMBER + IMAGE, optional=True)
            cameras: dict[int, Path] = {}
        else:
            drive, camera = re.escape(scene[:-3]), scene[-2:]
            image, depth = (f"{drive}_{kind}_{NUMBER}_image_{camera}" for kind in _KINDS)
            images = self.numbered(folder / "image", image + IMAGE)
            depths = self.numbered(folder / "groundtruth_depth", rf"{depth}\.png", optional=True)
            cameras = self.numbered(folder / "intrinsics", rf"{image}\.txt", optional=True)
        matrices = {n: read_matrix(path) for n, path in cameras.items()}
        return self.sequence(
            scene,
            [
                FrameFiles(image, n / 10.0, None, depths.get(n), intrinsics=matrices.get(n))
                for n, image in images.items()
            ],
            None,
            {
                "depth": f"uint16 / {DEPTH_UNITS:g} metres, lidar of eleven sweeps, sparse; 0 = none",
                "intrinsics": "of each image, in intrinsics/" if matrices else "none",
                "timestamps": "number in the drive / 10 Hz (nominal)",
            },
            index_files=list(cameras.values()),
            depth_reader=png_depth(DEPTH_UNITS),
            one_size=not matrices,
        )


_KINDS = ("image", "groundtruth_depth")


def _bases(root: Path) -> tuple[Path, ...]:
    return root, root / "val_selection_cropped", root / "depth_selection" / "val_selection_cropped"


def _has_depth(folder: Path) -> bool:
    return any(all((folder / f"{kind}{suffix}").is_dir() for kind in _KINDS) for suffix in ("", "_gathered"))


# x forward, y left, z up (Waymo's cameras and its car) of a camera's OpenCV axes.
_FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


class WaymoAdapter(FileDataset):
    """SCENE/{images/N_0.jpg, ego_pose/N.txt, extrinsics/0.txt, intrinsics/0.txt}; camera 0 looks forward."""

    name = "waymo"
    layout = "SCENE/images/NNN_0.jpg beside ego_pose/NNN.txt, extrinsics/0.txt and intrinsics/0.txt"
    licence = "Waymo Open Dataset licence: non-commercial; not redistributed here"
    marks = ("images/", "ego_pose/")
    nesting = 2
    frames_per_second = 10.0

    def read(self, scene: str) -> FileSequence:
        """One segment. Raises DataError when poses or calibration are malformed."""
        folder = self.folders[scene]
        images = self.numbered(folder / "images", f"{NUMBER}_0{IMAGE}")
        cars = self.numbered(folder / "ego_pose", rf"{NUMBER}\.txt")
        # Some exporters write the car's pose at the moment of each camera's picture as well.
        exact = self.numbered(folder / "ego_pose", rf"{NUMBER}_0\.txt")
        there = {n: exact.get(n, cars.get(n)) for n in images}
        found = {n: pose for n, path in there.items() if path is not None and (pose := read_pose(path)) is not None}
        extrinsics, intrinsics = folder / "extrinsics" / "0.txt", folder / "intrinsics" / "0.txt"
        on_car = read_pose(extrinsics)
        if on_car is None:
            raise DataError(f"{extrinsics}: expected the pose of the front camera on the car, found one not finite")
        # The column that points ahead says whose axes they are: Waymo's own first, OpenCV's third.
        own_axes = on_car[0, 0] > on_car[0, 2]
        if max(on_car[0, 0], on_car[0, 2]) < 0.7:
            raise DataError(f"{extrinsics}: expected a camera that looks ahead (x of the car), found another")
        return self.by_number(
            scene,
            images,
            {
                "poses": "of the front camera: the car's (ego_pose), times extrinsics/0.txt in"
                f" {'Waymo' if own_axes else 'OpenCV'}'s axes; metres",
                "intrinsics": "intrinsics/0.txt; lens distortion is not removed",
                "timestamps": "number of the frame / 10 Hz",
                "found": {"poses_in_file": len(cars), "images_with_pose": len(found)},
            },
            poses=moved(found, on_car @ _FORWARD if own_axes else on_car),
            intrinsics=_waymo_intrinsics(intrinsics),
            index_files=[extrinsics, intrinsics, *(path for path in there.values() if path is not None)],
        )


def _waymo_intrinsics(path: Path) -> FloatArray:
    """(3, 3) of fx fy cx cy and the lens's five numbers, or of a 3×3 matrix."""
    names = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3")
    values = read_numbers(path, names)
    if values[-1] == 1.0 and values[6:8] == [0.0, 0.0]:
        return checked_pinhole(np.array(values).reshape(3, 3), str(path))
    return checked_pinhole(pinhole(*values[:4]), str(path))
