"""Two stored runs: what was made to differ is found with its size, and what cannot be compared is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.comparison.page import prepare_folder
from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.reports.agreement import Differences, Summary, TimeSeries
from lingbot_eval.reports.reading import open_runs
from lingbot_eval.reports.report import write_report
from lingbot_eval.reports.two_runs import (
    MeasurementPair,
    RunComparison,
    UnitComparison,
    compare_opened,
    compare_runs,
    document,
    figure_of,
    page,
    remarks,
    tables,
    title,
    write_runs,
)
from lingbot_eval.stored.records import HostRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Measurement, Trajectory
from tests.reports.fake_run import walk
from tests.stored.store_records import make_run_record, make_unit_record
from tests.support.figure_reader import axes_titled, curve, curves

FRAMES = 120
HARDWARE = {"cpu_model": "made up", "torch": {"threads": 2, "gpus": []}}


def measurement(family: str, name: str, value: float | None, **changes: Any) -> Measurement:
    values = {"family": family, "name": name, "variant": "", "value": value, "unit": "m", "convention": "a convention"}
    return Measurement(**(values | changes))


def write_run(
    root: Path,
    trajectory: Trajectory | None,
    *,
    key: str,
    method: str = "lingbot",
    environment: dict[str, Any] = HARDWARE,
    depth_error: float = 0.1,
    **unit: Any,
) -> Path:
    """A run of one method on one scene, with this estimate; its depth error begins at ``depth_error`` and grows."""
    names = ("tum", "desk", method)
    record = make_run_record(
        key=key, units=[list(names)], environment=environment, weights={method: "untrained (seed 0)"}
    )
    store = RunStore.create(root, record)
    with store.lock(), store.unit_writer(*names) as writer:
        for index in range(FRAMES):
            writer.append_row(
                {
                    "index": 3 * index,
                    "timestamp": index / 30,
                    "forward_ms": 10.0,
                    "depth_abs_rel": depth_error + 1e-4 * index,
                }
            )
        if trajectory is not None:
            write_tum(writer.path("estimate.tum"), trajectory)
        writer.finish(make_unit_record(names, frames=FRAMES, predictions=FRAMES, **unit))
    return store.path


def moved(trajectory: Trajectory, degrees: float, shift: float) -> Trajectory:
    """In another world, at 2.5 times the size, with one frame turned and another shifted by a part of the extent."""
    poses = trajectory.camera_to_world.copy()
    poses[40, :3, :3] = poses[40, :3, :3] @ Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    poses[90, :3, 3] += [0.0, shift * np.linalg.norm(np.ptp(poses[:, :3, 3], axis=0)), 0.0]
    turn = Rotation.from_rotvec([0.4, -1.0, 0.7]).as_matrix()
    poses[:, :3, 3] = 2.5 * poses[:, :3, 3] @ turn.T + [5.0, 6.0, 7.0]
    poses[:, :3, :3] = turn @ poses[:, :3, :3]
    return Trajectory(trajectory.indices, trajectory.timestamps, poses)


def two_runs(tmp_path: Path, **b: Any) -> RunComparison:
    path_a = write_run(tmp_path / "a", walk(FRAMES, 1), key="a" * 16)
    path_b = write_run(tmp_path / "b", **{"trajectory": moved(walk(FRAMES, 1), 3.0, 0.05), "key": "b" * 16} | b)
    return compare_runs(path_a, path_b)


def test_trajectories_are_compared_after_alignment(tmp_path: Path) -> None:
    (unit,) = two_runs(tmp_path).units
    assert unit.differences is not None
    assert unit.differences.indices.tolist() == [3 * index for index in range(FRAMES)]
    # The shifted frame turns the alignment of all others by a little.
    assert unit.scale == pytest.approx(1 / 2.5, rel=1e-3)
    rotation, position = unit.differences.rotation_deg, unit.differences.position
    assert int(rotation.argmax()) == 40
    assert rotation[40] == pytest.approx(3.0, abs=0.2)
    assert np.median(rotation) < 0.2
    assert int(position.argmax()) == 90
    assert position[90] == pytest.approx(0.05, rel=0.05)
    assert np.median(position) < 1e-3
    (errors,) = unit.errors
    assert (errors.name, errors.largest) == ("depth_abs_rel", 0.0)


def test_an_error_that_fell_differs_as_much_as_one_that_rose(tmp_path: Path) -> None:
    for name, depth_error in (("fell", 0.07), ("rose", 0.13)):
        (errors,) = two_runs(tmp_path / name, depth_error=depth_error).units[0].errors
        assert (errors.median, errors.largest) == (pytest.approx(0.03), pytest.approx(0.03))


def test_errors_are_of_the_frames_that_both_runs_have(tmp_path: Path) -> None:
    """One run has every third frame, the other every second; of one no time is known."""
    paths = []
    for label, step, error, time in (("a", 3, 0.5, 10.0), ("b", 2, 0.75, None)):
        store = RunStore.create(tmp_path / label, make_run_record(key=label * 16, units=[["tum", "desk", "m"]]))
        with store.lock(), store.unit_writer("tum", "desk", "m") as writer:
            for index in range(0, 13, step):
                row = {"index": index, "timestamp": index / 30, "forward_ms": time, "depth_abs_rel": error + index}
                more = {"position_error_m": 2 * error + index, "rotation_error_deg": 10 * error + index}
                writer.append_row(row | more)
            write_tum(writer.path("estimate.tum"), walk(13, 1))
            writer.finish(make_unit_record(("tum", "desk", "m")))
        paths.append(store.path)
    (unit,) = compare_runs(*paths).units
    assert [(each.name, each.unit, each.frames, each.median, each.largest) for each in unit.errors] == [
        ("position_error_m", "m", 3, 0.5, 0.5),
        ("rotation_error_deg", "deg", 3, 2.5, 2.5),
        ("depth_abs_rel", "1", 3, 0.25, 0.25),
    ]
    assert [series.label for series in unit.times] == ["A"]


def test_measurements_side_by_side(tmp_path: Path) -> None:
    both = {"ate_rmse": (1.0, 1.5), "ate_max": (2.0, 1.0)}
    a = [measurement("trajectory", name, values[0]) for name, values in both.items()]
    b = [measurement("trajectory", name, values[1]) for name, values in both.items()]
    a += [
        measurement("depth", "abs_rel", 0.1, convention="pooled"),
        measurement("depth", "rmse", 0.1, unit="m"),
        measurement("depth", "only_a", 0.1),
        measurement("throughput", "forward_fps", 10.0, unit="fps"),
        measurement("memory", "driver", None, reason="ran on the CPU"),
        measurement("memory", "device", 4.0),
    ]
    b += [
        measurement("depth", "abs_rel", 0.2, convention="per frame"),
        measurement("depth", "rmse", 0.2, unit="1"),
        measurement("throughput", "forward_fps", 12.0, unit="fps"),
        measurement("memory", "driver", 3.0),
        measurement("memory", "device", None, reason="the card was lost"),
        measurement("depth", "only_b", 0.25, unit="1"),
    ]
    path_a = write_run(tmp_path / "a", None, key="a" * 16, measurements=a)
    path_b = write_run(tmp_path / "b", None, key="b" * 16, measurements=b)
    compared = compare_runs(path_a, path_b)
    (unit,) = compared.units
    (table,) = [table for table in tables(compared) if table.title.startswith("Measurements")]
    cells = {row[1]: row[2:] for row in table.rows}
    assert cells["ate_rmse"] == ("1.000 m", "1.500 m", "0.5000 m", "50.00 %")
    assert cells["ate_max"] == ("2.000 m", "1.000 m", "-1.000 m", "-50.00 %")
    found = {pair.name: pair for pair in unit.measurements}
    assert {name: pair.difference for name, pair in found.items()} == {
        "ate_rmse": 0.5,
        "ate_max": -1.0,
        "abs_rel": None,
        "rmse": None,
        "only_a": None,
        "forward_fps": 2.0,
        "driver": None,
        "device": None,
        "only_b": None,
    }
    assert list(found) == [*both, "abs_rel", "rmse", "only_a", "forward_fps", "driver", "device", "only_b"]
    assert {name: cells[name][:2] for name in ("only_a", "only_b", "device")} == {
        "only_a": ("0.1000 m", "n/a"),
        "only_b": ("n/a", "0.2500"),
        "device": ("4.000 m", "n/a"),
    }
    reasons = {name: pair.reason for name, pair in found.items() if pair.reason}
    assert reasons == {
        "abs_rel": "conventions differ: A: pooled; B: per frame",
        "rmse": "units differ: A in m, B in 1",
        "only_a": "not measured in B",
        "driver": "A: ran on the CPU",
        "device": "B: the card was lost",
        "only_b": "not measured in A",
    }
    assert unit.reason is not None
    assert "no trajectory is stored" in unit.reason


def test_other_hardware_and_other_input_are_said(tmp_path: Path) -> None:
    fast = {"cpu_model": "other", "torch": {"threads": 2, "gpus": [{"name": "H100"}]}, "libraries": {"torch": "9.9"}}
    found = two_runs(
        tmp_path,
        environment=fast,
        input_fingerprint="input-2",
        sequence={"selection": {"stride": 2}},
        method_facts={"backend": "paged"},
        measurements=[measurement("throughput", "forward_fps", 12.0)],
    )
    (unit,) = found.units
    assert not unit.same_hardware
    assert "different hardware" in found.remarks[0]
    assert "H100" in found.remarks[0]
    assert any(line.startswith("torch: A null, B ") for line in found.remarks)
    assert unit.remarks == ("input: selection.stride: A null, B 2",)
    assert unit.settings == (("backend", "null", '"paged"'),)
    assert all(line in "\n".join(remarks(found)) for line in (*found.remarks, *unit.remarks))


def test_files_that_changed_are_said(tmp_path: Path) -> None:
    (unit,) = two_runs(tmp_path, input_fingerprint="input-2").units
    assert unit.remarks == ("input: the files differ in name, size or time of change; are they the same data?",)


def test_times_and_memory_are_not_compared_across_hardware(tmp_path: Path) -> None:
    record = [
        measurement("throughput", "forward_fps", 12.0),
        measurement("memory", "device_peak_allocated", 3.0),
        measurement("trajectory", "ate_rmse", 1.0),
    ]
    path_a = write_run(tmp_path / "a", None, key="a" * 16, measurements=record)
    path_b = write_run(tmp_path / "b", None, key="b" * 16, measurements=record, environment={"cpu_model": "other"})
    (unit,) = compare_runs(path_a, path_b).units
    assert unit.measurements == (
        MeasurementPair("throughput", "forward_fps", "", "m", 12.0, 12.0, "different hardware"),
        MeasurementPair("memory", "device_peak_allocated", "", "m", 3.0, 3.0, "different hardware"),
        MeasurementPair("trajectory", "ate_rmse", "", "m", 1.0, 1.0),
    )


def test_all_that_differs_between_two_runs_is_said(tmp_path: Path) -> None:
    """Weights, code, libraries, what was not checked, what is left out, what has no result, each of its own run."""
    paths = []
    for label, commit, weights, seconds in (("a", "c1", "w1", 5), ("b", "c2", "w2", 3)):
        names = [["tum", "desk", "m"], ["tum", f"only-{label}", "m"], ["tum", f"gone-{label}", "m"]]
        block = HARDWARE | {"git": {"commit": commit}, "libraries": {"torch": f"2.{seconds}"}, "python": label}
        record = make_run_record(
            key=label * 16, name=f"of {label}", units=names, environment=block, weights=dict.fromkeys("zmykxb", weights)
        )
        store = RunStore.create(tmp_path / label, record)
        for scene in ("desk", f"only-{label}"):
            with store.lock(), store.unit_writer("tum", scene, "m") as writer:
                writer.finish(make_unit_record(("tum", scene, "m"), frames=9, predictions=seconds))
        stray = store.path / "units" / "tum" / "stray" / "m"
        stray.mkdir(parents=True)
        (stray / "result.json").write_text("{")
        paths.append(store.path)
    found = compare_runs(paths[0], paths[1])
    assert (found.paths, found.labels, found.names) == (tuple(map(str, paths)), ("A", "B"), ("of a", "of b"))
    assert found.remarks == (
        *(f"different weights of {method}: A w1, B w2" for method in "bkmxyz"),
        'torch: A "2.5", B "2.3"',
        'code.commit: A "c1", B "c2"',
        "times were taken in two runs, not in turn: compare backends by name for that",
    )
    (unit,) = found.units
    assert unit.remarks == ("predictions: A 5 of 9 frames, B 3 of 9 frames",)
    lines = [line for line in found.failures if "left out" not in line]
    assert lines == [
        "A tum/only-a/m: no counterpart in the other run",
        "A tum/gone-a/m: no result yet",
        "B tum/only-b/m: no counterpart in the other run",
        "B tum/gone-b/m: no result yet",
    ]
    left_out = [line for line in found.failures if "left out" in line]
    assert [line.partition(":")[0] for line in left_out] == ["A", "B"]
    whole = document(found)
    assert (whole["a"], whole["b"]) == found.paths
    assert (whole["remarks"], whole["failures"]) == (list(found.remarks), list(found.failures))


def test_times_of_a_disturbed_unit_are_not_compared(tmp_path: Path) -> None:
    told = [measurement("throughput", "forward_fps", 12.0), measurement("trajectory", "ate_rmse", 1.0)]
    a = write_run(tmp_path / "a", None, key="a" * 16, measurements=told)
    b = write_run(tmp_path / "b", None, key="b" * 16, measurements=told, host=HostRecord(name="h", beside=1))
    words = "measured while other units ran on the host"
    for first, second, reason in ((a, b, f"B: {words}"), (b, a, f"A: {words}"), (b, b, f"A: {words}; B: {words}")):
        (unit,) = compare_runs(first, second).units
        assert [pair.reason for pair in unit.measurements] == [reason, None]


def test_positions_without_orientation_have_no_turn(tmp_path: Path) -> None:
    bare = replace(moved(walk(FRAMES, 1), 3.0, 0.05), has_orientation=False)
    found = two_runs(tmp_path, trajectory=bare)
    (other,) = compare_runs(Path(found.paths[1]), Path(found.paths[0])).units
    for unit in (*found.units, other):
        assert unit.differences is not None
        assert np.isnan(unit.differences.rotation_deg).all()
        assert unit.differences.position[90] == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(("count", "reason"), [(3, None), (2, "the trajectories have 2 timestamps in common")])
def test_three_common_frames_are_enough(tmp_path: Path, count: int, reason: str | None) -> None:
    walked, rows = walk(FRAMES, 1), np.array([0, 40, 90])[:count]
    few = Trajectory(walked.indices[rows], walked.timestamps[rows], walked.camera_to_world[rows])
    found = two_runs(tmp_path, trajectory=few)
    for unit in (*found.units, *compare_runs(*map(Path, found.paths[::-1])).units):
        assert (unit.reason or "").startswith(reason or "")
        assert (unit.differences is None) == (count < 3)
        if unit.differences is not None:
            # Frames of the sequence, not rows of the shorter file.
            assert unit.differences.indices.tolist() == [0, 120, 270]
            assert unit.differences.position == pytest.approx(np.zeros(3), abs=1e-9)


def test_a_change_is_a_share_of_what_a_has_whatever_its_sign(tmp_path: Path) -> None:
    values = {"falls": (-2.0, -3.0), "rises": (-2.0, -1.0), "from_nothing": (0.0, 1.0)}
    of = [[measurement("mine", name, pair[side]) for name, pair in values.items()] for side in (0, 1)]
    paths = [write_run(tmp_path / k, None, key=k * 16, measurements=m) for k, m in zip("ab", of, strict=True)]
    (table,) = [each for each in tables(compare_runs(*paths)) if each.title.startswith("Measurements")]
    assert {row[1]: row[4:] for row in table.rows} == {
        "falls": ("-1.000 m", "-50.00 %"),
        "rises": ("1.000 m", "50.00 %"),
        "from_nothing": ("1.000 m", "n/a"),
    }


def test_the_figure_says_where_the_hardware_differs(tmp_path: Path) -> None:
    for environment, words in ((HARDWARE, "as stored"), ({"cpu_model": "other"}, "as stored (different hardware)")):
        found = two_runs(tmp_path / words[-3:], environment=environment)
        drawn = figure_of(found, found.units[0])
        assert drawn is not None
        runs = "Run B (smoke) against run A (smoke) (untrained weights)"
        assert drawn.get_suptitle() == f"{runs}: tum / desk · lingbot"
        assert [axes.get_title(loc="left") for axes in drawn.axes][-1] == f"Time of each frame on the device, {words}"


def test_a_failed_unit_keeps_its_reason(tmp_path: Path) -> None:
    found = two_runs(tmp_path, status="failed", reason="CUDA out of memory", stage="stream", measurements=[])
    (unit,) = found.units
    assert unit.reason == "B failed: CUDA out of memory"
    assert found.failures == ("B tum/desk/lingbot: failed: CUDA out of memory",)
    assert "CUDA out of memory" in page(found, {})


def test_one_method_each_is_paired_whatever_the_names(tmp_path: Path) -> None:
    (unit,) = two_runs(tmp_path, method="orb").units
    assert unit.methods == ("lingbot", "orb")
    assert unit.label == "tum / desk · lingbot and orb"


def test_of_several_methods_each_is_held_against_itself(tmp_path: Path) -> None:
    """Even where one of the runs has but one method: it is no other's counterpart."""
    runs = {}
    for label, methods in (("a", "mno"), ("b", "onm"), ("c", "n")):
        names = [["tum", scene, method] for method in methods for scene in ("desk", "floor")]
        weights = {method: method if method == "n" else f"{method} of {label}" for method in methods}
        store = RunStore.create(
            tmp_path / label, make_run_record(key=label * 16, name=label, units=names, weights=weights)
        )
        for number, (dataset, scene, method) in enumerate(names):
            with store.lock(), store.unit_writer(dataset, scene, method) as writer:
                told = [measurement("mine", f"of {method} on {scene}", float(number))]
                writer.finish(make_unit_record((dataset, scene, method), measurements=told))
        runs[label] = store.path
    places = [(scene, method) for method in "mno" for scene in ("desk", "floor")]
    for first, second, there in (("a", "b", places), ("a", "c", places[2:4]), ("c", "a", places[2:4])):
        found = compare_runs(runs[first], runs[second])
        assert sorted((unit.scene, *unit.methods) for unit in found.units) == sorted((*each, each[1]) for each in there)
        for unit in found.units:
            (pair,) = unit.measurements
            assert (pair.name, pair.reason) == (f"of {unit.methods[0]} on {unit.scene}", None)
        assert [line for line in found.remarks if "weights" in line] == (
            [f"different weights of {method}: A {method} of a, B {method} of b" for method in "mo"]
            if second == "b"
            else []
        )
    # A scene that is there with other methods alone has no counterpart.
    assert sorted(found.failures) == sorted(
        f"B tum/{scene}/{method}: no counterpart in the other run" for scene, method in places if method != "n"
    )


