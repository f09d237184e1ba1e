"""Rendered worlds with exact poses: Neural RGB-D, Replica as of NICE-SLAM, TartanAir, Virtual KITTI 2, MPI Sintel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from lingbot_eval.datasets.calibration import checked_pinhole, numbers_of, read_document, read_numbers, read_rows
from lingbot_eval.datasets.file_dataset import FileDataset, moved, poses_by_number
from lingbot_eval.datasets.listing import IMAGE, NUMBER, names_listed
from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.depth_maps import array_depth, checked_size, opened_depth, png_depth, without_invalid
from lingbot_eval.files.images import Size, checked_file
from lingbot_eval.files.pose_documents import OPENGL_TO_OPENCV
from lingbot_eval.files.pose_tables import checked_matrices, checked_rigid, poses_of
from lingbot_eval.files.reading import read_file
from lingbot_eval.files.trajectories import read_kitti
from lingbot_eval.geometry.cameras import pinhole
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import DepthMap, FloatArray


class NeuralRgbdAdapter(FileDataset):
    """ROOT/SCENE/{images, depth, poses.txt, focal.txt}: noisy depth and exact poses (protocol.md section 2)."""

    name = "neural_rgbd"
    layout = "ROOT/SCENE folders with images/ and poses.txt"
    licence = "see the dataset's page; not redistributed here"
    nesting = 1
    marks = ("images/", "poses.txt")

    centre = (320.0, 240.0)
    nearest, farthest = 0.001, 10.0  # metres of depth that are kept

    def read(self, scene: str) -> FileSequence:
        """One room. Raises DataError when it is malformed."""
        folder = self.folders[scene]
        images = self.numbered(folder / "images", rf"img{NUMBER}{IMAGE}")
        trajectory = read_kitti(folder / "poses.txt")
        focal = read_numbers(folder / "focal.txt", ("focal",))[0]
        if focal <= 0:
            raise DataError(f"{folder / 'focal.txt'}: expected a focal length in pixels, found {focal:g}")
        return self.by_number(
            scene,
            images,
            {
                "poses": "exact, camera-to-world, metres; OpenGL axes in the file, columns y and z negated",
                "depth": f"uint16 millimetres with simulated noise; {self.nearest:g} to {self.farthest:g} m kept",
                "intrinsics": f"focal.txt, principal point {self.centre[0]:g}, {self.centre[1]:g}",
            },
            poses=moved(poses_by_number(trajectory, max(images, default=0)), OPENGL_TO_OPENCV),
            depths=self.numbered(folder / "depth", rf"depth{NUMBER}\.png", optional=True),
            intrinsics=pinhole(focal, focal, *self.centre),
            trajectory=trajectory,
            index_files=(folder / "focal.txt",),
            depth_reader=png_depth(1000.0, self.nearest, self.farthest),
        )


class ReplicaAdapter(FileDataset):
    """ROOT/SCENE/{results/frameN.jpg, results/depthN.png, traj.txt}, ROOT/cam_params.json."""

    name = "replica"
    layout = "SCENE/results/frameNNNNNN.jpg beside SCENE/traj.txt"
    licence = "Replica Research Terms; see the dataset's page"
    marks = ("results/", "traj.txt")
    nesting = 2

    def read(self, scene: str) -> FileSequence:
        """One room. Raises DataError when it is malformed."""
        folder = self.folders[scene]
        images = self.numbered(folder / "results", rf"frame{NUMBER}{IMAGE}")
        trajectory = read_kitti(folder / "traj.txt")
        places = (folder / "cam_params.json", folder.parent / "cam_params.json")
        calibration = next((path for path in places if path.is_file()), None)
        if calibration is None:
            raise DataError(f"{self.name}: expected cam_params.json in {folder.parent}: it comes with the archive")
        document = read_document(calibration)
        inner = document.get("camera")
        camera = inner if isinstance(inner, dict) else document
        fx, fy, cx, cy, scale = (
            numbers_of(camera, key, 1, calibration)[0] for key in ("fx", "fy", "cx", "cy", "scale")
        )
        if scale <= 0:
            raise DataError(f"{calibration}: expected scale as units of depth a metre, above 0, found {scale:g}")
        return self.by_number(
            scene,
            images,
            {
                "poses": "exact, camera-to-world, metres, row n for frame n",
                "depth": f"uint16 / {scale:g} metres, exact",
                "intrinsics": "cam_params.json",
            },
            poses=poses_by_number(trajectory, max(images, default=-1)),
            depths=self.numbered(folder / "results", rf"depth{NUMBER}\.png"),
            intrinsics=checked_pinhole(pinhole(fx, fy, cx, cy), str(calibration)),
            trajectory=trajectory,
            index_files=(calibration,),
            depth_reader=png_depth(scale),
        )


# x forward, y right, z down (NED) of a camera's OpenCV axes.
_NED = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
# Image folder, how its files begin, depth folder, file of poses: of both releases.
_TARTANAIR = (
    ("image_left", f"{NUMBER}_left", "depth_left", "pose_left.txt"),
    ("image_lcam_front", f"{NUMBER}_lcam_front", "depth_lcam_front", "pose_lcam_front.txt"),
)


class TartanAirAdapter(FileDataset):
    """ENVIRONMENT/Easy/P000/{image_left/N_left.png, depth_left/N_left_depth.npy, pose_left.txt}; TartanAir V2 alike."""

    name = "tartanair"
    layout = "ENVIRONMENT/Easy/P000/image_left/NNNNNN_left.png (V2: ENVIRONMENT/Data_easy/P000/image_lcam_front)"
    licence = "CC BY 4.0 (TartanAir)"
    levels = 3
    nesting = 2
    frames_per_second = 10.0

    def is_scene(self, folder: Path) -> bool:
        return any((folder / images).is_dir() for images, *_ in _TARTANAIR)

    def read(self, scene: str) -> FileSequence:
        """One flight. Raises DataError when images and poses do not fit together."""
        folder = self.folders[scene]
        where, pattern, depth_folder, name = next(row for row in _TARTANAIR if (folder / row[0]).is_dir())
        images = self.numbered(folder / where, pattern + IMAGE)
        path = folder / name
        rows = read_rows(path, 7, "tx ty tz qx qy qz qw")
        if len(rows) <= max(images, default=-1):
            raise DataError(
                f"{path}: expected a row for each image up to number {max(images)}, found {len(rows)}; are poses and"
                " images of one flight?"
            )
        found = poses_of(rows[:, :3], rows[:, 3:])
        poses = {n: found[n] for n in images if np.isfinite(found[n]).all()}
        middle = 240.0 if where == "image_left" else 320.0
        return self.by_number(
            scene,
            images,
            {
                "poses": "exact, camera-to-world, metres; NED axes in the file, turned to OpenCV's",
                "depth": "float32 metres along z; sky is thousands of metres away",
                "intrinsics": f"of the dataset's page: 320, 320, centre 320, {middle:g}",
                "found": {"poses_in_file": len(rows), "images_with_pose": len(poses)},
            },
            poses=moved(poses, _NED, inverse(_NED)),
            depths=self.numbered(folder / depth_folder, rf"{pattern}_depth\.(?:npy|png)", optional=True),
            intrinsics=pinhole(320.0, 320.0, 320.0, middle),
            index_files=(path,),
            depth_reader=_tartanair_depth,
        )


def _tartanair_depth(path: Path, place: str, expected: Size | None) -> DepthMap:
    """(H, W) float32 metres of ``.npy``, or of a PNG whose four channels are the bytes of a float32."""
    if path.suffix.lower() == ".npy":
        return array_depth(path, place, expected)
    with opened_depth(path, place) as picture:
        if picture.mode != "RGBA":
            raise DataError(f"{place}: depth map {path}: expected RGBA, the bytes of float32, found {picture.mode}")
        checked_size(picture.size, expected, f"{place}: depth map {path}")
        # OpenCV, which wrote the file, has blue first.
        return without_invalid(np.ascontiguousarray(np.asarray(picture)[..., [2, 1, 0, 3]]).view("<f4")[..., 0].copy())


class VirtualKitti2Adapter(FileDataset):
    """SceneNN/VARIATION/{frames/{rgb, depth}/Camera_0, extrinsic.txt, intrinsic.txt}, the archives in one folder."""

    name = "vkitti2"
    layout = "SceneNN/VARIATION/frames/rgb/Camera_0/rgb_NNNNN.jpg beside extrinsic.txt and intrinsic.txt"
    licence = "CC BY-NC-SA 3.0 (Virtual KITTI 2)"
    levels = 2
    marks = ("frames/rgb/Camera_0/",)
    nesting = 1
    frames_per_second = 10.0

    def read(self, scene: str) -> FileSequence:
        """One drive under one weather or camera angle. Raises DataError when it is malformed."""
        folder = self.folders[scene]
        images = self.numbered(folder / "frames/rgb/Camera_0", f"rgb_{NUMBER}{IMAGE}")
        depth_folder = self._beside(folder, "frames/depth/Camera_0")
        extrinsic, intrinsic = self._beside(folder, "extrinsic.txt"), self._beside(folder, "intrinsic.txt")
        # frame, camera, and the 4×4 matrix (fx fy cx cy) of camera 0
        moves = read_rows(extrinsic, 18, "frame cameraID r1,1 … 1", header=True)
        lenses = read_rows(intrinsic, 6, "frame cameraID fx fy cx cy", header=True)
        moves, lenses = moves[moves[:, 1] == 0], lenses[lenses[:, 1] == 0]
        world_to_camera = checked_matrices(
            moves[:, 2:].reshape(-1, 4, 4), [f"{extrinsic}: frame {row[0]:.0f}" for row in moves]
        )
        poses = dict(zip(moves[:, 0].astype(int).tolist(), inverse(world_to_camera), strict=True))
        cameras = {
            int(row[0]): checked_pinhole(pinhole(*row[2:]), f"{intrinsic}: frame {row[0]:.0f}") for row in lenses
        }
        lost = [n for n in images if n not in poses or n not in cameras]
        if lost:
            raise DataError(
                f"{extrinsic}: expected a line of camera 0 here and in intrinsic.txt for each image, found none for"
                f" {images[lost[0]].name} ({len(lost)} in all); are they of one scene?"
            )
        return self.by_number(
            scene,
            images,
            {
                "poses": "exact, world-to-camera in extrinsic.txt, inverted; metres",
                "depth": "uint16 centimetres; 65535 = 655.35 m and farther, as the sky: none",
                "intrinsics": "of each frame, in intrinsic.txt",
                "found": {"poses_in_file": len(moves), "images_with_pose": len(images)},
            },
            poses=poses,
            depths=self.numbered(depth_folder, rf"depth_{NUMBER}\.png", optional=True),
            cameras=cameras,
            index_files=(extrinsic, intrinsic),
            depth_reader=png_depth(100.0),
        )

    def _beside(self, folder: Path, inner: str) -> Path:
        """A part of a scene where its archive was unpacked: in one folder with the images, or in one of its own."""
        rgb = folder.parent.parent
        name = next((part for part in ("depth", "textgt") if part in inner), "textgt")
        other = rgb.parent / f"{rgb.name.removesuffix('rgb')}{name}" / folder.parent.name / folder.name / inner
        return folder / inner if (folder / inner).exists() or not other.exists() else other


_TAG = np.float32(202021.25).tobytes()  # "PIEH", little-endian, before every file of floats
_CAMERA_BYTES = 4 + 8 * (9 + 12)
_FRAME = rf"frame_{NUMBER}\."
_IMAGE = re.compile(f"{_FRAME}png", re.IGNORECASE)


class SintelOptions(StrictModel):
    """render: ``final`` with blur, fog and glare, as the field's tables take it, or ``clean``."""

    render: Literal["final", "clean"] = "final"


