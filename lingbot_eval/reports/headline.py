"""The first table of a page: what a researcher came for, under its usual names, published numbers beside it.

A published number has the difference beside it where both were computed alike, else why they were not; everything
comes from the stored run: its card's published rows and protocol as they were when it ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lingbot_eval import tables
from lingbot_eval.declarations import Key, published_as, titles
from lingbot_eval.reports.rendering import name_header, row_names, shares_legend
from lingbot_eval.reports.tables import Cell, Column, Row, RunResults, Table
from lingbot_eval.tables import number_text, plain

_ONLY_WHERE_PUBLISHED = frozenset({("auc", "auc_first_camera_30", "")})
_GIGABYTES = 2**20 / 1e9  # in a MiB
MOST_COLUMNS = 12
"""Numbers side by side that fit on a page of 1280 pixels, under short names."""
_MOST_ROWS = 60
"""More than these, and scenes of which there is a mean are left to the tables further down."""
_ORDER = ("mean", "scene")  # means first: of many scenes they are what is read


_THE_MODEL = "LingBot-Map"
_Stored = Mapping[str, Any]


@dataclass(frozen=True)
class PublishedRow:
    """One published number beside ours.

    ours: the average over scenes, None where there is none. scored: (n, m) scenes in it. reason: why the two cannot
    be compared; None exactly when ``delta`` means something. whose: the method that the number was published for.
    """

    dataset: str
    method: str
    metric: str
    source: str
    published: float
    ours: float | None
    unit: str
    scored: tuple[int, int] | None
    reason: str | None
    whose: str = ""

    @property
    def delta(self) -> float | None:
        """Ours less the published number, in its unit."""
        return None if self.reason is not None or self.ours is None else self.ours - self.published


@dataclass(frozen=True)
class Headline:
    """The table, what has no place in it on a page, and one line for each reason why a metric that readers look for is
    in neither."""

    table: tables.Table
    missing: tuple[str, ...]
    more: tuple[tables.Table, ...] = ()


@dataclass(frozen=True)
class _Found:
    """A column of the first table: where its numbers are."""

    title: str
    column: Column
    cells: Mapping[tuple[str, ...], tuple[Cell, str | None]]  # by row: the cell, and the reason where it has no number

    @property
    def unit(self) -> str:
        return "GB" if self.column.unit == "MiB" else self.column.unit

    def number(self, value: float | None) -> float | None:
        return None if value is None else value * _GIGABYTES if self.column.unit == "MiB" else value


def headline(given: Sequence[Table], published: Sequence[tuple[str, PublishedRow]]) -> Headline:
    """The first table of a report.

    Args:
        given: the report's tables.
        published: published numbers, each with the label of its run where there are several ("" otherwise).

    Returns:
        Rows of methods by scene, the mean over scenes first and what was published below it, of very many scenes the
        means alone; in each scene the best number of several is strong. A metric of which there is no number has no
        column, and a line that says why. Where there are more columns than a page has room for, those that are no
        headlines have tables of their own.
    """
    found = list(_columns(given, {_key(row) for _, row in published}))
    there = [each for each in found if any(cell.value is not None for cell, _ in each.cells.values())]
    rows = [row for row in (given[0].rows if given else ()) if row.kind in _ORDER]
    if len(rows) > _MOST_ROWS:
        averaged = {_group(row) for row in rows if row.kind == "mean"}
        rows = [row for row in rows if row.kind == "mean" or _group(row) not in averaged]
    first, rest = there, list[_Found]()
    if len(there) > MOST_COLUMNS:
        first = [each for each in there if each.column.headline]
        rest = [each for each in there if not each.column.headline]
    parts = [first, *(rest[start : start + MOST_COLUMNS] for start in range(0, len(rest), MOST_COLUMNS))]
    table, *more = (_shown(part, rows, given, published) for part in parts)
    return Headline(table, tuple(_missing(found, there, rows)), tuple(more))


def _shown(
    there: Sequence[_Found], rows: Sequence[Row], given: Sequence[Table], published: Sequence[tuple[str, PublishedRow]]
) -> tables.Table:
    """The rows with some of the columns."""
    notes: dict[str, int] = {}
    several = bool(given) and given[0].several_runs
    names = name_header(given[0]) if given else ["dataset", "scene", "method"]
    lines: list[list[tables.Cell | str]] = []
    for row in sorted(rows, key=lambda row: (_first(rows, row), _ORDER.index(row.kind))):
        lines.append(_line(row, rows, given[0], there, notes))
        if row.kind == "mean" or sum(_group(other) == _group(row) for other in rows) == 1:
            lines += _published_lines(row, published, there, notes, several)
    titles = [each.title for each in there] or ["result"]
    legend = [*(_entry(each) for each in there), *shares_legend(rows)]
    return tables.Table("", tables.columns([*names, *titles], left=len(names)), lines, tuple(notes), legend)


def _columns(given: Sequence[Table], published: set[Key | None]) -> Iterator[_Found]:
    usual = titles()
    by_key: dict[Key, _Found] = {}
    for table in given:
        for position, column in enumerate(table.columns):
            key = (column.family, column.name, column.variant)
            if key not in by_key and (key in usual or column.headline):
                cells = {_name(row): _with_reason(row.cells[position], table) for row in table.rows}
                by_key[key] = _Found(usual.get(key, column.label), column, cells)
    for key in (*usual, *(key for key in by_key if key not in usual)):
        if key in by_key and (key not in _ONLY_WHERE_PUBLISHED or key in published):
            yield by_key[key]


def _with_reason(cell: Cell, table: Table) -> tuple[Cell, str | None]:
    return cell, table.notes[cell.note - 1] if cell.note else None


def _key(row: PublishedRow) -> Key | None:
    """Which of our means a published number stands beside."""
    declared = published_as(row.metric)
    return declared[0] if declared is not None and declared[1] == "mean" else None


def _name(row: Row) -> tuple[str, ...]:
    return row.dataset, row.scene, row.method, row.kind, row.run


def _group(row: Row) -> tuple[str, ...]:
    return row.dataset, row.method, row.run


def _first(rows: Sequence[Row], row: Row) -> int:
    """Datasets stay in their order."""
    return next(number for number, other in enumerate(rows) if other.dataset == row.dataset)


def _line(
    row: Row, rows: Sequence[Row], table: Table, there: Sequence[_Found], notes: dict[str, int]
) -> list[tables.Cell | str]:
    dataset, scene, *rest = row_names(row, table)
    line: list[tables.Cell | str] = [dataset, tables.Cell(scene, strong=row.kind != "scene"), *rest]
    if not there:
        why = table.notes[row.note - 1] if row.note else "nothing was measured"
        return [*line, tables.Cell(None, note=tables.footnote(notes, why))]
    beside = [other for other in rows if (other.dataset, other.scene, other.kind) == (row.dataset, row.scene, row.kind)]
    for each in there:
        cell, reason = each.cells[_name(row)]
        # All of them is no share that anybody has to read.
        scored, of = cell.scored or (1, 1)
        share = "" if scored == of else f"{scored} of {of}"
        strong = _is_best(cell, [each.cells[_name(other)][0] for other in beside], each.column)
        line.append(tables.Cell(each.number(cell.value), each.unit, tables.footnote(notes, reason), share, strong))
    return line


def _is_best(cell: Cell, beside: Sequence[Cell], column: Column) -> bool:
    """Whether it is the best of several numbers; means over other numbers of scenes do not compare."""
    values = [other.value for other in beside if other.value is not None and other.scored == cell.scored]
    if column.better is None or cell.value is None or len(set(values)) < 2:
        return False
    return cell.value == (min(values) if column.better == "lower" else max(values))


def _published_lines(
    row: Row,
    published: Sequence[tuple[str, PublishedRow]],
    there: Sequence[_Found],
    notes: dict[str, int],
    several: bool,
) -> Iterator[list[tables.Cell | str]]:
    """What was published for the method of this row, a line a source."""
    own = [each for run, each in published if (each.dataset, each.method, run) == _group(row)]
    for source in dict.fromkeys(each.source for each in own):
        cells: list[tables.Cell | str] = []
        for found in there:
            key = (found.column.family, found.column.name, found.column.variant)
            number = next((each for each in own if each.source == source and _key(each) == key), None)
            if number is None:
                cells.append("")
                continue
            reason = None if number.reason is None else f"not comparable: {number.reason}"
            cells.append(tables.Cell(f"{number.published:g}", note=tables.footnote(notes, reason)))
        if any(cells):
            yield [plain(row.dataset), "published", plain(source), *([plain(row.run)] if several else []), *cells]


def _entry(found: _Found) -> str:
    stored = f"{found.column.name} {found.column.variant}".strip()
    return f"{found.title}: {stored}; {'; or '.join(found.column.conventions)}"


def _missing(found: Sequence[_Found], there: Sequence[_Found], rows: Sequence[Row]) -> Iterator[str]:
    """Metrics without any number, by reason; that of a row without any is in the row."""
    asked = [_name(row) for row in rows if row.kind == "scene" and row.note is None]
    gaps = [
        (each.title, reason)
        for each in found
        if each not in there
        for reason in dict.fromkeys(each.cells[name][1] for name in asked if name in each.cells)
    ]
    for reason, names in tables.reasons(gaps).items():
        yield f"{', '.join(names)}: {reason}"


# Published numbers beside ours


def published_rows(results: RunResults, tables: tuple[Table, ...], *, others: bool = False) -> tuple[PublishedRow, ...]:
    """Every published number of the run's datasets for the methods that ran; () for runs stored without cards.

    The streaming model is set beside rows of LingBot-Map, another method beside rows of its own name.
    others: those of other methods instead, as far as they can be compared, each beside every method that ran.
    """
    experiment = results.record.experiment
    cards, datasets = experiment.get("cards", {}), experiment.get("datasets", [])
    methods = experiment.get("methods", [])
    rows: list[PublishedRow] = []
    for dataset in datasets:
        card = cards.get(dataset.get("name"), {})
        for method in methods:
            for published in card.get("published", []):
                if _is_of(published["method"], method) != others:
                    rows += _rows(results, tables, dataset, card, method, published)
    return tuple(row for row in rows if not others or row.delta is not None)


def delta_text(row: PublishedRow) -> str:
    """The difference with its sign, or why there is none."""
    if row.delta is None:
        return f"not comparable: {row.reason}"
    text = number_text(row.delta, row.unit)
    return text if row.delta <= 0 else f"+{text}"


def _is_of(published: str, method: Mapping[str, Any]) -> bool:
    if method.get("kind") == "lingbot":
        return published.startswith(_THE_MODEL)
    return published.lower() == str(method.get("name", "")).lower()


def _rows(
    results: RunResults, tables: tuple[Table, ...], dataset: _Stored, card: _Stored, method: _Stored, published: _Stored
) -> Iterator[PublishedRow]:
    """The numbers of one published row; dataset: as it was run. All as stored."""
    names = dataset.get("label") or dataset.get("name", ""), method.get("name", "")
    for metric, value in published["values"].items():
        ours, scored, unit = _average(tables, *names, metric)
        reason = _not_alike(results, dataset, card, method, published, metric)
        if ours is None or scored is None:
            reason = reason or "this run did not measure it"
        else:
            reason = reason or _not_all(scored, published.get("scenes"))
        source, whose = published["source"], published["method"]
        yield PublishedRow(*names, metric, source, value, ours, unit, scored, reason, whose)


def _average(
    tables: tuple[Table, ...], dataset: str, method: str, metric: str
) -> tuple[float | None, tuple[int, int] | None, str]:
    """Our average over scenes, how many are in it, and its unit."""
    declared = published_as(metric)
    if declared is None:
        return None, None, "1"
    key, average = declared
    for table in tables:
        wanted = [c for c in table.columns if (c.family, c.name, c.variant) == key]
        own = [row for row in table.rows if (row.dataset, row.method) == (dataset, method)]
        if not wanted or not own:
            continue
        position = table.columns.index(wanted[0])
        scenes = [row for row in own if row.kind == "scene"]
        # A single scene has no row of means: it is its own.
        chosen = [row for row in own if row.kind == average] or (scenes if len(scenes) == 1 else [])
        if chosen:
            cell = chosen[0].cells[position]
            scored = cell.scored or ((1, 1) if cell.value is not None else (0, 1))
            return cell.value, scored, wanted[0].unit
    return None, None, "1"


def _not_alike(
    results: RunResults, dataset: _Stored, card: _Stored, method: _Stored, published: _Stored, metric: str
) -> str | None:
    """Why a published number was computed on something else than ours; None where both are alike."""
    protocol = card.get("protocol", {})
    if method.get("name") in results.untrained:
        return "the weights are untrained"
    config = method.get("model", {}).get("config", "full")
    if config != "full":
        return f"the model is '{config}', the published one 'full'"
    declared = published_as(metric)
    if declared is None:
        return "this run has no metric of this name"
    if metric.endswith("_fps"):
        return "speed of another machine"
    wanted = published.get("selection") or {"start": 0, "stride": protocol.get("stride"), "count": None}
    selection = dataset.get("selection", {})
    for key in ("stride", "count", "start"):
        here, there = selection.get(key), wanted.get(key)
        if here != there:
            words = {"count": "every frame" if there is None else f"{there} frames"}
            taken = "all" if here is None else here
            return f"the published {key} is {words.get(key, there)}, this run has {taken}"
    expected = set(published.get("scene_names") or card.get("expected_scenes", {}))
    if expected and expected != set(dataset.get("scenes", ())):
        return "other scenes than the protocol's"
    if dataset.get("size") != protocol.get("size"):
        return "frames were prepared to another size than the protocol's"
    trajectory = results.record.experiment.get("metrics", {}).get("trajectory") or {}
    if metric.startswith("rpe") and trajectory.get("rpe_delta_frames", 1) != 1:
        return f"RPE over {trajectory['rpe_delta_frames']} frames, the published one over 1"
    if "not known" in (published.get("conventions") or "not known"):
        return "the source's conventions are not known"
    if declared[0][0] == "points":
        return _other_points(results.record.experiment, protocol.get("thresholds", {}))
    return None


def _other_points(experiment: Mapping[str, Any], thresholds: Mapping[str, float]) -> str | None:
    """Why clouds were compared otherwise than the card says; None where alike."""
    used = experiment.get("metrics", {}).get("points")
    if used is None:
        return None  # not measured at all, which is said elsewhere
    for setting, name in (("voxel_m", "voxel_m"), ("icp_m", "icp_m"), ("threshold_m", "f1_m")):
        if used.get(setting) != thresholds.get(name):
            return f"{setting} is {used.get(setting)}, the protocol's {thresholds.get(name)}"
    return None


def _not_all(scored: tuple[int, int], published_scenes: int | None) -> str | None:
    if scored[0] < scored[1]:
        return f"only {scored[0]} of {scored[1]} scenes were scored"
    if published_scenes is None:
        return "the source does not say how many scenes"
    if scored[1] != published_scenes:
        return f"mean of {scored[1]} scenes, the published one of {published_scenes}"
    return None
