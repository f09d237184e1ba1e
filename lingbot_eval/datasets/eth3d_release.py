"""ETH3D as it is downloaded: COLMAP's text files, undistorted photographs, depth of the photographs before that.

SCENE_dslr_undistorted.7z holds ``images/dslr_images_undistorted`` and ``dslr_calibration_undistorted``. Depth
(SCENE_dslr_depth.7z, ``ground_truth_depth/dslr_images``) was rendered for the photographs with lens distortion; the
calibration of those (``dslr_calibration_jpg``, in SCENE_dslr_jpg.7z) carries it to the undistorted ones. Both are
views from one place in one direction, so that depth along z is the same along the same ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lingbot_eval.datasets.readers import Size, raw_float_depth
from lingbot_eval.datasets.sequence import FrameFiles, pinhole
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.pairing import image_stem
from lingbot_eval.files.text import parse_number, read_text
from lingbot_eval.files.trajectories import read_trajectory
from lingbot_eval.types import DepthMap, FloatArray

IMAGES = Path("images") / "dslr_images_undistorted"
CALIBRATION = Path("dslr_calibration_undistorted")
_DISTORTED_CALIBRATION = Path("dslr_calibration_jpg")
_DEPTH = Path("ground_truth_depth") / "dslr_images"

# Numbers that a camera of each of COLMAP's models has: those that ETH3D uses.
_MODELS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "THIN_PRISM_FISHEYE": 12}
_ROWS_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class ColmapCamera:
    """One line of cameras.txt. numbers: as COLMAP orders them; pixels count from the corner of the image there."""

    model: str
    size: Size
    numbers: FloatArray

    @property
    def focal_and_centre(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy in pixels; pixel (0, 0) is the centre of the first."""
        numbers = self.numbers.tolist()
        fx, fy, cx, cy = (numbers[0], *numbers[:3]) if self.model == "SIMPLE_PINHOLE" else numbers[:4]
        return fx, fy, cx - 0.5, cy - 0.5

    def project(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Columns and rows of the rays (x, y, 1)."""
        fx, fy, cx, cy = self.focal_and_centre
        if self.model == "THIN_PRISM_FISHEYE":
            k1, k2, p1, p2, k3, k4, sx, sy = self.numbers[4:].tolist()
            radius = np.hypot(x, y)
            bent = np.where(radius > 1e-9, np.arctan(radius) / np.maximum(radius, 1e-9), 1.0)
            x, y = x * bent, y * bent
            r2 = x * x + y * y
            radial = r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
            x, y = (
                x + x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + sx * r2,
                y + y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + sy * r2,
            )
        return fx * x + cx, fy * y + cy


@dataclass(frozen=True)
class Release:
    """The views of one scene: number of the image → its files. notes: what must be said, a line each.

    cameras: of depth maps, the camera of the undistorted image and, where depth is not in its pixels, that of depth.
    """

    frames: dict[int, FrameFiles]
    notes: tuple[str, ...]
    index_files: tuple[Path, ...]
    cameras: dict[Path, tuple[ColmapCamera, ColmapCamera | None]]

    def read_depth(self, path: Path, place: str, expected: Size) -> DepthMap:
        """(H, W) float32 metres in the pixels of the undistorted image. Raises DataError."""
        undistorted, distorted = self.cameras.get(path, (None, None))
        if undistorted is None or distorted is None:
            return raw_float_depth(path, place, expected)
        return _carried(raw_float_depth(path, place, distorted.size), distorted, undistorted, expected)


def read_release(folder: Path, images: dict[int, Path]) -> Release:
    """Poses, cameras and depth of ``images``. Raises DataError for files that are malformed or of other images."""
    calibration = folder / CALIBRATION
    cameras, of_image = _calibrated(calibration)
    path = calibration / "images.txt"
    trajectory = read_trajectory(path, "colmap")
    poses = dict(zip(map(image_stem, trajectory.names or ()), trajectory.camera_to_world, strict=True))
    missing = [image.name for image in images.values() if image.stem not in poses or image.stem not in of_image]
    if missing:
        raise DataError(
            f"{path}: expected a line for each of the {len(images)} images in {folder / IMAGES}, found none for"
            f" {missing[0]} ({len(missing)} in all); are images and calibration of one scene?"
        )
    distorted = _distorted(folder)
    frames: dict[int, FrameFiles] = {}
    of_depth: dict[Path, tuple[ColmapCamera, ColmapCamera | None]] = {}
    odd: list[str] = []
    for position, (number, image) in enumerate(images.items()):
        camera = cameras[of_image[image.stem]]
        if camera.model == "THIN_PRISM_FISHEYE":
            raise DataError(
                f"{calibration / 'cameras.txt'}: expected undistorted cameras (PINHOLE), found {camera.model}"
            )
        depth = folder / _DEPTH / image.name
        if depth.is_file():
            if image.stem in distorted:
                of_depth[depth] = camera, distorted[image.stem]
            elif depth.stat().st_size == 4 * camera.size[0] * camera.size[1]:
                of_depth[depth] = camera, None
            else:
                odd.append(image.name)
        intrinsics = pinhole(*camera.focal_and_centre)
        kept = depth if depth in of_depth else None
        frames[number] = FrameFiles(image, float(position), poses[image.stem], kept, intrinsics=intrinsics)
    notes = [
        f"depth of {len(odd)} images is left out: its pixels are those of the photographs with lens distortion, and"
        f" {_DISTORTED_CALIBRATION}, which carries it over, is not there: unpack {folder.name}_dslr_jpg.7z"
    ]
    index_files = [calibration / "cameras.txt", path]
    if distorted:
        index_files += [folder / _DISTORTED_CALIBRATION / name for name in ("cameras.txt", "images.txt")]
    return Release(frames, tuple(notes if odd else ()), tuple(index_files), of_depth)


def _distorted(folder: Path) -> dict[str, ColmapCamera]:
    """Stem of each image → the camera that took it, lens and all; nothing where the calibration is not there."""
    calibration = folder / _DISTORTED_CALIBRATION
    if not (calibration / "cameras.txt").is_file():
        return {}
    cameras, of_image = _calibrated(calibration)
    return {stem: cameras[number] for stem, number in of_image.items()}


def _calibrated(calibration: Path) -> tuple[dict[int, ColmapCamera], dict[str, int]]:
    """Cameras by number, and the number of each image's by its stem."""
    cameras = read_cameras(calibration / "cameras.txt")
    path = calibration / "images.txt"
    of_image: dict[str, int] = {}
    for number, line in enumerate(read_text(path, "list of images").split("\n"), start=1):
        words = line.split(None, 9)
        is_image = len(words) == 10 and words[8].isdecimal() and not line.lstrip().startswith("#")
        if not (is_image and words[9].strip().lower().endswith((".jpg", ".jpeg", ".png"))):
            continue
        if int(words[8]) not in cameras:
            raise DataError(f"{at(path, number)}: camera {words[8]} is not in cameras.txt beside it")
        of_image[image_stem(words[9].strip())] = int(words[8])
    return cameras, of_image


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Cameras of COLMAP's cameras.txt by number. Raises DataError with file and line, also for other lens models."""
    cameras: dict[int, ColmapCamera] = {}
    for number, line in enumerate(read_text(path, "list of cameras").split("\n"), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        expected = _MODELS.get(words[1]) if len(words) > 4 and all(words[i].isdecimal() for i in (0, 2, 3)) else None
        try:
            numbers = np.array([parse_number(word) for word in words[4:]])
        except ValueError:
            numbers = np.empty(0)
        if expected is None or len(numbers) != expected or not np.isfinite(numbers).all() or numbers[0] <= 0:
            raise DataError(
                f"{at(path, number)}: expected 'CAMERA_ID MODEL WIDTH HEIGHT' and the numbers of a model"
                f" ({', '.join(f'{model}: {count}' for model, count in _MODELS.items())}), found {line.strip()[:60]!r}"
            )
        cameras[int(words[0])] = ColmapCamera(words[1], (int(words[2]), int(words[3])), numbers)
    if not cameras:
        raise DataError(f"{path}: expected cameras, found none; is the file complete?")
    return cameras


def _carried(depth: DepthMap, distorted: ColmapCamera, undistorted: ColmapCamera, size: Size) -> DepthMap:
    """The depth map in the pixels of the undistorted image: at each pixel the nearest measurement along its ray."""
    width, height = size
    fx, fy, cx, cy = undistorted.focal_and_centre
    carried = np.zeros((height, width), np.float32)
    x = (np.arange(width) - cx) / fx
    for top in range(0, height, _ROWS_AT_A_TIME):  # all at once would take gigabytes at 24 megapixels
        y = (np.arange(top, min(top + _ROWS_AT_A_TIME, height)) - cy) / fy
        columns, rows = distorted.project(*np.meshgrid(x, y))
        column, row = np.rint(columns).astype(np.int64), np.rint(rows).astype(np.int64)
        inside = (column >= 0) & (column < depth.shape[1]) & (row >= 0) & (row < depth.shape[0])
        carried[top : top + len(y)][inside] = depth[row[inside], column[inside]]
    return carried
