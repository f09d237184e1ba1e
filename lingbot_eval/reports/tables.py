"""From stored units to tables: one row a scene and method, means over scored scenes, a reason in every gap."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from lingbot_eval.declarations import headline_place
from lingbot_eval.machine.environment import rests_on_hardware
from lingbot_eval.stored.lock import read_claims
from lingbot_eval.stored.records import RunRecord, is_untrained
from lingbot_eval.stored.store import RunStore, StoredUnit
from lingbot_eval.tables import footnote
from lingbot_eval.types import Direction, Measurement

NO_WEIGHTS = "none"
MANY_UNITS, FEW_OF_MANY = 100, 20
"""Of more units than the first a page shows the second number, and the means over all: a unit's figures take a
megabyte of it and the better part of a second, and nobody reads ten thousand rows."""

Names = tuple[str, str, str]  # dataset, scene, method
ColumnKey = tuple[str, str, str, str]  # family, name, variant, unit

# Beside Sim(3), whose figures lead.
_OTHER_ALIGNMENTS = ("se3", "anchor", "none")
_SIDE_BY_SIDE = ("ate_rmse", "rpe_translation_rmse", "rpe_rotation_rmse")


@dataclass(frozen=True, slots=True)
class Cell:
    """A number, or the footnote that says why there is none.

    note: position in the table's notes, from 1: always when value is None, else where something speaks against the
    number. scored: for a mean or median, (n, m): n of m scenes are in it. samples: what the value rests on, the weight
    of a scene where samples are pooled: of depth all its pixels, where an even sample of them was looked at.
    """

    value: float | None
    note: int | None = None
    scored: tuple[int, int] | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Column:
    """What one column holds; conventions has more than one sentence only where scenes differ in it.

    headline: whether the metric asks for a place in the first table. better: which way it is; None where neither is.
    """

    family: str
    name: str
    variant: str
    unit: str
    conventions: tuple[str, ...]
    headline: bool = False
    better: Direction | None = None

    @property
    def key(self) -> ColumnKey:
        """Family, name, variant and unit."""
        return self.family, self.name, self.variant, self.unit

    @property
    def label(self) -> str:
        """``ate_rmse sim3 (m)``: the stored names, so that they can be searched for; no unit for a plain ratio."""
        return f"{self.name} {self.variant}".strip() + (f" ({self.unit})" if self.unit != "1" else "")


@dataclass(frozen=True)
class Row:
    """One scene (or a mean, median or, of pairs or pixels pooled over the scenes, micro average) with one method.

    note: why there are no scores at all (failed, damaged, not run); position in the table's notes, from 1.
    weights: those of the method, as the run's record has them. run: its label where several runs are side by side.
    """

    dataset: str
    scene: str
    method: str
    kind: Literal["scene", "mean", "median", "micro"]
    cells: tuple[Cell, ...]
    note: int | None = None
    weights: str = NO_WEIGHTS
    run: str = ""

    @property
    def untrained(self) -> bool:
        """Whether the method ran with untrained weights."""
        return is_untrained(self.weights)

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Dataset, scene, method and the run's label."""
        return self.dataset, self.scene, self.method, self.run


@dataclass(frozen=True)
class Table:
    """One table. key: for file names."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @cached_property
    def untrained(self) -> tuple[str, ...]:
        """Methods with untrained weights, which every rendering says; with the run's label where there are several."""
        names = (f"{row.method} of {row.run}" if row.run else row.method for row in self.rows if row.untrained)
        return tuple(dict.fromkeys(names))

    @cached_property
    def several_runs(self) -> bool:
        """Whether rows say which run they are of."""
        return any(row.run for row in self.rows)

    def cut(self, rows: Iterable[Row], columns: slice = slice(None)) -> Table:
        """A part of the table, with the notes that it needs."""
        notes: dict[str, int] = {}

        def moved(note: int | None) -> int | None:
            return None if note is None else footnote(notes, self.notes[note - 1])

        kept = tuple(
            replace(
                row,
                note=moved(row.note),
                cells=tuple(replace(cell, note=moved(cell.note)) for cell in row.cells[columns]),
            )
            for row in rows
        )
        return replace(self, columns=self.columns[columns], rows=kept, notes=tuple(notes))


