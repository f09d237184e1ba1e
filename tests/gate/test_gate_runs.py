"""Reading runs: repeats become rounds, and what cannot be judged at all is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.gating.runs import read_runs, run_directories
from lingbot_eval.gating.samples import round_of
from lingbot_eval.runs.lock import directory_lock, writer_of
from lingbot_eval.runs.store import RunStore
from tests.gate.sides import ATE, LATENCY, NAMES, VALUES, rounds, write_run
from tests.runs.store_records import make_run_record, make_unit_record


def test_a_run_as_it_is_stored(tmp_path: Path) -> None:
    times = rounds(1, 3)[0]
    side = read_runs([write_run(tmp_path, step_ms=times)])
    unit = side.units[NAMES]
    assert unit.values == VALUES
    assert unit.meanings[ATE].unit == "m"
    # The scale frame of 400 ms is no step.
    assert np.array_equal(unit.rounds[LATENCY][0], times)
    assert unit.settings["precision"] == "float32"
    assert side.code["key"] == "0123456789abcdef"


def test_the_first_frame_is_no_sample_though_the_method_knows_no_scale_frames() -> None:
    """It carries what starting up takes."""
    times = np.array([400.0, *rounds(1, 3)[0]])
    frames = pd.DataFrame({"frame_type": [""] * len(times), "forward_ms": times})
    assert np.array_equal(round_of(frames, "forward_ms"), times[1:])


def test_repeats_are_rounds_and_values_their_medians(tmp_path: Path) -> None:
    for number, ate in enumerate((0.5, 0.9, 0.6)):
        write_run(tmp_path / str(number), VALUES | {ATE: ate})
    paths = run_directories([tmp_path / str(number) for number in range(3)])
    side = read_runs(paths)
    assert side.units[NAMES].values[ATE] == 0.6
    assert len(side.units[NAMES].rounds[LATENCY]) == len(side.started) == 3


def test_repeats_are_in_the_order_in_which_they_were_measured(tmp_path: Path) -> None:
    """Whatever the order in which they were named: what the machine was is asked of the first."""
    paths = []
    for day, version in ((3, "3.13"), (1, "3.11"), (2, "3.12")):
        started = f"2026-01-0{day}T00:00:00+00:00"
        path = write_run(tmp_path / str(day), step_ms=rounds(1, day)[0] + day, started=started)
        store = RunStore.open(path)
        record = store.read_run()
        store.write_run(record.model_copy(update={"environment": {**record.environment, "python": version}}))
        paths.append(path)
    side = read_runs(paths)
    assert [moment[:10] for moment in side.started] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert side.environment["python"] == "3.11"
    found = side.units[NAMES].rounds[LATENCY]
    assert [times.tolist() for times in found] == [(rounds(1, day)[0] + day).tolist() for day in (1, 2, 3)]


def test_a_failure_of_one_repeat_is_the_result(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / str(number)) for number in range(2)]
    fail(paths[1])
    assert read_runs(paths).units[NAMES].failure == "failed in stage stream: crash"


def fail(path: Path) -> None:
    store = RunStore.open(path)
    record = make_unit_record(NAMES, status="failed", reason="crash", stage="stream", measurements=[])
    with store.lock(), store.unit_writer(*NAMES) as writer:
        writer.finish(record)


def test_runs_of_something_else_are_no_repeats(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b", key="f" * 16)]
    with pytest.raises(ConfigError, match="differ in experiment, checkpoint or code"):
        read_runs(paths)


def test_a_folder_of_runs_and_no_run_at_all(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs")
    assert run_directories([tmp_path / "runs"]) == (run,)
    assert run_directories([run, run]) == (run,)
    with pytest.raises(ConfigError, match="no such folder"):
        run_directories([tmp_path / "none"])
    with pytest.raises(ConfigError, match="a folder without either"):
        run_directories([tmp_path])


def test_a_run_that_is_being_written_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    assert writer_of(path) is None
    with directory_lock(path):
        assert "process" in (writer_of(path) or "")
        with pytest.raises(StoreError, match="still being written by process"):
            read_runs([path])
    assert read_runs([path]).units
    # Looking does not keep a writer out afterwards.
    with directory_lock(path):
        pass


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, make_run_record())
    with pytest.raises(StoreError, match=r"is empty: expected results of 1 scene"):
        read_runs([store.path])


def test_a_damaged_record_is_named_and_skipped(tmp_path: Path) -> None:
    path = write_run(tmp_path, scenes=("desk", "floor"))
    broken = path / "units" / "tum" / "floor" / "lingbot" / "result.json"
    broken.write_text("{")
    side = read_runs([path])
    assert set(side.units) == {NAMES}
    assert str(broken) in side.gaps["tum", "floor", "lingbot"]
    assert str(broken) in side.problems[0]


def test_a_damaged_frame_table_is_damage_as_well(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    (path / "units" / "tum" / "desk" / "lingbot" / "frames.csv").write_text("index\n1,2\n")
    assert "frames.csv" in read_runs([path]).gaps[NAMES]


def test_a_run_that_was_killed_has_gaps(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    store = RunStore.open(path)
    record = store.read_run()
    store.write_run(record.model_copy(update={"units": [*record.units, ["tum", "floor", "lingbot"]]}))
    assert "did not get to it" in read_runs([path]).gaps["tum", "floor", "lingbot"]