def test_a_run_that_was_not_checked_for_damage_says_so(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / label, None, key=label * 16) for label in "ab"]
    a, b = open_runs(paths, labels=("old", "new"))
    unchecked = replace(b, results=replace(b.results, unchecked="its list of files is lost"))
    words = "was not checked for damage: its list of files is lost"
    assert [line for line in compare_opened(a, unchecked).remarks if "checked" in line] == [f"new {words}"]
    assert not [line for line in compare_opened(a, b).remarks if "checked" in line]


def test_too_few_common_frames(tmp_path: Path) -> None:
    walked = walk(FRAMES, 1)
    for late in (0.01, 3e-6):
        other = Trajectory(walked.indices, walked.timestamps + late, walked.camera_to_world)
        (unit,) = two_runs(tmp_path / str(late), trajectory=other).units
        assert unit.differences is None
        assert unit.reason == "the trajectories have 0 timestamps in common, an alignment needs 3"
    # The last digits of a time are no other time.
    other = Trajectory(walked.indices, walked.timestamps + 5e-7, walked.camera_to_world)
    (unit,) = two_runs(tmp_path / "same", trajectory=other).units
    assert unit.differences is not None
    assert len(unit.differences.indices) == FRAMES


def test_a_damaged_table_is_named_and_its_scene_left_out(tmp_path: Path) -> None:
    path_a = write_run(tmp_path / "a", walk(FRAMES, 1), key="a" * 16)
    path_b = write_run(tmp_path / "b", walk(FRAMES, 1), key="b" * 16)
    (path_b / "units" / "tum" / "desk" / "lingbot" / "frames.csv").write_text("nonsense\n")
    found = compare_runs(path_a, path_b)
    assert not found.units
    assert any(line.startswith("B: left out: ") and "frames.csv is damaged" in line for line in found.failures)
    assert "A tum/desk/lingbot: no counterpart in the other run" in found.failures


