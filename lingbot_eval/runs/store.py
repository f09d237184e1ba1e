"""The run directory: where results go, unit by unit, and where reports read them from (layout: runs/records.py)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.formats.opening import open_file
from lingbot_eval.formats.text import parse_number, parse_whole
from lingbot_eval.runs.disk import PARTIAL_PREFIX, component, discard, remove_partials, unit_directory, writing
from lingbot_eval.runs.lock import LOCK_FILE, directory_lock
from lingbot_eval.runs.panels import DepthPanels, load_panels
from lingbot_eval.runs.records import FRAME_COLUMNS, RunRecord, UnitRecord
from lingbot_eval.runs.serialisation import read_record, write_record
from lingbot_eval.runs.unit_writer import FRAMES_FILE, PANELS_FILE, RESULT_FILE, UnitWriter

if TYPE_CHECKING:
    import pandas as pd

RUN_FILE = "run.json"


@dataclass(frozen=True)
class StoredUnit:
    """A unit that is there and whole: its folder and its record."""

    folder: Path
    record: UnitRecord


@dataclass(frozen=True)
class DamagedUnit:
    """A unit whose record cannot be read; reason is one line that names the file."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class StoredUnits:
    """Everything a run directory holds.

    units: whole ones, in the order of the plan. damaged: unreadable ones.
    missing: planned (dataset, scene, method) without a readable result, damaged ones included.
    """

    units: tuple[StoredUnit, ...]
    damaged: tuple[DamagedUnit, ...]
    missing: tuple[tuple[str, str, str], ...]


class RunStore:
    """One run directory. Writers hold :meth:`lock` around everything they write; readers need nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root_made = False

    @classmethod
    def create(cls, root: Path, record: RunRecord) -> RunStore:
        """The run directory of ``record`` under ``root`` (see :func:`run_directory`), made or found again.

        An existing record is left as it is: call ``write_run`` under the lock to renew it. Raises StoreError when
        the directory cannot be made or holds another run.
        """
        store = cls(run_directory(root, record))
        store._root_made = not root.exists()
        with writing(store.path):
            store.path.mkdir(parents=True, exist_ok=True)
        if not store._run_file.exists():
            store.write_run(record)
        found = store.read_run()
        if found.key != record.key:
            raise StoreError(
                f"{store.path}: expected run {record.key}, found run {found.key}; choose another folder for the runs"
            )
        return store

    @classmethod
    def open(cls, path: Path) -> RunStore:
        """An existing run directory, for reading. Raises StoreError when it is none."""
        if not (path / RUN_FILE).is_file():
            raise StoreError(f"expected a run directory with {RUN_FILE}, found none at {path}; see lingbot-eval run")
        return cls(path)

    @property
    def _run_file(self) -> Path:
        return self.path / RUN_FILE

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer for the block; removes what interrupted writers left.

        Raises StoreError naming the process that holds the lock, or when the directory cannot be written.
        """
        with directory_lock(self.path):
            remove_partials(self.path)
            yield

    def discard(self) -> bool:
        """Remove the directory if it holds no result, and the folder of runs if it was made for it.

        Only for the holder of the lock. Returns whether it is gone.
        """
        gone = discard(self.path, "units", RUN_FILE, LOCK_FILE)
        if gone and self._root_made:
            with suppress(OSError):
                self.path.parent.rmdir()
        return gone

    def write_run(self, record: RunRecord) -> None:
        """Write or replace ``run.json``. Raises StoreError."""
        write_record(self._run_file, record)

    def read_run(self) -> RunRecord:
        """The run's record. Raises StoreError naming the file when it is damaged."""
        return read_record(self._run_file, RunRecord)

    def has_unit(self, dataset: str, scene: str, method: str, input_fingerprint: str) -> bool:
        """Whether this unit is done, went well, and was made from this very input.

        A failed, damaged or changed one is not, nor one whose files are gone or cut off: it is to be run again.
        """
        try:
            unit = self.read_unit(dataset, scene, method)
        except StoreError:
            return False
        record = unit.record
        return record.status == "ok" and record.input_fingerprint == input_fingerprint and _has_files(unit)

    @contextmanager
    def unit_writer(self, dataset: str, scene: str, method: str) -> Iterator[UnitWriter]:
        """A writer for one unit; only its ``finish`` makes anything visible, an exception leaves nothing.

        Raises StoreError when the disk refuses, RuntimeError when the block ends without ``finish``.
        """
        writer = UnitWriter(unit_directory(self.path, dataset, scene, method), (dataset, scene, method))
        try:
            yield writer
            if not writer.finished:
                raise RuntimeError(f"unit {dataset}/{scene}/{method} was written but never finished")
        finally:
            if not writer.finished:
                writer.discard()

    def read_unit(self, dataset: str, scene: str, method: str) -> StoredUnit:
        """One unit. Raises StoreError when it is not there or damaged."""
        return self._read_folder(unit_directory(self.path, dataset, scene, method))

    def read_units(self) -> StoredUnits:
        """All units; a damaged one is listed, not raised. Raises StoreError when ``run.json`` itself is damaged."""
        plan = [_planned(names, self._run_file) for names in self.read_run().units]
        rank = {names: position for position, names in enumerate(plan)}
        found: list[StoredUnit] = []
        damaged: list[DamagedUnit] = []
        for folder in sorted((self.path / "units").glob("*/*/*")):
            if folder.name.startswith(PARTIAL_PREFIX) or not folder.is_dir():
                continue
            try:
                found.append(self._read_folder(folder))
            except StoreError as error:
                damaged.append(DamagedUnit(folder, str(error)))
        found.sort(key=lambda unit: rank.get(_names(unit.record), len(rank)))
        there = {_names(unit.record) for unit in found}
        missing = tuple(names for names in plan if names not in there)
        return StoredUnits(tuple(found), tuple(damaged), missing)

    def read_frames(self, unit: StoredUnit) -> pd.DataFrame:
        """``frames.csv`` as a table with the columns FRAME_COLUMNS: ``index`` int64, ``frame_type`` text, the rest
        float64 with NaN for empty cells. Raises StoreError naming the file when it is missing or damaged."""
        path = unit.folder / FRAMES_FILE
        try:
            with open_file(path) as content, io.TextIOWrapper(content, encoding="utf-8", newline="") as stream:
                return _frame_table(csv.reader(stream, strict=True))
        except (OSError, ValueError, OverflowError, csv.Error) as error:
            raise StoreError(
                f"expected the frame table of a unit in {path}, found a damaged one "
                f"({reason(error)}); run that scene again"
            ) from error

    def read_panels(self, unit: StoredUnit) -> DepthPanels | None:
        """The frames kept for the depth panels; None when the unit kept none. Raises StoreError when damaged."""
        path = unit.folder / PANELS_FILE
        return load_panels(path) if path.exists() else None

    def _read_folder(self, folder: Path) -> StoredUnit:
        record = read_record(folder / RESULT_FILE, UnitRecord)
        if unit_directory(self.path, *_names(record)) != folder:
            raise StoreError(
                f"{folder / RESULT_FILE}: expected the record of this unit, found that of "
                f"{'/'.join(_names(record))}; remove the folder and run again"
            )
        return StoredUnit(folder, record)


