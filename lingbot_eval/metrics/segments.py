"""Relative errors over stretches of a path: KITTI's segments, and relative pose errors at any step, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.poses import relative, rotation_angle
from lingbot_eval.metrics.base import Quantity
from lingbot_eval.metrics.matching import Alignment, alignment_in_words
from lingbot_eval.statistics import RESAMPLES, rmse_interval
from lingbot_eval.types import FloatArray, Measurement

KITTI_PATH_M = 1000.0  # from here on KITTI's own 100…800 m
METRE_TOLERANCE = 0.1
"""How far the path between two poses may be from a step in metres, as a share of the step, to be a pair of it."""
_TOLERANCE = f"{100 * METRE_TOLERANCE:g} %"


@dataclass(frozen=True)
class Step:
    """How far apart the poses of a pair are: matched frames, or metres of path."""

    size: float
    unit: Literal["frames", "m"]

    def __str__(self) -> str:
        return f"{self.size:g} {self.unit}"


@dataclass(frozen=True, eq=False)
class Segments:
    """S segments. start: (S,) rows. length_m: (S,) wanted lengths. translation_percent, rotation_deg_per_m: (S,)."""

    start: NDArray[np.int64]
    length_m: FloatArray
    translation_percent: FloatArray
    rotation_deg_per_m: FloatArray


def path_distance(reference: FloatArray) -> FloatArray:
    """(M,) metres travelled along (M, 4, 4) poses."""
    steps = np.linalg.norm(np.diff(reference[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def segment_lengths(path_m: float) -> tuple[float, ...]:
    """Eight lengths for a path: 100…800 m from 1 km on, else 1…8 times path/10 rounded down to 1, 2 or 5 × 10ⁿ."""
    if path_m >= KITTI_PATH_M:
        return tuple(100.0 * k for k in range(1, 9))
    power = 10.0 ** math.floor(math.log10(path_m / 10))
    unit = power * max(digit for digit in (1, 2, 5) if digit * power <= path_m / 10 * (1 + 1e-9))
    return tuple(unit * k for k in range(1, 9))


def kitti_segments(reference: FloatArray, aligned: FloatArray, lengths_m: tuple[float, ...], every: int) -> Segments:
    """Segments as KITTI's odometry benchmark cuts them: from every ``every``-th pose to the first one that lies more
    than the length further along the path; errors over that length. reference, aligned: (M, 4, 4), metres."""
    distance = path_distance(reference)
    starts = np.arange(0, len(reference), every)
    parts = []
    for length in lengths_m:
        ends = np.searchsorted(distance, distance[starts] + length, side="right")
        inside = ends < len(distance)
        first, last = starts[inside], ends[inside]
        translation, rotation = pair_errors(reference, aligned, first, last)
        parts.append((first, np.full(len(first), length), 100.0 * translation / length, rotation / length))
    start, wanted, percent, per_metre = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Segments(start.astype(np.int64), wanted, percent, per_metre)


def pair_errors(
    reference: FloatArray, aligned: FloatArray, first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray]:
    """Translation (metres) and rotation (degrees) of (true step)⁻¹ · (estimated step) from rows first to last.

    reference, aligned: (M, 4, 4) camera-to-world poses. first, last: (K,) rows. Only the scale of an alignment matters.
    """
    error = relative(relative(reference[first], reference[last]), relative(aligned[first], aligned[last]))
    return np.linalg.norm(error[:, :3, 3], axis=1), np.degrees(rotation_angle(error[:, :3, :3]))


def step_pairs(reference: FloatArray, step: Step) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (K,) of the first and of the last pose of all (overlapping) pairs one step apart.

    Frames: exactly so many apart. Metres: from each pose to that further along the path whose distance comes nearest to
    the step, where that is within METRE_TOLERANCE of the step (evo's all_pairs with a relative tolerance). reference:
    (M, 4, 4). Raises UnscorableError where there is no pair.
    """
    count = len(reference)
    if step.unit == "frames":
        first = np.arange(max(0, count - int(step.size)))
        if not len(first):
            raise UnscorableError(f"the path is shorter than a step of {step}")
        return first, first + int(step.size)
    distance = path_distance(reference)
    if distance[-1] < step.size * (1 - METRE_TOLERANCE):
        raise UnscorableError(f"the path of {distance[-1]:.3g} m is shorter than a step of {step}")
    first = np.arange(count - 1)
    beyond = np.searchsorted(distance, distance[first] + step.size, side="left")
    # Of poses in one place the first counts.
    before = np.maximum(np.searchsorted(distance, distance[beyond - 1], side="left"), first + 1)
    after = np.minimum(beyond, count - 1)
    off_before, off_after = (np.abs(distance[last] - distance[first] - step.size) for last in (before, after))
    last = np.where((beyond == count) | (off_before <= off_after), before, after)
    near = np.minimum(off_before, off_after) <= METRE_TOLERANCE * step.size
    if not near.any():
        raise UnscorableError(
            f"no two poses are {step} of path apart within {_TOLERANCE}: neighbours are"
            f" {float(np.median(np.diff(distance))):.3g} m apart (median)"
        )
    return first[near], last[near]


