"""Text tables of poses: rows of TUM, EuRoC, KITTI and their relatives, 4×4 matrices in lines, and one such alone."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import DataError, at
from lingbot_eval.files.reading import parse_number, read_text
from lingbot_eval.geometry.poses import (
    ROTATION_TOLERANCE,
    not_rigid,
    pose_matrix,
    rotation_faults,
    rotation_from_quaternion,
)
from lingbot_eval.types import FloatArray

TUM_FIELDS = "timestamp tx ty tz qx qy qz qw"
EUROC_FIELDS = "timestamp_ns,x,y,z,qw,qx,qy,qz[,…]"
KITTI_FIELDS = "12 numbers (3x4 matrix, row by row) or 16 (4x4)"

MOST_COLUMNS = 64
"""EuRoC's ground truth has 17."""

TableFormat = Literal["tum", "kitti", "euroc"]

_EXPECTED: Mapping[TableFormat | None, str] = {
    "tum": f"'{TUM_FIELDS}'",
    "euroc": f"'{EUROC_FIELDS}'",
    "kitti": KITTI_FIELDS,
    None: "the numbers of a pose (TUM, EuRoC or KITTI)",
}

_ROW = re.compile(r"^[^\S\n]*([^#%\s][^\n]*)", re.MULTILINE)
_PLAIN_LINE = 400
_DECIMAL_COMMA = re.compile(r"\d,\d[^;]*;")
_UNITS = re.compile(r"\[[^\]]*\]|\([^)]*\)")
_TIMES = {
    "time",
    "timestamp",
    "timestamps",
    "stamp",
    "t",
    "sec",
    "secs",
    "ts",
    "time_ns",
    "timestamp_ns",
    "timestamp_s",
}
_REST_OF_TIME = {"nsec", "nsecs", "nanosec", "nanosecs", "nanoseconds", "usec", "usecs"}
_POSITION = re.compile(r"(?:t|p|pos|position|trans|translation|p_rs_r|.*position)?[._ ]?([xyz])")
_QUATERNION = re.compile(r"(?:q|quat|quaternion|rot|rotation|orientation|.*orientation|o)[._ ]?(?:rs_)?([wxyz])")


@dataclass(frozen=True, eq=False)
class PoseRows:
    """Poses of a file before anything is concluded from them.

    poses: (N, 4, 4) camera-to-world, NaN throughout where a row holds no usable pose. stamps: as the file writes them,
    finite numbers, or None. names: of the images, or None. lines: (N,) line numbers from 1, or positions in a document.
    indices: (N,) row numbers where these are not 0 … N − 1.
    """

    format: str
    poses: FloatArray
    lines: NDArray[np.int64]
    stamps: list[str] | None = None
    names: list[str] | None = None
    has_orientation: bool = True
    notes: tuple[str, ...] = ()
    indices: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class _Table:
    """Numbers of a text's rows (N, columns) with their lines; comments are skipped.

    columns: of time, x, y, z, qx, qy, qz, qw (or the first four) where a header names them. stamps: the words of the
    time's column. comma: how rows are split.
    """

    path: Path
    values: FloatArray
    lines: NDArray[np.int64]
    columns: list[int] | None
    stamps: list[str]
    comma: bool

    @property
    def scalar_first(self) -> bool | None:
        """Whether the header puts qw before qx; None where it names no quaternion."""
        return None if self.columns is None or len(self.columns) < 8 else self.columns[7] < self.columns[4]

    def place(self, row: int) -> str:
        """``file:line`` of a row."""
        return at(self.path, int(self.lines[row]))


def read_table(text: str, path: Path, format: TableFormat | None) -> PoseRows:
    """Rows of numbers as poses. format: None for what the rows themselves say.

    Raises DataError with file and line for rows that are of no such table.
    """
    table = _table(text, path, format)
    found = format or _evident(table)
    return _kitti(table) if found == "kitti" else _stamped(table, found)


