"""Whether repeated timings got slower: rounds as the unit, Mann–Whitney's test, a minimum effect, and the noise seen.

Times of consecutive frames are not independent: whatever disturbs one (a neighbour on the machine, a clock that
changed, where the process's memory came to lie) lasts for many, and some of it for the whole process. On the samples
recorded in tests/gate/data neighbouring frames correlate with 0.5 and the medians of whole rounds still differ by
several percent. A test over frames would therefore call every second repeat of the same code slower. So:

* a *round* is one pass through a scene in a process (or a pass of its own); its frames are compared with the same
  frames of the baseline, whose typical times are divided out: what a full window costs more is no noise;
* frames are gathered into *blocks* of consecutive ones, of which the median counts; a round's figure is the median of
  its blocks;
* the spread that decides is that *between rounds of the same code*, never that of frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import mannwhitneyu
from scipy.stats import t as student

from lingbot_eval.types import FloatArray

BLOCK_FRAMES = 8
"""On the recorded samples a block's median correlates with the next one's by less than 0.3, a frame's time by 0.5."""
FEWEST_BLOCKS = 4
FEWEST_ROUNDS = 3
"""Of the baseline: two rounds tell a difference and nothing of how far it is usual."""
MEDIAN_ERROR = 1.25
"""A median's standard error over a mean's, for normal data: √(π/2)."""


@dataclass(frozen=True)
class TimingVerdict:
    """effect: share by which the run's rounds are slower (negative: faster). margin: how far rounds of the same code
    lie apart by chance, as a share, at the level asked for. p: Mann–Whitney, one-sided, of ``unit``s; None where the
    samples could not be compared, and reason says why."""

    status: Literal["held", "better", "regression", "incomparable"]
    reason: str
    effect: float | None = None
    margin: float | None = None
    p: float | None = None
    unit: Literal["rounds", "blocks"] = "rounds"


def judge_rounds(
    baseline: Sequence[FloatArray], run: Sequence[FloatArray], min_effect: float, alpha: float
) -> TimingVerdict:
    """Whether ``run`` is slower than ``baseline`` by more than ``min_effect`` and by more than chance.

    Each round: (N,) milliseconds of the same N frames in order, NaN where a frame has none. A regression needs all of:
    the effect above min_effect, above the margin, and p < alpha. Where the margin is wider than min_effect, a run that
    is not clearly better or worse is incomparable: the machine was too restless to tell.
    """
    problem = _problem(baseline, run)
    if problem is not None:
        return TimingVerdict("incomparable", problem)
    typical = np.median(np.stack(baseline), axis=0)
    old, new = ([_blocks(np.log(times / typical)) for times in rounds] for rounds in (baseline, run))
    before, after = (np.array([np.median(blocks) for blocks in rounds]) for rounds in (old, new))
    shift = float(np.median(after) - np.median(before))
    spread = _margin(old, new, alpha)
    effect, margin = math.expm1(shift), math.expm1(spread)
    slower = _p_value(before, after, old, new, alpha)
    faster = _p_value(-before, -after, [-b for b in old], [-b for b in new], alpha)
    unit: Literal["rounds", "blocks"] = "rounds" if _enough_rounds(len(before), len(after), alpha) else "blocks"
    words = _words(effect, margin, len(before), len(after))
    if effect > min_effect and shift > spread and slower < alpha:
        return TimingVerdict("regression", f"{words}, p = {slower:.1g} ({unit})", effect, margin, slower, unit)
    if -shift > max(spread, math.log1p(min_effect)) and faster < alpha:
        return TimingVerdict("better", f"{words}, p = {faster:.1g} ({unit})", effect, margin, slower, unit)
    if margin > min_effect and shift + spread > math.log1p(min_effect):
        return TimingVerdict(
            "incomparable",
            f"{words}: too restless to tell {min_effect:.0%}; repeat on a quieter machine or give more runs",
            effect,
            margin,
            slower,
            unit,
        )
    return TimingVerdict("held", words, effect, margin, slower, unit)


def _problem(baseline: Sequence[FloatArray], run: Sequence[FloatArray]) -> str | None:
    if len(baseline) < FEWEST_ROUNDS:
        return (
            f"the baseline has {len(baseline)} round{'s' * (len(baseline) != 1)} of timings, {FEWEST_ROUNDS} are needed"
            " to know how far repeats lie apart: give --update that many runs"
        )
    if not run:
        return "the run has no timings"
    lengths = {len(times) for times in (*baseline, *run)}
    if len(lengths) > 1:
        return f"rounds of {min(lengths)} and of {max(lengths)} timed frames: expected the same frames in all"
    (frames,) = lengths
    if frames < BLOCK_FRAMES * FEWEST_BLOCKS:
        return f"{frames} timed frames a round, at least {BLOCK_FRAMES * FEWEST_BLOCKS} are needed"
    if not all(np.isfinite(times).all() and (times > 0).all() for times in (*baseline, *run)):
        return "some timed frames have no time"
    return None


def _blocks(values: FloatArray) -> FloatArray:
    """(blocks,) medians of consecutive values; a last block that is not full is left out."""
    count = len(values) // BLOCK_FRAMES
    blocks: FloatArray = np.median(values[: count * BLOCK_FRAMES].reshape(count, BLOCK_FRAMES), axis=1)
    return blocks


def _margin(old: list[FloatArray], new: list[FloatArray], alpha: float) -> float:
    """Largest difference of the two medians of rounds that chance makes of the same code, one-sided, in logarithms.

    Student's t with the spread between rounds, pooled over both sides where the run has rounds enough to show its own.
    Where it has not, the baseline's stands for it, and grows as the run's blocks scatter more inside a round than
    theirs do: somebody else was on the machine.
    """
    before, after = (np.array([np.median(blocks) for blocks in rounds]) for rounds in (old, new))
    squares, freedom = float(np.sum((before - before.mean()) ** 2)), len(before) - 1
    factor = 1.0
    if len(after) >= FEWEST_ROUNDS:
        squares += float(np.sum((after - after.mean()) ** 2))
        freedom += len(after) - 1
    else:
        usual = float(np.median([np.std(blocks) for blocks in old]))
        restless = float(np.median([np.std(blocks) for blocks in new]))
        factor = max(1.0, restless / usual) if usual > 0 else 1.0
    error = MEDIAN_ERROR * math.sqrt(squares / freedom * (1 / len(before) + factor**2 / len(after)))
    return float(student.ppf(1 - alpha, freedom)) * error


def _enough_rounds(before: int, after: int, alpha: float) -> bool:
    """Whether the test over rounds can reach ``alpha`` at all: its smallest p is one over the ways to deal them."""
    return 1 / math.comb(before + after, after) < alpha


def _p_value(
    before: FloatArray, after: FloatArray, old: list[FloatArray], new: list[FloatArray], alpha: float
) -> float:
    """One-sided p that the run's are larger; over blocks where there are too few rounds to tell anything.

    Blocks of a round share what befell the round, so their p is too small by itself: the margin is what holds then.
    """
    if _enough_rounds(len(before), len(after), alpha):
        return float(mannwhitneyu(after, before, alternative="greater").pvalue)
    return float(mannwhitneyu(np.concatenate(new), np.concatenate(old), alternative="greater").pvalue)


def _words(effect: float, margin: float, before: int, after: int) -> str:
    side = "slower" if effect > 0 else "faster"
    return f"{abs(effect):.1%} {side}, chance makes up to {margin:.1%} ({before} rounds before, {after} now)"
