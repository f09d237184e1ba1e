"""Timings: recorded repeats of the same code raise no alarm, a planted slow-down is caught, chance is not a change."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from lingbot_eval.gating.judge import Statistical
from lingbot_eval.gating.sides import MOST_BLOCKS, from_text, thinned, to_text
from lingbot_eval.statistics import BLOCK_FRAMES, FEWEST_BLOCKS, judge_rounds
from lingbot_eval.types import FloatArray
from tests.gate.sides import rounds

DATA = Path(__file__).parent / "data"
RECORDED = sorted(DATA.glob("*_machine.json"))
DEFAULT = Statistical(kind="statistical", match="*")


def recorded(path: Path) -> tuple[list[FloatArray], list[FloatArray]]:
    """Rounds of the same code, and rounds slowed by 15 %, in the order they were measured."""
    entries = json.loads(path.read_text(encoding="utf-8"))["rounds"]
    same, slowed = (
        [np.array(entry["step_ms"]) for entry in entries if bool(entry["planted_percent"]) == planted]
        for planted in (False, True)
    )
    return same, slowed


def verdict(baseline: list[FloatArray], run: list[FloatArray]) -> str:
    return judge_rounds(baseline, run, DEFAULT.min_effect, DEFAULT.alpha).status


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_twenty_repeats_of_the_same_code_raise_no_alarm(path: Path) -> None:
    same, _ = recorded(path)
    assert len(same) >= 20
    alone = [verdict(same[:k] + same[k + 1 :], [same[k]]) for k in range(len(same))]
    # Groups of five, each against all the others.
    groups = [verdict(same[:k] + same[k + 5 :], same[k : k + 5]) for k in range(len(same) - 4)]
    assert "regression" not in alone + groups


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_planted_slow_down_is_caught(path: Path) -> None:
    same, slowed = recorded(path)
    found = judge_rounds(same, slowed, DEFAULT.min_effect, DEFAULT.alpha)
    assert found.status == "regression"
    assert found.effect == pytest.approx(0.15, abs=0.05)
    assert found.unit == "rounds"
    # The other way about it is a gain, never an alarm.
    assert verdict(slowed, same) != "regression"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_whichever_rounds_are_the_baseline(path: Path) -> None:
    """Repeats dealt at random into two halves: never an alarm; one half slowed, exactly, by 15 %: caught."""
    same, _ = recorded(path)
    generator = np.random.default_rng(0)
    equal, slowed = [], []
    for _ in range(40):
        order = generator.permutation(len(same))
        half = len(same) // 2
        before, after = [same[k] for k in order[:half]], [same[k] for k in order[half:]]
        equal.append(verdict(before, after))
        slowed.append(verdict(before, [1.15 * times for times in after]))
    assert "regression" not in equal
    # On a restless machine a rare deal cannot be judged; none may pass.
    assert "held" not in slowed
    assert slowed.count("regression") >= 36


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_test_over_frames_would_cry_wolf(path: Path) -> None:
    """Why rounds: neighbouring frames correlate, and single frames call many repeats of the same code slower."""
    same, _ = recorded(path)
    typical = np.median(np.stack(same), axis=0)
    logs = [np.log(times / typical) for times in same]
    neighbours = np.median([np.corrcoef(values[1:], values[:-1])[0, 1] for values in logs])
    blocks = [
        np.median(values[: len(values) // BLOCK_FRAMES * BLOCK_FRAMES].reshape(-1, BLOCK_FRAMES), axis=1)
        for values in logs
    ]
    between_blocks = np.median([np.corrcoef(values[1:], values[:-1])[0, 1] for values in blocks])
    assert neighbours > 0.3 > abs(between_blocks)
    alarms = [
        mannwhitneyu(logs[k], np.concatenate(logs[:k] + logs[k + 1 :]), alternative="greater").pvalue < DEFAULT.alpha
        for k in range(len(logs))
    ]
    assert sum(alarms) >= 3


def test_a_machine_that_drifts_raises_no_alarm_and_passes_nothing() -> None:
    """Recorded on a shared host: what comes later is slower, by as much as what the gate is to find.

    Groups of neighbouring rounds against all the others, as a run is held against a baseline of another hour: no alarm.
    The same slowed by 15 %, and the rounds that were recorded so: never a pass.
    """
    same, slowed = recorded(DATA / "restless_rounds.json")
    assert len(same) >= 20
    halves = judge_rounds(same[:12], same[12:], DEFAULT.min_effect, DEFAULT.alpha)
    assert halves.effect is not None
    assert halves.effect > DEFAULT.min_effect  # or nothing drifts, and this test shows nothing
    groups = [(k, k + size) for size in (1, 3, 5, 8, 12) for k in range(len(same) - size + 1)]
    equal = [verdict(same[:start] + same[end:], same[start:end]) for start, end in groups]
    planted = [verdict(same[:start] + same[end:], [1.15 * times for times in same[start:end]]) for start, end in groups]
    assert "regression" not in [halves.status, *equal]
    assert not {"held", "better"} & {verdict(same, slowed), *planted}
    # It still tells what is far beyond the drift.
    assert verdict(same[:12], [1.4 * times for times in same[12:]]) == "regression"


def test_quiet_rounds_tell_a_slow_down_from_one_run() -> None:
    assert verdict(list(rounds(10, 0)), list(rounds(1, 1, factor=1.15))) == "regression"
    assert verdict(list(rounds(10, 0)), list(rounds(1, 1))) == "held"
    assert verdict(list(rounds(10, 0)), list(rounds(1, 1, factor=0.8))) == "better"


@given(st.integers(0, 10_000), st.integers(6, 12), st.integers(6, 12), st.floats(0.9, 1.1))
@settings(max_examples=60)
def test_the_interval_and_the_test_agree(seed: int, before: int, after: int, factor: float) -> None:
    """Its lower end is above 0 where Mann–Whitney's p is well below alpha, and not where p is well above."""
    found = judge_rounds(rounds(before, seed), rounds(after, seed + 1, factor=factor), 0.08, 0.01)
    assert found.low is not None
    assert found.high is not None
    assert found.p is not None
    assert found.low <= (found.effect or 0.0) <= found.high
    if found.p < 0.005:
        assert found.low > 0
    if found.p > 0.02:
        assert found.low <= 0


