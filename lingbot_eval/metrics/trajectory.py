"""Trajectory accuracy: absolute trajectory error and relative pose error as evo computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.geometry.poses import finite_poses, path_length, rotation_angle, spread
from lingbot_eval.metrics.base import MetricFamily, Quantity, ScoredScene, declared, trajectory_metrics
from lingbot_eval.metrics.matching import (
    ALIGNMENTS,
    ANCHOR_FRAMES,
    MIN_MATCHED,
    Alignment,
    MatchedPoses,
    alignment_in_words,
    alignment_of,
    match_poses,
    place_of,
)
from lingbot_eval.metrics.segments import pair_errors
from lingbot_eval.settings import EACH_ONCE, StrictModel
from lingbot_eval.types import Declaration, FloatArray, Measurement, Trajectory

DECLARED = (
    Declaration("ate_rmse", "lower", "sim3", headline=1, line="ATE", title="ATE (m)", published="ate_m"),
    Declaration("coverage", "higher", "", headline=2, line="coverage", title="coverage (%)"),
    Declaration("rpe_translation_rmse", "lower", "sim3", headline=3, title="RPE (m)", published="rpe_translation_m"),
    Declaration("rpe_rotation_rmse", "lower", "sim3", headline=4, title="RPE (°)", published="rpe_rotation_deg"),
    # One frame decides it.
    Declaration("ate_max", "lower", tolerance={"kind": "relative", "worse_by": 0.02}),
    Declaration("ate_*", "lower"),
    Declaration("rpe_*", "lower"),
    Declaration("coverage", "higher"),
    Declaration("matched_frames", "higher"),
    Declaration("dropped_frames", "lower"),
    Declaration("unmatched_frames", "lower"),
    # Of the alignment and of the reference, not of the error.
    Declaration("scale", None),
    Declaration("path_length", None),
)


SHOWN: Alignment = "sim3"
"""Always computed: reports and series rest on it."""


class TrajectorySettings(StrictModel):
    """Which conventions are computed.

    alignments: how the estimate is moved onto the reference before the two are compared; every measurement that an
    alignment can move comes under each. anchor_frames: how many matched frames ``anchor`` aligns on.
    rpe_delta_frames: step of the relative pose error, in matched frames.
    """

    alignments: Annotated[tuple[Alignment, ...], Field(min_length=1), EACH_ONCE] = ALIGNMENTS
    anchor_frames: Annotated[int, Field(ge=MIN_MATCHED)] = ANCHOR_FRAMES
    rpe_delta_frames: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True, eq=False)
class TrajectoryScore:
    """Measurements of one trajectory, and the errors along it.

    indices: (M,) frames with a finite reference and a finite estimate. reference_positions: (M, 3) metres.
    position_error_m (M,) and rotation_error_deg (M,) are after the Sim(3) alignment over all matched frames, and have
    no rows where that could not be computed; nor have rotations without an orientation, or of a motionless estimate.
    alignments: the transformations from the estimate's world to the reference's, by name, of those that could be
    computed.
    """

    measurements: tuple[Measurement, ...]
    indices: NDArray[np.int64]
    reference_positions: FloatArray
    position_error_m: FloatArray = field(default_factory=lambda: np.empty(0))
    rotation_error_deg: FloatArray = field(default_factory=lambda: np.empty(0))
    alignments: Mapping[str, Sim3] = field(default_factory=dict)


@np.errstate(over="ignore", invalid="ignore")  # what left float64's range becomes a reason, not a warning
def score_trajectory(
    reference: Trajectory,
    estimate: Trajectory,
    total_frames: int,
    settings: TrajectorySettings | None = None,
    *,
    motionless: bool = False,
) -> TrajectoryScore:
    """Score an estimate against a reference; frames are matched by their indices.

    total_frames: frames of the sequence, to which coverage refers. Whatever is not defined on the data (fewer than
    3 matched frames, a static reference, a degenerate covariance) comes back as a Measurement with its reason;
    nothing is raised for it. Rotations are re-orthogonalised (SVD) before anything else.
    motionless: the estimate stands still by design, as a floor, rather than by a fault. Every alignment puts it at the
    mean of the reference positions, where its absolute errors are measured; rotation and scale stay undetermined.
    """
    settings = settings or TrajectorySettings()
    matched = match_poses(reference, estimate)
    moves: dict[Alignment, Sim3 | str] = {}
    errors: dict[Alignment, FloatArray | str] = {}
    for name in dict.fromkeys((*settings.alignments, SHOWN)):
        try:
            moves[name] = place = alignment_of(matched, name, settings.anchor_frames)
        except UnscorableError as error:
            moves[name] = errors[name] = str(error)
            if not motionless:
                continue
            try:
                place = place_of(matched, name, settings.anchor_frames)
            except UnscorableError:
                continue  # the reason is there already
        errors[name] = _position_errors(matched, place)
    positions = matched.reference[:, :3, 3]
    measurements = (
        *_absolute({name: errors[name] for name in settings.alignments}, settings, len(matched)),
        *_relative(matched, settings, moves),
        *_shares(errors, settings, positions),
        *_context(moves, settings, positions),
        *_counts(reference, estimate, matched, total_frames),
    )
    transforms: dict[str, Sim3] = {name: move for name, move in moves.items() if not isinstance(move, str)}
    shown = errors[SHOWN]
    score = TrajectoryScore(
        measurements,
        matched.indices,
        positions,
        np.empty(0) if isinstance(shown, str) else shown,
        alignments=transforms,
    )
    if SHOWN not in transforms or matched.without_orientation is not None:
        return score
    aligned = transforms[SHOWN].apply_poses(matched.estimate)
    difference = np.swapaxes(matched.reference[:, :3, :3], 1, 2) @ aligned[:, :3, :3]
    return replace(score, rotation_error_deg=np.degrees(rotation_angle(difference)))


def plugin_measurements(reference: Trajectory, estimate: Trajectory, settings: TrajectorySettings) -> list[Measurement]:
    """What the plugins' trajectory metrics say of a scene; frames are matched by their indices."""
    if not declared("trajectory"):
        return []
    matched = match_poses(reference, estimate)
    _, rows, _ = np.intersect1d(reference.indices, matched.indices, assume_unique=True, return_indices=True)

    def aligned(name: Alignment) -> FloatArray:
        return alignment_of(matched, name, settings.anchor_frames).apply_poses(matched.estimate)

    return list(trajectory_metrics(matched, reference.timestamps[rows], aligned))


