"""Accuracy against what an experiment sweeps: frames of the sequence, their density, memory of the cache."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lingbot_eval.declarations import Key, titles
from lingbot_eval.plots import LINE_COLOURS, names_as_they_are, new_figure, style
from lingbot_eval.reports.reading import Run
from lingbot_eval.reports.rendering import method_label
from lingbot_eval.stored.records import UnitRecord
from lingbot_eval.tables import plain
from lingbot_eval.types import CACHE_KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SweepKind = Literal["lengths", "densities", "budget"]
# A panel each, of the first key that was measured.
_ERRORS: tuple[tuple[Key, ...], ...] = (
    (("trajectory", "ate_rmse", "sim3"),),
    (("depth", "abs_rel", "video_scale"), ("depth", "abs_rel", "scale_only")),
    (("points", "chamfer", ""),),
)
_CACHE = tuple(f"cache_{kind}" for kind in CACHE_KINDS)
_GIGABYTES = 2**20 / 1e9  # in a MiB
_FEWEST_BUDGETS = 3
_X = {"lengths": "frames", "densities": "every so many frames", "budget": "keys and values in view at the end (GB)"}
_MARKS = "os^Dv"


@dataclass(frozen=True)
class _Point:
    """Means over the scenes that have each number. whole: whether all planned scenes have all of them. along: whether
    they were scored along a longer stream. words: beside the point."""

    x: float
    values: Mapping[Key, float]
    whole: bool
    words: str = ""
    along: bool = False


@dataclass(frozen=True)
class Sweep:
    """One figure. title: of which dataset. lines: by name, points in order."""

    kind: SweepKind
    title: str
    lines: Mapping[str, list[_Point]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Of which dataset, and how lengths were streamed."""
        if self.kind != "lengths":
            return self.title
        ends = {name: [point.x for point in points if not point.along] for name, points in self.lines.items()}
        words = [
            f"{name} was streamed to {', '.join(f'{x:g}' for x in ends[name])} frames and scored on its way"
            if len(ends[name]) < len(points)
            else f"{name} was streamed to each length by itself"
            for name, points in self.lines.items()
        ]
        return f"{self.title}; {'; '.join(words)}"


def sweeps(runs: Sequence[Run]) -> tuple[Sweep, ...]:
    """What the runs sweep: datasets of which several lengths or strides were taken, methods of several cache sizes."""
    found: dict[tuple[SweepKind, str], Sweep] = {}
    for run in runs:
        several = len(runs) > 1
        for parts in _same_but_for_frames(run.results.record.experiment.get("datasets", [])):
            for kind, make in (("lengths", _frames), ("densities", _strides), ("budget", _budget)):
                for name, points in make(run, parts):
                    label = f"{name} · {run.label}" if several else name
                    title = str(parts[0].get("name", ""))
                    sweep = found.setdefault((kind, title), Sweep(kind, title, {}))  # type: ignore[arg-type]
                    sweep.lines[label] = points  # type: ignore[index]
    return tuple(found.values())


def _same_but_for_frames(datasets: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Entries of an experiment that differ in how many frames they take, and how densely, together."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for dataset in datasets:
        rest = {key: value for key, value in dataset.items() if key not in ("label", "selection")}
        start = dataset.get("selection", {}).get("start")
        groups.setdefault(json.dumps([rest, start], sort_keys=True, default=str), []).append(dataset)
    return list(groups.values())


def _filed_as(dataset: Mapping[str, Any]) -> str:
    return str(dataset.get("label") or dataset.get("name", ""))


def _selected(dataset: Mapping[str, Any], key: str) -> int | None:
    value = dataset.get("selection", {}).get(key)
    return value if isinstance(value, int) else None


def _frames(run: Run, parts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[_Point]]]:
    strides = {_selected(part, "stride") for part in parts}
    for stride in sorted(strides, key=lambda value: value or 0):
        own = [part for part in parts if _selected(part, "stride") == stride]
        words = f", stride {stride}" if len(strides) > 1 else ""
        yield from _lines(run, own, lambda part, _: _selected(part, "count"), words)


def _strides(run: Run, parts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[_Point]]]:
    if len({_selected(part, "count") for part in parts}) == 1:
        yield from _lines(run, parts, lambda part, _: _selected(part, "stride"))


def _lines(
    run: Run,
    parts: Sequence[Mapping[str, Any]],
    x: Callable[[Mapping[str, Any], UnitRecord], int | None],
    words: str = "",
) -> Iterator[tuple[str, list[_Point]]]:
    """A line a method, where there are two places along x at least."""
    for method in dict.fromkeys(names[2] for names in run.results.names()):
        points = []
        for part in parts:
            units = _units(run, _filed_as(part), method)
            at = x(part, units[0]) if units else None
            if at is not None and (point := _point(run, _filed_as(part), method, float(at))) is not None:
                points.append(point)
        if len({point.x for point in points}) > 1:
            yield method_label(method, run.results.untrained) + words, sorted(points, key=lambda point: point.x)


