"""The other side of ``kind: external``: wraps a model of any environment for lingbot-eval.

This file is all that a wrapper needs: copy it beside your code (Python 3.8 or later, nothing else), subclass `Wrapper`
and call `serve`. One wrapper serves both ways that lingbot-eval has, the pipe and the job folder. The protocol is in
docs/external.md; programs in other languages speak it without this file.

Poses are camera-to-world, OpenCV axes (x right, y down, z forward), in metres or in a scale of the method's own. Depth
is along z, in the same scale as the poses, 0 where there is none.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # what follows is of Python 3.8 where it runs, and of a newer one where it is read
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    Answer: TypeAlias = "Pose | Iterable[Pose] | None"

PROTOCOL = 1
"""Number of the protocol that this file speaks; both sides refuse another."""

JOB_VARIABLE = "LINGBOT_EVAL_JOB"
"""Environment variable with the job folder's path; where it is not set, the program speaks over its pipe."""

_DEEPEST = 8


class ProtocolError(Exception):
    """A message that is not what the protocol says."""


# --- messages: a subset of MessagePack (msgpack.org), each after its length in 4 bytes, the highest first ------------


def pack(value: Any) -> bytes:
    """A message in MessagePack: None, bool, int, float, str, bytes, and lists and dicts of these.

    Raises ProtocolError for anything else.
    """
    parts: list[bytes] = []
    _pack(value, parts)
    return b"".join(parts)


def _pack(value: Any, parts: list[bytes]) -> None:
    if value is None:
        parts.append(b"\xc0")
    elif isinstance(value, bool):
        parts.append(b"\xc3" if value else b"\xc2")
    elif isinstance(value, int):
        parts.append(_packed_int(value))
    elif isinstance(value, float):
        parts.append(struct.pack(">Bd", 0xCB, value))
    elif isinstance(value, str):
        text = value.encode("utf-8")
        parts += [_head(len(text), (0xA0, 32), (0xD9, 0xDA, 0xDB)), text]
    elif isinstance(value, (bytes, bytearray, memoryview)):
        content = bytes(value)
        parts += [_head(len(content), None, (0xC4, 0xC5, 0xC6)), content]
    elif isinstance(value, (list, tuple)):
        parts.append(_head(len(value), (0x90, 16), (None, 0xDC, 0xDD)))
        for element in value:
            _pack(element, parts)
    elif isinstance(value, dict):
        parts.append(_head(len(value), (0x80, 16), (None, 0xDE, 0xDF)))
        for key, element in value.items():
            _pack(key, parts)
            _pack(element, parts)
    else:
        raise ProtocolError(f"a message cannot hold a {type(value).__name__}; use numbers, text, bytes, lists, dicts")


