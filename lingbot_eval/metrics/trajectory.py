"""Trajectory accuracy: absolute trajectory error and relative pose error through evo (protocol.md section 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import Sim3, umeyama
from lingbot_eval.geometry.poses import path_length, rotation_angle
from lingbot_eval.metrics.base import declared, trajectory_metrics
from lingbot_eval.metrics.matching import MatchedPoses, finite_poses, match_poses
from lingbot_eval.metrics.measuring import Quantity
from lingbot_eval.types import FloatArray, Measurement, Trajectory

Alignment = Literal["sim3", "se3", "anchor", "none"]

MIN_MATCHED = 3
STATIC_METRES = 1e-6
STATIC_RELATIVE = 1e-9  # of the largest coordinate: what rounding alone makes of a camera that stands still


class TrajectorySettings(BaseModel):
    """Which conventions are computed.

    alignments: how the estimate is moved onto the reference before positions are compared; the first one also gets
    mean, median and maximum and its own relative pose error. anchor_frames: how many matched frames ``anchor``
    aligns on. rpe_delta_frames: step of the relative pose error, in matched frames.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alignments: Annotated[tuple[Alignment, ...], Field(min_length=1)] = ("sim3", "se3", "anchor", "none")
    anchor_frames: Annotated[int, Field(ge=MIN_MATCHED)] = 8
    rpe_delta_frames: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True, eq=False)
class TrajectoryScore:
    """Measurements of one trajectory, and the errors along it.

    indices: (M,) frames with a finite reference and a finite estimate. reference_positions: (M, 3) metres.
    aligned_positions (M, 3), position_error_m (M,) and rotation_error_deg (M,) are after the Sim(3) alignment over all
    matched frames, and have no rows where that could not be computed. alignments: the transformations from the
    estimate's world to the reference's, by name, of those that could be computed.
    """

    measurements: tuple[Measurement, ...]
    indices: NDArray[np.int64]
    reference_positions: FloatArray
    aligned_positions: FloatArray = field(default_factory=lambda: np.empty((0, 3)))
    position_error_m: FloatArray = field(default_factory=lambda: np.empty(0))
    rotation_error_deg: FloatArray = field(default_factory=lambda: np.empty(0))
    alignments: Mapping[str, Sim3] = field(default_factory=dict)


@np.errstate(over="ignore", invalid="ignore")  # what left float64's range becomes a reason, not a warning
def score_trajectory(
    reference: Trajectory, estimate: Trajectory, total_frames: int, settings: TrajectorySettings | None = None
) -> TrajectoryScore:
    """Score an estimate against a reference; frames are matched by their indices.

    total_frames: frames of the sequence, to which coverage refers. Whatever is not defined on the data (fewer than
    3 matched frames, a static reference, a degenerate covariance) comes back as a Measurement with its reason;
    nothing is raised for it. Rotations are re-orthogonalised (SVD) before anything else.
    """
    settings = settings or TrajectorySettings()
    matched = match_poses(reference, estimate)
    names = dict.fromkeys(("sim3", *settings.alignments))
    transforms: dict[str, Sim3] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            transforms[name] = _alignment(matched, name, settings.anchor_frames)
        except UnscorableError as error:
            reasons[name] = str(error)
    measurements = [
        *_absolute(matched, settings, transforms, reasons),
        *_relative(matched, settings, transforms, reasons),
        *_shares(matched, transforms, reasons),
        *_context(matched, transforms, reasons),
        *_counts(reference, estimate, matched, total_frames),
    ]
    positions = matched.reference[:, :3, 3]
    if "sim3" not in transforms:
        return TrajectoryScore(tuple(measurements), matched.indices, positions, alignments=transforms)
    aligned = transforms["sim3"].apply_poses(matched.estimate)
    difference = np.swapaxes(matched.reference[:, :3, :3], 1, 2) @ aligned[:, :3, :3]
    return TrajectoryScore(
        measurements=tuple(measurements),
        indices=matched.indices,
        reference_positions=positions,
        aligned_positions=aligned[:, :3, 3],
        position_error_m=_position_errors(matched, transforms["sim3"]),
        rotation_error_deg=np.degrees(rotation_angle(difference)),
        alignments=transforms,
    )


