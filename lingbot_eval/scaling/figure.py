"""The one figure of a study: milliseconds a frame, memory, cache by kind and the error so far, along the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from lingbot_eval.plots import (
    BLUE,
    GREEN,
    GREY,
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
from lingbot_eval.scaling.records import KINDS, CaseRecord
from lingbot_eval.types import FloatArray

LETTERS = "ABCDEF"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
KIND_COLOURS = dict(zip(KINDS, (GREY, SKY, ORANGE, GREEN), strict=True))
MOST_CASES = len(COLOURS)
"""More lines than this nobody tells apart; the tables have them all."""
MOST_TICKS = 10
"""Numbers of frames that fit side by side."""
_GB = 1e9
_KINDS = [f"cache_{kind}_bytes" for kind in KINDS]


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
    handles = [Patch(color=KIND_COLOURS[kind], alpha=0.85, label=kind.replace("_", " ")) for kind in KINDS]
    style(axes, title="Cache in view by kind; cases that hold the same share a panel")
    legend_above(axes, handles)


def _draw_kinds(axes: Axes, alike: Sequence[Curve], unit: str) -> None:
    frames, samples = _frames(alike[0]), alike[0].samples
    parts = [samples[column].to_numpy(dtype=np.float64) / _GB for column in _KINDS]
    axes.stackplot(frames, *parts, colors=[KIND_COLOURS[kind] for kind in KINDS], alpha=0.85)
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