def _packed_int(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes([value])
    if -32 <= value < 0:
        return struct.pack(">b", value)
    if -(2**63) <= value < 2**63:
        return struct.pack(">Bq", 0xD3, value)
    if 0 <= value < 2**64:
        return struct.pack(">BQ", 0xCF, value)
    raise ProtocolError(f"a message cannot hold the number {value}: it has more than 64 bits")


def _head(length: int, small: tuple[int, int] | None, codes: tuple[int | None, int, int]) -> bytes:
    """The bytes before a text, list or the like. small: first code and number of the lengths within the code."""
    if small is not None and length < small[1]:
        return bytes([small[0] + length])
    for code, form, bits in ((codes[0], ">BB", 8), (codes[1], ">BH", 16), (codes[2], ">BI", 32)):
        if code is not None and length < 2**bits:
            return struct.pack(form, code, length)
    raise ProtocolError(f"a message cannot hold something of length {length}")


_FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_LENGTHS.update({0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"})


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The value of one message. Raises ProtocolError for what is cut, too deep, or of a kind that is not used here."""
    value, end = _unpack(memoryview(data), 0, 0)
    if end != len(data):
        raise ProtocolError(f"a message of {len(data)} bytes ends after {end}")
    return value


def _unpack(data: memoryview, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise ProtocolError(f"a message is nested more than {_DEEPEST} deep")
    (code,), at = _taken(">B", data, at)
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 256, at
    if code in _FIXED:
        return _FIXED[code], at
    if code in _NUMBERS:
        (number,), at = _taken(_NUMBERS[code], data, at)
        return number, at
    if code in _LENGTHS:
        (length,), at = _taken(_LENGTHS[code], data, at)
    elif code < 0xC0:
        # The length is in the code: 16 of a dict or a list, 32 of a text.
        length = code & (0x1F if code >= 0xA0 else 0x0F)
    else:
        raise ProtocolError(f"a message holds the kind 0x{code:02x} of MessagePack, which is not used here")
    if length > len(data) - at:
        raise ProtocolError(f"a message of {len(data)} bytes promises {length} more than it has at {at}")
    if code in (0xC4, 0xC5, 0xC6):
        return bytes(data[at : at + length]), at + length
    if 0xA0 <= code < 0xC0 or code in (0xD9, 0xDA, 0xDB):
        try:
            return str(data[at : at + length], "utf-8"), at + length
        except UnicodeDecodeError as error:
            raise ProtocolError(f"a message holds text that is not UTF-8: {error}") from error
    if 0x90 <= code < 0xA0 or code in (0xDC, 0xDD):
        elements = []
        for _ in range(length):
            element, at = _unpack(data, at, depth + 1)
            elements.append(element)
        return elements, at
    entries: dict[str, Any] = {}
    for _ in range(length):
        key, at = _unpack(data, at, depth + 1)
        if not isinstance(key, str) or key in entries:
            raise ProtocolError(f"a message has the key {key!r}; keys are text, each once")
        entries[key], at = _unpack(data, at, depth + 1)
    return entries, at


def _taken(form: str, data: memoryview, at: int) -> tuple[tuple[Any, ...], int]:
    end = at + struct.calcsize(form)
    if end > len(data):
        raise ProtocolError(f"a message is cut after {len(data)} bytes")
    return struct.unpack(form, data[at:end]), end


# --- what a wrapper sees and gives -----------------------------------------------------------------------------------


class Scene:
    """What is known before the first frame.

    Attributes:
        dataset, name: of the scene.
        length: number of frames; None where only decoding tells.
        causal: whether the experiment wants each pose from the frames up to its own alone.
        width, height: of every image, in pixels.
    """

    def __init__(self, said: dict[str, Any]) -> None:
        self.dataset: str = said["dataset"]
        self.name: str = said["scene"]
        self.length: int | None = said["length"]
        self.causal: bool = said["causal"]
        self.width: int = said["width"]
        self.height: int = said["height"]


class Frame:
    """One image.

    Attributes:
        index: from 0. time: seconds.
        width, height: pixels.
        intrinsics: 3 rows of 3, in pixels, or None where they are not known. Pixel (0, 0) is the centre of the first.
    """

    def __init__(self, said: dict[str, Any], width: int, height: int, folder: Path = Path()) -> None:
        self.index: int = said["index"]
        self.time: float = said["time"]
        self.intrinsics: list[list[float]] | None = said["intrinsics"]
        self.width = width
        self.height = height
        self._image: bytes | str = said["image"]
        self._folder = folder

    def pixels(self) -> bytes:
        """RGB, 8 bits each, row by row: ``height · width · 3`` bytes."""
        if isinstance(self._image, bytes):
            return self._image
        return read_png(self._folder / self._image, self.width, self.height)

    def image(self) -> Any:
        """The pixels as a NumPy array (height, width, 3) uint8; needs NumPy."""
        import numpy

        return numpy.frombuffer(self.pixels(), numpy.uint8).reshape(self.height, self.width, 3).copy()


class Pose:
    """What the method says of one frame.

    Args:
        frame: the frame's index.
        camera_to_world: 4 rows of 4 (lists, a NumPy array): a rigid motion, OpenCV axes.
        depth: (height, width) float32 along z at the frame's size, or None; 0 where there is none.
        confidence: (height, width) float32, larger is surer, or None.
        frame_type: ``scale``, ``kept`` or ``unkept`` for methods that have a scale phase and keyframes, or None.
    """

    def __init__(
        self,
        frame: int,
        camera_to_world: Iterable[Iterable[float]],
        depth: Any = None,
        confidence: Any = None,
        frame_type: str | None = None,
    ) -> None:
        self.frame = int(frame)
        self.matrix = [[float(number) for number in row] for row in camera_to_world]
        if [len(row) for row in self.matrix] != [4, 4, 4, 4]:
            raise ValueError(f"frame {frame}: expected a pose of 4 rows of 4 numbers")
        self.depth = None if depth is None else _floats(depth, frame, "depth")
        self.confidence = None if confidence is None else _floats(confidence, frame, "confidence")
        self.frame_type = frame_type

    def message(self) -> dict[str, Any]:
        """As it goes over the pipe."""
        return {
            "frame": self.frame,
            "camera_to_world": [number for row in self.matrix for number in row],
            "depth": self.depth,
            "confidence": self.confidence,
            "frame_type": self.frame_type,
        }


def _floats(array: Any, frame: int, what: str) -> bytes:
    view = memoryview(array)
    if view.format not in ("f", "<f") or view.ndim != 2 or sys.byteorder != "little":
        raise ValueError(f"frame {frame}: expected {what} as (height, width) float32, found {view.format} {view.shape}")
    return view.tobytes()


class Wrapper:
    """A model in the form that `serve` wants. Subclass it; ``step`` is the one thing that it must have.

    Attributes:
        name, version: what the program says of itself; a version that is not the experiment's is refused.
    """

    name: str = ""
    version: str | None = None

    def start(self, scene: Scene) -> None:
        """Load the model: before the first frame, in no frame's time."""

    def warm_up(self, frame: Frame) -> None:
        """Compile and touch everything on this image, in no frame's time; it comes again as the first frame."""

    def step(self, frame: Frame) -> Answer:
        """Take the next frame; returns the poses that are there, in frame order: none, one or several."""
        raise NotImplementedError("a wrapper has a step(frame)")

    def finish(self) -> Answer:
        """No more frames; returns the poses that were held back. An offline method computes here."""
        return None


def serve(wrapper: Wrapper) -> None:
    """Answer lingbot-eval until the scene is over: from the job folder where there is one, else over the pipe.

    What the model prints goes to the log. An error of the wrapper is told to lingbot-eval and raised.
    """
    folder = os.environ.get(JOB_VARIABLE)
    if folder:
        _serve_job(wrapper, Path(folder))
    else:
        _serve_pipe(wrapper)


def _poses(answer: Answer) -> list[Pose]:
    if answer is None:
        return []
    return [answer] if isinstance(answer, Pose) else list(answer)


# --- the pipe --------------------------------------------------------------------------------------------------------


def _serve_pipe(wrapper: Wrapper) -> None:
    # Only messages may go through standard input and output: whatever prints or reads gets others.
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        _answer(wrapper, source, sink)
    except BrokenPipeError:
        raise
    except Exception as error:
        _send(sink, {"type": "error", "reason": f"{type(error).__name__}: {error}"})
        raise


def _answer(wrapper: Wrapper, source: BinaryIO, sink: BinaryIO) -> None:
    width = height = 0
    while True:
        message = _receive(source)
        if message is None:
            return
        kind, begun = message.get("type"), time.perf_counter()
        answer: Answer = None
        if kind == "hello":
            if message["protocol"] != PROTOCOL:
                raise ProtocolError(f"expected protocol {PROTOCOL}, found {message['protocol']}; renew this file")
            width, height = message["width"], message["height"]
            wrapper.start(Scene(message))
            ready = {"type": "ready", "protocol": PROTOCOL, "name": wrapper.name, "version": wrapper.version}
            _send(sink, ready)
            continue
        if kind == "warm_up":
            wrapper.warm_up(Frame(message, width, height))
        elif kind == "frame":
            answer = wrapper.step(Frame(message, width, height))
        elif kind == "finish":
            answer = wrapper.finish()
        else:
            raise ProtocolError(f"unknown message {kind!r}")
        poses = [pose.message() for pose in _poses(answer)]
        _send(sink, {"type": "poses", "poses": poses, "seconds": time.perf_counter() - begun})


def _send(sink: BinaryIO, message: dict[str, Any]) -> None:
    data = pack(message)
    sink.write(struct.pack(">I", len(data)) + data)
    sink.flush()


def _receive(source: BinaryIO) -> dict[str, Any] | None:
    head = source.read(4)
    if not head:
        return None
    (size,) = struct.unpack(">I", head) if len(head) == 4 else (-1,)
    data = source.read(size) if size >= 0 else b""
    if len(data) != size:
        raise ProtocolError("the stream ends in the middle of a message")
    message = unpack(data)
    if not isinstance(message, dict):
        raise ProtocolError(f"expected a dict as a message, found {type(message).__name__}")
    return message


# --- the job folder --------------------------------------------------------------------------------------------------


def _serve_job(wrapper: Wrapper, folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    output = job["output"]
    status = {"protocol": PROTOCOL, "name": wrapper.name, "version": wrapper.version, "status": "ok"}
    try:
        if job["protocol"] != PROTOCOL:
            raise ProtocolError(f"expected protocol {PROTOCOL}, found {job['protocol']}; renew this file")
        _do_job(wrapper, folder, job)
    except Exception as error:
        status.update(status="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        (folder / output["status"]).write_text(json.dumps(status), encoding="utf-8")


def _do_job(wrapper: Wrapper, folder: Path, job: dict[str, Any]) -> None:
    output, lines, events = job["output"], [], []
    times: dict[int, float] = {}
    wrapper.start(Scene({**job, "length": len(job["frames"])}))
    events.append({"t": time.monotonic(), "event": "start"})

    def keep(answer: Answer) -> None:
        for pose in _poses(answer):
            events.append({"t": time.monotonic(), "event": "pose", "frame": pose.frame})
            numbers = [times[pose.frame], *(row[3] for row in pose.matrix[:3]), *_quaternion(pose)]
            lines.append(" ".join(repr(number) for number in numbers))
            for what, content in (("depth", pose.depth), ("confidence", pose.confidence)):
                if content is not None:
                    (folder / (output[what] % pose.frame)).write_bytes(_npy(content, job["height"], job["width"]))

    for said in job["frames"]:
        frame = Frame(said, job["width"], job["height"], folder)
        times[frame.index] = frame.time
        keep(wrapper.step(frame))
    keep(wrapper.finish())
    (folder / output["trajectory"]).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / output["events"]).write_text("".join(f"{json.dumps(event)}\n" for event in events), encoding="utf-8")


def _quaternion(pose: Pose) -> Sequence[float]:
    """qx, qy, qz, qw of the pose's rotation. Raises ValueError where it has none."""
    m = [row[:3] for row in pose.matrix[:3]]
    for i in range(3):
        for j in range(3):
            # Written so that NaN is refused, too.
            if not abs(sum(m[k][i] * m[k][j] for k in range(3)) - (i == j)) < 0.01:
                raise ValueError(f"frame {pose.frame}: the pose is no rigid motion: {pose.matrix}")
    # The largest of the four is found first, so that nothing small is divided by.
    squares = [1 + m[0][0] - m[1][1] - m[2][2], 1 - m[0][0] + m[1][1] - m[2][2], 1 - m[0][0] - m[1][1] + m[2][2]]
    squares.append(1 + m[0][0] + m[1][1] + m[2][2])
    largest = squares.index(max(squares))
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    xw, yw, zw = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    rows = ((squares[0], xy, xz, xw), (xy, squares[1], yz, yw), (xz, yz, squares[2], zw), (xw, yw, zw, squares[3]))
    length = math.sqrt(sum(number * number for number in rows[largest]))
    return [number / length for number in rows[largest]]


def _npy(floats: bytes, height: int, width: int) -> bytes:
    """A NumPy file of float32, as numpy.save writes it."""
    if len(floats) != 4 * height * width:
        raise ValueError(f"expected depth and confidence of {width}x{height}, found {len(floats)} bytes")
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({height}, {width}), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + floats


# --- images: 8-bit RGB, no filter, which needs no library to read ----------------------------------------------------


def write_png(path: Path, pixels: bytes, width: int, height: int) -> None:
    """A PNG that every reader reads."""
    rows = b"".join(b"\0" + pixels[3 * width * y : 3 * width * (y + 1)] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    content = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        content += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    path.write_bytes(b"".join(content))


def read_png(path: Path, width: int, height: int) -> bytes:
    """The pixels of a PNG as `write_png` writes it. Raises ProtocolError for another: read that with a library."""
    content = path.read_bytes()
    (size,) = struct.unpack_from(">I", content, 33)
    rows = zlib.decompress(content[41 : 41 + size])
    stride = 3 * width + 1
    if content[16:29] != struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0) or any(rows[::stride]):
        raise ProtocolError(f"{path}: expected an unfiltered PNG of {width}x{height}; read it with a library")
    return b"".join(rows[stride * y + 1 : stride * (y + 1)] for y in range(height))
