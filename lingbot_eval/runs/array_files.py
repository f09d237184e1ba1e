"""Reads the ``.npz`` files of a unit as hostile files: no pickles, and no more than is sane when unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import StoreError

Made = TypeVar("Made")

LARGEST_FILE = 1 << 30
"""Bytes after decompression: four full HD frames are 0.1 GiB, the drift of ten million frames 0.4 GB."""


def load_arrays(path: Path, names: Iterable[str], what: str, make: Callable[[dict[str, NDArray[Any]]], Made]) -> Made:
    """What ``make`` makes of the named arrays; it raises ValueError for arrays that are not what they should be.

    Raises StoreError naming the file, and ``what`` it should hold, when it is damaged or something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST_FILE:
            raise ValueError(f"{size} bytes when unpacked")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in names}
        return make(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"expected the {what} of a unit in {path}, found a damaged file ({error}); run that scene again"
        ) from error
