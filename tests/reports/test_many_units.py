"""Reports of very many units: what is read, what is drawn and what a page holds, by counts."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from lingbot_eval.reports import tables
from lingbot_eval.reports.report import write_report
from lingbot_eval.reports.tables import Cell, Column, Row, Table, few_of_many
from tests.reports.fake_run import build_run
from tests.support.many_units import multiply

UNITS, FEW = 7, 2


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MANY_UNITS", UNITS - 1)
    monkeypatch.setattr(tables, "FEW_OF_MANY", FEW)


def counted_opens(monkeypatch: pytest.MonkeyPatch, below: Path) -> Counter[str]:
    """How often each file of the folder is opened from now on."""
    opens, open_ = Counter[str](), os.open

    def counting(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).startswith(str(below)):
            opens[str(path)] += 1
        return open_(path, *arguments, **options)

    monkeypatch.setattr(os, "open", counting)
    return opens


def counted_drawings(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each figure is drawn from now on; figures are kept, so that none takes another's number."""
    drawings, draw, kept = Counter[int](), Figure.draw, list[Figure]()

    def counting(figure: Figure, *arguments: Any) -> None:
        drawings[id(figure)] += 1
        kept.append(figure)
        draw(figure, *arguments)

    monkeypatch.setattr(Figure, "draw", counting)
    return drawings


@pytest.mark.usefixtures("few", "coarse_pictures")
def test_of_many_units_a_few_are_drawn_and_shown_and_all_are_in_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = multiply(build_run(tmp_path / "one", frames=12).path, tmp_path / "many", UNITS)
    opens = counted_opens(monkeypatch, run / "units")
    files = write_report([run], tmp_path / "out").files
    records = [count for path, count in opens.items() if path.endswith("result.json")]
    assert records == [1] * UNITS
    # The digests of all were looked at; read again are those of the few that are drawn.
    assert sorted(count for path, count in opens.items() if path.endswith("frames.csv")) == [1] * (UNITS - FEW) + [2, 2]
    assert sum(file.name.endswith("-error.png") for file in files) == FEW
    with (tmp_path / "out" / "tables" / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    scenes = [row["scene"] for row in rows if row["row"] == "scene"]
    assert sorted(scenes) == [f"s{number:05d}" for number in range(UNITS)]
    assert not (tmp_path / "out" / "tables" / "measurements.csv").exists()
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert f"means are over all {UNITS} pairs of scene and method" in text
        assert text.count("measurements.csv") == 0
        results = text[: text.rindex("Methods and sequences")]
        assert sum(scene in results for scene in scenes) == FEW


@pytest.mark.usefixtures("coarse_pictures")
def test_of_two_runs_of_many_units_the_few_are_held_against_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MANY_UNITS", 3)
    monkeypatch.setattr(tables, "FEW_OF_MANY", 1)
    one = build_run(tmp_path / "one", frames=12).path
    runs = [multiply(one, tmp_path / name, 2) for name in "ab"]
    opens = counted_opens(monkeypatch, tmp_path)
    figures = [file.name for file in write_report(runs, tmp_path / "out").files if file.suffix == ".png"]
    assert sum(name.endswith("-error.png") for name in figures) == 1
    assert sum(name.endswith("-agreement.png") for name in figures) == 1
    # For its digest, and to be drawn, compared or both.
    assert {count for path, count in opens.items() if path.endswith("frames.csv")} == {2}


@pytest.mark.usefixtures("coarse_pictures")
def test_each_figure_of_a_scene_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = counted_drawings(monkeypatch)
    run = multiply(build_run(tmp_path / "one", frames=12).path, tmp_path / "few", 1)
    files = write_report([run], tmp_path / "out").files
    assert len(drawings) == sum(file.suffix == ".png" for file in files) > 3
    assert set(drawings.values()) == {1}


def summary(values: dict[str, float | None], better: Any) -> Table:
    column = Column("trajectory", "ate_rmse", "sim3", "m", ("made up",), headline=True, better=better)
    rows = [Row("d", name, "m", "scene", (Cell(value, None if value else 1),)) for name, value in values.items()]
    mean = Row("d", "mean", "m", "mean", (Cell(1.0),))
    return Table("summary", "Summary", (column,), (*rows, mean), ("it failed",))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("better", "shown", "words"),
    [
        ("lower", {"c", "f"}, "the 2 with the largest ate_rmse sim3 (m)"),
        ("higher", {"a", "g"}, "the 2 with the smallest ate_rmse sim3 (m)"),
        (None, {"a", "b"}, "the first 2"),
    ],
)
def test_the_few_are_those_that_went_worst(better: Any, shown: set[str], words: str) -> None:
    table = summary({"a": 0.1, "b": 0.5, "c": 0.9, "d": None, "e": 0.3, "f": 0.7, "g": 0.2}, better)
    found = few_of_many([table])
    assert found is not None
    assert found.words == words
    part = found.part(table)
    assert {row.scene for row in part.rows} == {*shown, "mean"}
    assert part.notes == ()


@pytest.mark.usefixtures("few")
def test_the_worst_are_told_by_the_first_number_that_has_a_better_side() -> None:
    ate = summary({name: float(value) for name, value in zip("abcdefg", (9, 1, 8, 2, 7, 3, 6), strict=True)}, "lower")
    length = Column("trajectory", "path_length", "", "m", ("made up",))
    fps = Column("throughput", "forward_fps", "", "fps", ("made up",), better="higher")
    rows = [
        replace(row, cells=(Cell(float(number)), *row.cells, Cell(float(number))))
        for number, row in enumerate(ate.rows)
    ]
    found = few_of_many([replace(ate, columns=(length, *ate.columns, fps), rows=tuple(rows))])
    assert found is not None
    assert found.words == "the 2 with the largest ate_rmse sim3 (m)"
    assert {names[1] for names in found.rows} == {"a", "c"}
    # Where nothing was scored nothing went worst.
    none = few_of_many([summary(dict.fromkeys("abcdefg"), "lower")])
    assert none is not None
    assert (none.words, {names[1] for names in none.rows}) == ("the first 2", {"a", "b"})


@pytest.mark.usefixtures("few")
def test_all_of_a_few_are_shown() -> None:
    assert few_of_many([summary(dict.fromkeys("abcdef", 1.0), "lower")]) is None
    assert few_of_many([]) is None
