"""Frames into the model at the pace of a scenario (after MLPerf's): when each is given, and when its outputs come."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

from lingbot_eval.scaling.settings import Case
from lingbot_eval.types import Frame, Prediction

POLICIES = {
    "single_stream": "the next frame is given when the outputs of the last are on the host",
    "offline": "frames are given as fast as they are taken, one step in flight while the next is prepared",
    "camera": "frames arrive at a fixed rate in wall-clock time, wait in a queue without limit and are never dropped",
}


class Clock(Protocol):
    """Seconds that only grow, and a way to wait for a moment among them."""

    def now(self) -> float: ...

    def sleep_until(self, moment: float) -> None:
        """Returns at once for a moment that has passed."""
        ...


class WallClock:
    """The time of this world."""

    def now(self) -> float:
        """See `Clock`."""
        return time.perf_counter()

    def sleep_until(self, moment: float) -> None:
        """See `Clock`."""
        rest = moment - time.perf_counter()
        if rest > 0:
            time.sleep(rest)


class Steps(Protocol):
    """What a `lingbot_eval.methods.stepper.Stepper` does: frames in, predictions in order, some of them later."""

    def step(self, frame: Frame) -> tuple[Prediction, ...]: ...

    def finish(self) -> tuple[Prediction, ...]: ...


@dataclass(frozen=True, eq=False)
class Timed:
    """A prediction, and when it came.

    interval_s: since the one before came (the first: since the stream began). latency_s: since the frame was given
    (``single_stream``) or had arrived (``camera``); None in ``offline``, where only the pace means something.
    backlog: frames that had arrived and waited when this one was given (``camera``), itself apart.
    """

    prediction: Prediction
    interval_s: float
    latency_s: float | None = None
    backlog: int | None = None


class PacedStream:
    """One case's stream.

    given: frames that the model was given so far. at_frame: the one asked for last, which a failure belongs to.
    stopped: whether the case's limit ended it.
    """

    def __init__(self, case: Case, steps: Steps, clock: Clock) -> None:
        self._case = case
        self._steps = steps
        self._clock = clock
        self.given = 0
        self.at_frame = 0
        self.stopped = False

    def run(self, frames: Iterable[Frame]) -> Generator[Timed, None, None]:
        """Predictions as they come. Raises what the model and the frames raise."""
        case, clock = self._case, self._clock
        begun = left = clock.now()
        waiting: dict[int, tuple[float, int | None]] = {}
        for frame in frames:
            if case.limit_s is not None and clock.now() - begun > case.limit_s:
                self.stopped = True
                break
            since, backlog = self._due(begun)
            waiting[frame.index] = since, backlog
            self.given += 1
            predictions = self._steps.step(frame)
            for prediction in predictions:
                timed = self._timed(prediction, left, waiting.pop(prediction.index))
                left += timed.interval_s
                yield timed
            self.at_frame = self.given
        self.at_frame = max(0, self.given - 1)
        for prediction in self._steps.finish():
            timed = self._timed(prediction, left, waiting.pop(prediction.index))
            left += timed.interval_s
            yield timed

    def _due(self, begun: float) -> tuple[float, int | None]:
        """Wait until the next frame is there; returns the moment that its latency counts from, and who else waits."""
        if self._case.scenario != "camera":
            return self._clock.now(), None
        hertz = self._case.camera_hz
        arrival = begun + self.given / hertz
        self._clock.sleep_until(arrival)
        # A microsecond of tolerance: the clock's own rounding is not a frame.
        arrived = math.floor((self._clock.now() - begun) * hertz + 1e-6) + 1
        return arrival, max(0, min(arrived, self._case.frames) - self.given - 1)

    def _timed(self, prediction: Prediction, left: float, given: tuple[float, int | None]) -> Timed:
        now = self._clock.now()
        since, backlog = given
        latency = None if self._case.scenario == "offline" else now - since
        return Timed(prediction, now - left, latency, backlog)
