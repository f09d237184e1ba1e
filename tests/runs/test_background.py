"""Work behind a stream: order, bound, and whose failure is told."""

from __future__ import annotations

import threading
import time

import pytest

from lingbot_eval.runs.stream import BackgroundWorker


def running() -> int:
    return sum(thread.name == "behind" for thread in threading.enumerate())


@pytest.mark.parametrize("bound", [0, 1, 8])
def test_everything_is_done_in_order_before_the_end(bound: int) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.001)
        done.append(item)

    with BackgroundWorker(work, bound) as behind:
        for item in range(30):
            behind.put(item)
    assert done == list(range(30))
    assert running() == 0


def test_the_thread_works_while_the_next_is_made() -> None:
    made, worked = threading.Event(), threading.Event()

    def work(item: int) -> None:
        worked.set()
        assert made.wait(5)

    with BackgroundWorker(work, 2) as behind:
        behind.put(0)
        assert worked.wait(5)
        made.set()


def test_a_slow_worker_holds_the_stream_back() -> None:
    release = threading.Event()
    put: list[int] = []

    def stream() -> None:
        with BackgroundWorker(lambda item: release.wait(5), 3) as behind:
            for item in range(10):
                behind.put(item)
                put.append(item)

    thread = threading.Thread(target=stream)
    thread.start()
    deadline = time.monotonic() + 5
    while len(put) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(put) == 4  # one in the worker's hands, three that wait
    release.set()
    thread.join(5)
    assert len(put) == 10


@pytest.mark.parametrize("bound", [0, 2])
def test_its_failure_stops_the_stream_and_nothing_is_worked_on_after(bound: int) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise OSError("full")
        done.append(item)

    put: list[int] = []

    def stream() -> None:
        with BackgroundWorker(work, bound) as behind:
            for item in range(1000):
                behind.put(item)
                put.append(item)
                time.sleep(0.0005)

    with pytest.raises(OSError, match="full"):
        stream()
    assert done == [0, 1, 2]
    assert len(put) < 1000
    assert running() == 0


def test_a_failure_of_the_last_item_is_told_at_the_end() -> None:
    def refuse(item: int) -> None:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 7"), BackgroundWorker(refuse, 2) as behind:
        behind.put(7)


def test_whoever_waits_for_what_was_put_is_told_that_it_failed() -> None:
    """A wait that ends well means that all was done."""
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.02)
        if item == 1:
            raise ValueError("item 1")
        done.append(item)

    def stream() -> None:
        with BackgroundWorker(work, 4) as behind:
            behind.put(0)
            behind.wait()
            assert done == [0]
            behind.put(1)
            with pytest.raises(ValueError, match="item 1"):
                behind.wait()

    with pytest.raises(ValueError, match="item 1"):
        stream()


def test_what_ends_the_stream_is_told_and_the_rest_is_done() -> None:
    done: list[int] = []

    def stream() -> None:
        with BackgroundWorker(done.append, 8) as behind:
            for item in range(5):
                behind.put(item)
            raise RuntimeError("the stream broke")

    with pytest.raises(RuntimeError, match="stream"):
        stream()
    assert done == list(range(5))


def test_an_interruption_does_not_wait_for_what_waits() -> None:
    release, working = threading.Event(), threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        working.set()
        assert release.wait(5)
        done.append(item)

    behind = BackgroundWorker(work, 8)
    assert behind._thread is not None
    join = behind._thread.join
    behind._thread.join = lambda timeout=None: (release.set(), join(timeout))[1]  # type: ignore[method-assign]

    def stream() -> None:
        with behind:
            for item in range(5):
                behind.put(item)
            assert working.wait(5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream()
    assert done == [0]
    assert running() == 0


def test_an_interruption_goes_before_a_failure_behind_it() -> None:
    failed = threading.Event()

    def refuse(item: int) -> None:
        failed.set()
        raise ValueError

    def stream() -> None:
        with BackgroundWorker(refuse, 2) as behind:
            behind.put(0)
            assert failed.wait(5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream()
