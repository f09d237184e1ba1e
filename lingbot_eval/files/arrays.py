"""NumPy's files read as hostile files: no pickles, nothing allocated that the file does not hold."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.reading import DAMAGE, open_file

Made = TypeVar("Made")

LARGEST = 1 << 30
"""Bytes after decompression: four full HD frames are 0.1 GiB, the drift of ten million frames 0.4 GB."""
_MOST_NAMES = 1000


def read_npz(path: Path, names: Iterable[str] | None = None, largest: int = LARGEST) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file.

    Args:
        path: The file.
        names: Those that are wanted; None for all.
        largest: Bytes that all of the file may have when unpacked.

    Raises:
        OSError: When the file cannot be opened; ``strerror`` is the reason.
        ValueError: When it is damaged or something else, in words that fit into one line.
    """
    with open_file(path) as stream:
        return npz_arrays(stream, names, largest)


def load_arrays(
    path: Path, names: Iterable[str] | None, what: str, make: Callable[[dict[str, NDArray[Any]]], Made]
) -> Made:
    """What ``make`` makes of the named arrays of a stored ``.npz``.

    Args:
        path: The file.
        names: The arrays; None for all.
        what: The file should hold, in words.
        make: Raises ValueError for arrays that are not what they should be.

    Raises:
        StoreError: Names the file, and what it should hold, when it is damaged or something else.
    """
    try:
        return make(read_npz(path, names))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"expected the {what} of a unit in {path}, found a damaged file ({reason(error)}); run that scene again"
        ) from error


def npz_arrays(stream: BinaryIO, names: Iterable[str] | None = None, largest: int = LARGEST) -> dict[str, NDArray[Any]]:
    """As `read_npz`, of an opened file or of bytes in memory."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            size = sum(entry.file_size for entry in entries.values())
            if size > largest or len(entries) > _MOST_NAMES:
                raise ValueError(f"{len(entries)} arrays of {size} bytes when unpacked")
            wanted = list(entries if names is None else names)
            absent = [name for name in wanted if name not in entries]
            if absent:
                raise ValueError(f"no array {', '.join(absent)}")
            return {name: _member(archive, entries[name]) for name in wanted}
    except DAMAGE as error:
        raise ValueError(reason(error)) from error


def read_npy(path: Path, largest: int = LARGEST) -> NDArray[Any]:
    """The array of an ``.npy`` file of at most ``largest`` bytes. Raises as `read_npz`."""
    with open_file(path) as stream:
        return npy_array(stream, largest)


def npy_array(stream: BinaryIO, largest: int = LARGEST) -> NDArray[Any]:
    """As `read_npy`, of an opened file or of bytes in memory."""
    try:
        size = stream.seek(0, 2)
        stream.seek(0)
        return _array(stream, size, largest)
    except DAMAGE as error:
        raise ValueError(reason(error)) from error


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as stream:
        return _array(cast(BinaryIO, stream), entry.file_size, entry.file_size)


def _array(stream: BinaryIO, size: int, largest: int) -> NDArray[Any]:
    """The array in ``stream``, whose bytes are ``size`` by the file system or the archive's directory."""
    version = np.lib.format.read_magic(stream)
    with warnings.catch_warnings():
        # Headers of Python 2, and types that NumPy has renamed: read all the same.
        warnings.simplefilter("ignore")
        if version == (1, 0):
            shape, by_column, kind = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, by_column, kind = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"NumPy format {version[0]}.{version[1]}")
    if kind.hasobject or kind.names is not None or any(side < 0 for side in shape):
        raise ValueError(f"{'objects' if kind.hasobject else kind} of shape {shape}, expected plain numbers")
    claimed, there = math.prod(shape) * kind.itemsize, size - stream.tell()
    if claimed != there or claimed > largest:
        raise ValueError(f"{kind} of shape {shape} has {claimed} bytes, the file {there} of at most {largest}")
    # A byte more: an archive compares its checksum when the end is met.
    content = stream.read(claimed + 1)
    if len(content) != claimed:
        raise ValueError(f"{claimed} bytes expected, {len(content)} there")
    return np.frombuffer(bytearray(content), kind).reshape(shape, order="F" if by_column else "C")
