"""Pairs reference and estimated poses by frame, sets aside what nothing can be computed from, and aligns the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import Sim3, umeyama
from lingbot_eval.geometry.poses import finite_poses, orthogonalised, rotation_angle, rotation_faults
from lingbot_eval.types import FloatArray, Trajectory

RIGID_TOLERANCE = 0.1
"""Largest entry of |RᵀR − I| that is taken as rounding of a rotation and mended; float text and KinectFusion's poses
stay below 0.01, a scaled or sheared matrix does not."""
NEVER_CHANGES = 1e-6  # largest difference of an entry: files that know no orientation write one and the same
TURNING_SHARE = 0.1
"""How far a path leaves its straight line, as a share of its spread along it, to be one that turns."""
CAMERA_TURNS = float(np.radians(3.0))  # from where on the reference's camera turns


@dataclass(frozen=True, eq=False)
class MatchedPoses:
    """Frames with a usable reference and a usable estimate.

    indices: (M,) frames. reference (metres), estimate (its own unit): (M, 4, 4) camera-to-world, rotations
    orthogonalised by SVD (protocol.md section 1). dropped: frames of both, one of them not finite. not_rigid: frames
    of both, finite, one of them with a matrix that is no rotation. without_orientation: why what needs orientation
    cannot be computed, or None where both have one. computed_by: of the reference, as `Trajectory` has it.
    """

    indices: NDArray[np.int64]
    reference: FloatArray
    estimate: FloatArray
    dropped: int
    not_rigid: int
    without_orientation: str | None = None
    computed_by: str | None = None

    def __len__(self) -> int:
        return len(self.indices)


@np.errstate(over="ignore", invalid="ignore")
def match_poses(reference: Trajectory, estimate: Trajectory) -> MatchedPoses:
    """Match two trajectories by frame index; raises nothing: what cannot be used is counted."""
    indices, in_reference, in_estimate = np.intersect1d(
        reference.indices, estimate.indices, assume_unique=True, return_indices=True
    )
    truth, guess = reference.camera_to_world[in_reference], estimate.camera_to_world[in_estimate]
    finite = finite_poses(truth) & finite_poses(guess)
    rigid = usable_poses(truth) & usable_poses(guess)
    truth, guess = orthogonalised(truth[rigid]), orthogonalised(guess[rigid])
    return MatchedPoses(
        indices[rigid],
        truth,
        guess,
        dropped=int(np.count_nonzero(~finite)),
        not_rigid=int(np.count_nonzero(finite & ~rigid)),
        without_orientation=_nothing_turns("estimate", estimate.has_orientation, guess, truth)
        or _nothing_turns("reference", reference.has_orientation, truth, truth),
        computed_by=reference.computed_by,
    )


def _nothing_turns(side: str, has_orientation: bool, poses: FloatArray, truth: FloatArray) -> str | None:
    """Why the poses of a side have no orientation; None where they have one.

    truth: the reference's poses, which tell whether there was something to turn for: an orientation that turns itself,
    or a path that does.
    """
    if not has_orientation:
        return f"the {side} has positions only: there is no orientation"
    if len(poses) < 3 or np.abs(poses[:, :3, :3] - poses[0, :3, :3]).max() > NEVER_CHANGES:
        return None
    turned = rotation_angle(np.swapaxes(truth[:1, :3, :3], 1, 2) @ truth[:, :3, :3])
    centred = truth[:, :3, 3] - truth[:, :3, 3].mean(axis=0)
    along, across = np.linalg.svd(centred, compute_uv=False)[:2] if np.isfinite(centred).all() else (1.0, 0.0)
    if across <= TURNING_SHARE * along and float(turned.max()) <= CAMERA_TURNS:
        return None
    what = "path" if across > TURNING_SHARE * along else "camera"
    return f"the orientation of the {side} never changes while the {what} turns: it is taken as none"


def usable_poses(poses: FloatArray) -> NDArray[np.bool_]:
    """(N,) whether (N, 4, 4) poses are finite and their matrix is a rotation but for rounding."""
    finite = finite_poses(poses)
    excess, mirrored = rotation_faults(np.where(finite[:, None, None], poses, np.eye(4))[:, :3, :3])
    return np.asarray(finite & (excess <= RIGID_TOLERANCE) & ~mirrored)


Alignment = Literal["sim3", "se3", "anchor", "none"]
ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)

MIN_MATCHED = 3
ANCHOR_FRAMES = 8
STATIC_METRES = 1e-6
STATIC_RELATIVE = 1e-9  # of the largest coordinate: what rounding alone makes of a camera that stands still


def alignment_of(matched: MatchedPoses, name: Alignment, anchor_frames: int = ANCHOR_FRAMES) -> Sim3:
    """The transformation of the estimate's world into the reference's, by the convention ``name``.

    anchor_frames: how many matched frames ``anchor`` aligns on. Raises UnscorableError where it is not defined.
    """
    truth, guess = _aligned_on(matched, name, anchor_frames)
    if name == "none":
        return Sim3.identity()
    if _extent(guess) <= STATIC_RELATIVE * float(np.abs(guess).max()):
        where = f" in its first {anchor_frames} frames" if name == "anchor" else ""
        raise UnscorableError(f"degenerate covariance: the estimate does not move{where}")
    return umeyama(guess, truth, with_scale=name != "se3")


def place_of(matched: MatchedPoses, name: Alignment, anchor_frames: int = ANCHOR_FRAMES) -> Sim3:
    """`alignment_of` an estimate in one point: a translation to the mean of the reference positions it is aligned on.

    The least squared error determines nothing more, neither rotation nor scale. Raises UnscorableError as
    `alignment_of`, but for the estimate.
    """
    truth, guess = _aligned_on(matched, name, anchor_frames)
    if name == "none":
        return Sim3.identity()
    return Sim3(1.0, np.eye(3), truth.mean(axis=0) - guess.mean(axis=0))


def _aligned_on(matched: MatchedPoses, name: Alignment, anchor_frames: int) -> tuple[FloatArray, FloatArray]:
    """(N, 3) positions of reference and estimate that the alignment rests on. Raises UnscorableError."""
    truth, guess = matched.reference[:, :3, 3], matched.estimate[:, :3, 3]
    if matched.computed_by is not None and name in ("se3", "none"):
        raise UnscorableError(f"the reference is {matched.computed_by}: its unit of length is its own, not the metre")
    if len(truth) < MIN_MATCHED:
        raise UnscorableError(f"only {len(truth)} matched frames, at least {MIN_MATCHED} are needed")
    if _extent(truth) <= max(STATIC_METRES, STATIC_RELATIVE * float(np.abs(truth).max())):
        raise UnscorableError(f"static reference: it moves by no more than {_extent(truth):.1g} m")
    if name == "anchor":
        if len(truth) <= anchor_frames:
            raise UnscorableError(f"only {len(truth)} matched frames, more than the {anchor_frames} anchors are needed")
        truth, guess = truth[:anchor_frames], guess[:anchor_frames]
    return truth, guess


def alignment_in_words(name: Alignment, anchor_frames: int = ANCHOR_FRAMES) -> str:
    """How an alignment is named in every convention."""
    return {
        "sim3": "after Sim(3) Umeyama alignment over all matched frames",
        "se3": "after SE(3) Umeyama alignment (no scale) over all matched frames",
        "anchor": f"after Sim(3) Umeyama alignment on the first {anchor_frames} matched frames, then free to drift",
        "none": "without alignment, in the estimate's own world and scale",
    }[name]


def _extent(positions: FloatArray) -> float:
    """Length of the diagonal of the bounding box."""
    return float(np.linalg.norm(np.ptp(positions, axis=0)))
