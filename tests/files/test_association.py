"""Pairing of timestamps, against a brute-force statement of the rule."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.errors import DataError
from lingbot_eval.files.times import associate

# Whole numbers: differences are exact, so the oracle and the code agree on ties.
stamps = st.lists(st.integers(0, 60), max_size=14, unique=True).map(lambda xs: np.array(sorted(xs), dtype=np.float64))


def brute_force(reference: np.ndarray, times: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """All pairs, closest first, then earliest; taken unless a stamp is used or the pair crosses one taken."""
    candidates = sorted(
        (abs(r - t), min(r, t), i, j)
        for i, r in enumerate(reference)
        for j, t in enumerate(times)
        if abs(r - t) <= limit
    )
    taken: list[tuple[int, int]] = []
    for _, _, i, j in candidates:
        if all(i != a and j != b and (i < a) == (j < b) for a, b in taken):
            taken.append((i, j))
    return sorted(taken)


@given(stamps, stamps, st.integers(0, 12))
def test_equals_brute_force(reference: np.ndarray, times: np.ndarray, limit: int) -> None:
    a, b = associate(reference, times, float(limit))
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == brute_force(reference, times, limit)


@given(stamps, stamps, st.integers(0, 12))
def test_one_to_one_increasing_and_within_the_limit(reference: np.ndarray, times: np.ndarray, limit: int) -> None:
    a, b = associate(reference, times, float(limit))
    assert (np.diff(a) > 0).all()
    assert (np.diff(b) > 0).all()
    assert (np.abs(reference[a] - times[b]) <= limit).all()


def test_by_hand() -> None:
    # 0.00 wants 0.04, but that is nearer to 0.05; 0.11 is out of reach.
    a, b = associate(np.array([0.0, 0.05]), np.array([0.04, 0.11]), 0.02)
    assert (a.tolist(), b.tolist()) == ([1], [0])


def test_the_limit_is_inclusive() -> None:
    assert len(associate(np.array([0.0]), np.array([0.5]), 0.5)[0]) == 1
    assert len(associate(np.array([0.0]), np.array([0.5]), 0.499)[0]) == 0


def test_a_stamp_left_over_takes_its_second_choice() -> None:
    # gaps 3, 2, 1: the last pair goes first, then the first pair, which was nobody's mutual nearest
    a, b = associate(np.array([0.0, 5.0]), np.array([3.0, 6.0]), 3.0)
    assert (a.tolist(), b.tolist()) == ([0, 1], [0, 1])


@pytest.mark.parametrize("bad", [[1.0, 0.0], [0.0, 0.0], [0.0, float("nan")]])
def test_series_that_do_not_increase_are_refused(bad: list[float]) -> None:
    good = np.array([0.0, 1.0])
    with pytest.raises(DataError, match="reference timestamps"):
        associate(np.array(bad), good, 0.1)
    with pytest.raises(DataError, match="timestamps"):
        associate(good, np.array(bad), 0.1)


def test_thirty_thousand_stamps_are_quick() -> None:
    rng = np.random.default_rng(0)
    reference, times = np.sort(rng.random((2, 30_000)), axis=1) * 1000
    chain = np.cumsum(np.linspace(2.0, 1.0, 60_000))  # ever smaller gaps: the worst case of round-by-round matching
    started = time.process_time()
    assert len(associate(reference, times, 0.02)[0]) > 10_000
    assert len(associate(chain[::2], chain[1::2], 3.0)[0]) == 30_000
    assert time.process_time() - started < 1.0
