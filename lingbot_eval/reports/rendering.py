"""Tables as Markdown, CSV, LaTeX and JSON, with every character of foreign names made harmless."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

from lingbot_eval.reports.numbers import number_text
from lingbot_eval.reports.tables import Cell, Column, Row, Table

if TYPE_CHECKING:
    import pandas as pd

MISSING = "n/a"  # what spreadsheets and pandas read as "no number"

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "°": r"$^\circ$",
    "δ": r"$\delta$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "−": "$-$",
}


def plain(text: str) -> str:
    """One line without control characters: line breaks and terminal escapes in a name become spaces."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def markdown_text(text: str) -> str:
    """Any text as itself in Markdown, table cells included: no HTML, no markup, no formula."""
    escaped = re.sub(r"([\\`*\[\]|$~#])", r"\\\1", plain(text))
    # Inside a word an underscore is only an underscore; at its edges it would be emphasis.
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex_text(text: str) -> str:
    """Any text as itself in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in plain(text))


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


def markdown_table(table: Table) -> str:
    """A Markdown section: table, footnotes, and a legend of units and conventions."""
    header = [*name_header(table), *(column.label for column in table.columns)]
    lines = [
        f"### {markdown_text(title_of(table))}",
        "",
        "| " + " | ".join(markdown_text(name) for name in header) + " |",
        "|" + "---|" * len(name_header(table)) + "---:|" * len(table.columns),
    ]
    for row in table.rows:
        cells = [_markdown_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
        texts = [*(markdown_text(name) for name in row_names(row, table)), *cells]
        if row.note and not cells:
            texts[1] += _markdown_note(row.note)
        if row.kind != "scene":
            texts[1] = f"**{texts[1]}**"
        lines.append("| " + " | ".join(texts) + " |")
    lines += ["", *(f"{number}\\. {markdown_text(note)}  " for number, note in enumerate(table.notes, start=1))]
    lines += ["", *(f"- {markdown_text(entry)}" for entry in legend(table)), ""]
    return "\n".join(lines)


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
    if any(row.kind != "scene" for row in table.rows):
        entries.append(
            "mean, median: over the scored scenes of a dataset; (n of m) says that n of its m scenes are in: where n is"
            " less than m, it is a mean over survivors, the failed scenes left out"
        )
    if any(row.kind == "micro" for row in table.rows):
        entries.append(
            "micro: the pairs of all scored scenes pooled (the mean weighted by pairs); the mean is the macro average"
        )
    return tuple(entries)


def text_table(table: Table) -> str:
    """The table for a terminal: a block a row, so that it fits whatever the number of columns."""
    width = max((len(column.label) for column in table.columns), default=0)
    blocks = [title_of(table)]
    for row in table.rows:
        dataset, scene, *rest = row_names(row, table)
        lines = [f"{dataset} / {scene} · {' · '.join(rest)}"]
        reasons = {cell.note for cell in row.cells}
        only = row.note or (reasons.pop() if len(reasons) == 1 else None)
        if only is not None:
            # One failure is said once.
            blocks.append(f"{lines[0]}\n  no scores: {plain(table.notes[only - 1])}")
            continue
        for cell, column in zip(row.cells, table.columns, strict=True):
            value = _cell_text(cell, column) + (f" ({_scored_text(cell)})" if cell.scored else "")
            reason = f"  {plain(table.notes[cell.note - 1])}" if cell.note else ""
            lines.append(f"  {column.label:{width}}  {value}{reason}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def csv_table(table: Table) -> str:
    """Comma-separated, numbers at full precision; ``n/a`` where there is none, and the reasons in the last column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    labels: list[str] = []
    for column in table.columns:
        labels += [column.label, f"scored scenes: {column.label}"]
    run = ["run"] if table.several_runs else []
    writer.writerow([*run, "dataset", "scene", "method", "weights", "row", *map(spreadsheet_text, labels), "reasons"])
    for row in table.rows:
        values: list[object] = []
        for cell in row.cells:
            values += [MISSING if cell.value is None else repr(cell.value), _scored_text(cell)]
        names = [*([row.run] if run else []), row.dataset, row.scene, row.method, row.weights]
        writer.writerow(
            [*(spreadsheet_text(name) for name in names), row.kind, *values, spreadsheet_text(_reasons(row, table))]
        )
    return stream.getvalue()


