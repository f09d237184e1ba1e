"""What noisy numbers tell: whether repeated timings differ, how a series grows, how far a mean error may be by chance.

Whether a speed differs is asked by the gate and by a comparison, and answered once, by `judge_rounds`.
Times of consecutive frames are not independent: whatever disturbs one (a neighbour on the machine, a clock that
changed, where the process's memory came to lie) lasts for many, and some of it for the whole process. On the samples
recorded in tests/gate/data neighbouring frames correlate with 0.5 and the medians of whole rounds still differ by
several percent: a test over frames calls 10 of the 24 repeats of the same code slower at p < 0.01. So:

* a *round* is one pass through a scene in a process (or a pass of its own); its frames are compared with the same
  frames of the baseline, whose typical times are divided out: what a full window costs more is no noise;
* frames are gathered into *blocks* of consecutive ones, of which the median counts; a round's figure is the median of
  its blocks;
* the spread that decides is that *between rounds of the same code*, never that of frames;
* rounds of two sides measured in turn are compared pair by pair: a load that comes and goes meets both;
* a machine whose rounds spread further than the change that is looked for drifts as well (on restless_rounds.json the
  second half of 24 repeats is 11 % slower): rounds measured apart have to show more on it, or cannot be judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import UnscorableError
from lingbot_eval.types import FloatArray

BLOCK_FRAMES = 8
"""On the recorded samples a block's median correlates with the next one's by less than 0.3, a frame's time by 0.5."""
FEWEST_BLOCKS = 4
FEWEST_ROUNDS = 3
"""Of the baseline: two rounds tell a difference and nothing of how far it is usual."""
MEDIAN_ERROR = 1.25
"""A median's standard error over a mean's, for normal data: √(π/2)."""
MIN_EFFECT, ALPHA = 0.08, 0.01
"""The share below which a change of speed does not matter, and the chance of seeing one in the same code."""

Unit = Literal["rounds", "pairs of rounds", "blocks"]


@dataclass(frozen=True)
class TimingVerdict:
    """effect: share by which the run's rounds are slower (negative: faster); low, high: what it may be by chance, each
    end missed with the chance asked for. p: Mann–Whitney, of pairs Wilcoxon, one-sided, over ``unit``s. All None where
    the samples could not be compared, and reason says why."""

    status: Literal["held", "better", "regression", "incomparable"]
    reason: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    unit: Unit = "rounds"


@dataclass(frozen=True)
class Estimate:
    """A number, and the ends of what it may be by chance."""

    value: float
    low: float
    high: float


def judge_rounds(
    baseline: Sequence[FloatArray],
    run: Sequence[FloatArray],
    min_effect: float = MIN_EFFECT,
    alpha: float = ALPHA,
    *,
    in_turn: bool = False,
) -> TimingVerdict:
    """Whether ``run`` is slower than ``baseline`` by more than ``min_effect`` and by more than chance.

    Each round: (N,) milliseconds of the same N frames in order, NaN where a frame has none. A regression needs all of:
    the effect above min_effect, its lower end above 0, and p < alpha. The machine was restless where an end lies
    further from the effect than min_effect: then the lower end of rounds measured apart has to be above min_effect, too
    (such a machine drifts between the sides, which no test over rounds knows of), and a run of which an end reaches
    beyond min_effect is incomparable. in_turn: the k-th rounds of both sides were measured one after the other, so that
    what befell the machine befell both.
    """
    problem = _problem(baseline, run)
    if problem is not None:
        return TimingVerdict("incomparable", problem)
    typical = np.median(np.stack(baseline), axis=0)
    old, new = ([_blocks(np.log(times / typical)) for times in rounds] for rounds in (baseline, run))
    before, after = (np.array([np.median(blocks) for blocks in rounds]) for rounds in (old, new))
    shift, slower, faster, unit = _tested((before, after), (old, new), alpha, in_turn=in_turn)
    limit = math.log1p(min_effect)
    restless = max(shift.high - shift.value, shift.value - shift.low) > limit
    beyond = limit if restless and unit != "pairs of rounds" else 0.0
    words = _words(shift, len(before), len(after))
    status: Literal["held", "better", "regression", "incomparable"] = "held"
    if shift.value > limit and shift.low > beyond and slower < alpha:
        status = "regression"
    elif shift.value < -limit and shift.high < -beyond and faster < alpha:
        status = "better"
    elif shift.high > limit and restless:
        status = "incomparable"
        words += f": too restless to tell {min_effect:.0%}; repeat on a quieter machine, in turn or with more rounds"
    effect, low, high = (math.expm1(value) for value in (shift.value, shift.low, shift.high))
    return TimingVerdict(status, words, effect, low, high, slower, unit)