def run_directory(root: Path, record: RunRecord) -> Path:
    """``ROOT/NAME-KEY``: the run's name, encoded as one component, and the first 12 digits of its key."""
    return root / f"{component(record.name)}-{component(record.key[:12])}"


def find_runs(root: Path) -> tuple[Path, ...]:
    """Run directories directly under ``root``, by name; none when there is no such folder."""
    return tuple(sorted(file.parent for file in root.glob(f"*/{RUN_FILE}")))


def _has_files(unit: StoredUnit) -> bool:
    try:
        return all((unit.folder / name).stat().st_size == size for name, size in unit.record.files.items())
    except OSError:
        return False


def _names(record: UnitRecord) -> tuple[str, str, str]:
    return record.dataset, record.scene, record.method


def _frame_table(lines: Iterator[list[str]]) -> pd.DataFrame:
    """Not pandas.read_csv: it takes short and long lines in silence, and reads numbers a last digit off."""
    import pandas as pd

    header = next(lines, [])
    if header != list(FRAME_COLUMNS):
        raise ValueError(f"columns {header}")
    rows = list(lines)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(FRAME_COLUMNS):
            raise ValueError(f"line {number} has {len(row)} cells, not {len(FRAME_COLUMNS)}")
    columns: dict[str, Any] = {}
    for name, cells in zip(FRAME_COLUMNS, zip(*rows, strict=True) if rows else ((),) * len(header), strict=True):
        if name == "frame_type":
            columns[name] = np.array(cells, dtype=object)
        elif name == "index":
            columns[name] = np.array([parse_whole(cell) for cell in cells], dtype=np.int64)
        else:
            columns[name] = np.array([parse_number(cell) if cell else math.nan for cell in cells], dtype=np.float64)
    return pd.DataFrame(columns)


def _planned(names: list[str], file: Path) -> tuple[str, str, str]:
    if len(names) != 3:
        raise StoreError(f"{file}: expected units of dataset, scene and method, found {names}; remove it and run again")
    return names[0], names[1], names[2]
