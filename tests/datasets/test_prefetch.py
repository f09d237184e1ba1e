"""Decoding ahead: order, bound, errors in their place, and no thread left behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from lingbot_eval.prepare import prefetch, prefetch_mapped


def workers() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


class Source:
    """Counts what it made, tells whether it was closed, and in which threads it ran."""

    def __init__(self, count: int, delay: float = 0.0, fail_at: int | None = None) -> None:
        self.count, self.delay, self.fail_at = count, delay, fail_at
        self.made = 0
        self.closed = False
        self.threads: set[str] = set()

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                if number == self.fail_at:
                    raise OSError(f"element {number}")
                time.sleep(self.delay)
                self.threads.add(threading.current_thread().name)
                self.made += 1
                yield number
        finally:
            self.closed = True


def wait_for(source: Source, made: int) -> None:
    deadline = time.monotonic() + 5
    while source.made < made and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.parametrize("ahead", [1, 2, 5, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_everything_in_order(ahead: int, count: int) -> None:
    source = Source(count)
    assert list(prefetch(source, ahead)) == list(range(count))
    assert source.closed
    assert workers() == 0


def test_a_slow_consumer_finds_the_next_ones_made_and_no_more() -> None:
    source = Source(100)
    taken = prefetch(source, 3)
    assert next(taken) == 0
    wait_for(source, 4)
    time.sleep(0.05)
    assert source.made == 4  # the one handed out, and three that wait
    assert next(taken) == 1
    wait_for(source, 5)
    time.sleep(0.02)
    assert source.made == 5
    taken.close()


def test_one_other_thread_runs_the_source() -> None:
    source = Source(12)
    assert sum(prefetch(source, 3)) == 66
    assert len(source.threads) == 1
    assert threading.current_thread().name not in source.threads


def test_an_error_comes_in_place_of_its_element() -> None:
    source = Source(10, fail_at=4)
    taken = prefetch(source, 3)
    seen: list[int] = []
    with pytest.raises(OSError, match="element 4"):
        seen.extend(taken)
    assert seen == [0, 1, 2, 3]
    assert source.closed
    assert workers() == 0


def test_stopping_early_ends_the_thread_and_closes_the_source() -> None:
    source = Source(1000, delay=0.01)
    taken = prefetch(source, 4)
    next(taken)
    taken.close()
    assert workers() == 0
    assert source.closed
    assert source.made <= 6


def test_dropping_the_generator_ends_the_thread() -> None:
    source = Source(1000, delay=0.001)
    taken = prefetch(source, 4)
    next(taken)
    assert workers() == 1
    del taken
    gc.collect()
    assert workers() == 0
    assert source.closed


def test_an_error_of_the_consumer_ends_the_thread() -> None:
    source = Source(1000)

    def consume() -> None:
        for number in prefetch(source, 4):
            if number == 2:
                raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        consume()
    gc.collect()
    assert workers() == 0


def test_nothing_starts_before_the_first_element_is_asked_for() -> None:
    source = Source(5)
    taken = prefetch(source, 2)
    time.sleep(0.01)
    assert source.made == 0
    taken.close()
    assert workers() == 0


def test_lists_can_be_read_ahead_too() -> None:
    assert list(prefetch([3, 1, 2], 2)) == [3, 1, 2]


def test_ahead_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        prefetch([1], 0)
    with pytest.raises(ValueError, match="expected 0 workers or more, found -1"):
        prefetch_mapped(abs, [1], 1, -1)


@pytest.mark.parametrize("workers_", [0, 1, 3])
@pytest.mark.parametrize("ahead", [1, 4])
def test_a_function_is_applied_in_order(workers_: int, ahead: int) -> None:
    def slow_for_even(number: int) -> int:
        time.sleep(0.004 * (number % 2 == 0))
        return 10 * number

    source = Source(20)
    assert list(prefetch_mapped(slow_for_even, iter(source), ahead, workers_)) == list(range(0, 200, 10))
    assert source.closed
    assert workers() == 0


def test_workers_apply_the_function_at_the_same_time() -> None:
    both_there = threading.Barrier(2, timeout=5)

    def meet(number: int) -> int:
        both_there.wait()
        return number

    assert list(prefetch_mapped(meet, range(6), 4, 2)) == list(range(6))


def test_no_more_than_ahead_are_in_hand() -> None:
    source = Source(100)
    taken = prefetch_mapped(lambda number: number, source, 3, 2)
    next(taken)
    wait_for(source, 4)
    time.sleep(0.05)
    assert source.made == 4
    taken.close()
    assert workers() == 0


@pytest.mark.parametrize("workers_", [0, 2])
def test_errors_of_source_and_function_come_in_their_place(workers_: int) -> None:
    def refuse_five(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    seen: list[int] = []
    source = Source(10)
    with pytest.raises(ValueError, match="five"):
        seen.extend(prefetch_mapped(refuse_five, iter(source), 4, workers_))
    assert seen == [0, 1, 2, 3, 4]
    assert source.closed
    with pytest.raises(OSError, match="element 3"):
        list(prefetch_mapped(refuse_five, Source(10, fail_at=3), 4, workers_))
    assert workers() == 0


def test_a_source_that_hangs_back_does_not_hang_the_end() -> None:
    source = Source(1000, delay=0.02)
    taken = prefetch_mapped(lambda number: number, iter(source), 6, 3)
    next(taken)
    taken.close()
    assert workers() == 0
    assert source.closed


@pytest.mark.parametrize("workers_", [0, 2])
def test_a_generator_is_closed_when_the_consumer_stops_early(workers_: int) -> None:
    """With no workers the generator hides behind ``map``, which closes nothing."""
    source = Source(1000, delay=0.001)
    numbers = iter(source)
    taken = prefetch_mapped(lambda number: -number, numbers, 3, workers_)
    assert next(taken) == 0
    taken.close()
    assert source.closed
    assert next(numbers, None) is None
    assert workers() == 0
