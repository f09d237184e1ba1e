"""One pass of a scene through a method: which frames are in flight, and when each prediction left.

Work behind the stream is done by one thread, in order, while the next is computed.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral, Real
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from lingbot_eval.errors import StreamError
from lingbot_eval.methods.base import Method
from lingbot_eval.types import Frame, Prediction

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


MAX_BYTES_IN_FLIGHT = 2**30
"""Of the frames that a method holds back before it answers: about 700 of 518×378 with depth, more than any scale
phase or overlap of windows needs, and a bound on the memory of a sequence of any length."""

SAME_FRAME_S = 1e-6
"""What a prediction's time may differ from its frame's by: by this readers tell frames apart later."""

_BYTES_OF_AN_EMPTY_FRAME = 1024


@dataclass(frozen=True)
class Pace:
    """When frames are given.

    hertz: of a camera: frame i arrives i/hertz seconds after the first, in wall-clock time, and waits until the method
    takes it; none is dropped. None: a frame is there when it is asked for. frames: that arrive in all, where that is
    known. limit_s: seconds after which no further frame is given.
    """

    hertz: float | None = None
    frames: int | None = None
    limit_s: float | None = None


class Rest(Protocol):
    """What is done now and then between two frames, in time that is not the stream's."""

    def predict(self, frames: Iterable[Frame | None]) -> Iterator[Prediction]:
        """The method's own; at None it hands out all the predictions that there are."""
        ...

    def due(self) -> bool:
        """Whether it is time."""
        ...

    def at_rest(self, given: int, seconds: float) -> None:
        """All ``given`` frames have the predictions that they will have; the stream has lasted ``seconds``."""
        ...


@dataclass(frozen=True, eq=False)
class Output:
    """A prediction, with the prepared frame that it is about.

    interval_s: wall-clock seconds since the previous prediction left (the first: since the stream was started), with
    everything in it: decoding, preparing, predicting, and what the caller did with the previous Output, as far as
    these are not done beside each other. latency_s: since the frame was given, or had arrived from a camera. backlog:
    further frames that had arrived then and waited; None without a camera.
    """

    frame: Frame
    prediction: Prediction
    interval_s: float
    latency_s: float
    backlog: int | None


@dataclass(frozen=True, eq=False)
class _InFlight:
    """A frame that was given, the moment that its latency counts from, and who else waited."""

    frame: Frame
    since: float
    backlog: int | None


