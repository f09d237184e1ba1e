"""A scaling run as a Markdown page: cases side by side, what each kept frame costs, the checkpoints, how to repeat.

Then its one figure: milliseconds a frame, memory, cache by kind and the error so far, along the frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from lingbot_eval.machine.environment import machine_name
from lingbot_eval.plots import (
    BLUE,
    CACHE_COLOURS,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    draw_series,
    legend_above,
    limit_to_bulk,
    new_figure,
    style,
)
from lingbot_eval.scaling.records import (
    CONVENTION,
    QUANTITIES,
    CaseRecord,
    CheckpointRecord,
    ScaleRecord,
    growth_text,
)
from lingbot_eval.scaling.settings import SCENARIOS
from lingbot_eval.tables import (
    MISSING,
    Table,
    columns,
    fenced,
    markdown_text,
    mebibytes,
    number_text,
    quantity,
    reasons,
)
from lingbot_eval.types import CACHE_KINDS, FloatArray


def title(record: ScaleRecord) -> str:
    """The run in a line, with a word on its weights."""
    return f"Scaling: {record.name}, weights {record.weights}"


def page(record: ScaleRecord, cases: Sequence[CaseRecord], figure: str | None) -> str:
    """The whole page."""
    parts = [f"# {markdown_text(title(record))}", ""]
    if figure is not None:
        parts += [f"![Time, memory and error along the frames]({figure})", ""]
    parts += [table.markdown() for table in tables(cases)]
    problems = remarks(cases)
    if problems:
        parts += ["### Not to the end, or not as asked for", "", *(f"- {markdown_text(line)}" for line in problems), ""]
    parts += ["### How it was measured", "", *(f"- {markdown_text(line)}" for line in _conventions(cases)), ""]
    parts += ["### Repeat", "", *fenced(record.command, "sh"), *_machine(record.environment), ""]
    return "\n".join(parts)


def tables(cases: Sequence[CaseRecord]) -> tuple[Table, ...]:
    """Pace, growth, latency where it was measured, and the checkpoints of every case."""
    labels = case_labels(cases)
    latency = [
        (label, case) for label, case in zip(labels, cases, strict=True) if _value(case, "latency", "p50") is not None
    ]
    found = [_cases_table(labels, cases)]
    if growing := _growth_rows(labels, cases):
        found.append(Table("Growth a kept frame", columns(_GROWTH, left=3), growing, legend=_missing(labels, cases)))
    if latency:
        found.append(Table("Latency", columns(_LATENCY), [_latency(label, case) for label, case in latency]))
    found += [
        Table(
            f"Checkpoints: {label}", columns(_CHECKPOINTS, left=0), [_checkpoint(point) for point in case.checkpoints]
        )
        for label, case in zip(labels, cases, strict=True)
        if case.checkpoints
    ]
    return tuple(found)


def remarks(cases: Sequence[CaseRecord]) -> tuple[str, ...]:
    """What failed or ended early, a line each."""
    lines = []
    for case in cases:
        if case.status == "failed":
            where = "" if case.failed_at_frame is None else f" at frame {case.failed_at_frame}"
            lines.append(f"{case.name}: failed ({case.stage}{where}): {case.reason}")
        elif case.stopped:
            lines.append(f"{case.name}: {case.stopped}")
    return tuple(lines)


def growth_statement(case: CaseRecord) -> str:
    """``+0.59 MB (0.59 to 0.59) and +0.4 µs (0.3 to 0.5)``: memory (allocated, on a CPU cache) and forward time."""
    wanted = ("device_allocated", "cache") if "cuda" in str(case.facts.get("device")) else ("cache",)
    found = {entry.quantity: entry for entry in case.growth}
    memory = next((found[name] for name in wanted if name in found and found[name].value is not None), None)
    time = found.get("forward")
    parts = [growth_text(entry) for entry in (memory, time) if entry is not None and entry.value is not None]
    return " and ".join(parts) or MISSING


def case_labels(cases: Sequence[CaseRecord]) -> tuple[str, ...]:
    """Short names: what the cases differ in, besides what they were asked for frames."""
    shown = [key for key in _NAMED if _tells(key, [case.case.get(key) for case in cases])]
    return tuple(
        ", ".join([f"{case.case['frames']:,} frames", *(_setting(case, key) for key in shown)]) for case in cases
    )


_NAMED = ("scenario", "backend", "keyframe_interval", "window", "precision", "cache_precision", "size", "limit_s")
_ALWAYS_NAMED = {"scenario": "camera"}
"""Without these words the figures would be misread, even where all cases have them."""
_PACE = (
    "case",
    "frames",
    "kept",
    "forward, median",
    "forward",
    "end to end",
    "overhead",
    "largest memory",
    "cache / formula",
    "a kept frame",
    "result",
)
_GROWTH = ("case", "quantity", "unit", "slope", "95 % from", "to", "formula", "kept frames")
_LATENCY = ("case", "p50", "p90", "p99", "late", "late share", "largest backlog", "last backlog")
_CHECKPOINTS = (
    "frames",
    "kept",
    "forward ms",
    "end to end ms",
    *(f"{kind.replace('_', ' ')} MiB" for kind in CACHE_KINDS),
    "/ formula",
    "cache held MiB",
    "allocated MiB",
    "reserved MiB",
    "driver MiB",
    "process MiB",
    "ATE m",
)


def _tells(key: str, values: Sequence[Any]) -> bool:
    return len(set(map(str, values))) > 1 or _ALWAYS_NAMED.get(key, ...) in values


def _setting(case: CaseRecord, key: str) -> str:
    value = case.case.get(key)
    if key == "backend":
        return str(case.facts.get("backend", value))
    if key == "keyframe_interval":
        resolved = case.facts.get(key, value)
        return f"interval {value}" + (f" ({resolved})" if resolved != value else "")
    if key == "window":
        return f"window {case.facts.get(key, value)}"
    if key == "cache_precision":
        return "cache as it comes" if value is None else f"{value}-bit cache"
    if key == "size" and isinstance(value, list):
        return "×".join(map(str, value))
    if key == "scenario" and value == "camera":
        return f"camera {case.case.get('camera_hz'):g} Hz"
    return f"at most {value} s" if key == "limit_s" else str(value).replace("_", " ")


def _cases_table(labels: Sequence[str], cases: Sequence[CaseRecord]) -> Table:
    rows = [_pace(label, case) for label, case in zip(labels, cases, strict=True)]
    return Table("Cases", columns(_PACE), rows)


def _pace(label: str, case: CaseRecord) -> tuple[str, ...]:
    memory = _value(case, "largest_device_allocated") or _value(case, "largest_process")
    result = "ok" if case.status == "ok" else "out of memory" if case.out_of_memory else "failed"
    last = case.checkpoints[-1] if case.checkpoints else None
    return (
        label,
        f"{case.predictions}",
        MISSING if last is None else str(last.kept),
        quantity(_value(case, "forward_latency", "p50"), "ms"),
        quantity(_value(case, "forward_fps"), "fps"),
        quantity(_value(case, "end_to_end_fps"), "fps"),
        quantity(_value(case, "harness_overhead"), "%"),
        quantity(memory, "MiB"),
        _ratio(last),
        growth_statement(case),
        f"{result}, stopped" if case.stopped else result,
    )


def _growth_rows(labels: Sequence[str], cases: Sequence[CaseRecord]) -> list[tuple[str, ...]]:
    titles = {quantity.name: quantity.title for quantity in QUANTITIES}
    rows = []
    for label, case in zip(labels, cases, strict=True):
        for entry in case.growth:
            unit = "B" if entry.unit == "B" else "µs"
            expected = MISSING if entry.expected is None else number_text(entry.expected, "1")
            numbers: tuple[str, ...] = (MISSING, MISSING, MISSING)
            if entry.value is not None and entry.low is not None and entry.high is not None:
                numbers = tuple(number_text(value, "1") for value in (entry.value, entry.low, entry.high))
            rows.append((label, titles[entry.quantity], unit, *numbers, expected, str(entry.kept)))
    return rows


def _missing(labels: Sequence[str], cases: Sequence[CaseRecord]) -> tuple[str, ...]:
    """Why slopes are missing, each reason once."""
    titles = {quantity.name: quantity.title for quantity in QUANTITIES}
    gaps = reasons(
        (f"{label}: {titles[entry.quantity]}", entry.reason)
        for label, case in zip(labels, cases, strict=True)
        for entry in case.growth
    )
    return tuple(f"{MISSING}: {reason} ({'; '.join(where)})" for reason, where in gaps.items())


def _latency(label: str, case: CaseRecord) -> tuple[str, ...]:
    return (
        label,
        *(_or_reason(case, "latency", f"p{percent}", "ms") for percent in (50, 90, 99)),
        quantity(_value(case, "deadline_misses"), "frames"),
        quantity(_value(case, "deadline_miss_rate"), "%"),
        quantity(_value(case, "backlog", "largest"), "frames"),
        quantity(_value(case, "backlog", "last"), "frames"),
    )


def _checkpoint(point: CheckpointRecord) -> tuple[str, ...]:
    return (
        str(point.frames),
        str(point.kept),
        *(MISSING if value is None else number_text(value, "ms") for value in (point.forward_ms, point.interval_ms)),
        *(mebibytes(point.cache_bytes.get(kind)) for kind in CACHE_KINDS),
        _ratio(point),
        mebibytes(point.cache_allocated_bytes),
        mebibytes(point.device_allocated_bytes),
        mebibytes(point.device_reserved_bytes),
        mebibytes(point.driver_bytes),
        mebibytes(point.process_bytes),
        MISSING if point.ate_m is None else number_text(point.ate_m, "m"),
    )


def _ratio(point: CheckpointRecord | None) -> str:
    if point is None or point.formula_bytes is None:
        return MISSING
    return f"{sum(point.cache_bytes.values()) / sum(point.formula_bytes.values()):.4f}"


def _value(case: CaseRecord, name: str, variant: str = "") -> float | None:
    return next((m.value for m in case.measurements if (m.name, m.variant) == (name, variant)), None)


def _or_reason(case: CaseRecord, name: str, variant: str, unit: str) -> str:
    for m in case.measurements:
        if (m.name, m.variant) == (name, variant):
            return quantity(m.value, unit) if m.value is not None else f"{MISSING}: {m.reason}"
    return MISSING


def _conventions(cases: Sequence[CaseRecord]) -> list[str]:
    lines = [f"growth: {CONVENTION}"] if any(case.growth for case in cases) else []
    lines += [f"{name.replace('_', ' ')}: {words}" for name, words in SCENARIOS.items() if _asked(cases, name)]
    for case in cases:
        lines += [f"{when}: {what}" for when, what in case.sampling.items()]
        lines += [f"{m.name.replace('_', ' ')}: {m.convention}" for m in case.measurements if m.variant in ("", "p50")]
    if any(point.formula_bytes for case in cases for point in case.checkpoints):
        lines.append("formula: cache bytes in view by model.md section 7, for the frames kept so far")
    lines.append("a case that was cut off went on from its last saved state, from its first frame where it had none")
    return list(dict.fromkeys(lines))


def _asked(cases: Sequence[CaseRecord], scenario: str) -> bool:
    return any(case.case.get("scenario") == scenario for case in cases)


def _machine(environment: dict[str, Any]) -> list[str]:
    libraries = environment.get("libraries", {})
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "flashinfer-python") if name in libraries)
    measured = f"Measured on {markdown_text(machine_name(environment))}; {markdown_text(versions)}"
    return [f"{measured}; all of it is in `scale.json`."]


LETTERS = "ABCDEF"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MOST_CASES = len(COLOURS)
"""More lines than this nobody tells apart; the tables have them all."""
MOST_TICKS = 10
"""Numbers of frames that fit side by side."""
_GB = 1e9
_KINDS = [f"cache_{kind}_bytes" for kind in CACHE_KINDS]


@dataclass(frozen=True, eq=False)
class Curve:
    """One case to draw."""

    label: str
    record: CaseRecord
    samples: pd.DataFrame


def scaling_figure(title: str, curves: Sequence[Curve]) -> Figure:
    """Panels over the first MOST_CASES of ``curves``; a case that failed ends where it failed."""
    shown = list(curves[:MOST_CASES])
    more = f"; {len(curves) - len(shown)} more in the tables" if len(curves) > len(shown) else ""
    queues = [curve.record.case.get("scenario") == "camera" for curve in shown]
    # The third is the line of the caches' legend.
    rows = (1.0, 1.1, 0.01, 0.85, 0.9, *([0.8] if any(queues) else []))
    figure = new_figure(11, 3.4 * sum(rows), title + more)
    shown = [replace(curve, label=f"{letter}: {curve.label}") for letter, curve in zip(LETTERS, shown, strict=False)]
    stacks = _alike(shown)
    grid = figure.add_gridspec(len(rows), max(1, len(stacks)), height_ratios=rows)
    _draw_times(figure.add_subplot(grid[0, :]), shown)
    _draw_memory(figure.add_subplot(grid[1, :]), shown)
    _draw_kind_names(figure.add_subplot(grid[2, :]))
    first: Axes | None = None
    for position, alike in enumerate(stacks):
        axes = figure.add_subplot(grid[3, position], sharey=first)
        _draw_kinds(axes, alike, unit="" if first else "GB")
        axes.xaxis.set_major_locator(MaxNLocator(max(2, MOST_TICKS // len(stacks)), steps=[1, 2, 5, 10]))
        first = first or axes
    _draw_errors(figure.add_subplot(grid[4, :]), shown)
    if any(queues):
        _draw_backlog(figure.add_subplot(grid[5, :]), shown)
    return figure


def _alike(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Cases whose caches hold the same at every frame, together: a backend moves keys and values, and adds none."""
    found: list[list[Curve]] = []
    for curve in curves:
        for group in found:
            if np.array_equal(group[0].samples[_KINDS].to_numpy(), curve.samples[_KINDS].to_numpy()):
                group.append(curve)
                break
        else:
            found.append([curve])
    return found


