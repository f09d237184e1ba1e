"""Drift: where and how fast a trajectory leaves its reference (protocol.md section 1, "Drift")."""

from __future__ import annotations

import contextlib
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import aligned_rmse, umeyama
from lingbot_eval.geometry.poses import relative
from lingbot_eval.metrics.base import MetricFamily, Quantity, ScoredScene
from lingbot_eval.metrics.matching import (
    ALIGNMENTS,
    ANCHOR_FRAMES,
    Alignment,
    MatchedPoses,
    alignment_in_words,
    alignment_of,
    match_poses,
)
from lingbot_eval.metrics.segments import (
    Segments,
    Step,
    kitti_segments,
    path_distance,
    segment_lengths,
    step_measurements,
    step_quantities,
)
from lingbot_eval.settings import EACH_ONCE, StrictModel
from lingbot_eval.types import Declaration, DriftSeries, FloatArray, Measurement, Trajectory

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Frames = Annotated[int, Field(ge=1)]

PREFIXES = 64
MIN_PREFIX = 10
LOOP_SHARE = 0.05  # of the path length: how near the reference must come back to its start to be a loop


DECLARED = (
    Declaration("segment_translation", "lower", "sim3", headline=5, title="drift (%)"),
    Declaration("segment_*", "lower"),
    # Signed: 0 is best.
    Declaration("scale_drift", None),
    Declaration("anchored_final_error", "lower"),
    Declaration("loop_gap*", "lower"),
    Declaration("jumps", "lower"),
    # One frame decides it.
    Declaration("largest_step_error", "lower", tolerance={"kind": "relative", "worse_by": 0.02}),
    Declaration("largest_step_error_frame", None),
    Declaration("collapsed", "lower"),
    Declaration("collapse_frame", "higher"),
    # Ends of an interval around a figure that is judged itself.
    Declaration("rpe_*_low95", None),
    Declaration("rpe_*_high95", None),
    Declaration("rpe_*", "lower"),
)


SCALE_WINDOW = 51
"""Steps whose median ratio is the local scale."""
JUMP_FACTOR = 10.0
"""A jump is a step whose error is so many times the median of its surroundings."""
COLLAPSE_WINDOW, COLLAPSE_FACTOR = 30, 5.0
"""Steps that stay so many times worse than those before are a lasting breakdown (`collapse_step`)."""


class DriftSettings(StrictModel):
    """How drift is measured; lengths in metres of the reference, steps in matched frames.

    segment_lengths_m: None chooses them for the scene (see `segments.segment_lengths`). segment_every: a segment starts
    at every so many frames. rpe_frames, rpe_metres: steps of the relative pose errors. anchor_frames: frames that the
    anchored error is aligned on. alignments: how the estimate is moved onto the reference; whatever that can move comes
    under each of them, intervals under the first.
    """

    segment_lengths_m: Annotated[tuple[Positive, ...], Field(min_length=1), EACH_ONCE] | None = None
    segment_every: Frames = 10
    rpe_frames: Annotated[tuple[Frames, ...], EACH_ONCE] = (1, 10, 100)
    rpe_metres: Annotated[tuple[Positive, ...], EACH_ONCE] = (1.0, 10.0)
    anchor_frames: Annotated[int, Field(ge=3)] = ANCHOR_FRAMES
    alignments: Annotated[tuple[Alignment, ...], Field(min_length=1), EACH_ONCE] = ALIGNMENTS


@dataclass(frozen=True, eq=False)
class DriftScore:
    """Measurements of family ``drift`` and the series they sum up; series is None where nothing could be computed."""

    measurements: tuple[Measurement, ...]
    series: DriftSeries | None