def latex_table(table: Table) -> str:
    """One ``table`` environment (packages booktabs and graphicx), footnotes and legend below it."""
    header = [*name_header(table), *(column.label for column in table.columns)]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{latex_text(title_of(table))}}}",
        r"\resizebox{\textwidth}{!}{%",
        r"\begin{tabular}{" + "l" * len(name_header(table)) + "r" * len(table.columns) + "}",
        r"\toprule",
        " & ".join(latex_text(name) for name in header) + r" \\",
        r"\midrule",
    ]
    previous: Row | None = None
    for row in table.rows:
        if previous is not None and (row.kind == "scene") != (previous.kind == "scene"):
            lines.append(r"\midrule")
        cells = [_latex_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
        texts = [*(latex_text(name) for name in row_names(row, table)), *cells]
        if row.note and not cells:
            texts[1] += _latex_note(row.note)
        lines.append(" & ".join(texts) + r" \\")
        previous = row
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip\raggedright\footnotesize"]
    lines += [rf"\textsuperscript{{{n}}} {latex_text(note)}\par" for n, note in enumerate(table.notes, start=1)]
    lines += [rf"{latex_text(entry)}\par" for entry in legend(table)]
    return "\n".join([*lines, r"\end{table}", ""])


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


def _cell_text(cell: Cell, column: Column) -> str:
    return MISSING if cell.value is None else number_text(cell.value, column.unit)


def _scored_text(cell: Cell) -> str:
    return "" if cell.scored is None else f"{cell.scored[0]} of {cell.scored[1]}"


def _markdown_cell(cell: Cell, column: Column) -> str:
    scored = f" ({_scored_text(cell)})" if cell.scored else ""
    return _cell_text(cell, column) + scored + _markdown_note(cell.note)


def _markdown_note(note: int | None) -> str:
    return f" <sup>{note}</sup>" if note else ""


def _latex_cell(cell: Cell, column: Column) -> str:
    scored = f" ({_scored_text(cell)})" if cell.scored else ""
    return latex_text(_cell_text(cell, column) + scored) + _latex_note(cell.note)


def _latex_note(note: int | None) -> str:
    return rf"\textsuperscript{{{note}}}" if note else ""


def _reasons(row: Row, table: Table) -> str:
    if row.note:
        return table.notes[row.note - 1]
    pairs = zip(row.cells, table.columns, strict=True)
    return "; ".join(f"{column.label}: {table.notes[cell.note - 1]}" for cell, column in pairs if cell.note)


def spreadsheet_text(text: str) -> str:
    """A text that a spreadsheet would run as a formula gets the quote that tells it not to."""
    one_line = plain(text)
    # The wide forms are formulas to spreadsheets of East Asian languages.
    return "'" + one_line if one_line.startswith(tuple("=+-@＝＋－＠")) else one_line


def spreadsheet(table: pd.DataFrame) -> str:
    """A table as comma-separated text: numbers as they are, ``n/a`` where there is none, no text a formula."""
    safe = table.copy()
    for name, values in table.items():
        if values.dtype.kind not in "fiub":
            safe[name] = [spreadsheet_text(value) if isinstance(value, str) else value for value in values]
    text: str = safe.to_csv(index=False, na_rep=MISSING, header=[spreadsheet_text(str(name)) for name in table.columns])
    return text


def fenced(text: str, language: str) -> list[str]:
    """Lines of a Markdown block of code that no text can end, without control characters."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [
        f"{fence}{language}",
        *("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()),
        fence,
        "",
    ]