def test_nothing_in_common(tmp_path: Path) -> None:
    path_a = write_run(tmp_path / "a", None, key="a" * 16)
    store = RunStore.create(tmp_path / "b", make_run_record(key="b" * 16, units=[["tum", "office", "lingbot"]]))
    with pytest.raises(ConfigError, match="no scene and method in common: A has tum/desk/lingbot; B has tum/office/l"):
        compare_runs(path_a, store.path)
    many = RunStore.create(
        tmp_path / "m", make_run_record(key="m" * 16, units=[["tum", f"s{number}", "lingbot"] for number in range(9)])
    )
    first_six = ", ".join(f"tum/s{number}/lingbot" for number in range(6))
    with pytest.raises(ConfigError, match=rf": A has {first_six}; B has tum/desk/lingbot$"):
        compare_runs(many.path, path_a)
    nothing = RunStore.create(tmp_path / "n", make_run_record(key="n" * 16, units=[]))
    with pytest.raises(ConfigError, match=r"A has tum/desk/lingbot; B has nothing$"):
        compare_runs(path_a, nothing.path)
    with pytest.raises(StoreError, match="expected a run directory"):
        compare_runs(path_a, tmp_path)
    # Of several methods each is paired with itself alone, and a scene that is planned may still come.
    several = [
        RunStore.create(
            tmp_path / names, make_run_record(key=names[0] * 16, units=[["tum", "desk", name] for name in names])
        ).path
        for names in ("mn", "op", "nq")
    ]
    with pytest.raises(ConfigError, match="no scene and method in common"):
        compare_runs(several[0], several[1])
    assert compare_runs(several[0], several[2]).units == ()


