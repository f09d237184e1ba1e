"""A video file as FFmpeg reads it: which stream is played, which frames it lists, and decoding with damage counted."""

from __future__ import annotations

import functools
import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.datasets.video_damage import SliceEnds, ends_inside_a_packet, refuse_cut_off
from lingbot_eval.datasets.video_picture import Colours, Deinterlacer, Turn, colours_of, square_size, turn_of
from lingbot_eval.errors import DataError
from lingbot_eval.files.images import MAX_PIXELS, checked_file, not_fetched
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_HEAD = 512  # bytes in which a web page or a pointer shows itself
_REORDERED = 64  # packets: no codec lets a frame wait for more before it is shown
_USUAL_RATE = 25.0  # frames a second of a stream that has neither times nor a rate, as FFmpeg takes it
_SLOWEST, _FASTEST = 0.01, 1000.0  # frames a second that a header may say and be believed
_SHORTEST, _LONGEST = Fraction(1, 8), Fraction(8)  # width of a pixel over its height; beyond, the header is damaged

# What decoders look for beside what stops them. Not "explode": a frame with a flaw is kept, and marked.
_DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_FEW_FRAMES = 3
_ERROR_DETECTION = {"err_detect": "crccheck+bitstream+buffer+careful+aggressive"}

# Decoders that say of a packet that it is damaged: they may work on several at a time. Others mark the frame, and where
# threads work on it, now and then only when it has already been handed out.
_IN_THREADS = ("hevc", "vp9", "av1", "libdav1d")

# Decoders that say damage in FFmpeg's log alone, and hand the frame out as if nothing were.
_IN_THE_LOG = ("ffv1", "mjpeg")
_LOG = threading.Lock()  # its level is of the whole process

UNCHECKED = ("hevc", "vp8", "vp9", "av1", "libdav1d", "mjpeg")
"""Codecs whose coded data has little or nothing by which a decoder could tell that it was altered."""

# Disposition flags of streams that are no film: covers, thumbnails.
_PICTURES = ("attached_pic", "timed_thumbnails", "still_image")


@dataclass(frozen=True, eq=False)
class Listing:
    """What a file lists and how its first frame looks; nothing but that frame has been decoded.

    stream: index of the stream that is played, of ``streams`` that could be. times: (N,) seconds from the first frame,
    one a frame, increasing. stamps: (N,) the container's own times in its ticks, by which decoded frames are known
    again; None where it has none to go by, and frames are counted. whole: whether the list goes to the end.
    repeated: frames left out because they have the time of another; restarts: how often the clock jumped back.
    cut: whether the file ends inside a packet. aspect: width of a pixel over its height; doubted_aspect: what the
    header says where that cannot be.
    """

    path: Path
    stream: int
    streams: int
    codec: str
    coded_size: tuple[int, int]
    picture_size: tuple[int, int]
    aspect: Fraction
    turn: Turn
    colours: Colours
    pixel_format: str
    interlaced: bool
    announced_rate: float | None
    announced_frames: int | None
    times: FloatArray
    stamps: NDArray[np.int64] | None
    whole: bool
    repeated: int
    restarts: int
    cut: bool
    doubted_aspect: Fraction | None
    missing_end: float | None

    @property
    def holes(self) -> tuple[int, int, float] | None:
        """Frames that the times have no place for, in how many holes, and when the first begins; None for none.

        Only where frames are regular: a picture of a slide show may stand for seconds.
        """
        usual = _usual_step(self.times)
        if usual is None or self.stamps is None:
            return None
        missing = np.rint(np.diff(self.times) / usual).astype(np.int64) - 1
        places = np.flatnonzero(missing > 0)
        return (int(missing[places].sum()), len(places), float(self.times[places[0]])) if len(places) else None


