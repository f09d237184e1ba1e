"""Trajectory files: the one place that says what a pose file is and reads it; two files under common frame numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import ConfigError, DataError, at
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.pose_documents import (
    image_stem,
    is_colmap,
    is_log,
    read_colmap,
    read_log,
    read_nerfstudio,
    read_numpy,
)
from lingbot_eval.files.pose_tables import TUM_FIELDS, PoseRows, read_table
from lingbot_eval.files.reading import decoded, kind_of_bytes, read_bytes
from lingbot_eval.files.times import WORDS, Clock, TimeUnit, checked_scale, indistinguishable, pair_times, read_stamps
from lingbot_eval.geometry.poses import finite_poses, nearest_rotation, quaternion_from_rotation
from lingbot_eval.types import FloatArray, Trajectory

TrajectoryFormat = Literal["auto", "tum", "kitti", "euroc", "colmap", "nerfstudio", "log", "numpy"]
FORMATS: tuple[TrajectoryFormat, ...] = get_args(TrajectoryFormat)

MOST_REPEATED = 0.5
"""Share of rows with the time of another row from which on the stamps tell nothing: rounded, or of another column."""

_USUAL_UNIT: dict[str, TimeUnit] = {"euroc": "ns"}  # of all others: seconds
_NUMBER_AT_END = re.compile(r"(\d{1,15})$")
_TIME = re.compile(r"\d{9,10}\.\d+|\d{13,19}")  # a date as an image's name: seconds with fractions, or ms to ns


@dataclass(frozen=True, eq=False)
class TrajectoryFile(Trajectory):
    """Poses as a file has them, and what the reader found.

    indices: (N,) row numbers, from 0; rows without a usable pose are left out. timestamps: seconds, strictly
    increasing; the row numbers where the file has no times (``timed`` False). camera_to_world: whether it is the
    camera's pose, and metric, is the writer's word.
    path: the file. format: what it is. time_unit: of the stamps in the file (``s``, ``ms``, ``us``, ``ns``), or what a
    user said. why_unit: what contradicts the unit that the format says, or None. lines: (N,) line numbers from 1, for
    messages. names: of the images, or None. rows: poses that the file has, usable or not; lost: those that are not
    finite or have no rotation; repeated: those whose time another row has. others: of these the
    ones whose pose is not that of the row that is kept. notes: sentences for the reader.
    """

    path: Path = Path()
    format: str = "tum"
    timed: bool = True
    time_unit: str = "s"
    why_unit: str | None = None
    told_scale: bool = False
    lines: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    names: tuple[str, ...] | None = None
    rows: int = 0
    lost: int = 0
    repeated: int = 0
    others: Trajectory | None = None
    notes: tuple[str, ...] = ()

    def by_row(self) -> dict[int, FloatArray]:
        """Row number of the file → (4, 4) pose; rows without a usable pose are not there."""
        return dict(zip(self.indices.tolist(), self.camera_to_world, strict=True))

    def clock(self, name: str | None = None) -> Clock:
        """Its times, for pairing. name: for messages; None is the file's."""
        return Clock(name or self.path.name, self.timestamps, "poses", self.time_unit, self.why_unit, self.told_scale)


