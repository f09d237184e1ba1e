"""The run directory: where results go, unit by unit, and where reports read them from (layout: runs/records.py)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.atomic import remove_abandoned
from lingbot_eval.files.opening import open_file
from lingbot_eval.files.text import parse_number, parse_whole
from lingbot_eval.runs.disk import (
    PARTIAL_PREFIX,
    UNITS,
    component,
    damage,
    discard,
    folders_below,
    lost_record,
    missing_folders,
    refuse_links,
    remove_empty,
    remove_partials,
    unit_directory,
    writing,
)
from lingbot_eval.runs.drift_file import DRIFT_FILE, load_drift
from lingbot_eval.runs.lock import LOCK_FILE, directory_lock
from lingbot_eval.runs.panels import DepthPanels, load_panels
from lingbot_eval.runs.records import FRAME_COLUMNS, RunRecord, UnitRecord
from lingbot_eval.runs.serialisation import read_record, write_record
from lingbot_eval.runs.unit_writer import FRAMES_FILE, PANELS_FILE, RESULT_FILE, UnitWriter

if TYPE_CHECKING:
    import pandas as pd

    from lingbot_eval.types import DriftSeries

RUN_FILE = "run.json"
REPORT = "report"  # where a run's report goes unless it is told otherwise


Names = tuple[str, str, str]  # dataset, scene, method


@dataclass(frozen=True)
class StoredUnit:
    """A unit that is there, whole and of this run: its folder and its record."""

    folder: Path
    record: UnitRecord

    def file(self, name: str) -> Path | None:
        """Where a file of the unit is; None when the unit has none of that name, whatever lies in its folder."""
        path = self.folder / name
        # The first records of schema 1 did not list their files.
        listed = name in self.record.files or (not self.record.files and path.exists())
        return path if listed else None

    def is_result_of(self, input_fingerprint: str) -> bool:
        """Whether it went well and was made from this very input; if not it is to be run again."""
        return self.record.status == "ok" and self.record.input_fingerprint == input_fingerprint


@dataclass(frozen=True)
class LeftOutUnit:
    """A unit that is not used: damaged, of another run, or not planned. reason: one line that names the file."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class StoredUnits:
    """Everything a run directory holds.

    units: whole ones of this run, in the order of the plan. left_out: the others that are there.
    missing: planned (dataset, scene, method) without a usable result, those left out included.
    unchecked: why the units could not be checked for damage; None for those that were.
    """

    units: tuple[StoredUnit, ...]
    left_out: tuple[LeftOutUnit, ...]
    missing: tuple[Names, ...]
    unchecked: str | None = None


