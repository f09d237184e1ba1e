"""Tables of a fake run: means over scored scenes, a reason in every gap, nothing foreign gets through."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from fake_run import DESK, HOSTILE, LINGBOT, REPLAY, build_run, run_record, unit_record
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.reports import tables as tables_module
from lingbot_eval.reports.rendering import csv_table, legend, measurements_csv, pieces, shown, table_data, text_table
from lingbot_eval.reports.tables import (
    MEASUREMENT_COLUMNS,
    Cell,
    Column,
    Row,
    RunResults,
    Table,
    measurement_rows,
    read_results,
)
from lingbot_eval.stored.records import HostRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.tables import latex_text, markdown_text, number_text, plain
from lingbot_eval.types import Measurement


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return read_results(build_run(tmp_path_factory.mktemp("runs"), frames=40))


@pytest.fixture(scope="module")
def tables(results: RunResults) -> dict[str, Table]:
    return {table.key: table for table in results.tables}


def ate(value: float | None, reason: str | None = None) -> Measurement:
    return Measurement("trajectory", "ate_rmse", "sim3", value, "m", "RMSE", reason=reason)


def store_of(root: Path, ates: dict[str, Measurement | None]) -> RunStore:
    """One dataset, one method; a scene with None is planned and never run."""
    record = run_record().model_copy(update={"units": [["d", scene, "m"] for scene in ates], "weights": {"m": "none"}})
    store = RunStore.create(root, record)
    for scene, measurement in ates.items():
        if measurement is not None:
            with store.unit_writer("d", scene, "m") as writer:
                writer.finish(unit_record(("d", scene), "m", 5, [measurement]))
    return store


# Means


def test_means_are_over_scored_scenes_and_say_how_many(tmp_path: Path) -> None:
    ates = {"a": ate(1.0), "b": ate(2.0), "c": ate(6.0), "d": ate(None, "static reference"), "e": None}
    summary = read_results(store_of(tmp_path, ates)).tables[0]
    cells = {row.scene: row.cells[0] for row in summary.rows}
    assert cells["mean"].value == pytest.approx(3.0)
    assert cells["median"].value == pytest.approx(2.0)
    assert cells["mean"].scored == cells["median"].scored == (3, 5)
    # Why the others have no number is no doubt about these.
    assert cells["mean"].note is cells["median"].note is None
    even = read_results(store_of(tmp_path / "even", {"a": ate(1.0), "b": ate(2.0), "c": ate(9.0), "d": ate(4.0)}))
    assert {row.scene: row.cells[0].value for row in even.tables[0].rows}["median"] == 3.0
    assert "3.000 (3 of 5)" in shown(summary).markdown(padded=False)
    assert r"3.000 (3 of 5)" in shown(summary).latex()
    reasons = [summary.notes[(cells[scene].note or 0) - 1] for scene in "de"]
    assert reasons[0] == "static reference"
    assert "not run yet" in reasons[1]


def test_one_scene_has_no_mean(tmp_path: Path) -> None:
    summary = read_results(store_of(tmp_path, {"a": ate(1.0)})).tables[0]
    assert [row.kind for row in summary.rows] == ["scene"]


def test_datasets_are_never_mixed_in_a_mean(tables: dict[str, Table]) -> None:
    means = [(row.dataset, row.method) for row in tables["summary"].rows if row.kind == "mean"]
    assert means == [("indoor", LINGBOT), ("indoor", REPLAY)]


# Gaps


def test_every_gap_has_its_reason_in_every_rendering(tables: dict[str, Table]) -> None:
    for table in tables.values():
        data = table_data(table)
        for row in data["rows"]:
            for value, reason in zip(row["values"], row["reasons"], strict=True):
                assert (value is None) == bool(reason)
        json.dumps(data, allow_nan=False)
        assert "nan" not in csv_table(table).lower()
        assert "||" not in shown(table).markdown(padded=False).replace(" ", "").replace("|---", "")
    summary = tables["summary"]
    failed = next(row for row in summary.rows if (row.dataset, row.scene) == DESK and row.method == LINGBOT)
    assert all(cell.value is None for cell in failed.cells)
    for rendered in map(
        str, (shown(summary).markdown(padded=False), csv_table(summary), shown(summary).latex(), text_table(summary))
    ):
        assert "failed in stage stream at frame 812: CUDA out of memory" in rendered
        assert "only 2 matched frames, at least 3 are needed" in rendered


def test_a_run_of_failures_only_still_has_its_table(tmp_path: Path) -> None:
    (table,) = read_results(store_of(tmp_path, {"a": None, "b": None})).tables
    assert [row.scene for row in table.rows if row.kind == "scene"] == ["a", "b"]
    assert "a <sup>1</sup>" in shown(table).markdown(padded=False)
    assert r"a\textsuperscript{1}" in shown(table).latex()
    assert csv_table(table).count("not run yet") == 2
    assert text_table(table).count("not run yet") == 2
    assert all("not run yet" in row["failure"] for row in table_data(table)["rows"] if row["row"] == "scene")


def test_a_damaged_unit_is_a_gap_that_names_its_file(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"a": ate(1.0), "b": ate(2.0)})
    file = store.folder("d", "b", "m") / "result.json"
    file.write_text("{")
    read = read_results(store)
    assert str(file) in (read.failure(("d", "b", "m")) or "")
    summary = read.tables[0]
    assert next(row for row in summary.rows if row.kind == "mean").cells[0].scored == (1, 2)
    reasons = [dict(zip(MEASUREMENT_COLUMNS, row, strict=True))["reason"] or "" for row in measurement_rows(read)]
    assert sum("expected a stored record" in str(reason) for reason in reasons) == 1


def test_the_long_table_has_everything_once(results: RunResults) -> None:
    table = pd.DataFrame(measurement_rows(results), columns=MEASUREMENT_COLUMNS)
    stored = sum(len(unit.record.measurements) for unit in results.units)
    assert len(table) == stored + 1  # the failed unit's own row
    assert (table["value"].isna() == table["reason"].notna()).all()
    assert set(table.loc[table["method"] == LINGBOT, "weights"]) == {"untrained (seed 0)"}


def test_of_several_runs_every_measurement_says_whose_it_is(tmp_path: Path) -> None:
    runs = [
        (label, read_results(store_of(tmp_path / label, {"a": ate(value), "b": None})))
        for label, value in (("x", 1.0), ("=y", 2.0))
    ]
    several = list(csv.DictReader(io.StringIO(measurements_csv(runs))))
    assert list(several[0]) == ["run", *MEASUREMENT_COLUMNS]
    assert [(row["run"], row["scene"], row["value"]) for row in several] == [
        *(("x", "a", "1.0"), ("x", "b", "n/a")),
        *(("'=y", "a", "2.0"), ("'=y", "b", "n/a")),
    ]
    assert ["not run yet" in row["reason"] for row in several] == [False, True] * 2
    alone = list(csv.DictReader(io.StringIO(measurements_csv(runs[:1]))))
    assert alone == [{name: row[name] for name in MEASUREMENT_COLUMNS} for row in several[:2]]


COLUMNS = {
    "summary: Summary": [
        "trajectory/ate_rmse/sim3/m",
        "trajectory/coverage//%",
        "drift/segment_translation/sim3/%",
        "auc/auc_30//%",
        "throughput/forward_fps//fps",
    ],
    "depth-video: Depth of the whole sequence under its alignments": [
        "depth/abs_rel/none/1",
        "depth/abs_rel/sequence_scale/1",
        "depth/delta_1_25/none/%",
    ],
    "trajectory: Trajectory": ["trajectory/ate_rmse/sim3/m", "trajectory/ate_rmse/se3/m", "trajectory/rpe/sim3/deg"],
    "matching: Trajectory: coverage and matching": ["trajectory/coverage//%", "trajectory/path_length//m"],
    "trajectory-alignments: Trajectory: further figures under other alignments": ["trajectory/ate_max/anchor/m"],
    "auc: Relative poses of all pairs, camera-to-camera definition": ["auc/auc_30//%"],
    "auc-first-camera: Relative poses of all pairs, first-camera definition": ["auc/auc_first_camera_30//%"],
    "points: Point clouds": ["points/f1//%"],
    "drift: Drift": ["drift/segment_translation/sim3/%"],
    "drift-none: Drift, alignment none": ["drift/segment_translation/none/%"],
    "drift-rpe: Drift: relative pose error by step": ["drift/rpe_translation/10 sim3/m"],
    "drift-rpe-se3: Drift: relative pose error by step, alignment se3": ["drift/rpe_translation/10 se3/m"],
    "depth-none: Depth, alignment none": ["depth/abs_rel/none/1", "depth/delta_1_25/none/%"],
    "depth-sequence_scale: Depth, alignment sequence_scale": ["depth/abs_rel/sequence_scale/1"],
    "depth-abs_rel_at_distance: Depth: abs_rel_at_distance": ["depth/abs_rel_at_distance/0 to 5 m/1"],
    "depth-counts: Depth: frames and pixels scored": ["depth/frames/lstsq/frames", "depth/pixels//1"],
    "memory: Memory": ["memory/weights//MiB"],
    "throughput: Throughput": ["throughput/forward_fps//fps"],
    "mine: Mine": ["mine/wobble/a/deg"],
}


def test_every_column_is_in_the_table_of_its_kind(tmp_path: Path) -> None:
    """Papers' alignments of video depth come in the place of medians and least squares, where they were asked for."""
    names = dict.fromkeys(name for members in COLUMNS.values() for name in members)
    papers = ("depth/abs_rel/video_scale/1", "depth/abs_rel/video_metric/1", "depth/delta_1_25/video_scale/%")
    for more in ((), papers):
        stored = [
            Measurement(family, name, variant, 1.0, unit, "c")
            for family, name, variant, unit in (each.split("/") for each in (*names, *more))
        ]
        store = RunStore.create(
            tmp_path / str(len(more)), run_record().model_copy(update={"units": [["d", "s", "m"]], "weights": {}})
        )
        with store.unit_writer("d", "s", "m") as writer:
            writer.finish(unit_record(("d", "s"), "m", 5, stored))
        found = {
            f"{table.key}: {table.title}": ["/".join((c.family, c.name, c.variant, c.unit)) for c in table.columns]
            for table in read_results(store).tables
        }
        video = "depth-video: Depth of the whole sequence under its alignments"
        if more:
            assert found[video] == ["depth/abs_rel/video_metric/1", "depth/abs_rel/video_scale/1", papers[2]]
        else:
            assert found == COLUMNS
            assert list(found)[:2] == list(COLUMNS)[:2]


