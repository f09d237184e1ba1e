"""The report as one Markdown page, with its figures and full table beside it."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

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
from lingbot_eval.tables import Table, fenced, markdown_text


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