def checked_matrices(matrices: FloatArray, places: Sequence[str]) -> FloatArray:
    """(N, 4, 4) of (N, 3, 4) or (N, 4, 4) matrices, NaN throughout where any number is not finite.

    A lost pose may end in 0 0 0 1. Raises DataError, naming the place, for a matrix that is no rigid motion.
    """
    poses = np.tile(np.eye(4), (len(matrices), 1, 1))
    poses[:, : matrices.shape[1], :] = matrices
    lost = ~np.isfinite(poses).all(axis=(1, 2))
    poses[lost] = np.nan
    deviation, mirrored = rotation_faults(poses[~lost][:, :3, :3])
    suspect = ~(deviation <= ROTATION_TOLERANCE) | mirrored
    suspect |= np.abs(poses[~lost][:, 3] - [0, 0, 0, 1]).max(axis=1, initial=0.0) > 1e-6
    if suspect.any():
        row = int(np.flatnonzero(~lost)[np.argmax(suspect)])
        raise DataError(
            f"{places[row]}: expected a rigid pose (rotation and translation), found a matrix that is none:"
            f" {not_rigid(poses[row])}; write poses as [R|t] without scale"
        )
    return poses


def rows_of(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and stripped lines that hold data: not blank, and no comment (``#``, ``%``)."""
    line, position = 1, 0
    for match in _ROW.finditer(text):
        line += text.count("\n", position, match.start(1))
        position = match.start(1)
        yield line, match[1].rstrip()


def _table(text: str, path: Path, format: TableFormat | None) -> _Table:
    values, lines, stamps = array("d"), array("q"), list[str]()
    header: list[str] = []
    columns: list[int] | None = None
    comma: bool | None = None
    count = time = 0
    for number, line in rows_of(text):
        if comma is None:
            comma = "," in line or ";" in line
        fields = split(line, comma=comma)
        if not lines:
            if not header and len(fields) <= MOST_COLUMNS and _is_header(fields):
                header, comma = fields, None  # a header without #
                continue
            count = len(fields)
            _refuse_decimal_comma(line, at(path, number))
            if count <= MOST_COLUMNS:  # a word is a clearer reason than a number of fields
                _refuse_word(fields, at(path, number))
            names = header or _comment_header(text, count)
            _refuse_split_time(names, at(path, number))
            columns = _named_columns(names, count)
            time = columns[0] if columns else 0
            named = columns is not None and len(columns) == 8
            _check_count(at(path, number), count, format, comma=comma, named=named)
        if len(fields) != count:
            raise DataError(
                f"{at(path, number)}: expected {count} numbers on each line, as in line {lines[0]}, found"
                f" {len(fields)} fields; remove the line if writing was cut off"
            )
        try:
            # What parse_number refuses beyond float is rare: looked for in the whole line first.
            plain = len(line) <= _PLAIN_LINE and line.isascii() and "_" not in line
            values.extend(map(float if plain else parse_number, fields))
        except ValueError:
            _refuse_word(fields, at(path, number))
        lines.append(number)
        stamps.append(fields[time])
    if not lines:
        raise DataError(f"{path}: expected {_EXPECTED[format]} on each line, found no poses; is the file complete?")
    table = np.array(values, np.float64).reshape(-1, count)
    return _Table(path, table, np.array(lines, np.int64), columns, stamps, bool(comma))


def _refuse_word(fields: Sequence[str], place: str) -> None:
    for column, word in enumerate(fields, start=1):
        try:
            parse_number(word)
        except ValueError:
            raise DataError(f"{place}: expected a number in column {column}, found {word[:40]!r}") from None


def _refuse_decimal_comma(line: str, place: str) -> None:
    """Raises DataError for 0,5;1,25: numbers with a comma as their point would be taken apart."""
    if ";" in line and _DECIMAL_COMMA.search(line):
        raise DataError(
            f"{place}: expected a point in decimal numbers, found commas and semicolons ({line[:40]!r}); write 0.5, not"
            " 0,5"
        )


def split(line: str, *, comma: bool) -> list[str]:
    """Fields of a row; one empty field at the end is VINS's last comma."""
    if not comma:
        return line.split()
    fields = [field.strip() for field in line.replace(";", ",").split(",")]
    if len(fields) > 1 and not fields[-1]:
        fields.pop()
    return fields


def _comment_header(text: str, count: int) -> list[str]:
    """Column names of the last comment before the first row that has as many words as the rows have fields."""
    found: list[str] = []
    for line in text[:65536].split("\n"):
        line = line.strip()
        if line and not line.startswith(("#", "%")):
            break
        words = line.lstrip("#% ")
        for fields in (split(words, comma=True), split(words, comma=False)):
            if len(fields) == count and _is_header(fields):
                found = fields
    return found


def _is_header(fields: Sequence[str]) -> bool:
    """Whether a row is one of names; a column of row numbers may have none."""
    return any(fields) and all(_is_word(field) for field in fields if field)


def _is_word(field: str) -> bool:
    try:
        parse_number(field)
    except ValueError:
        return any(letter.isalpha() for letter in field) and not field[0].isdigit()
    return False


def _named_columns(header: Sequence[str], count: int) -> list[int] | None:
    """Columns of time, x, y, z, qx, qy, qz, qw (or the first four) by their names; None where those do not say."""
    places: dict[str, int] = {}
    for column, word in enumerate(map(_plain_name, header[:count])):
        quaternion, position = _QUATERNION.fullmatch(word), _POSITION.fullmatch(word)
        key = "t" if _last_part(word) in _TIMES or word.startswith("timestamp") else ""
        key = f"q{quaternion[1]}" if quaternion else position[1] if position else key
        if key:
            places.setdefault(key, column)
    if "t" not in places and 0 not in places.values():
        places["t"] = 0  # whatever its name: no other table has its first column before a pose
    wanted = ["t", "x", "y", "z", "qx", "qy", "qz", "qw"][: 4 if count == 4 else 8]
    return [places[key] for key in wanted] if all(key in places for key in wanted) else None


def _plain_name(name: str) -> str:
    return _UNITS.sub("", name).strip(" '\"%#").lower()


def _last_part(word: str) -> str:
    """``stamp`` of ``header.stamp``, as messages of ROS are written to tables."""
    return re.split(r"[./]", word)[-1]


def _refuse_split_time(header: Sequence[str], place: str) -> None:
    """Raises DataError for a time that stands in two columns, of which one alone is no time."""
    for name in header:
        if _last_part(_plain_name(name)) in _REST_OF_TIME:
            raise DataError(
                f"{place}: expected a time in one column, found {name.strip()!r} beside the seconds; write both as one"
                " number (nanoseconds, or seconds with 9 decimals)"
            )


def _evident(table: _Table) -> TableFormat:
    """Which table the rows are, of those that their number of fields allows."""
    count = table.values.shape[1]
    if table.scalar_first is not None:
        return "euroc" if table.scalar_first else "tum"
    if count == 4:
        return "kitti" if _is_blocks(table.values) else "tum"
    if count in (12, 16) and not (table.comma and _matrix_fault(table.values[0])):
        return "kitti"
    if count == 8:
        return "euroc" if table.comma and _is_nanoseconds(table.stamps[0]) else "tum"
    return "euroc"


def _check_count(place: str, count: int, format: TableFormat | None, *, comma: bool, named: bool) -> None:
    """Raises DataError where rows of so many fields are no poses: before a large file is read to its end."""
    fits = {
        "tum": count in (4, 8) or named,
        "euroc": 8 <= count <= MOST_COLUMNS,
        "kitti": count in (4, 12, 16),
        None: count in (4, 8, 12, 16) or (8 < count <= MOST_COLUMNS and comma) or named,
    }
    if fits[format]:
        return
    if format is not None:
        raise DataError(
            f"{place}: expected {_EXPECTED[format]} on each line, found {count} fields; check the format, or let it be"
            " found (auto)"
        )
    hint = {
        1: "times without poses",
        3: "positions without times; put the time in front",
        7: "poses without times (as of TartanAir); put the time in front",
        13: "KITTI's 12 numbers with a frame number before them; remove the first column",
        17: "a 4x4 matrix with a frame number before it (as of KITTI-360); remove the first column",
    }.get(count, "no format that is known")
    raise DataError(
        f"{place}: expected 8 numbers (TUM, EuRoC), 4 (positions), 12 or 16 (KITTI) on each line, found {count} fields:"
        f" {hint}"
    )


def _is_nanoseconds(word: str) -> bool:
    return word.isdecimal() and word.isascii() and len(word) >= 16


def _is_blocks(values: FloatArray) -> bool:
    """Whether rows of four numbers are lines of 4×4 matrices: every fourth is 0 0 0 1. The last one may be cut off."""
    return len(values) >= 4 and bool((values[3::4] == [0, 0, 0, 1]).all())


def _matrix_fault(row: FloatArray) -> str | None:
    first = np.eye(4)
    first[: len(row) // 4] = row.reshape(-1, 4)
    return not_rigid(first) if np.isfinite(first).all() else None


def _stamped(table: _Table, format: TableFormat) -> PoseRows:
    values, count, scalar_first = table.values, table.values.shape[1], table.scalar_first
    if scalar_first is not None and scalar_first != (format == "euroc"):
        raise DataError(
            f"{table.place(0)}: the header puts qw {'first' if scalar_first else 'last'}, format {format}"
            f" {'last' if scalar_first else 'first'}; use format {'euroc' if scalar_first else 'tum'} or auto, or"
            " remove the header if it is wrong"
        )
    order = table.columns or ([0, 1, 2, 3, 4, 5, 6, 7] if format == "tum" else [0, 1, 2, 3, 5, 6, 7, 4])
    wrong = np.flatnonzero(~np.isfinite(values[:, order[0]]))
    if len(wrong):
        raise DataError(
            f"{table.place(int(wrong[0]))}: expected a finite time, found {table.stamps[int(wrong[0])]}; leave out"
            " poses that are unknown"
        )
    # Quaternions of length 0 throughout are how some write positions alone; a single one is a lost frame.
    has_orientation = count != 4 and (len(values) == 1 or bool(values[:, order[4:8]].any()))
    quaternions = values[:, order[4:8]] if has_orientation else np.tile([0.0, 0.0, 0.0, 1.0], (len(values), 1))
    poses = poses_of(values[:, order[1:4]], quaternions)
    return PoseRows(format, poses, table.lines, stamps=table.stamps, has_orientation=has_orientation)


def poses_of(positions: FloatArray, quaternions: FloatArray) -> FloatArray:
    """(N, 4, 4) poses of (N, 3) positions and (N, 4) quaternions x, y, z, w of any length.

    NaN throughout where a number is not finite or the quaternion is none (of length 0).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(quaternions, axis=1)
    usable = np.isfinite(positions).all(axis=1) & np.isfinite(norms) & (norms >= 1e-6)
    poses = np.full((len(positions), 4, 4), np.nan)
    poses[usable] = pose_matrix(rotation_from_quaternion(quaternions[usable]), positions[usable])
    return poses


def _kitti(table: _Table) -> PoseRows:
    values, lines, count = table.values, table.lines, table.values.shape[1]
    if count == 4:
        if len(values) % 4:
            raise DataError(
                f"{table.place(-1)}: expected 4 lines a pose, found {len(values)} lines, which four does not"
                " divide; is the file cut off?"
            )
        values, lines = values.reshape(-1, 16), lines[::4]
    poses = checked_matrices(values.reshape(len(values), -1, 4), [at(table.path, line) for line in lines.tolist()])
    return PoseRows("kitti", poses, lines)


def checked_rigid(pose: FloatArray, place: str) -> FloatArray:
    """A (4, 4) pose as it is. Raises DataError when it is no rigid motion; rotations may be off by a little."""
    if not np.isfinite(pose).all():
        raise DataError(f"{place}: expected a rigid 4x4 pose, found numbers that are not finite")
    fault = not_rigid(pose)
    if fault is not None:
        raise DataError(
            f"{place}: expected a rigid 4x4 pose (rotation, translation, last line 0 0 0 1), found a matrix that is"
            f" none ({fault}); is it a pose of this dataset?"
        )
    return pose


def read_pose(path: Path) -> FloatArray | None:
    """(4, 4) float64 camera-to-world of a text file of four lines of four numbers, kept as it is in the file.

    None where its numbers are not finite: that is how such files say "lost". Raises DataError with file and line for
    another count, for words that are no numbers, and for a matrix that is no rigid motion; rotations may be off by a
    little, as those of real sensors are.
    """
    found = read_table(read_text(path, "pose"), path, "kitti").poses
    if len(found) != 1:
        raise DataError(f"{path}: expected the one 4x4 pose of a frame, found {len(found)}; is it of this dataset?")
    return found[0] if np.isfinite(found[0]).all() else None
