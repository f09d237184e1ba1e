"""Errors against frames, density and cache: what is drawn is what was stored, and where the report shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from lingbot_eval.cli.main import main
from lingbot_eval.reports import report
from lingbot_eval.reports.reading import Run, open_run, tables
from lingbot_eval.reports.sweep_figure import sweep_figure, sweeps
from lingbot_eval.reports.tables import RunResults
from lingbot_eval.stored.records import UnitRecord
from lingbot_eval.stored.store import RunStore, StoredUnit
from lingbot_eval.types import Measurement
from tests.stored.store_records import make_run_record, make_unit_record
from tests.support.tiny import run_folder, write_experiment

LENGTHS = [6, 9, 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over lengths of two scenes, without its report."""
    there = tmp_path_factory.mktemp("lengths")
    path = write_experiment(there)
    document = yaml.safe_load(path.read_text())
    document["datasets"][0]["lengths"] = LENGTHS
    # Saved poses are of 12 frames: of fewer they are matched by time.
    document["methods"].append({"kind": "motionless"})
    path.write_text(yaml.safe_dump(document))
    assert main(["run", str(path), "--out", str(there / "runs"), "--no-report"]) == 0
    return run_folder(there / "runs")


def ate(records: list[UnitRecord], dataset: str, method: str) -> float:
    return fmean(
        m.value or 0
        for record in records
        if (record.dataset, record.method) == (dataset, method)
        for m in record.measurements
        if (m.family, m.name, m.variant) == ("trajectory", "ate_rmse", "sim3")
    )


def test_points_are_means_over_the_scenes(folder: Path) -> None:
    run = open_run(folder)
    (sweep,) = sweeps([run])
    records = [unit.record for unit in run.results.units]
    assert (sweep.kind, sweep.title) == ("lengths", "synthetic")
    assert list(sweep.lines) == ["saved", "motionless"]
    for method, line in sweep.lines.items():
        assert [point.x for point in line] == LENGTHS
        for point, length in zip(line, LENGTHS, strict=True):
            expected = ate(records, f"synthetic, {length} frames", method)
            assert point.values["trajectory", "ate_rmse", "sim3"] == pytest.approx(expected)
            assert point.whole
    figure = sweep_figure(sweep)
    assert figure is not None
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("frames", "ATE (m)")
    assert [line.get_xdata().tolist() for line in axes.lines] == [LENGTHS, LENGTHS]


def test_a_scene_that_lacks_leaves_its_point_hollow(folder: Path) -> None:
    run = open_run(folder)
    kept = tuple(
        unit
        for unit in run.results.units
        if unit.folder.parent.name != "room" or "12" in str(unit.folder.relative_to(folder))
    )
    (sweep,) = sweeps([replace(run, results=replace(run.results, units=kept))])
    assert [point.whole for point in sweep.lines["saved"]] == [False, False, True]
    figure = sweep_figure(sweep)
    assert figure is not None
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [3, 2, 3, 2]


