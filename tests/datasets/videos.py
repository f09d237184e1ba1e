"""Small videos made with PyAV, and changes of their bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.datasets.video import VideoSequence

WIDTH, HEIGHT = 64, 48


def brightness(number: int) -> int:
    return 20 + 3 * number


def picture(number: int) -> np.ndarray:
    """Grey that tells the frame's number, with a bright top left quarter that tells its orientation."""
    image = np.full((HEIGHT, WIDTH, 3), brightness(number), np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] = 255
    return image


def number_in(image: np.ndarray | None) -> int:
    assert image is not None
    return round((float(np.median(image)) - 20) / 3)


def write_video(
    path: Path,
    frames: int = 60,
    codec: str = "mpeg4",
    *,
    pixels: str = "yuv420p",
    rate: int = 30,
    form: str | None = None,
    codec_options: Mapping[str, str] | None = None,
    setup: Callable[[Any], None] = lambda stream: None,
    draw: Callable[[int], np.ndarray] = picture,
    times: Callable[[int], int] = lambda number: number,
    **options: str,
) -> Path:
    """``times``: of each frame, in ticks of 1 / ``rate`` seconds. ``options``: of the container."""
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate, options=dict(codec_options or {}))
        height, width = draw(0).shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if codec == "mpeg4":
            stream.bit_rate = 2_000_000
        setup(stream)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            frame.pts, frame.time_base = times(number), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_planes(
    path: Path, planes: tuple[int, int, int], *, pixels: str = "yuv444p", frames: int = 2, **tags: int
) -> Path:
    """One colour all over, lossless, given as the numbers that are stored; ``tags``: ``colorspace`` and its like."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number in range(frames):
            frame = av.VideoFrame(WIDTH, HEIGHT, pixels)
            for plane, value in zip(frame.planes, planes, strict=True):
                kind = np.uint16 if "10" in pixels else np.uint8
                plane.update(np.full(plane.buffer_size // kind().itemsize, value, kind).tobytes())
            for name, value in tags.items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def opened(path: Path, selection: Selection | None = None, **options: object) -> VideoSequence:
    sequence = open_adapter("video", path, options).open(path.name, selection or Selection())
    assert isinstance(sequence, VideoSequence)
    return sequence


def set_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write a display matrix into the track header of an MP4 file."""
    content = bytearray(path.read_bytes())
    # In the track header (version 0) the matrix a b u c d v x y w follows 40 bytes after the type and its version.
    matrix = content.index(b"tkhd") + 4 + 40
    assert content[matrix : matrix + 36] == struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(value * (1 << 16)) for value in (a, b, c, d))
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def packets_of(path: Path) -> list[tuple[int, int]]:
    """(position, size) of the packets of the first video stream."""
    with av.open(str(path)) as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]


_GROUND = np.random.default_rng(0).integers(20, 148, (48, 120, 3), dtype=np.uint8)


def noisy(number: int) -> np.ndarray:
    """Noise that moves by a pixel a frame: a packet is long, and damage of it shows."""
    return np.ascontiguousarray(_GROUND[:, number : number + 64])


def altered(path: Path, packet: int, start: float, *, seed: int = 0) -> Path:
    """Random bytes from a share of a packet on; the file keeps its length."""
    position, size = packets_of(path)[packet]
    first = int(size * start)
    content = bytearray(path.read_bytes())
    content[position + first : position + size] = np.random.default_rng(seed).bytes(size - first)
    path.write_bytes(content)
    return path
