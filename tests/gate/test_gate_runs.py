"""Reading runs: repeats become rounds, and what cannot be judged at all is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.gating.sides import Meaning, read_runs, round_of, run_directories
from lingbot_eval.stored.lock import directory_lock, writer_of
from lingbot_eval.stored.records import HostRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import FrameType, Measurement
from tests.gate.sides import ATE, AUC, INPUT, LATENCY, NAMES, RSS, VALUES, WEIGHTS, rounds, write_run
from tests.stored.store_records import make_run_record, make_unit_record

INTERVAL = "throughput/end_to_end_interval/p50"


def test_a_run_as_it_is_stored(tmp_path: Path) -> None:
    times = rounds(1, 3)[0]
    side = read_runs([write_run(tmp_path, step_ms=times)])
    unit = side.units[NAMES]
    assert unit.values == VALUES
    assert unit.meanings[ATE].unit == "m"
    # The scale frame of 400 ms is no step. Of a time that no measurement is made of no samples are kept.
    assert list(unit.rounds) == [LATENCY]
    assert np.array_equal(unit.rounds[LATENCY][0], times)
    assert unit.settings["precision"] == "float32"
    assert unit.input == INPUT
    assert side.code == {
        "run": "smoke",
        "key": "0123456789abcdef",
        "lingbot_eval": "0.1.0",
        "git": "not a git checkout",
    }
    assert (unit.failure, unit.reasons, unit.notes, side.gaps, side.problems) == (None, {}, (), {}, ())


def test_a_run_that_does_not_say_of_which_code_it_is(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    store = RunStore.open(path)
    store.write_run(store.read_run().model_copy(update={"environment": {}}))
    code = read_runs([path]).code
    assert (code["key"], code["lingbot_eval"], code["git"]) == ("0123456789abcdef", "unknown", "unknown")


def test_a_unit_is_read_with_all_that_its_record_says(tmp_path: Path) -> None:
    """Values or reasons, each metric with its meaning; of two sampled columns each its own."""
    path = write_run(tmp_path, VALUES | {INTERVAL: 70.0})
    store = RunStore.open(path)
    told = [
        Measurement(family="trajectory", name="ate_rmse", variant="sim3", value=0.5, unit="m", convention="of ATE"),
        Measurement(
            family="auc",
            name="auc_30",
            variant="",
            value=None,
            reason="2 matched frames",
            unit="%",
            convention="of AUC",
        ),
        Measurement(
            family="mine", name="of_a_plugin", variant="", value=3.0, unit="1", convention="c", better="higher"
        ),
        Measurement(family="throughput", name="forward_latency", variant="p50", value=5.0, unit="ms", convention="f"),
        Measurement(
            family="throughput", name="end_to_end_interval", variant="p50", value=9.0, unit="ms", convention="e"
        ),
    ]
    record = make_unit_record(NAMES, measurements=told, notes=["3 matches"], sequence=INPUT, method_facts={"a": 1})
    with store.lock(), store.unit_writer(*NAMES) as writer:
        for frame in range(4):
            writer.append_row(
                {
                    "index": frame,
                    "timestamp": float(frame),
                    "frame_type": FrameType.KEPT,
                    "forward_ms": 5.0 + frame,
                    "interval_ms": None if frame == 2 else 9.0 + frame,
                }
            )
        writer.finish(record)
    unit = read_runs([path]).units[NAMES]
    assert unit.values == {ATE: 0.5, "mine/of_a_plugin": 3.0, LATENCY: 5.0, INTERVAL: 9.0}
    assert unit.reasons == {AUC: "2 matched frames"}
    assert unit.meanings == {
        ATE: Meaning("m", "of ATE", "lower"),
        AUC: Meaning("%", "of AUC", "higher"),
        "mine/of_a_plugin": Meaning("1", "c", "higher"),
        LATENCY: Meaning("ms", "f", "lower"),
        INTERVAL: Meaning("ms", "e", "lower"),
    }
    assert [times.tolist() for times in unit.rounds[LATENCY]] == [[6.0, 7.0, 8.0]]
    np.testing.assert_array_equal(unit.rounds[INTERVAL], [[10.0, np.nan, 12.0]])
    assert (unit.notes, unit.settings) == (("3 matches",), {"a": 1})


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"stage": "stream", "reason": "crash"}, "failed in stage stream: crash"),
        ({"stage": "stream", "reason": "crash", "failed_at_frame": 0}, "failed in stage stream at frame 0: crash"),
        ({"reason": "crash", "failed_at_frame": 7}, "failed at frame 7: crash"),
        ({"stage": "load"}, "failed in stage load: no reason was stored"),
    ],
)
def test_a_failure_says_where(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    path = write_run(tmp_path)
    store = RunStore.open(path)
    with store.lock(), store.unit_writer(*NAMES) as writer:
        writer.finish(make_unit_record(NAMES, status="failed", measurements=[], **facts))
    unit = read_runs([path]).units[NAMES]
    assert (unit.failure, unit.values, unit.reasons) == (words, {}, {})


def test_times_of_a_unit_that_was_disturbed_are_a_reason_and_its_scores_stand(tmp_path: Path) -> None:
    path = write_run(tmp_path, host=HostRecord(name="a", beside=1))
    unit = read_runs([path]).units[NAMES]
    assert unit.values == {metric: VALUES[metric] for metric in (ATE, AUC, WEIGHTS)}
    assert unit.reasons == dict.fromkeys((LATENCY, RSS), "measured while other units ran on the host")
    assert unit.rounds == {}
    assert unit.notes == ("times and memory were measured while other units ran on the host",)


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
    assert side.name == ", ".join(str(path) for path in paths)
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


def rewrite(path: Path, **record: Any) -> None:
    """The unit of a run stored anew, without frames."""
    store = RunStore.open(path)
    with store.lock(), store.unit_writer(*NAMES) as writer:
        writer.finish(make_unit_record(NAMES, **record))


def test_a_failure_of_one_repeat_is_the_result(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / str(number)) for number in range(4)]
    for number, reason in ((1, "crash"), (2, "another")):
        rewrite(paths[number], status="failed", reason=reason, stage="stream", measurements=[])
    assert read_runs(paths).units[NAMES].failure == "failed in stage stream: crash"


def test_what_one_repeat_could_not_tell_has_its_reason(tmp_path: Path) -> None:
    """No median of the others; what they say beside the numbers is kept of all of them, each once."""
    paths = [write_run(tmp_path / str(number)) for number in range(3)]
    for path, value, reason, notes in (
        (paths[0], 0.5, "first", ["a", "b"]),
        (paths[1], None, "first of all", ["b"]),
        (paths[2], None, "later", ["c"]),
    ):
        ate, auc = (
            {"family": "trajectory", "name": "ate_rmse", "variant": "sim3", "unit": "m", "convention": reason},
            {"family": "auc", "name": "auc_30", "variant": "", "unit": "%", "convention": "of AUC"},
        )
        told = [
            Measurement(**ate, value=0.25),
            Measurement(**auc, value=value, reason=reason if value is None else None),
        ]
        rewrite(path, measurements=told, notes=notes, sequence={"of": reason}, method_facts={"by": reason})
    unit = read_runs(paths).units[NAMES]
    assert (unit.values, unit.reasons, unit.notes) == ({ATE: 0.25}, {AUC: "first of all"}, ("a", "b", "c"))
    assert unit.meanings == {ATE: Meaning("m", "first", "lower"), AUC: Meaning("%", "of AUC", "higher")}
    assert (unit.input, unit.settings) == ({"of": "first"}, {"by": "first"})


def test_what_one_of_several_repeats_did_not_measure_has_no_value(tmp_path: Path) -> None:
    """Whichever of them it is: no reason is known, and no median of the others stands for it."""
    for lacking in range(3):
        paths = [write_run(tmp_path / f"{lacking}-{number}") for number in range(3)]
        told = {"name": "ate_rmse", "variant": "sim3", "unit": "m", "convention": "c", "family": "trajectory"}
        rewrite(paths[lacking], measurements=[Measurement(**told, value=0.25)])
        unit = read_runs(paths).units[NAMES]
        assert (dict(unit.values), unit.reasons) == ({ATE: 0.5}, {})


def test_a_scene_that_one_repeat_lacks_is_a_gap_of_all(tmp_path: Path) -> None:
    """In the planned order, damage of every repeat named."""
    paths = [write_run(tmp_path / str(number), scenes=("desk", "floor", "room")) for number in range(2)]
    for path, scene in zip(paths, ("floor", "desk"), strict=True):
        (path / "units" / "tum" / scene / "lingbot" / "result.json").write_text("{")
    side = read_runs(paths)
    assert list(side.units) == [("tum", "room", "lingbot")]
    assert {names[1]: str(path) in reason for (names, reason), path in zip(side.gaps.items(), paths, strict=True)} == {
        "floor": True,
        "desk": True,
    }
    assert [str(path) in line for path, line in zip(paths, side.problems, strict=True)] == [True, True]


def test_a_run_of_an_older_version_is_read_and_said_to_be_unchecked(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    for file in (path / "run.json", path / "units" / "tum" / "desk" / "lingbot" / "result.json"):
        record = json.loads(file.read_text(encoding="utf-8")) | {"schema_version": 1}
        if "files" in record:
            record["files"] = {name: known["bytes"] for name, known in record["files"].items()}
        file.write_text(json.dumps({key: value for key, value in record.items() if key != "sha256"}))
    side = read_runs([path])
    assert set(side.units) == {NAMES}
    assert side.problems == (
        f"run {path} could not be checked for damage: it was stored by an older version, without checksums",
    )
    # Damage that no checksum tells is found where the table is read, and is a gap as any other.
    table = path / "units" / "tum" / "desk" / "lingbot" / "frames.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("forward_ms", "forward_mm"), encoding="utf-8")
    damaged = read_runs([path])
    assert damaged.units == {}
    assert damaged.gaps[NAMES].startswith("left out: expected the table of frames of a scene in ")
    assert damaged.problems == (*side.problems, damaged.gaps[NAMES])


def test_runs_of_something_else_are_no_repeats(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b", key="f" * 16), write_run(tmp_path / "c")]
    with pytest.raises(ConfigError) as refused:
        read_runs(paths)
    assert str(refused.value) == (
        f"expected repeats of one run, found {paths[0]} (key 0123456789ab) and {paths[1]} (key ffffffffffff), which "
        "differ in experiment, checkpoint or code; gate them one by one"
    )


def test_repeats_on_another_machine_are_none(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name) for name in "ab"]
    store = RunStore.open(paths[1])
    record = store.read_run()
    store.write_run(record.model_copy(update={"environment": {**record.environment, "cpu_usable": 64}}))
    with pytest.raises(
        ConfigError,
        match=r'^expected repeats on one machine, found \{.*"cpu_usable": 2.*\} in .*a/\S+ and '
        r'\{.*"cpu_usable": 64.*\} in .*b/',
    ):
        read_runs(paths)


def test_a_folder_of_runs_and_no_run_at_all(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs")
    assert run_directories([tmp_path / "runs"]) == (run,)
    assert run_directories([run, tmp_path / "runs"]) == (run,)
    other = write_run(tmp_path / "others")
    assert run_directories([tmp_path / "others", run]) == (other, run)
    expected = "expected a run directory (with run.json) or a folder of repeats of one run, found"
    for path, what in ((tmp_path / "none", "no such folder"), (tmp_path, "a folder without either")):
        with pytest.raises(ConfigError) as refused:
            run_directories([path])
        assert str(refused.value) == f"{expected} {what}: {path}; start one with: lingbot-eval run"


def test_a_run_that_is_being_written_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    assert writer_of(path) is None
    with directory_lock(path):
        writer = writer_of(path)
        assert writer is not None
        assert writer.startswith("process ")
        with pytest.raises(StoreError) as refused:
            read_runs([path])
        words = f"run {path} is still being written by {writer}; wait until it ends, then gate it"
        assert str(refused.value) == words
    assert read_runs([path]).units
    # Looking does not keep a writer out afterwards.
    with directory_lock(path):
        pass


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, make_run_record())
    with pytest.raises(StoreError) as refused:
        read_runs([store.path])
    count = len(store.read_run().units)
    assert str(refused.value) == f"run {store.path} is empty: expected results of {count} scenes, found none; run it"


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
    side = read_runs([path])
    assert (side.units, side.problems) == ({}, (side.gaps[NAMES],))
    assert side.gaps[NAMES].startswith("left out: ")
    assert "frames.csv" in side.gaps[NAMES]


def test_a_run_that_was_killed_has_gaps(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    store = RunStore.open(path)
    record = store.read_run()
    store.write_run(record.model_copy(update={"units": [*record.units, ["tum", "floor", "lingbot"]]}))
    assert read_runs([path]).gaps == {
        ("tum", "floor", "lingbot"): "there is no result: the run did not get to it",
    }
