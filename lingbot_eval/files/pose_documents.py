"""Poses in files that are no tables: COLMAP's models, text and binary, nerfstudio's transforms.json, logs, arrays."""

from __future__ import annotations

import io
import itertools
import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import DataError, at, reason
from lingbot_eval.files.arrays import npy_array, npz_arrays
from lingbot_eval.files.pose_tables import PoseRows, checked_matrices, poses_of, rows_of
from lingbot_eval.files.reading import MAX_TEXT_BYTES, numbered_lines, open_file, parse_number, read_text
from lingbot_eval.geometry.cameras import MODELS, LensCamera
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.types import FloatArray

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""Camera axes: y and z change their sign."""

_COLMAP_FIELDS = "'IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME' and a line of points after it"
_OF_TIMES = re.compile(r"(time_?)?stamps?|times?|tstamps?|ts?", re.IGNORECASE)
"""What an array of times is called; with a unit or another word before or after it, too."""
_SHAPES = "(N, 4, 4), (N, 3, 4), (N, 12), (N, 16), (N, 8) as TUM or (N, 4) as time x y z"


def image_stem(name: str) -> str:
    """The name of an image without folders and ending."""
    return re.split(r"[/\\]", name)[-1].rpartition(".")[0] or name


def is_colmap(text: str) -> bool:
    """Whether the first row is an image of COLMAP's images.txt: nine numbers and a name."""
    first = next(rows_of(text), None)
    return first is not None and colmap_image(first[1]) is not None


def colmap_image(line: str) -> tuple[list[float], int, str] | None:
    """Eight numbers (id, qw qx qy qz, tx ty tz), the camera's number and the name of an image; None for another line.

    line: of images.txt, without blanks around it.
    """
    words = line.split(None, 9)
    if len(words) < 10:
        return None
    try:
        numbers = [parse_number(word) for word in words[:9]]
    except ValueError:
        return None
    try:
        parse_number(words[9].split()[0])
    except ValueError:
        camera = int(numbers[8]) if numbers[8].is_integer() else -1
        return numbers[:8], camera, words[9].strip()
    # A line of points is numbers throughout; so is a name such as "000012", which has no more words.
    one_word = len(words[9].split()) == 1 and numbers[8].is_integer()
    return (numbers[:8], int(numbers[8]), words[9].strip()) if one_word else None


def colmap_images(text: str, path: Path) -> Iterator[tuple[int, list[float], int, str]]:
    """Line, eight numbers (as of `colmap_image`), camera and name of each image of COLMAP's images.txt.

    Raises DataError with file and line.
    """
    points_follow = False
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped.startswith("#"):
            continue
        if points_follow and not _looks_like_image(stripped):
            points_follow = False
            continue
        if not stripped:
            continue
        found = colmap_image(stripped)
        if found is None:
            raise DataError(f"{at(path, number)}: expected {_COLMAP_FIELDS}, found {stripped[:60]!r}")
        yield number, *found
        points_follow = True


def read_colmap(text: str, path: Path) -> PoseRows:
    """COLMAP's images.txt: world-to-camera, inverted. Raises DataError with file and line."""
    images = list(colmap_images(text, path))
    if not images:
        raise DataError(f"{path}: expected {_COLMAP_FIELDS}, found no images; is the file complete?")
    values = np.array([numbers for _, numbers, _, _ in images])
    world_to_camera = poses_of(values[:, 5:8], values[:, [2, 3, 4, 1]])
    lines = np.array([line for line, *_ in images], dtype=np.int64)
    return PoseRows("colmap", inverse(world_to_camera), lines, names=[name for *_, name in images])


def _looks_like_image(line: str) -> bool:
    """Whether the line after an image is one more image, where a tool writes no lines of points."""
    words = line.split()
    if len(words) < 10:
        return False
    try:
        parse_number(words[9])
    except ValueError:
        return colmap_image(line) is not None
    return False


def is_log(text: str) -> bool:
    """Whether the text begins as a camera log: a row of three whole numbers, then one of four numbers."""
    rows = rows_of(text)
    first, second = next(rows, None), next(rows, None)
    if first is None or second is None:
        return False
    return _frame_number(first[1].split()) is not None and len(second[1].split()) == 4