def test_numbers_that_were_disturbed_carry_the_reason_and_so_does_their_mean(tmp_path: Path) -> None:
    record = run_record().model_copy(update={"units": [["d", scene, "m"] for scene in "abc"], "weights": {"m": "w"}})
    store = RunStore.create(tmp_path, record)
    for number, (scene, beside) in enumerate((("a", 0), ("b", 1), ("c", 0))):
        fps = Measurement("throughput", "forward_fps", "", 10.0 * (1 + number), "fps", "c", headline=True)
        unit = unit_record(("d", scene), "m", 5, [ate(1.0), fps]).model_copy(
            update={"host": HostRecord(name="h", beside=beside)}
        )
        with store.unit_writer("d", scene, "m") as writer:
            writer.finish(unit)
    (table,) = [table for table in read_results(store).tables if table.key == "summary"]
    notes = {
        (row.scene, column.name): cell.note and table.notes[cell.note - 1]
        for row in table.rows
        for cell, column in zip(row.cells, table.columns, strict=True)
    }
    words = "measured while other units ran on the host"
    assert {place for place, note in notes.items() if note} == {
        (scene, "forward_fps") for scene in ("b", "mean", "median")
    }
    assert set(filter(None, notes.values())) == {words}
    assert {row.scene: row.cells[1].value for row in table.rows} == {
        "a": 10,
        "b": 20,
        "c": 30,
        "mean": 20,
        "median": 20,
    }
    assert {row.weights for row in table.rows} == {"w"}
    assert [column.better for column in table.columns] == ["lower", "higher"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"stage": "stream", "reason": "crash", "failed_at_frame": 0}, "failed in stage stream at frame 0: crash"),
        ({"reason": "crash"}, "failed: crash"),
        ({"stage": "load"}, "failed in stage load: no reason was stored"),
    ],
)
def test_a_failure_says_where(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    store = store_of(tmp_path, {"a": None, "b": ate(1.0)})
    with store.unit_writer("d", "a", "m") as writer:
        writer.finish(unit_record(("d", "a"), "m", 5, []).model_copy(update={"status": "failed", **facts}))
    results = read_results(store)
    assert results.failure(("d", "a", "m")) == words
    assert results.failure(("d", "b", "m")) is None
    assert dict(zip(MEASUREMENT_COLUMNS, next(measurement_rows(results)), strict=True))["reason"] == words


def test_a_unit_under_way_says_who_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, {"a": None, "b": None, "c": ate(1.0)})
    (store.folder("d", "b", "m")).mkdir(parents=True)
    (store.folder("d", "b", "m") / "result.json").write_text("{")
    holders = [SimpleNamespace(names=("d", scene, "m"), words="process 7 on h") for scene in "ab"]
    monkeypatch.setattr(tables_module, "read_claims", lambda path: holders)
    results = read_results(store)
    assert results.failure(("d", "a", "m")) == "being done by process 7 on h"
    # Damage is said, whoever mends it.
    assert "result.json is damaged" in (results.failure(("d", "b", "m")) or "")