def test_page_numbers_and_figure(tmp_path: Path) -> None:
    found = two_runs(tmp_path)
    files = write_runs(found, prepare_folder(tmp_path / "out"))
    assert [file.name for file in files] == ["compare.md", "compare-001.png", "compare.json"]
    assert files[1].read_bytes().startswith(b"\x89PNG")
    text = files[0].read_text(encoding="utf-8")
    assert text.startswith("# Run B (smoke) against run A (smoke) (untrained weights)")
    assert "](compare-001.png)" in text
    assert all("untrained weights" in table.title for table in tables(found))
    assert json.loads(files[2].read_text(encoding="utf-8")) == document(found)
    assert document(found)["title"] == title(found)
    assert found.untrained == ("A lingbot", "B lingbot")


def known() -> RunComparison:
    """A scene that was compared and one that was not; no two numbers alike."""
    measured = MeasurementPair("trajectory", "ate_rmse", "sim3", "m", 1.0, 1.5)
    gap = MeasurementPair("memory", "driver", "", "MiB", None, 3.0, "old: ran on the CPU")
    differences = Differences(np.arange(3), np.arange(3) + 0.25, np.arange(3) + 1.5)
    errors = (Summary("depth_abs_rel", "1", 3, 0.125, None, 0.375),)
    times = tuple(
        TimeSeries(label, np.arange(3.0), np.arange(3.0) + first) for label, first in (("old", 7.0), ("new", 9.0))
    )
    settings = (("window", "16", "32"),)
    unit = UnitComparison(
        "tum", "desk", ("m", "n"), ("input: x",), settings, True, (measured, gap), differences, 0.4, None, errors, times
    )
    other = UnitComparison("tum", "office", ("m", "m"), (), (), True, reason="new failed: crash")
    return RunComparison(
        ("a/x", "b/y"), ("old", "new"), ("one", "two"), ("old m",), ("slow",), ("gone",), (other, unit)
    )


