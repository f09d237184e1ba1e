"""How long one step took on its device, without making the host wait for it: the clock of every streaming step."""

from __future__ import annotations

import time
from typing import Any, Protocol


class Span(Protocol):
    """A stretch of work on a device, begun when it was made."""

    def stop(self) -> None:
        """The work ends here; nothing is waited for."""
        ...

    def seconds(self) -> float:
        """Its length, waiting for the device where that is still needed; call it after ``stop``."""
        ...


class HostSpan:
    """Wall clock: a CPU has done its work when the call returns."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._end = self._start

    def stop(self) -> None:
        self._end = time.perf_counter()

    def seconds(self) -> float:
        return self._end - self._start


class DeviceSpan:
    """Two CUDA events around the work, on the stream that is current when they are recorded.

    The first passes when everything queued before it is done, so a step that waits behind another is not charged for
    it; gaps inside, where the device waits for the host's launches, are part of the step.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._stream: Any = torch.cuda.current_stream(device)
        self._start: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._start.record(self._stream)

    def stop(self) -> None:
        self._end.record(self._stream)

    def seconds(self) -> float:
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3


def begin_span(device: str) -> Span:
    """The clock that belongs to ``device`` (``cpu``, ``cuda:0``), started."""
    return DeviceSpan(device) if device.startswith("cuda") else HostSpan()