def plugin_measurements(reference: Trajectory, estimate: Trajectory, settings: TrajectorySettings) -> list[Measurement]:
    """What the plugins' trajectory metrics say of a scene; frames are matched by their indices."""
    if not declared("trajectory"):
        return []
    matched = match_poses(reference, estimate)
    _, rows, _ = np.intersect1d(reference.indices, matched.indices, assume_unique=True, return_indices=True)

    def aligned(name: str) -> FloatArray:
        return _alignment(matched, name, settings.anchor_frames).apply_poses(matched.estimate)

    return list(trajectory_metrics(matched, reference.timestamps[rows], aligned))


def _alignment(matched: MatchedPoses, name: str, anchor_frames: int) -> Sim3:
    """The transformation of the estimate for one convention; UnscorableError where it is not defined."""
    truth, guess = matched.reference[:, :3, 3], matched.estimate[:, :3, 3]
    if len(truth) < MIN_MATCHED:
        raise UnscorableError(f"only {len(truth)} matched frames, at least {MIN_MATCHED} are needed")
    if _extent(truth) <= max(STATIC_METRES, STATIC_RELATIVE * float(np.abs(truth).max())):
        raise UnscorableError(f"static reference: it moves by no more than {_extent(truth):.1g} m")
    if name == "none":
        return Sim3.identity()
    if name == "anchor":
        if len(truth) <= anchor_frames:
            raise UnscorableError(f"only {len(truth)} matched frames, more than the {anchor_frames} anchors are needed")
        truth, guess = truth[:anchor_frames], guess[:anchor_frames]
    if _extent(guess) <= STATIC_RELATIVE * float(np.abs(guess).max()):
        where = f" in its first {anchor_frames} frames" if name == "anchor" else ""
        raise UnscorableError(f"degenerate covariance: the estimate does not move{where}")
    return umeyama(guess, truth, with_scale=name != "se3")


def _extent(positions: FloatArray) -> float:
    """Length of the diagonal of the bounding box."""
    return float(np.linalg.norm(np.ptp(positions, axis=0)))


def _position_errors(matched: MatchedPoses, transform: Sim3) -> FloatArray:
    """(M,) distances in metres, by evo's absolute pose error."""
    from evo.core.metrics import APE, PoseRelation
    from evo.core.trajectory import PosePath3D

    metric = APE(PoseRelation.translation_part)
    aligned = transform.apply_poses(matched.estimate)
    metric.process_data((PosePath3D(poses_se3=list(matched.reference)), PosePath3D(poses_se3=list(aligned))))
    return np.asarray(metric.error, dtype=np.float64)


def _relative_errors(matched: MatchedPoses, transform: Sim3, delta: int) -> tuple[FloatArray, FloatArray]:
    """Translation (metres) and rotation (degrees) errors of the pairs, from evo's relative pose errors.

    The angles are taken here, from evo's error poses: evo takes them one by one, in most of the time of scoring.
    """
    from evo.core.metrics import RPE, PoseRelation, Unit
    from evo.core.trajectory import PosePath3D

    if len(matched.indices) <= delta:
        raise UnscorableError(f"only {len(matched.indices)} matched frames, more than the step of {delta} are needed")
    truth = PosePath3D(poses_se3=list(matched.reference))
    guess = PosePath3D(poses_se3=list(transform.apply_poses(matched.estimate)))
    metric = RPE(PoseRelation.translation_part, delta=delta, delta_unit=Unit.frames, all_pairs=False)
    metric.process_data((truth, guess))
    turns = rotation_angle(np.asarray(metric.E)[:, :3, :3])
    return np.asarray(metric.error, dtype=np.float64), np.degrees(turns)


