"""Pairs reference and estimated poses by frame, and sets aside those that nothing can be computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.geometry.poses import finite_poses, orthogonalised, rotation_angle
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


@np.errstate(over="ignore", invalid="ignore")
def usable_poses(poses: FloatArray) -> NDArray[np.bool_]:
    """(N,) whether (N, 4, 4) poses are finite and their matrix is a rotation but for rounding."""
    finite = finite_poses(poses)
    rotation = np.where(finite[:, None, None], poses, np.eye(4))[:, :3, :3]
    excess = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - np.eye(3)).max(axis=(1, 2), initial=0.0)
    return np.asarray(finite & (excess <= RIGID_TOLERANCE) & (np.linalg.det(rotation) > 0))