def read_trajectory(
    path: Path | str,
    format: TrajectoryFormat = "auto",
    *,
    time_scale: float | None = None,
    time_offset: float = 0.0,
) -> TrajectoryFile:
    """Read the poses of a file: TUM, KITTI, EuRoC and their relatives, COLMAP, nerfstudio, NumPy, and .gz of any.

    Args:
        path: the file.
        format: ``auto`` finds it from the content; ``tum`` (``time x y z qx qy qz qw``, or ``time x y z``), ``euroc``
            (``time,x,y,z,qw,qx,qy,qz[,…]``), ``kitti`` (3×4 or 4×4 matrices), ``colmap`` (images.txt), ``nerfstudio``
            (transforms.json), ``log`` (Redwood, Tanks and Temples), ``numpy`` (.npy, .npz).
        time_scale: seconds to one unit of the file's stamps; None finds the unit from the stamps.
        time_offset: seconds that are added to all times.

    Returns:
        Camera-to-world poses with times in seconds, in order of time. Of rows with one time the first is kept; rows
        that are not finite or have no rotation are left out; both are counted and said in ``notes``.

    Raises:
        DataError: a file that is missing, damaged, or no trajectory; with file and line.
        ConfigError: an unknown format.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ConfigError(f"unknown trajectory format {format!r}; use one of {', '.join(FORMATS)}")
    checked_scale(time_scale, time_offset)
    found = _read(path, format)
    return _timed(path, _named(found), time_scale, time_offset)


def read_tum(path: Path) -> TrajectoryFile:
    """`read_trajectory` of ``timestamp tx ty tz qx qy qz qw`` rows (scalar last), or ``timestamp tx ty tz``."""
    return read_trajectory(path, "tum")


def read_kitti(path: Path) -> TrajectoryFile:
    """`read_trajectory` of 3×4 or 4×4 matrices without times; rotations stay as they are, slightly non-orthogonal."""
    return read_trajectory(path, "kitti")


def _read(path: Path, format: TrajectoryFormat) -> PoseRows:
    data = read_bytes(path, "trajectory")
    if data.startswith((b"\x93NUMPY", b"PK\x03\x04")) and format in ("auto", "numpy"):
        return read_numpy(data, path)
    if format == "numpy":
        raise DataError(f"{path}: expected a NumPy file (.npy, .npz), found {kind_of_bytes(data) or 'something else'}")
    if path.suffix == ".bin" and b"\0" in data[:64]:
        raise DataError(f"{path}: not text (a binary model of COLMAP?); write it as images.txt (model_converter)")
    text = decoded(data, path, "trajectory")
    is_json = text.lstrip()[:1] in ("{", "[")
    if format == "nerfstudio" or (format == "auto" and is_json):
        return read_nerfstudio(text, path)
    if format == "colmap" or (format == "auto" and is_colmap(text)):
        return read_colmap(text, path)
    if format == "log" or (format == "auto" and is_log(text)):
        return read_log(text, path)
    if is_json or is_colmap(text):
        raise DataError(
            f"{at(path, 1)}: expected a table of numbers (format {format}), found"
            f" {'JSON' if is_json else 'images.txt of COLMAP'}; use format auto"
        )
    return read_table(text, path, None if format == "auto" else format)


def _named(found: PoseRows) -> PoseRows:
    """Rows of named images in order of their names; names that are times become times, numbers become row numbers."""
    if found.names is None:
        return found
    stems = [re.sub(r"\.[A-Za-z][A-Za-z0-9]{0,4}$", "", re.split(r"[/\\]", name)[-1]) for name in found.names]
    if all(_TIME.fullmatch(stem) for stem in stems):
        return replace(found, stamps=stems)
    numbers = [int(match[1]) if (match := _NUMBER_AT_END.search(stem)) else None for stem in stems]
    known = [number for number in numbers if number is not None]
    if len(known) == len(stems) == len(set(known)):
        order = sorted(range(len(known)), key=lambda row: known[row])
        values = np.array([known[row] for row in order], dtype=np.int64)
        steps = np.diff(values)
        stride = int(np.gcd.reduce(steps)) if len(steps) else 1
        indices = (values - values[0]) // stride
        gaps = int(indices[-1]) + 1 - len(indices)
        notes = found.notes
        if gaps:
            notes += (f"{gaps} numbers are missing among the images' names: counted as frames without a pose",)
        return _ordered(replace(found, notes=notes), order, indices)
    return _ordered(found, sorted(range(len(stems)), key=lambda row: _natural(stems[row])), None)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part[:15]) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _ordered(found: PoseRows, order: Sequence[int], indices: NDArray[np.int64] | None) -> PoseRows:
    names = None if found.names is None else [found.names[row] for row in order]
    rows = np.array(order, dtype=np.int64)
    return replace(found, poses=found.poses[rows], lines=found.lines[rows], names=names, indices=indices)


def _timed(path: Path, found: PoseRows, time_scale: float | None, time_offset: float) -> TrajectoryFile:
    """Usable poses with their times in seconds, repeated times once."""
    count = len(found.poses)
    indices = np.arange(count) if found.indices is None else found.indices
    usable = finite_poses(found.poses)
    lost = int(np.count_nonzero(~usable))
    place = at(path, int(found.lines[0]))
    if lost == count:
        raise DataError(f"{place}: expected finite numbers and a rotation, found no usable pose in any of {count} rows")
    notes = list(found.notes)
    if lost:
        first = int(np.argmin(usable))
        notes.append(
            f"{path.name}: {lost} of {count} poses (first: line {found.lines[first]}) are not finite or have a"
            " quaternion of length 0: left out as lost frames"
        )
    rows = count if found.indices is None else int(indices[-1]) + 1
    if found.stamps is None:
        if time_scale is not None or time_offset:
            raise DataError(f"{path}: a time scale or offset has nothing to change: format {found.format} has no times")
        return _file(path, found, usable, indices, indices.astype(np.float64), notes, rows=rows, lost=lost)
    usual = _USUAL_UNIT.get(found.format, "s")
    seconds, unit, why = read_stamps(found.stamps, usual, time_scale, time_offset)
    if not np.isfinite(seconds).all():
        row = int(np.argmin(np.isfinite(seconds)))
        raise DataError(f"{at(path, int(found.lines[row]))}: the time {found.stamps[row]} in seconds is beyond float64")
    if found.names is not None:  # images come in any order, and their names in any unit
        why = None
        order = np.argsort(seconds, kind="stable")
        found = _ordered(found, order.tolist(), None)
        seconds, usable = seconds[order], usable[order]
    if unit is not None and why is not None:
        notes.append(f"{path.name}: stamps are read as {WORDS[unit]}, not {WORDS[usual]}: {why}")
    _check_order(path, found, seconds)
    first_of_time = np.concatenate([[True], np.diff(seconds[usable]) > 0])
    kept = np.flatnonzero(usable)[first_of_time]
    repeated = int(np.count_nonzero(~first_of_time))
    if repeated > MOST_REPEATED * len(first_of_time):
        raise DataError(
            f"{place}: {repeated} of {len(first_of_time)} poses have the time of the row before, such as"
            f" {seconds[usable][~first_of_time][0]:.12g} s: the stamps have lost their digits; write them with all"
            " (nanoseconds, or seconds as float64 with 6 to 9 decimals)"
        )
    if repeated:
        again = int(np.flatnonzero(usable)[np.argmin(first_of_time)])
        notes.append(
            f"{path.name}: {repeated} of {count} poses (first: line {found.lines[again]}) have the time of the row"
            " before: of each time the first row is kept"
        )
    timed = _file(path, found, kept, indices, seconds, notes, rows=rows, lost=lost)
    again = np.flatnonzero(usable)[~first_of_time]
    own = kept[np.searchsorted(seconds[kept], seconds[again])]
    again = again[(found.poses[again] != found.poses[own]).any(axis=(1, 2))]
    return replace(
        timed,
        others=Trajectory(indices[again], seconds[again], found.poses[again], found.has_orientation)
        if len(again)
        else None,
        timed=True,
        time_unit=f"{time_scale:g} s" if unit is None else unit,
        why_unit=why,
        told_scale=time_scale is not None,
        repeated=repeated,
    )


def _check_order(path: Path, found: PoseRows, seconds: FloatArray) -> None:
    stamps = found.stamps or []
    same = indistinguishable(stamps, seconds) if found.names is None else None
    if same is not None:
        a, b = same
        raise DataError(
            f"{at(path, int(found.lines[b]))}: the stamps {stamps[a]} and {stamps[b]} (line {found.lines[a]}) differ,"
            " but as seconds in float64 they are one: their digits do not fit; subtract the first time from all"
        )
    wrong = np.flatnonzero(np.diff(seconds) < 0)
    if len(wrong):
        row = int(wrong[0]) + 1
        raise DataError(
            f"{at(path, int(found.lines[row]))}: expected increasing timestamps, found one"
            f" {seconds[row - 1] - seconds[row]:.6g} s before that of line {found.lines[row - 1]}; sort the file by"
            " time"
        )


def _file(
    path: Path,
    found: PoseRows,
    kept: NDArray[np.int64] | NDArray[np.bool_],
    indices: NDArray[np.int64],
    seconds: FloatArray,
    notes: Sequence[str],
    *,
    rows: int,
    lost: int,
) -> TrajectoryFile:
    chosen = np.arange(len(found.poses))[kept]
    return TrajectoryFile(
        indices[chosen].astype(np.int64),
        seconds[chosen],
        found.poses[chosen],
        has_orientation=found.has_orientation,
        path=path,
        format=found.format,
        timed=False,
        lines=found.lines[chosen],
        names=None if found.names is None else tuple(found.names[row] for row in chosen.tolist()),
        rows=rows,
        lost=lost,
        notes=tuple(notes),
    )


def write_tum(path: Path, trajectory: Trajectory) -> None:
    """Write a trajectory as TUM lines, each number with all its digits. Raises StoreError.

    TUM has no word for a pose that is not finite: such frames are left out, and a comment line names them. A trajectory
    without orientation is written as ``time x y z``.
    """
    finite = finite_poses(trajectory.camera_to_world)
    poses = trajectory.camera_to_world[finite]
    columns = [trajectory.timestamps[finite], poses[:, :3, 3]]
    lines = ["# timestamp tx ty tz (positions without orientation)"]
    if trajectory.has_orientation:
        columns.append(quaternion_from_rotation(nearest_rotation(poses[:, :3, :3])))
        lines = [f"# {TUM_FIELDS} (camera-to-world)"]
    if not finite.all():
        left_out = ", ".join(str(index) for index in trajectory.indices[~finite])
        lines.append(f"# left out, not finite: frames {left_out}")
    # repr is the shortest text that reads back as the same float64.
    lines += [" ".join(map(repr, row)) for row in np.column_stack(columns).tolist()]
    write_text(path, "".join(f"{line}\n" for line in lines))


@dataclass(frozen=True)
class Pairing:
    """How the poses of two files met. Spans in seconds; None for formats without timestamps.

    repeated: matched poses of the estimate that have the time of another one of it.
    """

    rule: str
    reference_poses: int
    estimate_poses: int
    matched: int
    repeated: int = 0
    reference_poses_in_estimate_span: int | None = None
    reference_span_s: tuple[float, float] | None = None
    estimate_span_s: tuple[float, float] | None = None

    @property
    def matched_percent(self) -> float:
        """Share of the estimate's poses that found a reference pose."""
        return 100.0 * self.matched / self.estimate_poses

    @property
    def span_covered_percent(self) -> float | None:
        """Share of the reference's duration that lies inside the estimate's time span."""
        if self.reference_span_s is None or self.estimate_span_s is None:
            return None
        (first, last), (start, end) = self.reference_span_s, self.estimate_span_s
        return 100.0 * max(0.0, min(last, end) - max(first, start)) / (last - first) if last > first else None