class RunStore:
    """One run directory. Writers hold :meth:`lock` around everything they write; readers need nothing.

    lost_record: a line where the record was gone though units were there when it was made or found again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: tuple[Path, ...] = ()
        self.lost_record: str | None = None

    @classmethod
    def create(cls, root: Path, record: RunRecord) -> RunStore:
        """The run directory of ``record`` under ``root`` (see :func:`run_directory`), made or found again.

        An existing record is left as it is: call ``write_run`` under the lock to renew it. Raises StoreError when
        the directory cannot be made or holds another run.
        """
        store = cls(run_directory(root, record))
        store._made = missing_folders(store.path.parent)
        with writing(store.path):
            store.path.mkdir(parents=True, exist_ok=True)
        store.lost_record = lost_record(store._run_file, UNITS)
        if not store._run_file.exists():
            with directory_lock(store.path):
                # Another process may have been first.
                if not store._run_file.exists():
                    store._begin(record)
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
        """Be the only writer for the block; removes what killed writers left, reports among them.

        Raises StoreError naming the process that holds the lock, when the directory cannot be written, or when a link
        stands where results go.
        """
        with directory_lock(self.path):
            remove_partials(self.path)
            for folder in (self.path, self.path / REPORT):
                refuse_links(self.path, folder)
                remove_abandoned(folder)
            yield

    def _begin(self, record: RunRecord) -> None:
        """The first record; where the disk refuses it nothing is left behind."""
        try:
            self.write_run(record)
        except StoreError:
            self.discard()
            raise

    def discard(self) -> bool:
        """Remove the directory if it holds no result, and the folders above that were made for it.

        Only for the holder of the lock. Returns whether it is gone.
        """
        gone = discard(self.path, "units", RUN_FILE, LOCK_FILE)
        if gone:
            remove_empty(self._made)
        return gone

    def write_run(self, record: RunRecord) -> None:
        """Write or replace ``run.json``. Raises StoreError."""
        write_record(self._run_file, record)

    def read_run(self) -> RunRecord:
        """The run's record. Raises StoreError naming the file when it is damaged."""
        return read_record(self._run_file, RunRecord)

    def find_unit(self, dataset: str, scene: str, method: str) -> StoredUnit | LeftOutUnit | None:
        """A planned unit, why it is left out and to be run again, or None when there is nothing of it."""
        folder = unit_directory(self.path, dataset, scene, method)
        if not (folder.exists() or folder.is_symlink()):
            return None
        try:
            return self.read_unit(dataset, scene, method)
        except StoreError as error:
            return LeftOutUnit(folder, str(error))

    @contextmanager
    def unit_writer(self, dataset: str, scene: str, method: str) -> Iterator[UnitWriter]:
        """A writer for one unit; only its ``finish`` makes anything visible, an exception leaves nothing.

        Raises StoreError when the disk refuses or a link stands in a folder's place, RuntimeError when the block ends
        without ``finish``.
        """
        folder = unit_directory(self.path, dataset, scene, method)
        refuse_links(self.path, folder)
        writer = UnitWriter(folder, (dataset, scene, method), self.read_run().key)
        try:
            yield writer
            if not writer.finished:
                raise RuntimeError(f"unit {dataset}/{scene}/{method} was written but never finished")
        finally:
            if not writer.finished:
                writer.discard()

    def read_unit(self, dataset: str, scene: str, method: str) -> StoredUnit:
        """One unit. Raises StoreError when it is not there, damaged, of another run or not planned."""
        run = self.read_run()
        return _read_folder(self.path, unit_directory(self.path, dataset, scene, method), run, _planned(run))

    def read_units(self) -> StoredUnits:
        """All units, each file held against its record. Raises StoreError when ``run.json`` itself is damaged.

        What is damaged, not planned or of another run is listed, not raised.
        """
        run = self.read_run()
        plan = dict.fromkeys(_planned(run))
        rank = {names: position for position, names in enumerate(plan)}
        found: list[StoredUnit] = []
        left_out: list[LeftOutUnit] = []
        for folder in folders_below(self.path / UNITS, 3):
            if folder.name.startswith(PARTIAL_PREFIX):
                continue
            try:
                found.append(_read_folder(self.path, folder, run, plan))
            except StoreError as error:
                left_out.append(LeftOutUnit(folder, str(error)))
        found.sort(key=lambda unit: rank[_names(unit.record)])
        there = {_names(unit.record) for unit in found}
        missing = tuple(names for names in plan if names not in there)
        unchecked = "it was stored by an older version, without checksums" if run.schema_version < 2 else None
        return StoredUnits(tuple(found), tuple(left_out), missing, unchecked)

    def read_frames(self, unit: StoredUnit) -> pd.DataFrame:
        """``frames.csv`` as a table with the columns FRAME_COLUMNS: ``index`` int64, ``frame_type`` text, the rest
        float64 with NaN for empty cells. Raises StoreError naming the file when it is missing or damaged."""
        path = unit.folder / FRAMES_FILE
        try:
            with (
                open_file(path, links=False) as content,
                io.TextIOWrapper(content, encoding="utf-8", newline="") as stream,
            ):
                return _frame_table(csv.reader(stream, strict=True))
        except (OSError, ValueError, OverflowError, csv.Error) as error:
            raise StoreError(
                f"expected the frame table of a unit in {path}, found a damaged one "
                f"({reason(error)}); run that scene again"
            ) from error

    def read_panels(self, unit: StoredUnit) -> DepthPanels | None:
        """The frames kept for the depth panels; None when the unit kept none. Raises StoreError when damaged."""
        path = unit.file(PANELS_FILE)
        return None if path is None else load_panels(path)

    def read_drift(self, unit: StoredUnit) -> DriftSeries | None:
        """How the unit's error grows; None when the unit has no such series. Raises StoreError when damaged."""
        path = unit.file(DRIFT_FILE)
        return None if path is None else load_drift(path)


def run_directory(root: Path, record: RunRecord) -> Path:
    """``ROOT/NAME-KEY``: the run's name, encoded as one component, and the first 12 digits of its key."""
    return root / f"{component(record.name)}-{component(record.key[:12])}"


def find_runs(root: Path) -> tuple[Path, ...]:
    """Run directories directly under ``root``, by name; none when there is no such folder."""
    return tuple(sorted(file.parent for file in root.glob(f"*/{RUN_FILE}")))


def _read_folder(run_folder: Path, folder: Path, run: RunRecord, plan: Container[Names]) -> StoredUnit:
    """A unit's folder, checked. Raises StoreError that names the file and says what is wrong with it."""
    refuse_links(run_folder, folder)
    file = folder / RESULT_FILE
    record = read_record(file, UnitRecord)
    names = _names(record)
    if unit_directory(run_folder, *names) != folder:
        raise StoreError(
            f"{file}: expected the record of this unit, found that of {'/'.join(names)}; "
            "remove the folder and run again"
        )
    if names not in plan:
        raise StoreError(f"{folder}: {'/'.join(names)} is not in the plan of this run and is left out; remove it")
    known = record.schema_version > 1
    if record.schema_version < run.schema_version or (known and record.run_key != run.key):
        whose = f"run {record.run_key[:12]}" if record.run_key else "an older version"
        raise StoreError(f"{file}: expected a unit of run {run.key[:12]}, found one of {whose}; run the scene again")
    if known and any(written.sha256 is None for written in record.files.values()):
        raise StoreError(f"{file}: expected the SHA-256 of each file of the unit, found none; run the scene again")
    damaged = damage(folder, record.files)
    if damaged:
        raise StoreError(f"{'; '.join(damaged)}; run the scene again")
    return StoredUnit(folder, record)


def _planned(run: RunRecord) -> list[Names]:
    return [(dataset, scene, method) for dataset, scene, method in run.units]


def _names(record: UnitRecord) -> Names:
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
