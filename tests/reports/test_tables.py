"""Tables of a fake run: means over scored scenes, a reason in every gap, nothing foreign gets through."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import DESK, HOSTILE, LINGBOT, REPLAY, build_run, run_record, unit_record
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.reports.rendering import csv_table, latex_table, markdown_table, spreadsheet, table_data, text_table
from lingbot_eval.reports.tables import RunResults, Table, long_table, read_results, wide_tables
from lingbot_eval.runs.store import RunStore
from lingbot_eval.tables import latex_text, markdown_text, number_text, plain
from lingbot_eval.types import Measurement


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return read_results(build_run(tmp_path_factory.mktemp("runs"), frames=40))


@pytest.fixture(scope="module")
def tables(results: RunResults) -> dict[str, Table]:
    return {table.key: table for table in wide_tables(results)}


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
    summary = wide_tables(read_results(store_of(tmp_path, ates)))[0]
    cells = {row.scene: row.cells[0] for row in summary.rows}
    assert cells["mean"].value == pytest.approx(3.0)
    assert cells["median"].value == pytest.approx(2.0)
    assert cells["mean"].scored == cells["median"].scored == (3, 5)
    assert "3.000 (3 of 5)" in markdown_table(summary)
    assert r"3.000 (3 of 5)" in latex_table(summary)
    reasons = [summary.notes[(cells[scene].note or 0) - 1] for scene in "de"]
    assert reasons[0] == "static reference"
    assert "not run yet" in reasons[1]


def test_one_scene_has_no_mean(tmp_path: Path) -> None:
    summary = wide_tables(read_results(store_of(tmp_path, {"a": ate(1.0)})))[0]
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
        assert "||" not in markdown_table(table).replace(" ", "").replace("|---", "")
    summary = tables["summary"]
    failed = next(row for row in summary.rows if (row.dataset, row.scene) == DESK and row.method == LINGBOT)
    assert all(cell.value is None for cell in failed.cells)
    for rendered in map(str, (markdown_table(summary), csv_table(summary), latex_table(summary), text_table(summary))):
        assert "failed in stage stream at frame 812: CUDA out of memory" in rendered
        assert "only 2 matched frames, at least 3 are needed" in rendered


def test_a_run_of_failures_only_still_has_its_table(tmp_path: Path) -> None:
    (table,) = wide_tables(read_results(store_of(tmp_path, {"a": None, "b": None})))
    assert [row.scene for row in table.rows if row.kind == "scene"] == ["a", "b"]
    assert "a <sup>1</sup>" in markdown_table(table)
    assert r"a\textsuperscript{1}" in latex_table(table)
    assert csv_table(table).count("not run yet") == 2
    assert text_table(table).count("not run yet") == 2
    assert all("not run yet" in row["failure"] for row in table_data(table)["rows"] if row["row"] == "scene")


def test_a_damaged_unit_is_a_gap_that_names_its_file(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"a": ate(1.0), "b": ate(2.0)})
    file = store.folder("d", "b", "m") / "result.json"
    file.write_text("{")
    read = read_results(store)
    assert str(file) in (read.failure(("d", "b", "m")) or "")
    summary = wide_tables(read)[0]
    assert next(row for row in summary.rows if row.kind == "mean").cells[0].scored == (1, 2)
    assert long_table(read)["reason"].str.contains("expected a stored record").sum() == 1


def test_the_long_table_has_everything_once(results: RunResults) -> None:
    table = long_table(results)
    stored = sum(len(unit.record.measurements) for unit in results.units)
    assert len(table) == stored + 1  # the failed unit's own row
    assert (table["value"].isna() == table["reason"].notna()).all()
    assert set(table.loc[table["method"] == LINGBOT, "weights"]) == {"untrained (seed 0)"}


# Untrained weights


def test_untrained_weights_are_in_every_title_and_row(tables: dict[str, Table]) -> None:
    for table in tables.values():
        assert f"untrained weights: {LINGBOT}" in markdown_table(table).splitlines()[0]
        assert f"untrained weights: {LINGBOT}" in latex_table(table)
        assert f"untrained weights: {LINGBOT}" in table_data(table)["title"]
        assert markdown_table(table).count(f"{LINGBOT} (untrained weights)") >= 3
        rows = list(csv.DictReader(io.StringIO(csv_table(table))))
        assert {row["weights"] for row in rows if row["method"] == LINGBOT} == {"untrained (seed 0)"}


# Hostile names


def test_a_hostile_scene_name_stays_text(tables: dict[str, Table]) -> None:
    for table in tables.values():
        markdown = markdown_table(table)
        assert "<script" not in markdown
        assert r"&lt;script&gt;alert(1)&lt;/script&gt;\|\_&amp;\$" in markdown
        body = [line for line in markdown.splitlines() if line.startswith("| ")]
        # Unescaped bars only: as many cells in every line.
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {len(table.columns) + 4}
        latex = latex_table(table)
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
    texts = [csv_table(table) for table in wide_tables(results)] + [spreadsheet(long_table(results))]
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
