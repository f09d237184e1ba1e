"""Decoding ahead: the next few elements are made in background threads while the consumer works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")

_END: Any = object()


def prefetch(source: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """The elements of ``source`` in order, up to ``ahead`` of them made before they are asked for.

    One thread runs the source, so it needs no locks. It starts with the first element asked for; what the source
    raises is raised in place of the element that it failed to make. When the consumer stops early (``close()``, or
    the generator is dropped) the thread finishes the element in its hands and ends before ``close`` returns, and
    the source is closed if it is a generator. At most ``ahead`` elements wait besides the one that was handed out.
    Raises ValueError when ``ahead`` is less than 1.
    """
    _check(ahead)
    return _prefetched(source, ahead, None, 0)


def prefetch_mapped(
    function: Callable[[S], T], source: Iterable[S], ahead: int, workers: int
) -> Generator[T, None, None]:
    """``function`` of the elements of ``source`` in order; the rest is as :func:`prefetch` has it.

    One thread runs the source, ``workers`` others the function, several elements at a time; together they have no more
    than ``ahead`` elements in hand. With no workers the thread of the source does both, for machines whose cores have
    other work. Raises ValueError when ``ahead`` is less than 1 or ``workers`` less than 0.
    """
    _check(ahead)
    if workers < 0:
        raise ValueError(f"expected 0 workers or more, found {workers}")
    if workers == 0:
        return _prefetched(map(function, source), ahead, None, 0, closes=source)
    return _prefetched(source, ahead, function, workers)


def _check(ahead: int) -> None:
    if ahead < 1:
        raise ValueError(f"expected to decode at least 1 element ahead, found {ahead}")


def _prefetched(
    source: Iterable[Any], ahead: int, function: Callable[[Any], Any] | None, workers: int, closes: Any = None
) -> Generator[Any, None, None]:
    iterator = iter(source)
    pending: deque[Future[Any]] = deque()
    with ExitStack() as threads:
        # Shut down in this order: whoever waits for a read that will not come any more is told so first.
        if function is not None:
            appliers = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
            threads.callback(appliers.shutdown, wait=True)
        reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        threads.callback(reader.shutdown, wait=True, cancel_futures=True)

        def order_one() -> None:
            read: Future[Any] = reader.submit(next, iterator, _END)
            pending.append(read if function is None else appliers.submit(_applied, function, read))

        try:
            for _ in range(ahead):
                order_one()
            while (element := pending.popleft().result()) is not _END:
                order_one()
                yield element
                # Not kept while the next one is awaited: a frame may be large.
                del element
        finally:
            for future in pending:
                future.cancel()
            # Leaving the threads waits for the element in the making; only then may the source be closed.
            threads.close()
            _close(iterator)
            _close(closes)


def _applied(function: Callable[[Any], Any], read: Future[Any]) -> Any:
    element = read.result()
    return element if element is _END else function(element)


def _close(iterator: Iterator[Any] | None) -> None:
    if isinstance(iterator, Generator):
        iterator.close()