def _position_errors(matched: MatchedPoses, transform: Sim3) -> FloatArray:
    """(M,) distances in metres: evo's absolute pose error of translations."""
    aligned = transform.apply_points(matched.estimate[:, :3, 3])
    return np.asarray(np.linalg.norm(aligned - matched.reference[:, :3, 3], axis=1))


def _relative_errors(matched: MatchedPoses, transform: Sim3, delta: int) -> tuple[FloatArray, FloatArray]:
    """Translation (metres) and rotation (degrees) errors of pairs that do not overlap: evo's relative pose errors."""
    if len(matched.indices) <= delta:
        raise UnscorableError(f"only {len(matched.indices)} matched frames, more than the step of {delta} are needed")
    if matched.without_orientation is not None:
        raise UnscorableError(matched.without_orientation)
    first = np.arange(0, len(matched.indices) - delta, delta)
    return pair_errors(matched.reference, transform.apply_poses(matched.estimate), first, first + delta)


def _rmse(errors: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


_STATISTICS: Mapping[str, tuple[str, Callable[[FloatArray], float]]] = {
    "ate_rmse": ("RMSE", _rmse),
    "ate_mean": ("mean", lambda errors: float(np.mean(errors))),
    "ate_median": ("median", lambda errors: float(np.median(errors))),
    "ate_max": ("maximum", lambda errors: float(np.max(errors))),
}


def _absolute(
    errors: Mapping[Alignment, FloatArray | str], settings: TrajectorySettings, count: int
) -> Iterator[Measurement]:
    for name, of_name in errors.items():
        words = alignment_in_words(name, settings.anchor_frames)
        for statistic, (label, compute) in _STATISTICS.items():
            convention = f"{label} of the position errors of all matched frames, {words}"
            yield Quantity("trajectory", statistic, name, "m", convention).of(of_name, compute, count)


def _relative(
    matched: MatchedPoses, settings: TrajectorySettings, moves: Mapping[Alignment, Sim3 | str]
) -> Iterator[Measurement]:
    delta = settings.rpe_delta_frames
    step = "consecutive matched frames" if delta == 1 else f"matched frames {delta} apart (pairs do not overlap)"
    for name, move in moves.items():
        words = alignment_in_words(name, settings.anchor_frames)
        quantities = [
            Quantity(
                "trajectory", key, name, unit, f"RMSE of the {part} of the relative pose error between {step}, {words}"
            )
            for key, unit, part in (
                ("rpe_translation_rmse", "m", "translation"),
                ("rpe_rotation_rmse", "deg", "rotation angle"),
            )
        ]
        try:
            if isinstance(move, str):
                raise UnscorableError(move)
            errors = _relative_errors(matched, move, delta)
        except UnscorableError as error:
            yield from (quantity.failed(str(error)) for quantity in quantities)
            continue
        yield from (quantity.value(_rmse(e), len(e)) for quantity, e in zip(quantities, errors, strict=True))


def _shares(
    errors: Mapping[Alignment, FloatArray | str], settings: TrajectorySettings, truth: FloatArray
) -> Iterator[Measurement]:
    """What the absolute error means: beside that of an estimate which says nothing, and beside the way walked."""
    for name, of_name in errors.items():
        words = f"RMSE of the position errors {alignment_in_words(name, settings.anchor_frames)}, as a share of "
        motionless = "that of an estimate that never moves: the RMS distance of the reference positions from their mean"
        for key, whole, of_what in (
            ("ate_share_of_motionless", spread, motionless),
            ("ate_share_of_path", path_length, "the length of the reference path"),
        ):
            share = Quantity("trajectory", key, name, "%", words + of_what)
            yield share.of(of_name, lambda e, whole=whole: 100 * _rmse(e) / whole(truth), len(truth))  # type: ignore[misc]


def _context(
    moves: Mapping[Alignment, Sim3 | str], settings: TrajectorySettings, truth: FloatArray
) -> Iterator[Measurement]:
    over = {
        "sim3": "the Sim(3) alignment over all matched frames",
        "anchor": f"the Sim(3) alignment on the first {settings.anchor_frames} matched frames",
    }
    for name, move in moves.items():
        if name in over:
            words = f"factor by which {over[name]} multiplies the estimate's lengths"
            yield Quantity("trajectory", "scale", name, "1", words).of(move, lambda found: found.scale, len(truth))
    length = Quantity("trajectory", "path_length", "", "m", "length of the reference path through the matched frames")
    yield length.of(truth if len(truth) else "no matched frames", path_length, len(truth))


def _counts(reference: Trajectory, estimate: Trajectory, matched: MatchedPoses, total_frames: int) -> list[Measurement]:
    def count(name: str, variant: str, convention: str, value: int) -> Measurement:
        return Quantity("trajectory", name, variant, "frames", convention).value(value, total_frames)

    coverage = Quantity(
        "trajectory", "coverage", "", "%", "share of the sequence's frames that have a finite estimated pose"
    )
    posed = int(np.count_nonzero(finite_poses(estimate.camera_to_world)))
    only_reference = len(np.setdiff1d(reference.indices, estimate.indices, assume_unique=True))
    only_estimate = len(np.setdiff1d(estimate.indices, reference.indices, assume_unique=True))
    return [
        coverage.value(100.0 * posed / total_frames, total_frames)
        if total_frames
        else coverage.failed("the sequence has no frames", 0),
        count(
            "matched_frames",
            "",
            "frames with a finite reference and a finite estimated pose: those scored",
            len(matched.indices),
        ),
        count("dropped_frames", "", "frames with both poses, one of which is not finite: not scored", matched.dropped),
        count(
            "dropped_frames",
            "not_rigid",
            "frames with both poses, one of which holds no rotation (an entry of |RᵀR − I| above 0.1, or a mirror"
            " image): not scored",
            matched.not_rigid,
        ),
        count(
            "unmatched_frames",
            "no_estimate",
            "frames with a reference pose but no estimate: not scored",
            only_reference,
        ),
        count(
            "unmatched_frames",
            "no_reference",
            "frames with an estimate but no reference pose: not scored",
            only_estimate,
        ),
    ]


class TrajectoryFamily(MetricFamily):
    """Absolute and relative pose errors, coverage, and what plugins declare of trajectories."""

    Settings = TrajectorySettings

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        score = score_trajectory(
            scene.truth, scene.estimate, scene.total_frames, self.settings, motionless=self.context.motionless
        )
        scene.trajectory = score
        of_plugins = plugin_measurements(scene.truth, scene.estimate, self.settings)
        return scene.explained([*score.measurements, *of_plugins])