def _draw_times(axes: Axes, curves: Sequence[Curve]) -> None:
    values = []
    for curve, colour in zip(curves, COLOURS, strict=False):
        milliseconds = curve.samples["forward_ms"].to_numpy(dtype=np.float64)
        values.append(milliseconds)
        before = len(axes.lines), len(axes.collections)
        draw_series(axes, _frames(curve), milliseconds, curve.label, colour)
        # One name a case, and it is the bold line's.
        for artist in (*axes.lines[before[0] :], *axes.collections[before[1] :]):
            artist.set_label("_")
        axes.lines[-1].set_label(curve.label)
    if values:
        limit_to_bulk(axes, np.concatenate(values), "ms")
    style(axes, "frame", "ms", "Forward time of each frame, rolling median bold")
    _legend(axes)


def _draw_memory(axes: Axes, curves: Sequence[Curve]) -> None:
    """Allocated solid, the driver's figure dashed, cache in view dotted; on a CPU the process stands for the device."""
    for curve, colour in zip(curves, COLOURS, strict=False):
        table, frames = curve.samples, _frames(curve)
        on_device = table["device_allocated_bytes"].notna().any()
        main, top = ("device_allocated_bytes", "driver_bytes") if on_device else ("process_bytes", None)
        _line(axes, frames, table[main], colour, "-")
        if top is not None:
            _line(axes, frames, table[top], colour, "--")
        cache = table[_KINDS].sum(axis=1)
        _line(axes, frames, cache, colour, ":")
        if curve.record.out_of_memory:
            axes.plot(frames[-1:], [float(cache.iloc[-1]) / _GB], marker="x", color=colour, markersize=9)
    axes.set_ylim(bottom=0)
    kinds = "solid: allocated on the device (CPU: process); dashed: the driver's figure; dotted: cache in view"
    style(axes, "frame", "GB", f"Memory, colours as above; {kinds}; ×: out of memory")


