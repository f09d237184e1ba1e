"""What a report says, before it is Markdown or HTML: runs, tables, figures, failures, differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lingbot_eval.reports import side_by_side
from lingbot_eval.reports.drawing import UnitFigures
from lingbot_eval.reports.published import PublishedRow, published_rows
from lingbot_eval.reports.reading import Opened, Run, tables
from lingbot_eval.reports.tables import RunResults, Table, wide_tables

NOTE = "Note"
"""Heading of what a scene, a method or a score says of its numbers."""


@dataclass(frozen=True)
class Content:
    """One report. together: of scenes that several methods or runs share. units: figures of each run's units."""

    opened: Opened
    tables: tuple[Table, ...]
    together: tuple[UnitFigures, ...]
    units: tuple[UnitFigures, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that could be read."""
        return self.opened.runs

    @property
    def results(self) -> tuple[RunResults, ...]:
        """What the runs hold."""
        return tuple(run.results for run in self.runs)

    @property
    def several(self) -> bool:
        """Whether names need the run's label beside them."""
        return len(self.runs) > 1

    @property
    def title(self) -> str:
        """Names of the runs, and what a reader must know before any number."""
        marks = [
            *(["untrained weights"] if self.untrained else []),
            *(["incomplete"] if any(run.incomplete for run in self.runs) else []),
        ]
        return ", ".join(run.label for run in self.runs) + (f" — {', '.join(marks)}" if marks else "")

    @property
    def untrained(self) -> tuple[str, ...]:
        """Methods with untrained weights, with the run's label where there are several."""
        return tuple(self.of_run(run, method) for run in self.runs for method in run.results.untrained)

    @property
    def left_out(self) -> tuple[str, ...]:
        """One line for each run, unit or file that is there and could not be used."""
        units = (reason for run in self.runs for reason in run.results.left_out)
        return (*self.opened.skipped, *units, *(reason for unit in self.units for reason in unit.damaged))

    def of_run(self, run: Run, text: str) -> str:
        """``text``, with the run's label where there are several."""
        return f"{run.label}: {text}" if self.several else text


def make_content(
    opened: Opened, together: tuple[UnitFigures, ...] = (), units: tuple[UnitFigures, ...] = ()
) -> Content:
    """The content of a report of these runs with these figures."""
    return Content(opened, tables(opened.runs), together, units)


@dataclass(frozen=True)
class Warned:
    """Something wrong with the runs as a whole."""

    heading: str
    text: str


def warnings(content: Content) -> Iterator[Warned]:
    """What a reader must know before any number: runs left out, unfinished ones, untrained weights, changed cards."""
    for reason in content.opened.skipped:
        yield Warned("Left out", f"a run could not be read: {reason}")
    for run in content.runs:
        for reason in run.results.left_out:
            yield Warned("Left out", content.of_run(run, f"a part of the run is not used: {reason}"))
        if run.results.unchecked:
            yield Warned("Not checked", content.of_run(run, f"for damage: {run.results.unchecked}"))
        if run.incomplete:
            yield Warned("Incomplete", content.of_run(run, run.incomplete))
    if content.untrained:
        names = ", ".join(content.untrained)
        yield Warned(
            "Untrained weights",
            f"{names}. Accuracy figures of these methods say nothing about the trained model.",
        )
    for run in content.runs:
        for unit in run.results.units:
            place = f"{unit.record.dataset} / {unit.record.scene} · {unit.record.method}"
            for note in unit.record.remarks:
                yield Warned(NOTE, content.of_run(run, f"{place}: {note}"))
    for name in side_by_side.differing_cards(content.results):
        yield Warned(
            "Different datasets", f"the card of {name} changed between these runs: scenes or protocol may differ"
        )


def failures(content: Content) -> tuple[tuple[str, str], ...]:
    """``(scene and method, reason)`` of everything without scores, then of series that could not be drawn."""
    found = [
        (content.of_run(run, " / ".join(names)), reason)
        for run in content.runs
        for names in run.results.names()
        if (reason := run.results.failure(names)) is not None
    ]
    return (*found, *((unit.label, problem) for unit in content.units for problem in unit.problems))


def convention_differences(content: Content) -> tuple[str, ...]:
    """Labels of columns that were computed by more than one convention: their numbers do not compare."""
    labels = (column.label for table in content.tables for column in table.columns if len(column.conventions) > 1)
    return tuple(dict.fromkeys(labels))


def published(content: Content) -> tuple[tuple[Run, PublishedRow], ...]:
    """Published numbers beside those of each run."""
    return tuple((run, row) for run in content.runs for row in published_rows(run.results, wide_tables(run.results)))


def facts(content: Content) -> Iterator[tuple[str, dict[str, Any]]]:
    """What methods and sequences say of themselves: settings, sources of poses and depth, association counts."""
    for run in content.runs:
        records = [unit.record for unit in run.results.units]
        methods = {record.method: record.method_facts for record in reversed(records)}
        sequences = {f"{record.dataset} / {record.scene}": record.sequence for record in records}
        for title, found in (("Methods", methods), ("Sequences", sequences)):
            if found:
                yield content.of_run(run, title), found


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def run_lines(run: Run) -> Sequence[tuple[str, str]]:
    """Name and value of what identifies a run."""
    record = run.results.record
    return (
        ("key", record.key),
        ("state", run.state),
        ("scored", f"{run.scored} of {run.planned} pairs of scene and method"),
        ("started", record.started),
        ("finished", record.finished or "not yet"),
        *((f"weights of {method}", weights) for method, weights in record.weights.items()),
    )
