"""What a half-done unit has gathered, as plain values and arrays, and put back into objects that were made anew.

Tensors go as their bytes, one at a time, and come back as functions that read them: a cache has gigabytes.

A file names no class: objects are made as ever, from their settings, and what others of their kind had gathered is put
into them. What is no gathered value (settings, functions, open files, paths) stays as the new object has it.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from array import array
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

Contents = list[Callable[[], NDArray[Any]]]
"""Arrays, each made when it is to be written."""

_NOTHING = object()
_PACKAGE = __name__.partition(".")[0]


def taken(value: Any, contents: Contents, kinds: Mapping[str, type]) -> Any:
    """``value`` in plain values as JSON has them; its arrays go to ``contents``, their numbers stand in their place.

    kinds: classes whose objects may stand in lists, where a new owner has none of them yet, by a name.

    Raises:
        TypeError: A container holds what cannot be put back.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, Enum):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.ndarray):
        contents.append(lambda: value)
        return {"array": len(contents) - 1}
    if _is_tensor(value):
        contents.append(lambda: value.contiguous().flatten().view(_torch().uint8).cpu().numpy())
        return {"tensor": len(contents) - 1}
    if isinstance(value, array | bytearray | bytes):
        contents.append(lambda: np.frombuffer(value, np.uint8))
        return {"bytes": len(contents) - 1}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_held(inner, contents, kinds) for inner in value]}
    if isinstance(value, dict):
        return {"pairs": [[key, _held(inner, contents, kinds)] for key, inner in value.items()]}
    for name, kind in kinds.items():
        if type(value) is kind:
            return {"made": name, "of": _attributes(value, contents, kinds)}
    return {"of": _attributes(value, contents, kinds)} if _gathers(value) else _NOTHING


def _torch() -> Any:
    """PyTorch, which is slow to load; None where nobody has loaded it."""
    return sys.modules.get("torch")


def _is_tensor(value: Any) -> bool:
    return _torch() is not None and isinstance(value, _torch().Tensor)


def _held(value: Any, contents: Contents, kinds: Mapping[str, type]) -> Any:
    """As `taken`, of what a container holds: it is gathered, so it must be of a kind that can be put back."""
    found = taken(value, contents, kinds)
    if found is _NOTHING:
        raise TypeError(f"expected gathered values, found {type(value).__name__}")
    return found


def _gathers(value: Any) -> bool:
    """Whether an object of ours changes: settings and other frozen records do not."""
    ours = type(value).__module__.partition(".")[0] == _PACKAGE
    frozen = dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[union-attr]
    return ours and not frozen and not isinstance(value, BaseModel | Enum | Path | type)


def _attributes(value: Any, contents: Contents, kinds: Mapping[str, type]) -> dict[str, Any]:
    found = {name: taken(inner, contents, kinds) for name, inner in vars(value).items()}
    return {name: inner for name, inner in found.items() if inner is not _NOTHING}


def put_back(tree: Any, into: Any, content: Callable[[int], NDArray[Any]], kinds: Mapping[str, type]) -> Any:
    """The value that ``tree`` was taken from; objects are those of ``into``, the same value of a new owner.

    Raises:
        KeyError, TypeError, ValueError: the tree is of another owner.
    """

    def again(inner: Any, place: Any) -> Any:
        return put_back(inner, place, content, kinds)

    if not isinstance(tree, dict):
        return tree
    if "float" in tree:
        return float(tree["float"])
    if "array" in tree:
        return content(tree["array"])
    if "tensor" in tree:
        return lambda: _torch().from_numpy(content(tree["tensor"]))
    if "bytes" in tree:
        read = content(tree["bytes"]).tobytes()
        if isinstance(into, array):
            return array(into.typecode, read)
        return bytearray(read) if isinstance(into, bytearray) else read
    if "list" in tree or "tuple" in tree:
        items = tree["list"] if "list" in tree else tree["tuple"]
        there = list(into) if isinstance(into, list | tuple) and len(into) == len(items) else [None] * len(items)
        found = [again(inner, place) for inner, place in zip(items, there, strict=True)]
        return found if "list" in tree else tuple(found)
    if "pairs" in tree:
        mapping = into if isinstance(into, dict) else {}
        kept = {key: again(inner, mapping.get(key)) for key, inner in tree["pairs"]}
        mapping.update(kept)
        return mapping
    if "made" in tree:
        into = object.__new__(kinds[tree["made"]])
    if into is None:
        raise TypeError("expected an object to put gathered values into, found none")
    held = vars(into)
    for name, inner in tree["of"].items():
        held[name] = again(inner, held.get(name))
    return into