class Tally:
    """One pass of decoding: which frame of the list each decoded one is, and what was met so far.

    Times are seconds of the first of a kind.
    """

    def __init__(self, listed: Listing) -> None:
        self.decoded = self.marked = self.after_damage = self.lost = self.unlisted = self.interlaced = 0
        self.first_marked: float | None = None
        self.first_lost: float | None = None
        self._listed = listed
        # The first position that has not come yet; a frame is looked for from there on, as times may come again.
        self._next = 0
        self._damaged = False

    def position(self, frame: av.VideoFrame, damaged: bool) -> int | None:
        """Where a decoded frame stands; None for one that the list does not have."""
        position = self._find(frame)
        if position is None:
            self.unlisted += self._listed.whole
            return None
        self._miss(position)
        self._next = position + 1
        self.decoded += 1
        if damaged:
            self.marked += 1
            if self.first_marked is None:
                self.first_marked = float(self._listed.times[position])
            self._damaged = True
        elif frame.key_frame:
            self._damaged = False
        elif self._damaged:
            self.after_damage += 1
        return position

    def end(self) -> None:
        """The stream is over: what has not come is missing."""
        if self._listed.whole:
            self._miss(len(self._listed.times))

    def _find(self, frame: av.VideoFrame) -> int | None:
        stamps = self._listed.stamps
        if stamps is None:
            return self._next if self._next < len(self._listed.times) else None
        if self._next < len(stamps) and stamps[self._next] == frame.pts:
            return self._next
        later = np.flatnonzero(stamps[self._next :] == frame.pts)
        return self._next + int(later[0]) if len(later) else None

    def _miss(self, position: int) -> None:
        if position > self._next:
            self.lost += position - self._next
            if self.first_lost is None:
                self.first_lost = float(self._listed.times[self._next])
            self._damaged = True

    @property
    def damage(self) -> str | None:
        """One line on what is damaged or missing; None where nothing is."""
        parts = []
        smeared = f", and the {self.after_damage} after them up to the next key frame may be smeared"
        smeared = smeared if self.after_damage else ""
        if self.marked:
            parts.append(
                f"{self.marked} of {self.decoded} frames are damaged (found by the decoder, the first at"
                f" {self.first_marked:.3f} s): they are kept as decoded{smeared}"
            )
        if self.lost:
            parts.append(
                f"{self.lost} frames that the file lists could not be decoded (the first at {self.first_lost:.3f} s):"
                f" they are missing{'' if self.marked else smeared}"
            )
        if self.unlisted:
            parts.append(f"{self.unlisted} decoded frames have a time that the file does not list: they are left out")
        return "; ".join(parts) if parts else None