def too_few_rounds(count: int) -> str:
    """What a baseline of so few rounds cannot tell, and what to do."""
    return (
        f"the baseline has {count} round{'s' * (count != 1)} of timings, {FEWEST_ROUNDS} are needed"
        " to know how far repeats lie apart: give --update that many runs"
    )


def _problem(baseline: Sequence[FloatArray], run: Sequence[FloatArray]) -> str | None:
    if len(baseline) < FEWEST_ROUNDS:
        return too_few_rounds(len(baseline))
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


def _tested(
    rounds: tuple[FloatArray, FloatArray],
    blocks: tuple[list[FloatArray], list[FloatArray]],
    alpha: float,
    *,
    in_turn: bool,
) -> tuple[Estimate, float, float, Unit]:
    """The shift, p of slower and of faster, and what was tested: the strongest test that there are samples for."""
    from scipy.stats import mannwhitneyu, wilcoxon

    before, after = rounds
    if in_turn and len(before) == len(after) and _rank_of_pairs(len(before), alpha) >= 0:
        pairs = after - before
        # Nothing to rank where nothing differs.
        slower, faster = (
            float(wilcoxon(pairs, alternative=side).pvalue) if pairs.any() else 1.0 for side in ("greater", "less")
        )
        return _shift_of_pairs(pairs, alpha), slower, faster, "pairs of rounds"
    by_rounds = _rank(len(before), len(after), alpha) >= 0
    one, other = rounds if by_rounds else (np.concatenate(blocks[0]), np.concatenate(blocks[1]))
    slower, faster = (float(mannwhitneyu(other, one, alternative=side).pvalue) for side in ("greater", "less"))
    shift = _shift_of_ranks(before, after, alpha) if by_rounds else _shift_of_few(*blocks, alpha)
    return shift, slower, faster, "rounds" if by_rounds else "blocks"


def _rank_of_pairs(pairs: int, alpha: float) -> int:
    """As :func:`_rank`, among the means of each two pairs (Walsh averages; Conover, section 5.7)."""
    spread = math.sqrt(pairs * (pairs + 1) * (2 * pairs + 1) / 24)
    return math.floor(pairs * (pairs + 1) / 4 - NormalDist().inv_cdf(1 - alpha) * spread)


def _shift_of_pairs(differences: FloatArray, alpha: float) -> Estimate:
    """Hodges' and Lehmann's centre of paired differences, with the ends that belong to Wilcoxon's signed ranks."""
    first, second = np.triu_indices(len(differences))
    means = np.sort((differences[first] + differences[second]) / 2)
    rank = _rank_of_pairs(len(differences), alpha)
    return Estimate(float(np.median(means)), float(means[rank]), float(means[-1 - rank]))


def _rank(before: int, after: int, alpha: float) -> int:
    """Which of the sorted differences of all pairs of rounds is the lower end of their shift, from 0; negative where
    there are too few rounds for any (Conover, Practical Nonparametric Statistics, 1999, section 5.4)."""
    pairs = before * after
    return math.floor(pairs / 2 - NormalDist().inv_cdf(1 - alpha) * math.sqrt(pairs * (before + after + 1) / 12))


def _shift_of_ranks(before: FloatArray, after: FloatArray, alpha: float) -> Estimate:
    """Hodges' and Lehmann's shift with the ends that belong to Mann–Whitney's test: a disturbed round is one rank."""
    differences = np.sort((after[:, None] - before[None, :]).ravel())
    rank = _rank(len(before), len(after), alpha)
    return Estimate(float(np.median(differences)), float(differences[rank]), float(differences[-1 - rank]))