@np.errstate(over="ignore", invalid="ignore")
def score_drift(reference: Trajectory, estimate: Trajectory, settings: DriftSettings | None = None) -> DriftScore:
    """Drift of an estimate; frames are matched by index. The series are after the Sim(3) alignment over all of them.

    What is not defined on the data is a Measurement with its reason; nothing is raised for it.
    """
    settings = settings or DriftSettings()
    matched = match_poses(reference, estimate)
    found: list[Measurement] = []
    series: DriftSeries | None = None
    for name in dict.fromkeys((*settings.alignments, "sim3")):
        track, reason = None, ""
        try:
            track = _Track(matched, _aligned(matched, name, settings), name, settings)
        except UnscorableError as error:
            reason = str(error)
        found += _measurements(track, name, settings, reason)
        if name == "sim3" and track is not None:
            series = track.series()
    return DriftScore(tuple(found), series)


def _aligned(matched: MatchedPoses, name: Alignment, settings: DriftSettings) -> FloatArray:
    aligned = alignment_of(matched, name, settings.anchor_frames).apply_poses(matched.estimate)
    if not np.isfinite(aligned).all():
        raise UnscorableError("the positions are too large for float64: the aligned ones are not finite")
    return aligned


class _Track:
    """One matched pair of trajectories in metres under one alignment, and everything that is read off it, once."""

    def __init__(
        self, matched: MatchedPoses, aligned: FloatArray, alignment: Alignment, settings: DriftSettings
    ) -> None:
        self.frames, self.reference, self.aligned = matched.indices, matched.reference, aligned
        self.without_orientation = matched.without_orientation
        self.alignment, self.settings = alignment, settings
        self.distance = path_distance(self.reference)

    def oriented(self) -> _Track:
        """Itself. Raises UnscorableError where the poses have no orientation."""
        if self.without_orientation is not None:
            raise UnscorableError(self.without_orientation)
        return self

    @cached_property
    def lengths_m(self) -> tuple[float, ...]:
        """Lengths of segments, in metres."""
        return self.settings.segment_lengths_m or segment_lengths(float(self.distance[-1]))

    @cached_property
    def segments(self) -> Segments:
        """The benchmark's segments, maybe none. Raises UnscorableError where there is no orientation."""
        return kitti_segments(self.oriented().reference, self.aligned, self.lengths_m, self.settings.segment_every)

    @cached_property
    def steps(self) -> tuple[FloatArray, FloatArray]:
        """(M − 1,) translation errors and true motions of steps. Raises UnscorableError as ``segments``."""
        return step_errors(self.oriented().reference, self.aligned)

    @cached_property
    def jumps(self) -> NDArray[np.int64]:
        """Steps that are jumps."""
        return jump_steps(*self.steps, JUMP_FACTOR)

    @cached_property
    def collapse(self) -> int | None:
        """The step of a lasting breakdown."""
        return collapse_step(*self.steps, COLLAPSE_WINDOW, COLLAPSE_FACTOR)

    @cached_property
    def scale(self) -> FloatArray:
        """(M,) local scale."""
        return local_scale(self.reference, self.aligned, SCALE_WINDOW)

    @cached_property
    def anchored(self) -> FloatArray:
        """(M,) position errors after alignment on the first frames; NaN where those do not determine one."""
        count = self.settings.anchor_frames
        truth, guess = self.reference[:, :3, 3], self.aligned[:, :3, 3]
        try:
            move = umeyama(guess[:count], truth[:count], with_scale=True)
        except UnscorableError:
            return np.full(len(truth), np.nan)
        return np.asarray(np.linalg.norm(move.apply_points(guess) - truth, axis=1))

    def series(self) -> DriftSeries:
        """The arrays as they are stored; what needs orientation is NaN or empty where there is none."""
        ends, ate = prefix_errors(self.reference[:, :3, 3], self.aligned[:, :3, 3])
        nothing, none = np.empty(0), np.empty(0, dtype=np.int64)
        segments = Segments(none, nothing, nothing, nothing)
        errors, jumps, collapse = np.full(len(self.frames) - 1, np.nan), none, None
        if self.without_orientation is None:
            segments, errors, jumps, collapse = self.segments, self.steps[0], self.jumps, self.collapse
        return DriftSeries(
            frame=self.frames,
            step_error_m=np.concatenate([[np.nan], errors]),
            local_scale=self.scale,
            anchored_error_m=self.anchored,
            prefix_frame=self.frames[ends],
            prefix_ate_m=ate,
            segment_frame=self.frames[segments.start],
            segment_length_m=segments.length_m,
            segment_translation=segments.translation_percent,
            segment_rotation=segments.rotation_deg_per_m,
            jump_frame=self.frames[jumps + 1],
            collapse_frame=self.frames[[] if collapse is None else [collapse + 1]],
        )


