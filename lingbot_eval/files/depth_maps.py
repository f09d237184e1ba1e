"""Depth maps, one file a frame: those of datasets in their many kinds, and those that methods save."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.arrays import read_npy
from lingbot_eval.files.images import MAX_PIXELS, Size, checked_file, opened_image
from lingbot_eval.types import DepthMap

DepthReader = Callable[[Path, str, Size | None], DepthMap]
"""Reads (H, W) float32 metres of a file; the frame, for messages; (width, height) of its image, None for any size."""


def read_depth_map(path: Path, units_per_metre: float) -> DepthMap:
    """(H, W) float32 depth of an ``.npy`` file (as it is) or a 16-bit ``.png`` (divided by ``units_per_metre``).

    Raises DataError, naming the file, for anything else. Values that are no depth (0, NaN) are left to the scorer.
    """
    if path.suffix == ".npy":
        return _read_npy(path)
    return _read_png(path, "depth map").astype(np.float32) / np.float32(units_per_metre)


def _read_npy(path: Path) -> DepthMap:
    try:
        stored = read_npy(path, 8 * MAX_PIXELS)
    except (OSError, ValueError) as error:
        raise DataError(f"depth map {path} cannot be read as a NumPy array: {reason(error)}") from error
    if stored.ndim != 2 or stored.dtype.kind != "f" or stored.size > MAX_PIXELS:
        raise DataError(
            f"depth map {path}: expected a (height, width) array of floats, found {stored.dtype} of shape"
            f" {stored.shape}"
        )
    with np.errstate(over="ignore"):
        return np.array(stored, dtype=np.float32)


def _read_png(path: Path, what: str, expected: Size | None = None) -> NDArray[np.uint16]:
    """(H, W) of a 16-bit grey PNG, of ``expected`` (width, height). Raises DataError, which begins with ``what``."""
    with opened_image(path, what) as (picture, head):
        header = (head[24], head[25]) if picture.format == "PNG" else None
        if header != (16, 0):
            found = f"{header[0]}-bit PNG of colour type {header[1]}" if header else f"{picture.format} {picture.mode}"
            raise DataError(f"{what} {path}: expected a 16-bit grey PNG, found {found}")
        # Before its pixels are decoded: a map of another kind may be a thousand times its image.
        checked_size(picture.size, expected, f"{what} {path}")
        return np.asarray(picture).astype(np.uint16)


def png_depth(units_a_metre: float, nearest: float = 0.0, farthest: float = math.inf) -> DepthReader:
    """Reader of 16-bit grey PNG depth as float32 metres: ``units_a_metre`` of it are one.

    0 and 65535, which mean "no measurement", and values outside ``nearest`` … ``farthest`` metres become 0.
    The reader raises DataError for a missing, damaged or cut off file, another size than its image's, and anything but
    16-bit grey.
    """

    def read(path: Path, place: str, expected: Size | None) -> DepthMap:
        raw = _read_png(path, f"{place}: depth map", expected)
        depth = raw.astype(np.float32) / np.float32(units_a_metre)
        depth[(raw == np.iinfo(np.uint16).max) | (depth < nearest) | (depth > farthest)] = 0.0
        return depth

    return read


@contextmanager
def opened_depth(path: Path, place: str) -> Iterator[PillowImage.Image]:
    """A depth map that is an image, its header read. Raises DataError."""
    with opened_image(path, f"{place}: depth map") as (picture, _):
        yield picture


def check_depth_file(path: Path, place: str) -> None:
    """Raises DataError for a depth map that is missing, empty, or an image that is damaged by its header or cut off."""
    checked_file(path, f"{place}: depth map")
    if path.suffix.lower() in (".png", ".tif", ".tiff"):
        with opened_image(path, f"{place}: depth map"):
            pass


MILLIMETRES = png_depth(1000.0)


def raw_float_depth(path: Path, place: str, expected: Size | None) -> DepthMap:
    """(H, W) float32 metres of a file of nothing but little-endian float32 values, row by row (ETH3D names it .JPG).

    Values that are not finite or not positive mean "no measurement" and become 0. Raises DataError when the file is
    missing or has another number of values than ``expected`` (width, height).
    """
    assert expected is not None, "a file of nothing but values has no size"
    width, height = expected
    checked_file(path, f"{place}: depth map")
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
    return without_invalid(depth)


def array_depth(path: Path, place: str, expected: Size | None) -> DepthMap:
    """(H, W) float32 metres of an ``.npy`` file; what is not finite or not positive becomes 0. Raises DataError."""
    checked_file(path, f"{place}: depth map")
    depth = read_depth_map(path, 1.0)
    checked_size((depth.shape[1], depth.shape[0]), expected, f"{place}: depth map {path}")
    return without_invalid(depth)


def checked_size(size: Size, expected: Size | None, what: str) -> None:
    """Raises DataError, which begins with ``what``, where a depth map is of another size than its image."""
    if expected is not None and size != expected:
        raise DataError(
            f"{what}: expected {expected[0]}x{expected[1]} pixels as the image, found {size[0]}x{size[1]}; does it"
            " belong to this sequence?"
        )


def without_invalid(depth: DepthMap) -> DepthMap:
    """The depth map itself, with 0 for what is not finite or not positive."""
    depth[~(np.isfinite(depth) & (depth > 0))] = 0.0
    return depth