def known() -> Table:
    """A failed scene, one with a gap, and their mean."""
    columns = (Column("auc", "auc_30", "", "%", ("one", "two")), Column("depth", "abs_rel", "none", "1", ("three",)))
    rows = (
        Row("d", "a", "m", "scene", (Cell(None, 1), Cell(None, 1)), note=1, weights="untrained (seed 0)"),
        Row("d", "b", "m", "scene", (Cell(25.5), Cell(None, 2)), weights="untrained (seed 0)"),
        Row("d", "mean", "m", "mean", (Cell(25.5, scored=(1, 2)), Cell(None, 3, (0, 2))), weights="untrained (seed 0)"),
        Row("d", "micro", "m", "micro", (Cell(20.0, scored=(1, 2)), Cell(0.5)), weights="none"),
    )
    return Table("auc", "Pairs", columns, rows, ("it broke", "no depth", "no scene was scored"))


def test_the_whole_of_a_table_in_each_form() -> None:
    table = known()
    assert text_table(table).splitlines() == [
        "Pairs (untrained weights: m)",
        "",
        "d / a · m (untrained weights)",
        "  no scores: it broke",
        "",
        "d / b · m (untrained weights)",
        "  auc_30 (%)    25.50",
        "  abs_rel none  n/a  no depth",
        "",
        "d / mean · m (untrained weights)",
        "  auc_30 (%)    25.50 (1 of 2)",
        "  abs_rel none  n/a (0 of 2)  no scene was scored",
        "",
        "d / micro · m",
        "  auc_30 (%)    20.00 (1 of 2)",
        "  abs_rel none  0.5000",
    ]
    assert list(csv.reader(io.StringIO(csv_table(table)))) == [
        [
            *("dataset", "scene", "method", "weights", "row"),
            *("auc_30 (%)", "scored scenes: auc_30 (%)", "abs_rel none", "scored scenes: abs_rel none", "reasons"),
        ],
        ["d", "a", "m", "untrained (seed 0)", "scene", "n/a", "", "n/a", "", "it broke"],
        ["d", "b", "m", "untrained (seed 0)", "scene", "25.5", "", "n/a", "", "abs_rel none: no depth"],
        [
            *("d", "mean", "m", "untrained (seed 0)", "mean"),
            *("25.5", "1 of 2", "n/a", "0 of 2", "abs_rel none: no scene was scored"),
        ],
        ["d", "micro", "m", "none", "micro", "20.0", "1 of 2", "0.5", "", ""],
    ]
    data = table_data(table)
    assert (data["key"], data["title"], data["untrained_weights"]) == ("auc", "Pairs (untrained weights: m)", ["m"])
    assert data["columns"][1] == {
        "family": "depth",
        "name": "abs_rel",
        "variant": "none",
        "unit": "1",
        "conventions": ["three"],
    }
    assert data["rows"][2] == {
        "dataset": "d",
        "scene": None,
        "method": "m",
        "row": "mean",
        "failure": None,
        "values": [25.5, None],
        "scored": [[1, 2], [0, 2]],
        "reasons": [None, "no scene was scored"],
    }
    assert (data["rows"][0]["scene"], data["rows"][0]["failure"]) == ("a", "it broke")
    legend = [line for line in shown(table).markdown(padded=False).splitlines() if line.startswith("- ")]
    assert legend[:2] == ["- auc_30 (%): one; or two", "- abs_rel none (ratio, no unit): three"]
    assert [line.partition(":")[0] for line in legend[2:]] == ["- mean, median", "- micro"]
    body = shown(table).markdown(padded=False).splitlines()[4:8]
    assert [line.split(" | ")[1] for line in body] == ["a", "b", "**mean**", "**micro**"]