def prefix_errors(truth: FloatArray, guess: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """ATE of growing prefixes, each aligned on itself by Sim(3): rows of their last poses, RMSE in metres (NaN where
    a prefix has no alignment). truth, guess: (M, 3), M ≥ 3; at most PREFIXES of them, the last one is the whole."""
    count = len(truth)
    ends = np.unique(np.linspace(min(MIN_PREFIX, count), count, PREFIXES).astype(np.int64))
    errors = np.full(len(ends), np.nan)
    for k, end in enumerate(ends):
        with contextlib.suppress(UnscorableError):  # a straight beginning: the curve has a gap there
            errors[k] = aligned_rmse(guess[:end], truth[:end])
    return ends - 1, errors


def local_scale(reference: FloatArray, aligned: FloatArray, window: int) -> FloatArray:
    """(M,) median over a centred window of the ratios of step lengths, estimate / reference, whole-sequence Sim(3)
    scale applied; NaN where fewer than 3 steps of the window move. Steps of the reference below 1 % of its median
    moving step are standstills and have no ratio."""
    true_steps, steps = (np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) for poses in (reference, aligned))
    moving = true_steps[true_steps > 0]
    ratio = np.full(len(steps), np.nan)
    usable = true_steps > 0.01 * np.median(moving) if len(moving) else np.zeros(len(steps), dtype=bool)
    ratio[usable] = steps[usable] / true_steps[usable]
    half = window // 2
    padded = np.pad(ratio, (half, window - half), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[: len(reference)]
    enough = np.count_nonzero(np.isfinite(windows), axis=1) >= 3
    scale = np.full(len(reference), np.nan)
    scale[enough] = np.nanmedian(windows[enough], axis=1)
    return scale


def _measurements(
    track: _Track | None, alignment: Alignment, settings: DriftSettings, reason: str
) -> Iterator[Measurement]:
    """All of family ``drift`` under an alignment; without a track, the same quantities with the reason."""
    for quantity, compute in _plain(alignment, settings):
        if track is None:
            yield quantity.failed(reason, 0)
            continue
        of_segments = quantity.name.startswith("segment_") and track.without_orientation is None
        yield quantity.attempt(partial(compute, track), len(track.segments.start if of_segments else track.frames))
    interval = alignment in ("sim3", settings.alignments[0])
    steps = [Step(float(k), "frames") for k in settings.rpe_frames] + [Step(m, "m") for m in settings.rpe_metres]
    for step in steps:
        if track is None or track.without_orientation is not None:
            why = reason if track is None else track.without_orientation or ""
            quantities = step_quantities(step, alignment, settings.anchor_frames, interval=interval)
            yield from (quantity.failed(why, 0) for part in quantities for quantity in part)
            continue
        yield from step_measurements(
            track.reference, track.aligned, step, alignment, settings.anchor_frames, interval=interval
        )


def _plain(alignment: Alignment, settings: DriftSettings) -> Iterator[tuple[Quantity, Callable[[_Track], float]]]:
    """What is one number under an alignment, and how it is computed."""
    after = alignment_in_words(alignment, settings.anchor_frames).replace(" Umeyama", "")
    sim3 = alignment == "sim3"
    step_words = f"{_STEP_WORDS}, {'after Sim(3) alignment' if sim3 else after}"
    loop_words = _LOOP_WORDS.format(aligned="Sim(3)-aligned" if sim3 else after)
    jump_words = _JUMP_WORDS.format(f=JUMP_FACTOR) + ("" if sim3 else f", {after}")
    collapse_words = _collapse_words(settings) + ("" if sim3 else f", {after}")
    entries: list[tuple[str, str, str, Callable[[_Track], float]]] = [
        ("segment_translation", "%", _segment_words(settings, "translation", after), _segment_translation),
        ("segment_rotation", "deg/m", _segment_words(settings, "rotation angle", after), _segment_rotation),
        ("scale_drift", "%", _SCALE_WORDS.format(n=SCALE_WINDOW), _scale_drift),
        ("anchored_final_error", "m", _ANCHORED_WORDS.format(n=settings.anchor_frames), _anchored_end),
        ("loop_gap", "m", loop_words, _loop_gap),
        ("loop_gap_share", "%", f"loop_gap / path length; {loop_words}", _loop_share),
        ("jumps", "1", jump_words, lambda track: float(len(track.jumps))),
        ("largest_step_error", "m", step_words, lambda track: float(track.steps[0].max())),
        ("largest_step_error_frame", "frames", f"frame of it; {step_words}", _worst_frame),
        ("collapsed", "1", f"1 or 0: {collapse_words}", lambda track: float(track.collapse is not None)),
        ("collapse_frame", "frames", collapse_words, _collapse_frame),
    ]
    for name, unit, words, compute in entries:
        if sim3 or name not in ("scale_drift", "anchored_final_error"):  # which no alignment can move
            yield Quantity("drift", name, alignment, unit, words), compute


_SCALE_WORDS = (
    "change of the local scale in % per 100 matched frames: slope of its logarithm over the frames by Theil and Sen;"
    " local scale: median of the step length ratios estimate/reference of {n} steps"
)
_ANCHORED_WORDS = (
    "position error of the last matched frame after Sim(3) alignment on the first {n}; where they lie almost on a line,"
    " the turn about it is hardly determined and this is large"
)
_LOOP_WORDS = (
    "where the reference ends within 5 % of its path length of its start: distance between the true and the estimated"
    " ({aligned}) vector from first to last camera"
)
_STEP_WORDS = "largest translation error of a step between consecutive matched frames"
_JUMP_WORDS = (
    "steps whose translation error is above {f:g} × the median of the 25 before and the 25 after, and above half of"
    " their own motion (at least the median motion)"
)


def _collapse_words(settings: DriftSettings) -> str:
    return (
        "first step whose relative error (translation error / motion of the step, at least the median motion) is above"
        f" {COLLAPSE_FACTOR:g} × the median of all steps before and above 0.2, where the median of the"
        f" {COLLAPSE_WINDOW} steps from there is so, too"
    )


def _segment_words(settings: DriftSettings, part: str, after: str) -> str:
    lengths = (
        "100…800 m, for paths below 1 km 1…8 times a tenth of the path rounded down to 1, 2 or 5"
        if settings.segment_lengths_m is None
        else ", ".join(f"{length:g}" for length in settings.segment_lengths_m) + " m"
    )
    return (
        f"KITTI odometry: {part} error over path length, mean over all segments of {lengths}, one starting every"
        f" {settings.segment_every} matched frames, {after}"
    )


def _segment_translation(track: _Track) -> float:
    return _mean_of_segments(track, track.segments.translation_percent)


def _segment_rotation(track: _Track) -> float:
    return _mean_of_segments(track, track.segments.rotation_deg_per_m)


def _mean_of_segments(track: _Track, values: FloatArray) -> float:
    if not len(values):
        raise UnscorableError(f"the path is shorter than the shortest segment of {min(track.lengths_m):g} m")
    return float(np.mean(values))


def _scale_drift(track: _Track) -> float:
    usable = np.flatnonzero(np.isfinite(track.scale) & (track.scale > 0))
    if len(usable) < 2 * SCALE_WINDOW:
        raise UnscorableError(f"only {len(usable)} frames with a local scale, at least {2 * SCALE_WINDOW} are needed")
    # Theil and Sen look at all pairs; a thousand frames give the slope as well as ten thousand.
    usable = usable[:: -(-len(usable) // 1000)]
    logarithms = np.log(track.scale[usable])
    first, second = np.triu_indices(len(usable), 1)
    slope = np.median((logarithms[second] - logarithms[first]) / (usable[second] - usable[first]))
    return 100.0 * float(np.expm1(100.0 * slope))


def _anchored_end(track: _Track) -> float:
    last = float(track.anchored[-1])
    if np.isnan(last):
        raise UnscorableError(
            f"degenerate covariance: the first {track.settings.anchor_frames} matched frames lie in one point or on"
            " one line"
        )
    return last


def _loop_gap(track: _Track) -> float:
    true_gap = track.reference[-1, :3, 3] - track.reference[0, :3, 3]
    apart, length = float(np.linalg.norm(true_gap)), float(track.distance[-1])
    if apart > LOOP_SHARE * length:
        raise UnscorableError(
            f"no loop: the reference ends {apart:.3g} m from its start, more than 5 % of its path of {length:.3g} m"
        )
    return float(np.linalg.norm(track.aligned[-1, :3, 3] - track.aligned[0, :3, 3] - true_gap))


def _loop_share(track: _Track) -> float:
    return 100.0 * _loop_gap(track) / float(track.distance[-1])


def _worst_frame(track: _Track) -> float:
    return float(track.frames[int(np.argmax(track.steps[0])) + 1])


def _collapse_frame(track: _Track) -> float:
    if track.collapse is None:
        raise UnscorableError("no collapse was found")
    return float(track.frames[track.collapse + 1])


class DriftFamily(MetricFamily):
    """How the error grows along the sequence."""

    Settings = DriftSettings

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        score = score_drift(scene.truth, scene.estimate, self.settings)
        scene.drift = score.series
        return scene.explained(score.measurements)


SURROUNDINGS = 25  # steps before and after that a jump stands out from
MIN_JUMP = 0.5  # of the motion: smaller ones are noise of a very good trajectory
MIN_COLLAPSE = 0.2


def step_errors(reference: FloatArray, aligned: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Translation errors and true motions (M − 1,) in metres of the steps of (M, 4, 4) poses.

    The error is the distance between the true and the estimated step, both seen from their own camera. The motion of a
    step is at least the median motion, so that standstills do not make errors look large.
    """
    true_steps, steps = (relative(poses[:-1], poses[1:])[:, :3, 3] for poses in (reference, aligned))
    motion = np.linalg.norm(true_steps, axis=1)
    moving = motion[motion > 0]
    floor = float(np.median(moving)) if len(moving) else 1.0
    return np.asarray(np.linalg.norm(steps - true_steps, axis=1)), np.maximum(motion, floor)


def jump_steps(errors: FloatArray, motion: FloatArray, factor: float) -> NDArray[np.int64]:
    """Steps whose error is above ``factor`` × the median of their surroundings and above half of their motion."""
    candidates = np.flatnonzero(errors > MIN_JUMP * motion)
    found = []
    for step in candidates:
        start = max(0, step - SURROUNDINGS)
        around = np.concatenate([errors[start:step], errors[step + 1 : step + 1 + SURROUNDINGS]])
        if len(around) and errors[step] > factor * float(np.median(around)):
            found.append(step)
    return np.array(found, dtype=np.int64)


def collapse_step(errors: FloatArray, motion: FloatArray, window: int, factor: float) -> int | None:
    """The first step of a lasting breakdown; None when there is none.

    With e = errors / motion: the first step k ≥ window with e_k above limit_k = max(``factor`` × median(e_0 … e_{k−1}),
    0.2) where the median of the ``window`` steps from k on is above limit_k as well. A single jump does not pass the
    median; a fault that lasts does.
    """
    shares = errors / motion
    past = sorted(shares[:window].tolist())
    for step in range(window, len(shares) - window + 1):
        middle = len(past) // 2
        median = past[middle] if len(past) % 2 else (past[middle - 1] + past[middle]) / 2
        limit = max(factor * median, MIN_COLLAPSE)
        if shares[step] > limit and float(np.median(shares[step : step + window])) > limit:
            return step
        insort(past, float(shares[step]))
    return None
