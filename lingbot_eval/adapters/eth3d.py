"""ETH3D: high-resolution photographs with laser-scanned depth, each calibrated (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from lingbot_eval.adapters.calibration import checked_pinhole
from lingbot_eval.adapters.listing import numbered_files, scene_folders, shown, unknown_scene
from lingbot_eval.adapters.protocol import Selection
from lingbot_eval.adapters.readers import raw_float_depth
from lingbot_eval.adapters.sequence import FileSequence, FrameFiles, selected
from lingbot_eval.errors import DataError, reason
from lingbot_eval.formats.arrays import read_npz
from lingbot_eval.formats.pose_matrices import checked_rigid
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

_IMAGE = re.compile(r".*?(\d{1,9})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_KEYS = {"intrinsics": (3, 3), "extrinsics": (4, 4)}
_MOST_BYTES = 100_000  # a calibration is a few hundred


class Eth3dOptions(BaseModel):
    """views: ``protocol`` leaves out those that the published protocol does, ``all`` takes every one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: Literal["protocol", "all"] = "protocol"


class Eth3dAdapter:
    """ROOT/SCENE/{images, ground_truth_depth}/custom_undistorted and ROOT/SCENE/custom_undistorted_cam."""

    name = "eth3d"
    Options = Eth3dOptions

    def __init__(self, root: Path, options: Eth3dOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Folders with images/custom_undistorted. Raises DataError for a root of another shape."""
        layout = "ROOT/SCENE/images/custom_undistorted folders"
        return tuple(scene_folders(self._root, "eth3d", layout, _is_scene))

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One scene, its views in order of their numbers. Raises DataError when it is not there or malformed."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene("eth3d", scene, scenes)
        folder = self._root / scene
        images = numbered_files(folder / "images" / "custom_undistorted", _IMAGE, "eth3d")
        without = VIEWS_LEFT_OUT.get(scene, frozenset()) if self._options.views == "protocol" else frozenset()
        kept = [number for number in images if number not in without]
        left_out = sorted(number for number in images if number in without)
        chosen = [kept[i] for i in selected("eth3d", scene, selection, len(kept))]
        cameras = [folder / "custom_undistorted_cam" / f"{images[n].stem}.npz" for n in chosen]
        return FileSequence(
            dataset="eth3d",
            scene=scene,
            root=self._root,
            files=[_frame(folder, images[n], camera, kept.index(n)) for n, camera in zip(chosen, cameras, strict=True)],
            intrinsics=None,
            conventions={
                "poses": "world-to-camera in the npz files, inverted; metres",
                "depth": "laser scan, float32 metres (raw bytes named .JPG), not finite or not positive = none",
                "intrinsics": "of each view, in its npz file",
                "timestamps": "position in the scene; the dataset has none",
                "views_left_out": shown(map(str, left_out), 40),
                "licence": "CC BY-NC-SA 4.0 (ETH3D)",
            },
            index_files=tuple(cameras),
            depth_reader=raw_float_depth,
            one_size=False,
        )


def _is_scene(folder: Path) -> bool:
    return (folder / "images" / "custom_undistorted").is_dir()


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
