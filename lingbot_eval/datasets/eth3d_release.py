"""ETH3D as it is downloaded: COLMAP's text files, undistorted photographs, depth of the photographs before that.

SCENE_dslr_undistorted.7z holds ``images/dslr_images_undistorted`` and ``dslr_calibration_undistorted``. Depth
(SCENE_dslr_depth.7z, ``ground_truth_depth/dslr_images``) was rendered for the photographs with lens distortion; the
calibration of those (``dslr_calibration_jpg``, in SCENE_dslr_jpg.7z) carries it to the undistorted ones. Both are
views from one place in one direction, so that depth along z is the same along the same ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lingbot_eval.datasets.sequence import FrameFiles
from lingbot_eval.errors import DataError
from lingbot_eval.files.colmap import ColmapModel, has_model, read_model
from lingbot_eval.files.pairing import image_stem
from lingbot_eval.geometry.lenses import LensCamera

IMAGES = Path("images") / "dslr_images_undistorted"
CALIBRATION = Path("dslr_calibration_undistorted")
_DISTORTED_CALIBRATION = Path("dslr_calibration_jpg")
_DEPTH = Path("ground_truth_depth") / "dslr_images"


@dataclass(frozen=True)
class Release:
    """The views of one scene. notes: what must be said, a line each. index_files: that decided what they are."""

    frames: list[FrameFiles]
    notes: tuple[str, ...]
    index_files: tuple[Path, ...]


def read_release(folder: Path, images: Sequence[Path]) -> Release:
    """Poses, cameras and depth of ``images``. Raises DataError for files that are malformed or of other images."""
    model = read_model(folder / CALIBRATION)
    poses = {image_stem(name): pose for name, pose in model.poses.items()}
    cameras = _cameras(model)
    missing = [image.name for image in images if image.stem not in poses]
    if missing:
        raise DataError(
            f"{model.files[1]}: expected a line for each of the {len(images)} images in {folder / IMAGES}, found none"
            f" for {missing[0]} ({len(missing)} in all); are images and calibration of one scene?"
        )
    calibration = folder / _DISTORTED_CALIBRATION
    distorted = read_model(calibration) if has_model(calibration) else None
    lenses = {} if distorted is None else _cameras(distorted)
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
    return Release(frames, notes if odd else (), files)


def _cameras(model: ColmapModel) -> dict[str, LensCamera]:
    """Stem of each image → its camera."""
    return {image_stem(name): model.cameras[number] for name, number in model.camera_of.items()}
