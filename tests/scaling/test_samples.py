"""Samples of a case: one table, nothing made up; the same as columns in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from studies import written

from lingbot_eval.errors import StoreError
from lingbot_eval.runs.store import read_table
from lingbot_eval.scaling.records import COLUMNS, SAMPLES_FILE, SCALE_LAYOUT
from lingbot_eval.scaling.summary import SampleLog
from lingbot_eval.types import FrameType


def row(index: int) -> dict[str, float | int | None]:
    return {
        "index": index,
        "frame_type": FrameType.KEPT,
        "forward_ms": 1 / (index + 1),
        "cache_memory_bytes": 2**40 + index,
        "driver_bytes": 5 if index % 3 == 0 else None,
    }


def test_what_was_sampled_is_one_table(tmp_path: Path) -> None:
    table = written(tmp_path, map(row, range(25)))
    assert list(table.columns) == list(COLUMNS)
    assert table["forward_ms"].tolist() == [1 / (index + 1) for index in range(25)]
    assert table["cache_memory_bytes"].tolist() == [2**40 + index for index in range(25)]
    assert table["driver_bytes"].notna().sum() == 9
    assert table["process_bytes"].isna().all()
    assert set(table["frame_type"]) == {"kept"}


def test_columns_in_memory_say_the_same(tmp_path: Path) -> None:
    log = SampleLog()
    for index in range(25):
        log.append(row(index))
    table = written(tmp_path, map(row, range(25)))
    for name in set(COLUMNS) - {"frame_type"}:
        np.testing.assert_array_equal(log.column(name), table[name])
    assert set(log.column("frame_type")) == {float(FrameType.KEPT)}


def test_nothing_was_measured(tmp_path: Path) -> None:
    assert len(written(tmp_path, ())) == 0
    assert SampleLog().column("forward_ms").shape == (0,)


def test_an_unknown_column_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="latency_s"):
        written(tmp_path, [{"index": 0, "latency_s": 1.0}])


@pytest.mark.parametrize("text", ["", "index,frame\n0,1\n", "\0\0", ",".join(COLUMNS) + "\nx" + "," * 20 + "\n"])
def test_a_damaged_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / SAMPLES_FILE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=SAMPLES_FILE):
        read_table(path, SCALE_LAYOUT)
