"""One kind of table for all: numbers or their reasons, as Markdown, LaTeX, CSV or for a terminal.

Every text is from anywhere and comes out as itself: no markup, no formula of a spreadsheet, no control character.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

MISSING = "n/a"  # what spreadsheets and pandas read as "no number"
Align = Literal["left", "right"]

_DIGITS = 4
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


@dataclass(frozen=True)
class Column:
    """What heads a column, and the side on which its cells stand: names left, numbers right."""

    title: str
    align: Align = "right"


@dataclass(frozen=True)
class Cell:
    """A number, a text, or nothing.

    value: None where there is no number. unit: of the number; decides its digits and is not shown. note: position of
    the reason in the table's notes, from 1. share: what stands behind, such as ``3 of 4``. strong: whether it
    stands out.
    """

    value: str | float | None
    unit: str = "1"
    note: int | None = None
    share: str = ""
    strong: bool = False

    @property
    def text(self) -> str:
        """The value as a reader wants it, and the share."""
        value = self.value
        shown = value if isinstance(value, str) else MISSING if value is None else number_text(value, self.unit)
        return f"{shown} ({self.share})" if self.share else shown


@dataclass(frozen=True)
class Table:
    """Rows under columns; a text may stand for a cell.

    notes: footnotes, which cells name by their position. legend: what the columns mean, an entry a line.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str]]
    notes: Sequence[str] = ()
    legend: Sequence[str] = ()

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, every text as a cell."""
        return [[Cell(each) if isinstance(each, str) else each for each in row] for row in self.rows]

    def markdown(self, *, padded: bool = True) -> str:
        """A section: heading, table, footnotes, legend. padded: columns in line, so that it reads in a terminal."""
        header = [markdown_text(column.title) for column in self.columns]
        rows = [[_markdown_cell(cell) for cell in row] for row in self.cells]
        lines = [f"### {markdown_text(self.title)}", ""]
        lines += [*markdown_grid([header, *rows], [column.align for column in self.columns], padded=padded), ""]
        if self.notes:
            lines += [*(f"{number}\\. {markdown_text(note)}  " for number, note in enumerate(self.notes, 1)), ""]
        if self.legend:
            lines += [*(f"- {markdown_text(entry)}" for entry in self.legend), ""]
        return "\n".join(lines)

    def latex(self) -> str:
        """One ``table`` environment (packages booktabs and graphicx), footnotes and legend below it."""
        lines = [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{latex_text(self.title)}}}",
            r"\resizebox{\textwidth}{!}{%",
            r"\begin{tabular}{" + "".join(column.align[0] for column in self.columns) + "}",
            r"\toprule",
            " & ".join(latex_text(column.title) for column in self.columns) + r" \\",
            r"\midrule",
        ]
        previous: bool | None = None
        for row in self.cells:
            stands_out = any(cell.strong for cell in row)
            if previous is not None and stands_out != previous:
                lines.append(r"\midrule")
            lines.append(" & ".join(_latex_cell(cell) for cell in row) + r" \\")
            previous = stands_out
        lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip\raggedright\footnotesize"]
        lines += [rf"\textsuperscript{{{n}}} {latex_text(note)}\par" for n, note in enumerate(self.notes, 1)]
        lines += [rf"{latex_text(entry)}\par" for entry in self.legend]
        return "\n".join([*lines, r"\end{table}", ""])

    def csv(self) -> str:
        """Comma-separated: numbers at full precision, ``n/a`` where there is none, no text a formula."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([spreadsheet_text(column.title) for column in self.columns])
        writer.writerows([_csv_cell(cell) for cell in row] for row in self.cells)
        return stream.getvalue()

    def text(self) -> str:
        """For a terminal: columns in line, two spaces apart."""
        rows = [[column.title for column in self.columns], *([cell.text for cell in row] for row in self.cells)]
        lines = ["  ".join(row).rstrip() for row in _padded(rows, [column.align for column in self.columns])]
        return "\n".join(lines)


def columns(titles: Iterable[str], left: int = 1) -> tuple[Column, ...]:
    """Columns of these titles, of which the first ``left`` hold names and the others numbers."""
    return tuple(Column(title, "left" if position < left else "right") for position, title in enumerate(titles))