@dataclass(frozen=True)
class FewOfMany:
    """The rows of many that a page shows: names of each, and what they were chosen by, in words."""

    rows: frozenset[tuple[str, str, str, str]]
    words: str

    def part(self, table: Table) -> Table:
        """Those rows and the means over all."""
        return table.cut(row for row in table.rows if row.kind != "scene" or row.names in self.rows)


def few_of_many(tables: Sequence[Table]) -> FewOfMany | None:
    """What a page shows of very many scenes: those that went worst by the first headline; None where they are few."""
    rows = [row for row in (tables[0].rows if tables else ()) if row.kind == "scene"]
    if len(rows) <= MANY_UNITS:
        return None
    judged = [position for position, column in enumerate(tables[0].columns) if column.better is not None]
    words = f"the first {FEW_OF_MANY}"
    if judged:
        column, sign = tables[0].columns[judged[0]], 1 if tables[0].columns[judged[0]].better == "lower" else -1
        scored = [(row, value) for row in rows if (value := row.cells[judged[0]].value) is not None]
        if scored:
            rows = [row for row, _ in sorted(scored, key=lambda pair: -sign * pair[1])]
            words = f"the {FEW_OF_MANY} with the {'largest' if sign > 0 else 'smallest'} {column.label}"
    return FewOfMany(frozenset(row.names for row in rows[:FEW_OF_MANY]), words)


