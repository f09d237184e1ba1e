"""Reading the few numbers of a calibration file: focal lengths, principal points, 3×3 matrices."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lingbot_eval.errors import ConfigError, DataError, at, reason
from lingbot_eval.files.reading import finite_number, numbered_lines, read_text
from lingbot_eval.files.times import read_stamps
from lingbot_eval.files.yaml_documents import parse_value
from lingbot_eval.geometry.cameras import pinhole
from lingbot_eval.types import FloatArray

_ONE_TIME = "expected one time in seconds, later than before"
_DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?")


def read_numbers(path: Path, expected: Sequence[str]) -> list[float]:
    """The numbers of a file, as many as ``expected`` has names. Raises DataError with file and line."""
    lines = numbered_lines(path, "calibration")
    found = [value for number, line in lines for value in numbers(line, at(path, number))]
    if len(found) != len(expected):
        raise DataError(f"{path}: expected {len(expected)} numbers ({' '.join(expected)}), found {len(found)}")
    return found


def numbers(line: str, place: str) -> list[float]:
    """Finite numbers separated by blanks or commas. Raises DataError."""
    return [finite_number(word, place) for word in line.replace(",", " ").split()]


def read_times(path: Path, last: int, *, in_order: bool = True) -> FloatArray:
    """Seconds of each line of a list of times: numbers, or dates as KITTI writes them (2011-09-26 13:02:25.964389445).

    last: number of the last image, from 0. in_order: whether times must increase. Raises DataError where they do not,
    and unless each image up to the last has one.
    """
    words: list[str] = []
    lines: list[int] = []
    dates = 0
    for number, word in numbered_lines(path, "list of times"):
        words.append(word if (date := _nanoseconds(word)) is None else date)
        lines.append(number)
        dates += date is not None
        if date is None and len(numbers(word, at(path, number))) != 1:
            raise DataError(f"{at(path, number)}: {_ONE_TIME}, found {word[:40]!r}")
        if dates not in (0, len(words)):
            raise DataError(f"{at(path, number)}: expected dates alone or seconds alone, found {word[:40]!r}")
    if len(words) <= last:
        raise DataError(f"{path}: expected a time for each image up to number {last}, found {len(words)}")
    seconds, _, _ = read_stamps(words, "s", 1e-9 if dates else None)
    wrong = np.flatnonzero(~(np.diff(seconds) > 0))
    if in_order and len(wrong):
        row = int(wrong[0]) + 1
        raise DataError(f"{at(path, lines[row])}: {_ONE_TIME}, found {words[row][:40]!r}")
    return seconds


def _nanoseconds(date: str) -> str | None:
    """Digits of the nanoseconds since 1970 of a date with its time of day; None for what is none."""
    if _DATE.fullmatch(date) is None:
        return None
    try:
        return str(np.datetime64(date.replace(" ", "T"), "ns").astype(np.int64))
    except ValueError:
        return None


def read_keyed(path: Path, wanted: Mapping[str, int]) -> dict[str, tuple[FloatArray, str]]:
    """Numbers of lines ``name: numbers`` of a KITTI calibration, and their places for messages.

    wanted: names → how many numbers each has. Raises DataError with file and line.
    """
    found: dict[str, tuple[FloatArray, str]] = {}
    for number, line in numbered_lines(path, "calibration"):
        name, colon, rest = line.partition(":")
        name = name.strip()
        if not colon or name not in wanted:
            continue
        values = numbers(rest, at(path, number))
        if len(values) != wanted[name]:
            raise DataError(f"{at(path, number)}: expected the {wanted[name]} numbers of {name}, found {len(values)}")
        found[name] = np.array(values), at(path, number)
    for name in wanted:
        if name not in found:
            raise DataError(f"{path}: expected a line '{name}: …', found none; is it KITTI's {path.name}?")
    return found


def read_rows(path: Path, count: int, names: str, *, header: bool = False) -> FloatArray:
    """(N, count) finite numbers of the lines of a file; comments (#) are passed over.

    names: of the numbers, for messages. header: whether the first line names the columns. Raises DataError with file
    and line.
    """
    rows: list[list[float]] = []
    for number, line in numbered_lines(path, "table"):
        if line.startswith("#") or (header and number == 1 and line[0].isalpha()):
            continue
        values = numbers(line, at(path, number))
        if len(values) != count:
            raise DataError(f"{at(path, number)}: expected {count} numbers ({names}), found {len(values)}")
        rows.append(values)
    if not rows:
        raise DataError(f"{path}: expected lines of {count} numbers ({names}), found none; is the file complete?")
    return np.array(rows)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML calibration, also of one that OpenCV wrote. Raises DataError."""
    text = read_text(path, "calibration")
    if text.startswith("%YAML"):
        text = text.partition("\n")[2]
    try:
        document = parse_value(text.replace("!!opencv-matrix", ""))
    except ConfigError as error:
        why = " ".join(str(error).rpartition("'")[2].split())
        raise DataError(f"{path}: expected a YAML calibration, found text that {why}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a YAML calibration, found other text")
    return document


def read_document(path: Path) -> dict[str, Any]:
    """The mapping of a JSON file of cameras; numbers may be NaN or infinite, as writers mark what is lost.

    Raises DataError.
    """
    try:
        document = json.loads(read_text(path, "list of cameras"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {reason(error)}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a mapping, found {type(document).__name__}")
    return document


def numbers_of(document: Mapping[str, Any], key: str, count: int, path: Path, *, lost: bool = False) -> list[float]:
    """The numbers under a key of a calibration. Raises DataError unless there are ``count``, all finite.

    lost: whether they may be not finite, as of a pose that is lost.
    """
    value = document.get(key)
    value = value.get("data") if isinstance(value, dict) else value
    rows = value if isinstance(value, list) else [value]
    flat: list[Any] = [number for row in rows for number in (row if isinstance(row, list) else [row])]
    if len(flat) != count or not all(_is_number(number, lost=lost) for number in flat):
        raise DataError(f"{path}: expected {key} as {count} finite numbers, found {str(value)[:60]!r}")
    return [float(number) for number in flat]


def _is_number(value: Any, *, lost: bool) -> bool:
    try:
        return type(value) in (int, float) and (math.isfinite(value) or lost)
    except OverflowError:  # an integer of hundreds of digits
        return False


def refuse_focal_lengths(numbers: Sequence[float], path: Path) -> None:
    """Raises DataError unless both focal lengths, which a camera's numbers begin with, are positive."""
    if min(numbers[:2]) <= 0:
        raise DataError(f"{path}: expected positive focal lengths, found {list(numbers[:2])}")


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
