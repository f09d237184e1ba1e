"""The alignments of an estimate onto its reference: one place that names them and says when each is defined."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import Sim3, umeyama
from lingbot_eval.metrics.matching import MatchedPoses
from lingbot_eval.types import FloatArray

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