def _frame_number(head: list[str]) -> int | None:
    if len(head) == 3 and all(word.isascii() and word.isdecimal() and len(word) < 10 for word in head):
        return int(head[0])
    return None


def read_log(text: str, path: Path) -> PoseRows:
    """A camera log (Redwood, Tanks and Temples): a row of three integers, then the four rows of a matrix.

    The first of the three is the frame's number, from 0. Raises DataError with file and line, also for a number that
    comes twice.
    """
    rows = [(line, row.split()) for line, row in rows_of(text)]
    if not rows:
        raise DataError(f"{path}: expected 4x4 poses, found none; is the file complete?")
    found: dict[int, int] = {}
    matrices = []
    for first in range(0, len(rows), 5):
        number, head = rows[first]
        frame = _frame_number(head)
        if frame is None:
            raise DataError(
                f"{at(path, number)}: expected three whole numbers before each pose, found {' '.join(head)[:60]!r}"
            )
        if first + 5 > len(rows):
            raise DataError(
                f"{at(path, rows[-1][0])}: expected 4 lines after 'frame frame 0', found {len(rows) - first - 1};"
                " is the file cut off?"
            )
        if frame in found:
            raise DataError(f"{at(path, number)}: frame {frame} is in line {found[frame]} already; keep one pose")
        found[frame] = number
        matrices.append([_four(words, at(path, line)) for line, words in rows[first + 1 : first + 5]])
    poses = checked_matrices(np.array(matrices), [at(path, line) for line in found.values()])
    order = np.argsort(np.array(list(found), dtype=np.int64))
    return PoseRows(
        "log",
        poses[order],
        np.array(list(found.values()), dtype=np.int64)[order],
        indices=np.array(list(found), dtype=np.int64)[order],
    )


def _four(words: list[str], place: str) -> list[float]:
    if len(words) != 4:
        raise DataError(f"{place}: expected 4 numbers of a 4x4 pose, found {len(words)}; is it cut off?")
    try:
        return [parse_number(word) for word in words]
    except ValueError:
        raise DataError(f"{place}: expected 4 numbers, found {' '.join(words)[:60]!r}") from None


