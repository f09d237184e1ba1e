"""Trajectory files in the TUM, KITTI and EuRoC formats: read with every line checked, written whole."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import ConfigError, DataError, at
from lingbot_eval.formats.atomic import write_text
from lingbot_eval.formats.text import read_text
from lingbot_eval.geometry.poses import nearest_rotation, pose_matrix
from lingbot_eval.geometry.quaternions import quaternion_from_rotation, rotation_from_quaternion
from lingbot_eval.types import FloatArray, Trajectory

TrajectoryFormat = Literal["tum", "kitti", "euroc"]

# Real files carry 3 to 9 digits and some were scaled by a hair; a similarity or a projection matrix is far beyond.
ROTATION_TOLERANCE = 0.05
TUM_FIELDS = "timestamp tx ty tz qx qy qz qw"
EUROC_FIELDS = "timestamp_ns,x,y,z,qw,qx,qy,qz"


@dataclass(frozen=True, eq=False)
class TrajectoryFile:
    """Poses as a file has them.

    timestamps: (N,) float64 seconds, strictly increasing, or None (KITTI has none: row i is frame i).
    camera_to_world: (N, 4, 4) float64; whether it is the camera's pose, and metric, is the writer's word.
    lines: (N,) int64 line numbers in the file, from 1, for messages. has_orientation: False for a file of positions
    (``time x y z``), whose rotations are identities that mean nothing.
    """

    path: Path
    timestamps: FloatArray | None
    camera_to_world: FloatArray
    lines: NDArray[np.int64]
    has_orientation: bool = True

    def __len__(self) -> int:
        return len(self.camera_to_world)


def read_tum(path: Path) -> TrajectoryFile:
    """Read ``timestamp tx ty tz qx qy qz qw`` lines (seconds, metres, scalar last); ``#`` starts a comment.

    Lines of ``timestamp tx ty tz`` are positions without orientation.
    Quaternions are normalised. Raises DataError with file and line for anything that is not such a pose,
    and for timestamps that do not increase.
    """
    rows, lines = _numbers(path, "TUM trajectory", None, (4, 8), f"'{TUM_FIELDS}'")
    if rows.shape[1] == 4:
        upright = np.tile([0.0, 0.0, 0.0, 1.0], (len(rows), 1))
        return replace(_stamped(path, rows[:, 0], rows[:, 1:4], upright, lines), has_orientation=False)
    if rows.shape[1] != 8:
        raise DataError(f"{at(path, int(lines[0]))}: expected '{TUM_FIELDS}', found {rows.shape[1]} fields")
    return _stamped(path, rows[:, 0], rows[:, 1:4], rows[:, 4:8], lines)


def read_euroc(path: Path) -> TrajectoryFile:
    """Read EuRoC CSV lines ``timestamp_ns,x,y,z,qw,qx,qy,qz[,…]`` (nanoseconds, scalar FIRST); ``#`` is the header.

    Further columns (velocities, biases) are checked to be numbers and otherwise ignored. The poses are those of
    the file: EuRoC's ground truth is the body's (IMU), not the camera's. Raises DataError as :func:`read_tum`.
    """
    rows, lines = _numbers(path, "EuRoC trajectory", ",", (8, None), f"'{EUROC_FIELDS}[,…]'")
    return _stamped(path, rows[:, 0] / 1e9, rows[:, 1:4], rows[:, [5, 6, 7, 4]], lines)


def read_kitti(path: Path) -> TrajectoryFile:
    """Read 12 numbers a line: the rows of a 3×4 camera-to-world matrix; there are no timestamps.

    Rotation parts are kept as they are in the file (slightly non-orthogonal in real data). Raises DataError with
    file and line for anything else, and for a rotation part further than ``ROTATION_TOLERANCE`` from a rotation.
    """
    rows, lines = _numbers(path, "KITTI trajectory", None, (12, 12), "12 numbers (3x4 matrix, row by row)")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :] = rows.reshape(-1, 3, 4)
    rotations = poses[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        gram = np.swapaxes(rotations, 1, 2) @ rotations
        deviation = np.abs(gram - np.eye(3)).max(axis=(1, 2))
        wrong = ~(deviation <= ROTATION_TOLERANCE) | (np.linalg.det(rotations) <= 0)
    if wrong.any():
        first = int(np.argmax(wrong))
        found = (
            f"R^T R deviates from the identity by {deviation[first]:.3g} (at most {ROTATION_TOLERANCE})"
            if not deviation[first] <= ROTATION_TOLERANCE
            else "the determinant is negative (a mirror image)"
        )
        raise DataError(
            f"{at(path, int(lines[first]))}: expected a rotation in columns 1-3, 5-7, 9-11, found that {found};"
            " write poses as [R|t] without scale"
        )
    return TrajectoryFile(path, None, poses, lines)


def read_trajectory(path: Path, format: TrajectoryFormat) -> TrajectoryFile:
    """Read ``path`` as ``format``. Raises DataError as the readers above, ConfigError for an unknown format."""
    readers = {"tum": read_tum, "kitti": read_kitti, "euroc": read_euroc}
    if format not in readers:
        raise ConfigError(f"unknown trajectory format {format!r}; use one of {', '.join(get_args(TrajectoryFormat))}")
    return readers[format](path)


def write_tum(path: Path, trajectory: Trajectory) -> None:
    """Write a trajectory as TUM lines, each number with all its digits. Raises StoreError.

    TUM has no word for a pose that is not finite: such frames are left out, and a comment line names them.
    """
    finite = np.isfinite(trajectory.camera_to_world).all(axis=(1, 2))
    poses = trajectory.camera_to_world[finite]
    quaternions = quaternion_from_rotation(nearest_rotation(poses[:, :3, :3]))
    columns = np.column_stack([trajectory.timestamps[finite], poses[:, :3, 3], quaternions])
    header = [f"# {TUM_FIELDS} (camera-to-world)"]
    if not finite.all():
        left_out = ", ".join(str(index) for index in trajectory.indices[~finite])
        header.append(f"# left out, not finite: frames {left_out}")
    write_text(path, _lines([*header, *_joined(columns)]))


def write_kitti(path: Path, camera_to_world: FloatArray) -> None:
    """Write (N, 4, 4) poses as KITTI lines, row i for frame i, each number with all its digits.

    Raises StoreError, and DataError for a pose that is not finite: a KITTI row cannot be left out.
    """
    wrong = np.flatnonzero(~np.isfinite(camera_to_world).all(axis=(1, 2)))
    if len(wrong):
        raise DataError(f"{path}: the pose of row {wrong[0]} is not finite and KITTI rows cannot be left out; use TUM")
    write_text(path, _lines(_joined(camera_to_world[:, :3, :].reshape(-1, 12))))


def _lines(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _joined(rows: FloatArray) -> list[str]:
    # repr is the shortest text that reads back as the same float64.
    return [" ".join(map(repr, row)) for row in rows.tolist()]


def _numbers(
    path: Path, what: str, delimiter: str | None, columns: tuple[int, int | None], expected: str
) -> tuple[FloatArray, NDArray[np.int64]]:
    """The (N, columns) numbers of a text file and their line numbers; comments and blank lines are skipped."""
    rows: list[list[float]] = []
    lines: list[int] = []
    for number, text in enumerate(read_text(path, what).split("\n"), start=1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        fields = line.split(delimiter)
        lowest, highest = columns[0], columns[1] or max(columns[0], len(rows[0]) if rows else len(fields))
        if not lowest <= len(fields) <= highest or (rows and len(fields) != len(rows[0])):
            raise DataError(
                f"{at(path, number)}: expected {expected} on each line of a {what}, found {len(fields)} fields;"
                " check the format, or remove the line if writing was cut off"
            )
        rows.append(_row(fields, at(path, number)))
        lines.append(number)
    if not rows:
        raise DataError(
            f"{path}: expected a {what} with {expected} on each line, found no poses; is the file complete?"
        )
    return np.array(rows), np.array(lines, dtype=np.int64)


def _row(fields: Iterable[str], place: str) -> list[float]:
    row = []
    for column, field in enumerate(fields, start=1):
        try:
            value = float(field)
        except ValueError:
            raise DataError(f"{place}: expected a number in column {column}, found {field.strip()[:40]!r}") from None
        if not math.isfinite(value):
            raise DataError(
                f"{place}: expected a finite number in column {column}, found {field.strip()}; leave out poses that"
                " are unknown"
            )
        row.append(value)
    return row


def _stamped(
    path: Path, timestamps: FloatArray, positions: FloatArray, quaternions: FloatArray, lines: NDArray[np.int64]
) -> TrajectoryFile:
    norms = np.linalg.norm(quaternions, axis=1)
    zero = np.flatnonzero(norms < 1e-6)
    if len(zero):
        raise DataError(
            f"{at(path, int(lines[zero[0]]))}: expected a unit quaternion, found one of length {norms[zero[0]]:.3g},"
            " which is no rotation; leave out poses that are unknown"
        )
    steps = np.diff(timestamps)
    wrong = np.flatnonzero(steps <= 0)
    if len(wrong):
        row = int(wrong[0]) + 1
        place, before, step = at(path, int(lines[row])), f"line {lines[row - 1]}", float(steps[row - 1])
        if step == 0:
            raise DataError(f"{place}: the timestamp of {before} again; keep one pose for each time")
        raise DataError(
            f"{place}: expected increasing timestamps, found one {-step:.6g} s before that of {before};"
            " sort the file by time"
        )
    poses = pose_matrix(rotation_from_quaternion(quaternions), positions)
    return TrajectoryFile(path, timestamps, poses, lines)
