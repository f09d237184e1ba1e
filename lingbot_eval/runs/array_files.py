"""Arrays of a unit, read back: whatever is wrong with the file is one line that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.arrays import read_npz

Made = TypeVar("Made")


def load_arrays(path: Path, names: Iterable[str], what: str, make: Callable[[dict[str, NDArray[Any]]], Made]) -> Made:
    """What ``make`` makes of the named arrays; it raises ValueError for arrays that are not what they should be.

    Raises StoreError naming the file, and ``what`` it should hold, when it is damaged or something else.
    """
    try:
        return make(read_npz(path, names))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"expected the {what} of a unit in {path}, found a damaged file ({reason(error)}); run that scene again"
        ) from error
