"""The run directory: where results go, unit by unit, and where reports read them from (layout: runs/records.py)."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from lingbot_eval.errors import BusyError, StoreError, reason
from lingbot_eval.files.atomic import remove_abandoned
from lingbot_eval.files.reading import open_file, parse_number, parse_whole
from lingbot_eval.runs.claims import Claims, read_claims, remove_dead_claims
from lingbot_eval.runs.disk import (
    PARTIAL_PREFIX,
    component,
    damage,
    discard,
    folders_below,
    lost_record,
    missing_folders,
    refuse_links,
    remove_empty,
    remove_partials,
    writing,
)
from lingbot_eval.runs.drift_file import DRIFT_FILE, load_drift
from lingbot_eval.runs.lock import LOCK_FILE, directory_lock
from lingbot_eval.runs.panels import DepthPanels, load_panels
from lingbot_eval.runs.records import JobRecord, Names, ResultRecord, RunRecord, UnitRecord
from lingbot_eval.runs.saved import STATES
from lingbot_eval.runs.serialisation import read_record, write_record
from lingbot_eval.runs.unit_writer import PANELS_FILE, RUN_LAYOUT, Layout, UnitWriter
from lingbot_eval.viewing.kept import Reconstruction

if TYPE_CHECKING:
    import pandas as pd

    from lingbot_eval.types import DriftSeries

RUN_FILE = "run.json"
REPORT = "report"  # where a run's report goes unless it is told otherwise

Columns = Mapping[str, NDArray[Any]]
"""A table of frames by the names of its columns, all of one length."""

RunT = TypeVar("RunT", bound=JobRecord, default=RunRecord)
ResultT = TypeVar("ResultT", bound=ResultRecord, default=UnitRecord)


@dataclass(frozen=True)
class StoredUnit(Generic[ResultT]):
    """A unit that is there, whole and of this run: its folder and its record."""

    folder: Path
    record: ResultT

    def file(self, name: str) -> Path | None:
        """Where a file of the unit is; None when the unit has none of that name, whatever lies in its folder."""
        path = self.folder / name
        # The first records of schema 1 did not list their files.
        listed = name in self.record.files or (not self.record.files and path.exists())
        return path if listed else None

    @property
    def reconstruction(self) -> Reconstruction:
        """What the unit kept to be looked at."""
        return Reconstruction(self.folder, self.record.files)


@dataclass(frozen=True)
class LeftOutUnit:
    """A unit that is not used: damaged, of another run, or not planned. reason: one line that names the file."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class StoredUnits(Generic[ResultT]):
    """Everything a run directory holds.

    units: whole ones of this run, in the order of the plan. left_out: the others that are there.
    missing: names of planned units without a usable result, those left out included.
    unchecked: why the units could not be checked for damage; None for those that were.
    """

    units: tuple[StoredUnit[ResultT], ...]
    left_out: tuple[LeftOutUnit, ...]
    missing: tuple[Names, ...]
    unchecked: str | None = None


