"""ETH3D: high-resolution photographs with laser-scanned depth, each calibrated (protocol.md section 2).

As it is downloaded, SCENE_dslr_undistorted.7z holds ``images/dslr_images_undistorted`` and
``dslr_calibration_undistorted``, COLMAP's text files. Depth (SCENE_dslr_depth.7z, ``ground_truth_depth/dslr_images``)
was rendered for the photographs with lens distortion; the calibration of those (``dslr_calibration_jpg``, in
SCENE_dslr_jpg.7z) carries it to the undistorted ones. Both are views from one place in one direction, so that depth
along z is the same along the same ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lingbot_eval.datasets.calibration import checked_pinhole
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import IMAGE, NUMBER, shown
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.arrays import read_npz
from lingbot_eval.files.depth_maps import raw_float_depth
from lingbot_eval.files.pose_documents import has_model, read_model
from lingbot_eval.files.pose_tables import checked_rigid
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import FloatArray

VIEWS_LEFT_OUT: dict[str, frozenset[int]] = {
    "delivery_area": frozenset(range(711, 715)),
    "electro": frozenset((*range(9289, 9294), 9298)),
    "playground": frozenset(range(587, 593)),
    "relief": frozenset(range(427, 439)),
    "relief_2": frozenset(range(458, 469)),
}
"""Scene → numbers in the names of the views that the published protocol leaves out."""

IMAGES = Path("images") / "dslr_images_undistorted"
CALIBRATION = Path("dslr_calibration_undistorted")
_DISTORTED_CALIBRATION = Path("dslr_calibration_jpg")
_DEPTH = Path("ground_truth_depth") / "dslr_images"
_PREPARED = Path("images") / "custom_undistorted"
_DISTORTED = Path("images") / "dslr_images"
_KEYS = {"intrinsics": (3, 3), "extrinsics": (4, 4)}
_MOST_BYTES = 100_000  # a calibration is a few hundred


class Eth3dOptions(StrictModel):
    """views: ``protocol`` leaves out those that the published protocol does, ``all`` takes every one."""

    views: Literal["protocol", "all"] = "protocol"


class Eth3dAdapter(FileDataset):
    """As downloaded, or prepared: ROOT/SCENE/{images, ground_truth_depth}/custom_undistorted and
    ROOT/SCENE/custom_undistorted_cam.
    """

    name = "eth3d"
    layout = f"ROOT/SCENE/{IMAGES} (as downloaded) or ROOT/SCENE/{_PREPARED} folders"
    licence = "CC BY-NC-SA 4.0 (ETH3D)"
    nesting = 1
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
        images = self.numbered(folder / (IMAGES if is_release else _PREPARED), f".*?{NUMBER}{IMAGE}")
        without = VIEWS_LEFT_OUT.get(scene, frozenset()) if self.options.views == "protocol" else frozenset()
        kept = {number: image for number, image in images.items() if number not in without}
        left_out = sorted(number for number in images if number in without)
        if is_release:
            frames, notes, index_files = _release(folder, list(kept.values()))
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


def _release(folder: Path, images: Sequence[Path]) -> tuple[list[FrameFiles], tuple[str, ...], tuple[Path, ...]]:
    """Frames of ``images``, what must be said of them, a line each, and the files that decided what they are.

    Raises DataError for files that are malformed or of other images.
    """
    model = read_model(folder / CALIBRATION)
    poses, cameras = model.by_stem()
    missing = [image.name for image in images if image.stem not in poses]
    if missing:
        raise DataError(
            f"{model.files[1]}: expected a line for each of the {len(images)} images in {folder / IMAGES}, found none"
            f" for {missing[0]} ({len(missing)} in all); are images and calibration of one scene?"
        )
    calibration = folder / _DISTORTED_CALIBRATION
    distorted = read_model(calibration) if has_model(calibration) else None
    lenses = {} if distorted is None else distorted.by_stem()[1]
    frames: list[FrameFiles] = []
    odd = 0
    for position, image in enumerate(images):
        camera, lens = cameras[image.stem], lenses.get(image.stem)
        if camera.bends:
            raise DataError(f"{model.files[0]}: expected undistorted cameras (PINHOLE), found {camera.model}")
        depth: Path | None = folder / _DEPTH / image.name
        if depth is None or not depth.is_file():
            depth = None
        elif lens is None and depth.stat().st_size != 4 * camera.size[0] * camera.size[1]:
            depth, odd = None, odd + 1
        frames.append(
            FrameFiles(
                image,
                float(position),
                poses[image.stem],
                depth,
                intrinsics=camera.intrinsics,
                depth_lens=None if depth is None else lens,
            )
        )
    notes = (
        f"depth of {odd} images is left out: its pixels are those of the photographs with lens distortion, and"
        f" {_DISTORTED_CALIBRATION}, which carries it over, is not there: unpack {folder.name}_dslr_jpg.7z",
    )
    files = model.files if distorted is None else (*model.files, *distorted.files)
    return frames, notes if odd else (), files
