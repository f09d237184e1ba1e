"""Models of COLMAP: cameras and images, as text (cameras.txt, images.txt) and binary (cameras.bin, images.bin)."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from lingbot_eval.errors import DataError, at, reason
from lingbot_eval.files.opening import open_file
from lingbot_eval.files.pairing import image_stem
from lingbot_eval.files.pose_documents import colmap_images
from lingbot_eval.files.pose_tables import poses_of
from lingbot_eval.files.text import numbered_lines, parse_number, read_text
from lingbot_eval.geometry.cameras import MODELS, LensCamera
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.types import FloatArray

# Numbers of models in binary files (src/colmap/sensor/models.h): those that are read here.
_BY_NUMBER = {
    0: "SIMPLE_PINHOLE",
    1: "PINHOLE",
    2: "SIMPLE_RADIAL",
    3: "RADIAL",
    4: "OPENCV",
    5: "OPENCV_FISHEYE",
    6: "FULL_OPENCV",
    8: "SIMPLE_RADIAL_FISHEYE",
    9: "RADIAL_FISHEYE",
    10: "THIN_PRISM_FISHEYE",
}
_MOST = 10_000_000
_LONGEST_NAME = 4096


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """What COLMAP says of images.

    Attributes:
        cameras: by their numbers; pixel (0, 0) is the centre of the first.
        camera_of: name of an image (with its folders) → number of its camera.
        poses: name of an image → (4, 4) camera-to-world, in the model's unit.
        files: that were read.
    """

    cameras: dict[int, LensCamera]
    camera_of: dict[str, int]
    poses: dict[str, FloatArray]
    files: tuple[Path, Path]

    def by_stem(self) -> tuple[dict[str, FloatArray], dict[str, LensCamera]]:
        """Poses and cameras by the names of the images without folders and endings."""
        cameras = {image_stem(name): self.cameras[number] for name, number in self.camera_of.items()}
        return {image_stem(name): pose for name, pose in self.poses.items()}, cameras


def has_model(folder: Path) -> bool:
    """Whether a folder holds a model, as text or binary."""
    return any(all((folder / f"{name}{kind}").is_file() for name in ("cameras", "images")) for kind in (".txt", ".bin"))


def read_model(folder: Path) -> ColmapModel:
    """The model in a folder, of text and binary files the text. Raises DataError with the place."""
    kind = ".txt" if (folder / "images.txt").is_file() or not (folder / "images.bin").is_file() else ".bin"
    files = folder / f"cameras{kind}", folder / f"images{kind}"
    images: list[_Image]
    if kind == ".txt":
        cameras, said = read_cameras(files[0]), colmap_images(read_text(files[1], "list of images"), files[1])
        images = [(at(files[1], line), numbers[1:], camera, name) for line, numbers, camera, name in said]
    else:
        cameras, images = _read_binary(*files)
    camera_of: dict[str, int] = {}
    for place, _, camera, name in images:
        if camera not in cameras:
            raise DataError(f"{place}: camera {camera} is not in {files[0].name} beside it")
        if name in camera_of:
            raise DataError(f"{place}: image {name[:60]!r} is there already; keep one of the two")
        camera_of[name] = camera
    if not images:
        raise DataError(f"{files[1]}: expected images, found none; is the file complete?")
    values = np.array([numbers for _, numbers, _, _ in images])  # qw qx qy qz, tx ty tz
    poses = inverse(poses_of(values[:, 4:7], values[:, [1, 2, 3, 0]]))
    posed = {name: pose for (_, _, _, name), pose in zip(images, poses, strict=True) if np.isfinite(pose).all()}
    return ColmapModel(cameras, camera_of, posed, files)


def read_cameras(path: Path) -> dict[int, LensCamera]:
    """Cameras of cameras.txt by number. Raises DataError with file and line, also for models that are not known."""
    cameras: dict[int, LensCamera] = {}
    for number, line in numbered_lines(path, "list of cameras"):
        words = line.split()
        if line.startswith("#"):
            continue
        names = MODELS.get(words[1]) if len(words) > 4 and all(words[i].isdecimal() for i in (0, 2, 3)) else None
        try:
            numbers = [parse_number(word) for word in words[4:]]
        except ValueError:
            numbers = []
        if names is None or not _sound(names, numbers) or "0" in words[2:4]:
            raise DataError(
                f"{at(path, number)}: expected 'CAMERA_ID MODEL WIDTH HEIGHT' and the numbers of a model"
                f" ({', '.join(f'{model}: {len(names)}' for model, names in MODELS.items())}), found"
                f" {line[:60]!r}"
            )
        cameras[int(words[0])] = _camera(words[1], (int(words[2]), int(words[3])), numbers)
    if not cameras:
        raise DataError(f"{path}: expected cameras, found none; is the file complete?")
    return cameras


def _sound(names: tuple[str, ...], numbers: list[float]) -> bool:
    """Whether numbers are as many as the model has, finite, and focal lengths positive."""
    if len(numbers) != len(names) or not np.isfinite(numbers).all():
        return False
    return all(value > 0 for name, value in zip(names, numbers, strict=True) if name[0] == "f")


def _camera(model: str, size: tuple[int, int], numbers: list[float]) -> LensCamera:
    """A camera whose pixels count from the centre of the first."""
    named = zip(MODELS[model], numbers, strict=True)
    return LensCamera(model, size, tuple(value - 0.5 if name in ("cx", "cy") else value for name, value in named))


_Image = tuple[str, list[float], int, str]
"""Place for messages; qw qx qy qz tx ty tz, world-to-camera; number of the camera; name."""


def _read_binary(cameras_file: Path, images_file: Path) -> tuple[dict[int, LensCamera], list[_Image]]:
    cameras: dict[int, LensCamera] = {}
    try:
        with open_file(cameras_file) as stream:
            for _ in range(_count(stream)):
                number, model, width, height = struct.unpack("<iiQQ", stream.read(24))
                name = _BY_NUMBER.get(model)
                if name is None:
                    raise DataError(
                        f"{cameras_file}: camera {number} is of model number {model}, which is not read; undistort the"
                        " images (colmap image_undistorter)"
                    )
                numbers = list(struct.unpack(f"<{len(MODELS[name])}d", stream.read(8 * len(MODELS[name]))))
                if not _sound(MODELS[name], numbers) or not 0 < width * height < 1 << 40:
                    raise ValueError(f"camera {number} has impossible numbers")
                cameras[number] = _camera(name, (width, height), numbers)
        with open_file(images_file) as stream:
            images = [_binary_image(stream, images_file) for _ in range(_count(stream))]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} does not exist; is the model complete?") from None
    except (OSError, ValueError, struct.error) as error:
        raise DataError(
            f"{images_file.parent}: cameras.bin and images.bin are damaged or of another kind ({reason(error)});"
            " copy them again"
        ) from error
    return cameras, images


def _count(stream: BufferedReader) -> int:
    (count,) = struct.unpack("<Q", stream.read(8))
    if count > _MOST:
        raise ValueError(f"{count} entries")
    return int(count)


def _binary_image(stream: BufferedReader, path: Path) -> _Image:
    """One image; its points are passed over, which may be most of the file."""
    _, *numbers, camera = struct.unpack("<i7di", stream.read(64))
    bytes_ahead = itertools.islice(iter(lambda: stream.read(1), b"\0"), _LONGEST_NAME)
    letters = list(itertools.takewhile(bool, bytes_ahead))
    if len(letters) == _LONGEST_NAME:
        raise ValueError("an image without a name")
    name = b"".join(letters).decode("utf-8")
    points = _count(stream)
    stream.seek(24 * points, 1)
    return f"{path}: image {name[:60]!r}", numbers, camera, name
