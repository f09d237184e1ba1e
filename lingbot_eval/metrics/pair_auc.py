"""Relative-pose accuracy over all pairs of frames: AUC in both definitions, Racc, Tacc (protocol.md section 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.metrics.base import MetricFamily, Quantity, ScoredScene
from lingbot_eval.metrics.matching import match_poses
from lingbot_eval.settings import EACH_ONCE, StrictModel
from lingbot_eval.types import Declaration, FloatArray, Measurement, Trajectory

Definition = Literal["auc", "auc_first_camera"]
Degrees = Annotated[int, Field(ge=1, le=180)]
Counts = NDArray[np.int64]
PairProgress = Callable[[int, int], None]
"""Takes how many pairs are done, and how many there are."""

_WORDS: dict[Definition, str] = {
    "auc": "relative pose of each pair i < j seen from camera i (W_i W_j⁻¹, independent of the world)",
    "auc_first_camera": "both trajectories moved to their first matched camera, then W_i⁻¹ W_j of each pair i < j",
}
_BINS = 181  # degrees 0…179 and, alone, errors of exactly 180


DECLARED = (
    Declaration("auc_30", "higher", "", headline=6, title="AUC@30 (%)"),
    Declaration("auc_first_camera_30", "higher", "", title="AUC@30 of the first camera (%)"),
    # Shares of pairs in percent: a few sit on the threshold on any machine.
    Declaration("*", "higher", published="auc_*", tolerance={"kind": "absolute", "worse_by": 0.2}),
)


class PairAucSettings(StrictModel):
    """Which thresholds (whole degrees) are computed."""

    thresholds_deg: Annotated[tuple[Degrees, ...], Field(min_length=1), EACH_ONCE] = (3, 5, 15, 30)


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Errors of all pairs in bins of one degree: (181,) counts, bin k is k ≤ error < k + 1, the last exactly 180.

    error: the larger of both errors of a pair. whole: (181,) pairs whose error is exactly k degrees, which numpy's
    closed last bin counts below k.
    """

    rotation: Counts
    translation: Counts
    error: Counts
    whole: Counts

    @property
    def pairs(self) -> int:
        """Number of pairs, N (N − 1) / 2."""
        return int(self.error.sum())

    def area(self, threshold: int) -> float:
        """AUC@threshold in %: mean over its one-degree bins of the cumulative histogram, numpy's last bin closed."""
        bins = self.error[:threshold].copy()
        bins[-1] += self.whole[threshold]
        return 100.0 * float(np.cumsum(bins).sum()) / (threshold * self.pairs)


def pair_measurements(
    reference: Trajectory,
    estimate: Trajectory,
    settings: PairAucSettings | None = None,
    progress: PairProgress | None = None,
) -> tuple[Measurement, ...]:
    """AUC, Racc and Tacc of an estimate, family ``auc``; frames are matched by index, ``samples`` are pairs.

    Pooling the pairs of several scenes (*micro*) is therefore the mean of the scenes' values weighted by samples.
    What is not defined (fewer than 3 matched frames, a trajectory without motion or orientation) comes back with its
    reason. progress: called with the pairs done and those there are, over and over, on the CPU.
    """
    settings = settings or PairAucSettings()
    matched = match_poses(reference, estimate)
    found: list[Measurement] = []
    pairs = len(matched) * (len(matched) - 1) // 2

    def report(position: int, done: int) -> None:
        if progress is not None:
            progress(position * pairs + done, len(_WORDS) * pairs)

    for position, definition in enumerate(_WORDS):
        quantities = list(_quantities(definition, settings.thresholds_deg))
        try:
            if matched.without_orientation is not None:
                raise UnscorableError(matched.without_orientation)
            counts = count_pairs(matched.reference, matched.estimate, definition, partial(report, position))
        except UnscorableError as error:
            found += [quantity.failed(str(error), 0) for quantity, _, _ in quantities]
            continue
        for quantity, kind, threshold in quantities:
            found.append(quantity.value(_share(counts, kind, threshold), counts.pairs))
    return tuple(found)


def _quantities(definition: Definition, thresholds: tuple[int, ...]) -> Iterator[tuple[Quantity, str, int]]:
    suffix = definition.removeprefix("auc")
    pairs = f"{_WORDS[definition]}; pairs without a direction count 90° of translation error"
    words = {
        "auc": "mean over {t} one-degree bins of the cumulative histogram of max(rotation error, direction error"
        " folded to ≤ 90°)",
        "racc": "share of pairs whose rotation error is below {t}°",
        "tacc": "share of pairs whose direction error, folded to ≤ 90°, is below {t}°",
    }
    for kind, sentence in words.items():
        for threshold in thresholds:
            name = f"{kind}{suffix}_{threshold}"
            yield Quantity("auc", name, "", "%", f"{sentence.format(t=threshold)}; {pairs}"), kind, threshold


