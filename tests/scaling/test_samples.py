"""Samples of a case: one table, nothing made up; the same as columns in memory."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from studies import study, written

from lingbot_eval.errors import StoreError
from lingbot_eval.methods.base import Method
from lingbot_eval.profiling.memory import MemoryProbe
from lingbot_eval.runs.stream import Output
from lingbot_eval.scaling.execute import CaseScorer
from lingbot_eval.scaling.records import COLUMNS, SAMPLES_FILE, SCALE_LAYOUT, SampleLog
from lingbot_eval.stored.unit_files import read_table
from lingbot_eval.types import Frame, FrameType, Prediction, StepCost


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


class Probe:
    """A device whose figures tell which frame they were asked at."""

    driver_source = "made up"

    def __init__(self) -> None:
        self.asked = 0

    def sample(self) -> dict[str, int]:
        self.asked += 1
        figures = {"process_bytes": 100, "device_reserved_bytes": 200, "driver_bytes": 300}
        return {name: size + self.asked for name, size in figures.items()}


@pytest.mark.parametrize(("scenario", "latency"), [("offline", None), ("single_stream", 5.0), ("camera", 5.0)])
def test_a_row_has_what_the_frame_cost_and_memory_every_few_frames(scenario: str, latency: float | None) -> None:
    given = study(defaults={"scenario": scenario}, checkpoints=[3])
    (case,) = given.all_cases()
    scorer = CaseScorer(given, case, cast(Method, object()))
    scorer.probe = cast(MemoryProbe, Probe())
    cost = StepCost(
        0.002, {"anchor": 1, "window": 2, "memory": 3, "camera_head": 4}, cache_allocated=50, device_bytes=60
    )
    kinds = [FrameType.SCALE, FrameType.UNKEPT, FrameType.KEPT, FrameType.KEPT]
    rows = []
    for index, kind in enumerate(kinds):
        prediction = Prediction(index, index / 30, np.eye(4), frame_type=kind, cost=cost)
        frame = Frame(index, index / 30, None, "made up")
        rows.append(scorer.add(Output(frame, prediction, interval_s=0.003, latency_s=0.005, backlog=index)))
    assert rows[2] == {
        "index": 2,
        "frame_type": FrameType.KEPT,
        "kept": 2,
        "forward_ms": 2.0,
        "interval_ms": 3.0,
        "latency_ms": latency,
        "backlog": 2,
        "cache_anchor_bytes": 1,
        "cache_window_bytes": 2,
        "cache_memory_bytes": 3,
        "cache_camera_head_bytes": 4,
        "cache_allocated_bytes": 50,
        "device_allocated_bytes": 60,
        "device_reserved_bytes": 201,
        "driver_bytes": 301,
        "process_bytes": 101,
    }
    assert [row["kept"] for row in rows] == [1, 1, 2, 3]
    # At the checkpoint of three frames, and at every fourth.
    assert [row.get("process_bytes") for row in rows] == [None, None, 101, 102]
    assert len(scorer.log) == len(scorer.poses.trajectory().indices) == 4
