"""The wait for the first prediction by its parts: what somebody sits through between the command and the first pose."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Wait:
    """Seconds of a wait by named part. One of a process (`WAIT`), as there is one command and one terminal.

    The first part begins it, or `begin` does, where it began before this process could name anything.
    """

    def __init__(self) -> None:
        self._begun: float | None = None
        self._parts: dict[str, float] = {}
        self._named_until = 0.0

    def begin(self, part: str, seconds: float) -> None:
        """A wait begins that has lasted ``seconds`` already, all of them for ``part``."""
        self._named_until = time.perf_counter()
        self._begun, self._parts = self._named_until - seconds, {part: seconds}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What the block takes is ``name``'s; parts do not lie in one another."""
        start = time.perf_counter()
        if self._begun is None:
            self._begun, self._parts = start, {}
        try:
            yield
        finally:
            self._named_until = time.perf_counter()
            self._parts[name] = self._parts.get(name, 0.0) + self._named_until - start

    def end(self, last: str) -> dict[str, float]:
        """The wait is over, and ``last`` is what it waited for since the last part.

        Returns:
            The parts in order, what has no name as ``other``, and ``total``; nothing where none was under way.
        """
        if self._begun is None:
            return {}
        now = time.perf_counter()
        parts = {**self._parts, last: self._parts.get(last, 0.0) + now - self._named_until}
        total = now - self._begun
        parts |= {"other": max(0.0, total - sum(parts.values())), "total": total}
        self._begun, self._parts = None, {}
        return {name: round(seconds, 3) for name, seconds in parts.items()}


WAIT = Wait()


def process_age_s() -> float:
    """Seconds since this process began; where the system does not say, those that it has computed."""
    if sys.platform != "linux":
        return time.process_time()
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
