"""Two trajectory files under common frame numbers: by time, by the images' names, or row by row."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.files.times import pair_times
from lingbot_eval.files.trajectories import TrajectoryFile
from lingbot_eval.types import Trajectory


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


def image_stem(name: str) -> str:
    """The name of an image without folders and ending."""
    return re.split(r"[/\\]", name)[-1].rpartition(".")[0] or name


def _plain(file: TrajectoryFile) -> Trajectory:
    return Trajectory(file.indices, file.timestamps, file.camera_to_world, file.has_orientation)
