"""The report as pages: HTML in one file that loads nothing, and Markdown with its figures beside it."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import lingbot_eval
from lingbot_eval.reports.drawing import Space
from lingbot_eval.reports.sections import (
    Block,
    Code,
    Content,
    Folded,
    Listing,
    Pictures,
    Text,
    sections,
    state,
    warnings,
)
from lingbot_eval.tables import MISSING, Cell, Column, Table, fenced, markdown_text, number_text, plain

_TEMPLATES = Path(__file__).parent / "templates"
_FRAMES = "; frame-src 'self' file:"  # scenes in three dimensions, from the report's folder alone
_CSV = "text/csv;charset=utf-8"
_GROUPED = ("dataset", "scene")
"""Titles of a first column that is shown as a line above its rows."""


def html_page(content: Content, measurements: str | None, folder: Path) -> str:
    """The page.

    Every text from a run is escaped by the template engine, and the page's security policy lets nothing be loaded
    and no script or style run but the page's own two.

    Args:
        content: what it says.
        measurements: CSV text of every number, offered for download from inside the page; None of too many.
        folder: the report's, where the figures are read from.

    Returns:
        The file's text.
    """
    environment = _environment(folder)
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        content=content,
        state=state(content),
        warnings=tuple(warnings(content)),
        sections=sections(content),
        style=style,
        script=script,
        policy=(
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
            f"base-uri 'none'; form-action 'none'{_FRAMES if content.spaces else ''}"
        ),
        measurements=measurements and data_uri(measurements.encode(errors="backslashreplace"), _CSV),
        version=lingbot_eval.__version__,
    )


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class _Line:
    """A row as HTML has it. kind: ``scene``, or ``mean`` for one that is of several. cells: each with its column, and
    over how many it reaches: one reason that holds for all numbers of a row is said once. reason: whether it is."""

    kind: str
    cells: tuple[tuple[Column, Cell, int], ...]
    reason: bool


def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        # For every template whatever its name: scenes and methods are called what their authors liked.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = itertools.count(1)

    def show(block: Block) -> Markup:
        template = environment.get_template(f"blocks/{type(block).__name__.lower()}.html.j2")
        # Not escaped again: it is what a template with escaping on has made.
        return Markup(template.render(block=block))

    environment.globals |= {"show": show, "number": lambda: next(numbers)}
    environment.filters |= {
        "plain": plain,
        "heading": _heading,
        "breakable": _breakable,
        "value_text": _value_text,
        "grouped": _is_grouped,
        "by_group": _by_group,
        "footnotes": _footnotes,
        "address": lambda file: quote(file.as_posix()),
        "picture": lambda file: data_uri((folder / file).read_bytes(), "image/png"),
    }
    return environment


def _asset(name: str) -> Markup:
    """The page's own style or script, shipped with the package."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    """How a security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _heading(title: str) -> Markup:
    """A column's title: a stored name may be broken after an underscore, its unit has a line of its own."""
    name, bracket, unit = plain(title).rpartition(" (")
    if not bracket or not unit.endswith(")"):
        name, unit = plain(title), ""
    shown = Markup('<span class="name">{}</span>').format(_breakable(name))
    return shown + Markup(' <span class="unit">{}</span>').format(unit.removesuffix(")")) if unit else shown


def _breakable(name: str) -> Markup:
    """A name that may go on in a second line after an underscore."""
    return Markup("_<wbr>").join(plain(name).split("_"))


def _value_text(cell: Cell) -> str:
    if isinstance(cell.value, str):
        return plain(cell.value)
    return MISSING if cell.value is None else number_text(cell.value, cell.unit)


def _is_grouped(table: Table) -> bool:
    return bool(table.columns) and table.columns[0].title in _GROUPED


def _by_group(table: Table) -> list[tuple[str | None, list[_Line]]]:
    """Rows under the name of their dataset or scene; in a table that begins with neither all of them under None."""
    if not _is_grouped(table):
        return [(None, [_line(table.columns, row) for row in table.cells])]
    groups = itertools.groupby(table.cells, key=lambda row: row[0].text)
    return [(name, [_line(table.columns[1:], row[1:]) for row in rows]) for name, rows in groups]


def _line(columns: Sequence[Column], cells: Sequence[Cell]) -> _Line:
    pairs = list(zip(columns, cells, strict=True))
    kind = "mean" if any(cell.strong for _, cell in pairs[:1]) else "scene"
    numbers = [(column, cell) for column, cell in pairs if column.align == "right"]
    if _only_reason(columns, cells) is None:
        return _Line(kind, tuple((column, cell, 1) for column, cell in pairs), reason=False)
    names = [(column, cell, 1) for column, cell in pairs if column.align == "left"]
    return _Line(f"{kind} failed", (*names, (*numbers[0], len(numbers))), reason=True)


def _only_reason(columns: Sequence[Column], cells: Sequence[Cell]) -> int | None:
    """The note that says why a row has no number at all; None where it has some, or where reasons differ."""
    numbers = [cell for column, cell in zip(columns, cells, strict=True) if column.align == "right"]
    notes = {cell.note for cell in numbers}
    return notes.pop() if len(notes) == 1 and all(cell.value is None for cell in numbers) else None


def _footnotes(table: Table) -> list[tuple[int, str]]:
    """Notes that cells name; one that stands in its row is not said again."""
    columns = table.columns
    rows = [row for row in table.cells if _only_reason(columns, row) is None]
    named = {cell.note for row in rows for cell in row}
    return [(number, note) for number, note in enumerate(table.notes, 1) if number in named]


def markdown_page(content: Content, measurements: str | None) -> str:
    """The page, with links relative to the report's folder. measurements: file of all numbers there, if any."""
    lines = [f"# {markdown_text(content.title)}", "", markdown_text(state(content)), ""]
    for warning in warnings(content):
        lines += _block(warning)
    for section in sections(content):
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += _block(block)
    if measurements is not None:
        lines += [f"All numbers at full precision, one a row: [{measurements}]({quote(measurements)})", ""]
    return "\n".join(lines)


def _block(block: Block) -> list[str]:
    match block:
        case Text(text, lead):
            return [f"**{markdown_text(lead)}:** {markdown_text(text)}" if lead else markdown_text(text), ""]
        case Listing(items):
            return [*(f"- {markdown_text(what)}: {markdown_text(words)}" for what, words in items), ""]
        case Pictures(figures):
            return [
                line
                for figure in figures
                for line in (f"![{markdown_text(figure.caption)}]({quote(figure.file.as_posix())})", "")
            ]
        case Space(label, file):
            return [f"In three dimensions: [{markdown_text(label)}]({quote(file.as_posix())})", ""]
        case Code(text, language):
            return fenced(text, language)
        case Folded(summary, blocks):
            return _folded(summary, [line for each in blocks for line in _block(each)])
        case Table():
            return _table(block)


def _table(table: Table) -> list[str]:
    lines = replace(table, legend=()).markdown(padded=False).splitlines()
    # A table under a heading of its own has none.
    lines = [*(lines if table.title else lines[2:]), ""]
    if not table.legend:
        return lines
    return lines + _folded("What the columns mean", [*(f"- {markdown_text(entry)}" for entry in table.legend), ""])


def _folded(summary: str, lines: list[str]) -> list[str]:
    """HTML that Markdown allows; what is between the blank lines is Markdown again."""
    return ["<details>", f"<summary>{markdown_text(summary)}</summary>", "", *lines, "</details>", ""]
