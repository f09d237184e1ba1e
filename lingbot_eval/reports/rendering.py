"""Tables of measurements as Markdown, CSV, LaTeX and JSON: what their rows, means and conventions are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lingbot_eval import tables
from lingbot_eval.reports.tables import MEASUREMENT_COLUMNS, Cell, Column, Row, RunResults, Table, measurement_rows
from lingbot_eval.tables import plain


def title_of(table: Table) -> str:
    """The title, with a word on untrained weights where it applies."""
    return table.title + (f" (untrained weights: {', '.join(table.untrained)})" if table.untrained else "")


def method_label(method: str, untrained: tuple[str, ...]) -> str:
    """The method's name, marked when its weights are untrained."""
    return f"{plain(method)} (untrained weights)" if method in untrained else plain(method)


def name_header(table: Table) -> list[str]:
    """Titles of the columns that name a row; which run it is of only where there are several."""
    return ["dataset", "scene", "method", *(["run"] if table.several_runs else [])]


def row_names(row: Row, table: Table) -> list[str]:
    """What :func:`name_header` announces, as one-line text that is not yet escaped."""
    method = method_label(row.method, (row.method,) if row.untrained else ())
    return [plain(row.dataset), plain(row.scene), method, *([plain(row.run)] if table.several_runs else [])]


def shown(table: Table) -> tables.Table:
    """The table as readers see it: names, then numbers, with footnotes and a legend of units and conventions."""
    rows: list[list[tables.Cell | str]] = []
    for row in table.rows:
        dataset, scene, *rest = row_names(row, table)
        alone = row.note if not row.cells else None
        cells = [_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
        rows.append([dataset, tables.Cell(scene, note=alone, strong=row.kind != "scene"), *rest, *cells])
    names = name_header(table)
    columns = tables.columns([*names, *(column.label for column in table.columns)], left=len(names))
    return tables.Table(title_of(table), columns, rows, table.notes, legend(table))


def legend(table: Table) -> tuple[str, ...]:
    """One entry for columns of one convention: what they hold, in which unit; and how means are made."""
    shared: dict[tuple[str, str, tuple[str, ...]], list[Column]] = {}
    for column in table.columns:
        shared.setdefault((column.name, column.unit, column.conventions), []).append(column)
    entries = []
    for (name, unit, conventions), columns in shared.items():
        variants = ", ".join(column.variant for column in columns if column.variant)
        label = f"{name} {variants}".strip() + (f" ({unit})" if unit != "1" else " (ratio, no unit)")
        entries.append(f"{label}: {'; or '.join(conventions)}")
    return (*entries, *shares_legend(table.rows))


def shares_legend(rows: Sequence[Row]) -> Iterator[str]:
    """How the means among these rows are made."""
    if any(row.kind != "scene" for row in rows):
        yield (
            "mean, median: over the scored scenes of a dataset; (n of m) says that n of its m scenes are in: where n is"
            " less than m, it is a mean over survivors, the failed scenes left out"
        )
    if any(row.kind == "micro" for row in rows):
        yield (
            "micro: the pairs, of depth the pixels, of all scored scenes pooled (the mean weighted by their number);"
            " the mean is the macro average"
        )


def pieces(table: Table, most: int) -> tuple[Table, ...]:
    """The table cut into tables of at most ``most`` columns of about equal number, each with the notes it needs."""
    there_are = len(table.columns)
    if there_are <= most:
        return (table,)
    size = -(-there_are // -(-there_are // most))
    return tuple(table.cut(table.rows, slice(start, start + size)) for start in range(0, there_are, size))


def text_table(table: Table) -> str:
    """The table for a terminal: a block a row, so that it fits whatever the number of columns."""
    width = max((len(column.label) for column in table.columns), default=0)
    blocks = [title_of(table)]
    for row in table.rows:
        dataset, scene, *rest = row_names(row, table)
        lines = [f"{dataset} / {scene} · {' · '.join(rest)}"]
        reasons = {cell.note if cell.value is None else None for cell in row.cells}
        only = row.note or (reasons.pop() if len(reasons) == 1 else None)
        if only is not None:
            # One failure is said once.
            blocks.append(f"{lines[0]}\n  no scores: {plain(table.notes[only - 1])}")
            continue
        for cell, column in zip(row.cells, table.columns, strict=True):
            reason = f"  {plain(table.notes[cell.note - 1])}" if cell.note else ""
            lines.append(f"  {column.label:{width}}  {_cell(cell, column).text}{reason}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def csv_table(table: Table) -> str:
    """Comma-separated, numbers at full precision; ``n/a`` where there is none, and the reasons in the last column."""
    labels = [title for column in table.columns for title in (column.label, f"scored scenes: {column.label}")]
    names = [*(["run"] if table.several_runs else []), "dataset", "scene", "method", "weights", "row"]
    rows: list[list[tables.Cell | str]] = []
    for row in table.rows:
        own = [*([row.run] if table.several_runs else []), row.dataset, row.scene, row.method, row.weights, row.kind]
        numbers = (each for cell in row.cells for each in (tables.Cell(cell.value), _scored_text(cell)))
        rows.append([*own, *numbers, _reasons(row, table)])
    return tables.Table("", tables.columns([*names, *labels, "reasons"]), rows).csv()


def measurements_csv(runs: Sequence[tuple[str, RunResults]]) -> str:
    """Every measurement of the runs, given with their labels, one a row; several runs have a column of their own."""
    several = len(runs) > 1
    rows = [
        [each if isinstance(each, str) else tables.Cell(each) for each in ((label, *row) if several else row)]
        for label, results in runs
        for row in measurement_rows(results)
    ]
    titles = ["run", *MEASUREMENT_COLUMNS] if several else MEASUREMENT_COLUMNS
    return tables.Table("", tables.columns(titles), rows).csv()


def table_data(table: Table) -> dict[str, Any]:
    """The table as plain JSON values."""
    return {
        "key": table.key,
        "title": title_of(table),
        "untrained_weights": list(table.untrained),
        "columns": [
            {
                "family": column.family,
                "name": column.name,
                "variant": column.variant,
                "unit": column.unit,
                "conventions": list(column.conventions),
            }
            for column in table.columns
        ],
        "rows": [
            {
                **({"run": row.run} if table.several_runs else {}),
                "dataset": row.dataset,
                "scene": row.scene if row.kind == "scene" else None,
                "method": row.method,
                "row": row.kind,
                "failure": table.notes[row.note - 1] if row.note else None,
                "values": [cell.value for cell in row.cells],
                "scored": [list(cell.scored) if cell.scored else None for cell in row.cells],
                "reasons": [table.notes[cell.note - 1] if cell.note else None for cell in row.cells],
            }
            for row in table.rows
        ],
    }


def _scored_text(cell: Cell) -> str:
    return "" if cell.scored is None else f"{cell.scored[0]} of {cell.scored[1]}"


def _cell(cell: Cell, column: Column) -> tables.Cell:
    return tables.Cell(cell.value, column.unit, cell.note, _scored_text(cell))


def _reasons(row: Row, table: Table) -> str:
    if row.note:
        return table.notes[row.note - 1]
    pairs = zip(row.cells, table.columns, strict=True)
    return "; ".join(f"{column.label}: {table.notes[cell.note - 1]}" for cell, column in pairs if cell.note)
