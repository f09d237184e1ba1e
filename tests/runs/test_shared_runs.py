"""Runs that several processes share, as gate, reports and other processes read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import lingbot_eval as lb
from lingbot_eval.gating.judge import default_tolerances, judge
from lingbot_eval.gating.sides import read_runs
from lingbot_eval.reports.rendering import csv_table, shown, text_table
from lingbot_eval.reports.tables import read_results
from lingbot_eval.runs.execute import _streams
from lingbot_eval.runs.scene import reopen, scene_tasks
from lingbot_eval.stored.records import HostRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Measurement
from tests.gate.sides import ATE, LATENCY, NAMES, RSS, VALUES, WEIGHTS, write_run
from tests.stored.store_records import make_run_record, make_unit_record
from tests.support.tiny import write_experiment

ALONE = HostRecord(name="one", beside=0)
BESIDE = HostRecord(name="one", beside=2)
ELSEWHERE = HostRecord(name="two", differs=["cpu_model: made up, here another"])


@pytest.mark.parametrize(("host", "why"), [(BESIDE, "other units ran on the host"), (ELSEWHERE, "other hardware")])
def test_disturbed_times_pass_no_gate_and_enter_no_baseline(tmp_path: Path, host: HostRecord, why: str) -> None:
    quiet = read_runs([write_run(tmp_path / "quiet", host=ALONE)])
    busy = read_runs([write_run(tmp_path / "busy", host=host)])
    assert quiet.units[NAMES].values == VALUES
    assert busy.units[NAMES].values == {ATE: VALUES[ATE], "auc/auc_30": VALUES["auc/auc_30"], WEIGHTS: VALUES[WEIGHTS]}
    verdict = judge(quiet, busy, default_tolerances(), ("accuracy", "speed", "memory"))
    assert [verdict.of(family) for family in verdict.required] == ["held", "incomparable", "incomparable"]
    assert verdict.exit_code == 2
    reasons = {finding.metric: finding.reason for finding in verdict.findings}
    assert why in reasons[LATENCY]
    assert why in reasons[RSS]
    assert any(why in note for note in verdict.notes)


def test_tables_and_comparisons_say_what_was_disturbed(tmp_path: Path) -> None:
    quiet, busy = write_run(tmp_path / "quiet", host=ALONE), write_run(tmp_path / "busy", host=BESIDE)
    (table,) = (each for each in read_results(RunStore.open(busy)).tables if each.key == "throughput")
    (cell,) = table.rows[0].cells
    assert cell.value == VALUES[LATENCY]
    assert cell.note is not None
    mark = "measured while other units ran on the host"
    assert table.notes[cell.note - 1] == mark
    assert mark in shown(table).markdown()
    assert mark in csv_table(table)
    assert mark in text_table(table)
    assert "no scores" not in text_table(table)
    (unit,) = lb.compare(quiet, busy).units
    found = {f"{pair.family}/{pair.name}": pair.reason for pair in unit.measurements}
    assert mark in str(found["throughput/forward_latency"])
    assert found["trajectory/ate_rmse"] is None
    assert not [each for each in read_results(RunStore.open(quiet)).tables if any(mark in n for n in each.notes)]


def test_a_report_of_a_run_in_progress_says_what_runs_where(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, make_run_record(units=[list(NAMES), ["tum", "room", "lingbot"]]))
    with store.share() as claims:
        claims.take(NAMES)
        run = lb.open_run(store.path)
    here = f"process {os.getpid()} on {os.uname().nodename} since "
    assert str(run.writer).startswith(here)
    assert str(run.results.failure(NAMES)).startswith(f"being done by {here}")
    assert run.results.failure(("tum", "room", "lingbot")) == "not run yet: run the same command again"
    assert "0 of 2 pairs of scene and method are stored" in str(run.incomplete)


def test_a_reader_is_told_once_of_all_that_was_noted(tmp_path: Path) -> None:
    """Of the scene, of the method, of the scores; and of other units at work where something was timed."""
    notes: dict[str, Any] = {
        "sequence": {"notes": ["of the scene", "of both"]},
        "method_facts": {"notes": ["of both", "of the method"]},
        "notes": ["of the scores"],
    }
    words = ("of the scene", "of both", "of the method", "of the scores")
    timed = Measurement("throughput", "forward_fps", "", 30.0, "fps", "frames a second")
    untimed = Measurement("throughput", "forward_fps", "", None, "fps", "frames a second", reason="no image is read")
    mark = "times and memory were measured "
    for host, measured, more in (
        (BESIDE, untimed, ()),
        (ALONE, timed, ()),
        (None, timed, ()),
        (BESIDE, timed, (f"{mark}while other units ran on the host",)),
        (
            HostRecord(name="two", beside=2, differs=["cpu: a, here b", "threads: 2, here 4"]),
            timed,
            (f"{mark}on other hardware than the run's record states: cpu: a, here b; threads: 2, here 4",),
        ),
    ):
        assert make_unit_record(measurements=[measured], host=host, **notes).remarks == (*words, *more)
    assert make_unit_record(sequence={"notes": "no list"}).remarks == ()


def test_another_process_finds_the_same_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOW_MANY", "1")
    write_experiment(tmp_path)
    words = ["datasets.0.lengths=[4, 8]", "methods.0.max_time_difference_s=${HOW_MANY}"]
    plan = lb.plan_run(tmp_path / "tiny.yaml", words)
    tasks = scene_tasks(plan.units, plan.experiment)
    streams = _streams(tasks)
    assert [len(stream) for stream in streams] == [2, 2]
    record = make_run_record(units=[list(unit.names) for unit in plan.units], experiment=plan.experiment.as_stored())
    store, find = reopen(RunStore.create(tmp_path / "runs", record).path, "")
    assert store.read_run().experiment["methods"][0]["max_time_difference_s"] == 1.0
    for task in tasks:
        found = find(task.names)
        assert (found.unit, found.metrics, found.kept) == (task.unit, task.metrics, task.kept)
        assert [each.names for each in found.shorter] == [each.names for each in task.shorter]
