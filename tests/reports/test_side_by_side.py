"""Several runs in one report: rows that say their run, columns of all, and where the settings differ."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import DESK, LINGBOT, OFFICE, build_run, run_record, unit_record
from page_reader import read_page

from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError
from lingbot_eval.reports.reading import (
    Run,
    UnitData,
    differing_cards,
    environments,
    failures,
    measurements,
    open_run,
    open_runs,
    overview,
    series,
    settings,
    tables,
)
from lingbot_eval.reports.rendering import csv_table, shown, table_data, text_table
from lingbot_eval.reports.report import write_report
from lingbot_eval.reports.scene_figures import together_figure
from lingbot_eval.reports.tables import Cell, Column, Row, Table, merged
from lingbot_eval.stored.records import RunRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import DriftSeries, Measurement


def measurement(name: str, value: float | None, convention: str = "as always") -> Measurement:
    return Measurement("trajectory", name, "sim3", value, "m", convention, reason="no depth" if value is None else None)


def small_run(root: Path, key: str, values: dict[str, list[Measurement] | None], **changes: object) -> Path:
    """One dataset and method; a scene with None is planned and never run."""
    base = {"key": key, "name": "small", "units": [["d", scene, "m"] for scene in values], "weights": {"m": "w.pt"}}
    record = RunRecord.model_validate(run_record().model_dump() | base | changes)
    store = RunStore.create(root, record)
    for scene, found in values.items():
        if found is not None:
            with store.unit_writer("d", scene, "m") as writer:
                writer.append_row({"index": 0, "timestamp": 0.0})
                writer.finish(unit_record(("d", scene), "m", 1, found))
    return store.path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Run, ...]:
    first = {"a": [measurement("ate_rmse", 1.0)], "b": [measurement("ate_rmse", 3.0)]}
    second = {"b": [measurement("ate_rmse", 30.0), measurement("ate_max", 7.0)], "c": None}
    paths = [
        small_run(tmp_path, "aaaaaaaaaaaa", first, experiment={"methods": [{"window": 16}], "seed": 1}),
        small_run(tmp_path, "bbbbbbbbbbbb", second, experiment={"methods": [{"window": 32}], "seed": 1}),
    ]
    return open_runs(paths, ["one", "two"])


def test_rows_of_one_scene_are_neighbours_and_means_stay_with_their_run(pair: tuple[Run, ...]) -> None:
    summary = tables(pair)[0]
    places = [(row.scene, row.run) for row in summary.rows]
    assert places[:4] == [("a", "one"), ("b", "one"), ("b", "two"), ("c", "two")]
    assert places[4:] == [("mean", "one"), ("mean", "two"), ("median", "one"), ("median", "two")]
    means = [row.cells[0].value for row in summary.rows if row.kind == "mean"]
    assert means == [2.0, 30.0]


def test_of_several_methods_rows_of_one_scene_are_neighbours_too() -> None:
    """By dataset, scene, method and run; then what is averaged by method, kind and run."""
    column = Column("auc", "auc_30", "", "%", ("c",))
    scenes = [("d", scene, method, "scene") for scene in "ab" for method in "mn"]
    averages = [("d", kind, method, kind) for method in "mn" for kind in ("mean", "median", "micro")]
    names: list[Any] = [*scenes, *averages, ("e", "a", "n", "scene")]
    table = Table("auc", "Pairs", (column,), tuple(Row(*name, (Cell(1.0),)) for name in names), ())
    (found,) = merged([("one", (table,)), ("two", (table,))])
    assert [(*row.names[:3], row.kind, row.run) for row in found.rows] == [
        (*name, run) for name in names for run in ("one", "two")
    ]


def test_a_column_that_only_one_run_has_is_a_gap_with_a_reason_in_the_other(pair: tuple[Run, ...]) -> None:
    (table,) = [table for table in tables(pair) if table.key == "trajectory"]
    names = [column.name for column in table.columns]
    assert names == ["ate_rmse", "ate_max"]
    cells = {(row.scene, row.run): row.cells[1] for row in table.rows}
    assert cells["b", "two"].value == 7.0
    gap = cells["b", "one"]
    assert gap.value is None
    assert table.notes[(gap.note or 0) - 1] == "not measured in this run"
    (missing,) = [row for row in table.rows if row.scene == "c"]
    assert "not run yet" in table.notes[(missing.note or 0) - 1]


def test_a_row_that_failed_says_so_in_the_columns_of_other_runs_and_notes_stay_with_their_cells() -> None:
    ate, fps = Column("trajectory", "ate_rmse", "", "m", ("c",)), Column("throughput", "fps", "", "fps", ("c",))
    rows = (
        Row("d", "a", "m", "scene", (Cell(None, 2),), note=2),
        Row("d", "b", "m", "scene", (Cell(None, 1),)),
        Row("d", "c", "m", "scene", (Cell(1.0),)),
    )
    one = Table("summary", "Summary", (ate,), rows, ("no poses", "it broke"))
    measured = Row("d", "a", "m", "scene", (Cell(9.0, 1), Cell(2.0)))
    two = Table("summary", "Summary", (fps, ate), (measured,), ("others ran",))
    (found,) = merged([("one", (one,)), ("two", (two,))])
    assert [column.name for column in found.columns] == ["ate_rmse", "fps"]
    said = [
        (
            *(row.scene, row.run, row.note and found.notes[row.note - 1]),
            *((cell.value, cell.note and found.notes[cell.note - 1]) for cell in row.cells),
        )
        for row in found.rows
    ]
    assert said == [
        ("a", "one", "it broke", (None, "it broke"), (None, "it broke")),
        ("a", "two", None, (2.0, None), (9.0, "others ran")),
        ("b", "one", None, (None, "no poses"), (None, "not measured in this run")),
        ("c", "one", None, (1.0, None), (None, "not measured in this run")),
    ]


def test_every_rendering_says_the_run(pair: tuple[Run, ...]) -> None:
    summary = tables(pair)[0]
    rows = list(csv.DictReader(io.StringIO(csv_table(summary))))
    assert [row["run"] for row in rows[:3]] == ["one", "one", "two"]
    assert "| dataset | scene | method | run |" in shown(summary).markdown(padded=False)
    assert re.search(r"d & b & m & two &", shown(summary).latex())
    assert shown(summary).latex().count(r"\begin{tabular}{llll") == 1
    assert "d / b · m · two" in text_table(summary)
    assert table_data(summary)["rows"][2]["run"] == "two"


def test_one_run_alone_has_no_column_of_runs(pair: tuple[Run, ...]) -> None:
    alone = tables(pair[:1])[0]
    assert csv_table(alone).startswith("dataset,scene,method,")
    assert "run" not in table_data(alone)["rows"][0]


def test_untrained_weights_are_told_of_their_run_alone(tmp_path: Path) -> None:
    found = {"a": [measurement("ate_rmse", 1.0)]}
    paths = [
        small_run(tmp_path, "a" * 12, found, weights={"m": "untrained (seed 0)"}),
        small_run(tmp_path, "b" * 12, found, weights={"m": "best.pt, sha256 12"}),
    ]
    summary = tables(open_runs(paths, ["raw", "good"]))[0]
    assert summary.untrained == ("m of raw",)
    lines = [line for line in shown(summary).markdown(padded=False).splitlines() if "| a |" in line]
    assert ["(untrained weights)" in line for line in lines] == [True, False]


def test_settings_are_named_as_set_takes_them_and_marked_where_they_differ(pair: tuple[Run, ...]) -> None:
    rows = {row.name: row for row in settings([run.results for run in pair])}
    assert rows["methods.0.window"].values == ("16", "32")
    assert rows["methods.0.window"].differs
    assert not rows["seed"].differs
    assert not any(row.differs for row in environments([run.results for run in pair]))


def test_a_setting_that_one_run_lacks_differs(tmp_path: Path) -> None:
    paths = [
        small_run(
            tmp_path,
            "a" * 12,
            {},
            experiment={"x": {"y": None}, "cards": {"d": {"n": 1}, "f": {"n": "long " * 50 + "1"}}},
        ),
        small_run(
            tmp_path,
            "b" * 12,
            {},
            experiment={"x": {}, "cards": {"d": {"n": 2}, "e": {}, "f": {"n": "long " * 50 + "2"}}},
        ),
    ]
    results = [run.results for run in open_runs(paths)]
    assert [(row.name, row.values) for row in settings(results)] == [("x.y", ("null", "–")), ("x", ("–", "{}"))]
    assert differing_cards(results) == ("d", "f")


def test_conventions_that_differ_are_told(tmp_path: Path) -> None:
    paths = [
        small_run(tmp_path, "a" * 12, {"s": [measurement("ate_rmse", 1.0, "in metres of the room")]}),
        small_run(tmp_path, "b" * 12, {"s": [measurement("ate_rmse", 1.0, "in metres of the world")]}),
    ]
    files = {file.name: file for file in write_report(paths, tmp_path / "out").files}
    for text in (files["report.md"].read_text(), read_page(files["report.html"]).text):
        assert "to be compared across rows" in text
        assert "in metres of the room; or in metres of the world" in text


def test_the_convention_of_what_was_not_measured_differs_from_nothing(tmp_path: Path) -> None:
    """A method without depth has no sample of pixels: among the methods of one run, and of a run of its own."""
    number, none = measurement("abs_rel", 1.0, "of a sample"), measurement("abs_rel", None, "of all pixels")
    one = small_run(tmp_path, "a" * 12, {"s": [number], "t": [none]})
    other = small_run(tmp_path, "b" * 12, {"s": [none]})
    for number_of, paths in enumerate(([one], [one, other])):
        (tmp_path / "out").mkdir(exist_ok=True)
        files = {file.name: file for file in write_report(paths, tmp_path / "out" / str(number_of)).files}
        text = files["report.md"].read_text()
        assert "of a sample" in text
        assert "to be compared across rows" not in text
        assert "of all pixels" not in text


def test_runs_of_one_name_are_told_apart_by_key_and_one_run_twice_by_its_place(tmp_path: Path) -> None:
    found: dict[str, list[Measurement] | None] = {"a": None}
    one, two = small_run(tmp_path, "1" * 12, found), small_run(tmp_path, "2" * 12, found)
    assert [run.label for run in open_runs([one, two])] == ["small 111111", "small 222222"]
    assert open_run(one).label == "small"
    copy = small_run(tmp_path / "elsewhere", "1" * 12, found)
    labels = [run.label for run in open_runs([one, copy])]
    assert labels == [f"small 111111 {one}", f"small 111111 {copy}"]


@pytest.mark.parametrize("labels", [["x"], ["x", "x"], ["x", "y", "z"]])
def test_labels_have_to_fit(pair: tuple[Run, ...], labels: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected 2 labels"):
        open_runs([run.store.path for run in pair], labels)


def test_the_public_way_to_read(tmp_path: Path) -> None:
    store = build_run(tmp_path, frames=30)
    run = open_run(str(store.path))
    table = measurements([run])
    assert list(table.columns[:4]) == ["run", "dataset", "scene", "method"]
    assert (str(table["value"].dtype), str(table["samples"].dtype)) == ("float64", "Int64")
    assert list(run.measurements().columns) == list(table.columns[1:])
    assert overview([run]).iloc[0]["untrained"] == LINGBOT
    stored = store.read_unit(*OFFICE, LINGBOT).record.measurements
    own = table[(table["scene"] == OFFICE[1]) & (table["method"] == LINGBOT)]
    assert own["name"].tolist() == [entry.name for entry in stored]
    assert overview([run]).iloc[0][["run", "scored", "planned"]].tolist() == ["fake", 5, 6]
    (failure,) = failures([run]).to_dict("records")
    assert (failure["scene"], failure["method"]) == (DESK[1], LINGBOT)
    frames = series(run, *OFFICE, LINGBOT).frames
    assert frames is not None
    assert len(frames) == 30


def test_two_runs_on_one_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [build_run(tmp_path / name, frames=30).path for name in ("x", "y")]
    words = ["report", *(str(path) for path in paths), "--label", "first", "--label", "_second $1$"]
    assert main(words) == 0
    (out,) = tmp_path.glob("report-2-runs-*")
    assert str(out.name) in capsys.readouterr().out
    page = read_page(out / "report.html")
    assert page.loads() == []
    heads = page.text.partition("Results")[0]
    assert "first" in heads
    assert "_second $1$" in heads
    assert "In none of their settings" in page.text
    # Two scenes have more than one run with errors or times; nothing of the failed one is drawn.
    assert len(list((out / "figures").glob("*-together.png"))) == 3
    assert len(list((out / "figures").glob("*-trajectory.png"))) == 3
    assert len(list((out / "figures").glob("0[12]-*.png"))) == 16
    assert main(words) == 0
    assert len(list(tmp_path.glob("report-2-runs-*"))) == 1


def test_methods_of_one_scene_are_drawn_side_by_side_with_their_growing_error() -> None:
    count = 400
    frames = {"index": np.arange(count)}
    frames |= {
        name: np.full(count, value)
        for name, value in (("position_error_m", 0.1), ("depth_abs_rel", np.nan), ("forward_ms", 5.0))
    }
    empty = np.array([])
    none = empty.astype(np.int64)

    def drift(slope: float) -> DriftSeries:
        steps = np.arange(10, count, 10)
        return DriftSeries(
            np.arange(count), *[np.zeros(count)] * 3, steps, slope * steps, none, empty, empty, empty, none, none
        )

    units = [UnitData(frames, drift=drift(0.01)), UnitData(frames, drift=drift(0.02)), UnitData()]
    lines = list(zip(("_a $x$", "b", "c"), units, strict=True))
    figure = together_figure(lines, "scene") or pytest.fail("nothing drawn")
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]
    assert ["growing prefixes" in title for title in titles] == [True, False, False]
    assert ["rolling median of up to" in title for title in titles] == [False, True, True]
    growth = [line.get_ydata() for line in figure.axes[0].get_lines()]
    assert [curve[-1] / curve[0] for curve in growth] == [pytest.approx(39)] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [" _a $x$", "b"]
    assert together_figure(lines[1:], "scene") is None
