"""The run directory: where results go, unit by unit, and where reports read them from (layout: stored/records.py)."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from typing_extensions import TypeVar

from lingbot_eval.errors import BusyError, StoreError
from lingbot_eval.files.atomic import remove_abandoned, writing
from lingbot_eval.stored.disk import (
    PARTIAL_PREFIX,
    component,
    damage,
    folders_below,
    missing_folders,
    refuse_links,
    remove_empty,
)
from lingbot_eval.stored.lock import LOCK_FILE, Claims, directory_lock, read_claims, remove_dead_claims
from lingbot_eval.stored.records import JobRecord, Names, ResultRecord, RunRecord, UnitRecord, read_record, write_record
from lingbot_eval.stored.saved import STATES
from lingbot_eval.stored.unit_files import (
    DRIFT_FILE,
    PANELS_FILE,
    RUN_LAYOUT,
    Columns,
    DepthPanels,
    Layout,
    UnitWriter,
    load_drift,
    load_panels,
    read_columns,
    read_table,
)
from lingbot_eval.viewing.kept import Reconstruction

if TYPE_CHECKING:
    import pandas as pd

    from lingbot_eval.types import DriftSeries

RUN_FILE = "run.json"
REPORT = "report"  # where a run's report goes unless it is told otherwise

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

    @functools.cached_property
    def good(self) -> frozenset[Names]:
        """Names of those that have scores."""
        return frozenset(unit.record.names for unit in self.units if unit.record.status == "ok")


@dataclass(frozen=True)
class Outcome(Generic[RunT, ResultT]):
    """How a run ended. units: what is on the disk now. failed: planned units without scores there; bad_input: whether
    any is for the user to mend. lost_record: a line where the run's record was gone and is written anew.

    Of a run that is not at its end, units and failed are of this process's share, and pending is the number of units
    without a result; while other processes go on, of those that they are at, at least 1.
    """

    path: Path
    record: RunT
    units: StoredUnits[ResultT]
    done: int
    skipped: int
    failed: int
    bad_input: bool
    lost_record: str | None = None
    pending: int = 0

    @property
    def records(self) -> tuple[ResultT, ...]:
        """Of the units that are there, in the order of the plan."""
        return tuple(unit.record for unit in self.units.units)


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
        results = self.path / self.layout.units
        if not self._run_file.exists() and any(files for _, _, files in os.walk(results)):
            self.lost_record = (
                f"{self._run_file} was not there beside results of this run: it is written anew, and whatever in"
                f" {self.layout.units} does not belong to it is run again"
            )
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
            self._remove_partials(now)
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
        """Remove the directory if it holds no result, and the folders above that were made for it: a run that was
        refused leaves nothing behind. Best effort, as the refusal is what must be told.

        Only for the holder of the lock. Returns whether it is gone.
        """
        for folder, _, files in os.walk(self.path / self.layout.units, topdown=False):
            if files:
                return False
            with suppress(OSError):
                Path(folder).rmdir()
        with suppress(OSError):
            for name in (self.layout.run_file, LOCK_FILE):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()
            remove_empty(self._made)
        return not self.path.exists()

    def _remove_partials(self, now: float) -> None:
        """Delete what interrupted writers left behind, but for what is being written all the same, where the file
        system's locks do not reach other hosts. now: by the file system's clock.

        Raises StoreError, also for a link where a unit's folder should be: what is behind it is not ours to delete.
        """
        partials = []
        for folder in folders_below(self.path / self.layout.units, self.layout.depth):
            refuse_links(self.path, folder)
            if folder.name.startswith(PARTIAL_PREFIX):
                partials.append(folder)
        # Asked for once the folders are known.
        living = {holder.token for holder in read_claims(self.path, now)} if partials else ()
        for folder in partials:
            if folder.name.removeprefix(PARTIAL_PREFIX) not in living:
                with writing(folder):
                    shutil.rmtree(folder)

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
            near = find_runs(path)
            hint = f"give one of: {', '.join(map(str, near[:_NEAR]))}" if near else "see lingbot-eval run"
            raise StoreError(f"expected a run directory with {RUN_FILE}, found none at {path}; {hint}")
        return cls(path)

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


_NEAR = 8  # run directories that a message names


def find_runs(root: Path) -> tuple[Path, ...]:
    """Run directories directly under ``root``, by name; none when there is no such folder."""
    return tuple(sorted(file.parent for file in root.glob(f"*/{RUN_FILE}")))