def test_the_document_says_each_number_under_its_name() -> None:
    found = document(known())
    office, desk = found.pop("units")
    assert found == {
        "title": "Run new (two) against run old (one) (untrained weights)",
        "a": "a/x",
        "b": "b/y",
        "untrained_weights": ["old m"],
        "remarks": ["slow"],
        "failures": ["gone"],
    }
    lists = ("remarks", "settings", "differences", "error_differences", "measurements")
    empty: dict[str, Any] = {name: [] for name in lists}
    assert office == {
        **empty,
        "dataset": "tum",
        "scene": "office",
        "methods": ["m", "m"],
        "reason": "new failed: crash",
        "scale_of_b": None,
    }
    medians = {entry["name"]: (entry["median"], entry["largest"]) for entry in desk.pop("differences")}
    assert medians == {"rotation": (1.25, 2.25), "position": (2.5, 3.5)}
    (errors,) = desk.pop("error_differences")
    assert (errors["name"], errors["median"], errors["largest"]) == ("depth_abs_rel", 0.125, 0.375)
    named = ("family", "name", "variant", "unit", "a", "b", "reason", "difference")
    assert desk == {
        "dataset": "tum",
        "scene": "desk",
        "methods": ["m", "n"],
        "remarks": ["input: x"],
        "settings": [{"key": "window", "a": "16", "b": "32"}],
        "reason": None,
        "scale_of_b": 0.4,
        "measurements": [
            dict(zip(named, ("trajectory", "ate_rmse", "sim3", "m", 1.0, 1.5, None, 0.5), strict=True)),
            dict(zip(named, ("memory", "driver", "", "MiB", None, 3.0, "old: ran on the CPU", None), strict=True)),
        ],
    }


