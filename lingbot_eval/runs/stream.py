"""One pass of a scene through a method: which frames are in flight, and when each prediction left."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from lingbot_eval.datasets.prepare.prefetch import prefetch_mapped
from lingbot_eval.errors import StreamError
from lingbot_eval.methods.base import Method
from lingbot_eval.types import Frame, Prediction

AHEAD = 4
"""Frames decoded and prepared in the background before the method asks for them; for each further worker one more."""

MAX_BYTES_IN_FLIGHT = 2**30
"""Of the frames that a method holds back before it answers: about 700 of 518×378 with depth, more than any scale
phase or overlap of windows needs, and a bound on the memory of a sequence of any length."""

SAME_FRAME_S = 1e-6
"""What a prediction's time may differ from its frame's by: by this readers tell frames apart later."""

_BYTES_OF_AN_EMPTY_FRAME = 1024

Load = Callable[[], Frame]


@dataclass(frozen=True, eq=False)
class Output:
    """A prediction, with the prepared frame that it is about.

    interval_s: wall-clock seconds since the previous prediction left (the first: since the stream was started), with
    everything in it: decoding, preparing, predicting, and what the caller did with the previous Output, as far as
    these are not done beside each other.
    """

    frame: Frame
    prediction: Prediction
    interval_s: float


class SceneStream:
    """Feeds prepared frames to a method and pairs its predictions with them; holds only the frames in flight."""

    def __init__(
        self,
        method: Method,
        loaders: Iterable[Load],
        prepare: Callable[[Frame], Frame],
        workers: int = 0,
        again: Callable[[], Iterable[Load]] = tuple,
    ) -> None:
        """``loaders``: of `FrameSequence`. ``workers``: threads that decode and prepare; 0: one, in turn.

        ``again``: gives the loaders once more, for a method that holds back more than may be in flight, such as one
        that answers at the end: its frames are then decoded twice.
        """
        self._method = method
        self._workers = workers
        self._loaders = loaders
        self._prepare = prepare
        self._in_flight: OrderedDict[int, Frame] = OrderedDict()
        self._bytes_in_flight = 0
        self._given = 0
        self._asked = 0
        self._exhausted = False
        self._again = again
        self._second: Iterator[Load] | None = None

    @property
    def given(self) -> int:
        """Frames that the method has been given so far."""
        return self._given

    @property
    def at_frame(self) -> int:
        """The frame asked for last: the one that a failure belongs to."""
        return max(0, self._asked - 1)

    @property
    def exhausted(self) -> bool:
        """Whether the method has asked for every frame there is."""
        return self._exhausted

    def outputs(self) -> Generator[Output, None, None]:
        """Predictions as they leave.

        Raises StreamError for a prediction out of order, about a frame no longer in flight, or with a time that is
        not the frame's.
        """
        last = -1
        left = time.perf_counter()
        ahead = AHEAD + self._workers
        with closing(prefetch_mapped(self._prepared, self._loaders, ahead, self._workers)) as source:
            for prediction in self._method.predict(self._tapped(source)):
                frame = self._take(prediction.index, last)
                if not abs(prediction.timestamp - frame.timestamp) <= SAME_FRAME_S:
                    raise StreamError(
                        f"method '{self._method.name}': expected frame {frame.index} with its own time "
                        f"{frame.timestamp!r} s, found {prediction.timestamp!r}; give each prediction its frame's time"
                    )
                last = prediction.index
                now = time.perf_counter()
                yield Output(frame, prediction, now - left)
                left = now

    def _prepared(self, load: Load) -> Frame:
        return self._prepare(load())

    def _tapped(self, source: Iterator[Frame]) -> Iterator[Frame]:
        while True:
            self._asked = self._given + 1
            frame = next(source, None)
            if frame is None:
                self._asked = self._given
                self._exhausted = True
                return
            self._given += 1
            self._in_flight[frame.index] = frame
            self._bytes_in_flight += _bytes_of(frame)
            # A method may leave frames out, so an old one is forgotten rather than refused; see _take.
            while self._bytes_in_flight > MAX_BYTES_IN_FLIGHT:
                self._forget_oldest()
            yield frame

    def _take(self, index: int, last: int) -> Frame:
        name = self._method.name
        if index <= last:
            raise StreamError(f"method '{name}': predictions must come in frame order, found {index} after {last}")
        if index not in self._in_flight:
            return self._once_more(index)
        while True:
            frame = self._forget_oldest()
            if frame.index == index:
                return frame

    def _once_more(self, index: int) -> Frame:
        """A frame that was forgotten; predictions come in order, so that one more pass serves them all."""
        if index < next(iter(self._in_flight), 0):
            if self._second is None:
                self._second = iter(self._again())
            for load in self._second:
                frame = load()
                if frame.index == index:
                    return self._prepare(frame)
        raise StreamError(
            f"method '{self._method.name}': predicted frame {index} when it had been given {self._given} frames, which"
            f" is none of those or longer ago than {MAX_BYTES_IN_FLIGHT >> 20} MiB of frames; it must hold back fewer"
        )

    def _forget_oldest(self) -> Frame:
        _, frame = self._in_flight.popitem(last=False)
        self._bytes_in_flight -= _bytes_of(frame)
        return frame


def _bytes_of(frame: Frame) -> int:
    image = 0 if frame.image is None else frame.image.nbytes
    return _BYTES_OF_AN_EMPTY_FRAME + image + (0 if frame.depth is None else frame.depth.nbytes)