def _shift_of_few(old: list[FloatArray], new: list[FloatArray], alpha: float) -> Estimate:
    """Where there are too few rounds for ranks, often one: difference of medians, ends by Student's t.

    The spread between rounds is the baseline's, pooled with the run's where that has rounds enough to show its own.
    Where it has not, its share grows as its blocks scatter more inside a round than the baseline's do: somebody else
    was on the machine. (A test over blocks alone would not do: blocks of a round share what befell the round.)
    """
    from scipy.stats import t as student

    before, after = (np.array([np.median(blocks) for blocks in rounds]) for rounds in (old, new))
    squares, freedom = float(np.sum((before - before.mean()) ** 2)), len(before) - 1
    factor = 1.0
    if len(after) >= FEWEST_ROUNDS:
        squares += float(np.sum((after - after.mean()) ** 2))
        freedom += len(after) - 1
    else:
        usual, restless = (float(np.median([np.std(blocks) for blocks in rounds])) for rounds in (old, new))
        factor = max(1.0, restless / usual) if usual > 0 else 1.0
    error = MEDIAN_ERROR * math.sqrt(squares / freedom * (1 / len(before) + factor**2 / len(after)))
    margin = float(student.ppf(1 - alpha, freedom)) * error
    shift = float(np.median(after) - np.median(before))
    return Estimate(shift, shift - margin, shift + margin)


def _words(shift: Estimate, before: int, after: int) -> str:
    low, high = (math.expm1(value) for value in (shift.low, shift.high))
    side = "slower" if shift.value > 0 else "faster"
    effect = abs(math.expm1(shift.value))
    return f"{effect:.1%} {side}, by chance {low:+.1%} to {high:+.1%} ({before} rounds before, {after} now)"


def stretches(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(K, 2) first position and end (not in it) of every stretch of True in (N,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)


# How a series grows


SLOPE_BLOCKS = 40
"""A slope is looked for in medians of this many stretches: neighbouring values err alike, stretches hardly."""
FEWEST_SLOPE_VALUES = 32
"""Eight stretches of four values each."""
CONFIDENCE = 0.95


def robust_slope(x: NDArray[np.int64] | FloatArray, y: FloatArray) -> Estimate | None:
    """Slope of finite ``y`` (N,) along rising ``x`` (N,), its ends at CONFIDENCE, in units of y per unit of x; None for
    fewer than FEWEST_SLOPE_VALUES of them.

    Theil–Sen, because times have outliers in one direction only; its interval (Sen 1968) assumes independent values,
    which the medians of up to SLOPE_BLOCKS stretches nearly are.
    """
    from scipy.stats import theilslopes

    if len(y) < FEWEST_SLOPE_VALUES:
        return None
    blocks = min(SLOPE_BLOCKS, len(y) // 4)
    medians = np.array([np.median(block) for block in np.array_split(y, blocks)])
    centres = np.array([np.mean(block) for block in np.array_split(x, blocks)])
    slope, _, low, high = theilslopes(medians, centres, alpha=CONFIDENCE)
    return Estimate(float(slope), float(low), float(high))


# How far a mean error may be by chance


RESAMPLES = 1000
FEWEST_RESAMPLED = 10
"""Blocks: so few say nothing of how the error varies."""


def rmse_interval(errors: FloatArray, shortest_block: int) -> tuple[float, float]:
    """2.5 and 97.5 % points of the RMSE of (n,) errors by circular block bootstrap.

    Neighbours depend on each other, so blocks of √n of them, at least ``shortest_block``, are drawn anew; the same
    errors give the same points. Raises UnscorableError for fewer than FEWEST_RESAMPLED blocks.
    """
    count = len(errors)
    length = max(1, shortest_block, round(math.sqrt(count)))
    blocks = count // length
    if blocks < FEWEST_RESAMPLED:
        raise UnscorableError(
            f"only {blocks} independent blocks of {length} pairs, at least {FEWEST_RESAMPLED} are needed"
        )
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([errors, errors[: length - 1]]) ** 2)])
    starts = np.random.default_rng(0).integers(0, count, size=(RESAMPLES, blocks))
    means = (sums[starts + length] - sums[starts]).sum(axis=1) / (blocks * length)
    low, high = np.percentile(np.sqrt(np.maximum(means, 0.0)), [2.5, 97.5])
    return float(low), float(high)
