"""Text files of whole 4×4 pose matrices: one a line, one in four lines, or in five with a line of numbers before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lingbot_eval.errors import DataError, at
from lingbot_eval.formats.text import parse_number, read_text
from lingbot_eval.formats.trajectories import ROTATION_TOLERANCE
from lingbot_eval.types import FloatArray

_Line = tuple[int, list[float]]


def checked_rigid(pose: FloatArray, place: str) -> FloatArray:
    """A (4, 4) pose as it is. Raises DataError when it is no rigid motion; rotations may be off by a little."""
    rotation = pose[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if not np.isfinite(pose).all():
        raise DataError(f"{place}: expected a rigid 4x4 pose, found numbers that are not finite")
    mirrored = np.linalg.det(rotation) < 0
    if not deviation <= ROTATION_TOLERANCE or mirrored or np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        reason = "it is a mirror image" if mirrored else f"R R^T deviates from the identity by {deviation:.3g}"
        raise DataError(
            f"{place}: expected a rigid 4x4 pose (rotation, translation, last line 0 0 0 1), found a matrix that is"
            f" none ({reason}); is it a pose of this dataset?"
        )
    return pose


def read_pose_lines(path: Path) -> list[FloatArray]:
    """(4, 4) matrices of a file with 16 numbers a line, row by row. Raises DataError with file and line."""
    poses = []
    for number, values in _lines(path, 16):
        _finite(path, number, values)
        poses.append(checked_rigid(np.array(values).reshape(4, 4), at(path, number)))
    return poses


def read_pose_blocks(path: Path) -> list[FloatArray | None]:
    """(4, 4) matrices of a file with four lines of four numbers a pose.

    A pose of which every number is ``nan`` is how such files say "lost": None. Raises DataError with file and line.
    """
    lines = _lines(path, 4)
    if len(lines) % 4:
        raise DataError(
            f"{at(path, lines[-1][0])}: expected four lines a pose, found {len(lines)} lines, which four does not"
            " divide; is the file cut off?"
        )
    poses: list[FloatArray | None] = []
    for first in range(0, len(lines), 4):
        block = lines[first : first + 4]
        # The last line of a lost pose is 0 0 0 1 in some files.
        if all(math.isnan(value) for _, row in block[:3] for value in row):
            poses.append(None)
            continue
        poses.append(_block(path, block))
    return poses


def read_pose_log(path: Path) -> dict[int, tuple[FloatArray, int]]:
    """Frame number → (4, 4) matrix and line of a ``.log``: a line of three integers, then four lines of a matrix.

    The first of the three is the frame's number, from 0. Raises DataError with file and line, also for a number that
    comes twice.
    """
    poses: dict[int, tuple[FloatArray, int]] = {}
    rows = _numbered(path)
    for first in range(0, len(rows), 5):
        number, head = rows[first]
        if len(head) != 3 or not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in head):
            raise DataError(
                f"{at(path, number)}: expected three whole numbers before each pose, found {' '.join(head)[:60]!r}"
            )
        if first + 5 > len(rows):
            raise DataError(
                f"{at(path, rows[-1][0])}: expected 4 lines after 'frame frame 0', found {len(rows) - first - 1};"
                " is the file cut off?"
            )
        block = [(line, _values(path, line, words, 4)) for line, words in rows[first + 1 : first + 5]]
        frame = int(head[0])
        if frame in poses:
            raise DataError(f"{at(path, number)}: frame {frame} is in line {poses[frame][1]} already; keep one pose")
        poses[frame] = (_block(path, block), number)
    return poses


def _block(path: Path, block: Sequence[_Line]) -> FloatArray:
    for line, values in block:
        _finite(path, line, values)
    return checked_rigid(np.array([values for _, values in block]), at(path, block[0][0]))


def _lines(path: Path, count: int) -> list[_Line]:
    return [(number, _values(path, number, words, count)) for number, words in _numbered(path)]


def _numbered(path: Path) -> list[tuple[int, list[str]]]:
    """Words of each line that has any, with its number."""
    text = read_text(path, "pose file")
    rows = [(n, words) for n, line in enumerate(text.split("\n"), start=1) if (words := line.split())]
    if not rows:
        raise DataError(f"{path}: expected 4x4 poses, found an empty file; is it complete?")
    return rows


def _values(path: Path, number: int, words: list[str], count: int) -> list[float]:
    if len(words) != count:
        raise DataError(
            f"{at(path, number)}: expected {count} numbers of a 4x4 pose, found {len(words)}; is it cut off?"
        )
    try:
        return [parse_number(word) for word in words]
    except ValueError:
        raise DataError(f"{at(path, number)}: expected {count} numbers, found {' '.join(words)[:60]!r}") from None


def _finite(path: Path, number: int, values: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        raise DataError(f"{at(path, number)}: expected finite numbers, found {' '.join(map(str, values))[:60]!r}")
