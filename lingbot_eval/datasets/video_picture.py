"""From a decoded frame to the picture that a player shows: woven fields, colours, square pixels, display matrix."""

from __future__ import annotations

import functools
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import Image

if TYPE_CHECKING:
    import av
    from av.filter import Graph
    from av.video.codeccontext import VideoCodecContext

# Codes of ITU-T H.273, which FFmpeg uses as they are: a stream's matrix, range, transfer and primaries.
_UNSPECIFIED = 2
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_TRANSFERS = {16: "PQ", 18: "HLG"}
_BT2020 = 9
# Above the sizes of standard definition, players take the matrix of HD where the stream names none.
_STANDARD_DEFINITION = (1024, 576)

_SLANT = 0.01  # of a display matrix: what rounding leaves of a turn by quarters

_WHITE = 203.0  # nits of diffuse white in HDR (ITU-R BT.2408)
_HLG_PEAK = 1000.0  # nits of the display that HLG is turned into light for (ITU-R BT.2100)
_KNEE = 0.7  # of diffuse white: light up to here is kept, more is rolled off towards the brightest that SDR shows
_ROWS = 32  # worked on at a time: they stay in the processor's cache
_TO_BT709 = np.array(  # linear light, BT.2020 to BT.709 primaries (ITU-R BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMA_BT2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)


@dataclass(frozen=True)
class Turn:
    """What a display matrix asks for: first x and y change places, then columns and rows are reversed.

    exact: whether the matrix is such a turn; a slanted one is read as the nearest.
    """

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False
    exact: bool = True

    @property
    def words(self) -> str:
        """For records and people."""
        return _TURNS[self.transposed, self.mirrored_x, self.mirrored_y]

    def applied(self, image: Image) -> Image:
        """(H, W, 3) as it is shown, its memory in order."""
        if self.transposed:
            image = np.swapaxes(image, 0, 1)
        rows = slice(None, None, -1 if self.mirrored_y else 1)
        columns = slice(None, None, -1 if self.mirrored_x else 1)
        return np.ascontiguousarray(image[rows, columns])


_TURNS = {
    (False, False, False): "as stored",
    (False, True, True): "turned by 180 degrees",
    (True, True, False): "turned by 90 degrees clockwise",
    (True, False, True): "turned by 90 degrees counter-clockwise",
    (False, True, False): "mirrored left to right",
    (False, False, True): "mirrored top to bottom",
    (True, False, False): "turned by 90 degrees clockwise and mirrored left to right",
    (True, True, True): "turned by 90 degrees counter-clockwise and mirrored left to right",
}


def turn_of(frame: av.VideoFrame) -> Turn:
    """The turn in the frame's display matrix: of the container's track, or of the stream itself."""
    from av.buffer import Buffer

    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, Buffer) or matrix.buffer_size < 36:
        return Turn()
    # A pixel (x, y) is shown at (a·x + c·y, b·x + d·y).
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if straight >= crossed:
        return Turn(False, a < 0, d < 0, exact=crossed <= _SLANT * straight and a != 0 != d)
    return Turn(True, c < 0, b < 0, exact=straight <= _SLANT * crossed and b != 0 != c)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """(width, height) with square pixels: the squeezed side grows, so that no line of pixels is lost."""
    if aspect > 1:
        return max(1, round(width * aspect)), height
    return width, max(1, round(height / aspect))


@dataclass(frozen=True)
class Colours:
    """How a frame's numbers become light.

    matrix: FFmpeg's name of the YUV matrix, None for RGB. stated: whether the stream names one that is known; unknown:
    the code (ITU-T H.273) of one that is not. transfer: ``PQ`` or ``HLG`` for HDR, else None. wide: BT.2020 primaries.
    """

    matrix: str | None
    stated: bool
    full_range: bool | None
    transfer: str | None
    wide: bool
    unknown: int | None = None

    @property
    def words(self) -> str:
        """For the record."""
        matrix = "RGB" if self.matrix is None else f"{self.matrix}{'' if self.stated else ' (taken by size)'}"
        levels = {None: "range not stated", True: "full range", False: "limited range"}[self.full_range]
        return f"{matrix}, {levels}, {self.transfer or 'SDR'}{', BT.2020 primaries' if self.wide else ''}"


