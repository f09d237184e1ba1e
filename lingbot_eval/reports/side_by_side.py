"""Several runs in one set of tables, and the settings in which they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lingbot_eval.reports.tables import Cell, Column, ColumnKey, Row, RunResults, Table
from lingbot_eval.settings import flattened

LABELLED = Sequence[tuple[str, tuple[Table, ...]]]
_KINDS = ("scene", "mean", "median", "micro")  # in the order of a table
_LONGEST_VALUE = 160


def merged(runs: LABELLED) -> tuple[Table, ...]:
    """One table for each that any run has, of the columns of all; rows of one scene and method are neighbours.

    A column that a run lacks is a gap with that reason. Scenes, methods and columns keep the order of their first run.
    """
    keys = dict.fromkeys(table.key for _, tables in runs for table in tables)
    return tuple(
        _merge([(label, table) for label, tables in runs for table in tables if table.key == key]) for key in keys
    )


def _merge(runs: Sequence[tuple[str, Table]]) -> Table:
    columns = _columns([table for _, table in runs])
    notes: dict[str, int] = {}
    rows = [_moved(row, label, table, columns, notes) for label, table in runs for row in table.rows]
    first: dict[tuple[str, ...], int] = {}
    for row in rows:
        for part in ((row.dataset,), (row.dataset, row.scene), (row.dataset, row.method)):
            first.setdefault(part, len(first))

    def rank(row: Row) -> tuple[int, ...]:
        dataset, method = first[(row.dataset,)], first[row.dataset, row.method]
        if row.kind == "scene":
            return dataset, 0, first[row.dataset, row.scene], method, 0
        return dataset, 1, method, 0, _KINDS.index(row.kind)

    # The sort is stable: where all of that is equal, runs stay in the order they were given in.
    key, title = runs[0][1].key, runs[0][1].title
    return Table(key, title, columns, tuple(sorted(rows, key=rank)), tuple(notes))


def _columns(tables: Sequence[Table]) -> tuple[Column, ...]:
    found: dict[ColumnKey, Column] = {}
    for table in tables:
        for column in table.columns:
            first = found.setdefault(_key(column), column)
            sentences = tuple(dict.fromkeys((*first.conventions, *column.conventions)))
            found[_key(column)] = replace(first, conventions=sentences)
    return tuple(found.values())


def _key(column: Column) -> ColumnKey:
    return column.family, column.name, column.variant, column.unit


def _moved(row: Row, label: str, table: Table, columns: Sequence[Column], notes: dict[str, int]) -> Row:
    """The row under other columns, its footnotes numbered among those of all runs."""

    def note(text: str) -> int:
        return notes.setdefault(text, len(notes) + 1)

    given = dict(zip((_key(column) for column in table.columns), row.cells, strict=True))
    reason = table.notes[row.note - 1] if row.note else None
    cells = []
    for column in columns:
        cell = given.get(_key(column))
        if cell is None:
            cells.append(Cell(None, note(reason or "not measured in this run")))
        else:
            cells.append(replace(cell, note=note(table.notes[cell.note - 1]) if cell.note else None))
    return replace(row, cells=tuple(cells), note=note(reason) if reason else None, run=label)


@dataclass(frozen=True)
class Setting:
    """One setting or fact: its dotted name, and its value in every run, as short text; "–" where it has none."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs have more than one value."""
        return len(set(self.values)) > 1


def settings(runs: Sequence[RunResults]) -> tuple[Setting, ...]:
    """Every setting of the resolved experiments, without the cards stored with them (``datasets show`` prints them)."""
    shown = [{key: value for key, value in run.record.experiment.items() if key != "cards"} for run in runs]
    return _rows(shown)


def environments(runs: Sequence[RunResults]) -> tuple[Setting, ...]:
    """Every fact of the machines and libraries that the runs ran on."""
    return _rows([run.record.environment for run in runs])


def differing_cards(runs: Sequence[RunResults]) -> tuple[str, ...]:
    """Names of the dataset cards that changed between two runs which both used them."""
    cards = [run.record.experiment.get("cards", {}) for run in runs]
    names = dict.fromkeys(name for given in cards for name in given)
    return tuple(name for name in names if len({_short(given[name], None) for given in cards if name in given}) > 1)


def _rows(documents: Sequence[Mapping[str, Any]]) -> tuple[Setting, ...]:
    flat = [flattened(document, lists=True) for document in documents]
    names = dict.fromkeys(name for document in flat for name in document)
    return tuple(
        Setting(name, tuple(_short(document[name]) if name in document else "–" for document in flat)) for name in names
    )


def _short(value: Any, longest: int | None = _LONGEST_VALUE) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"