def listing(path: Path, needed: int | None) -> Listing:
    """The file's frames. Read once for each state of the file.

    Args:
        path: the video.
        needed: how many frames from the first have to be listed; None for all.

    Raises:
        DataError: the file is not there, no video, cut off, or its first frame cannot be decoded.
    """
    checked_file(path, "video:")
    refuse_cut_off(path)
    status = path.stat()
    return _listing(path, needed, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _listing(path: Path, needed: int | None, size: int, changed: int) -> Listing:
    del size, changed  # in the key alone: a file that changed is read again
    with opened(path) as container:
        stream, streams = played_stream(container, path)
        packets, whole = _packets(container, stream, needed)
        if not packets:
            raise DataError(f"video: {path} has no frame; is the file complete?")
        context = stream.codec_context
        rate = _rate(stream)
        tick, reordered = Fraction(stream.time_base or 1), bool(context.has_b_frames)
        times, stamps, repeated, restarts = _ordered(packets, tick, rate, reordered=reordered)
        coded = (context.width, context.height)
        index, codec, announced = stream.index, context.name, stream.frames
        aspect, lasts = stream.sample_aspect_ratio, _announced_seconds(container, stream)
    first, colours = _first_frame(path)
    pixels = aspect if aspect and _SHORTEST <= aspect <= _LONGEST else Fraction(1)
    turn = turn_of(first)
    width, height = square_size(first.width, first.height, pixels)
    if width * height > MAX_PIXELS:
        raise DataError(
            f"video: {path} claims {first.width}x{first.height} pixels of {pixels.numerator}:{pixels.denominator},"
            f" which is {width}x{height} square ones; at most {MAX_PIXELS} are read"
        )
    return Listing(
        path=path,
        stream=index,
        streams=streams,
        codec=codec,
        coded_size=coded,
        picture_size=(height, width) if turn.transposed else (width, height),
        aspect=pixels,
        turn=turn,
        colours=colours,
        pixel_format=first.format.name,
        interlaced=bool(first.interlaced_frame),
        announced_rate=rate,
        announced_frames=announced or None,
        times=times,
        # A stream whose first frame has a time that no packet has keeps times of its own: its frames are counted.
        stamps=stamps if stamps is not None and first.pts in stamps else None,
        whole=whole,
        repeated=repeated,
        restarts=restarts,
        cut=ends_inside_a_packet(path),
        doubted_aspect=aspect if aspect and aspect != pixels else None,
        missing_end=_missing_end(times, lasts) if whole else None,
    )


def decoded(listed: Listing, tally: Tally) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames as they are shown, each with its position in the list; interlaced ones woven.

    A frame that the decoder marks as damaged is kept and counted; a frame that it cannot decode is missing and counted.

    Args:
        listed: the file.
        tally: counts what is met.

    Raises:
        DataError: the file cannot be read any further.
    """
    woven = Deinterlacer()
    with opened(listed.path) as container:
        stream, _ = played_stream(container, listed.path)
        stream.thread_type = "FRAME" if stream.codec_context.name in _IN_THREADS else "NONE"
        for frame, damaged in _frames(container, stream, continuous=not listed.restarts):
            position = tally.position(frame, damaged)
            if position is not None:
                yield from woven.put(position, frame)
            tally.interlaced = woven.used
        yield from woven.rest()
    tally.end()


def _frames(
    container: InputContainer, stream: VideoStream, *, continuous: bool = True
) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Whatever can be decoded, and whether it is damaged; a packet that cannot be decoded is passed over.

    The frame of such a packet will be missed by its time. ``continuous``: whether a break that the container notices is
    damage, rather than a place where recordings meet.
    """
    import av

    stream.codec_context.options = _ERROR_DETECTION
    ends = SliceEnds(stream)
    broken: set[int | None] = set()  # times of packets of which the container says that a part is missing
    for packet in _of(container, stream):
        if packet.is_corrupt and packet.size and continuous:
            broken.add(packet.pts)
        ends.hear(packet)
        try:
            frames, complaints = _decoded(packet, stream.codec_context.name)
        except av.FFmpegError:
            continue
        if complaints:
            broken.add(packet.pts)
        for frame in frames:
            yield frame, frame.is_corrupt or frame.pts in broken or frame.pts in ends.run_on


def _decoded(packet: Packet[VideoStream], codec: str) -> tuple[list[av.VideoFrame], bool]:
    """The frames that a packet completes, and whether the decoder complains of the packet in FFmpeg's log."""
    from av import logging

    if codec not in _IN_THE_LOG:
        return packet.decode(), False
    with _LOG, logging.Capture() as said:
        level, skips = logging.get_level(), logging.get_skip_repeated()
        logging.set_level(logging.WARNING)
        logging.set_skip_repeated(False)
        try:
            frames = packet.decode()
        finally:
            logging.set_level(level)
            logging.set_skip_repeated(skips)
    return frames, any(name == codec for _, name, _ in said)


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """One DataError, with the file's name, for whatever FFmpeg finds wrong while the block runs."""
    import av

    try:
        yield
    except (av.FFmpegError, UnicodeError) as error:
        detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"video: {path} {_what_else(path, detail)}") from error


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """The container; faults become DataError."""
    import av

    # A name with a colon in it is a file, too; and a playlist must not lead to the network. Not "options": versions of
    # PyAV before 18 hand these to streams that are found later, which ends the process.
    source, only_files = f"file:{path}", {"protocol_whitelist": "file"}
    with (
        faults_of(path),
        av.open(source, mode="r", metadata_errors="replace", container_options=only_files) as container,
    ):
        yield container


def played_stream(container: InputContainer, path: Path) -> tuple[VideoStream, int]:
    """The stream that a player takes, and how many there are to choose from.

    It is one that is marked as the default, of these the largest, of these the first. Covers and thumbnails are none.
    Raises DataError where nothing can be played.
    """
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise DataError(
            f"video: {path} is a single picture ({container.format.name.removesuffix('_pipe')}), not a video;"
            " images are read by dataset folder"
        )
    if container.format.name == "tty":
        # FFmpeg draws any text into pictures, as a terminal would.
        raise DataError(f"video: {path}: expected a video, found text; name the video itself")
    every = list(container.streams.video)
    if not every:
        raise DataError(f"video: {path}: expected a video stream, found none; is it an audio file?")
    films = [stream for stream in every if not any(_has(stream, flag) for flag in _PICTURES)]
    if not films:
        raise DataError(f"video: {path}: expected a video stream, found only a cover picture; is it an audio file?")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise DataError(
            f"video: {path} has a video stream in a format that FFmpeg does not know; is the file damaged?"
            " convert it, e.g. to .mp4"
        )
    best = max(known, key=lambda stream: (_has(stream, "default"), _pixels(stream), -stream.index))
    if _pixels(best) > MAX_PIXELS:
        context = best.codec_context
        raise DataError(f"video: {path} claims {context.width}x{context.height} pixels, at most {MAX_PIXELS} are read")
    return best, len(known)


def _has(stream: VideoStream, flag: str) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition[flag])


def _pixels(stream: VideoStream) -> int:
    return stream.codec_context.width * stream.codec_context.height


