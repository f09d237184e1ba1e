"""ETH3D: high-resolution photographs with laser-scanned depth, each calibrated (protocol.md section 2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.calibration import checked_pinhole
from lingbot_eval.datasets.eth3d_release import CALIBRATION, IMAGES, Release, read_release
from lingbot_eval.datasets.listing import numbered_files, scene_folders, shown, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, selected
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


class Eth3dAdapter:
    """As downloaded (`lingbot_eval.datasets.eth3d_release`), or prepared: ROOT/SCENE/{images,
    ground_truth_depth}/custom_undistorted and ROOT/SCENE/custom_undistorted_cam.
    """

    name = "eth3d"
    Options = Eth3dOptions

    def __init__(self, root: Path, options: Eth3dOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Folders with images of one of the layouts. Raises DataError for a root of another shape."""
        layout = f"ROOT/SCENE/{IMAGES} (as downloaded) or ROOT/SCENE/{_PREPARED} folders"
        return tuple(scene_folders(self._root, "eth3d", layout, _is_scene))

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One scene, its views in order of their numbers. Raises DataError when it is not there or malformed."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene("eth3d", scene, scenes)
        folder = self._root / scene
        is_release = not (folder / _PREPARED).is_dir()
        if is_release and not (folder / IMAGES).is_dir():
            raise DataError(
                f"eth3d: {folder / _DISTORTED} holds the photographs with lens distortion; expected {IMAGES} and"
                f" {CALIBRATION} beside it: unpack {scene}_dslr_undistorted.7z"
            )
        images = numbered_files(folder / (IMAGES if is_release else _PREPARED), _IMAGE, "eth3d")
        without = VIEWS_LEFT_OUT.get(scene, frozenset()) if self._options.views == "protocol" else frozenset()
        kept = {number: image for number, image in images.items() if number not in without}
        left_out = sorted(number for number in images if number in without)
        chosen = [list(kept)[i] for i in selected("eth3d", scene, selection, len(kept))]
        release = read_release(folder, kept) if is_release else _prepared(folder, kept, chosen)
        where = f"{CALIBRATION}/images.txt, world-to-camera" if is_release else "world-to-camera in the npz files"
        return FileSequence(
            dataset="eth3d",
            scene=scene,
            root=self._root,
            files=[release.frames[n] for n in chosen],
            intrinsics=None,
            conventions={
                "poses": f"{where}, inverted; metres",
                "depth": "laser scan, float32 metres (raw bytes named .JPG), not finite or not positive = none",
                "intrinsics": "of each view, in cameras.txt" if is_release else "of each view, in its npz file",
                "timestamps": "position in the scene; the dataset has none",
                "views_left_out": shown(map(str, left_out), 40),
                "licence": "CC BY-NC-SA 4.0 (ETH3D)",
            },
            index_files=release.index_files,
            depth_reader=release.read_depth,
            one_size=False,
            notes=release.notes,
        )


def _is_scene(folder: Path) -> bool:
    return any((folder / images).is_dir() for images in (_PREPARED, IMAGES, _DISTORTED))


def _prepared(folder: Path, images: Mapping[int, Path], chosen: Sequence[int]) -> Release:
    """The views of a scene that was prepared: a calibration a view, depth in the pixels of the images."""
    positions = {number: position for position, number in enumerate(images)}
    cameras = {n: folder / "custom_undistorted_cam" / f"{images[n].stem}.npz" for n in chosen}
    frames = {n: _frame(folder, images[n], cameras[n], positions[n]) for n in chosen}
    return Release(frames, (), tuple(cameras.values()), {})


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
