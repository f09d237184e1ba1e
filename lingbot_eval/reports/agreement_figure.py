"""The figure of a comparison: agreement along the sequence on top, milliseconds of each frame below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lingbot_eval.plots import (
    BLUE,
    ORANGE,
    VERMILION,
    draw_series,
    legend_above,
    limit_to_bulk,
    stacked_panels,
    style,
)
from lingbot_eval.reports.agreement import Differences, TimeSeries
from lingbot_eval.types import FloatArray

PAIR_COLOURS = (VERMILION, BLUE, ORANGE)
SIDE_COLOURS = (BLUE, ORANGE)
_LARGEST_RANGE = 1e6  # of a logarithmic axis: what is smaller than this part of the largest is as good as 0


def comparison_figure(
    title: str, pairs: Sequence[tuple[str, Differences]], times: Sequence[TimeSeries], time_title: str
) -> Figure:
    """pairs: label and differences, at most three; times: at most two sides."""
    quantities = (
        ("rotation_deg", "deg", "Angle between the orientations"),
        ("position", "of the extent", "Distance of the camera centres, relative to the trajectory's extent"),
        ("depth", "relative", "Depth difference, median over pixels"),
    )
    there = [entry for entry in quantities if any(_values(pair, entry[0]) is not None for _, pair in pairs)]
    figure, panels = stacked_panels(11, 0.9 + 2.3 * (len(there) + 1), len(there) + 1, title)
    for axes, (name, unit, text) in zip(panels, there, strict=False):
        _draw_differences(axes, [(label, pair.indices, _values(pair, name)) for label, pair in pairs])
        style(axes, "", unit, text)
        _legend(axes)
    _draw_times(panels[-1], times)
    style(panels[-1], "frame", "ms", time_title)
    _legend(panels[-1])
    for axes in panels:
        axes.margins(x=0.01)
    return figure


def _values(pair: Differences, name: str) -> FloatArray | None:
    values = {"rotation_deg": pair.rotation_deg, "position": pair.position, "depth": pair.depth}[name]
    return values if values is not None and np.isfinite(values).any() else None


def _draw_differences(axes: Axes, series: Sequence[tuple[str, NDArray[np.int64], FloatArray | None]]) -> None:
    """On a logarithmic axis, since pairs may be digits apart; a difference of exactly 0 has no place on it."""
    largest = max((float(np.nanmax(values)) for _, _, values in series if values is not None), default=0.0)
    for (label, indices, values), color in zip(series, PAIR_COLOURS, strict=False):
        if values is None:
            continue
        shown = np.where(values > largest / _LARGEST_RANGE, values, np.nan)
        equal = int(np.count_nonzero(values == 0))
        note = f" ({equal} frames exactly equal)" if equal else ""
        before = len(axes.lines)
        draw_series(axes, indices.astype(np.float64), shown, label + note, color)
        if color == PAIR_COLOURS[0] and len(series) > 1:
            # The first pair often coincides with another one: wider, it shows from underneath.
            for line in axes.lines[before:]:
                line.set_linewidth(line.get_linewidth() + 2)
    if largest > 0:
        axes.set_yscale("log")


def _draw_times(axes: Axes, times: Sequence[TimeSeries]) -> None:
    for side, color in zip(times, SIDE_COLOURS, strict=False):
        draw_series(axes, side.frames, side.milliseconds, side.label, color)
    if times:
        limit_to_bulk(axes, np.concatenate([side.milliseconds for side in times]), "ms")


def _legend(axes: Axes) -> None:
    """Series only: that the bold line is a rolling median would be said once for each of them."""
    for line in axes.lines:
        if str(line.get_label()).startswith("median of"):
            line.set_label("_")
    if axes.get_legend_handles_labels()[0]:
        legend_above(axes)