class SintelAdapter(FileDataset):
    """ROOT/training/{final, clean, depth, camdata_left}/SCENE/frame_NNNN.{png, dpt, cam}."""

    name = "sintel"
    layout = "training/final/SCENE/frame_NNNN.png"
    licence = "see the dataset's page (research use); not redistributed here"
    Options = SintelOptions
    nesting = 3
    frames_per_second = 24.0

    def is_scene(self, folder: Path) -> bool:
        return (
            folder.parent.name == self.options.render
            and folder.parent.parent.name != "test"
            and any(map(_IMAGE.fullmatch, names_listed(folder)))
        )

    def read(self, scene: str) -> FileSequence:
        """One scene. Raises DataError when its cameras are malformed."""
        folder = self.folders[scene]
        base, name = folder.parent.parent, folder.name
        images = self.numbered(folder, f"{_FRAME}png")
        files = self.numbered(base / "camdata_left" / name, f"{_FRAME}cam", optional=True)
        cameras = {n: read_camera(path) for n, path in files.items() if n in images}
        return self.by_number(
            scene,
            images,
            {
                "poses": "exact, world-to-camera in the .cam files, inverted; in the film's unit",
                "depth": ".dpt, float32 along z in the film's unit",
                "intrinsics": "of each frame, in its .cam file",
                "timestamps": f"(number in the name - 1) / {self.frames_per_second:g} Hz, the film's",
            },
            times={n: (n - 1) / self.frames_per_second for n in images},
            poses={n: pose for n, (_, pose) in cameras.items()},
            depths=self.numbered(base / "depth" / name, f"{_FRAME}dpt", optional=True),
            cameras={n: matrix for n, (matrix, _) in cameras.items()},
            index_files=[files[n] for n in cameras],
            depth_reader=read_dpt,
        )