def colours_of(frame: av.VideoFrame, context: VideoCodecContext) -> Colours:
    """What the stream says, and what players take where it says nothing.

    Args:
        frame: its first frame.
        context: the decoder that made it; older versions of PyAV do not tell a frame's transfer and primaries.
    """
    transfer = _TRANSFERS.get(int(context.color_trc))
    wide = int(context.color_primaries) == _BT2020
    if frame.format.is_rgb or frame.format.has_palette:
        return Colours(None, True, None, transfer, wide)
    code = int(frame.colorspace)
    matrix = _MATRICES.get(code)
    width, height = _STANDARD_DEFINITION
    by_size = "bt709" if frame.width > width or frame.height > height else "bt601"
    full = {1: False, 2: True}.get(int(frame.color_range))
    unknown = None if matrix is not None or code == _UNSPECIFIED else code
    return Colours(matrix or by_size, matrix is not None, full, transfer, wide, unknown)


@dataclass(frozen=True, eq=False)
class RawPicture:
    """A frame in RGB, before what is slow: pixels (H, W, 3) uint8, (H, W, 4) with alpha, (H, W, 3) uint16 for HDR."""

    pixels: NDArray[Any]
    turn: Turn
    transfer: str | None
    wide: bool

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as it is shown."""
        height, width = self.pixels.shape[:2]
        return (height, width) if self.turn.transposed else (width, height)

    def developed(self) -> Image:
        """(H, W, 3) uint8 sRGB, upright; transparency over white, HDR brought to SDR."""
        if self.transfer is not None:
            image = to_sdr(self.pixels, self.transfer, wide=self.wide)
        else:
            image = _over_white(self.pixels) if self.pixels.shape[2] == 4 else self.pixels
        return self.turn.applied(image)


class Pictures:
    """Turns decoded frames of one stream into RGB; a converter is made once for each kind of frame."""

    def __init__(self, aspect: Fraction, colours: Colours) -> None:
        """``aspect``: width of a pixel over its height. ``colours``: of the stream."""
        self._aspect = aspect
        self._colours = colours
        self._kind: tuple[Any, ...] | None = None
        self._graph: Graph | None = None

    def raw(self, frame: av.VideoFrame) -> RawPicture:
        """The frame in RGB, with square pixels."""
        transfer = self._colours.transfer
        alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
        wanted = "rgb48le" if transfer is not None else "rgba" if alpha else "rgb24"
        return RawPicture(self._converted(frame, wanted), turn_of(frame), transfer, self._colours.wide)

    def _converted(self, frame: av.VideoFrame, wanted: str) -> NDArray[Any]:
        kind = (frame.format.name, frame.width, frame.height, wanted)
        if self._graph is None or kind != self._kind:
            self._graph, self._kind = self._new_graph(frame, wanted), kind
        self._graph.push(frame)
        made = self._graph.pull()
        return made.to_ndarray()

    def _new_graph(self, frame: av.VideoFrame, wanted: str) -> Graph:
        colours = self._colours
        width, height = square_size(frame.width, frame.height, self._aspect)
        # bitexact: the same pixels on every processor. Exact rounding matters where pixels are resized, and costs much.
        exact = "" if (width, height) == (frame.width, frame.height) else "+accurate_rnd+full_chroma_int"
        settings = f"{width}:{height}:flags=bicubic+bitexact{exact}"
        if colours.matrix is not None:
            settings += f":in_color_matrix={colours.matrix}"
        return _graph(
            frame,
            # Newer scalers refuse a frame whose transfer or primaries they do not know; they are brought in later.
            ("setparams", "color_primaries=unknown:color_trc=unknown"),
            ("scale", settings),
            ("format", wanted),
        )


def _graph(frame: av.VideoFrame, *steps: tuple[str, str]) -> Graph:
    """Filters, each with its settings, for frames such as this one."""
    import av.filter

    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        *(graph.add(name, settings) for name, settings in steps),
        graph.add("buffersink"),
    ).configure()
    return graph


class Deinterlacer:
    """Weaves the fields of interlaced frames into whole pictures, one for one; progressive frames pass unchanged.

    A frame comes out when the one after it went in: the field before and after decide what moved.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._waiting: deque[tuple[int, av.VideoFrame]] = deque()
        self.used = 0

    def put(self, tag: int, frame: av.VideoFrame) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames that are ready, each with the tag that it came with."""
        self.used += frame.interlaced_frame
        if self._graph is None and not frame.interlaced_frame:
            yield tag, frame
            return
        if self._graph is None:
            self._graph = _graph(frame, ("bwdif", "mode=send_frame:parity=auto:deint=interlaced"))
        self._waiting.append((tag, frame))
        self._graph.push(frame)
        yield from self._ready()

    def rest(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """What still waits when the stream is over."""
        if self._graph is not None and self._waiting:
            self._graph.push(None)
            yield from self._ready()

    def _ready(self) -> Iterator[tuple[int, av.VideoFrame]]:
        import av

        while self._waiting and self._graph is not None:
            try:
                woven = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            tag, _ = self._waiting.popleft()
            yield tag, woven  # type: ignore[misc]


def to_sdr(codes: NDArray[np.uint16], transfer: str, *, wide: bool) -> Image:
    """(H, W, 3) uint8 sRGB of HDR pictures: light, primaries of BT.709, a roll-off of highlights, the sRGB curve.

    Diffuse white (203 nits) becomes 0.85 of the light that SDR shows; shadows and mid-tones keep their light. Hues are
    kept: the three channels are scaled alike.

    Args:
        codes: (H, W, 3) uint16, RGB as coded, full range.
        transfer: ``PQ`` or ``HLG`` (ITU-R BT.2100).
        wide: whether the primaries are BT.2020's.
    """
    image = np.empty(codes.shape, np.uint8)
    for start in range(0, len(codes), _ROWS):
        image[start : start + _ROWS] = _rows_to_sdr(codes[start : start + _ROWS], transfer, wide=wide)
    return image


def _rows_to_sdr(codes: NDArray[np.uint16], transfer: str, *, wide: bool) -> Image:
    light = _light_of(transfer)[codes]
    if transfer == "HLG":
        light *= _HLG_PEAK / _WHITE * np.power(np.maximum(light @ _LUMA_BT2020, 1e-9), np.float32(0.2))[..., None]
    if wide:
        light = light @ _TO_BT709.T
    np.maximum(light, 0.0, out=light)
    strongest = light.max(axis=-1)
    over = np.maximum(strongest - _KNEE, 0.0) / (1.0 - _KNEE)
    rolled = np.minimum(strongest, _KNEE) + (1.0 - _KNEE) * over / (1.0 + over)
    light *= (rolled / np.maximum(strongest, 1e-9))[..., None]
    image: Image = _srgb_codes()[np.minimum(light * 4095.0 + 0.5, 4095.0).astype(np.uint16)]
    return image


@functools.cache
def _light_of(transfer: str) -> NDArray[np.float32]:
    """(65536,) light of each code; PQ: in units of diffuse white, HLG: of the scene, 0 to 1."""
    code = np.arange(65536) / 65535.0
    if transfer == "PQ":
        power = code ** (32.0 / 2523.0)
        light = np.maximum(power - 3424.0 / 4096.0, 0.0) / (2413.0 / 128.0 - 2392.0 / 128.0 * power)
        return (light ** (16384.0 / 2610.0) * 10000.0 / _WHITE).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3.0, (np.exp((code - c) / a) + b) / 12.0).astype(np.float32)


@functools.cache
def _srgb_codes() -> NDArray[np.uint8]:
    """(4096,) code of each amount of light."""
    light = np.arange(4096) / 4095.0
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1.0 / 2.4) - 0.055)
    return np.round(curve * 255.0).astype(np.uint8)


def _over_white(rgba: NDArray[np.uint8]) -> Image:
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
