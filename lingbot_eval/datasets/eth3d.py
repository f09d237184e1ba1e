"""ETH3D: high-resolution photographs with laser-scanned depth, each calibrated (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.calibration import checked_pinhole
from lingbot_eval.datasets.eth3d_release import CALIBRATION, IMAGES, read_release
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import numbered_files, shown
from lingbot_eval.datasets.readers import raw_float_depth
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.arrays import read_npz
from lingbot_eval.files.pose_matrices import checked_rigid
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.types import FloatArray

VIEWS_LEFT_OUT: dict[str, frozenset[int]] = {
    "delivery_area": frozenset(range(711, 715)),
    "electro": frozenset((*range(9289, 9294), 9298)),
    "playground": frozenset(range(587, 593)),
    "relief": frozenset(range(427, 439)),
    "relief_2": frozenset(range(458, 469)),
}
"""Scene → numbers in the names of the views that the published protocol leaves out."""

_PREPARED = Path("images") / "custom_undistorted"
_DISTORTED = Path("images") / "dslr_images"
_IMAGE = re.compile(r".*?(\d{1,9})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_KEYS = {"intrinsics": (3, 3), "extrinsics": (4, 4)}
_MOST_BYTES = 100_000  # a calibration is a few hundred


class Eth3dOptions(BaseModel):
    """views: ``protocol`` leaves out those that the published protocol does, ``all`` takes every one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: Literal["protocol", "all"] = "protocol"


class Eth3dAdapter(FileDataset):
    """As downloaded (`lingbot_eval.datasets.eth3d_release`), or prepared: ROOT/SCENE/{images,
    ground_truth_depth}/custom_undistorted and ROOT/SCENE/custom_undistorted_cam.
    """

    name = "eth3d"
    layout = f"ROOT/SCENE/{IMAGES} (as downloaded) or ROOT/SCENE/{_PREPARED} folders"
    licence = "CC BY-NC-SA 4.0 (ETH3D)"
    Options = Eth3dOptions

    def is_scene(self, folder: Path) -> bool:
        return any((folder / images).is_dir() for images in (_PREPARED, IMAGES, _DISTORTED))

    def read(self, scene: str) -> FileSequence:
        """One scene, its views in order of their numbers. Raises DataError when it is malformed."""
        folder = self.folders[scene]
        is_release = not (folder / _PREPARED).is_dir()
        if is_release and not (folder / IMAGES).is_dir():
            raise DataError(
                f"eth3d: {folder / _DISTORTED} holds the photographs with lens distortion; expected {IMAGES} and"
                f" {CALIBRATION} beside it: unpack {scene}_dslr_undistorted.7z"
            )
        images = numbered_files(folder / (IMAGES if is_release else _PREPARED), _IMAGE, "eth3d")
        without = VIEWS_LEFT_OUT.get(scene, frozenset()) if self.options.views == "protocol" else frozenset()
        kept = {number: image for number, image in images.items() if number not in without}
        left_out = sorted(number for number in images if number in without)
        if is_release:
            release = read_release(folder, list(kept.values()))
            frames, notes, index_files = release.frames, release.notes, release.index_files
        else:
            cameras = [folder / "custom_undistorted_cam" / f"{image.stem}.npz" for image in kept.values()]
            pairs = enumerate(zip(kept.values(), cameras, strict=True))
            frames, notes = [_frame(folder, image, camera, n) for n, (image, camera) in pairs], ()
            index_files = tuple(cameras)
        where = f"{CALIBRATION}/images.txt, world-to-camera" if is_release else "world-to-camera in the npz files"
        return self.sequence(
            scene,
            frames,
            None,
            {
                "poses": f"{where}, inverted; metres",
                "depth": "laser scan, float32 metres (raw bytes named .JPG), not finite or not positive = none",
                "intrinsics": "of each view, in cameras.txt" if is_release else "of each view, in its npz file",
                "timestamps": "position in the scene; the dataset has none",
                "views_left_out": shown(map(str, left_out), 40),
            },
            index_files=index_files,
            notes=notes,
            depth_reader=raw_float_depth,
            one_size=False,
        )


def _frame(folder: Path, image: Path, camera: Path, position: int) -> FrameFiles:
    intrinsics, extrinsics = _calibration(camera)
    depth = folder / "ground_truth_depth" / "custom_undistorted" / image.name
    pose = inverse(checked_rigid(extrinsics, f"{camera}: extrinsics"))
    return FrameFiles(
        image,
        float(position),
        pose,
        depth if depth.is_file() else None,
        intrinsics=checked_pinhole(intrinsics, f"{camera}: intrinsics"),
    )


def _calibration(path: Path) -> tuple[FloatArray, FloatArray]:
    try:
        found = read_npz(path, _KEYS, _MOST_BYTES)
    except FileNotFoundError:
        raise DataError(f"calibration {path} does not exist; is the scene complete?") from None
    except (OSError, ValueError) as error:
        wanted = " and ".join(_KEYS)
        raise DataError(
            f"{path}: expected a NumPy archive of arrays {wanted}, found a damaged or another file ({reason(error)});"
            " is it of this dataset?"
        ) from error
    for key, shape in _KEYS.items():
        if found[key].shape != shape or found[key].dtype.kind not in "fiu":
            raise DataError(
                f"{path}: expected {key} as {shape[0]}x{shape[1]} numbers, found {found[key].dtype} of shape"
                f" {found[key].shape}"
            )
    return found["intrinsics"].astype(np.float64), found["extrinsics"].astype(np.float64)