def pair_trajectories(
    reference: TrajectoryFile, estimate: TrajectoryFile, max_difference: float = 0.01
) -> tuple[Trajectory, Trajectory, Pairing]:
    """Both trajectories under common frame numbers, those of the estimate's rows.

    Args:
        reference: what is held to be true.
        estimate: what is scored.
        max_difference: the largest distance in time of a pair, in seconds.

    Returns:
        The reference poses that met one, the whole estimate, and how they met. Of reference poses with one time the
        first is taken. Poses of the estimate with one time that differ are all scored, against the same reference pose:
        which of its answers a method meant is not for the score to say (evo counts them so, too).

    Raises:
        ConfigError: one of the two has times and the other has none.
        DataError: nothing pairs; one line with the spans and what the stamps say is the matter.
    """
    if estimate.timed != reference.timed:
        raise ConfigError(
            f"{reference.path} and {estimate.path}: one has timestamps and the other has none ({reference.format} and"
            f" {estimate.format}), so their poses cannot be paired; convert one of them"
        )
    if estimate.timed:
        return _by_time(reference, estimate, max_difference)
    if reference.names is not None and estimate.names is not None:
        return _by_name(reference, estimate, reference.names, estimate.names)
    if reference.rows != estimate.rows:
        raise DataError(
            f"trajectories without times are paired row by row: expected equal counts, found {reference.rows} poses in"
            f" {reference.path} and {estimate.rows} in {estimate.path}; cut both to the same frames, or use TUM"
        )
    matched = len(np.intersect1d(reference.indices, estimate.indices, assume_unique=True))
    pairing = Pairing("row i with row i", len(reference), len(estimate), matched)
    return _plain(reference), _plain(estimate), pairing


