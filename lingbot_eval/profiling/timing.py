"""Seconds on a device, and the throughput figures made from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import Declaration, FrameType, Measurement


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


# A p-th percentile of fewer samples than this is decided by one or two of them.
FEWEST_SAMPLES = {50: 1, 90: 10, 95: 20, 99: 100}
PERCENTILES = (50, 95, 99)

_FORWARD = "each streaming step on its device: between CUDA events, on a CPU wall clock"
_END_TO_END = "wall clock with everything in it: decoding, preparation, prediction, scoring, storing"


DECLARED = (
    Declaration("end_to_end_fps", "higher", "", headline=10, line="end to end", title="FPS end to end"),
    Declaration("forward_fps", "higher", "", headline=9, line="forward", title="FPS", published="forward_fps"),
    Declaration("forward_latency", "lower", "p50", tolerance={"kind": "statistical"}),
    Declaration("end_to_end_interval", "lower", "p50", tolerance={"kind": "statistical"}),
    Declaration("*_fps", "higher"),
    # Rates and tails follow from the same samples as the medians, or rest on a single one.
    Declaration("*", "lower", tolerance={"kind": "shown"}),
)


def timed(work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds that ``work`` takes somebody who waits for its result.

    What was queued before is waited for first, what it queues at its end, so a GPU's asynchronous launches are neither
    missed nor charged to something else. What ``work`` returns is held so long: nothing is freed that the device uses.
    """
    wait = synchroniser(device)
    wait()
    start = time.perf_counter()
    made = work()
    wait()
    seconds = time.perf_counter() - start
    del made
    return seconds


def synchroniser(device: str) -> Callable[[], None]:
    """How to wait for everything queued on ``device`` (``cpu``, ``cuda``, ``cuda:1``); nothing to do on a CPU."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return partial(torch.cuda.synchronize, device)


def summarise(
    name: str,
    samples_ms: Sequence[float] | NDArray[np.float64],
    convention: str,
    percentiles: Sequence[int] = PERCENTILES,
) -> tuple[Measurement, ...]:
    """Percentiles (keys of FEWEST_SAMPLES) of samples in milliseconds, linear between order statistics.

    A percentile with fewer than FEWEST_SAMPLES samples is refused with the reason. Raises ValueError for samples
    that are negative or not finite (a fault of the clock, not a slow frame).
    """
    samples = np.asarray(samples_ms, dtype=np.float64)
    if not (np.isfinite(samples).all() and (samples >= 0).all()):
        raise ValueError(f"{name}: expected finite durations of at least 0")
    count = len(samples)
    return tuple(
        Measurement(
            family="throughput",
            name=name,
            variant=f"p{percent}",
            value=float(np.percentile(samples, percent)) if count >= FEWEST_SAMPLES[percent] else None,
            unit="ms",
            convention=convention,
            samples=count,
            reason=None
            if count >= FEWEST_SAMPLES[percent]
            else f"a p{percent} needs {FEWEST_SAMPLES[percent]} samples, there are {count}",
        )
        for percent in percentiles
    )


def throughput_measurements(
    forward_s: Sequence[float] | None,
    frame_types: Sequence[FrameType | None],
    interval_s: Sequence[float],
    warm_up_s: float | None,
) -> tuple[Measurement, ...]:
    """The family ``throughput`` of one streamed scene (protocol.md section 1, Resources).

    One entry a prediction, in the order they left. forward_s: seconds of the step on the device (scale frames carry
    equal shares of their one pass), None for a method that does not tell. interval_s: seconds since the previous
    prediction left; the first one since the stream was started, so that their sum is the whole wall time.
    warm_up_s: seconds of compiling and first touches before the stream, in no frame's time; None = no warm-up.
    Raises ValueError when the lengths differ.
    """
    if len(frame_types) != len(interval_s) or (forward_s is not None and len(forward_s) != len(interval_s)):
        raise ValueError("expected one forward time, frame type and interval for each prediction")
    interval = np.asarray(interval_s, dtype=np.float64)
    # Scale frames leave in one burst after one pass, and the first interval is the start-up: neither is the pace.
    steps = np.array([kind is not FrameType.SCALE for kind in frame_types], dtype=bool)
    paced = steps & (np.arange(len(interval)) > 0)
    return (
        *_forward(forward_s, steps),
        _rate("end_to_end_fps", interval, f"predictions / time of the whole stream, warm-up apart; {_END_TO_END}"),
        *summarise(
            "end_to_end_interval",
            1e3 * interval[paced],
            f"time between predictions leaving; {_END_TO_END}; no scale frames, not the first output",
        ),
        _overhead(forward_s, interval, paced),
        _one(
            "first_output_latency",
            1e3 * float(interval[0]) if len(interval) else None,
            f"from the start of the stream to the first prediction, warm-up apart; {_END_TO_END}",
            "no prediction left",
        ),
        _one(
            "warm_up",
            1e3 * warm_up_s if warm_up_s is not None else None,
            "compilation and first touches before the stream, in no frame's time",
            "the method was not warmed up",
        ),
    )


def _forward(forward_s: Sequence[float] | None, steps: NDArray[np.bool_]) -> tuple[Measurement, ...]:
    rate_convention = f"frames / summed step time, scale frames included; {_FORWARD}"
    step_convention = f"{_FORWARD}; step frames only (no scale frames)"
    if forward_s is None:
        reason = "the method does not report its time on the device"
        return (
            Measurement("throughput", "forward_fps", "", None, "fps", rate_convention, reason=reason),
            *(
                Measurement("throughput", "forward_latency", f"p{percent}", None, "ms", step_convention, reason=reason)
                for percent in PERCENTILES
            ),
        )
    forward = np.asarray(forward_s, dtype=np.float64)
    return (
        _rate("forward_fps", forward, rate_convention),
        *summarise("forward_latency", 1e3 * forward[steps], step_convention),
    )


def _overhead(
    forward_s: Sequence[float] | None, interval: NDArray[np.float64], paced: NDArray[np.bool_]
) -> Measurement:
    """What everything around the model costs on top of it, summed over the frames that show the pace."""
    forward = float(np.asarray(forward_s, dtype=np.float64)[paced].sum()) if forward_s is not None else 0.0
    reason = "the method does not report its time on the device" if forward_s is None else "there are no step frames"
    return Measurement(
        family="throughput",
        name="harness_overhead",
        variant="",
        value=100 * (float(interval[paced].sum()) - forward) / forward if forward > 0 else None,
        unit="%",
        convention="(end to end - forward) / forward, summed over step frames, without the first output; "
        "what is overlapped with the step costs nothing",
        samples=int(paced.sum()),
        reason=None if forward > 0 else reason,
    )


def _rate(name: str, seconds: NDArray[np.float64], convention: str) -> Measurement:
    if not (np.isfinite(seconds).all() and (seconds >= 0).all()):
        raise ValueError(f"{name}: expected finite durations of at least 0")
    total = float(seconds.sum())
    return Measurement(
        family="throughput",
        name=name,
        variant="",
        value=len(seconds) / total if total > 0 else None,
        unit="fps",
        convention=convention,
        samples=len(seconds),
        reason=None if total > 0 else "no time was spent: there are no timed frames",
    )


def _one(name: str, milliseconds: float | None, convention: str, otherwise: str) -> Measurement:
    return Measurement(
        family="throughput",
        name=name,
        variant="",
        value=milliseconds,
        unit="ms",
        convention=convention,
        samples=None if milliseconds is None else 1,
        reason=otherwise if milliseconds is None else None,
    )