class Store(Generic[RunT, ResultT]):
    """One run directory. Writers hold :meth:`lock` around everything they write; readers need nothing.

    lost_record: a line where the record was gone though units were there when it was made or found again.
    """

    def __init__(self, path: Path, layout: Layout, run: type[RunT], result: type[ResultT]) -> None:
        """run, result: the records that are read. See `RunStore` for the usual ones."""
        self.path = path
        self.layout = layout
        self._run = run
        self._result = result
        self._made: tuple[Path, ...] = ()
        self._known: tuple[os.stat_result, RunT, frozenset[Names]] | None = None
        self.lost_record: str | None = None

    def begin(self, record: RunT) -> None:
        """Make the directory with its first record, or find it again.

        An existing record is left as it is: call ``write_run`` under the lock to renew it. Raises StoreError when
        the directory cannot be made or holds another run.
        """
        self._made = missing_folders(self.path.parent)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.lost_record = lost_record(self._run_file, self.layout.units)
        if not self._run_file.exists():
            try:
                with directory_lock(self.path):
                    # Another process may have been first.
                    if not self._run_file.exists():
                        try:
                            self.write_run(record)
                        except StoreError:
                            self.discard()
                            raise
            except BusyError:
                if not self._run_file.exists():
                    raise
        found = self.read_run()
        if found.key != record.key:
            raise StoreError(
                f"{self.path}: expected run {record.key}, found run {found.key}; choose another folder for the runs"
            )

    @property
    def _run_file(self) -> Path:
        return self.path / self.layout.run_file

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer for the block; removes what killed writers left, reports among them.

        Raises StoreError naming the process that holds the lock, when the directory cannot be written, or when a link
        stands where results go.
        """
        with directory_lock(self.path) as now:

            def living() -> set[str]:
                return {f"{PARTIAL_PREFIX}{holder.token}" for holder in read_claims(self.path, now)}

            remove_partials(self.path, self.layout.units, self.layout.depth, living)
            remove_dead_claims(self.path, now)
            for folder in (self.path, self.path / REPORT):
                refuse_links(self.path, folder)
                remove_abandoned(folder)
            yield

    @contextmanager
    def share(self) -> Iterator[Claims]:
        """Be one of several writers for the block, each of units that it has claimed. Raises StoreError as `lock`."""
        with directory_lock(self.path, shared=True), Claims(self.path) as claims:
            yield claims

    def discard(self) -> bool:
        """Remove the directory if it holds no result, and the folders above that were made for it.

        Only for the holder of the lock. Returns whether it is gone.
        """
        gone = discard(self.path, self.layout.units, self.layout.run_file, LOCK_FILE)
        if gone:
            remove_empty(self._made)
        return gone

    def write_run(self, record: RunT) -> None:
        """Write or replace the run's record. Raises StoreError."""
        write_record(self._run_file, record, indent=2)

    def read_run(self) -> RunT:
        """The run's record. Raises StoreError naming the file when it is damaged."""
        return read_record(self._run_file, self._run)

    def folder(self, *names: str) -> Path:
        """Where a unit is when it is finished."""
        return self.path.joinpath(self.layout.units, *map(component, names))

    def state_folder(self, *names: str) -> Path:
        """Where the saved state of a unit is that is not done yet."""
        return self.path.joinpath(STATES, *map(component, names))

    def has_result(self, *names: str) -> bool:
        """Whether anything stands where a unit's record is."""
        return (self.folder(*names) / self.layout.unit_file).exists()

    def read_result(self, *names: str) -> ResultT:
        """A unit's record alone, its other files unchecked. Raises StoreError."""
        return read_record(self.folder(*names) / self.layout.unit_file, self._result)

    def find_unit(self, *names: str) -> StoredUnit[ResultT] | LeftOutUnit | None:
        """A planned unit, why it is left out and to be run again, or None when there is nothing of it."""
        folder = self.folder(*names)
        if not (folder.exists() or folder.is_symlink()):
            return None
        try:
            return self.read_unit(*names)
        except StoreError as error:
            return LeftOutUnit(folder, str(error))

    @contextmanager
    def unit_writer(self, *names: str, token: str | None = None) -> Iterator[UnitWriter]:
        """A writer for one unit; only its ``finish`` makes anything visible, an exception leaves nothing.

        token: of the claim, where the run is shared.

        Raises StoreError when the disk refuses or a link stands in a folder's place, RuntimeError when the block ends
        without ``finish``.
        """
        folder = self.folder(*names)
        refuse_links(self.path, folder)
        writer = UnitWriter(folder, names, self._plan()[0].key, self.layout, token)
        try:
            yield writer
            if not writer.finished:
                raise RuntimeError(f"unit {'/'.join(names)} was written but never finished")
        finally:
            if not writer.finished:
                writer.discard()

    def read_unit(self, *names: str) -> StoredUnit[ResultT]:
        """One unit. Raises StoreError when it is not there, damaged, of another run or not planned."""
        return self._checked(self.folder(*names), *self._plan())

    def _plan(self) -> tuple[RunT, frozenset[Names]]:
        """The run's record and the names that are planned, read again only where the file is another one: of a run of
        ten thousand units it has a megabyte."""
        now = self._run_file.stat() if self._run_file.exists() else None
        if self._known is None or now is None or _state(self._known[0]) != _state(now):
            run = self.read_run()
            self._known = now or self._run_file.stat(), run, frozenset(run.planned)
        return self._known[1:]

    def read_units(self) -> StoredUnits[ResultT]:
        """All units, each file held against its record. Raises StoreError when the run's record itself is damaged.

        What is damaged, not planned or of another run is listed, not raised.
        """
        run = self.read_run()
        rank = {names: position for position, names in enumerate(run.planned)}
        found: list[StoredUnit[ResultT]] = []
        left_out: list[LeftOutUnit] = []
        for folder in folders_below(self.path / self.layout.units, self.layout.depth):
            if folder.name.startswith(PARTIAL_PREFIX):
                continue
            try:
                found.append(self._checked(folder, run, rank))
            except StoreError as error:
                left_out.append(LeftOutUnit(folder, str(error)))
        found.sort(key=lambda unit: rank[unit.record.names])
        there = {unit.record.names for unit in found}
        missing = tuple(names for names in rank if names not in there)
        unchecked = "it was stored by an older version, without checksums" if run.schema_version < 2 else None
        return StoredUnits(tuple(found), tuple(left_out), missing, unchecked)

    def _checked(self, folder: Path, run: RunT, plan: Container[Names]) -> StoredUnit[ResultT]:
        """A unit's folder, checked. Raises StoreError that names the file and says what is wrong with it."""
        refuse_links(self.path, folder)
        file, again = folder / self.layout.unit_file, f"run the {self.layout.unit} again"
        record = read_record(file, self._result)
        names = record.names
        if self.folder(*names) != folder:
            raise StoreError(
                f"{file}: expected the record of this unit, found that of {'/'.join(names)}; "
                "remove the folder and run again"
            )
        if names not in plan:
            raise StoreError(f"{folder}: {'/'.join(names)} is not in the plan of this run and is left out; remove it")
        known = record.schema_version > 1
        if record.schema_version < run.schema_version or (known and record.run_key != run.key):
            whose = f"run {record.run_key[:12]}" if record.run_key else "an older version"
            raise StoreError(f"{file}: expected a unit of run {run.key[:12]}, found one of {whose}; {again}")
        if known and any(written.sha256 is None for written in record.files.values()):
            raise StoreError(f"{file}: expected the SHA-256 of each file of the unit, found none; {again}")
        if known and self.layout.table not in record.files:
            raise StoreError(f"{file} is damaged: it does not list {self.layout.table}; {again}")
        damaged = damage(folder, record.files)
        if damaged:
            raise StoreError(f"{'; '.join(damaged)}; {again}")
        return StoredUnit(folder, record)

    def read_columns(self, unit: StoredUnit[ResultT]) -> Columns:
        """The unit's table of frames by column: ``index`` int64, ``frame_type`` text, the rest float64 with NaN for
        empty cells.

        Raises StoreError naming the file when it is missing or damaged.
        """
        return read_columns(unit.folder / self.layout.table, self.layout)

    def read_table(self, unit: StoredUnit[ResultT]) -> pd.DataFrame:
        """As :meth:`read_columns`, one row a frame."""
        return read_table(unit.folder / self.layout.table, self.layout)


