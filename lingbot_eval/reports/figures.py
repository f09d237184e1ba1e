"""The figures of one unit: error, drift and cost along the sequence, depth panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.plots import (
    BLACK,
    BLUE,
    CACHE_COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    draw_series,
    legend_above,
    limit_to_bulk,
    new_figure,
    stacked_panels,
    style,
    thinned,
)
from lingbot_eval.runs.unit_files import Columns, DepthPanels
from lingbot_eval.types import CACHE_KINDS, DriftSeries, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure


_MIB = 2**20
# Of the depth panels, in inches: width of one, where they begin, where their colour bars do.
_WIDE, _PANELS, _BARS = 2.42, (0.35, 2.87, 5.39, 8.72), (7.9, 11.23)


def error_figure(frames: Columns, title: str) -> Figure | None:
    """Position, rotation and depth error along the sequence; None when the frame table has none of them."""
    wanted = (
        ("position_error_m", "position error [m]", "Distance to the reference after Sim(3) alignment", VERMILION, "m"),
        ("rotation_error_deg", "rotation error [deg]", "Angle to the reference after Sim(3) alignment", BLUE, "deg"),
        ("depth_abs_rel", "abs_rel", "Depth error of each frame alone, scale_only alignment", GREEN, ""),
    )
    there = [entry for entry in wanted if np.isfinite(frames[entry[0]]).any()]
    if not there:
        return None
    figure, panels = stacked_panels(11, 0.9 + 2.3 * len(there), len(there), title)
    index = frames["index"].astype(np.float64)
    for axes, (column, label, name, color, unit) in zip(panels, there, strict=True):
        values = frames[column]
        draw_series(axes, index, values, "each frame", color)
        style(axes, "frame" if axes is panels[-1] else "", label, name)
        limit_to_bulk(axes, values, unit)
        axes.margins(x=0.01)
        legend_above(axes)
    return figure


def cost_figure(frames: Columns, title: str) -> Figure | None:
    """Milliseconds and memory along the sequence; None when the frame table has neither."""
    parts = [
        (_draw_milliseconds, ("forward_ms", "interval_ms")),
        (_draw_cache, tuple(f"cache_{kind}_bytes" for kind in CACHE_KINDS)),
        (_draw_memory, ("process_bytes", "device_bytes")),
    ]
    there = [draw for draw, columns in parts if any(np.isfinite(frames[name]).any() for name in columns)]
    if not there:
        return None
    figure, panels = stacked_panels(11, 0.9 + 2.5 * len(there), len(there), title)
    for axes, draw in zip(panels, there, strict=True):
        draw(axes, frames)
        legend_above(axes)
        axes.margins(x=0.01)
    panels[-1].set_xlabel("frame", fontsize=10)
    return figure


def _draw_milliseconds(axes: Axes, frames: Columns) -> None:
    index = frames["index"].astype(np.float64)
    drawn = []
    for column, label, color in (("interval_ms", "end to end", ORANGE), ("forward_ms", "forward on the device", BLUE)):
        if np.isfinite(frames[column]).any():
            draw_series(axes, index, frames[column], label, color)
            drawn.append(frames[column])
    scale = index[frames["frame_type"] == "scale"]
    if len(scale):
        # They enter in one pass and leave in one burst: their times are shares, not latencies.
        axes.axvspan(scale.min() - 0.5, scale.max() + 0.5, color=GREY, alpha=0.25, label="scale frames")
    style(axes, "", "ms", "Time of each frame")
    limit_to_bulk(axes, np.concatenate(drawn), "ms")


def _draw_cache(axes: Axes, frames: Columns) -> None:
    index = frames["index"].astype(np.float64)
    kept = thinned(len(index))
    kinds = [kind for kind in CACHE_KINDS if np.isfinite(frames[f"cache_{kind}_bytes"]).any()]
    layers = [np.nan_to_num(frames[f"cache_{kind}_bytes"])[kept] / _MIB for kind in kinds]
    axes.stackplot(
        index[kept],
        *layers,
        colors=[CACHE_COLOURS[kind] for kind in kinds],
        labels=[kind.replace("_", " ") for kind in kinds],
        alpha=0.85,
        linewidth=0,
    )
    axes.set_ylim(bottom=0)
    style(axes, "", "MiB", "Key/value cache in use, stacked")


def _draw_memory(axes: Axes, frames: Columns) -> None:
    index = frames["index"].astype(np.float64)
    largest = 0.0
    for column, label, color in (
        ("process_bytes", "process (resident)", BLACK),
        ("device_bytes", "device (allocated)", VERMILION),
    ):
        values = frames[column] / _MIB
        if np.isfinite(values).any():
            draw_series(axes, index, values, label, color)
            largest = max(largest, float(np.nanmax(values)))
    axes.set_ylim(0, 1.08 * largest)
    style(axes, "", "MiB", "Memory after each frame")


def depth_figure(panels: DepthPanels, title: str) -> Figure | None:
    """Image, truth, prediction and error of up to four frames; None when no frame was kept.

    Truth and prediction of a row share one colour scale (the middle 96 % of the truth); the error has its own.
    Without any truth there are image and prediction alone, on one colour scale for all. Grey is where there is no
    measurement or no prediction.
    """
    count = min(4, len(panels.index))
    if not count:
        return None
    ratio = panels.truth.shape[1] / panels.truth.shape[2]
    if not panels.truth.any():
        return _depth_alone(panels, count, ratio, title)
    pitch = 2.6 * ratio + 0.12
    height = 0.8 + count * pitch
    figure = new_figure(12, height, title, arranged=False)

    def place(row: int, x: float, wide: float) -> tuple[float, float, float, float]:
        top = 0.66 + row * pitch
        return x / 12, 1 - (top + _WIDE * ratio) / height, wide / 12, _WIDE * ratio / height

    grid = np.array([[figure.add_axes(place(row, x, _WIDE)) for x in _PANELS] for row in range(count)])
    for row in range(count):
        bars = [place(row, x, 0.11) for x in _BARS]
        _draw_depth_row(figure, grid[row], bars, panels, row)
    for axes, name in zip(grid[0], ("image", "truth", "prediction (scale_only)", "|prediction − truth|"), strict=True):
        axes.set_title(name, fontsize=10, y=1.0)
    return figure


def _depth_alone(panels: DepthPanels, count: int, ratio: float, title: str) -> Figure:
    """Images above the depth that was predicted for them."""
    figure = new_figure(12, 1.0 + 2 * 2.6 * ratio * 4 / max(count, 3), title)
    grid = figure.subplots(2, count, squeeze=False)
    depth = [_masked(panels.prediction[column]) for column in range(count)]
    known = np.concatenate([each.compressed() for each in depth])
    low, high = (float(v) for v in np.percentile(known, [2, 98])) if len(known) else (0.0, 1.0)
    for column in range(count):
        grid[0, column].imshow(panels.image[column])
        grid[0, column].set_title(f"frame {panels.index[column]}", fontsize=10)
        shown = grid[1, column].imshow(depth[column], cmap="viridis", vmin=low, vmax=high if high > low else low + 1)
    _bare(grid)
    _name_bar(figure.colorbar(shown, ax=list(grid[1]), extend="both", pad=0.01), "depth [method's own unit]")
    return figure


def _draw_depth_row(
    figure: Figure,
    axes: NDArray[np.object_],
    bars: Sequence[tuple[float, float, float, float]],
    panels: DepthPanels,
    row: int,
) -> None:
    truth = _masked(panels.truth[row])
    prediction = _masked(panels.prediction[row])
    error = np.ma.abs(prediction - truth)
    both = truth.compressed() if truth.count() else prediction.compressed()
    low, high = (float(v) for v in np.percentile(both, [2, 98])) if len(both) else (0.0, 1.0)
    worst = float(np.percentile(error.compressed(), 98)) if error.count() else 1.0
    axes[0].imshow(panels.image[row])
    axes[0].set_ylabel(f"frame {panels.index[row]}", fontsize=10)
    for position, values in ((1, truth), (2, prediction)):
        shown = axes[position].imshow(values, cmap="viridis", vmin=low, vmax=high if high > low else low + 1)
    _name_bar(figure.colorbar(shown, cax=figure.add_axes(bars[0]), extend="both"), "depth [m]")
    shown = axes[3].imshow(error, cmap="magma", vmin=0, vmax=worst if worst > 0 else 1)
    _name_bar(figure.colorbar(shown, cax=figure.add_axes(bars[1]), extend="max"), "error [m]")
    _bare(axes)


def _bare(axes: NDArray[np.object_]) -> None:
    for panel in axes.reshape(-1):
        panel.set_facecolor("#C8C8C8")
        # An axis that is not seen is not drawn at all; the label of a row is one's.
        panel.xaxis.set_visible(False)
        if panel.get_ylabel():
            panel.set_yticks([])
        else:
            panel.yaxis.set_visible(False)


def _name_bar(bar: Colorbar, label: str) -> None:
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _masked(depth: NDArray[np.float32]) -> np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]:
    values = depth.astype(np.float64)
    return np.ma.masked_where(~(np.isfinite(values) & (values > 0)), values)


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