def _draw_kind_names(axes: Axes) -> None:
    """The caches' colours, above their panels, where they hide no data."""
    axes.set_axis_off()
    handles = [Patch(color=CACHE_COLOURS[kind], alpha=0.85, label=kind.replace("_", " ")) for kind in CACHE_KINDS]
    style(axes, title="Cache in view by kind; cases that hold the same share a panel")
    legend_above(axes, handles)


def _draw_kinds(axes: Axes, alike: Sequence[Curve], unit: str) -> None:
    frames, samples = _frames(alike[0]), alike[0].samples
    parts = [samples[column].to_numpy(dtype=np.float64) / _GB for column in _KINDS]
    axes.stackplot(frames, *parts, colors=[CACHE_COLOURS[kind] for kind in CACHE_KINDS], alpha=0.85)
    style(axes, "frame", unit, ", ".join(curve.label[0] for curve in alike))


def _draw_errors(axes: Axes, curves: Sequence[Curve]) -> None:
    drawn = False
    for curve, colour in zip(curves, COLOURS, strict=False):
        if curve.record.error_curve:
            frames, errors = zip(*curve.record.error_curve, strict=True)
            axes.plot(frames, errors, color=colour, marker=".", linewidth=1.2)
            drawn = True
    trained = all(curve.record.facts.get("trained", False) for curve in curves)
    note = "" if trained else " (untrained weights: it says nothing of the method)"
    style(
        axes,
        "frames so far",
        "m",
        f"Error so far, colours as above: ATE of the prefix after its own Sim(3) alignment{note}",
    )
    if drawn:
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        # 20 and 200 instead of 2×10¹ and 2×10²; a short stream lies within one decade.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=3 * MOST_TICKS))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.text(0.5, 0.5, "the input has no true poses", transform=axes.transAxes, ha="center", color="#555555")


def _draw_backlog(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve, colour in zip(curves, COLOURS, strict=False):
        if curve.record.case.get("scenario") == "camera":
            axes.plot(_frames(curve), curve.samples["backlog"].to_numpy(dtype=np.float64), color=colour, linewidth=1.2)
    axes.set_ylim(bottom=0)
    style(axes, "frame", "frames", "Backlog, colours as above: frames that waited when one was given; none is dropped")


def _frames(curve: Curve) -> FloatArray:
    return curve.samples["index"].to_numpy(dtype=np.float64)


def _line(axes: Axes, frames: FloatArray, values: pd.Series, color: str, linestyle: str) -> None:
    there = values.notna().to_numpy()
    gigabytes = values.to_numpy(dtype=np.float64)[there] / _GB
    axes.plot(frames[there], gigabytes, color=color, linestyle=linestyle, linewidth=1.4)


def _legend(axes: Axes) -> None:
    """Beside the panel's title where there is room, below the curves (the axis starts at 0) where names are many."""
    _, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    if sum(map(len, labels)) <= 60:
        legend_above(axes)
    else:
        axes.legend(fontsize=8, frameon=True, framealpha=0.8, edgecolor="none", loc="lower right")
