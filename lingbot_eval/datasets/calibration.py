"""Reading the few numbers of a calibration file: focal lengths, principal points, 3×3 matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lingbot_eval.datasets.sequence import pinhole
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.text import parse_number, read_text
from lingbot_eval.types import FloatArray


def read_numbers(path: Path, expected: Sequence[str]) -> list[float]:
    """The numbers of a file, as many as ``expected`` has names. Raises DataError with file and line."""
    found: list[float] = []
    for number, line in enumerate(read_text(path, "calibration").split("\n"), start=1):
        found += numbers(line, at(path, number))
    if len(found) != len(expected):
        raise DataError(f"{path}: expected {len(expected)} numbers ({' '.join(expected)}), found {len(found)}")
    return found


def numbers(line: str, place: str) -> list[float]:
    """Finite numbers separated by blanks or commas. Raises DataError."""
    values = []
    for word in re.split(r"[\s,]+", line.strip()):
        if not word:
            continue
        try:
            value = parse_number(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{place}: expected a finite number, found {word[:40]!r}")
        values.append(value)
    return values


def read_matrix(path: Path) -> FloatArray:
    """(3, 3) intrinsics of a file of three lines. Raises DataError when they are no pinhole camera's."""
    names = ("fx", "0", "cx", "0", "fy", "cy", "0", "0", "1")
    return checked_pinhole(np.array(read_numbers(path, names)).reshape(3, 3), str(path))


def checked_pinhole(matrix: FloatArray, place: str) -> FloatArray:
    """A (3, 3) intrinsic matrix without skew, as it is. Raises DataError for anything else."""
    fx, fy = float(matrix[0, 0]), float(matrix[1, 1])
    ideal = pinhole(fx, fy, float(matrix[0, 2]), float(matrix[1, 2]))
    if not (np.isfinite(matrix).all() and fx > 0 and fy > 0 and np.abs(matrix - ideal).max() < 1e-6):
        raise DataError(
            f"{place}: expected intrinsics [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0, found"
            f" {np.round(matrix, 6).tolist()}"
        )
    return matrix