def markdown_grid(rows: Sequence[Sequence[str]], aligns: Sequence[Align], *, padded: bool = True) -> list[str]:
    """Lines of a Markdown table. rows: the header first; every cell is Markdown already."""
    if not padded:
        rule = "|".join("---" if align == "left" else "---:" for align in aligns)
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return [lines[0], f"|{rule}|", *lines[1:]]
    wide = _padded(rows, aligns, least=3)
    widths = [len(cell) for cell in wide[0]]
    rules = [
        "-" * width if align == "left" else "-" * (width - 1) + ":" for width, align in zip(widths, aligns, strict=True)
    ]
    return [f"| {' | '.join(row)} |" for row in (wide[0], rules, *wide[1:])]


def _padded(rows: Sequence[Sequence[str]], aligns: Sequence[Align], least: int = 0) -> list[list[str]]:
    widths = [max(least, *(len(row[column]) for row in rows)) for column in range(len(aligns))]
    return [
        [
            cell.ljust(width) if align == "left" else cell.rjust(width)
            for cell, width, align in zip(row, widths, aligns, strict=True)
        ]
        for row in rows
    ]


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text) + (f" <sup>{cell.note}</sup>" if cell.note else "")
    return f"**{text}**" if cell.strong else text


def _latex_cell(cell: Cell) -> str:
    return latex_text(cell.text) + (rf"\textsuperscript{{{cell.note}}}" if cell.note else "")


def _csv_cell(cell: Cell) -> str:
    if isinstance(cell.value, str):
        return spreadsheet_text(cell.value)
    return MISSING if cell.value is None else repr(cell.value)


# Numbers


def number_text(value: float, unit: str) -> str:
    """``value`` with four significant digits; whole counts stay whole.

    Digits left of the point are always all there; very small and very large numbers are in scientific notation.
    Raises ValueError for a number that is not finite: there is a reason to show in its place.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a result")
    if unit == "frames" and value == round(value):
        return str(round(value))
    if value == 0:
        return "0"
    # Rounded first, so that 9.9999 counts as the 10.00 that it is shown as.
    exponent = int(f"{value:.{_DIGITS - 1}e}".partition("e")[2])
    if not -4 <= exponent < 7:
        return f"{value:.{_DIGITS - 1}e}"
    return f"{value:.{max(0, _DIGITS - 1 - exponent)}f}"


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit, or the word for none."""
    if value is None:
        return MISSING
    return number_text(value, unit) + ("" if unit == "1" else f" {unit}")


def mebibytes(size: int | None) -> str:
    """Bytes in MiB, without the unit."""
    return MISSING if size is None else number_text(size / 2**20, "MiB")


def footnote(notes: dict[str, int], text: str | None) -> int | None:
    """The number of a footnote among those so far, by text; a new one is added. None for no text."""
    return None if text is None else notes.setdefault(text, len(notes) + 1)


def reasons(gaps: Iterable[tuple[str, str | None]]) -> Mapping[str, list[str]]:
    """Each reason once, with all that is missing for it. gaps: (what, why there is no number, or None)."""
    found: dict[str, list[str]] = {}
    for what, why in gaps:
        if why is not None:
            found.setdefault(why, []).append(what)
    return found


# Texts from anywhere


def plain(text: str, longest: int | None = None) -> str:
    """One line without control characters: line breaks and terminal escapes in a name become spaces.

    longest: characters; what is longer ends in an ellipsis.
    """
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(text.split())
    return line if longest is None or len(line) <= longest else line[: longest - 1] + "…"


def markdown_text(text: str) -> str:
    """Any text as itself in Markdown, table cells included: no HTML, no markup, no formula."""
    escaped = re.sub(r"([\\`*\[\]|$~#])", r"\\\1", plain(text))
    # Inside a word an underscore is only an underscore; at its edges it would be emphasis.
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex_text(text: str) -> str:
    """Any text as itself in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in plain(text))


@functools.lru_cache(1 << 15)
def spreadsheet_text(text: str) -> str:
    """A text that a spreadsheet would run as a formula gets the quote that tells it not to."""
    one_line = plain(text)
    # The wide forms are formulas to spreadsheets of East Asian languages.
    return "'" + one_line if one_line.startswith(tuple("=+-@＝＋－＠")) else one_line


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