class SceneStream:
    """Feeds prepared frames to a method and pairs its predictions with them; holds only the frames in flight.

    given: frames that the method was given so far. exhausted: whether it has asked for every frame there is. stopped:
    whether the pace's limit ended it.
    """

    def __init__(
        self,
        method: Method,
        frames: Callable[[], Generator[Frame, None, None]],
        pace: Pace = Pace(),
        rest: Rest | None = None,
        first: int = 0,
        before_s: float = 0.0,
    ) -> None:
        """``frames``: begins the scene, as it is to be seen. rest: what is done between two frames now and then.

        first: the frame that the method goes on with; before_s: the stream's seconds until then.

        It is begun once more for a method that holds back more than may be in flight, such as one that answers at the
        end: its frames are then decoded twice.
        """
        self._method = method
        self._frames = frames
        self._pace = pace
        self._in_flight: OrderedDict[int, _InFlight] = OrderedDict()
        self._bytes_in_flight = 0
        self._second: Generator[Frame, None, None] | None = None
        self._asked = 0
        self._begun = 0.0
        self._rest = rest
        self._first = first
        self._before_s = before_s
        self._rested_s = 0.0
        self.given = first
        self.exhausted = False
        self.stopped = False

    @property
    def at_frame(self) -> int:
        """The frame asked for last: the one that a failure belongs to."""
        return max(0, self._asked - 1)

    def outputs(self) -> Generator[Output, None, None]:
        """Predictions as they leave.

        Raises StreamError for what is no prediction or has no arrays in it, for a prediction out of order, about a
        frame no longer in flight, or with a time that is not the frame's.
        """
        last = self._first - 1
        left = time.perf_counter()
        self._begun = left - self._before_s
        try:
            with closing(self._frames()) as source:
                for _ in range(self._first):
                    next(source, None)
                frames = self._tapped(source)
                rest = self._rest
                predictions = self._method.predict(frames) if rest is None else rest.predict(self._rested(frames, rest))
                name = self._method.name
                for prediction in _checked(predictions, name):
                    given = self._take(prediction.index, last)
                    frame = given.frame
                    if not abs(prediction.timestamp - frame.timestamp) <= SAME_FRAME_S:
                        raise StreamError(
                            f"method '{name}': expected frame {frame.index} with its own time "
                            f"{frame.timestamp!r} s, found {prediction.timestamp!r}; give each prediction its frame's"
                            " time"
                        )
                    last = prediction.index
                    now = time.perf_counter()
                    yield Output(frame, prediction, now - left - self._rested_s, now - given.since, given.backlog)
                    left, self._rested_s = now, 0.0
        finally:
            if self._second is not None:
                self._second.close()

    def _rested(self, frames: Iterator[Frame], rest: Rest) -> Iterator[Frame | None]:
        """The frames with a None wherever the stream rests before the next one."""
        while True:
            if self.given > self._first and rest.due():
                yield None
                began = time.perf_counter()
                rest.at_rest(self.given, began - self._begun)
                took = time.perf_counter() - began
                self._begun += took
                self._rested_s += took
            frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _tapped(self, source: Iterator[Frame]) -> Iterator[Frame]:
        limit_s = self._pace.limit_s
        while True:
            self._asked = self.given + 1
            frame = next(source, None)
            self.exhausted = frame is None
            self.stopped = limit_s is not None and time.perf_counter() - self._begun > limit_s
            if frame is None or self.stopped:
                self._asked = self.given
                return
            since, backlog = self._due()
            self.given += 1
            self._in_flight[frame.index] = _InFlight(frame, since, backlog)
            self._bytes_in_flight += _bytes_of(frame)
            # A method may leave frames out, so an old one is forgotten rather than refused; see _take.
            while self._bytes_in_flight > MAX_BYTES_IN_FLIGHT:
                self._forget_oldest()
            yield frame

    def _due(self) -> tuple[float, int | None]:
        """Wait until the next frame is there; returns the moment that its latency counts from, and who else waits."""
        hertz, frames = self._pace.hertz, self._pace.frames
        if hertz is None:
            return time.perf_counter(), None
        arrival = self._begun + self.given / hertz
        rest = arrival - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
        # A microsecond of tolerance: the clock's own rounding is not a frame.
        arrived = math.floor((time.perf_counter() - self._begun) * hertz + 1e-6) + 1
        return arrival, max(0, (arrived if frames is None else min(arrived, frames)) - self.given - 1)

    def _take(self, index: int, last: int) -> _InFlight:
        if index <= last:
            name = self._method.name
            raise StreamError(f"method '{name}': predictions must come in frame order, found {index} after {last}")
        if index not in self._in_flight:
            return self._once_more(index)
        while True:
            oldest = self._forget_oldest()
            if oldest.frame.index == index:
                return oldest

    def _once_more(self, index: int) -> _InFlight:
        """A frame that was forgotten; predictions come in order, so that one more pass serves them all."""
        if index < next(iter(self._in_flight), 0):
            if self._second is None:
                self._second = self._frames()
            for frame in self._second:
                if frame.index == index:
                    return _InFlight(frame, self._begun, None)
        raise StreamError(
            f"method '{self._method.name}': predicted frame {index} when it had been given {self.given} frames, which"
            f" is none of those or longer ago than {MAX_BYTES_IN_FLIGHT >> 20} MiB of frames; it must hold back fewer"
        )

    def _forget_oldest(self) -> _InFlight:
        _, oldest = self._in_flight.popitem(last=False)
        self._bytes_in_flight -= _bytes_of(oldest.frame)
        return oldest


_SHAPES: dict[str, tuple[int | None, ...]] = {
    "camera_to_world": (4, 4),
    "intrinsics": (3, 3),
    "depth": (None, None),
    "depth_confidence": (None, None),
    "points": (None, None, 3),
    "points_confidence": (None, None),
}
"""Of a prediction's arrays; None: as the image is."""


def _checked(predictions: Any, name: str) -> Iterator[Prediction]:
    """What a method gives, which of foreign code may be anything. Raises StreamError for what is no prediction."""
    if not isinstance(predictions, Iterable):
        raise StreamError(f"method '{name}': expected predict to yield a Prediction a frame, found {predictions!r}")
    for given in predictions:
        if not isinstance(given, Prediction):
            raise StreamError(
                f"method '{name}': expected a lingbot_eval.Prediction from predict, found {type(given).__name__}"
            )
        index: Any = given.index
        seconds: Any = given.timestamp
        if not (isinstance(index, Integral) and isinstance(seconds, Real)):
            raise StreamError(
                f"method '{name}': expected a frame's index and its time in seconds, found {index!r} and {seconds!r}"
            )
        for part, shape in _SHAPES.items():
            array = getattr(given, part)
            if array is None:
                continue
            words = f"method '{name}': frame {given.index}: {part}: expected a numpy array of shape ({_named(shape)})"
            if not isinstance(array, np.ndarray):
                raise StreamError(f"{words}, found {type(array).__name__}")
            if len(shape) != array.ndim or any(
                wanted not in (None, there) for wanted, there in zip(shape, array.shape, strict=True)
            ):
                raise StreamError(f"{words}, found {array.shape}")
            if array.dtype.kind not in "fiu":
                raise StreamError(f"{words} of numbers, found {array.dtype}")
        yield given


def _named(shape: tuple[int | None, ...]) -> str:
    return ", ".join(letter if size is None else str(size) for size, letter in zip(shape, ("H", "W", ""), strict=False))


def _bytes_of(frame: Frame) -> int:
    image = 0 if frame.image is None else frame.image.nbytes
    return _BYTES_OF_AN_EMPTY_FRAME + image + (0 if frame.depth is None else frame.depth.nbytes)
