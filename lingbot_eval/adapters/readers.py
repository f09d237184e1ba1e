"""Reading one image, depth map or pose file, or saying in one line what is wrong with it."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from lingbot_eval.errors import DataError, at
from lingbot_eval.formats.depth_maps import read_depth_map
from lingbot_eval.formats.pose_matrices import checked_rigid
from lingbot_eval.formats.text import read_text
from lingbot_eval.types import DepthMap, FloatArray, Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 64_000_000
"""More than any camera this is for; a small file that claims more is a decompression bomb."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_EIGHT_BIT_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1")
_BITS_PER_SAMPLE = 258  # TIFF tag
_ORIENTATION = 0x0112  # EXIF tag
# What Pillow raises on damaged files, by format; none of it tells more than that the file is damaged.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
_BOMB = (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning)

Size = tuple[int, int]
DepthReader = Callable[[Path, str, Size], DepthMap]
"""Reads (H, W) float32 metres of a file; the frame, for messages; (width, height) of its image."""


@contextmanager
def _opened(path: Path, what: str, place: str) -> Iterator[PillowImage.Image]:
    """An image file whose header has been read; all faults of reading inside the block become DataError."""
    try:
        with PillowImage.open(path, formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(
                    f"{place}: {what} {path} claims {picture.width}x{picture.height} pixels, at most {MAX_PIXELS} are"
                    " read; make it smaller"
                )
            yield picture
    except FileNotFoundError:
        raise DataError(f"{place}: {what} {path} does not exist; is the dataset complete?") from None
    except UnidentifiedImageError:
        raise DataError(f"{place}: {what} {path} is no image in a known format ({', '.join(_FORMATS)})") from None
    except _BOMB:
        raise DataError(f"{place}: {what} {path} claims more than {MAX_PIXELS} pixels; make it smaller") from None
    except _DAMAGE as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{place}: {what} {path} is damaged or cut off ({detail}); copy or download it again"
        ) from error


def image_size(path: Path, place: str) -> Size:
    """(width, height) after EXIF orientation, from the header alone. Raises DataError."""
    with _opened(path, "image", place) as picture:
        width, height = picture.size
        # Pillow decodes a whole PNG in search of an EXIF block that is not in its header.
        if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys():
            return width, height
        return (height, width) if picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)


def read_image(path: Path, place: str, expected: Size | None = None) -> Image:
    """(H, W, 3) uint8 RGB; EXIF orientation applied, alpha composited over white (model.md section 1), grey repeated.

    place: the frame, for messages, e.g. ``redkitchen/seq-01 frame 12``. expected: (width, height) of the sequence.
    Raises DataError for a missing, damaged or cut off file, another size, and for what is not 8 bits a channel.
    """
    with _opened(path, "image", place) as picture:
        bits = _bits(picture)
        if bits > 8 or picture.mode not in _EIGHT_BIT_MODES:
            found = f"{bits}-bit samples" if bits > 8 else f"mode {picture.mode}"
            raise DataError(
                f"{place}: image {path}: expected 8-bit grey, RGB or RGBA, found {found};"
                " convert the images to 8-bit RGB"
            )
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        rgb = _over_white(upright)
        if expected is not None and rgb.size != expected:
            raise DataError(
                f"{place}: image {path}: expected {expected[0]}x{expected[1]} pixels as the first frame, found"
                f" {rgb.size[0]}x{rgb.size[1]}; one sequence has one size"
            )
        return np.array(rgb)


def _bits(picture: PillowImage.Image) -> int:
    """Bits of a sample in the file: Pillow turns some 16-bit colour files into 8 bits without a word."""
    if picture.format == "PNG":
        return _png_header(picture)[0]
    if picture.format == "TIFF":
        samples = picture.getexif().get(_BITS_PER_SAMPLE, 8)
        return max(samples) if isinstance(samples, tuple) else int(samples)
    return 8


def _png_header(picture: PillowImage.Image) -> tuple[int, int]:
    """Bit depth and colour type of the PNG that ``picture`` was opened from."""
    with Path(picture.filename).open("rb") as stream:  # type: ignore[attr-defined]
        header = stream.read(26)
    return header[24], header[25]


