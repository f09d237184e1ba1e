"""What a report says: one list of sections made of a few kinds of block, which every kind of page shows in its way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from lingbot_eval import tables
from lingbot_eval.machine.environment import machine_name
from lingbot_eval.reports.drawing import Drawn, Space, UnitFigures
from lingbot_eval.reports.headline import PublishedRow, delta_text, headline, published_rows
from lingbot_eval.reports.reading import Opened, Run, Setting, differing_cards, environments, settings
from lingbot_eval.reports.reading import tables as tables_of
from lingbot_eval.reports.rendering import method_label, pieces, shown, title_of
from lingbot_eval.reports.tables import FewOfMany, RunResults, Table, few_of_many
from lingbot_eval.reports.two_runs import RunComparison, remarks
from lingbot_eval.reports.two_runs import tables as tables_of_two

T = TypeVar("T")

MOST_COLUMNS = 9
"""Numbers side by side that fit on a page of 1280 pixels, beside the names of a row."""
_PICTURES, _REMARKS = 2, 4
"""How many are seen before anything is unfolded."""
_LISTED = 200
"""Reasons, remarks and facts of units that a page holds at most."""


@dataclass(frozen=True)
class Text:
    """A paragraph. lead: words before it that stand out. warning: whether it is one."""

    text: str
    lead: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Listing:
    """Things, each with what there is to say of it."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Pictures:
    """Figures side by side, or (wide) one below the other."""

    figures: tuple[Drawn, ...]
    wide: bool = False


@dataclass(frozen=True)
class Code:
    """Text as it is. language: for who colours it."""

    text: str
    language: str


@dataclass(frozen=True)
class Folded:
    """What a reader unfolds when it is wanted."""

    summary: str
    blocks: tuple[Block, ...]


Block = Space | Text | Listing | Pictures | Code | Folded | tables.Table


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading. key: its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Content:
    """One report.

    tables: with every row; a page shows `page_tables`. scenes: figures of scenes, with all their methods and runs.
    units: of each run's units. spaces: scenes in three dimensions. pair: one run against the other, where there are two
    with a scene in common; agreement: its figures. sweeps: errors against what the runs sweep.
    """

    opened: Opened
    tables: tuple[Table, ...]
    scenes: tuple[UnitFigures, ...] = ()
    units: tuple[UnitFigures, ...] = ()
    spaces: tuple[Space, ...] = ()
    pair: RunComparison | None = None
    agreement: tuple[Drawn, ...] = ()
    sweeps: tuple[Drawn, ...] = ()

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

    @cached_property
    def few(self) -> FewOfMany | None:
        """What a page shows of very many units; None where it shows all."""
        return few_of_many(self.tables)

    @cached_property
    def page_tables(self) -> tuple[Table, ...]:
        """The tables as far as a page shows them."""
        return self.tables if self.few is None else tuple(self.few.part(table) for table in self.tables)

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """One line for each run, unit or file that is there and could not be used."""
        units = (reason for run in self.runs for reason in run.results.left_out)
        return (*self.opened.skipped, *units, *(reason for unit in self.units for reason in unit.damaged))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What scenes, methods and scores say of their numbers."""
        return tuple(
            self.of_run(run, f"{unit.record.dataset} / {unit.record.scene} · {unit.record.method}: {note}")
            for run in self.runs
            for unit in run.results.units
            for note in unit.record.remarks
        )

    def of_run(self, run: Run, text: str) -> str:
        """``text``, with the run's label where there are several."""
        return f"{run.label}: {text}" if self.several else text


def make_content(opened: Opened) -> Content:
    """The content of a report of these runs, before any figure is drawn."""
    return Content(opened, tables_of(opened.runs))


def state(content: Content) -> str:
    """What was run, in a line: how many scenes were scored, when, on what."""
    return "; ".join(content.of_run(run, _state(run)) for run in content.runs)


def warnings(content: Content) -> Iterator[Text]:
    """What a reader must know before any number: runs left out, unfinished ones, untrained weights, changed cards."""
    for reason in content.opened.skipped:
        yield Text(f"a run could not be read: {reason}", "Left out", warning=True)
    for run in content.runs:
        for reason in run.results.left_out[:_LISTED]:
            yield Text(content.of_run(run, f"a part of the run is not used: {reason}"), "Left out", warning=True)
        if more := len(run.results.left_out[_LISTED:]):
            yield Text(content.of_run(run, f"{more} more parts of the run are not used"), "Left out", warning=True)
        if run.results.unchecked:
            yield Text(content.of_run(run, f"for damage: {run.results.unchecked}"), "Not checked", warning=True)
        if run.incomplete:
            yield Text(content.of_run(run, run.incomplete), "Incomplete", warning=True)
    if content.untrained:
        names = ", ".join(content.untrained)
        text = f"{names}. Accuracy figures of these methods say nothing about the trained model."
        yield Text(text, "Untrained weights", warning=True)
    for name in differing_cards(content.results):
        text = f"the card of {name} changed between these runs: scenes or protocol may differ"
        yield Text(text, "Different datasets", warning=True)
    if content.few is not None:
        total = sum(row.kind == "scene" for row in content.tables[0].rows)
        text = (
            f"means are over all {total} pairs of scene and method. One by one this page shows {content.few.words}; "
            "every pair has its row in the files under tables/, and its conventions and samples in its result.json"
        )
        yield Text(text, "A part of very many")
    differing = [column.label for table in content.tables for column in table.columns if len(column.conventions) > 1]
    if differing:
        text = "these columns were computed by more than one convention, which the legends below their tables give: "
        yield Text(text + ", ".join(dict.fromkeys(differing)), "Not to be compared across rows", warning=True)