def _share(counts: PairCounts, kind: str, threshold: int) -> float:
    if kind == "auc":
        return counts.area(threshold)
    histogram = counts.rotation if kind == "racc" else counts.translation
    return 100.0 * int(histogram[:threshold].sum()) / counts.pairs


def count_pairs(
    reference: FloatArray,
    estimate: FloatArray,
    definition: Definition = "auc",
    report: Callable[[int], None] = lambda done: None,
) -> PairCounts:
    """Errors of all pairs of (N, 4, 4) camera-to-world poses with true rotations, in time N² and memory N.

    With E_k = R_est,k R_ref,kᵀ the rotation error of a pair has the cosine (⟨E_i, E_j⟩ − 1)/2 and the direction error
    is the angle between Δt_ref and E_iᵀ Δt_est; ``auc_first_camera`` is the same of the inverse poses, seen from the
    first camera. Raises UnscorableError for fewer than 3 poses or a trajectory that does not move. report: called with
    the pairs done after each row.
    """
    if len(reference) < 3:
        raise UnscorableError(f"only {len(reference)} matched frames, at least 3 are needed")
    moved = []
    for name, poses in (("reference", reference), ("estimate", estimate)):
        with np.errstate(over="ignore"):
            extent = float(np.ptp(poses[:, :3, 3], axis=0).max())
        if not np.isfinite(extent):
            raise UnscorableError(f"the positions of the {name} are too large for float64")
        # What rounding alone makes of a camera that stands still.
        if extent <= 1e-9 * float(np.abs(poses[:, :3, 3]).max()):
            raise UnscorableError(f"static {name}: it does not move, so its pairs have no directions")
        unit = poses.copy()
        # Directions do not depend on origin and unit; numbers around 1 can neither overflow nor underflow.
        unit[:, :3, 3] = (poses[:, :3, 3] - poses[0, :3, 3]) / extent
        moved.append(inverse(inverse(unit[0]) @ unit) if definition == "auc_first_camera" else unit)
    truth, guess = moved
    turns = guess[:, :3, :3] @ np.swapaxes(truth[:, :3, :3], 1, 2)
    positions = np.ascontiguousarray(truth[:, :3, 3].T), np.ascontiguousarray(guess[:, :3, 3].T)
    return _count(turns, *positions, report)


def _count(turns: FloatArray, truth: FloatArray, guess: FloatArray, report: Callable[[int], None]) -> PairCounts:
    """turns: (N, 3, 3). truth, guess: (3, N) positions."""
    rows = np.ascontiguousarray(turns.reshape(-1, 9).T)
    counts = PairCounts(*(np.zeros(_BINS, dtype=np.int64) for _ in range(4)))
    done = 0
    # Row by row: everything of one row stays in the processor's cache, and no N² array is ever made.
    for i in range(truth.shape[1] - 1):
        rotation = _degrees((rows[:, i] @ rows[:, i + 1 :] - 1.0) / 2.0)
        step = truth[:, i + 1 :] - truth[:, i : i + 1]
        turned = turns[i].T @ (guess[:, i + 1 :] - guess[:, i : i + 1])
        lengths = np.sqrt(np.einsum("kj,kj->j", step, step)) * np.sqrt(np.einsum("kj,kj->j", turned, turned))
        cosine = np.abs(np.einsum("kj,kj->j", step, turned))
        np.divide(cosine, lengths, out=cosine, where=lengths > 0)
        translation = _degrees(cosine)
        error = np.maximum(rotation, translation)
        for histogram, values in (
            (counts.rotation, rotation),
            (counts.translation, translation),
            (counts.error, error),
        ):
            histogram += np.bincount(values.astype(np.intp), minlength=_BINS)
        whole = error[error == np.floor(error)]
        if len(whole):
            np.add.at(counts.whole, whole.astype(np.intp), 1)
        done += len(error)
        report(done)
    return counts


def _degrees(cosine: FloatArray) -> FloatArray:
    # The ends of the range are only passed by rounding.
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


class PairAucFamily(MetricFamily):
    """Relative pose AUC over all pairs of frames."""

    Settings = PairAucSettings

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        return scene.explained(pair_measurements(scene.truth, scene.estimate, self.settings))