class RunStore(Store[RunRecord, UnitRecord]):
    """The directory of an experiment's run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, RUN_LAYOUT, RunRecord, UnitRecord)

    @classmethod
    def create(cls, root: Path, record: RunRecord) -> RunStore:
        """The run directory of ``record`` under ``root`` (see :func:`run_directory`), made or found again.

        Raises StoreError as `begin`.
        """
        store = cls(run_directory(root, record))
        store.begin(record)
        return store

    @classmethod
    def open(cls, path: Path) -> RunStore:
        """An existing run directory, for reading. Raises StoreError when it is none."""
        if not (path / RUN_FILE).is_file():
            raise StoreError(f"expected a run directory with {RUN_FILE}, found none at {path}; see lingbot-eval run")
        return cls(path)

    def read_frames(self, unit: StoredUnit[UnitRecord]) -> pd.DataFrame:
        """``frames.csv``, as :meth:`read_table`."""
        return self.read_table(unit)

    def read_panels(self, unit: StoredUnit[UnitRecord]) -> DepthPanels | None:
        """The frames kept for the depth panels; None when the unit kept none. Raises StoreError when damaged."""
        path = unit.file(PANELS_FILE)
        return None if path is None else load_panels(path)

    def read_drift(self, unit: StoredUnit[UnitRecord]) -> DriftSeries | None:
        """How the unit's error grows; None when the unit has no such series. Raises StoreError when damaged."""
        path = unit.file(DRIFT_FILE)
        return None if path is None else load_drift(path)


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def run_directory(root: Path, record: JobRecord) -> Path:
    """``ROOT/NAME-KEY``: the run's name, encoded as one component, and the first 12 digits of its key."""
    return root / f"{component(record.name)}-{component(record.key[:12])}"


def find_runs(root: Path) -> tuple[Path, ...]:
    """Run directories directly under ``root``, by name; none when there is no such folder."""
    return tuple(sorted(file.parent for file in root.glob(f"*/{RUN_FILE}")))


def read_table(path: Path, layout: Layout) -> pd.DataFrame:
    """A table of frames, one row a frame. Raises StoreError as `read_columns`."""
    import pandas as pd

    return pd.DataFrame(read_columns(path, layout))


def read_columns(path: Path, layout: Layout) -> Columns:
    """A table of frames by column. Raises StoreError naming the file when it is missing or damaged."""
    try:
        with (
            open_file(path, links=False) as content,
            io.TextIOWrapper(content, encoding="utf-8", newline="") as stream,
        ):
            return _columns(csv.reader(stream, strict=True), layout.columns)
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        raise StoreError(
            f"expected the table of frames of a {layout.unit} in {path}, found a damaged one "
            f"({reason(error)}); run that {layout.unit} again"
        ) from error


def _columns(lines: Iterator[list[str]], expected: tuple[str, ...]) -> Columns:
    """Not pandas.read_csv: it takes short and long lines in silence, and reads numbers a last digit off."""
    header = next(lines, [])
    if header != list(expected):
        raise ValueError(f"columns {header}")
    rows = list(lines)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(expected):
            raise ValueError(f"line {number} has {len(row)} cells, not {len(expected)}")
    columns: dict[str, NDArray[Any]] = {}
    for name, cells in zip(expected, zip(*rows, strict=True) if rows else ((),) * len(header), strict=True):
        if name == "frame_type":
            columns[name] = np.array(cells, dtype=object)
        elif name == "index":
            columns[name] = np.array([parse_whole(cell) for cell in cells], dtype=np.int64)
        else:
            columns[name] = np.array([parse_number(cell) if cell else math.nan for cell in cells], dtype=np.float64)
    return columns