def _rmse(errors: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


_STATISTICS: Mapping[str, tuple[str, Callable[[FloatArray], float]]] = {
    "ate_rmse": ("RMSE", _rmse),
    "ate_mean": ("mean", lambda errors: float(np.mean(errors))),
    "ate_median": ("median", lambda errors: float(np.median(errors))),
    "ate_max": ("maximum", lambda errors: float(np.max(errors))),
}


def alignment_in_words(name: str, anchor_frames: int) -> str:
    """How an alignment is named in every convention."""
    return {
        "sim3": "after Sim(3) Umeyama alignment over all matched frames",
        "se3": "after SE(3) Umeyama alignment (no scale) over all matched frames",
        "anchor": f"after Sim(3) Umeyama alignment on the first {anchor_frames} matched frames, then free to drift",
        "none": "without alignment, in the estimate's own world and scale",
    }[name]


def _absolute(
    matched: MatchedPoses, settings: TrajectorySettings, transforms: Mapping[str, Sim3], reasons: Mapping[str, str]
) -> list[Measurement]:
    count = len(matched.indices)
    found = []
    for name in settings.alignments:
        errors = _position_errors(matched, transforms[name]) if name in transforms else None
        words = alignment_in_words(name, settings.anchor_frames)
        for statistic, (label, compute) in _STATISTICS.items():
            if statistic != "ate_rmse" and name != settings.alignments[0]:
                continue
            convention = f"{label} of the position errors of all matched frames, {words}"
            quantity = Quantity("trajectory", statistic, name, "m", convention)
            found.append(
                quantity.failed(reasons[name], count) if errors is None else quantity.value(compute(errors), count)
            )
    return found


def _relative(
    matched: MatchedPoses, settings: TrajectorySettings, transforms: Mapping[str, Sim3], reasons: Mapping[str, str]
) -> list[Measurement]:
    delta = settings.rpe_delta_frames
    step = "consecutive matched frames" if delta == 1 else f"matched frames {delta} apart (pairs do not overlap)"
    found = []
    for name in dict.fromkeys(("sim3", settings.alignments[0])):
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
            if name not in transforms:
                raise UnscorableError(reasons[name])
            errors = _relative_errors(matched, transforms[name], delta)
        except UnscorableError as error:
            found += [quantity.failed(str(error)) for quantity in quantities]
            continue
        found += [quantity.value(_rmse(e), len(e)) for quantity, e in zip(quantities, errors, strict=True)]
    return found


def _shares(matched: MatchedPoses, transforms: Mapping[str, Sim3], reasons: Mapping[str, str]) -> list[Measurement]:
    """What the absolute error means: beside that of an estimate which says nothing, and beside the way walked."""
    count = len(matched.indices)
    convention = f"RMSE of the position errors {alignment_in_words('sim3', 0)}, as a share of "
    of_motionless = Quantity(
        "trajectory",
        "ate_share_of_motionless",
        "sim3",
        "%",
        convention
        + "that of an estimate that never moves: the RMS distance of the reference positions from their mean",
    )
    of_path = Quantity("trajectory", "ate_share_of_path", "sim3", "%", convention + "the length of the reference path")
    if "sim3" not in transforms:
        return [quantity.failed(reasons["sim3"], count) for quantity in (of_motionless, of_path)]
    truth = matched.reference[:, :3, 3]
    error = _rmse(_position_errors(matched, transforms["sim3"]))
    motionless = _rmse(np.linalg.norm(truth - truth.mean(axis=0), axis=1))
    path = path_length(truth)
    return [of_motionless.value(100 * error / motionless, count), of_path.value(100 * error / path, count)]


def _context(matched: MatchedPoses, transforms: Mapping[str, Sim3], reasons: Mapping[str, str]) -> list[Measurement]:
    count = len(matched.indices)
    scale = Quantity(
        "trajectory",
        "scale",
        "sim3",
        "1",
        "factor by which the Sim(3) alignment over all matched frames multiplies the estimate's lengths",
    )
    length = Quantity("trajectory", "path_length", "", "m", "length of the reference path through the matched frames")
    return [
        scale.value(transforms["sim3"].scale, count) if "sim3" in transforms else scale.failed(reasons["sim3"], count),
        length.value(path_length(matched.reference[:, :3, 3]), count)
        if count
        else length.failed("no matched frames", count),
    ]


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
