"""Similarity transformations and their least-squares estimation from point pairs (Umeyama 1991)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.types import FloatArray

RANK_TOLERANCE = 1e-15
"""A few float64 epsilons: what rounding the coordinates can add to a covariance, relative to its factors."""


@dataclass(frozen=True, eq=False)
class Sim3:
    """x ↦ scale · rotation · x + translation; rotation (3, 3), translation (3,) in the target's units."""

    scale: float
    rotation: FloatArray
    translation: FloatArray

    @classmethod
    def identity(cls) -> Sim3:
        """The transformation that changes nothing."""
        return cls(1.0, np.eye(3), np.zeros(3))

    def apply_points(self, points: FloatArray) -> FloatArray:
        """(..., 3) points moved from the source's world to the target's."""
        return np.asarray(self.scale * points @ self.rotation.T + self.translation)

    def apply_poses(self, camera_to_world: FloatArray) -> FloatArray:
        """(..., 4, 4) camera-to-world poses moved to the target's world; their rotation parts stay rotations."""
        rotations = self.rotation @ camera_to_world[..., :3, :3]
        return pose_matrix(rotations, self.apply_points(camera_to_world[..., :3, 3]))

    def inverse(self) -> Sim3:
        """The transformation back."""
        back = self.rotation.T / self.scale
        return Sim3(1 / self.scale, self.rotation.T, -back @ self.translation)

    def matrix(self) -> FloatArray:
        """(4, 4) homogeneous matrix with ``scale · rotation`` in its upper left."""
        return pose_matrix(self.scale * self.rotation, self.translation)


def aligned_rmse(source: FloatArray, target: FloatArray) -> float:
    """RMSE of (N, 3) points after Sim(3) alignment, in the target's unit. Raises UnscorableError as `umeyama`."""
    moved = umeyama(source, target, with_scale=True).apply_points(source)
    return float(np.sqrt(np.mean(np.sum((moved - target) ** 2, axis=1))))


@np.errstate(over="ignore", invalid="ignore")
def umeyama(source: FloatArray, target: FloatArray, with_scale: bool) -> Sim3:
    """The similarity (or, without scale, rigid motion) with the least squared error from source to target points.

    source, target: (N, 3), row i belongs to row i. Raises UnscorableError when the rotation is not determined: the
    second singular value of the covariance is within what rounding the coordinates can make. (evo compares it with
    float64's epsilon in whatever unit, so that points exactly on a line pass or fail by chance; a path with real
    lateral motion or noise passes both.)
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3:
        raise ValueError(f"expected two (N, 3) arrays of one length, found {source.shape} and {target.shape}")
    if len(source) == 0:
        raise UnscorableError("no points to align")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_centred, target_centred = source - source_mean, target - target_mean
    covariance = target_centred.T @ source_centred / len(source)
    source_spread, target_spread = (float(np.sqrt(np.mean(c**2))) for c in (source_centred, target_centred))
    rounding = RANK_TOLERANCE * (np.abs(source).max() * target_spread + np.abs(target).max() * source_spread)
    if not (np.isfinite(covariance).all() and np.isfinite(rounding)):
        raise UnscorableError("the positions are too large for float64: their covariance is not finite")
    u, singular, vt = np.linalg.svd(covariance)
    rank = int(np.count_nonzero(singular > rounding))
    if rank < 2:
        shape = "in one point" if rank == 0 else "on one line"
        raise UnscorableError(
            f"degenerate covariance (rank {rank} of 3): the {len(source)} positions of the reference or of the estimate"
            f" lie {shape}, so the rotation of the alignment is not determined"
        )
    sign = np.ones(3)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        sign[2] = -1.0  # the best orthogonal matrix is a mirror image; this is the best rotation
    rotation = (u * sign) @ vt
    scale = float(singular @ sign / np.mean(np.sum(source_centred**2, axis=1))) if with_scale else 1.0
    return Sim3(scale, rotation, target_mean - scale * rotation @ source_mean)
