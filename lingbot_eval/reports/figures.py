"""The figures of one unit: trajectory, error along the sequence, cost along the sequence, depth panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lingbot_eval.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MOST_POINTS,
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
from lingbot_eval.reports.unit_data import Paths
from lingbot_eval.runs.panels import DepthPanels
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd

_MIB = 2**20
UPRIGHT = 0.7
"""Least part of the cameras' mean y axis along one world axis that says which way is down: within 45 degrees."""
_CACHE_KINDS = (("anchor", BLUE), ("window", SKY), ("memory", ORANGE), ("camera_head", PURPLE))


@dataclass(frozen=True)
class _View:
    """A projection on two world axes. turned: the vertical axis points down on the page, as the world's does."""

    name: str
    across: int
    up: int
    turned: bool = False


def trajectory_figure(paths: Paths, title: str) -> Figure:
    """The estimate against the reference, in two views with axes of equal scale; panel titles name their planes.

    Without a reference the cameras tell which way is down (`Paths.down`): in the model's world, that of the first
    camera in OpenCV's axes, y, so that the view from above is x–z. A reference's world has any axes; there the first
    view is the plane of the two along which the reference extends most (KITTI: x and z), the second shows the longer of
    them against the third.
    """
    figure = new_figure(11, 6, title)
    unit = "m" if paths.reference is not None else "method's own unit"
    first, second = figure.subplots(1, 2)
    for axes, view in zip((first, second), _views(paths), strict=True):
        _draw_paths(axes, paths, view.across, view.up)
        across, up = "xyz"[view.across], "xyz"[view.up]
        down = ", pointing down" if view.turned else ""
        style(axes, f"{across} [{unit}]", f"{up} [{unit}{down}]", f"{view.name}: {across}–{up} plane")
        axes.ticklabel_format(useOffset=False)
        axes.set_aspect("equal", adjustable="datalim")
        if view.turned:
            axes.invert_yaxis()
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _views(paths: Paths) -> tuple[_View, _View]:
    guide = paths.reference if paths.reference is not None else paths.estimate
    extents = np.ptp(guide, axis=0)
    vertical, points_down = _vertical(paths.down)
    if vertical is None:
        third = int(np.argmin(extents))
        first, second = (axis for axis in range(3) if axis != third)
        longest = first if extents[first] >= extents[second] else second
        name = "From above (the two longest extents)" if paths.reference is not None else "The two longest extents"
        return _View(name, first, second), _View("From the side", longest, third)
    # Right-handed with up towards the reader, so that a turn to the right is one on the page.
    across, up = (vertical + 1) % 3, (vertical + 2) % 3
    if points_down:
        across, up = up, across
    longest = across if extents[across] >= extents[up] else up
    return _View("From above", across, up), _View("From the side", longest, vertical, turned=points_down)


def _vertical(down: FloatArray | None) -> tuple[int | None, bool]:
    """The world axis along which the cameras stand upright, and whether it points down; None where none stands out."""
    if down is None:
        return None, False
    axis = int(np.argmax(np.abs(down)))
    return (axis, bool(down[axis] > 0)) if abs(down[axis]) >= UPRIGHT else (None, False)


def _draw_paths(axes: Axes, paths: Paths, across: int, up: int) -> None:
    label = "estimate, Sim(3)-aligned" if paths.aligned else "estimate, not aligned"
    if paths.reference is not None:
        shown = _thinned(paths.reference)
        axes.plot(shown[:, across], shown[:, up], color=BLACK, linewidth=2.2, alpha=0.75, label="ground truth")
    shown = _thinned(paths.estimate)
    axes.plot(shown[:, across], shown[:, up], color=VERMILION, linewidth=1.3, label=label)
    for points, color in ((paths.reference, BLACK), (paths.estimate, VERMILION)):
        if points is None:
            continue
        named = color == VERMILION  # so that each marker is in the legend once
        # The end is a large white square, the start a small full disc on top: on a closed loop both are seen.
        for position, marker, size, fill, name in ((0, "o", 6, color, "start"), (-1, "s", 11, "white", "end")):
            axes.plot(
                points[position, across],
                points[position, up],
                marker=marker,
                markersize=size,
                markerfacecolor=fill,
                markeredgecolor=color,
                markeredgewidth=1.6,
                linestyle="none",
                zorder=6 if name == "start" else 5,
                label=name if named else None,
            )