def step_measurements(
    reference: FloatArray, aligned: FloatArray, step: Step, alignment: Alignment, anchor_frames: int, *, interval: bool
) -> list[Measurement]:
    """RMSE of the errors of all pairs one step apart, and its 95 % interval where that is wanted.

    reference, aligned: (M, 4, 4), metres. The variant is the step, with the alignment's name where that is not Sim(3).
    """
    quantities = step_quantities(step, alignment, anchor_frames, interval=interval)
    try:
        first, last = step_pairs(reference, step)
    except UnscorableError as error:
        return [quantity.failed(str(error), 0) for part in quantities for quantity in part]
    found = []
    # Twice the step, in pairs: neighbours that share a part of the path depend on each other.
    shortest_block = 2 * math.ceil(float(np.median(last - first)))
    for (rmse, *ends), errors in zip(quantities, pair_errors(reference, aligned, first, last), strict=True):
        found.append(rmse.value(float(np.sqrt(np.mean(errors**2))), len(errors)))
        if not ends:
            continue
        try:
            limits = rmse_interval(errors, shortest_block)
        except UnscorableError as error:
            found += [quantity.failed(str(error), len(errors)) for quantity in ends]
            continue
        found += [quantity.value(limit, len(errors)) for quantity, limit in zip(ends, limits, strict=True)]
    return found


def step_quantities(step: Step, alignment: Alignment, anchor_frames: int, *, interval: bool) -> list[list[Quantity]]:
    """What is measured at a step: of translation and rotation the RMSE, and the ends of its interval if wanted."""
    variant = str(step) if alignment == "sim3" else f"{step} {alignment}"
    pairs = f"all (overlapping) pairs {step} apart"
    if step.unit == "m":
        pairs = (
            f"all (overlapping) pairs {step} of reference path apart within {_TOLERANCE}, from each pose to"
            " the one nearest to that distance"
        )
    found = []
    for part, measured_in in (("translation", "m"), ("rotation", "deg")):
        words = f"RMSE of the {part} of the relative pose error over {pairs}, "
        words += alignment_in_words(alignment, anchor_frames).replace(" Umeyama", "")
        quantities = [Quantity("drift", f"rpe_{part}_rmse", variant, measured_in, words)]
        quantities += [
            Quantity(
                "drift",
                f"rpe_{part}_{end}95",
                variant,
                measured_in,
                f"{side} end of the 95 % interval of rpe_{part}_rmse, by circular block bootstrap ({RESAMPLES}"
                " resamples of blocks of √n pairs, at least twice the step)",
            )
            for end, side in (("low", "lower"), ("high", "upper"))
            if interval
        ]
        found.append(quantities)
    return found
