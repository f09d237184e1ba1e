"""What is kept of every frame: columns in memory for the summary, chunks on the disk for whoever kills the run."""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.atomic import atomic_open, write_text
from lingbot_eval.files.opening import open_file
from lingbot_eval.files.text import parse_number
from lingbot_eval.types import FloatArray, FrameType

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("anchor", "window", "memory", "camera_head")

COLUMNS: Mapping[str, str] = {
    "index": "frame, from 0",
    "frame_type": "scale, kept or unkept",
    "kept": "frames kept so far, this one included",
    "forward_ms": "the step on its device: between CUDA events, on a CPU wall clock; scale frames share their pass",
    "interval_ms": "wall clock since the prediction before came: end to end",
    "latency_ms": "from given (single stream) or arrived (camera) to the outputs on the host; empty in offline",
    "backlog": "frames waiting when this one was given; camera only",
    **{f"cache_{kind}_bytes": f"keys and values of the {kind.replace('_', ' ')} in view" for kind in KINDS},
    "cache_allocated_bytes": "cache buffers held, headroom included",
    "device_allocated_bytes": "live tensors on the device",
    "device_reserved_bytes": "what torch's allocator holds on the device",
    "driver_bytes": "what the driver books (the record says how it was asked)",
    "process_bytes": "resident set size of the process",
}
"""Column → what it is. The last three are asked for every few frames only; empty cells were not measured."""

TEXT = "frame_type"
CHUNK_ROWS = 500
SAMPLES_FILE = "samples.csv"


class SampleLog:
    """The samples of one case in the making; ``folder`` gets a file every CHUNK_ROWS frames, whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._values = {name: array("d") for name in COLUMNS}
        self._written = 0

    def __len__(self) -> int:
        return len(self._values["index"])

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Keep one frame: column → number, a FrameType by its number; None and columns left out were not measured.

        Raises ValueError for an unknown column (a fault of the caller) and StoreError when the disk refuses.
        """
        if not row.keys() <= COLUMNS.keys():
            raise ValueError(f"unknown columns {sorted(row.keys() - COLUMNS.keys())}")
        for name, values in self._values.items():
            value = row.get(name)
            values.append(math.nan if value is None else value)
        if len(self) - self._written == CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet as one more chunk. Raises StoreError."""
        if self._written < len(self):
            write_text(self._folder / f"samples-{self._written:09d}.csv", "".join(self._lines(self._written)))
            self._written = len(self)

    def finish(self) -> None:
        """Put one whole file in the place of the chunks. Raises StoreError."""
        with atomic_open(self._folder / SAMPLES_FILE) as stream:
            stream.writelines(self._lines(0))
        for chunk in self._folder.glob("samples-*.csv"):
            chunk.unlink()

    def column(self, name: str) -> FloatArray:
        """(N,) float64, NaN where not measured; frame types as their numbers."""
        return np.array(self._values[name], dtype=np.float64)

    def _lines(self, start: int) -> Iterator[str]:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        for position in range(start, len(self)):
            table.writerow([_cell(name, values[position]) for name, values in self._values.items()])
            if text.tell() > 1 << 16:
                yield text.getvalue()
                text.seek(0)
                text.truncate()
        yield text.getvalue()


def read_samples(path: Path) -> pd.DataFrame:
    """The table of one case: ``frame_type`` text, the rest float64, NaN where not measured. Raises StoreError."""
    import pandas as pd

    try:
        with open_file(path) as content, io.TextIOWrapper(content, encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
        if not rows or rows[0] != list(COLUMNS):
            raise ValueError(f"columns {rows[0] if rows else 'missing'}")
        wrong = next((number for number, row in enumerate(rows, 1) if len(row) != len(COLUMNS)), None)
        if wrong is not None:
            raise ValueError(f"line {wrong} has {len(rows[wrong - 1])} cells, not {len(COLUMNS)}")
        cells = zip(*rows[1:], strict=True) if len(rows) > 1 else ((),) * len(COLUMNS)
        return pd.DataFrame({name: _column(name, values) for name, values in zip(COLUMNS, cells, strict=True)})
    except (OSError, ValueError, csv.Error) as error:
        raise StoreError(
            f"{path}: expected the samples of a case, found a damaged table ({reason(error)}); run the case again"
        ) from error


def _column(name: str, cells: Sequence[str]) -> NDArray[Any]:
    if name == TEXT:
        return np.array(cells, dtype=object)
    return np.array([parse_number(cell) if cell else math.nan for cell in cells], dtype=np.float64)


def _cell(name: str, value: float) -> str:
    if math.isnan(value):
        return ""
    if name == TEXT:
        return FrameType(int(value)).name.lower()
    return str(int(value)) if value == int(value) else repr(value)
