"""What fills a layer while it is looked at: a method's frames and predictions in a thread, and cameras as a source."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from lingbot_eval.errors import DataError, one_line, reason
from lingbot_eval.types import Frame, Prediction
from lingbot_eval.viewing.layers import Layer

if TYPE_CHECKING:
    from av.container import InputContainer

_RATE_OVER = 20  # frames over which the rate is told
_GIVE_UP_S = 10.0  # without a frame


class Filling:
    """Puts a stream's frames into a layer, in a thread of its own.

    Attributes:
        frames: that were taken.
        error: what ended it, where that is not the end of the stream.
    """

    def __init__(
        self, layer: Layer, pairs: Generator[tuple[Frame, Prediction], None, None], source: Camera | None = None
    ) -> None:
        """Start.

        Args:
            layer: to be filled.
            pairs: each frame as the method saw it, and its prediction.
            source: where the frames come from, if that is a camera: what it drops is told.
        """
        self.frames = 0
        self.error: Exception | None = None
        self._layer, self._pairs, self._source = layer, pairs, source
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it after the frame in hand."""
        self._stopped = True
        if self._source is not None:
            self._source.close()
        self._thread.join(10)

    def wait(self, seconds: float | None = None) -> bool:
        """Until its end, or so many seconds. Returns whether it ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        layer = self._layer
        times: list[float] = []
        try:
            with closing(self._pairs):
                for frame, prediction in self._pairs:
                    layer.add(frame, prediction)
                    self.frames += 1
                    times = [*times[-_RATE_OVER:], time.monotonic()]
                    layer.status = self._status(times)
                    if self._stopped:
                        break
            layer.status = f"{self.frames} frames, complete" if not self._stopped else f"{self.frames} frames, stopped"
        except Exception as error:  # noqa: BLE001  # of a thread: the command says it
            self.error = error
            layer.status = f"ended after {self.frames} frames: {one_line(error)}"
        finally:
            layer.complete = True

    def _status(self, times: list[float]) -> str:
        of = f" of {self._layer.length}" if self._layer.length else ""
        text = f"live: {self.frames}{of} frames"
        if len(times) > 1 and times[-1] > times[0]:
            text += f", {(len(times) - 1) / (times[-1] - times[0]):.1f} a second"
        if self._source is not None:
            text += f"; the camera's newest frame is taken, {self._source.dropped} were dropped"
        return text


class Camera:
    """Frames of a camera or an RTSP address, as they come: whoever is slower gets the newest, the others are dropped.

    Attributes:
        dropped: frames that nobody took in time.
    """

    def __init__(self, address: str) -> None:
        """Open it.

        Args:
            address: ``camera:0`` (the number of a device), ``rtsp://…`` or ``http://…``.

        Raises:
            DataError: it cannot be opened, or has no video.
        """
        import av

        self.address = address
        self.dropped = 0
        self._newest: Frame | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None
        try:
            self._container: InputContainer = _opened(address)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DataError(
                f"{address}: expected a camera or stream that can be opened, found none ({reason(error)}); is it"
                " connected, and may you read it?"
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"{address}: expected a video stream, found none")

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the stream ends or `close`. Raises DataError when it breaks off."""
        reader = threading.Thread(target=self._read, name="camera", daemon=True)
        reader.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended)
                frame, self._newest = self._newest, None
            if frame is None:
                if self._error is not None:
                    raise DataError(f"{self.address}: {reason(self._error)}; the stream ended") from self._error
                return
            yield frame

    def close(self) -> None:
        """End it after the frame in hand."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self) -> None:
        import av

        try:
            for index, picture in enumerate(self._container.decode(video=0)):
                seconds = float(picture.time if picture.time is not None else index / 30)
                image = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
                frame = Frame(index, seconds, image, f"{self.address} at {seconds:.3f} s")
                with self._changed:
                    if self._ended:
                        break
                    self.dropped += self._newest is not None
                    self._newest = frame
                    self._changed.notify_all()
        except (av.FFmpegError, OSError) as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._container.close()


def numbered(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames with indices that count those that are there."""
    for index, frame in enumerate(frames):
        yield Frame(index, frame.timestamp, frame.image, frame.source)


def is_camera(text: str) -> bool:
    """Whether these words name a camera or a stream of the network."""
    return text.startswith(("camera:", "rtsp://", "rtsps://", "http://", "https://"))


def _opened(address: str) -> InputContainer:
    """As FFmpeg names it. Raises DataError for what names no camera."""
    import av

    kind, _, number = address.partition(":")
    if kind != "camera":
        return av.open(address, mode="r", timeout=_GIVE_UP_S)
    if not (number.isascii() and number.isdigit() and len(number) <= 3):
        raise DataError(f"{address}: expected the number of a camera, as in camera:0")
    if sys.platform == "darwin":
        return av.open(number, mode="r", format="avfoundation", timeout=_GIVE_UP_S)
    return av.open(f"/dev/video{number}", mode="r", format="v4l2", timeout=_GIVE_UP_S)
