"""Writes one unit (a method on a scene) beside its final place, and moves it there whole."""

from __future__ import annotations

import csv
import math
import numbers
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lingbot_eval.errors import StoreError
from lingbot_eval.runs.disk import PARTIAL_PREFIX, UNITS, move_into_place, writing, written_files
from lingbot_eval.runs.panels import DepthPanels, save_panels
from lingbot_eval.runs.records import FRAME_COLUMNS, Names, ResultRecord
from lingbot_eval.runs.serialisation import write_record
from lingbot_eval.types import FrameType
from lingbot_eval.viewing import kept

FRAMES_FILE = "frames.csv"
ESTIMATE_FILE, REFERENCE_FILE = kept.ESTIMATE_FILE, kept.REFERENCE_FILE
PANELS_FILE = "panels.npz"
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Layout:
    """Names in a run directory.

    run_file: of the run's record. units: the folder of its units, whose names are ``depth`` folders below it.
    unit_file, table: of each unit's record and of its table of frames with its columns. unit: the word for one.
    """

    run_file: str
    units: str
    depth: int
    unit_file: str
    table: str
    columns: tuple[str, ...]
    unit: str


RUN_LAYOUT = Layout("run.json", UNITS, 3, RESULT_FILE, FRAMES_FILE, FRAME_COLUMNS, "scene")

ROWS_BETWEEN_FLUSHES = 64  # what a crash may lose of the partial table, against a system call a row


class UnitWriter:
    """One unit in the making; made by ``Store.unit_writer``.

    Rows go to the disk as they come, so memory stays constant. Other files (``estimate.tum``, ``reference.tum``)
    are written by their own formats at :meth:`path`. Nothing is visible to readers before :meth:`finish`.
    """

    def __init__(self, final: Path, names: Names, run_key: str, layout: Layout, token: str | None = None) -> None:
        """token: of the claim under which it is written, where several processes write the run."""
        self._final = final
        self._names = names
        self._run_key = run_key
        self._layout = layout
        self._partial = final.with_name(f"{PARTIAL_PREFIX}{token or uuid.uuid4().hex}")
        self._rows = 0
        self._finished = False
        with writing(self._final):
            self._partial.mkdir(parents=True)
        with self._cleaned_up_on_failure(), writing(self._final):
            self._table: IO[str] = self.path(layout.table).open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._table, lineterminator="\n")
        self._write_row(layout.columns)

    @property
    def finished(self) -> bool:
        """Whether the unit is in its final place."""
        return self._finished

    def path(self, name: str) -> Path:
        """Where to write a further file of the unit, by its plain file name."""
        return self._partial / name

    def append_row(self, row: Mapping[str, object]) -> None:
        """Add one frame's row to the table.

        Keys are of its columns; left out, None and non-finite values become empty cells, which mean "not measured".
        Raises ValueError for an unknown column (a fault of the caller) and StoreError when the disk refuses.
        """
        if not row.keys() <= set(self._layout.columns):
            raise ValueError(f"unknown columns {sorted(set(row) - set(self._layout.columns))}")
        self._write_row([_cell(row.get(column)) for column in self._layout.columns])
        self._rows += 1
        if self._rows % ROWS_BETWEEN_FLUSHES == 0:
            with writing(self._final):
                self._table.flush()

    def begin_as(self, other: UnitWriter) -> None:
        """Take over the rows that another unit's writer has so far, in place of its own. Raises StoreError."""
        with writing(self._final):
            other._table.flush()
            self._table.close()
            shutil.copyfile(other.path(self._layout.table), self.path(self._layout.table))
            self._table = self.path(self._layout.table).open("a", encoding="utf-8", newline="")
        self._csv = csv.writer(self._table, lineterminator="\n")

    def files_so_far(self) -> list[Path]:
        """Everything that is written, as it is on the disk now. Raises StoreError."""
        with writing(self._final):
            self._table.flush()
            return sorted(self._partial.iterdir())

    def go_on_with(self, files: Mapping[str, Path]) -> None:
        """Take over files that another writer of this unit had so far, its table in place of the own one.

        Raises StoreError.
        """
        with writing(self._final):
            self._table.close()
            for name, file in files.items():
                shutil.copyfile(file, self.path(name))
            self._table = self.path(self._layout.table).open("a", encoding="utf-8", newline="")
        self._csv = csv.writer(self._table, lineterminator="\n")

    def fill_columns(self, columns: Mapping[str, Mapping[int, float]]) -> None:
        """Fill cells that are known only once the whole sequence is (errors after the alignment).

        columns: column name → frame index → value; cells of frames not named stay as they are. Streams through the
        table once. Raises ValueError for an unknown column and StoreError when the disk refuses.
        """
        if not columns.keys() <= set(self._layout.columns):
            raise ValueError(f"unknown columns {sorted(set(columns) - set(self._layout.columns))}")
        filled = self.path(self._layout.table + ".filled")
        with writing(self._final):
            self._table.close()
            with self.path(self._layout.table).open(encoding="utf-8", newline="") as old:
                self._table = filled.open("w", encoding="utf-8", newline="")
                self._csv = csv.writer(self._table, lineterminator="\n")
                reader = csv.DictReader(old)
                self._csv.writerow(self._layout.columns)
                for row in reader:
                    index = int(row["index"])
                    for name, values in columns.items():
                        if index in values:
                            row[name] = _cell(values[index])
                    self._csv.writerow([row[column] for column in self._layout.columns])
            # The open file keeps its identity under the new name, so rows may still be appended.
            filled.replace(self.path(self._layout.table))

    def write_panels(self, panels: DepthPanels) -> None:
        """Keep a few frames for the depth panels. Raises StoreError when the disk refuses."""
        save_panels(self.path(PANELS_FILE), panels)

    def finish(self, record: ResultRecord) -> None:
        """Write the record, force everything to the disk and put the unit in its final place in one rename.

        An older result there (failed, or of changed input) is replaced. Raises ValueError for the record of another
        unit, StoreError when the disk refuses or the record holds what JSON cannot (NaN).
        """
        if record.names != self._names:
            raise ValueError(f"record of {record.names} in unit {self._names}")
        if self._finished:
            raise ValueError(f"unit {self._names} is finished already")
        with writing(self._final):
            self._table.close()
            files = written_files(self._partial)
        write_record(
            self.path(self._layout.unit_file), record.model_copy(update={"files": files, "run_key": self._run_key})
        )
        with writing(self._final):
            move_into_place(self._partial, self._final)
        self._finished = True

    def discard(self) -> None:
        """Remove what was written and not finished; never raises for what the disk refuses meanwhile."""
        # A full disk refuses the last buffer: it is thrown away here anyway.
        with suppress(OSError):
            self._table.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def _write_row(self, cells: tuple[str, ...] | list[str]) -> None:
        with writing(self._final):
            self._csv.writerow(cells)

    @contextmanager
    def _cleaned_up_on_failure(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise


def _cell(value: object) -> str:
    if isinstance(value, FrameType):
        return value.name.lower()
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        # repr of a plain float is the shortest text that reads back as the same number.
        return repr(float(value)) if math.isfinite(value) else ""
    return "" if value is None else str(value)