def test_a_significant_change_below_the_minimum_effect_holds() -> None:
    found = judge_rounds(rounds(20, 0), rounds(20, 1, factor=1.04), 0.08, 0.01)
    assert (found.status, found.p is not None and found.p < 0.01) == ("held", True)


def test_restless_rounds_are_incomparable_not_held() -> None:
    generator = np.random.default_rng(0)
    restless = [50 * np.exp(generator.normal(0, 0.15) + generator.normal(0, 0.02, 64)) for _ in range(8)]
    found = judge_rounds(restless, rounds(1, 1), 0.08, 0.01)
    assert found.status == "incomparable"
    assert "restless" in found.reason


def test_a_run_that_was_disturbed_widens_its_own_margin() -> None:
    generator = np.random.default_rng(0)
    disturbed = [50 * np.exp(np.repeat(generator.normal(0.12, 0.3, 8), 8))]
    assert verdict(list(rounds(10, 0)), disturbed) == "incomparable"


@pytest.mark.parametrize(
    ("baseline", "run", "words"),
    [
        (rounds(2, 0), rounds(1, 1), "2 rounds"),
        (rounds(5, 0), (), "no timings"),
        (rounds(5, 0), rounds(1, 1, frames=40), "40 and of 64"),
        (rounds(5, 0, frames=31), rounds(1, 1, frames=31), "at least 32"),
        (rounds(5, 0), (np.full(64, np.nan),), "no time"),
        (rounds(5, 0), (np.zeros(64),), "no time"),
    ],
)
def test_what_cannot_be_tested_says_why(baseline: list[FloatArray], run: list[FloatArray], words: str) -> None:
    found = judge_rounds(baseline, run, 0.08, 0.01)
    assert found.status == "incomparable"
    assert words in found.reason
    assert BLOCK_FRAMES * FEWEST_BLOCKS == 32


@pytest.mark.parametrize(("frames", "judged"), [(31, False), (32, True)])
def test_the_fewest_frames_that_can_be_tested(frames: int, judged: bool) -> None:
    before = [times[:frames] for times in rounds(6, 0)]
    assert (judge_rounds(before, before[:4], 0.08, 0.01).status != "incomparable") is judged


@given(st.integers(0, 10_000), st.floats(0.5, 2.0), st.sampled_from([2.0**-6, 2.0**6]))
@settings(max_examples=40)
def test_units_of_time_do_not_matter(seed: int, factor: float, unit: float) -> None:
    before, after = rounds(6, seed), rounds(4, seed + 1, factor=factor)
    scaled = judge_rounds([unit * times for times in before], [unit * times for times in after], 0.08, 0.01)
    assert scaled == judge_rounds(before, after, 0.08, 0.01)