def _budget(run: Run, parts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[_Point]]]:
    """Points by keyframe interval, each with its window, on the part with the most frames."""
    dataset = _filed_as(max(parts, key=lambda part: _selected(part, "count") or math.inf))
    lines: dict[str, list[_Point]] = {}
    for method in dict.fromkeys(names[2] for names in run.results.names()):
        units = _units(run, dataset, method)
        held = [
            sum(m.value or 0.0 for m in unit.measurements if m.family == "memory" and m.name in _CACHE)
            for unit in units
        ]
        if not any(held):
            continue
        facts = units[0].method_facts
        interval, window = facts.get("keyframe_interval"), facts.get("window")
        swept = isinstance(interval, int) and isinstance(window, int)
        point = _point(run, dataset, method, statistics.fmean(held) * _GIGABYTES, f"{window}" if swept else "")
        if point is not None:
            name = f"window as marked, keyframe interval {interval}" if swept else method
            lines.setdefault(name, []).append(point)
    if len({point.x for points in lines.values() for point in points}) >= _FEWEST_BUDGETS:
        yield from ((name, sorted(points, key=lambda point: point.x)) for name, points in lines.items())


def _units(run: Run, dataset: str, method: str) -> list[UnitRecord]:
    records = (unit.record for unit in run.results.units)
    return [r for r in records if (r.dataset, r.method, r.status) == (dataset, method, "ok")]


def _point(run: Run, dataset: str, method: str, x: float, words: str = "") -> _Point | None:
    units = _units(run, dataset, method)
    planned = sum((names[0], names[2]) == (dataset, method) for names in run.results.names())
    found, whole = {}, True
    for key in (key for keys in _ERRORS for key in keys):
        values = [value for unit in units if (value := _value(unit, key)) is not None]
        if values:
            found[key] = statistics.fmean(values)
            whole = whole and len(values) == planned
    along = bool(units) and all(unit.stream_frames is not None for unit in units)
    return _Point(x, found, whole, words, along) if found else None


def _value(unit: UnitRecord, key: Key) -> float | None:
    return next((m.value for m in unit.measurements if (m.family, m.name, m.variant) == key), None)


def sweep_figure(sweep: Sweep) -> Figure | None:
    """A panel for each error that was measured, a line a method; None where nothing was.

    Points that lack a scene are hollow.
    """
    points = [point for line in sweep.lines.values() for point in line]
    there = [key for keys in _ERRORS if (key := _first(keys, points)) is not None]
    if not there:
        return None
    figure = new_figure(1.2 + 5.2 * len(there), 4.4, sweep.title)
    panels = figure.subplots(1, len(there), squeeze=False)[0]
    for axes, key in zip(panels, there, strict=True):
        for number, (name, line) in enumerate(sweep.lines.items()):
            _draw(axes, [point for point in line if key in point.values], key, name, number)
        style(axes, _X[sweep.kind], titles().get(key, f"{key[1]} (m)"))
        axes.set_ylim(0, 1.12 * max(point.values[key] for point in points if key in point.values) or 1)
        axes.margins(x=0.08)
        if sweep.kind == "densities":
            axes.set_xticks(sorted({point.x for point in points}))
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=9, frameon=False
    )
    names_as_they_are(legend)
    return figure


def _first(keys: Sequence[Key], points: Sequence[_Point]) -> Key | None:
    return next((key for key in keys if any(key in point.values for point in points)), None)


def _draw(axes: Axes, points: Sequence[_Point], key: Key, name: str, number: int) -> None:
    colour, mark = LINE_COLOURS[number % len(LINE_COLOURS)], _MARKS[number // len(LINE_COLOURS) % len(_MARKS)]
    x, y = [point.x for point in points], [point.values[key] for point in points]
    axes.plot(x, y, color=colour, linewidth=1.4, marker=mark, markersize=5, label=f" {plain(name)}"[:60])
    lacking = [position for position, point in enumerate(points) if not point.whole]
    if lacking:
        (hollow,) = axes.plot([x[k] for k in lacking], [y[k] for k in lacking], color=colour, linestyle="none")
        hollow.set(marker=mark, markersize=5, markerfacecolor="white")
    for point in points:
        if point.words:
            place = (point.x, point.values[key])
            axes.annotate(point.words, place, textcoords="offset points", xytext=(4, 5), fontsize=8, color=colour)
