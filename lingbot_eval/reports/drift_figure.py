"""One figure of how a trajectory drifts: everything of DriftSeries over the sequence."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lingbot_eval.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    draw_series,
    legend_above,
    limit_to_bulk,
    stacked_panels,
    style,
)
from lingbot_eval.types import DriftSeries, FloatArray


def drift_figure(series: DriftSeries, title: str) -> Figure | None:
    """Growing errors, segment drift, local scale and step errors, with jumps and collapse marked; None without any
    frame. Segments are drawn at the frame where they start, their mean over all lengths that start there."""
    if not len(series.frame):
        return None
    figure, panels = stacked_panels(11, 11, 5, title)
    # The third has a second axis at its right.
    figure.subplots_adjust(right=1 - 0.65 / 11)
    growth, anchored, segments, scale, steps = panels
    frame = series.frame.astype(np.float64)
    _draw_growth(growth, series)
    draw_series(anchored, frame, series.anchored_error_m, "each frame", ORANGE)
    anchored.set_ylim(bottom=0)
    style(anchored, "", "m", "Position error after alignment on the first frames alone")
    _draw_segments(segments, series)
    scale.axhline(1.0, color=GREY, linewidth=0.8)
    draw_series(scale, frame, series.local_scale, "estimate / reference", PURPLE)
    style(scale, "", "ratio", "Local scale: median ratio of step lengths, whole sequence = 1")
    _bulk_around_one(scale, series.local_scale)
    draw_series(steps, frame, series.step_error_m, "each step", VERMILION)
    style(steps, "frame", "m", "Translation error of each step")
    limit_to_bulk(steps, series.step_error_m, "m")
    for axes in panels:
        _mark_events(axes, series, named=axes is steps)
        axes.margins(x=0.01)
        if axes.get_legend_handles_labels()[0]:
            legend_above(axes)
    return figure


def _draw_growth(axes: Axes, series: DriftSeries) -> None:
    known = np.isfinite(series.prefix_ate_m)
    axes.plot(
        series.prefix_frame[known],
        series.prefix_ate_m[known],
        color=BLUE,
        linewidth=1.8,
        label="prefix up to here",
    )
    axes.set_ylim(bottom=0)
    style(axes, "", "m", "ATE of growing prefixes, each aligned on itself")


def _draw_segments(axes: Axes, series: DriftSeries) -> None:
    style(axes, "", "translation [%]", "Drift of the segments that start here")
    if not len(series.segment_frame):
        axes.text(0.5, 0.5, "the path is shorter than every segment", transform=axes.transAxes, ha="center", fontsize=9)
        return
    starts, which = np.unique(series.segment_frame, return_inverse=True)
    count = np.bincount(which)
    axes.plot(
        starts,
        np.bincount(which, series.segment_translation) / count,
        color=GREEN,
        linewidth=1.4,
        label=f"translation, mean of {series.segment_length_m.min():g}…{series.segment_length_m.max():g} m",
    )
    axes.set_ylim(bottom=0)
    turns = axes.twinx()
    turns.plot(
        starts,
        np.bincount(which, series.segment_rotation) / count,
        color=BLACK,
        linewidth=1.0,
        linestyle="--",
    )
    # In the legend of the panel, whose own axes have no such line.
    axes.plot([], [], color=BLACK, linewidth=1.0, linestyle="--", label="rotation (right)")
    turns.set_ylabel("rotation [deg/m]", fontsize=10)
    turns.tick_params(labelsize=9)
    turns.set_ylim(bottom=0)
    turns.spines["top"].set_visible(False)


def _bulk_around_one(axes: Axes, values: FloatArray) -> None:
    finite = values[np.isfinite(values)]
    if len(finite):
        low, high = np.percentile(finite, [1, 99])
        reach = max(0.02, 1.4 * max(abs(high - 1), abs(1 - low)))
        axes.set_ylim(max(0.0, 1 - reach), 1 + reach)


def _mark_events(axes: Axes, series: DriftSeries, *, named: bool) -> None:
    for number, jump in enumerate(series.jump_frame[:200]):
        label = f"jumps ({len(series.jump_frame)})" if named and number == 0 else None
        axes.axvline(float(jump), color=GREY, linewidth=0.9, linestyle=":", label=label)
    for collapse in series.collapse_frame:
        label = f"collapse (frame {collapse})" if named else None
        axes.axvline(float(collapse), color=BLACK, linewidth=1.4, linestyle="-.", label=label)
