"""What noisy numbers tell, on numbers so few that it can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lingbot_eval.errors import UnscorableError
from lingbot_eval.statistics import TimingVerdict, judge_rounds, rmse_interval, robust_slope, stretches
from lingbot_eval.types import FloatArray


def held_still(logs: Sequence[float]) -> list[FloatArray]:
    """Rounds of 40 equal frames each: 20 ms times e to the power of each number."""
    return [np.full(40, 20 * math.exp(log)) for log in logs]


def ends(found: TimingVerdict) -> list[float]:
    """Shift and its two ends as logarithms."""
    assert found.effect is not None
    assert found.low is not None
    assert found.high is not None
    return [math.log1p(value) for value in (found.effect, found.low, found.high)]


SIX = [0.01 * k for k in range(6)]


@pytest.mark.parametrize(
    ("before", "after", "in_turn", "expected", "p", "unit", "status"),
    [
        # Of the 36 differences 0.2 + 0.01·(j − i) the fourth from either end: Conover's rank is 3.47.
        (SIX, [0.2 + x for x in SIX], False, [0.2, 0.17, 0.23], 1 / 924, "rounds", "regression"),
        (SIX, [x - 0.2 for x in SIX], False, [-0.2, -0.23, -0.17], 1.0, "rounds", "better"),
        # Of the 55 means of two differences 0.1 … 0.19 the fifth from either end: the rank is 4.68. The sides drift.
        (
            [0.5 * k for k in range(10)],
            [0.5 * k + 0.1 + 0.01 * k for k in range(10)],
            True,
            [0.145, 0.115, 0.175],
            1 / 1024,
            "pairs of rounds",
            "regression",
        ),
        # Too few for ranks: 1.25 times the error of a mean, of 2 degrees of freedom, times Student's 6.9646.
        ([0.0, 0.01, 0.02], [0.1], False, [0.09, 0.09 - 0.10053, 0.09 + 0.10053], None, "blocks", "incomparable"),
        # Three rounds show a spread of their own, which is pooled: 4 degrees of freedom, 3.7469.
        (
            [0.0, 0.01, 0.02],
            [0.1, 0.12, 0.11],
            False,
            [0.1, 0.1 - 0.03824, 0.1 + 0.03824],
            None,
            "blocks",
            "regression",
        ),
        # Two show none.
        ([0.0, 0.01, 0.02], [0.1, 0.12], False, [0.1, 0.1 - 0.07947, 0.1 + 0.07947], None, "blocks", "incomparable"),
    ],
)
def test_shifts_of_rounds_by_hand(
    before: list[float],
    after: list[float],
    in_turn: bool,
    expected: list[float],
    p: float | None,
    unit: str,
    status: str,
) -> None:
    found = judge_rounds(held_still(before), held_still(after), 0.08, 0.01, in_turn=in_turn)
    assert ends(found) == pytest.approx(expected, abs=1e-5)
    assert (found.unit, found.status) == (unit, status)
    if p is not None:
        assert found.p == pytest.approx(p, abs=1e-3 if p == 1 else 1e-9)
    side = "slower" if expected[0] > 0 else "faster"
    low, high = (math.expm1(value) for value in expected[1:])
    words = f"{abs(math.expm1(expected[0])):.1%} {side}, by chance {low:+.1%} to {high:+.1%}"
    assert found.reason.startswith(f"{words} ({len(before)} rounds before, {len(after)} now)")


WIDE = [0.1 * k for k in range(10)]


@pytest.mark.parametrize(
    ("before", "after", "in_turn", "status"),
    [
        # One round against three has ends 0.1005 away, more than the 0.077 that matters: the machine is restless, and
        # rounds measured apart have to show more than that, to be slower as to be faster.
        ([0.0, 0.01, 0.02], [0.21], False, "regression"),
        ([0.0, 0.01, 0.02], [0.17], False, "incomparable"),
        ([0.0, 0.01, 0.02], [-0.15], False, "held"),
        ([0.0, 0.01, 0.02], [-0.19], False, "better"),
        # Differences of 0.03 to 0.3, whose lower end is below what matters: enough in turn, and apart they are not.
        (WIDE, [x + 0.03 * (k + 1) for k, x in enumerate(WIDE)], True, "regression"),
        (WIDE, [x - 0.03 * (k + 1) for k, x in enumerate(WIDE)], True, "better"),
        ([0.0] * 10, [0.03 * (k + 1) for k in range(10)], False, "incomparable"),
        ([0.0] * 10, [-0.03 * (k + 1) for k in range(10)], False, "held"),
        # A change of less than what matters is none, however sure it is.
        (SIX, [0.075 + x for x in SIX], False, "held"),
        (SIX, [x - 0.075 for x in SIX], False, "held"),
        ([0.0] * 10, [0.075] * 10, True, "held"),
    ],
)
def test_a_restless_machine_has_to_show_more_either_way(
    before: list[float], after: list[float], in_turn: bool, status: str
) -> None:
    found = judge_rounds(held_still(before), held_still(after), 0.08, 0.01, in_turn=in_turn)
    assert (found.status, found.reason.endswith("in turn or with more rounds")) == (status, status == "incomparable")


@pytest.mark.parametrize(
    ("before", "after", "in_turn", "unit"),
    [
        (4, 4, False, "blocks"),
        (4, 5, False, "rounds"),
        (5, 4, False, "rounds"),
        (7, 7, False, "rounds"),
        (7, 7, True, "pairs of rounds"),
        (6, 6, True, "rounds"),  # too few pairs
        (7, 8, True, "rounds"),  # no pairs
        (3, 3, True, "blocks"),
    ],
)
def test_the_strongest_test_that_there_are_rounds_for(before: int, after: int, in_turn: bool, unit: str) -> None:
    rounds = held_still([0.01 * k for k in range(before)]), held_still([0.2 + 0.01 * k for k in range(after)])
    assert judge_rounds(*rounds, in_turn=in_turn).unit == unit


def test_what_is_asked_for_decides_and_is_named() -> None:
    """One round, 0.3 later in the logarithm and uncertain by 0.2: more than 8 %, and not surely more than 15 %."""
    rounds = held_still([0.0, 0.02, 0.04]), held_still([0.32])
    assert judge_rounds(*rounds, 0.08, 0.01).status == "regression"
    found = judge_rounds(*rounds, 0.15, 0.01)
    assert found.reason.endswith(": too restless to tell 15%; repeat on a quieter machine, in turn or with more rounds")
    # Where one in ten is allowed, the least and the largest of three differences are ends.
    loose = judge_rounds(*rounds, 0.08, 0.1)
    assert (ends(loose), loose.unit) == (pytest.approx([0.3, 0.28, 0.32]), "rounds")


def test_ends_of_a_shift_are_these_ranks_and_no_others() -> None:
    """Of rounds of which no two differ alike: the fourth of 36 from either end, of pairs the fifth of 55 means."""
    odd = [0.0, 0.011, 0.023, 0.042, 0.068, 0.101]
    later = [0.2, 0.2137, 0.2291, 0.2453, 0.2647, 0.2859]
    between = sorted(b - a for a in odd for b in later)
    assert len({round(each, 9) for each in between}) == 36
    found = judge_rounds(held_still(odd), held_still(later), 0.08, 0.01)
    assert ends(found) == pytest.approx([(between[17] + between[18]) / 2, between[3], between[32]], abs=1e-9)
    steps = [0.1 + 0.001 * 1.7**k for k in range(10)]
    means = sorted((steps[i] + steps[j]) / 2 for i in range(10) for j in range(i, 10))
    assert len({round(each, 9) for each in means}) == 55
    before = [0.5 * k for k in range(10)]
    after = [x + step for x, step in zip(before, steps, strict=True)]
    paired = judge_rounds(held_still(before), held_still(after), 0.08, 0.01, in_turn=True)
    assert ends(paired) == pytest.approx([means[27], means[4], means[50]], abs=1e-9)


@pytest.mark.parametrize(("restless", "factor"), [(0.0, 1.0), (3.0, 3.0)])
def test_a_run_of_one_round_widens_its_margin_and_never_narrows_it(restless: float, factor: float) -> None:
    """Blocks of the baseline scatter by 1 % in either direction; a run whose do less shows no less of chance."""
    scatter = np.array([0.0, 0.01, -0.01, 0.01, -0.01])
    levels = [0.0, 0.0, 0.02, -0.02]
    logs = [level + side * scatter for level, side in zip(levels, (1, -1, 1, -1), strict=True)]
    rounds = [20 * np.exp(np.repeat(each, 8)) for each in (*logs, 0.1 + restless * scatter)]
    found = judge_rounds(rounds[:-1], rounds[-1:], 0.08, 0.01)
    squares = np.sum(np.square(levels)) / 3
    margin = 4.5407 * 1.25 * math.sqrt(squares * (1 / 4 + factor**2))  # Student's, of 3 degrees of freedom
    assert ends(found) == pytest.approx([0.1, 0.1 - margin, 0.1 + margin], abs=1e-4)


def test_what_is_looked_for_where_nothing_is_said_is_a_twelfth_and_one_in_a_hundred() -> None:
    for effect in (0.05, 0.07, 0.08, 0.2):
        rounds = held_still(SIX), held_still([effect + x for x in SIX])
        assert judge_rounds(*rounds) == judge_rounds(*rounds, 0.08, 0.01)


FRAMES = np.full(32, 20.0)


@pytest.mark.parametrize(
    ("baseline", "run", "reason"),
    [
        ([FRAMES] * 3, [FRAMES], None),
        ([FRAMES] * 2, [FRAMES], "the baseline has 2 rounds of timings, 3 are needed"),
        ([FRAMES], [FRAMES], "the baseline has 1 round of timings, 3 are needed"),
        ([FRAMES] * 3, [], "the run has no timings"),
        ([FRAMES[1:]] * 3, [FRAMES[1:]], "31 timed frames a round, at least 32 are needed"),
        ([FRAMES] * 3, [FRAMES, np.full(40, 20.0)], "rounds of 32 and of 40 timed frames: expected the same frames"),
        *(
            (baseline, run, "some timed frames have no time")
            for bad in (0.0, -1.0, np.nan, np.inf)
            for spoilt in [np.append(FRAMES[1:], bad)]
            for baseline, run in (([FRAMES] * 3, [FRAMES, spoilt]), ([FRAMES, FRAMES, spoilt], [FRAMES]))
        ),
    ],
)
def test_rounds_that_cannot_be_compared_say_why(
    baseline: list[FloatArray], run: list[FloatArray], reason: str | None
) -> None:
    found = judge_rounds(baseline, run)
    if reason is None:
        assert (found.status, found.effect) == ("held", 0.0)
        return
    assert found.status == "incomparable"
    assert found.reason.startswith(reason)
    assert (found.effect, found.low, found.high, found.p) == (None, None, None, None)


def test_a_round_is_the_median_of_its_blocks_and_a_block_of_its_frames() -> None:
    """Of 43 frames: five blocks of eight, three of whose frames and two of which are far off, and a rest left out."""
    block = [1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0]
    usual = np.array([*block * 3, *([5.0] * 16), 100.0, 100.0, 100.0])
    slow = usual * math.exp(0.1)
    slow[24:] = 7.0
    before = [usual * math.exp(x) for x in SIX]
    found = judge_rounds(before, [slow * math.exp(x) for x in SIX], 0.08, 0.01)
    # What a frame of the baseline usually takes is divided out: frames of 9 are as good as those of 1.
    assert ends(found)[0] == pytest.approx(0.1)


def test_a_mean_error_s_interval_holds_the_errors_that_made_it() -> None:
    errors = np.random.default_rng(1).normal(0, 2, 1600)
    low, high = rmse_interval(errors, 1)
    assert low < np.sqrt(np.mean(errors**2)) < high
    # 40 blocks of 40: a standard error of 2 / √(2·1600) on either side, twice.
    assert high - low == pytest.approx(4 * 2 / math.sqrt(2 * 1600), rel=0.2)
    # Longer blocks are wider where errors come in runs, and too few say nothing.
    runs = np.repeat(np.random.default_rng(1).normal(0, 2, 16), 100)
    narrow, wide = (np.subtract(*rmse_interval(runs, length)[::-1]) for length in (1, 100))
    assert wide > 1.2 * narrow
    with pytest.raises(UnscorableError, match="only 9 independent blocks of 160 pairs, at least 10 are needed"):
        rmse_interval(errors[:1500], 160)
    assert rmse_interval(np.full(100, 3.0), 10) == pytest.approx((3.0, 3.0))
    # Blocks are of the square root of the number at least.
    with pytest.raises(UnscorableError, match="only 9 independent blocks of 9 pairs"):
        rmse_interval(errors[:81], 1)


def test_the_interval_of_a_mean_error_is_that_of_blocks_drawn_around_the_end() -> None:
    """Of 122 errors a thousand draws of 11 blocks of 11, the same each time; one in forty lies beyond either end."""
    errors = np.random.default_rng(5).gamma(2.0, size=122)
    starts = np.random.default_rng(0).integers(0, 122, size=(1000, 11))
    drawn = errors[(starts[:, :, None] + np.arange(11)) % 122].reshape(1000, 121)
    ends_by_hand = np.percentile(np.sqrt(np.mean(drawn**2, axis=1)), [2.5, 97.5])
    assert rmse_interval(errors, 6) == rmse_interval(errors, 11) == pytest.approx(ends_by_hand)


@pytest.mark.parametrize("place", [0, 399, 799])
def test_an_error_at_an_end_is_drawn_as_often_as_one_in_the_middle(place: int) -> None:
    errors = np.ones(800)
    errors[place] = 30.0
    low, high = rmse_interval(errors, 1)
    assert low == pytest.approx(1.0)
    assert 1.9 < high < 2.3  # of four draws


def test_too_few_values_have_no_slope() -> None:
    assert robust_slope(np.arange(31.0), np.arange(31.0)) is None
    assert robust_slope(np.arange(32.0), np.arange(32.0)) is not None


def test_ends_of_a_slope_are_those_of_nineteen_in_twenty() -> None:
    """For normal errors about as far apart as those of least squares on the same 40 medians."""
    from scipy.stats import linregress

    x = np.arange(400.0)
    y = 0.01 * x + np.random.default_rng(3).normal(size=400)
    found = robust_slope(x, y)
    assert found is not None
    medians, centres = np.median(y.reshape(40, 10), axis=1), x.reshape(40, 10).mean(axis=1)
    usual = 2 * 2.024 * linregress(centres, medians).stderr  # Student's, of 38 degrees of freedom
    assert found.high - found.low == pytest.approx(usual, rel=0.2)
    assert found.low < 0.01 < found.high


@pytest.mark.parametrize(("count", "blocks"), [(32, 8), (159, 39), (400, 40)])
def test_a_slope_rests_on_medians_of_four_values_or_more(count: int, blocks: int) -> None:
    """Of 40 stretches at most."""
    from scipy.stats import theilslopes

    x = np.arange(float(count)) ** 1.1
    y = np.random.default_rng(3).normal(size=count)
    parts = [slice(part[0], part[-1] + 1) for part in np.array_split(np.arange(count), blocks)]
    slope, _, low, high = theilslopes([np.median(y[p]) for p in parts], [np.mean(x[p]) for p in parts], 0.95)
    found = robust_slope(x, y)
    assert found is not None
    assert [found.value, found.low, found.high] == pytest.approx([slope, low, high])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [("", []), ("0", []), ("1", [[0, 1]]), ("110100111", [[0, 2], [3, 4], [6, 9]]), ("0110", [[1, 3]])],
)
def test_stretches_of_true_have_a_first_position_and_an_end(mask: str, expected: list[list[int]]) -> None:
    assert stretches(np.array([each == "1" for each in mask], dtype=bool)).tolist() == expected


def test_a_line_with_holes_and_spikes() -> None:
    x = np.sort(np.random.default_rng(1).choice(5000, 900, replace=False)).astype(np.float64)
    y = 3 - 0.25 * x
    y[::13] += 1e4
    slope = robust_slope(x, y)
    assert slope is not None
    assert slope.value == pytest.approx(-0.25, abs=1e-2)
    assert slope.low <= slope.value <= slope.high