def read_camera(path: Path) -> tuple[FloatArray, FloatArray]:
    """(3, 3) intrinsics and (4, 4) camera-to-world of a ``.cam`` file. Raises DataError."""
    data = _tagged(path, str(path), "camera", _CAMERA_BYTES)
    if len(data) != _CAMERA_BYTES:
        raise DataError(f"{path}: expected a camera of {_CAMERA_BYTES} bytes, found {len(data)}; copy it again")
    numbers = np.frombuffer(data, "<f8", offset=4)
    pose = np.eye(4)
    pose[:3] = numbers[9:].reshape(3, 4)
    intrinsics = checked_pinhole(numbers[:9].reshape(3, 3).copy(), f"{path}: intrinsics")
    return intrinsics, inverse(checked_rigid(pose, f"{path}: extrinsics"))


def read_dpt(path: Path, place: str, expected: Size | None) -> DepthMap:
    """(H, W) float32 of a ``.dpt`` file: tag, width and height as int32, values row by row. Raises DataError."""
    what = f"{place}: depth map"
    data = _tagged(path, what, "depth map", 1 << 28)
    width, height = np.frombuffer(data[4:12].ljust(8, b"\0"), "<i4").tolist()
    if width < 1 or height < 1 or len(data) != 12 + 4 * width * height:
        raise DataError(
            f"{what} {path}: expected 12 bytes and 4 for each of {width}x{height} pixels, found {len(data)}; copy it"
            " again"
        )
    checked_size((width, height), expected, f"{what} {path}")
    return without_invalid(np.frombuffer(data, "<f4", offset=12).reshape(height, width).astype(np.float32))


def _tagged(path: Path, what: str, kind: str, most: int) -> bytes:
    checked_file(path, what)
    try:
        data = read_file(path, most)
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {reason(error)}") from error
    if data[:4] != _TAG:
        raise DataError(f"{what} {path}: expected a {kind} of Sintel (it begins with PIEH), found {data[:4]!r}")
    return data
