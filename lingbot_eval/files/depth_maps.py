"""Depth maps saved one file a frame: NumPy arrays and 16-bit PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.arrays import read_npy
from lingbot_eval.files.opening import open_file
from lingbot_eval.types import DepthMap

MAX_PIXELS = 1 << 26  # far above any camera here; a file that claims more is refused before memory is taken


def read_depth_map(path: Path, units_per_metre: float) -> DepthMap:
    """(H, W) float32 depth of an ``.npy`` file (as it is) or a 16-bit ``.png`` (divided by ``units_per_metre``).

    Raises DataError, naming the file, for anything else. Values that are no depth (0, NaN) are left to the scorer.
    """
    if path.suffix == ".npy":
        return _read_npy(path)
    return _read_png(path).astype(np.float32) / np.float32(units_per_metre)


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


def _read_png(path: Path) -> NDArray[np.uint16]:
    from PIL import Image

    try:
        with open_file(path) as stream, Image.open(stream, formats=["PNG"]) as image:
            if image.mode not in ("I;16", "I;16B", "I") or image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"depth map {path}: expected one channel of 16 bits, found mode {image.mode}"
                    f" at {image.width}x{image.height}"
                )
            return np.asarray(image).astype(np.uint16)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"depth map {path} cannot be read as a PNG: {reason(error)}") from error