def _by_time(
    reference: TrajectoryFile, estimate: TrajectoryFile, max_difference: float
) -> tuple[Trajectory, Trajectory, Pairing]:
    same = reference.path.name == estimate.path.name
    truth, guess = (file.clock(str(file.path) if same else None) for file in (reference, estimate))
    in_reference, in_estimate = pair_times(truth, guess, max_difference)
    guessed, rows, repeated = _plain(estimate), in_estimate, 0
    if estimate.others is not None:
        guessed, in_reference, rows, repeated = _with_others(estimate, estimate.others, in_reference, in_estimate)
    in_span = (truth.seconds >= guess.seconds[0]) & (truth.seconds <= guess.seconds[-1])
    pairing = Pairing(
        f"one to one by nearest timestamp within {max_difference:g} s",
        len(reference),
        len(guessed),
        len(rows),
        repeated,
        int(np.count_nonzero(in_span)),
        (float(truth.seconds[0]), float(truth.seconds[-1])),
        (float(guess.seconds[0]), float(guess.seconds[-1])),
    )
    return (
        Trajectory(
            guessed.indices[rows],
            truth.seconds[in_reference],
            reference.camera_to_world[in_reference],
            reference.has_orientation,
        ),
        guessed,
        pairing,
    )


def _with_others(
    estimate: TrajectoryFile, others: Trajectory, in_reference: NDArray[np.int64], in_estimate: NDArray[np.int64]
) -> tuple[Trajectory, NDArray[np.int64], NDArray[np.int64], int]:
    """The estimate with its other poses, pairs of rows of the reference and of it, and how many others are paired."""
    indices = np.concatenate([estimate.indices, others.indices])
    order = np.argsort(indices)
    whole = Trajectory(
        indices[order],
        np.concatenate([estimate.timestamps, others.timestamps])[order],
        np.concatenate([estimate.camera_to_world, others.camera_to_world])[order],
        estimate.has_orientation,
    )
    met = np.full(len(estimate), -1)
    met[in_estimate] = in_reference
    partners = np.concatenate([met, met[np.searchsorted(estimate.timestamps, others.timestamps)]])[order]
    rows = np.flatnonzero(partners >= 0)
    return whole, partners[rows], rows, len(rows) - len(in_estimate)


def _by_name(
    reference: TrajectoryFile, estimate: TrajectoryFile, names: tuple[str, ...], estimated: tuple[str, ...]
) -> tuple[Trajectory, Trajectory, Pairing]:
    """Names without folders and endings, which tools change."""
    row_of = {image_stem(name): row for row, name in enumerate(names)}
    found = [(row_of[stem], row) for row, name in enumerate(estimated) if (stem := image_stem(name)) in row_of]
    if not found:
        raise DataError(
            f"no image of {estimate.path} is one of {reference.path}: names such as {estimated[0][:60]!r} and"
            f" {names[0][:60]!r}; are both of one recording?"
        )
    in_reference, in_estimate = (np.array(rows, dtype=np.int64) for rows in zip(*found, strict=True))
    met = Trajectory(
        estimate.indices[in_estimate],
        estimate.timestamps[in_estimate],
        reference.camera_to_world[in_reference],
        reference.has_orientation,
    )
    return met, _plain(estimate), Pairing("by the images' names", len(reference), len(estimate), len(found))


def _plain(file: TrajectoryFile) -> Trajectory:
    return Trajectory(file.indices, file.timestamps, file.camera_to_world, file.has_orientation)
