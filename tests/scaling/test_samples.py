"""Samples of a case: chunks on the way, one table at the end, nothing made up."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from lingbot_eval.errors import StoreError
from lingbot_eval.scaling import samples
from lingbot_eval.scaling.samples import COLUMNS, SAMPLES_FILE, SampleLog, read_samples
from lingbot_eval.types import FrameType


def row(index: int) -> dict[str, float | int | None]:
    return {
        "index": index,
        "frame_type": int(FrameType.KEPT),
        "forward_ms": 1 / (index + 1),
        "cache_memory_bytes": 2**40 + index,
        "driver_bytes": 5 if index % 3 == 0 else None,
    }


def test_chunks_appear_as_it_goes_and_become_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK_ROWS", 10)
    log = SampleLog(tmp_path)
    for index in range(25):
        log.append(row(index))
    chunks = sorted(path.name for path in tmp_path.iterdir())
    assert chunks == ["samples-000000000.csv", "samples-000000010.csv"]
    with (tmp_path / chunks[1]).open(encoding="utf-8", newline="") as stream:
        assert [int(line["index"]) for line in csv.DictReader(stream)] == list(range(10, 20))
    log.finish()
    assert [path.name for path in tmp_path.iterdir()] == [SAMPLES_FILE]
    table = read_samples(tmp_path / SAMPLES_FILE)
    assert list(table.columns) == list(COLUMNS)
    assert table["forward_ms"].tolist() == [1 / (index + 1) for index in range(25)]
    assert table["cache_memory_bytes"].tolist() == [2**40 + index for index in range(25)]
    assert table["driver_bytes"].notna().sum() == 9
    assert table["process_bytes"].isna().all()
    assert set(table["frame_type"]) == {"kept"}
    np.testing.assert_array_equal(log.column("index"), np.arange(25))


def test_nothing_was_measured(tmp_path: Path) -> None:
    log = SampleLog(tmp_path)
    log.finish()
    assert len(read_samples(tmp_path / SAMPLES_FILE)) == 0
    assert log.column("forward_ms").shape == (0,)


def test_an_unknown_column_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="latency_s"):
        SampleLog(tmp_path).append({"index": 0, "latency_s": 1.0})


@pytest.mark.parametrize("text", ["", "index,frame\n0,1\n", "\0\0", ",".join(COLUMNS) + "\nx" + "," * 20 + "\n"])
def test_a_damaged_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / SAMPLES_FILE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=SAMPLES_FILE):
        read_samples(path)