def sections(content: Content) -> tuple[Section, ...]:
    """All that a report says, in the order in which readers want it. A section without anything to say is left out."""
    made = (
        Section("results", "Results", tuple(_results(content))),
        Section("paths", "Paths", tuple(_paths(content))),
        Section("failures", "Failures and remarks", tuple(_failures(content))),
        Section("published", "Beside published numbers", tuple(_published(content))),
        Section("differences", "Where the runs differ", tuple(_differences(content))),
        Section("comparison", "One run against the other", tuple(_comparison(content))),
        Section("figures", "Figures", tuple(_figures(content))),
        Section("tables", "All tables", tuple(_tables(content))),
        Section("facts", "Methods and sequences", tuple(_facts(content))),
        Section("runs", "Runs" if content.several else "Run", tuple(_folded_rows(content, _run_rows(content)))),
        Section("settings", "Settings", tuple(_folded_rows(content, settings(content.results)))),
        Section("environment", "Environment", tuple(_folded_rows(content, environments(content.results)))),
        Section("repeat", "Repeat it", tuple(_commands(content))),
    )
    return tuple(section for section in made if section.blocks)


def _results(content: Content) -> Iterator[Block]:
    if not content.tables:
        yield Text("Nothing was planned, so there are no results.")
        return
    beside = [(run.label if content.several else "", row) for run, row in _published_numbers(content)]
    first = headline(content.page_tables, beside)
    yield first.table
    yield from first.more
    if content.sweeps:
        yield Pictures(content.sweeps, wide=True)
    if first.missing:
        yield Text("; ".join(first.missing), "Not measured")


def _paths(content: Content) -> Iterator[Block]:
    """How each scene's methods moved, and the clouds that they built."""
    figures = [figure for unit in content.scenes for figure in unit.figures if figure.is_path]
    yield from _some_seen(figures, _PICTURES, lambda some: Pictures(tuple(some)))
    yield from content.spaces
    if not content.spaces and any(figure.kind == "cloud" for figure in figures):
        yield Text("lingbot-eval view RUN, or report RUN --interactive", "Walk through the clouds")


def _failures(content: Content) -> Iterator[Block]:
    """Everything without scores and its reason, series that could not be drawn, then what is in doubt."""
    found = [
        (content.of_run(run, " / ".join(names)), reason)
        for run in content.runs
        for names in run.results.names()
        if (reason := run.results.failure(names)) is not None
    ]
    found += [(unit.label, problem) for unit in content.units for problem in unit.problems]
    found += [("Note", note) for note in content.notes]
    yield from _some_seen(found[:_LISTED], _REMARKS, lambda some: Listing(tuple(some)))
    if more := len(found[_LISTED:]):
        yield Text(f"{more} more: each failure is in tables/, each remark in its unit's result.json")


def _published(content: Content) -> Iterator[Block]:
    """Every published number with ours, and the difference or why there is none; then those of other methods."""
    text = Text("Delta is ours less the published number, in the metric's unit.")
    own, others = _published_numbers(content), _published_numbers(content, others=True)
    if own:
        yield Folded(f"{len(own)} published numbers", (_published_table(content, own), text))
    if others:
        yield Folded(
            f"{len(others)} numbers of other methods on the same frames",
            (_published_table(content, others, whose=True), text),
        )


def _published_table(
    content: Content, rows: Sequence[tuple[Run, PublishedRow]], *, whose: bool = False
) -> tables.Table:
    """Published numbers beside ours. whose: whether a column says which method each is of."""
    names = ["dataset", "method", *(["run"] if content.several else []), *(["published for"] if whose else [])]
    names += ["metric", "source"]
    notes: dict[str, int] = {}
    lines: list[list[tables.Cell | str]] = []
    for run, row in rows:
        method = method_label(row.method, run.results.untrained)
        share = "" if row.scored is None else f"{row.scored[0]} of {row.scored[1]}"
        delta = tables.Cell(delta_text(row))
        if row.delta is None:
            delta = tables.Cell(None, note=tables.footnote(notes, delta_text(row)))
        lines.append(
            [
                *(row.dataset, method),
                *([run.label] if content.several else []),
                *([row.whose] if whose else []),
                *(row.metric, row.source),
                *(tables.Cell(row.ours, row.unit, share=share), tables.Cell(f"{row.published:g}"), delta),
            ]
        )
    columns = tables.columns([*names, "ours", "published", "delta"], left=len(names))
    return tables.Table("", columns, lines, tuple(notes))