def _of(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets of one stream, and an empty one at its end."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except IndexError:
            # Of streams that appeared on the way, as in broadcasts, PyAV knows nothing when it ends them one by one;
            # this one, which was there before them, has had its empty packet.
            return
        yield packet


def _packets(
    container: InputContainer, stream: VideoStream, needed: int | None
) -> tuple[list[tuple[int | None, int | None]], bool]:
    """(presentation, decoding) time of each packet that makes a frame, in file order; whether the file ends there.

    An edit list marks what must be decoded but not shown; an empty packet stands for "the last picture once more".
    """
    packets: list[tuple[int | None, int | None]] = []
    for packet in _of(container, stream):
        if packet.size and not packet.is_discard:
            packets.append((packet.pts, packet.dts))
            if needed is not None and len(packets) >= needed + _REORDERED:
                return packets, False
    return packets, True


def _ordered(
    packets: list[tuple[int | None, int | None]], tick: Fraction, rate: float | None, *, reordered: bool
) -> tuple[FloatArray, NDArray[np.int64] | None, int, int]:
    """Times, stamps, repeated and restarts, as of `Listing`, of packets in the order in which they are shown.

    Where the clock jumps back (recordings one behind the other), times go on after the last by one usual interval.
    """
    interval = 1.0 / (rate or _USUAL_RATE)
    shown = [pts for pts, _ in packets if pts is not None]
    if len(shown) < len(packets):
        return np.arange(len(packets), dtype=np.float64) * interval, None, 0, 0
    # Times that increase in file order though frames are shown in another are those of decoding: AVI has no others.
    of_decoding = reordered and len(shown) > 2 and all(a < b for a, b in itertools.pairwise(shown))
    if of_decoding:
        return (np.array(shown) - shown[0]).astype(np.float64) * float(tick), None, 0, 0
    times: list[FloatArray] = []
    stamps: list[NDArray[np.int64]] = []
    start = 0.0
    for part in _without_jumps(packets):
        kept = np.unique(np.array(part, np.int64))
        times.append(start + (kept - kept[0]) * float(tick))
        stamps.append(kept)
        start = float(times[-1][-1]) + interval
    count = sum(len(part) for part in stamps)
    return np.concatenate(times), np.concatenate(stamps), len(packets) - count, len(stamps) - 1


def _without_jumps(packets: list[tuple[int | None, int | None]]) -> Iterator[list[int]]:
    """Times of showing, in a list of its own for each stretch in which the time of decoding does not go back."""
    part: list[int] = []
    before: int | None = None
    for pts, dts in packets:
        clock = dts if dts is not None else before
        if before is not None and clock is not None and clock < before and part:
            yield part
            part = []
        if pts is not None:
            part.append(pts)
        before = clock
    yield part


def _rate(stream: VideoStream) -> float | None:
    """Frames a second by the header; None where it says none that can be."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and _SLOWEST <= rate <= _FASTEST:
            return float(rate)
    return None


def _announced_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the stream lasts by the header of a Matroska or WebM file; None where it says nothing.

    Other containers list their frames, so that each one that is missing is known.
    """
    if "matroska" not in container.format.name:
        return None
    said = _DURATION.match(stream.metadata.get("DURATION", ""))
    if said is not None:
        return 3600 * int(said[1]) + 60 * int(said[2]) + float(said[3])
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / 1e6 if alone and container.duration else None


def _missing_end(times: FloatArray, lasts: float | None) -> float | None:
    """Seconds at the end of a stream of regular frames for which it has none; None for none, or where unknown."""
    usual = _usual_step(times)
    if lasts is None or usual is None:
        return None
    missing = lasts - float(times[-1]) - usual
    return missing if missing > max(_FEW_FRAMES * usual, 0.05 * lasts) else None


def _usual_step(times: FloatArray) -> float | None:
    """Seconds between regular frames; None for few or irregular ones."""
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) >= 2 else 0.0
    return usual if usual > 0 and np.quantile(steps, 0.9) <= 1.5 * usual else None


def _first_frame(path: Path) -> tuple[av.VideoFrame, Colours]:
    with opened(path) as container:
        stream, _ = played_stream(container, path)
        for frame, _ in _frames(container, stream):
            return frame, colours_of(frame, stream.codec_context)
    raise DataError(f"video: {path}: no frame can be decoded; is the file damaged? copy or download it again")


def _what_else(path: Path, detail: str) -> str:
    """What a file is that cannot be read as a video, for a message that begins with its name."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return not_fetched(head, "a video") or f"cannot be read as a video ({detail}); is it complete, and a video?"