@given(st.integers(0, 10_000), st.lists(st.floats(0.7, 1.6), min_size=2, max_size=5, unique=True))
@settings(max_examples=40)
def test_slower_is_never_judged_better(seed: int, factors: list[float]) -> None:
    rank = {"better": 0, "held": 1, "incomparable": 2, "regression": 3}
    before, after = rounds(8, seed), rounds(5, seed + 1)
    found = [verdict(list(before), [factor * times for times in after]) for factor in sorted(factors)]
    assert [rank[status] for status in found] == sorted(rank[status] for status in found)


def under_load(factor: float, seed: int) -> tuple[list[FloatArray], list[FloatArray]]:
    """Ten rounds of each side in turn while another job comes and goes: up to three times slower, both alike."""
    load = np.repeat([1.0, 3.0, 1.5, 2.5, 1.0], 2)
    before, after = rounds(10, seed), rounds(10, seed + 1, factor=factor)
    return [times * k for times, k in zip(before, load, strict=True)], [
        times * k for times, k in zip(after, load, strict=True)
    ]


def test_rounds_in_turn_are_compared_in_pairs() -> None:
    before, after = under_load(1.15, 0)
    apart = judge_rounds(before, after, 0.08, 0.01)
    found = judge_rounds(before, after, 0.08, 0.01, in_turn=True)
    assert (apart.status, apart.unit) == ("incomparable", "rounds")
    assert (found.status, found.unit) == ("regression", "pairs of rounds")
    assert found.effect == pytest.approx(0.15, abs=0.03)
    assert judge_rounds(*under_load(1.0, 0), 0.08, 0.01, in_turn=True).status == "held"
    assert judge_rounds(*under_load(0.8, 0), 0.08, 0.01, in_turn=True).status == "better"
    # Too few pairs for their test: as if they were apart.
    assert judge_rounds(before[:6], after[:6], 0.08, 0.01, in_turn=True).unit == "rounds"
    assert judge_rounds(before, before, 0.08, 0.01, in_turn=True).status == "held"


@pytest.mark.parametrize("in_turn", [False, True])
def test_an_overloaded_machine_gives_no_verdict(in_turn: bool) -> None:
    """Recorded live while other jobs made single rounds four times slower: neither an alarm nor a pass."""
    sides = json.loads((DATA / "overloaded_in_turn.json").read_text(encoding="utf-8"))
    baseline, *others = ([np.array(times) for times in sides[name]] for name in ("baseline", "again", "slowed"))
    for run in others:
        assert judge_rounds(baseline, run, 0.08, 0.01, in_turn=in_turn).status == "incomparable"


@given(st.integers(0, 10_000), st.floats(0.8, 1.25))
@settings(max_examples=40)
def test_pairs_mirror_each_other(seed: int, factor: float) -> None:
    before, after = under_load(factor, seed)
    one = judge_rounds(before, after, 0.08, 0.01, in_turn=True)
    other = judge_rounds(after, before, 0.08, 0.01, in_turn=True)
    assert one.effect is not None
    assert other.effect is not None
    assert (1 + one.effect) * (1 + other.effect) == pytest.approx(1.0, abs=0.01)
    assert not (one.status == other.status == "regression")


def test_chance_alone_raises_few_alarms() -> None:
    """Correlated noise of a made-up machine, 200 times: the level asked for holds."""
    generator = np.random.default_rng(3)

    def one_round() -> FloatArray:
        slow = np.zeros(64)
        for frame in range(1, 64):
            slow[frame] = 0.7 * slow[frame - 1] + generator.normal(0, 0.03)
        return 50 * np.exp(generator.normal(0, 0.03) + slow)

    alarms = sum(
        judge_rounds([one_round() for _ in range(8)], [one_round() for _ in range(2)], 0.01, 0.01).status
        == "regression"
        for _ in range(200)
    )
    assert alarms <= 6  # 1 % of 200 is 2; more than 6 has a probability below 0.5 %


def test_long_rounds_are_thinned_alike_and_keep_both_ends() -> None:
    times = np.arange(1.0, 5004.0)
    kept = thinned(times)
    assert len(kept) == MOST_BLOCKS * BLOCK_FRAMES
    assert (kept[0], kept[-1]) == (1.0, 5000.0)
    for count in (100, MOST_BLOCKS * BLOCK_FRAMES + BLOCK_FRAMES - 1):
        assert len(thinned(times[:count])) == count


@given(st.lists(st.floats(1e-3, 1e6), max_size=50))
def test_samples_survive_the_file(times: list[float]) -> None:
    read = from_text(to_text(np.array(times)))
    assert np.allclose(read, times, rtol=6e-4)
    assert to_text(read) == to_text(np.array(times))


@pytest.mark.parametrize("text", ["1 2 x", "nan", "-1", "inf"])
def test_samples_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"durations|float"):
        from_text(text)
    assert math.isfinite(from_text("1.5")[0])