def test_of_one_reason_for_all_numbers_a_row_says_it_once_and_a_doubt_stands_beside_its_number() -> None:
    columns = tuple(Column("auc", name, "", "%", ("c",)) for name in ("auc_3", "auc_30"))
    gaps = Row("d", "a", "m", "scene", (Cell(None, 1), Cell(None, 1)))
    doubted = Row("d", "b", "m", "scene", (Cell(20.0, 2), Cell(30.0, 2)))
    table = Table("auc", "Pairs", columns, (gaps, doubted), ("no poses", "others ran"))
    assert text_table(table).splitlines() == [
        "Pairs",
        "",
        "d / a · m",
        "  no scores: no poses",
        "",
        "d / b · m",
        "  auc_3 (%)   20.00  others ran",
        "  auc_30 (%)  30.00  others ran",
    ]
    rows = list(csv.DictReader(io.StringIO(csv_table(table))))
    assert [row["reasons"] for row in rows] == [
        f"auc_3 (%): {reason}; auc_30 (%): {reason}" for reason in ("no poses", "others ran")
    ]
    assert [row["reasons"] for row in table_data(table)["rows"]] == [["no poses"] * 2, ["others ran"] * 2]


def test_columns_of_one_convention_share_an_entry_of_the_legend() -> None:
    columns = [
        Column("depth", name, variant, unit, (convention,))
        for name, variant, unit, convention in (
            ("abs_rel", "none", "1", "one"),
            ("rmse", "none", "m", "one"),
            ("abs_rel", "lstsq", "1", "one"),
            ("abs_rel", "scale_only", "1", "another"),
            ("pixels", "", "frames", "one"),
        )
    ]
    row = Row("d", "a", "m", "scene", tuple(Cell(1.0) for _ in columns))
    assert legend(Table("depth", "Depth", tuple(columns), (row,), ())) == (
        "abs_rel none, lstsq (ratio, no unit): one",
        "rmse none (m): one",
        "abs_rel scale_only (ratio, no unit): another",
        "pixels (frames): one",
    )


