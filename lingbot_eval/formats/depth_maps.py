"""Depth maps saved one file a frame: NumPy arrays and 16-bit PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import DataError
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
        # Mapped, so that the header is checked against the file's size before anything is allocated.
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"depth map {path} cannot be read as a NumPy array: {_first_line(error)}") from error
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind != "f" or stored.size > MAX_PIXELS:
        found = f"{stored.dtype} of shape {stored.shape}" if isinstance(stored, np.ndarray) else "an archive"
        raise DataError(f"depth map {path}: expected a (height, width) array of floats, found {found}")
    with np.errstate(over="ignore"):
        return np.array(stored, dtype=np.float32)


def _read_png(path: Path) -> NDArray[np.uint16]:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in ("I;16", "I;16B", "I") or image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"depth map {path}: expected one channel of 16 bits, found mode {image.mode}"
                    f" at {image.width}x{image.height}"
                )
            return np.asarray(image).astype(np.uint16)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"depth map {path} cannot be read as a PNG: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
