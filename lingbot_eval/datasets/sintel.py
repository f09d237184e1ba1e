"""MPI Sintel: an animated film with exact depth and cameras, as its archives and their own reader have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.calibration import checked_pinhole
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import names_listed, numbered_files
from lingbot_eval.datasets.readers import Size, checked_file, checked_size, without_invalid
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.opening import read_file
from lingbot_eval.files.pose_matrices import checked_rigid
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.types import DepthMap, FloatArray

FRAMES_PER_SECOND = 24.0  # of the film

_TAG = np.float32(202021.25).tobytes()  # "PIEH", little-endian, before every file of floats
_CAMERA_BYTES = 4 + 8 * (9 + 12)
_FRAME = {kind: re.compile(rf"frame_(\d{{1,9}})\.{kind}", re.IGNORECASE) for kind in ("png", "dpt", "cam")}


class SintelOptions(BaseModel):
    """render: ``final`` with blur, fog and glare, as the field's tables take it, or ``clean``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    render: Literal["final", "clean"] = "final"


class SintelAdapter(FileDataset):
    """ROOT/training/{final, clean, depth, camdata_left}/SCENE/frame_NNNN.{png, dpt, cam}."""

    name = "sintel"
    layout = "training/final/SCENE/frame_NNNN.png"
    licence = "see the dataset's page (research use); not redistributed here"
    Options = SintelOptions
    nesting = 3

    def is_scene(self, folder: Path) -> bool:
        return (
            folder.parent.name == self.options.render
            and folder.parent.parent.name != "test"
            and any(map(_FRAME["png"].fullmatch, names_listed(folder)))
        )

    def read(self, scene: str) -> FileSequence:
        """One scene. Raises DataError when its cameras are malformed."""
        folder = self.folders[scene]
        base, name = folder.parent.parent, folder.name
        images = numbered_files(folder, _FRAME["png"], self.name)
        depths = numbered_files(base / "depth" / name, _FRAME["dpt"], self.name, optional=True)
        files = numbered_files(base / "camdata_left" / name, _FRAME["cam"], self.name, optional=True)
        cameras = {number: read_camera(path) for number, path in files.items() if number in images}
        nothing: tuple[None, None] = (None, None)
        return self.sequence(
            scene,
            [
                FrameFiles(
                    image,
                    (n - 1) / FRAMES_PER_SECOND,
                    cameras.get(n, nothing)[1],
                    depths.get(n),
                    intrinsics=cameras.get(n, nothing)[0],
                )
                for n, image in images.items()
            ],
            None,
            {
                "poses": "exact, world-to-camera in the .cam files, inverted; in the film's unit",
                "depth": ".dpt, float32 along z in the film's unit",
                "intrinsics": "of each frame, in its .cam file",
                "timestamps": f"(number in the name - 1) / {FRAMES_PER_SECOND:g} Hz, the film's",
            },
            numbers=list(images),
            index_files=tuple(files[number] for number in cameras),
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
