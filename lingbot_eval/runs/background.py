"""Work behind the stream: one thread takes what comes, in order, while the next is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class BackgroundWorker(Generic[T]):
    """Calls ``work`` for every item in the order given; a context, whose end waits for the last one.

    bound: items that may wait; ``put`` blocks beyond it, so that a slow consumer slows the stream instead of filling
    the memory. 0 is the form without a thread, where ``put`` does the work itself: for machines whose cores are
    the device. What ``work`` raises comes out of the next ``put``, or of the end; nothing is worked on after it, nor
    after an interruption (KeyboardInterrupt and the like) of the block.
    """

    def __init__(self, work: Callable[[T], None], bound: int) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._waiting: queue.Queue[T | None] = queue.Queue(bound)
        # A daemon: whoever interrupts the wait for it, too, wants the process to end.
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True) if bound else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def put(self, item: T) -> None:
        """Have ``item`` worked on."""
        if self._thread is None:
            self._work(item)
        else:
            self._raise()
            self._waiting.put(item)

    def wait(self) -> None:
        """Until all that was put is worked on."""
        if self._thread is not None:
            self._waiting.join()
            self._raise()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        # A method that ends the program has failed, as others do; only the user and the system interrupt.
        interrupted = error is not None and not isinstance(error, Exception | SystemExit)
        if interrupted and self._error is None:
            self._error = error
        self._waiting.put(None)
        self._thread.join()
        # It failed at an earlier item than whatever ends the block; only an interruption goes before it.
        if self._error is not None and error is not self._error and not interrupted:
            raise self._error from error

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    self._work(item)
                except BaseException as error:  # noqa: BLE001 - carried to the thread that put the item
                    self._error = error
            self._waiting.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