def _thinned(points: FloatArray) -> FloatArray:
    """At most about MOST_POINTS of them, the last one always among them."""
    every = -(-len(points) // MOST_POINTS)
    return points if every <= 1 else np.vstack([points[:-1:every], points[-1:]])


def error_figure(frames: pd.DataFrame, title: str) -> Figure | None:
    """Position, rotation and depth error along the sequence; None when the frame table has none of them."""
    wanted = (
        ("position_error_m", "position error [m]", "Distance to the reference after Sim(3) alignment", VERMILION, "m"),
        ("rotation_error_deg", "rotation error [deg]", "Angle to the reference after Sim(3) alignment", BLUE, "deg"),
        ("depth_abs_rel", "abs_rel", "Depth error of each frame alone, scale_only alignment", GREEN, ""),
    )
    there = [entry for entry in wanted if frames[entry[0]].notna().any()]
    if not there:
        return None
    figure = new_figure(11, 0.9 + 2.3 * len(there), title)
    panels = figure.subplots(len(there), 1, sharex=True, squeeze=False)[:, 0]
    index = frames["index"].to_numpy(np.float64)
    for axes, (column, label, name, color, unit) in zip(panels, there, strict=True):
        values = frames[column].to_numpy(np.float64)
        draw_series(axes, index, values, "each frame", color)
        style(axes, "frame" if axes is panels[-1] else "", label, name)
        limit_to_bulk(axes, values, unit)
        axes.margins(x=0.01)
        legend_above(axes)
    return figure


def cost_figure(frames: pd.DataFrame, title: str) -> Figure | None:
    """Milliseconds and memory along the sequence; None when the frame table has neither."""
    parts = [
        (_draw_milliseconds, ("forward_ms", "interval_ms")),
        (_draw_cache, tuple(f"cache_{kind}_bytes" for kind, _ in _CACHE_KINDS)),
        (_draw_memory, ("process_bytes", "device_bytes")),
    ]
    there = [draw for draw, columns in parts if frames[list(columns)].notna().any(axis=None)]
    if not there:
        return None
    figure = new_figure(11, 0.9 + 2.5 * len(there), title)
    panels = figure.subplots(len(there), 1, sharex=True, squeeze=False)[:, 0]
    for axes, draw in zip(panels, there, strict=True):
        draw(axes, frames)
        legend_above(axes)
        axes.margins(x=0.01)
    panels[-1].set_xlabel("frame", fontsize=10)
    return figure


def _draw_milliseconds(axes: Axes, frames: pd.DataFrame) -> None:
    index = frames["index"].to_numpy(np.float64)
    drawn = []
    for column, label, color in (("interval_ms", "end to end", ORANGE), ("forward_ms", "forward on the device", BLUE)):
        if frames[column].notna().any():
            draw_series(axes, index, frames[column].to_numpy(np.float64), label, color)
            drawn.append(frames[column].to_numpy(np.float64))
    scale = index[(frames["frame_type"] == "scale").to_numpy(dtype=bool)]
    if len(scale):
        # They enter in one pass and leave in one burst: their times are shares, not latencies.
        axes.axvspan(scale.min() - 0.5, scale.max() + 0.5, color=GREY, alpha=0.25, label="scale frames")
    style(axes, "", "ms", "Time of each frame")
    limit_to_bulk(axes, np.concatenate(drawn), "ms")


def _draw_cache(axes: Axes, frames: pd.DataFrame) -> None:
    index = frames["index"].to_numpy(np.float64)
    kept = _thinned(np.arange(len(index), dtype=np.float64)[:, None])[:, 0].astype(np.int64)
    kinds = [(kind, color) for kind, color in _CACHE_KINDS if frames[f"cache_{kind}_bytes"].notna().any()]
    layers = [np.nan_to_num(frames[f"cache_{kind}_bytes"].to_numpy(np.float64))[kept] / _MIB for kind, _ in kinds]
    axes.stackplot(
        index[kept],
        *layers,
        colors=[color for _, color in kinds],
        labels=[kind.replace("_", " ") for kind, _ in kinds],
        alpha=0.85,
        linewidth=0,
    )
    axes.set_ylim(bottom=0)
    style(axes, "", "MiB", "Key/value cache in use, stacked")


def _draw_memory(axes: Axes, frames: pd.DataFrame) -> None:
    index = frames["index"].to_numpy(np.float64)
    largest = 0.0
    for column, label, color in (
        ("process_bytes", "process (resident)", BLACK),
        ("device_bytes", "device (allocated)", VERMILION),
    ):
        values = frames[column].to_numpy(np.float64) / _MIB
        if np.isfinite(values).any():
            draw_series(axes, index, values, label, color)
            largest = max(largest, float(np.nanmax(values)))
    axes.set_ylim(0, 1.08 * largest)
    style(axes, "", "MiB", "Memory after each frame")


def depth_figure(panels: DepthPanels, title: str) -> Figure | None:
    """Image, truth, prediction and error of up to four frames; None when no frame was kept.

    Truth and prediction of a row share one colour scale (the middle 96 % of the truth); the error has its own.
    Grey is where there is no measurement or no prediction.
    """
    count = min(4, len(panels.index))
    if not count:
        return None
    ratio = panels.truth.shape[1] / panels.truth.shape[2]
    figure = new_figure(12, 0.8 + count * (2.6 * ratio + 0.12), title)
    grid = figure.subplots(count, 4, squeeze=False)
    for row in range(count):
        _draw_depth_row(figure, grid[row], panels, row)
    for axes, name in zip(grid[0], ("image", "truth", "prediction (scale_only)", "|prediction − truth|"), strict=True):
        axes.set_title(name, fontsize=10)
    return figure


def _draw_depth_row(figure: Figure, axes: NDArray[np.object_], panels: DepthPanels, row: int) -> None:
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
    _colour_bar(figure, shown, [axes[1], axes[2]], "depth [m]")
    shown = axes[3].imshow(error, cmap="magma", vmin=0, vmax=worst if worst > 0 else 1)
    _colour_bar(figure, shown, [axes[3]], "error [m]")
    for panel in axes:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_facecolor("#C8C8C8")


def _colour_bar(figure: Figure, shown: object, axes: list[Axes], label: str) -> None:
    bar = figure.colorbar(shown, ax=axes, extend="both" if len(axes) > 1 else "max", pad=0.01)  # type: ignore[arg-type]
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _masked(depth: NDArray[np.float32]) -> np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]:
    values = depth.astype(np.float64)
    return np.ma.masked_where(~(np.isfinite(values) & (values > 0)), values)
