"""The saved state of a unit that is not done yet: written aside every few minutes, gone when the unit is done.

Layout, below the run directory::

    states/DATASET/SCENE/METHOD/
        state.json        SavedRecord: how far it was, and the values of method, scores and stream
        content-0.npy …   their arrays: caches as bytes, poses, samples, sums
        files/…           what the unit had written so far: its table, kept depth

A state is one of its run and of its input, whole and as it was written, or it is not used.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.runs.disk import PARTIAL_PREFIX, damage, move_into_place, writing, written_files
from lingbot_eval.runs.records import SCHEMA_VERSION, Count, Names, StoredFile, StoredRecord
from lingbot_eval.runs.serialisation import read_record, write_record

STATES = "states"
STATE_FILE = "state.json"
SAVE_EVERY_S = 600.0
"""Seconds of streaming between two states: shorter units have none, and writing ten gigabytes is a hundredth of it."""
_FILES = "files-"


class SavedRecord(StoredRecord):
    """How far a unit was.

    frames: that have their predictions, which is how many were given. seconds: of the stream so far. values: what
    `lingbot_eval.runs.snapshot` and the method make of it; input: fingerprint of what the unit is made from.
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
