"""MPI Sintel: an animated film with exact depth and cameras, as its archives and their own reader have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from lingbot_eval.datasets.calibration import checked_pinhole
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import NUMBER, names_listed
from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.depth_maps import checked_size, without_invalid
from lingbot_eval.files.images import Size, checked_file
from lingbot_eval.files.opening import read_file
from lingbot_eval.files.pose_tables import checked_rigid
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import DepthMap, FloatArray

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