def read_nerfstudio(text: str, path: Path) -> PoseRows:
    """``transforms.json``: camera-to-world in OpenGL axes, turned to OpenCV's. Raises DataError with file and frame."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {reason(error)}") from error
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not frames:
        raise DataError(
            f"{path}: expected a transforms.json with a list 'frames' of file_path and transform_matrix, found"
            f" {'no frames' if frames == [] else 'other JSON'}"
        )
    poses = nerfstudio_poses(frames, path)
    names = [name for frame in frames if isinstance(name := frame.get("file_path"), str)]
    lines = np.arange(1, len(poses) + 1)
    return PoseRows("nerfstudio", poses, lines, names=names if len(names) == len(poses) else None)


def nerfstudio_poses(frames: Sequence[Any], path: Path) -> FloatArray:
    """(N, 4, 4) camera-to-world poses of a transforms.json in OpenCV axes, NaN throughout where one is lost.

    Raises DataError with the frame.
    """
    given = [frame.get("transform_matrix") if isinstance(frame, dict) else None for frame in frames]
    matrices = _stacked(given)
    if matrices is None:  # of two shapes, or one is none
        matrices = np.tile(np.eye(4), (len(given), 1, 1))
        for position, rows in enumerate(given):
            found = _stacked([rows])
            if found is None:
                raise DataError(f"{path}: frame {position}: expected transform_matrix as 4x4 or 3x4 numbers")
            matrices[position, : found.shape[1]] = found
    return checked_matrices(matrices, [f"{path}: frame {n}" for n in range(len(frames))]) @ OPENGL_TO_OPENCV


def _stacked(matrices: list[Any]) -> FloatArray | None:
    """(N, 3, 4) or (N, 4, 4) where all matrices are of one such shape, of numbers; else None."""
    try:
        found = np.array(matrices)
    except ValueError:
        return None
    return found.astype(np.float64) if found.dtype.kind in "fi" and found.shape[1:] in ((3, 4), (4, 4)) else None


def read_numpy(data: bytes, path: Path) -> PoseRows:
    """A ``.npy``, or a ``.npz`` with one array in the shape of poses and perhaps one of times. Raises DataError."""
    notes: tuple[str, ...] = ()
    times: list[str] | None = None
    try:
        if data.startswith(b"PK"):
            found, times, notes = _evident_arrays(data, path)
        else:
            found = npy_array(io.BytesIO(data), MAX_TEXT_BYTES)
    except ValueError as error:
        raise DataError(f"{path} cannot be read as NumPy array: {error}") from error
    if not _is_poses(found):
        raise DataError(f"{path}: expected poses as {_SHAPES}, found {found.dtype} of shape {found.shape}")
    values = found.astype(np.float64)
    lines = np.arange(1, len(values) + 1)
    places = [f"{path}: pose {row}" for row in range(len(values))]
    if values.ndim == 3 or (values.shape == (4, 4) and (values[3] == [0, 0, 0, 1]).all()):
        matrices = values.reshape(-1, values.shape[-2], 4)
        return PoseRows("numpy", checked_matrices(matrices, places), lines[: len(matrices)], stamps=times, notes=notes)
    if values.shape[1] in (12, 16):
        matrices = checked_matrices(values.reshape(len(values), -1, 4), places)
        return PoseRows("numpy", matrices, lines, stamps=times, notes=notes)
    if not np.isfinite(values[:, 0]).all():
        raise DataError(f"{path}: expected finite times in the first column, found some that are not")
    # Digits as the array has them: an integer keeps all of its own.
    stamps = [repr(value) for value in found[:, 0].tolist()]
    upright = np.tile([0.0, 0.0, 0.0, 1.0], (len(values), 1))
    has_orientation = values.shape[1] == 8
    poses = poses_of(values[:, 1:4], values[:, 4:8] if has_orientation else upright)
    return PoseRows("numpy", poses, lines, stamps=stamps, has_orientation=has_orientation, notes=notes)


def _is_poses(array: NDArray[Any]) -> bool:
    if array.dtype.kind not in "fiu" or not array.size:
        return False
    return (array.ndim == 3 and array.shape[1:] in ((3, 4), (4, 4))) or (
        array.ndim == 2 and array.shape[1] in (4, 8, 12, 16)
    )


def _evident_arrays(data: bytes, path: Path) -> tuple[NDArray[Any], list[str] | None, tuple[str, ...]]:
    """The poses of an archive, their times where another array has them, and what was taken."""
    arrays = npz_arrays(io.BytesIO(data), largest=MAX_TEXT_BYTES)
    fitting = {name: array for name, array in arrays.items() if _is_poses(array)}
    held = ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:12])
    if len(fitting) != 1:
        raise DataError(
            f"{path}: expected one array of poses, {_SHAPES}, found {len(fitting)} among: {held}; save the poses alone"
        )
    name, poses = next(iter(fitting.items()))
    note = f"{path.name}: the poses are its array {name!r}, taken as camera-to-world"
    if poses.ndim == 2 and poses.shape[1] in (4, 8):
        return poses, None, (note,)
    series = [other for other, array in arrays.items() if array.squeeze().ndim == 1 and other != name]
    timed = [other for other in series if _OF_TIMES.fullmatch(other)]
    timed = timed or [other for other in series if any(map(_OF_TIMES.fullmatch, re.split(r"[^A-Za-z]+", other)))]
    if not timed:
        return poses, None, (f"{note}; no array is called times or timestamps, so they have none",)
    times = arrays[timed[0]].squeeze()
    numbers = times.dtype.kind in "fiu" and times.shape == (len(poses),) and bool(np.isfinite(times).all())
    if len(timed) > 1 or not numbers:
        raise DataError(
            f"{path}: expected one array of {len(poses)} finite times beside the poses {name!r}, found"
            f" {', '.join(timed[:4])} among: {held}; save one, or the poses alone"
        )
    # Digits as the array has them: an integer keeps all of its own.
    return poses, [repr(value) for value in times.tolist()], (f"{note}; their times are its array {timed[0]!r}",)


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