@pytest.mark.parametrize(("most", "sizes"), [(7, [7]), (6, [4, 3]), (4, [4, 3]), (3, [3, 3, 1]), (2, [2, 2, 2, 1])])
def test_a_table_is_cut_into_the_fewest_pieces_of_about_one_size(most: int, sizes: list[int]) -> None:
    columns = tuple(Column("mine", f"c{number}", "", "1", ("c",)) for number in range(7))
    row = Row("d", "a", "m", "scene", tuple(Cell(float(number)) for number in range(7)))
    parts = pieces(Table("mine", "Mine", columns, (row,), ()), most)
    assert [len(part.columns) for part in parts] == sizes
    assert [cell.value for part in parts for cell in part.rows[0].cells] == [0, 1, 2, 3, 4, 5, 6]


# Untrained weights


def test_untrained_weights_are_in_every_title_and_row(tables: dict[str, Table]) -> None:
    for table in tables.values():
        assert f"untrained weights: {LINGBOT}" in shown(table).markdown(padded=False).splitlines()[0]
        assert f"untrained weights: {LINGBOT}" in shown(table).latex()
        assert f"untrained weights: {LINGBOT}" in table_data(table)["title"]
        assert shown(table).markdown(padded=False).count(f"{LINGBOT} (untrained weights)") >= 3
        rows = list(csv.DictReader(io.StringIO(csv_table(table))))
        assert {row["weights"] for row in rows if row["method"] == LINGBOT} == {"untrained (seed 0)"}