def test_the_report_shows_it_behind_the_first_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "draw_units", lambda *_: ((), (), {}))
    assert main(["report", str(folder), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    results = page.partition("\n## Results\n")[2].partition("\n## ")[0]
    assert (
        "synthetic; saved was streamed to each length by itself; motionless was streamed to 12 frames and scored"
        in results
    )
    assert "](figures/001-synthetic-lengths.png)" in results
    assert (tmp_path / "report" / "figures" / "001-synthetic-lengths.png").stat().st_size > 5_000
    assert (
        "Absolute trajectory and depth error against the number of frames"
        in (tmp_path / "report" / "report.html").read_text()
    )


def test_densities_have_the_strides_along_x_and_the_first_error_that_was_measured(folder: Path) -> None:
    """The same units as of three strides; depth as papers compute it before that of medians, clouds where they are."""
    run = open_run(folder)
    record = run.results.record
    strides = (4, 1, 2)
    datasets = [
        {**dataset, "selection": {"start": 0, "stride": stride, "count": None}}
        for dataset, stride in zip(record.experiment["datasets"], strides, strict=True)
    ]
    added = [
        Measurement("depth", "abs_rel", "scale_only", 0.5, "1", "c"),
        Measurement("depth", "abs_rel", "video_scale", 0.25, "1", "c"),
        Measurement("points", "chamfer", "", 0.125, "m", "c"),
    ]
    units = tuple(
        replace(unit, record=unit.record.model_copy(update={"measurements": [*unit.record.measurements, *added]}))
        for unit in run.results.units
    )
    record = record.model_copy(update={"experiment": {**record.experiment, "datasets": datasets}})
    other = replace(run, results=replace(run.results, record=record, units=units), label="one")
    (sweep,) = sweeps([other])
    assert (sweep.kind, sweep.title, sweep.label, list(sweep.lines)) == (
        "densities",
        "synthetic",
        "synthetic",
        ["saved", "motionless"],
    )
    records = [unit.record for unit in units]
    for stride, length in zip(strides, LENGTHS, strict=True):
        (point,) = [point for point in sweep.lines["motionless"] if point.x == stride]
        expected = ate(records, f"synthetic, {length} frames", "motionless")
        assert point.values["trajectory", "ate_rmse", "sim3"] == pytest.approx(expected)
    figure = sweep_figure(sweep)
    assert figure is not None
    assert [axes.get_xlabel() for axes in figure.axes] == ["every so many frames"] * 3
    assert [sorted(axes.get_xticks()) for axes in figure.axes] == [[1, 2, 4]] * 3
    drawn = [axes.lines[0].get_xydata().tolist() for axes in figure.axes[1:]]
    assert drawn == [[[x, y] for x in (1, 2, 4)] for y in (0.25, 0.125)]
    (both,) = sweeps([other, replace(other, label="two")])
    assert list(both.lines) == ["saved · one", "motionless · one", "saved · two", "motionless · two"]


def with_memory(run: Run, held: dict[str, tuple[float, int, int]]) -> Run:
    """The run's longest units again, by other methods: MiB held, window, interval."""
    last = [unit for unit in run.results.units if unit.record.method == "saved" and "12" in unit.record.dataset]
    made = [
        replace(
            unit,
            record=unit.record.model_copy(
                update={
                    "method": method,
                    "method_facts": {"window": window, "keyframe_interval": interval},
                    "measurements": [
                        *unit.record.measurements,
                        Measurement("memory", "cache_window", "", mebibytes, "MiB", "held"),
                    ],
                }
            ),
        )
        for unit in last
        for method, (mebibytes, window, interval) in held.items()
    ]
    record = run.results.record.model_copy(
        update={"units": [[unit.record.dataset, unit.record.scene, unit.record.method] for unit in made]}
    )
    return replace(run, results=replace(run.results, record=record, units=tuple(made)))


def test_memory_of_the_cache_is_an_axis_of_three_sizes_at_least(folder: Path) -> None:
    run = open_run(folder)
    held = {"a": (100.0, 16, 1), "b": (50.0, 8, 1), "c": (25.0, 8, 2)}
    (sweep,) = sweeps([with_memory(run, held)])
    assert sweep.kind == "budget"
    assert {name: [(point.x, point.words) for point in line] for name, line in sweep.lines.items()} == {
        "window as marked, keyframe interval 1": [
            (pytest.approx(50 * 2**20 / 1e9), "8"),
            (pytest.approx(100 * 2**20 / 1e9), "16"),
        ],
        "window as marked, keyframe interval 2": [(pytest.approx(25 * 2**20 / 1e9), "8")],
    }
    figure = sweep_figure(sweep)
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["8", "16", "8"]
    del held["c"]
    assert sweeps([with_memory(run, held)]) == ()


def made(
    datasets: list[tuple[str, dict[str, Any], dict[str, Any]]], units: list[tuple[str, str, str, dict[str, Any]]]
) -> Run:
    """A run of parts (label, selection, other settings) and units (label, scene, method, ate and other facts)."""
    stored = []
    for label, scene, method, facts in units:
        given = dict(facts)
        numbers = {key: given.pop(key, None) for key in ("ate", "depth", "mebibytes")}
        names = {
            "ate": ("trajectory", "ate_rmse", "sim3", "m"),
            "depth": ("depth", "abs_rel", "scale_only", "1"),
            "mebibytes": ("memory", "cache_window", "", "MiB"),
        }
        measured = [
            Measurement(*names[key][:3], value, names[key][3], "c")
            for key, value in numbers.items()
            if value is not None
        ]
        stored.append(StoredUnit(Path(), make_unit_record((label, scene, method), measurements=measured, **given)))
    experiment = {
        "datasets": [{"name": "d", "label": label, "selection": taken, **more} for label, taken, more in datasets]
    }
    planned = [list(unit[:3]) for unit in units]
    record = make_run_record(units=planned, experiment=experiment, weights={})
    results = RunResults(record, tuple(stored), {})
    return Run("one", RunStore(Path("nowhere")), results, None)


ATE = ("trajectory", "ate_rmse", "sim3")


def taken(count: int | None, stride: int = 1, start: int = 0) -> dict[str, Any]:
    return {"start": start, "stride": stride, "count": count}


def test_a_point_is_the_mean_of_its_scored_scenes_and_whole_where_all_have_all() -> None:
    parts = [("ten", taken(10), {}), ("five", taken(5), {})]
    units = [
        *(("ten", scene, "m", {"ate": ate, "depth": 0.5}) for scene, ate in zip("abc", (1.0, 2.0, 6.0), strict=True)),
        ("five", "a", "m", {"ate": 4.0, "depth": 0.5, "stream_frames": 10}),
        ("five", "b", "m", {"depth": 0.5}),  # and no trajectory
        ("five", "c", "m", {"ate": 9.0, "depth": 0.5, "status": "failed"}),
    ]
    (sweep,) = sweeps([made(parts, units)])
    ((five, ten),) = sweep.lines.values()
    assert (five.x, five.values[ATE], five.whole, five.along) == (5, 4.0, False, False)
    assert (ten.x, ten.values[ATE], ten.whole) == (10, 3.0, True)
    lacks_trajectory = [unit for unit in units if unit[3].get("status") != "failed"]
    ((five, _),) = sweeps([made(parts, lacks_trajectory)])[0].lines.values()
    assert not five.whole  # of depth it has all
    figure = sweep_figure(sweep)
    assert figure is not None
    assert [axes.get_ylim() for axes in figure.axes] == [(0, pytest.approx(1.12 * 4)), (0, pytest.approx(1.12 * 0.5))]


def test_parts_of_other_scenes_or_from_another_frame_are_no_sweep() -> None:
    units = [(label, "a", "m", {"ate": 1.0}) for label in ("x", "y")]
    for first, second in (
        (("x", taken(5), {"scenes": ["a"]}), ("y", taken(9), {"scenes": ["a", "b"]})),
        (("x", taken(5), {}), ("y", taken(9, start=3), {})),
        (("x", taken(9, stride=2), {}), ("y", taken(5, stride=1), {})),
    ):
        assert sweeps([made([first, second], units)]) == ()
    assert len(sweeps([made([("x", taken(5), {}), ("y", taken(9), {})], units)])) == 1


def test_lengths_of_several_strides_are_lines_by_stride() -> None:
    parts = [(f"{count} by {stride}", taken(count, stride), {}) for stride in (4, 1) for count in (9, 5)]
    units = [(label, "a", "m", {"ate": 1.0}) for label, _, _ in parts]
    (sweep,) = [each for each in sweeps([made(parts, units)]) if each.kind == "lengths"]
    assert {name: [point.x for point in line] for name, line in sweep.lines.items()} == {
        "m, stride 1": [5, 9],
        "m, stride 4": [5, 9],
    }
    assert list(sweep.lines) == ["m, stride 1", "m, stride 4"]


@pytest.mark.parametrize("longest", [None, 9])
def test_memory_is_of_the_longest_part_and_of_its_methods_by_name(longest: int | None) -> None:
    """A mean over scenes; without a window that was chosen each method is a line."""
    parts = [("short", taken(5), {}), ("long", taken(longest), {}), ("middle", taken(7), {})]
    units = [
        (label, scene, method, {"ate": 1.0, "mebibytes": factor * mebibytes, "method_facts": {"keyframe_interval": 2}})
        for label, factor in (("short", 7), ("long", 1), ("middle", 5))
        for method, mebibytes in (("p", 10.0), ("q", 20.0), ("r", 40.0))
        for scene in ("a", "b")
    ]
    (sweep,) = [each for each in sweeps([made(parts, units)]) if each.kind == "budget"]
    assert {name: [(point.x, point.words) for point in line] for name, line in sweep.lines.items()} == {
        name: [(pytest.approx(mebibytes * 2**20 / 1e9), "")] for name, mebibytes in (("p", 10), ("q", 20), ("r", 40))
    }


def test_alignments_of_video_depth_stand_side_by_side(folder: Path) -> None:
    """With the micro average over all pixels of the scenes, as papers take it."""
    run = open_run(folder)

    def depth(name: str, variant: str, value: float, samples: int) -> Measurement:
        return Measurement("depth", name, variant, value, "1", "made", samples=samples)

    def with_depth(record: UnitRecord) -> UnitRecord:
        pixels, value = (100, 0.1) if record.scene == "room" else (300, 0.2)
        found = [
            # The sample for the whole sequence is thinner in the longer scene.
            depth("abs_rel", "video_scale", value, 100),
            depth("abs_rel", "video_metric", 2 * value, 100),
            depth("abs_rel", "scale_only", value / 2, pixels),
        ]
        return record.model_copy(update={"measurements": found})

    units = tuple(replace(unit, record=with_depth(unit.record)) for unit in run.results.units)
    (table,) = [
        each for each in tables([replace(run, results=replace(run.results, units=units))]) if each.key == "depth-video"
    ]
    assert [column.variant for column in table.columns] == ["video_metric", "video_scale"]
    rows = {row.kind: [cell.value for cell in row.cells] for row in table.rows if row.dataset == "synthetic, 6 frames"}
    assert rows["mean"] == pytest.approx([0.3, 0.15])
    assert rows["micro"] == pytest.approx([(0.2 * 100 + 0.4 * 300) / 400, (0.1 * 100 + 0.2 * 300) / 400])