def test_the_page_of_two_runs_says_each_number_of_its_run(tmp_path: Path) -> None:
    agreement, settings, measured = tables(known())
    assert [row[:2] + row[-2:] for row in agreement.rows] == [
        ("tum / desk · m and n", "rotation", "needs 32 frames", "3"),
        ("tum / desk · m and n", "position", "needs 32 frames", "3"),
        ("tum / desk · m and n", "depth_abs_rel", "needs 32 frames", "3"),
        ("tum / office · m", "trajectory", "new failed: crash", "0"),
    ]
    assert "it adds more than 50% of the median from first frame to last" in agreement.legend[1]
    assert agreement.legend[2].startswith(
        "rotation and position after the Sim(3) alignment of new to old; position relative to the extent of old; "
    )
    assert agreement.legend[3:] == (
        "tum / desk · m and n: new was scaled by 0.4000",
        "n/a: a trend needs 32 frames, there are 3 (tum / desk · m and n rotation, tum / desk · m and n position)",
    )
    assert [each.title for each in settings.columns] == ["setting", "old", "new"]
    heads = ["family", "measurement", "old", "new", "new − old", "relative"]
    assert [each.title for each in measured.columns] == heads
    assert measured.rows == [
        ("trajectory", "ate_rmse sim3", "1.000 m", "1.500 m", "0.5000 m", "50.00 %"),
        ("memory", "driver", "n/a", "3.000 MiB", "n/a", "n/a"),
    ]
    assert measured.legend == ["no difference: old: ran on the CPU (driver)"]
    files = write_runs(known(), prepare_folder(tmp_path))
    # The number is that of the scene: the first one could not be compared.
    assert [file.name for file in files] == ["compare.md", "compare-002.png", "compare.json"]
    text = files[0].read_text(encoding="utf-8")
    assert (
        "### tum / desk · m and n\n\n![Agreement and time along the sequence: tum / desk · m and n](compare-002.png)"
        in text
    )
    lines = text.splitlines()
    head = ["- old: a/x", "- new: b/y", "- untrained weights: old m", "- **gone**", "- slow"]
    assert lines[2:8] == [*head, "- tum / desk · m and n: input: x"]
    assert figure_of(known(), known().units[0]) is None
    figure = figure_of(known(), known().units[1])
    times = axes_titled(figure, "Time of each frame on the device, as stored")
    assert {name: points[0, 1] for name, points in curves(times).items()} == {"old": 7.0, "new": 9.0}
    rotations = axes_titled(figure, "Angle between the orientations")
    assert curve(rotations, "new after alignment to old")[:, 1].tolist() == [0.25, 1.25, 2.25]


