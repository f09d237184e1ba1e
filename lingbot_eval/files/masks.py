"""Masks: images of one value a pixel, which tell what of an image counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from lingbot_eval.errors import DataError, reason
from lingbot_eval.files.opening import open_file


def read_mask(path: Path, what: str, size: tuple[int, int]) -> NDArray[np.uint8]:
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