@dataclass(frozen=True)
class RunResults:
    """A run as read: its record, its units, and for each planned unit without a result the reason.

    left_out: one line for each unit that is there and not used (damaged, of another run, not planned); planned ones
    are among the gaps as well. unchecked: why the units could not be checked for damage.
    """

    record: RunRecord
    units: tuple[StoredUnit, ...]
    gaps: Mapping[Names, str]
    left_out: tuple[str, ...] = ()
    unchecked: str | None = None

    @property
    def untrained(self) -> tuple[str, ...]:
        """Methods that ran with untrained weights."""
        return untrained_methods(self.record.weights)

    def failure(self, names: Names) -> str | None:
        """Why a planned unit has no scores; None when it has."""
        if names in self.gaps:
            return self.gaps[names]
        unit = self.by_names().get(names)
        if unit is None or unit.record.status == "ok":
            return None
        record = unit.record
        where = f" in stage {record.stage}" if record.stage else ""
        frame = f" at frame {record.failed_at_frame}" if record.failed_at_frame is not None else ""
        return f"failed{where}{frame}: {record.reason or 'no reason was stored'}"

    def by_names(self) -> Mapping[Names, StoredUnit]:
        """Units by dataset, scene and method."""
        return self._units

    def names(self) -> tuple[Names, ...]:
        """Every unit, stored or not, in the order of the plan; what is stored and not planned is left out."""
        return self._names

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The summary, then one table a group of measurements; none without a single measurement."""
        return tuple(_tables(self))

    @cached_property
    def _units(self) -> dict[Names, StoredUnit]:
        return {(unit.record.dataset, unit.record.scene, unit.record.method): unit for unit in self.units}

    @cached_property
    def _names(self) -> tuple[Names, ...]:
        return tuple(dict.fromkeys((dataset, scene, method) for dataset, scene, method in self.record.units))


def untrained_methods(weights: Mapping[str, str]) -> tuple[str, ...]:
    """Methods whose weights the record calls untrained."""
    return tuple(method for method, words in weights.items() if is_untrained(words))


def read_results(store: RunStore) -> RunResults:
    """Read a whole run. Raises StoreError only for a damaged ``run.json``; a damaged unit becomes a gap."""
    # Asked for first: what ends in between is then a result.
    working = {holder.names: f"being done by {holder.words}" for holder in read_claims(store.path)}
    stored = store.read_units()
    reasons = {unit.folder: unit.reason for unit in stored.left_out}
    gaps = {
        (dataset, scene, method): reasons.get(store.folder(dataset, scene, method))
        or working.get((dataset, scene, method), "not run yet: run the same command again")
        for dataset, scene, method in stored.missing
    }
    left_out = tuple(unit.reason for unit in stored.left_out)
    return RunResults(store.read_run(), stored.units, gaps, left_out, stored.unchecked)


MEASUREMENT_COLUMNS = (
    *("dataset", "scene", "method", "weights", "family", "name", "variant", "value", "unit"),
    *("samples", "reason", "convention"),
)


def measurement_rows(results: RunResults) -> Iterator[tuple[str | float | None, ...]]:
    """Every stored measurement, one a row under MEASUREMENT_COLUMNS; failures as rows of their own."""
    for names in results.names():
        place = (*names, results.record.weights.get(names[2], NO_WEIGHTS))
        failure = results.failure(names)
        if failure is not None:
            yield (*place, *(failure if name == "reason" else None for name in MEASUREMENT_COLUMNS[len(place) :]))
        unit = results.by_names().get(names)
        for measurement in unit.record.measurements if unit else ():
            yield (*place, *(getattr(measurement, name) for name in MEASUREMENT_COLUMNS[len(place) :]))


def _tables(results: RunResults) -> Iterator[Table]:
    columns = _columns(results)
    headlines = sorted(
        (column for column in columns if column.headline),
        key=lambda column: headline_place(column.family, column.name, column.variant),
    )
    wanted = [("summary", "Summary", headlines)] if headlines else []
    beside = _video_depth(columns)
    if beside:
        wanted.append(("depth-video", "Depth of the whole sequence under its alignments", beside))
    wanted += [(key, title, members) for (key, title), members in _grouped(columns).items()]
    if not wanted and results.names():
        # A run of failures only still has its rows and reasons.
        wanted.append(("summary", "Summary", []))
    places = {column.key: n for n, column in enumerate(columns)}
    units = [_Unit(results, names, places) for names in results.names()]
    for key, title, members in wanted:
        yield _table(units, key, title, [(column, columns.index(column)) for column in members])


def _video_depth(columns: Iterable[Column]) -> list[Column]:
    """Depth as it is, with one scale, and with scale and shift for the sequence, side by side: as papers compute them
    where that was asked for, else by medians and least squares."""
    there = {(column.name, column.variant): column for column in columns if column.family == "depth"}
    papers = ("video_metric", "video_scale", "video_scale_shift")
    variants = (
        papers if any(variant in papers for _, variant in there) else ("none", "sequence_scale", "sequence_lstsq")
    )
    found = [there.get((name, variant)) for name in ("abs_rel", "delta_1_25") for variant in variants]
    return [column for column in found if column is not None]


def _columns(results: RunResults) -> list[Column]:
    conventions: dict[ColumnKey, dict[str, None]] = {}
    headlines: set[ColumnKey] = set()
    better: dict[ColumnKey, Direction | None] = {}
    unmeasured: dict[ColumnKey, str] = {}
    for unit in results.units:
        for measurement in unit.record.measurements:
            key = _key(measurement)
            sentences = conventions.setdefault(key, {})
            # How a number would have been computed tells nothing of those that were.
            if measurement.value is None:
                unmeasured.setdefault(key, measurement.convention)
            else:
                sentences[measurement.convention] = None
            better[key] = measurement.better
            if measurement.headline:
                headlines.add(key)
    return [
        Column(*key, tuple(sentences) or (unmeasured[key],), headline=key in headlines, better=better[key])
        for key, sentences in conventions.items()
    ]


def _key(measurement: Measurement) -> ColumnKey:
    return measurement.family, measurement.name, measurement.variant, measurement.unit


def _grouped(columns: Iterable[Column]) -> dict[tuple[str, str], list[Column]]:
    """Columns by table: few enough in each to be read side by side."""
    groups: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        key, title = column.family, column.family.capitalize()
        if column.family == "trajectory":
            errors = column.unit in ("m", "deg") and column.name != "path_length"
            key, title = ("trajectory", "Trajectory") if errors else ("matching", "Trajectory: coverage and matching")
            if column.variant in _OTHER_ALIGNMENTS and column.name not in _SIDE_BY_SIDE:
                key, title = "trajectory-alignments", "Trajectory: further figures under other alignments"
        elif column.family == "auc":
            first = "first_camera" in column.name
            key = "auc-first-camera" if first else "auc"
            title = f"Relative poses of all pairs, {'first-camera' if first else 'camera-to-camera'} definition"
        elif column.family == "points":
            title = "Point clouds"
        elif column.family == "drift":
            step = column.name.startswith("rpe_")
            alignment = column.variant.rpartition(" ")[2] if step else column.variant
            # Sim(3) is what the first table shows; the others have tables of their own, as of depth.
            other = alignment if alignment in _OTHER_ALIGNMENTS else ""
            key = "-".join(filter(None, ("drift", "rpe" if step else "", other)))
            title = "Drift: relative pose error by step" if step else "Drift"
            title += f", alignment {other}" if other else ""
        elif column.name in ("abs_rel_at_distance", "abs_rel_by_confidence"):
            key, title = f"depth-{column.name}", f"Depth: {column.name}"
        elif column.family == "depth":
            counts = column.unit == "frames" or not column.variant
            key, title = (
                ("depth-counts", "Depth: frames and pixels scored")
                if counts
                else (f"depth-{column.variant}", f"Depth, alignment {column.variant}")
            )
        groups.setdefault((key, title), []).append(column)
    return groups


class _Unit:
    """One planned unit, with its measurements in the order of all columns."""

    def __init__(self, results: RunResults, names: Names, places: Mapping[ColumnKey, int]) -> None:
        self.names = names
        self.failure = results.failure(names)
        self.weights = results.record.weights.get(names[2], NO_WEIGHTS)
        unit = results.by_names().get(names)
        self._disturbed = unit.record.disturbed if unit else None
        self._measured: list[Measurement | None] = [None] * len(places)
        self._pixels = 0
        for measurement in unit.record.measurements if unit else ():
            self._measured[places[_key(measurement)]] = measurement
            if (measurement.family, measurement.name) == ("depth", "abs_rel"):
                self._pixels = max(self._pixels, measurement.samples or 0)

    def row(self, columns: Sequence[tuple[Column, int]], notes: dict[str, int]) -> Row:
        """Its row in a table of these columns, each with its place among all; reasons are added to the notes."""
        cells = []
        for column, place in columns:
            measurement = self._measured[place]
            if measurement is not None and measurement.value is not None:
                all_pixels = self._pixels if column.family == "depth" else None
                note = None
                if self._disturbed is not None and rests_on_hardware(column.family, column.name):
                    note = footnote(notes, self._disturbed)
                cells.append(Cell(measurement.value, note, samples=all_pixels or measurement.samples))
                continue
            reason = measurement.reason if measurement is not None else None
            cells.append(_gap(self.failure or reason or f"not measured for {self.names[2]}", notes))
        note = _gap(self.failure, notes).note if self.failure else None
        return Row(*self.names, kind="scene", cells=tuple(cells), note=note, weights=self.weights)


def _table(units: Sequence[_Unit], key: str, title: str, placed: Sequence[tuple[Column, int]]) -> Table:
    columns = tuple(column for column, _ in placed)
    notes: dict[str, int] = {}
    rows: list[Row] = []
    for dataset in dict.fromkeys(unit.names[0] for unit in units):
        scenes = [unit.row(placed, notes) for unit in units if unit.names[0] == dataset]
        rows += scenes
        for method in dict.fromkeys(row.method for row in scenes):
            own = [row for row in scenes if row.method == method]
            if len(own) > 1:
                rows += [_aggregate(own, "mean", notes), _aggregate(own, "median", notes)]
                # Shares and means over pairs or pixels: those of all scenes pooled follow from them.
                if columns and (key == "depth-video" or all(column.family == "auc" for column in columns)):
                    rows.append(_aggregate(own, "micro", notes))
    return Table(key, title, columns, tuple(rows), tuple(notes))


def _aggregate(rows: Sequence[Row], kind: Literal["mean", "median", "micro"], notes: dict[str, int]) -> Row:
    cells = []
    for position in range(len(rows[0].cells)):
        given = [row.cells[position] for row in rows]
        scored = [cell.value for cell in given if cell.value is not None]
        share = (len(scored), len(rows))
        # Weighted by the pairs or pixels of each scene, the mean is that of all of them pooled.
        weights = [cell.samples or 0 for cell in given if cell.value is not None]
        if kind == "micro" and scored and not sum(weights):
            cells.append(Cell(None, _gap("how much each scene rests on is not stored", notes).note, share))
        elif kind == "micro" and scored:
            cells.append(Cell(statistics.fmean(scored, weights), scored=share, samples=sum(weights)))
        elif scored:
            middle = statistics.fmean(scored) if kind == "mean" else statistics.median(scored)
            doubts = [cell.note for cell in given if cell.value is not None and cell.note]
            cells.append(Cell(middle, doubts[0] if doubts else None, scored=share))
        else:
            cells.append(Cell(None, _gap("no scene was scored", notes).note, share))
    return Row(rows[0].dataset, kind, rows[0].method, kind, tuple(cells), weights=rows[0].weights)


def _gap(reason: str, notes: dict[str, int]) -> Cell:
    return Cell(None, footnote(notes, reason))


# Several runs in one set of tables


_KINDS = ("scene", "mean", "median", "micro")  # in the order of a table


def merged(runs: Sequence[tuple[str, tuple[Table, ...]]]) -> tuple[Table, ...]:
    """One table for each that any run has, of the columns of all; rows of one scene and method are neighbours.

    A column that a run lacks is a gap with that reason. Scenes, methods and columns keep the order of their first run.
    """
    keys = dict.fromkeys(table.key for _, tables in runs for table in tables)
    return tuple(
        _merge([(label, table) for label, tables in runs for table in tables if table.key == key]) for key in keys
    )


def _merge(runs: Sequence[tuple[str, Table]]) -> Table:
    columns = _columns_of_all([table for _, table in runs])
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


def _columns_of_all(tables: Sequence[Table]) -> tuple[Column, ...]:
    found: dict[ColumnKey, Column] = {}
    # Of a run that has no number in a column its convention is that of none.
    given: dict[ColumnKey, dict[str, None]] = {}
    for table in tables:
        for position, column in enumerate(table.columns):
            found.setdefault(column.key, column)
            if any(row.cells[position].value is not None for row in table.rows):
                given.setdefault(column.key, {}).update(dict.fromkeys(column.conventions))
    return tuple(
        replace(column, conventions=tuple(given.get(key) or column.conventions)) for key, column in found.items()
    )


def _moved(row: Row, label: str, table: Table, columns: Sequence[Column], notes: dict[str, int]) -> Row:
    """The row under other columns, its footnotes numbered among those of all runs."""
    given = dict(zip((column.key for column in table.columns), row.cells, strict=True))
    reason = table.notes[row.note - 1] if row.note else None
    cells = []
    for column in columns:
        cell = given.get(column.key)
        if cell is None:
            cells.append(_gap(reason or "not measured in this run", notes))
        else:
            cells.append(replace(cell, note=footnote(notes, table.notes[cell.note - 1] if cell.note else None)))
    return replace(row, cells=tuple(cells), note=footnote(notes, reason), run=label)
