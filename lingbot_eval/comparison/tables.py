"""Small Markdown tables that also read well in a terminal, and the rows that both kinds of comparison share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lingbot_eval.comparison.agreement import MATERIAL_RISE, Growth, Summary
from lingbot_eval.metrics.slope import BLOCK_VALUES, BLOCKS, FEWEST_BLOCKS
from lingbot_eval.reports.numbers import number_text
from lingbot_eval.reports.rendering import MISSING, markdown_text

AGREEMENT_HEADER = (
    "pair",
    "difference",
    "median",
    "p99",
    "largest",
    "trend per 1,000 frames (95 %)",
    "verdict",
    "frames",
)
AGREEMENT_LEGEND = (
    "rotation: angle between the two orientations; position: distance of the two camera centres",
    f"trend: Theil–Sen slope over medians of up to {BLOCKS} stretches of the sequence; 'grows' where its interval lies "
    f"above 0 and it adds more than {MATERIAL_RISE:.0%} of the median from first frame to last",
)


@dataclass(frozen=True)
class TextTable:
    """Cells as text from anywhere; the first ``left`` columns hold names, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    legend: Sequence[str] = ()

    def markdown(self) -> str:
        """A Markdown section, columns padded, legend below."""
        lines = [f"### {markdown_text(self.title)}", "", *self._grid(), ""]
        return "\n".join(
            [*lines, *(f"- {markdown_text(entry)}" for entry in self.legend), *([""] if self.legend else [])]
        )

    def _grid(self) -> list[str]:
        grid = [[markdown_text(cell) for cell in row] for row in (self.header, *self.rows)]
        widths = [max(3, *(len(row[column]) for row in grid)) for column in range(len(self.header))]
        rule = ["-" * width if column < self.left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
        lines = []
        for row in (grid[0], rule, *grid[1:]):
            cells = [
                cell.ljust(width) if column < self.left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return lines


def number(value: float | None, unit: str) -> str:
    """A number with its unit, or the word for none."""
    if value is None:
        return MISSING
    return number_text(value, unit) + ("" if unit == "1" else f" {unit}")


def mebibytes(size: int | None) -> str:
    """Bytes in MiB, without the unit."""
    return MISSING if size is None else number_text(size / 2**20, "MiB")


def agreement_row(pair: str, summary: Summary) -> tuple[str, ...]:
    """One row under AGREEMENT_HEADER."""
    return (
        pair,
        summary.name,
        *(number(value, summary.unit) for value in (summary.median, summary.p99, summary.largest)),
        *_trend(summary.growth, summary.unit),
        str(summary.frames),
    )


def reasons(rows: Iterable[tuple[str, Summary]]) -> tuple[str, ...]:
    """What is missing and why, each reason once; rows: pair and summary."""
    found: dict[str, list[str]] = {}
    for pair, summary in rows:
        if summary.reason is not None:
            found.setdefault(summary.reason, []).append(f"{pair} {summary.name}")
    return tuple(f"{MISSING}: {reason} ({', '.join(where)})" for reason, where in found.items())


def _trend(growth: Growth | None, unit: str) -> tuple[str, str]:
    if growth is None:
        return MISSING, f"needs {FEWEST_BLOCKS * BLOCK_VALUES} frames"
    slope, low, high = (number_text(value, unit) for value in (growth.slope, growth.low, growth.high))
    return f"{slope} ({low} to {high})", "grows" if growth.grows else "does not grow"