def _differences(content: Content) -> Iterator[Block]:
    """Settings and environment in which the runs differ."""
    if not content.several:
        return
    rows = [row for row in (*settings(content.results), *environments(content.results)) if row.differs]
    if rows:
        yield _facts_table(content, rows)
    else:
        yield Text("In none of their settings, and not in their environment.")


def _comparison(content: Content) -> Iterator[Block]:
    """How far two runs agree, frame by frame and number by number: what ``compare`` writes of them."""
    if content.pair is None:
        return
    agreement, *details = tables_of_two(content.pair)
    yield _untitled(agreement)
    if content.agreement:
        yield Folded("Along the sequence", (Pictures(content.agreement, wide=True),))
    for table in details:
        yield Folded(table.title, (_untitled(table),))
    said = remarks(content.pair)
    if said:
        yield Folded("What to know of it", tuple(Text(line) for line in said))


def _figures(content: Content) -> Iterator[Block]:
    """All other pictures of each scene and method."""
    for unit in (*content.scenes, *content.units):
        figures = tuple(figure for figure in unit.figures if not figure.is_path)
        if figures:
            yield Folded(unit.label, (Pictures(figures, wide=True),))


def _tables(content: Content) -> Iterator[Block]:
    """Every number under its stored name, few enough columns in each table to be read without scrolling."""
    for table in content.page_tables:
        parts = tuple(_untitled(shown(part)) for part in pieces(table, MOST_COLUMNS))
        yield Folded(title_of(table), parts)


def _facts(content: Content) -> Iterator[Block]:
    """What methods and sequences say of themselves: settings, sources of poses and depth, association counts."""
    for run in content.runs:
        records = [unit.record for unit in run.results.units]
        methods = {record.method: record.method_facts for record in reversed(records)}
        sequences = {f"{record.dataset} / {record.scene}": record.sequence for record in records}
        shown = dict(list(sequences.items())[:_LISTED])
        for title, found in (("Methods", methods), (f"Sequences{_of(shown, sequences)}", shown)):
            if found:
                yield Folded(content.of_run(run, title), (Code(_pretty(found), "json"),))


def _of(shown: Sized, all_of_them: Sized) -> str:
    return f", the first {len(shown)} of {len(all_of_them)}" if len(shown) < len(all_of_them) else ""


def _commands(content: Content) -> Iterator[Block]:
    for run in content.runs:
        if content.several:
            yield Text(run.label)
        yield Code(run.results.record.command, "sh")


def _some_seen(things: Sequence[T], count: int, block: Callable[[Sequence[T]], Block]) -> Iterator[Block]:
    """The first few as they are, the others folded."""
    if things:
        yield block(things[:count])
    if things[count:]:
        yield Folded(f"{len(things) - count} more", (block(things[count:]),))


def _published_numbers(content: Content, *, others: bool = False) -> tuple[tuple[Run, PublishedRow], ...]:
    """Published numbers of the methods, or of others, beside those of each run."""
    return tuple(
        (run, row) for run in content.runs for row in published_rows(run.results, run.results.tables, others=others)
    )


def _untitled(table: tables.Table) -> tables.Table:
    return tables.Table("", table.columns, table.rows, table.notes, table.legend)


def _folded_rows(content: Content, rows: Sequence[Setting]) -> Iterator[Block]:
    if not rows:
        yield Text("None were stored.")
        return
    number = "1 entry" if len(rows) == 1 else f"{len(rows)} entries"
    marked = ", those that differ between runs marked" if content.several else ""
    yield Folded(number + marked, (_facts_table(content, rows),))


def _facts_table(content: Content, rows: Iterable[Setting]) -> tables.Table:
    """Settings or facts by name, a column a run; those that differ stand out."""
    labels = [run.label if content.several else "value" for run in content.runs]
    columns = tables.columns(["", *labels], left=1 + len(labels))
    mark = content.several
    lines: list[list[tables.Cell | str]] = [
        [row.name, *(tables.Cell(value, strong=mark and row.differs) for value in row.values)] for row in rows
    ]
    return tables.Table("", columns, lines)


def _run_rows(content: Content) -> list[Setting]:
    """What identifies the runs."""
    found = [dict(_run_lines(run)) for run in content.runs]
    names = dict.fromkeys(name for lines in found for name in lines)
    return [Setting(name, tuple(lines.get(name, "–") for lines in found)) for name in names]


def _run_lines(run: Run) -> Iterator[tuple[str, str]]:
    record = run.results.record
    yield "key", record.key
    yield "state", run.state
    yield "scored", f"{run.scored} of {run.planned} pairs of scene and method"
    yield "started", record.started
    yield "finished", record.finished or "not yet"
    yield from ((f"weights of {method}", weights) for method, weights in record.weights.items())


def _state(run: Run) -> str:
    record = run.results.record
    scored = f"{run.scored} of {run.planned} pairs of scene and method scored"
    return f"{scored}, {record.started[:10]}, on {machine_name(record.environment)}"


def _pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)
