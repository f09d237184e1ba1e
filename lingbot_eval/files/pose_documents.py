"""Poses in files that are no tables: COLMAP's images.txt, nerfstudio's transforms.json, NumPy arrays."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import DataError, at, reason
from lingbot_eval.files.arrays import npy_array, npz_arrays
from lingbot_eval.files.pose_tables import PoseRows, checked_matrices, poses_of, rows_of
from lingbot_eval.files.text import MAX_TEXT_BYTES, parse_number
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.types import FloatArray

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""Camera axes: y and z change their sign."""

_COLMAP_FIELDS = "'IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME' and a line of points after it"
_OF_TIMES = re.compile(r"(time_?)?stamps?|times?|tstamps?|ts?", re.IGNORECASE)
"""What an array of times is called; with a unit or another word before or after it, too."""
_SHAPES = "(N, 4, 4), (N, 3, 4), (N, 12), (N, 16), (N, 8) as TUM or (N, 4) as time x y z"


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
        found = [_matrix(rows) for rows in given]
        wrong = next((position for position, matrix in enumerate(found) if matrix is None), None)
        if wrong is not None:
            raise DataError(f"{path}: frame {wrong}: expected transform_matrix as 4x4 or 3x4 numbers")
        matrices = np.array(found)
    return checked_matrices(matrices, [f"{path}: frame {n}" for n in range(len(frames))]) @ OPENGL_TO_OPENCV


def _stacked(matrices: list[Any]) -> FloatArray | None:
    """(N, 3, 4) or (N, 4, 4) where all matrices are of one such shape, of numbers; else None."""
    try:
        found = np.array(matrices)
    except ValueError:
        return None
    return found.astype(np.float64) if found.dtype.kind in "fi" and found.shape[1:] in ((3, 4), (4, 4)) else None


def _matrix(rows: Any) -> FloatArray | None:
    if not (isinstance(rows, list) and len(rows) in (3, 4) and all(isinstance(row, list) for row in rows)):
        return None
    if not all(len(row) == 4 and all(type(value) in (int, float) for value in row) for row in rows):
        return None
    try:
        matrix = np.eye(4)
        matrix[: len(rows)] = np.array(rows, dtype=np.float64)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return matrix


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