def test_a_report_of_two_runs_holds_one_against_the_other(tmp_path: Path) -> None:
    measured = [measurement("trajectory", "ate_rmse", 2.0)]
    a = write_run(tmp_path / "a", walk(FRAMES, 1), key="a" * 16, measurements=measured)
    moved = walk(FRAMES, 1)
    turned = np.array(moved.camera_to_world)
    turned[:, :3, :3] = turned[:, :3, :3] @ Rotation.from_euler("z", 5, degrees=True).as_matrix()
    other = Trajectory(moved.indices, moved.timestamps, turned)
    b = write_run(tmp_path / "b", other, key="b" * 16, measurements=[measurement("trajectory", "ate_rmse", 3.0)])
    written = write_report([a, b], tmp_path / "report", html=False, labels=("old", "new"))
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    section = text.partition("## One run against the other")[2].partition("\n## ")[0]
    assert "| tum / desk · lingbot | rotation | 5.000 deg |" in section
    assert "| trajectory | ate_rmse | 2.000 m | 3.000 m | 1.000 m | 50.00 % |" in section
    assert "new − old" in section
    assert [file.name for file in written.files if file.name.endswith("-agreement.png")] == [
        "001-tum-desk-lingbot-agreement.png"
    ]
    # One run, or two of different scenes, are not held against each other.
    write_report([a], tmp_path / "one", html=False)
    assert "One run against the other" not in (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    store = RunStore.create(tmp_path / "c", make_run_record(key="c" * 16, units=[["tum", "office", "lingbot"]]))
    write_report([a, store.path], tmp_path / "two", html=False)
    assert "One run against the other" not in (tmp_path / "two" / "report.md").read_text(encoding="utf-8")
