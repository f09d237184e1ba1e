"""How long a video file says it is: FFmpeg plays a file that was cut off as if it simply ended earlier."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

# Boxes of ISO base media files (MP4, MOV) at the top level. Cameras append blocks of their own after them, which must
# not be taken for boxes with enormous sizes.
_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"mfra", b"styp", b"sidx", b"uuid", b"meta")
)
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def announced_size(path: Path) -> int | None:
    """Bytes that an MP4, MOV, MKV, WebM or AVI file must have by its own headers; None where they do not tell.

    Raises OSError when the file cannot be read.
    """
    with path.open("rb") as stream:
        start = stream.read(12)
        stream.seek(0)
        if start[4:8] in _BOXES:
            return _boxes_end(stream, path.stat().st_size)
        if start[:4] == _EBML:
            return _segment_end(stream)
        if start[:4] == b"RIFF" and len(start) == 12:
            size = int.from_bytes(start[4:8], "little")
            return None if size in (0, 0xFFFFFFFF) else size + 8
    return None


def ends_inside_a_packet(path: Path) -> bool:
    """Whether an MPEG transport stream is no whole number of packets, as one that was cut off. Raises OSError."""
    with path.open("rb") as stream:
        start = stream.read(2 * 192 + 8)
    size = path.stat().st_size
    for length, sync in ((188, 0), (192, 4)):  # broadcast; Blu-ray and camcorders put a clock before each packet
        if all(start[sync + length * number : sync + length * number + 1] == b"G" for number in range(2)):
            return size % length != 0
    return False


def _boxes_end(stream: BinaryIO, size: int) -> int:
    end = 0
    while end < size:
        stream.seek(end)
        header = stream.read(16)
        if len(header) < 8 or header[4:8] not in _BOXES:
            break
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # up to the end of the file, wherever that is
            return size
        if length < 8:
            break
        end += length
    return end


def _segment_end(stream: BinaryIO) -> int | None:
    """End of the first segment of a Matroska file: an element is an identifier, a length and that many bytes."""
    stream.seek(4)
    header = _variable_length(stream)
    if header is None:
        return None
    stream.seek(header, 1)
    if stream.read(4) != _SEGMENT:
        return None
    length = _variable_length(stream)
    return None if length is None else stream.tell() + length


def _variable_length(stream: BinaryIO) -> int | None:
    """A Matroska length: the position of the first 1 bit says how many bytes follow; all ones mean "unknown"."""
    first = stream.read(1)
    if not first or first == b"\0":
        return None
    more = 8 - first[0].bit_length()
    rest = stream.read(more)
    value = int.from_bytes(bytes([first[0] & ((1 << (7 - more)) - 1)]) + rest, "big")
    unknown = (1 << (7 * (more + 1))) - 1
    return None if len(rest) < more or value == unknown else value
