"""Finds damage that FFmpeg passes over: a file that was cut off plays as if it ended earlier, altered H.264 is decoded.

A slice of H.264 must end where its picture ends. Altered bytes of arithmetic-coded H.264 are nearly always *some*
picture: the decoder reads on until it has all blocks, and what is left of the packet is nobody's business. In small
pictures, of few blocks, it hardly ever meets a contradiction before. So a second decoder is told that the picture is
one row of blocks taller. A sound slice says that it is over when the true picture is, the further row stays empty, and
the decoder marks the frame for it; a damaged slice does not know where to stop, runs on into that row, and its frame
looks complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lingbot_eval.errors import DataError

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

# Boxes of ISO base media files (MP4, MOV) at the top level. Cameras append blocks of their own after them, which must
# not be taken for boxes with enormous sizes.
_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"mfra", b"styp", b"sidx", b"uuid", b"meta")
)
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def refuse_cut_off(path: Path) -> None:
    """Raises DataError for a file that is shorter than its headers say."""
    try:
        announced, found = _announced_size(path), path.stat().st_size
    except OSError as error:
        raise DataError(f"video: {path} cannot be read: {error.strerror or error}") from error
    if announced is not None and found < announced:
        raise DataError(
            f"video: {path} is cut off: its headers announce {announced} bytes, found {found};"
            " copy or download it again"
        )


def _announced_size(path: Path) -> int | None:
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


MOST_BLOCKS = 1200
"""Of 16×16 pixels (640×480): larger pictures meet a contradiction, and decoding them twice would cost time."""

# Profiles whose parameter sets say more of colours (ITU-T H.264 section 7.3.2.1.1).
_HIGH_PROFILES = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 134, 135, 138, 139))
_LOCATED = 6  # bytes before the first parameter set in an avcC box


class SliceEnds:
    """Listens in on the packets of one stream and collects the times of frames whose slices run on."""

    def __init__(self, stream: VideoStream) -> None:
        """Nothing is checked of streams that are no H.264, large, or have their parameters inside the packets."""
        import av

        self.run_on: set[int | None] = set()
        self._taller: VideoCodecContext | None = None
        context = stream.codec_context
        blocks = (context.width + 15) // 16 * ((context.height + 15) // 16)
        if context.name != "h264" or blocks > MOST_BLOCKS or not context.extradata:
            return
        parameters = one_row_taller(context.extradata)
        if parameters is None:
            return
        self._height = context.height
        taller = av.CodecContext.create("h264", "r")
        taller.extradata = parameters
        # Concealment is what marks the empty row; threads would come in its way.
        taller.options = {"enable_er": "1", "skip_loop_filter": "all"}
        taller.thread_type = "NONE"
        self._taller = taller

    def hear(self, packet: Packet[Any]) -> None:
        """Take the next packet; an empty one ends the stream."""
        import av

        if self._taller is None:
            return
        try:
            frames = self._taller.decode(packet if packet.size else None)
        except av.FFmpegError:
            return  # the decoder of the picture meets this as well
        for frame in frames:
            # Parameters inside a packet replace the taller ones; fields are not concealed. Neither says anything.
            if frame.height > self._height and not frame.interlaced_frame and not frame.is_corrupt:
                self.run_on.add(frame.pts)


def one_row_taller(parameters: bytes) -> bytes | None:
    """An avcC box whose pictures have one more row of blocks; None for what is no such box or is damaged."""
    if len(parameters) <= _LOCATED or parameters[0] != 1:
        return None
    made = bytearray(parameters[:_LOCATED])
    position = _LOCATED
    try:
        for _ in range(parameters[5] & 31):
            size = int.from_bytes(parameters[position : position + 2], "big")
            unit = parameters[position + 2 : position + 2 + size]
            taller = _taller_unit(unit)
            made += len(taller).to_bytes(2, "big") + taller
            position += 2 + size
    except (ValueError, IndexError):
        return None
    return bytes(made + parameters[position:])


def _taller_unit(unit: bytes) -> bytes:
    """A sequence parameter set with its height in map units raised by one. Raises ValueError when it is damaged."""
    bits = _Bits(_without_escapes(unit))
    bits.number(8)
    profile = bits.number(8)
    bits.number(16)
    bits.coded()  # seq_parameter_set_id
    if profile in _HIGH_PROFILES:
        _skip_high(bits)
    bits.coded()  # log2_max_frame_num_minus4
    order = bits.coded()
    if order == 0:
        bits.coded()  # log2_max_pic_order_cnt_lsb_minus4
    elif order == 1:
        bits.number(1)
        bits.coded()
        bits.coded()
        for _ in range(bits.coded()):
            bits.coded()
    bits.coded()  # max_num_ref_frames
    bits.number(1)
    bits.coded()  # pic_width_in_mbs_minus1
    before = bits.position
    height = bits.coded()
    text = bits.text[:before] + _coded(height + 1) + bits.text[bits.position :].rstrip("0")
    text += "0" * (-len(text) % 8)
    return _with_escapes(int(text, 2).to_bytes(len(text) // 8, "big"))


def _skip_high(bits: _Bits) -> None:
    colours = bits.coded()  # chroma_format_idc
    if colours == 3:
        bits.number(1)
    bits.coded()
    bits.coded()
    bits.number(1)
    if not bits.number(1):
        return
    for index in range(12 if colours == 3 else 8):  # scaling lists
        if not bits.number(1):
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                step = bits.coded()
                following = (last + ((step + 1) // 2 if step % 2 else -(step // 2))) % 256
            last = following or last


class _Bits:
    """Reads a parameter set bit by bit."""

    def __init__(self, content: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in content)
        self.position = 0

    def number(self, bits: int) -> int:
        """An unsigned number. Raises ValueError at the end."""
        value = int(self.text[self.position : self.position + bits], 2)
        self.position += bits
        return value

    def coded(self) -> int:
        """A number in Exp-Golomb code (signed ones are mapped to it). Raises ValueError at the end."""
        zeros = self.text.index("1", self.position) - self.position
        self.position += zeros
        return self.number(zeros + 1) - 1


def _coded(value: int) -> str:
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _without_escapes(unit: bytes) -> bytes:
    return unit.replace(b"\0\0\3", b"\0\0")


def _with_escapes(content: bytes) -> bytes:
    made = bytearray()
    for byte in content:
        if byte <= 3 and made[-2:] == b"\0\0":
            made.append(3)
        made.append(byte)
    return bytes(made)