def _over_white(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        white = PillowImage.new("RGBA", coloured.size, (255, 255, 255, 255))
        return PillowImage.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def read_depth(path: Path, place: str, units_a_metre: float, expected: Size) -> DepthMap:
    """(H, W) float32 metres of a 16-bit grey PNG; 0 and 65535, which mean "no measurement", become 0.

    Raises DataError for a missing, damaged or cut off file, another size than ``expected`` (width, height), and
    anything but 16-bit grey.
    """
    with _opened(path, "depth map", place) as picture:
        header = _png_header(picture) if picture.format == "PNG" else None
        if header != (16, 0):
            found = f"{header[0]}-bit PNG of colour type {header[1]}" if header else f"{picture.format} {picture.mode}"
            raise DataError(f"{place}: depth map {path}: expected a 16-bit grey PNG, found {found}")
        if picture.size != expected:
            raise DataError(
                f"{place}: depth map {path}: expected {expected[0]}x{expected[1]} pixels as the image, found"
                f" {picture.size[0]}x{picture.size[1]}; does it belong to this sequence?"
            )
        raw = np.asarray(picture).astype(np.uint16)
    depth = raw.astype(np.float32) / np.float32(units_a_metre)
    depth[raw == np.iinfo(np.uint16).max] = 0.0
    return depth


def png_depth(units_a_metre: float, nearest: float = 0.0, farthest: float = math.inf) -> DepthReader:
    """Reader of 16-bit PNG depth; values outside ``nearest`` … ``farthest`` metres become 0."""

    def read(path: Path, place: str, expected: Size) -> DepthMap:
        depth = read_depth(path, place, units_a_metre, expected)
        depth[(depth < nearest) | (depth > farthest)] = 0.0
        return depth

    return read


MILLIMETRES = png_depth(1000.0)


def raw_float_depth(path: Path, place: str, expected: Size) -> DepthMap:
    """(H, W) float32 metres of a file of nothing but little-endian float32 values, row by row (ETH3D names it .JPG).

    Values that are not finite or not positive mean "no measurement" and become 0. Raises DataError when the file is
    missing or has another number of values than ``expected`` (width, height).
    """
    width, height = expected
    try:
        size = path.stat().st_size
        if size != 4 * width * height:
            with path.open("rb") as stream:
                is_jpeg = stream.read(3) == b"\xff\xd8\xff"
            raise DataError(
                f"{place}: depth map {path}: expected {4 * width * height} bytes (float32 of {width}x{height} pixels as"
                f" the image), found {size}{' of a JPEG image' if is_jpeg else ''}; are image and depth of one kind?"
            )
        depth = np.fromfile(path, dtype="<f4").reshape(height, width).astype(np.float32)
    except OSError as error:
        raise DataError(f"{place}: depth map {path} cannot be read: {error.strerror or error}") from error
    depth[~(np.isfinite(depth) & (depth > 0))] = 0.0
    return depth


def array_depth(path: Path, place: str, expected: Size) -> DepthMap:
    """(H, W) float32 metres of an ``.npy`` file; what is not finite or not positive becomes 0. Raises DataError."""
    depth = read_depth_map(path, 1.0)
    if depth.shape != (expected[1], expected[0]):
        raise DataError(
            f"{place}: depth map {path}: expected {expected[0]}x{expected[1]} pixels as the image, found"
            f" {depth.shape[1]}x{depth.shape[0]}; does it belong to this sequence?"
        )
    depth[~(np.isfinite(depth) & (depth > 0))] = 0.0
    return depth


def read_pose(path: Path) -> FloatArray:
    """(4, 4) float64 camera-to-world of a text file of four lines of four numbers, kept as it is in the file.

    Raises DataError with file and line for another count, for what is not a finite number, and for a matrix that is
    no rigid motion; rotations may be off by a little, as those of real sensors are.
    """
    rows: list[list[float]] = []
    for number, text in enumerate(read_text(path, "pose").split("\n"), start=1):
        fields = text.split()
        if not fields:
            continue
        if len(fields) != 4:
            raise DataError(
                f"{at(path, number)}: expected 4 numbers of a 4x4 pose, found {len(fields)}; is it cut off?"
            )
        try:
            row = [float(field) for field in fields]
        except ValueError:
            raise DataError(f"{at(path, number)}: expected 4 numbers, found {text.strip()[:60]!r}") from None
        if not all(math.isfinite(value) for value in row):
            raise DataError(
                f"{at(path, number)}: expected finite numbers, found {text.strip()[:60]!r};"
                " remove the file of a frame whose pose is unknown"
            )
        rows.append(row)
    if len(rows) != 4:
        raise DataError(f"{path}: expected 4 lines of a 4x4 pose, found {len(rows)}; is the file complete?")
    return checked_rigid(np.array(rows), str(path))
