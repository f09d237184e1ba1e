"""A page that is filled while a method streams: it lives in a process of its own. And cameras as a source of frames.

The process that streams launches kernels from Python, so that every other thread of it takes from its frame rate. It
only hands over, frame by frame, what the page needs: cloud, drawing and server are in the child, which loads no torch.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from io import BufferedReader
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from lingbot_eval.errors import DataError, DependencyError, LingbotEvalError, one_line, reason
from lingbot_eval.resources import python_child
from lingbot_eval.types import Frame, FrameType, Prediction, Trajectory
from lingbot_eval.viewing.cloud import MAX_VOXELS, VoxelCloud
from lingbot_eval.viewing.kept import pixel_step, pixels_of
from lingbot_eval.viewing.layers import Colouring, Layer, LayeredScene, depth_picture
from lingbot_eval.viewing.masks import HEURISTIC, open_sky
from lingbot_eval.viewing.page import PORT, Viewer

if TYPE_CHECKING:
    from av.container import InputContainer

_RATE_OVER = 20  # frames over which the rate is told
_GIVE_UP_S = 10.0  # without a frame
_WAITING = 8  # frames that may wait for the page's process; what comes then goes without its picture
_BACKLOG = 1 << 26  # bytes of frames that may wait; of what comes then the page gets the poses alone
_GRACE_S = 10.0  # for the page's process to end
_PICTURE_S = 0.5  # between two frames that go whole, to be shown as pictures; the others are thinned
_NICE = 16  # where cores are few the stream comes first: it loses 3 % of one that it never lets go of
_LARGE = 1 << 14  # bytes of an array that is handed over as it lies in memory
_LOOK_S = 1.0  # between two looks of the page's process at whether its parent is there
_ANSWER = b"the page answers\n"  # the line before each answer: what starts with Python may print, too

Pairs = Generator[tuple[Frame, Prediction], None, None]


@dataclass(frozen=True, eq=False)
class LiveScene:
    """What a page that grows is of.

    title: of it. label: of the method. length: frames that will come, where that is known. truth: poses, or None. sky:
    as of `lingbot_eval.viewing.masks.open_sky`. points: of the cloud at most.
    """

    title: str
    label: str
    length: int | None = None
    truth: Trajectory | None = None
    sky: str = HEURISTIC
    points: int = MAX_VOXELS

    def layer(self) -> Layer:
        """The layer that is filled. Raises ConfigError, DependencyError as `open_sky`."""
        network = None if self.sky == HEURISTIC else open_sky(self.sky)
        return Layer(self.label, VoxelCloud(self.points), length=self.length, network=network)

    def layered(self, layer: Layer) -> LayeredScene:
        """The scene of it."""
        return LayeredScene(self.title, [layer], self.truth, live=True)


class LiveViewer:
    """A page that grows while images are streamed; made by `lingbot_eval.view`.

    Attributes:
        address: of the page.
        moved: the port that was asked for, where another program has it.
        filling: the stream.
        left_out: frames of which the page got the pose alone, as it was behind.
    """

    def __init__(
        self,
        scene: LiveScene,
        pairs: Pairs,
        source: Camera | None = None,
        *,
        port: int = PORT,
        colouring: Colouring = "picture",
    ) -> None:
        """Start the page's process, and when its server is there the stream.

        Args:
            scene: that is shown.
            pairs: each frame as the method saw it, and its prediction.
            source: where the frames come from, if that is a camera: what it drops is told.
            port: to listen at; the next free one where another program has it.
            colouring: of points, to begin with.

        Raises:
            DependencyError: viser or what ``sky`` needs is not installed, or the process cannot be started.
            ConfigError: a sky network that is none.
        """
        try:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
            self._process = _start(self._said)
        except OSError as error:
            raise DependencyError(f"cannot start a process for the page: {reason(error)}") from error
        self._stopping = False
        self._fault: LingbotEvalError | None = None
        self._ended = threading.Event()
        self._waiting: SimpleQueue[object] = SimpleQueue()
        self.left_out = 0
        self._put_bytes, self._sent_bytes = 0, 0  # of frames; each is written by one thread
        self._scene = scene
        self._pictured = -math.inf  # when the last frame went whole
        self._unseen: tuple[Frame, Prediction] | None = None  # the newest, whole, if it did not
        self._sender = threading.Thread(target=self._send, name="to the page", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="from the page", daemon=True)
        self._sender.start()
        self._waiting.put((scene, port, colouring))
        try:
            answer = self._answer()
            if isinstance(answer, LingbotEvalError):
                raise answer
        except BaseException:
            self._end()
            raise
        self.address, self.moved = answer
        self.filling = Filling(pairs, self._give, scene.length, source)
        self._listener.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Until `stop`, or so many seconds. Returns whether it ended. Raises LingbotEvalError when its process died."""
        ended = self._ended.wait(seconds)
        if self._fault is not None:
            raise self._fault
        return ended

    def stop(self) -> None:
        """End stream and server; the page stays in the browser as it is."""
        self._stopping = True
        self.filling.stop()
        self._end()

    def _give(self, status: str, pair: tuple[Frame, Prediction] | None) -> None:
        """Hand a frame over, and words on the stream; None at its end. It waits for nothing."""
        pictured = False
        if pair is not None:
            frame, prediction = pair
            frame = Frame(frame.index, frame.timestamp, frame.image, "", intrinsics=frame.intrinsics)
            prediction = replace(prediction, points=None, points_confidence=None, cost=None)
            self._unseen = frame, prediction
            now = time.monotonic()
            pause = _PICTURE_S * (2 if prediction.frame_type is FrameType.UNKEPT else 1)
            due = now - self._pictured >= pause and self._waiting.qsize() < _WAITING
            if self._put_bytes - self._sent_bytes >= _BACKLOG:
                self.left_out += 1
                frame, prediction = replace(frame, image=None), replace(prediction, depth=None, depth_confidence=None)
            elif self._scene.sky != HEURISTIC or due:
                self._pictured, self._unseen, pictured = now, None, True
            else:
                frame, prediction = thinned(frame, prediction, self._scene.length)
            pair = frame, prediction
            self._put_bytes += _bytes_of(pair)
        if self.left_out:
            status += f"; this page was behind: of {self.left_out} frames it shows the pose alone"
        if pair is None and self._unseen is not None:
            # The last picture stays on the page; its pose and points are there.
            frame, prediction = self._unseen
            self._waiting.put((status, (frame, replace(prediction, camera_to_world=None)), True))
        self._waiting.put((status, pair, pictured))

    def _send(self) -> None:
        """Write what waits: a slow reader blocks this thread alone, and without the interpreter's lock."""
        stream = _there(self._process.stdin)
        message: object = self
        try:
            while message is not None:
                message = self._waiting.get()
                _write(stream.fileno(), message)
                if isinstance(message, tuple) and isinstance(message[1], tuple):
                    self._sent_bytes += _bytes_of(message[1])
        except OSError:
            pass  # the process ended, and `_listen` learns of what
        except Exception as error:  # noqa: BLE001  # of a thread: `wait` raises it
            self._fault = LingbotEvalError(f"a frame cannot be handed to the page: {one_line(error)}")
        finally:
            with suppress(OSError):
                stream.close()

    def _answer(self) -> Any:
        """What the process says next, or the error that ended it."""
        stream = _there(self._process.stdout)
        with suppress(EOFError, pickle.UnpicklingError):
            if any(line == _ANSWER for line in stream):
                return pickle.load(stream)
        code = self._process.wait()
        self._said.seek(0)
        last = self._said.read()[-2000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return LingbotEvalError(f"the page's process ended with {how}{f': {last}' if last else ''}; start it again")

    def _listen(self) -> None:
        """It says nothing more, but what ended it."""
        fault = self._answer()
        if not self._stopping:
            self._fault = self._fault or fault
        self._ended.set()
        self.filling.close()

    def _end(self) -> None:
        """End the process: by word, which comes through though a process forked meanwhile holds the pipe open, or else
        by force."""
        self._waiting.put(None)
        self._sender.join(_GRACE_S)
        if self._sender.is_alive():
            self._process.kill()
            self._sender.join()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._listener.is_alive():
            self._listener.join()
        _there(self._process.stdout).close()
        self._said.close()


def _bytes_of(pair: tuple[Frame, Prediction]) -> int:
    frame, prediction = pair
    arrays = frame.image, prediction.depth, prediction.depth_confidence
    return sum(array.nbytes for array in arrays if array is not None)


def thinned(frame: Frame, prediction: Prediction, length: int | None) -> tuple[Frame, Prediction]:
    """A frame with those pixels alone that give points to a layer, as a smaller image of the same camera.

    Args:
        frame: as the method saw it.
        prediction: of it.
        length: of the stream, as the layer's.
    """
    depth, sure, image = prediction.depth, prediction.depth_confidence, frame.image
    intrinsics = frame.intrinsics if prediction.intrinsics is None else prediction.intrinsics
    if depth is None or intrinsics is None:
        return replace(frame, image=None), replace(prediction, depth=None, depth_confidence=None)
    step = pixel_step(depth.shape[1], depth.shape[0], length)
    rows, columns = pixels_of(prediction.index, step)
    smaller = intrinsics.copy()
    smaller[:2, 2] -= columns.start, rows.start
    smaller[:2] /= step
    fits = image is not None and image.shape[:2] == depth.shape
    # Copies: a view would hold the whole frame for as long as it waits.
    return replace(frame, image=image[rows, columns].copy() if image is not None and fits else None), replace(
        prediction,
        depth=depth[rows, columns].copy(),
        depth_confidence=None if sure is None else sure[rows, columns].copy(),
        intrinsics=smaller,
    )


class Filling:
    """A stream in a thread of its own, which gives away what comes.

    Attributes:
        frames: that came.
        error: what ended it, where that is not the end of the stream.
    """

    def __init__(
        self,
        pairs: Pairs,
        give: Callable[[str, tuple[Frame, Prediction] | None], None],
        length: int | None = None,
        source: Camera | None = None,
    ) -> None:
        """Start.

        Args:
            pairs: each frame as the method saw it, and its prediction.
            give: takes words on the stream, and each of these pairs; None at the end.
            length: how many will come, where that is known.
            source: where the frames come from, if that is a camera.
        """
        self.frames = 0
        self.error: Exception | SystemExit | None = None
        self._pairs, self._give, self._length, self._source = pairs, give, length, source
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it after the frame in hand, without waiting for that."""
        self._stopped = True
        if self._source is not None:
            self._source.close()

    def stop(self) -> None:
        """End it after the frame in hand."""
        self.close()
        self.wait(_GRACE_S)

    def wait(self, seconds: float | None = None) -> bool:
        """Until its end, or so many seconds. Returns whether it ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        times: deque[float] = deque(maxlen=_RATE_OVER + 1)
        try:
            with closing(self._pairs):
                for pair in self._pairs:
                    self.frames += 1
                    times.append(time.monotonic())
                    self._give(self._status(times), pair)
                    if self._stopped:
                        break
            words = f"{self.frames} frames, {'stopped' if self._stopped else 'complete'}"
        except (Exception, SystemExit) as error:  # noqa: BLE001  # of a thread: the command says it
            self.error = error
            words = f"ended after {self.frames} frames: {one_line(error)}"
        self._give(words, None)

    def _status(self, times: deque[float]) -> str:
        of = f" of {self._length}" if self._length else ""
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


def _start(said: IO[bytes]) -> subprocess.Popen[bytes]:
    """The page's process. Raises OSError where that is refused."""
    return subprocess.Popen(
        python_child("lingbot_eval.viewing.live"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A key that interrupts is for the parent, whose end ends the child. The session stays the parent's: Linux
        # shares cores among sessions first, so that in one of its own it gets half of them, however nice it is.
        process_group=0,
    )


def _there(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise TypeError("the page's process has pipes")
    return stream


def _write(pipe: int, message: object) -> None:
    """Write a message: large arrays as they lie in memory, all in one call, during which other threads run."""
    arrays: list[memoryview] = []

    def apart(array: pickle.PickleBuffer) -> bool:
        raw = array.raw()
        if raw.nbytes >= _LARGE:
            arrays.append(raw)
        return raw.nbytes < _LARGE

    head = pickle.dumps(message, 5, buffer_callback=apart)
    sizes = struct.pack(f"{2 + len(arrays)}q", len(arrays), len(head), *(array.nbytes for array in arrays))
    left = [memoryview(sizes), memoryview(head), *arrays]
    while left:
        written = os.writev(pipe, left)
        while left and written >= left[0].nbytes:
            written -= left.pop(0).nbytes
        if written:
            left[0] = left[0][written:]


# What follows runs in the child.


def _read(stream: BufferedReader) -> Any:
    """The next message. Raises EOFError where none comes any more."""

    def exactly(size: int) -> bytearray:
        data = bytearray(size)
        if stream.readinto(data) < size:
            raise EOFError
        return data

    (count,) = struct.unpack("q", exactly(8))
    sizes = struct.unpack(f"{1 + count}q", exactly(8 * (1 + count)))
    head, *arrays = map(exactly, sizes)
    return pickle.loads(head, buffers=arrays)


def _fill(layer: Layer, stream: BufferedReader, viewer: Viewer) -> None:
    """Until None comes, or the pipe's end, which is the parent's at the latest."""
    try:
        while (message := _read(stream)) is not None:
            layer.status, pair, pictured = message
            if pair is None:
                layer.complete = True
            else:
                layer.add(*pair, pictured=pictured)
        viewer.stop()
    except EOFError:
        viewer.stop()
    except Exception as error:  # noqa: BLE001  # of a thread: the parent is told
        viewer.fail(error)


def _rehearse() -> None:
    """Load what a first frame loads, before there is a stream that it could delay."""
    depth = np.linspace(1, 2, 48, dtype=np.float32).reshape(6, 8)
    frame = Frame(0, 0.0, np.zeros((6, 8, 3), np.uint8), "", intrinsics=np.eye(3))
    Layer("").add(frame, Prediction(0, 0.0, np.eye(4), depth))
    depth_picture(depth)


def _main() -> None:
    """The page's process: reads what a `LiveViewer` hands over, and answers with the address, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    parent = os.getppid()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(what: object) -> None:
        with suppress(OSError):
            answers.write(b"\n" + _ANSWER)
            pickle.dump(what, answers)
            answers.flush()

    stream = os.fdopen(0, "rb")
    try:
        scene, port, colouring = _read(stream)
        layer = scene.layer()
        _rehearse()
        viewer = Viewer(scene.title, {scene.title: lambda: scene.layered(layer)}, port=port, colouring=colouring)
        answer((viewer.address, viewer.moved))
        threading.Thread(target=_fill, args=(layer, stream, viewer), name="fill", daemon=True).start()
        # A process that was forked may hold the pipe open when the parent is killed.
        while not viewer.wait(_LOOK_S):
            if os.getppid() != parent:
                viewer.stop()
    except LingbotEvalError as error:
        answer(error)
    except Exception as error:  # noqa: BLE001  # whatever ends it, the parent says it
        answer(LingbotEvalError(f"the page's process failed: {one_line(error)}"))


if __name__ == "__main__":
    _main()
