"""The saved state of a unit that is not done yet: written aside every few minutes, gone when the unit is done.

Layout, below the run directory::

    states/DATASET/SCENE/METHOD/
        state.json        SavedRecord: how far it was, and the values of method, scores and stream
        content-0.npy …   their arrays: caches as bytes, poses, samples, sums
        files/…           what the unit had written so far: its table, kept depth

A state is one of its run and of its input, whole and as it was written, or it is not used.

What is gathered is taken as plain values and arrays, and put back into objects that were made anew. Tensors go as their
bytes, one at a time, and come back as functions that read them: a cache has gigabytes. A file names no class: objects
are made as ever, from their settings, and what others of their kind had gathered is put into them. What is no gathered
value (settings, functions, open files, paths) stays as the new object has it.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.atomic import writing
from lingbot_eval.stored.disk import PARTIAL_PREFIX, damage, move_into_place, written_files
from lingbot_eval.stored.records import (
    SCHEMA_VERSION,
    Count,
    Names,
    StoredFile,
    StoredRecord,
    read_record,
    write_record,
)

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


STATES = "states"
STATE_FILE = "state.json"
SAVE_EVERY_S = 600.0
"""Seconds of streaming between two states: shorter units have none, and writing ten gigabytes is a hundredth of it."""
_FILES = "files-"


class SavedRecord(StoredRecord):
    """How far a unit was.

    frames: that have their predictions, which is how many were given. seconds: of the stream so far. values: what
    `lingbot_eval.stored.saved` and the method make of it; input: fingerprint of what the unit is made from.
    """

    schema_version: int = SCHEMA_VERSION
    run_key: str
    names: list[str]
    input: str
    frames: Count
    seconds: float
    values: dict[str, Any]
    files: dict[str, StoredFile]


class SavedState:
    """The place of one unit's state.

    Args:
        folder: where it lies.
        run_key: of the run.
        names: of the unit.
        input: fingerprint of what the unit is made from.
    """

    def __init__(self, folder: Path, run_key: str, names: Names, input: str) -> None:
        self._folder = folder
        self._run_key = run_key
        self._names = list(names)
        self._input = input
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= SAVE_EVERY_S

    def save(
        self,
        frames: int,
        seconds: float,
        values: dict[str, Any],
        contents: Iterable[Callable[[], NDArray[Any]]],
        files: Iterable[Path],
    ) -> None:
        """Write a state in the last one's place, whole or not at all. Raises StoreError."""
        partial = self._folder.with_name(f"{PARTIAL_PREFIX}{self._folder.name}")
        with writing(self._folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for number, content in enumerate(contents):
                np.save(partial / f"content-{number}.npy", content(), allow_pickle=False)
            for file in files:
                shutil.copyfile(file, partial / f"{_FILES}{file.name}")
            record = SavedRecord(
                run_key=self._run_key,
                names=self._names,
                input=self._input,
                frames=frames,
                seconds=seconds,
                values=values,
                files=written_files(partial),
            )
            write_record(partial / STATE_FILE, record, indent=2)
            move_into_place(partial, self._folder)
        self._last = time.monotonic()

    def load(self) -> SavedRecord | None:
        """The state, held against its hashes; None where there is none of this run and input. Raises StoreError."""
        if not (self._folder / STATE_FILE).is_file():
            return None
        record = read_record(self._folder / STATE_FILE, SavedRecord)
        if (record.run_key, record.names, record.input) != (self._run_key, self._names, self._input):
            return None
        damaged = damage(self._folder, record.files)
        if damaged:
            raise StoreError(damaged[0])
        return record

    def content(self, number: int) -> NDArray[Any]:
        """An array of the state, by its number. Raises StoreError."""
        path = self._folder / f"content-{number}.npy"
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"{path} cannot be read: {reason(error)}") from error

    def files(self, record: SavedRecord) -> dict[str, Path]:
        """What the unit had written, by its name there."""
        return {name.removeprefix(_FILES): self._folder / name for name in record.files if name.startswith(_FILES)}

    def remove(self) -> None:
        """The unit is done, or begins anew. Best effort: what stays is of no other unit."""
        shutil.rmtree(self._folder, ignore_errors=True)
