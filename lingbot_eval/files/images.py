"""Reading one image or mask, or saying in one line what is wrong with it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.MpoImagePlugin import MpoImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.reading import DAMAGE, kind_of_entry, open_file
from lingbot_eval.types import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".mpo", ".jfif")
HEIF_SUFFIXES = (".heic", ".heif", ".hif", ".avif")
"""What phones write; read where the library is there (`unreadable_kind`)."""
MAX_PIXELS = 64_000_000
"""More than any camera this is for; a small file that claims more is a decompression bomb."""
COLOURS = "8-bit RGB, upright by EXIF or TIFF orientation, alpha over white, grey repeated, ICC profiles not applied"
"""What an image is after reading, for the record."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow finds an MPO in what begins as a JPEG
_EIGHT_BIT_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1")
_MAIN_PICTURE = ("MPO", "HEIF")  # formats whose further pictures are views, gain maps or thumbnails of the first
_WIDTH, _HEIGHT, _SUBFILE, _BITS_PER_SAMPLE, _ORIENTATION = 256, 257, 254, 258, 0x0112  # TIFF and EXIF tags
_MP_ENTRIES = 0xB002  # MPO: the list of its pictures
_STRIPS, _TILES = (273, 279), (324, 325)  # TIFF: where the pixels are, and how many bytes each part has
_BRANDS = {
    "HEIF": (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1", b"msf1"),
    "AVIF": (b"avif", b"avis"),
}
"""Formats of the same boxes, by the words that files of theirs begin with."""
_TURNS = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
_BOMB = (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning)

Size = tuple[int, int]


def checked_file(path: Path, what: str) -> None:
    """Raises DataError, which begins with ``what``, unless ``path`` is a file with something in it.

    A named pipe is never opened: it would keep whoever reads it waiting for ever.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(f"{what} {path} is a link to {path.readlink()}, which does not exist; mend it") from None
        raise DataError(f"{what} {path} does not exist; is the dataset complete?") from None
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{what} {path} is {kind_of_entry(status.st_mode)}, expected a file")
    if not status.st_size:
        raise DataError(f"{what} {path} is empty (0 bytes), damaged or cut off; copy or download it again")


def unreadable_kind(suffix: str) -> str | None:
    """Why files of this suffix (lower case, one of ``HEIF_SUFFIXES``) cannot be read here, and what to install."""
    needed = _needed_for("AVIF" if suffix == ".avif" else "HEIF")
    return None if needed is None else f"{suffix[1:].upper()} needs {needed}"


def _needed_for(kind: str) -> str | None:
    """What is missing to read ``HEIF`` or ``AVIF``; None when it can be read (its reader is then registered)."""
    if kind == "AVIF":
        PillowImage.init()
        return None if "AVIF" in PillowImage.OPEN else "Pillow 11.3 or later: install it, or convert the images"
    try:
        import pillow_heif
    except ImportError:
        return "the library pillow-heif: pip install 'lingbot-eval[heic]', or convert the images to JPEG"
    if "HEIF" not in PillowImage.OPEN:
        pillow_heif.register_heif_opener()
    return None


def _formats(head: bytes) -> tuple[str, ...]:
    """Formats to try on a file that begins with ``head``: HEIF's reader is a library that only its files load."""
    kind = _boxed(head)
    if kind is None or _needed_for(kind) is not None:
        return _FORMATS
    return (kind, "AVIF") if kind == "HEIF" and "AVIF" in PillowImage.OPEN else (kind,)


def _boxed(head: bytes) -> str | None:
    """``HEIF`` or ``AVIF`` where a file begins as one; else None."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    return next((kind for kind, brands in _BRANDS.items() if brand in brands), None)


def _what_else(head: bytes) -> str:
    """What a file is that is no image in a known format, and what to do."""
    if (kind := _boxed(head)) is not None:
        needed = _needed_for(kind)
        damaged = f"begins as {kind} and is damaged or cut off; copy or download it again"
        return damaged if needed is None else f"is {kind}, which needs {needed}"
    if (fetched := not_fetched(head, "an image")) is not None:
        return fetched
    return f"is no image in a known format ({', '.join((*_FORMATS, 'HEIF', 'AVIF'))}), or damaged"


def not_fetched(head: bytes, what: str) -> str | None:
    """What stands in place of a file of images or video, by its first bytes, and what to do; None for nothing known.

    what: with its article, e.g. ``an image``.
    """
    if head.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer, not the {what.split()[-1]} itself: run 'git lfs pull'"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"is a web page, not {what}: the download failed; download it again"
    return None


@contextmanager
def opened_image(path: Path, what: str, *, whole: bool = True) -> Iterator[tuple[PillowImage.Image, bytes]]:
    """An image file whose header has been read, and its first bytes; all faults of reading it become DataError.

    what: begins the message, as ``SCENE frame 12: image``. whole: whether a file that is cut off is a fault.
    """
    checked_file(path, what)
    head = b""
    try:
        with open_file(path) as stream:
            head = stream.read(64)
            stream.seek(0)
            with PillowImage.open(stream, formats=_formats(head)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise DataError(
                        f"{what} {path} claims {picture.width}x{picture.height} pixels, at most {MAX_PIXELS}"
                        " are read; make it smaller"
                    )
                missing = _missing_end(path, picture) if whole else None
                if missing is not None:
                    raise DataError(f"{what} {path} is cut off ({missing}); copy or download it again")
                yield picture, head
    except UnidentifiedImageError:
        raise DataError(f"{what} {path} {_what_else(head)}") from None
    except _BOMB:
        raise DataError(f"{what} {path} claims more than {MAX_PIXELS} pixels; make it smaller") from None
    except PermissionError as error:
        raise DataError(f"{what} {path} cannot be read: {error.strerror}") from error
    except DAMAGE as error:
        raise DataError(f"{what} {path} is damaged or cut off ({reason(error)}); copy or download it again") from error


def _missing_end(path: Path, picture: PillowImage.Image) -> str | None:
    """What shows that a file ends before its pixels do, from its size and last bytes; None for nothing."""
    size = path.stat().st_size
    if picture.format in ("JPEG", "MPO"):
        return None if _ends(path, b"\xff\xd9") or _has_end_of_jpeg(path) else "no end marker behind its pixels"
    if picture.format == "PNG":
        there = _ends(path, _PNG_END) or _whole_chunks(path, size)
        return None if there else f"its last block is longer than the file of {size} bytes"
    end = 0
    if isinstance(picture, TiffImageFile):
        for starts, counts in (_STRIPS, _TILES):
            parts = zip(picture.tag_v2.get(starts, ()), picture.tag_v2.get(counts, ()), strict=False)
            end = max([end, *(start + count for start, count in parts)])
    elif isinstance(picture, BmpImageFile):
        for codec, extents, start, arguments in picture.tile:
            if codec == "raw" and extents is not None and isinstance(arguments, tuple):
                end = max(end, start + extents[3] * int(arguments[1]))
    return f"its pixels reach to byte {end}, the file to {size}" if end > size else None


_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def _ends(path: Path, mark: bytes) -> bool:
    with open_file(path) as stream:
        stream.seek(-min(len(mark), path.stat().st_size), 2)
        return stream.read() == mark


def _has_end_of_jpeg(path: Path) -> bool:
    """Whether the end marker comes somewhere behind the first scan; what phones append may follow it."""
    content = path.read_bytes()
    scan = _scan_of_jpeg(content)
    # Inside coded pixels 0xFF is followed by 0 or a number of restart: this cannot be met there.
    return scan is not None and content.find(b"\xff\xd9", scan) >= 0


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and end of each segment of a JPEG; the coded pixels follow that of marker 0xDA, the last."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        if marker == 0xDA:
            return
        at = end


def _scan_of_jpeg(content: bytes) -> int | None:
    """Where the coded pixels of the first scan begin; None where the segments before it do not fit together."""
    return next((end for marker, _, end in _segments(content) if marker == 0xDA), None)


_ZEROS = bytes(48)
"""More zero bytes in a row than coded pixels of a JPEG have, unless zero bits mean "nothing changes"."""


def _refuse_zeroed_jpeg(path: Path, place: str) -> None:
    """Raises DataError for coded pixels of which a stretch is zero bytes, as failing disks and downloads leave it.

    Decoders take zero bits for coefficients and go on. Only of a sequential JPEG whose shortest code is no "end of
    block" for all components: of others an even surface, or a bit a block, may be zeros.
    """
    content = path.read_bytes()
    at = content.find(_ZEROS)
    scan = _scan_of_jpeg(content)
    if at < 0 or scan is None or not _zeros_are_coefficients(content[:scan]):
        return
    at = content.find(_ZEROS, scan, content.find(b"\xff\xd9", scan))
    if at >= 0:
        raise DataError(
            f"{place}: image {path} is damaged: its coded pixels are zero bytes from byte {at} on for a stretch; copy"
            " or download it again"
        )


def _zeros_are_coefficients(header: bytes) -> bool:
    """Whether the code of zero bits alone stands for a coefficient in an AC table of a sequential JPEG."""
    found = False
    for marker, table, end in _segments(header):
        if marker in (0xC2, 0xC6, 0xC9, 0xCA, 0xCD, 0xCE):  # progressive or arithmetic
            return False
        while marker == 0xC4 and table + 17 <= end:
            if header[table] >> 4:
                found = found or header[table + 17] != 0
            table += 17 + sum(header[table + 1 : table + 17])
    return found


def _chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte of the content and end of each chunk of a PNG before its last, where the file has the header."""
    position = 8
    while True:
        stream.seek(position)
        header = stream.read(8)
        if len(header) < 8 or header[4:] == b"IEND":
            return
        start, position = position + 8, position + 12 + int.from_bytes(header[:4], "big")
        yield header[4:], start, position


def _whole_chunks(path: Path, size: int) -> bool:
    """Whether no chunk of a PNG reaches beyond the file. One that lacks its last, empty chunk lacks no pixel."""
    with open_file(path) as stream:
        return max((end for _, _, end in _chunks(stream)), default=8) <= size


@contextmanager
def _picture(path: Path, place: str, *, whole: bool = True) -> Iterator[tuple[PillowImage.Image, int]]:
    """One picture of 8 bits a channel and how it is to be turned (1 … 8): the one rule for what an image is."""
    with opened_image(path, f"{place}: image", whole=whole) as (picture, head):
        bits = head[24] if picture.format == "PNG" else _tiff_bits(picture) if picture.format == "TIFF" else 8
        # Pillow turns some 16-bit colour files into 8 bits without a word.
        if bits > 8 or picture.mode not in _EIGHT_BIT_MODES:
            found = f"{bits}-bit samples" if bits > 8 else f"mode {picture.mode}"
            raise DataError(
                f"{place}: image {path}: expected 8-bit grey, RGB or RGBA, found {found};"
                " convert the images to 8-bit RGB"
            )
        pictures = _pictures(picture)
        if pictures > 1:
            raise DataError(
                f"{place}: image {path}: expected one picture, found {pictures} in this {picture.format};"
                " save each as a file of its own"
            )
        yield picture, _orientation(picture)


def _tiff_bits(picture: PillowImage.Image) -> int:
    samples = picture.getexif().get(_BITS_PER_SAMPLE, 8)
    return max(samples) if isinstance(samples, tuple) else int(samples)


def _pictures(picture: PillowImage.Image) -> int:
    """Pictures in the file, smaller versions of the first not counted."""
    frames = int(getattr(picture, "n_frames", 1))  # Pillow's own way: only formats that can hold several say it
    if frames == 1 or picture.format in _MAIN_PICTURE:
        return 1
    if isinstance(picture, TiffImageFile):
        reduced = 0
        for number in range(1, frames):
            picture.seek(number)
            reduced += int(picture.tag_v2.get(_SUBFILE, 0)) & 1
        picture.seek(0)
        return frames - reduced
    return frames


def _orientation(picture: PillowImage.Image) -> int:
    """How the stored picture is to be turned, from its header (EXIF's numbers, 1: not at all)."""
    if isinstance(picture, TiffImageFile):
        orientation = picture.tag_v2.get(_ORIENTATION, 1)
    elif isinstance(picture, PngImageFile) and not {"exif", "Raw profile type exif"} & picture.info.keys():
        # Pillow would decode the whole picture in search of the block.
        orientation = _late_png_orientation(picture)
    else:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _late_png_orientation(picture: PngImageFile) -> int:
    """Orientation of an EXIF block behind the pixels, where PNG allows it to be."""
    stream = picture.fp
    if stream is None:
        return 1
    place = stream.tell()
    try:
        for kind, start, end in _chunks(stream):
            if kind == b"eXIf":
                stream.seek(start)
                exif = PillowImage.Exif()
                exif.load(stream.read(min(end - start - 4, 1 << 16)))
                return int(exif.get(_ORIENTATION, 1))
        return 1
    finally:
        stream.seek(place)


def image_header(path: Path, place: str) -> tuple[Size, int]:
    """What is known of the image that `read_image` gives without decoding it: by its header, and by its end.

    Returns its size, and how many further pictures the file has that are no smaller copies and are not read. Raises
    DataError for whatever these tell that `read_image` would refuse.
    """
    with _picture(path, place) as (picture, orientation):
        return _upright_size(picture, orientation), _views(picture)


def image_size(path: Path, place: str) -> Size:
    """(width, height) of the image that `read_image` gives; one that is cut off has a size, too.

    A sequence asks its first image on behalf of the others, which can be read though that one cannot. Raises DataError
    for what else `image_header` refuses.
    """
    with _picture(path, place, whole=False) as (picture, orientation):
        return _upright_size(picture, orientation)


def _views(picture: PillowImage.Image) -> int:
    if isinstance(picture, MpoImageFile):
        entries = (picture.mpinfo or {}).get(_MP_ENTRIES, ())
        return sum("Multi-Frame" in entry["Attribute"]["MPType"] for entry in entries[1:])
    return int(getattr(picture, "n_frames", 1)) - 1 if picture.format == "HEIF" else 0


def _upright_size(picture: PillowImage.Image, orientation: int) -> Size:
    size = picture.size
    if isinstance(picture, TiffImageFile):  # some versions of Pillow have turned the size already, others not
        size = int(picture.tag_v2[_WIDTH]), int(picture.tag_v2[_HEIGHT])
    return size[::-1] if orientation >= 5 else size


def read_image(path: Path, place: str, expected: Size | None = None) -> Image:
    """(H, W, 3) uint8 RGB; turned as its orientation says, alpha composited over white (model.md section 1), grey
    repeated. ICC profiles are not applied: wide-gamut colours are taken as if they were sRGB.

    place: the frame, for messages, e.g. ``redkitchen/seq-01 frame 12``. expected: (width, height) of the sequence.
    Raises DataError for a missing, damaged or cut off file, another size, several pictures in one file, and for what
    is not 8 bits a channel. Of an MPO or HEIF file the main picture is read.
    """
    with _picture(path, place) as (picture, orientation):
        if picture.format in ("JPEG", "MPO"):
            _refuse_zeroed_jpeg(path, place)
        announced = _upright_size(picture, orientation)
        picture.load()
        # Pillow turns a TIFF itself while it loads.
        turn = None if isinstance(picture, TiffImageFile) else _TURNS.get(orientation)
        rgb = _over_white(picture if turn is None else picture.transpose(turn))
        if rgb.size != announced:
            raise DataError(
                f"{place}: image {path} is damaged: its header says {announced[0]}x{announced[1]} pixels, found"
                f" {rgb.size[0]}x{rgb.size[1]}; copy or download it again"
            )
        if expected is not None and rgb.size != expected:
            raise DataError(
                f"{place}: image {path}: expected {expected[0]}x{expected[1]} pixels as the first frame, found"
                f" {rgb.size[0]}x{rgb.size[1]}; one sequence has one size"
            )
        return np.array(rgb)


def _over_white(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        white = PillowImage.new("RGBA", coloured.size, (255, 255, 255, 255))
        return PillowImage.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def read_mask(path: Path, what: str, size: Size) -> NDArray[np.uint8]:
    """(H, W) uint8 of a mask, brought to ``size`` (width, height) by the nearest pixel.

    Raises DataError, which begins with ``what``, for a file that is no image, or of another shape: sides in another
    proportion.
    """
    try:
        with open_file(path) as stream, PillowImage.open(stream) as picture:
            mask = picture.convert("L")
    except UnidentifiedImageError:  # which quotes an open file rather than a name
        raise DataError(f"{what} {path} cannot be read: expected an image, found a file of another kind") from None
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise DataError(f"{what} {path} cannot be read: {reason(error)}") from error
    width, height = size
    # One pixel of rounding is no other shape.
    if abs(mask.width * height - mask.height * width) > max(mask.height + width, mask.width + height):
        raise DataError(
            f"{what} {path}: expected the shape of the image as the method sees it, {width}x{height}, found"
            f" {mask.width}x{mask.height}"
        )
    return np.asarray(mask.resize(size, PillowImage.Resampling.NEAREST))
