"""The files of one unit (a method on a scene): written beside its final place and moved there whole, and read back.

A table of frames, trajectories, the drift series, a few frames for the depth panels, and the record.
"""

from __future__ import annotations

import csv
import io
import math
import numbers
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.arrays import load_arrays
from lingbot_eval.files.atomic import atomic_open, writing
from lingbot_eval.files.reading import open_file, parse_number, parse_whole
from lingbot_eval.stored.disk import PARTIAL_PREFIX, UNITS, move_into_place, written_files
from lingbot_eval.stored.records import FRAME_COLUMNS, Names, ResultRecord, write_record
from lingbot_eval.types import DriftSeries, FrameType
from lingbot_eval.viewing import kept

if TYPE_CHECKING:
    import pandas as pd


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


Columns = Mapping[str, NDArray[Any]]
"""A table of frames by the names of its columns, all of one length."""

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
        try:
            with writing(self._final):
                self._table: IO[str] = self.path(layout.table).open("w", encoding="utf-8", newline="")
        except StoreError:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise
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
        self.go_on_with({self._layout.table: other.path(self._layout.table)})

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


def _cell(value: object) -> str:
    if isinstance(value, FrameType):
        return value.name.lower()
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        # repr of a plain float is the shortest text that reads back as the same number.
        return repr(float(value)) if math.isfinite(value) else ""
    return "" if value is None else str(value)


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


_ARRAYS = {"index": ("i", 1), "image": ("u", 4), "truth": ("f", 3), "prediction": ("f", 3)}


@dataclass(frozen=True, eq=False)
class DepthPanels:
    """K frames side by side.

    index: (K,) int64 frame indices. image: (K, H, W, 3) uint8 RGB. truth: (K, H, W) float32 metres along z, 0 = none.
    prediction: (K, H, W) float32 metres after the per-frame ``scale_only`` alignment, 0 = none; in the method's own
    unit where no frame has truth.
    Raises ValueError when the shapes do not go together.
    """

    index: NDArray[np.int64]
    image: NDArray[np.uint8]
    truth: NDArray[np.float32]
    prediction: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = self.truth.shape
        if len(shape) != 3 or self.index.shape != shape[:1]:
            raise ValueError(f"expected index (K,) and truth (K, H, W), found {self.index.shape} and {shape}")
        if self.prediction.shape != shape or self.image.shape != (*shape, 3):
            raise ValueError(
                f"expected prediction {shape} and image {(*shape, 3)}, "
                f"found {self.prediction.shape} and {self.image.shape}"
            )


def save_panels(path: Path, panels: DepthPanels) -> None:
    """Write ``panels.npz``, whole or not at all. Raises StoreError."""
    with atomic_open(path, "wb") as stream:
        np.savez_compressed(
            stream,
            index=panels.index.astype(np.int64),
            image=panels.image.astype(np.uint8),
            truth=panels.truth.astype(np.float32),
            prediction=panels.prediction.astype(np.float32),
        )


def load_panels(path: Path) -> DepthPanels:
    """Read ``panels.npz``. Raises StoreError naming the file when it is damaged or not what it should be."""
    return load_arrays(path, _ARRAYS, "depth panels", _panels)


def _panels(arrays: dict[str, NDArray[Any]]) -> DepthPanels:
    for name, (kind, dimensions) in _ARRAYS.items():
        if arrays[name].dtype.kind != kind or arrays[name].ndim != dimensions:
            raise ValueError(f"array {name} of {arrays[name].dtype}, shape {arrays[name].shape}")
    return DepthPanels(**arrays)


DRIFT_FILE = "drift.npz"
# Arrays of one length, by the first of them.
_GROUPS = {
    "frame": ("step_error_m", "local_scale", "anchored_error_m"),
    "prefix_frame": ("prefix_ate_m",),
    "segment_frame": ("segment_length_m", "segment_translation", "segment_rotation"),
    "jump_frame": (),
    "collapse_frame": (),
}


def save_drift(path: Path, series: DriftSeries) -> None:
    """Write the series, whole or not at all. Raises StoreError."""
    with atomic_open(path, "wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **vars(series))


def load_drift(path: Path) -> DriftSeries:
    """Read ``drift.npz``. Raises StoreError naming the file when it is damaged or not what it should be."""
    return load_arrays(path, [field.name for field in fields(DriftSeries)], "drift series", _series)


def _series(arrays: dict[str, NDArray[Any]]) -> DriftSeries:
    for first, others in _GROUPS.items():
        if arrays[first].dtype.kind != "i" or arrays[first].ndim != 1:
            raise ValueError(f"array {first} of {arrays[first].dtype}, shape {arrays[first].shape}")
        for name in others:
            if arrays[name].dtype.kind != "f" or arrays[name].shape != arrays[first].shape:
                raise ValueError(f"array {name} of {arrays[name].dtype}, shape {arrays[name].shape}")
    return DriftSeries(**arrays)
