"""Decoding ahead: the next few elements are made in one background thread while the consumer works."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

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
    if ahead < 1:
        raise ValueError(f"expected to decode at least 1 element ahead, found {ahead}")
    return _prefetched(source, ahead)


def _prefetched(source: Iterable[T], ahead: int) -> Generator[T, None, None]:
    iterator = iter(source)
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as worker:

        def order_one() -> None:
            pending.append(cast("Future[T]", worker.submit(next, iterator, _END)))

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
            # Leaving the pool waits for the element in the making; only then may the source be closed.
            worker.shutdown(wait=True)
            if isinstance(iterator, Generator):
                iterator.close()
