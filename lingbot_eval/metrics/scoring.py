"""Everything that two trajectories can be asked, in one call: what ``lingbot-eval score`` prints and a run stores."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from lingbot_eval.errors import ConfigError, UnscorableError
from lingbot_eval.files.times import associate, scale_of
from lingbot_eval.files.trajectories import Pairing, TrajectoryFile, pair_trajectories
from lingbot_eval.geometry.alignment import aligned_rmse
from lingbot_eval.geometry.poses import finite_poses, spread
from lingbot_eval.metrics.base import Quantity, told_apart
from lingbot_eval.metrics.drift import DriftSettings, score_drift
from lingbot_eval.metrics.matching import ALIGNMENTS, ANCHOR_FRAMES, Alignment, match_poses
from lingbot_eval.metrics.meaning import FEW_PERCENT, match_notes, pose_notes
from lingbot_eval.metrics.pair_auc import PairProgress, pair_measurements
from lingbot_eval.metrics.trajectory import TrajectoryScore, TrajectorySettings, plugin_measurements, score_trajectory
from lingbot_eval.settings import several, validated
from lingbot_eval.types import DriftSeries, FloatArray, Measurement, Trajectory

if TYPE_CHECKING:
    import pandas as pd

Family = Literal["trajectory", "drift", "auc"]
FAMILIES: tuple[Family, ...] = get_args(Family)
MAX_DIFFERENCE = 0.01  # seconds, as evo pairs

_OF_A_SEQUENCE = ("coverage", "matched_frames", "dropped_frames", "unmatched_frames")


@dataclass(frozen=True, eq=False)
class PoseScore:
    """Measurements of an estimate against a reference.

    Attributes:
        align: the alignment that a name alone means; every measurement that an alignment can move is there under each.
        measurements: all of them, each a value with its unit and convention, or a reason.
        notes: a sentence each on what a reader must know of the numbers, such as poses that look inverse.
        trajectory: positions and errors along the trajectory, and the alignments; None where that was left out.
        drift: how the error grows; None where that was left out or could not be computed.
        pairing: how the poses of two files met, and ``estimate`` those of the estimate as they were scored; None for
            trajectories that are no files.
    """

    align: Alignment
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]
    trajectory: TrajectoryScore | None = None
    drift: DriftSeries | None = None
    pairing: Pairing | None = None
    estimate: Trajectory | None = None

    def __getitem__(self, name: str | tuple[str, str]) -> Measurement:
        """A measurement by name, or by name and variant.

        Args:
            name: such as ``"ate_rmse"``, which means the one under ``align`` where there are several, or
                ``("ate_rmse", "none")``, ``("rpe_translation_rmse", "10 m")``.

        Raises:
            KeyError: nothing is called so.
        """
        wanted, variants = (name, (self.align, "", "sim3")) if isinstance(name, str) else (name[0], (name[1],))
        for variant in variants:
            for measured in self.measurements:
                if (measured.name, measured.variant) == (wanted, variant):
                    return measured
        known = dict.fromkeys(m.name for m in self.measurements)
        variants_there = [m.variant for m in self.measurements if m.name == wanted]
        near = variants_there or get_close_matches(wanted, known) or list(known)
        raise KeyError(f"nothing is called {name!r}; there is {', '.join(map(repr, near))}")

    def to_pandas(self) -> pd.DataFrame:
        """One row a measurement: family, name, variant, value (NaN with a reason), unit, convention, samples …."""
        import pandas as pd

        return pd.DataFrame([asdict(measured) for measured in self.measurements]).astype({"value": "float64"})


def score(
    reference: Trajectory,
    estimate: Trajectory,
    *,
    align: Alignment = "sim3",
    anchor_frames: int = ANCHOR_FRAMES,
    max_difference: float = MAX_DIFFERENCE,
    without: Collection[str] = (),
    progress: PairProgress | None = None,
) -> PoseScore:
    """Score an estimated trajectory against a reference.

    Two files, as `read_trajectory` gives them, are paired by time, by the images' names or row by row; other
    trajectories by their frame indices.

    Args:
        reference: camera-to-world poses in metres.
        estimate: camera-to-world poses, in a world and a scale of its own.
        align: the alignment shown first: ``sim3``, ``se3``, ``anchor`` (on the first frames, then free to drift) or
            ``none``.
        anchor_frames: how many matched frames ``anchor`` aligns on, at least 3.
        max_difference: the largest time difference of a pair of poses of two files, in seconds.
        without: families left out, of ``trajectory``, ``drift`` and ``auc`` (whose pairs grow with the square of the
            number of poses).
        progress: called with the pairs of ``auc`` that are done and those there are.

    Returns:
        The measurements, by name, and notes on them. What is not defined on the data is there with its reason.

    Raises:
        ConfigError: an argument has no meaning, or one file has times and the other has none.
        DataError: nothing of the two files pairs.
    """
    _check_arrays(reference, "reference")
    _check_arrays(estimate, "estimate")
    if align not in ALIGNMENTS:
        raise ConfigError(f"align: expected one of {', '.join(ALIGNMENTS)}, found {align!r}")
    without = several(without)
    unknown = [family for family in without if family not in FAMILIES]
    if unknown:
        raise ConfigError(f"without: expected some of {', '.join(FAMILIES)}, found {unknown[0]!r}")
    if not 0 <= max_difference < float("inf"):
        raise ConfigError(f"max_difference: expected seconds, 0 or more, found {max_difference}")
    shared = {"alignments": tuple(dict.fromkeys((align, *ALIGNMENTS))), "anchor_frames": anchor_frames}
    of_trajectory = None if "trajectory" in without else validated(TrajectorySettings, shared, "score")
    of_drift = None if "drift" in without else validated(DriftSettings, shared, "score")
    truth, guess, pairing, total = reference, estimate, None, len(estimate)
    if isinstance(reference, TrajectoryFile) and isinstance(estimate, TrajectoryFile):
        truth, guess, pairing = pair_trajectories(reference, estimate, max_difference)
    found: list[Measurement] = []
    trajectory: TrajectoryScore | None = None
    drift: DriftSeries | None = None
    if of_trajectory is not None:
        trajectory = score_trajectory(truth, guess, total, of_trajectory)
        found += trajectory.measurements
    if of_drift is not None:
        drifted = score_drift(truth, guess, of_drift)
        found += drifted.measurements
        drift = drifted.series
    if "auc" not in without:
        found += pair_measurements(truth, guess, progress=progress)
    if of_trajectory is not None:
        found = told_apart([*found, *plugin_measurements(truth, guess, of_trajectory)])
    notes = notes_on(truth, guess, total, None if pairing is None else pairing.reference_poses)
    scored = PoseScore(align, tuple(found), notes, trajectory, drift)
    if pairing is None or not (isinstance(reference, TrajectoryFile) and isinstance(estimate, TrajectoryFile)):
        return scored
    # Counts of a scene are about the frames of a sequence; here the pairing says what met what.
    kept = [m for m in found if m.name not in _OF_A_SEQUENCE]
    return replace(
        scored,
        measurements=(*kept[:1], *_coverage(pairing), *kept[1:]),
        notes=(
            *_repeated_notes(pairing),
            *_span_notes(pairing),
            *_clock_notes(reference, estimate, scored, max_difference),
            *notes,
        ),
        pairing=pairing,
        estimate=guess,
    )


def _check_arrays(given: Any, side: str) -> None:
    """Raises ConfigError for what is no trajectory, and for one whose arrays are of other shapes than it says."""
    if not isinstance(given, Trajectory | TrajectoryFile):
        raise ConfigError(
            f"{side}: expected a Trajectory, found {type(given).__name__}; read_trajectory(FILE) reads one, and"
            " Trajectory(indices, timestamps, poses) has arrays of yours"
        )
    if isinstance(given, Trajectory):
        shapes = [np.shape(array) for array in (given.indices, given.timestamps, given.camera_to_world)]
        count = np.size(given.indices)
        if shapes != [(count,), (count,), (count, 4, 4)] or not isinstance(given.camera_to_world, np.ndarray):
            raise ConfigError(
                f"{side}: expected numpy arrays of indices (N,), timestamps (N,) and poses (N, 4, 4), found"
                f" {type(given.camera_to_world).__name__} of {', '.join(map(str, shapes))}"
            )
        falls = np.flatnonzero(np.diff(given.indices) <= 0)
        if len(falls):
            last, then = given.indices[falls[0] : falls[0] + 2]
            raise ConfigError(f"{side}: expected indices that rise, found {then} after {last}; sort the poses by frame")


def _coverage(pairing: Pairing) -> Iterator[Measurement]:
    """What share of the two files the numbers rest on."""
    words = f"share of the estimate's poses that met one of the reference: {pairing.rule}"
    share = Quantity("trajectory", "coverage", "matched", "%", words)
    yield share.value(pairing.matched_percent, pairing.estimate_poses)
    spans = Quantity(
        "trajectory", "coverage", "duration", "%", "share of the reference's duration inside the estimate's time span"
    )
    covered = pairing.span_covered_percent
    if covered is not None:
        yield spans.value(covered, pairing.reference_poses)


def _repeated_notes(pairing: Pairing) -> tuple[str, ...]:
    if not pairing.repeated:
        return ()
    return (
        f"{pairing.repeated} of the {pairing.matched} scored poses are others of a time that the estimate has twice or"
        " more: each is scored, against the same reference pose",
    )


def _span_notes(pairing: Pairing) -> tuple[str, ...]:
    covered = pairing.span_covered_percent
    if covered is None or covered >= FEW_PERCENT:
        return ()
    return (f"the estimate covers {covered:.3g} % of the reference's duration: the numbers say nothing of the rest",)


_SAME_DURATION = 0.02
_OTHER_RATES = (0.5, 2.0)  # every second frame counted, or a rate twice the real one
_FEWEST = 10  # pairs from which another clock is judged
_CLEARLY = 3.0  # times better that another clock must fit before it is named
_GOOD = 0.02  # of the path's spread: an error that is no reason to doubt the clock


def _clock_notes(
    reference: TrajectoryFile, estimate: TrajectoryFile, scored: PoseScore, max_difference: float
) -> tuple[str, ...]:
    """A note where the path fits far better under another clock: one that begins with the reference, or runs at half or
    twice the rate.

    Stamps that are off by whole intervals, or run too fast, pair as well as right ones; only the path can tell.
    """
    now = scored["ate_rmse", "sim3"] if scored.trajectory is not None else None
    if now is None or now.value is None or not (reference.timed and estimate.timed):
        return ()
    found = []
    for factor, offset in _other_clocks(reference.timestamps, estimate.timestamps, max_difference):
        moved = estimate.timestamps * factor + offset
        rows, guessed = associate(reference.timestamps, moved, max_difference)
        if len(rows) < max(_FEWEST, now.samples or 0):
            continue
        truth, guess = reference.positions[rows], estimate.positions[guessed]
        try:
            then = aligned_rmse(guess, truth)
        except UnscorableError:
            continue
        if now.value >= max(_CLEARLY * then, _GOOD * spread(truth)):
            found.append((then, len(rows), factor, offset))
    if not found:
        return ()
    then, pairs, factor, offset = min(found)
    what = "both files last as long, and if they begin together"
    options = []
    if factor != 1.0:
        began = " and they begin together" if offset else ""
        what = f"if the estimate's runs at {1 / factor:g} times the rate of the reference's{began}"
        options.append(f"--time-scale {scale_of(estimate.time_unit) * factor:.12g}")
    if offset:
        options.append(f"--time-offset {offset:.12g}")
    return (
        f"the clocks may differ: {what} ({pairs} pairs), ATE would be {then:.4g} m instead of {now.value:.4g} m;"
        f" {' '.join(options)} (in an experiment time_scale, time_offset) reads the estimate's times so",
    )


def _other_clocks(times: FloatArray, own: FloatArray, max_difference: float) -> Iterator[tuple[float, float]]:
    """Factors and offsets in seconds that are worth a trial on an estimate's own times."""
    begin = float(times[0] - own[0])
    if abs(begin) > max_difference and abs(np.ptp(own) - np.ptp(times)) <= _SAME_DURATION * np.ptp(times):
        yield 1.0, begin
    for factor in _OTHER_RATES:
        yield factor, 0.0
        together = float(times[0] - own[0] * factor)
        if abs(together) > max_difference:
            yield factor, together


def notes_on(
    reference: Trajectory, estimate: Trajectory, total_frames: int, reference_poses: int | None = None
) -> tuple[str, ...]:
    """What a reader must know of the numbers: how little they rest on, and what the poses may mean."""
    matched = match_poses(reference, estimate)
    posed = int(finite_poses(estimate.camera_to_world).sum())
    return (*match_notes(len(matched), posed, reference_poses or len(reference), total_frames), *pose_notes(matched))