# Hostile names


def test_a_hostile_scene_name_stays_text(tables: dict[str, Table]) -> None:
    for table in tables.values():
        markdown = shown(table).markdown(padded=False)
        assert "<script" not in markdown
        assert r"&lt;script&gt;alert(1)&lt;/script&gt;\|\_&amp;\$" in markdown
        body = [line for line in markdown.splitlines() if line.startswith("| ")]
        # Unescaped bars only: as many cells in every line.
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {len(table.columns) + 4}
        latex = shown(table).latex()
        assert "<" not in latex
        assert r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{}\textbar{}\_\&\$" in latex
        rows = list(csv.DictReader(io.StringIO(csv_table(table))))
        assert HOSTILE in {row["scene"] for row in rows}


@given(st.text())
def test_no_name_breaks_out_of_its_cell(name: str) -> None:
    markdown = markdown_text(name)
    assert "\n" not in markdown
    assert not re.search(r"(?<!\\)(\\\\)*\|", markdown)
    assert "<" not in markdown
    assert re.fullmatch(
        r"([^\\{}$&#_%~^\n]|\\[{}$&#_%]|\\[a-z]+\{\}|\$\\[a-z]+\$|\$\^\\circ\$|\$-\$)*", latex_text(name)
    )
    assert plain(name).isprintable()


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@a", "\t=1", "\r=1", "＝1+1", "-5"])
def test_a_name_is_no_formula_for_a_spreadsheet(tmp_path: Path, name: str) -> None:
    measured = replace(ate(-0.5), name=name, convention=name)
    results = read_results(store_of(tmp_path, {name: measured}))
    texts = [csv_table(table) for table in results.tables] + [measurements_csv([("", results)])]
    for text in texts:
        (row,) = csv.DictReader(io.StringIO(text))
        assert row["scene"].startswith("'")
        # Names of measurements head columns. Numbers stay numbers.
        foreign = [cell for cell in (*row, *row.values()) if cell and cell.startswith(tuple("=+-@\t\r＝"))]
        assert foreign == ["-0.5"]


# Numbers


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.123456, "m", "0.1235"),
        (12.3456, "ms", "12.35"),
        (9.99996, "m", "10.00"),
        (12345.678, "ms", "12346"),
        (0.0, "m", "0"),
        (-0.5, "m", "-0.5000"),
        (1.23456e-9, "m", "1.235e-09"),
        (4.2e9, "MiB", "4.200e+09"),
        (0.0001, "m", "0.0001000"),
        (-0.00009999, "m", "-9.999e-05"),
        (9_994_999.0, "MiB", "9994999"),
        (9_999_999.0, "MiB", "1.000e+07"),  # rounded first
        (1e7, "frames", "10000000"),
        (3000.0, "frames", "3000"),
        (714.5, "frames", "714.5"),
        (100.0, "%", "100.0"),
    ],
)
def test_numbers_have_the_digits_they_deserve(value: float, unit: str, text: str) -> None:
    assert number_text(value, unit) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_a_shown_number_is_within_half_a_digit(value: float) -> None:
    assert float(number_text(value, "m")) == pytest.approx(value, rel=5.001e-4, abs=0)


def test_a_number_that_is_none_is_never_shown() -> None:
    with pytest.raises(ValueError, match="not a result"):
        number_text(float("nan"), "m")
