"""The figures of a scene: where the camera went, clouds from above, and what several methods or runs did on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lingbot_eval.plots import (
    BLACK,
    GREY,
    LINE_COLOURS,
    VERMILION,
    legend_above,
    limit_to_bulk,
    names_as_they_are,
    new_figure,
    rolling_median,
    stacked_panels,
    style,
    thinned,
)
from lingbot_eval.reports.reading import KeptScene, Paths, UnitData
from lingbot_eval.stored.unit_files import Columns
from lingbot_eval.tables import plain
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


UPRIGHT = 0.7
"""Least part of the cameras' mean y axis along one world axis that says which way is down: within 45 degrees."""
_A_ROW = 3  # panels of several estimates side by side
_COLOURS = "plasma"  # from dark to light: read in grey, too
_LIGHTEST = 0.88  # its end is too light for a line on white
_BULK = 98.0  # percentile of the errors that the colours reach
_LONGEST_NAME = 48
_PICTURE = (960, 640)  # pixels of a cloud
_ANGLE = 35.0  # degrees, vertical: narrow, so that what is high leans little


@dataclass(frozen=True)
class _View:
    """A projection on two world axes. turned: the vertical axis points down on the page, as the world's does."""

    name: str
    across: int
    up: int
    turned: bool = False


def trajectory_figure(estimates: Sequence[tuple[str, Paths]], title: str, *, along: bool = False) -> Figure:
    """Estimates against their reference, in axes of equal scale; colours say how far they are off.

    One estimate is shown from above and from the side, several from above, a panel each. Without a reference the
    cameras tell which way is down (`Paths.down`): in the model's world, that of the first camera in OpenCV's axes, y,
    so that the view from above is x–z. A reference's world has any axes; there the first view is the plane of the two
    along which the reference extends most (KITTI: x and z), the second shows the longer of them against the third.

    Args:
        estimates: name and paths of each, at least one.
        title: of the figure.
        along: whether to draw the errors along the trajectories, too.

    Returns:
        The figure.
    """
    views = 2 if len(estimates) == 1 else 1
    panels = [(name, paths, view) for name, paths in estimates for view in _views(paths)[:views]]
    columns = min(len(panels), _A_ROW)
    rows = math.ceil(len(panels) / columns)
    along = along and any(paths.error is not None for _, paths in estimates)
    scale = error_scale([paths.error for _, paths in estimates if paths.error is not None])
    width, height = max(4.4, 3.9 * columns), 0.9 + 3.7 * rows + 2.2 * along
    figure = new_figure(width, height, title, arranged=False)
    # In inches: what is free around the panels, and between them.
    left, right, top, bottom, apart, below = 0.68, 0.2 if scale is None else 1.0, 0.55, 0.82, 0.76, 0.78
    wide = (width - left - right - (columns - 1) * apart) / columns
    high = (height - top - bottom - (rows + along - 1) * below) / (rows + along)
    grid = figure.add_gridspec(
        rows + along,
        columns,
        height_ratios=[3.7] * rows + [2.2] * along,
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=apart / wide,
        hspace=below / high,
    )
    drawn = [figure.add_subplot(grid[divmod(number, columns)]) for number in range(len(panels))]
    for axes, (name, paths, view) in zip(drawn, panels, strict=True):
        _draw_paths(axes, paths, view, scale)
        where = f"{'xyz'[view.across]}–{'xyz'[view.up]} plane"
        panel = f"{view.name}: {where}" if len(estimates) == 1 else f"{plain(name, _LONGEST_NAME)}, {where}"
        unit = "m" if paths.reference is not None else "method's own unit"
        down = ", pointing down" if view.turned else ""
        style(axes, f"{'xyz'[view.across]} [{unit}]", f"{'xyz'[view.up]} [{unit}{down}]", panel)
        axes.ticklabel_format(useOffset=False)
        axes.set_aspect("equal", adjustable="datalim")
        if view.turned:
            axes.invert_yaxis()
    if scale is not None:
        place = drawn[columns - 1].get_position()
        low = drawn[-1].get_position().y0
        add_error_bar(figure, (1 - 0.84 / width, low, 0.16 / width, place.y1 - low), scale)
    labels = {label: line for axes in drawn for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(labels.values()), list(labels), loc="lower center", ncols=4, fontsize=9, frameon=False)
    if along:
        _draw_along(figure.add_subplot(grid[rows, :]), estimates)
    return figure


def _draw_along(axes: Axes, estimates: Sequence[tuple[str, Paths]]) -> None:
    for number, (name, paths) in enumerate(estimates):
        if paths.error is not None:
            chosen = thinned(len(paths.error))
            color = LINE_COLOURS[number % len(LINE_COLOURS)]
            label = _legend_text(plain(name, _LONGEST_NAME))
            axes.plot(chosen, paths.error[chosen], color=color, linewidth=1.0, label=label)
    style(axes, "pose of the estimate", "position error [m]", "Distance to the reference along the estimate")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    if len(estimates) > 1:
        legend_above(axes)


def error_scale(errors: Sequence[FloatArray]) -> Normalize | None:
    """From 0 to the end of the bulk of all errors; None where there is none."""
    from matplotlib.colors import Normalize

    known = [error[np.isfinite(error)] for error in errors]
    values = np.concatenate(known) if known else np.empty(0)
    if not len(values):
        return None
    top = float(np.percentile(values, _BULK))
    return Normalize(0.0, top if top > 0 else 1.0, clip=True)


def add_error_bar(figure: Figure, place: tuple[float, float, float, float], scale: Normalize) -> None:
    """A bar that says what the colours of a path mean. place: left, bottom, width, height as shares of the figure."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(scale, _error_colours()), cax=figure.add_axes(place), extend="max")
    bar.set_label("distance to the reference [m]", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def draw_path(axes: Axes, points: FloatArray, error: FloatArray | None, scale: Normalize | None, label: str) -> None:
    """A path, coloured by its error where there is one.

    Args:
        axes: to draw on; its limits grow.
        points: (N, 2) in its coordinates.
        error: (N,) metres, NaN where there is none.
        scale: of the colours.
        label: in the legend.
    """
    from matplotlib.collections import LineCollection

    chosen = thinned(len(points))
    points = points[chosen]
    if error is None or scale is None:
        axes.plot(points[:, 0], points[:, 1], color=VERMILION, linewidth=1.6, label=label)
        return
    error = error[chosen]
    axes.plot(points[:, 0], points[:, 1], color=VERMILION, linewidth=2.0, label=label)
    # A piece has the colour of its worse end; one between poses without reference is grey.
    worse = np.fmax(error[:-1], error[1:])
    ends = list(np.stack([points[:-1], points[1:]], axis=1))
    pieces = LineCollection(ends, cmap=_error_colours(), norm=scale, linewidths=2.2, capstyle="round", zorder=3)
    pieces.set_array(np.ma.masked_invalid(worse))
    axes.add_collection(pieces)


def _error_colours() -> Colormap:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[_COLOURS](np.linspace(0, _LIGHTEST, 256))).with_extremes(bad=GREY)


def _views(paths: Paths) -> tuple[_View, _View]:
    guide = paths.reference if paths.reference is not None else paths.estimate
    extents = np.ptp(guide, axis=0)
    vertical, points_down = _vertical(paths.down)
    if vertical is None:
        third = int(np.argmin(extents))
        first, second = (axis for axis in range(3) if axis != third)
        longest = first if extents[first] >= extents[second] else second
        name = "From above (longest extents)" if paths.reference is not None else "The two longest extents"
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


def _draw_paths(axes: Axes, paths: Paths, view: _View, scale: Normalize | None) -> None:
    plane = [view.across, view.up]
    if paths.reference is not None:
        shown = paths.reference[thinned(len(paths.reference))][:, plane]
        axes.plot(*shown.T, color=BLACK, linewidth=1.2, linestyle="--", alpha=0.75, label="ground truth")
    words = paths.alignment or "not aligned"
    draw_path(axes, paths.estimate[:, plane], paths.error, scale, f"estimate, {words}")
    for points, color in ((paths.reference, BLACK), (paths.estimate, VERMILION)):
        if points is None:
            continue
        named = color == VERMILION  # so that each marker is in the legend once
        # The end is a large white square, the start a small full disc on top: on a closed loop both are seen.
        for position, marker, size, fill, name in ((0, "o", 6, color, "start"), (-1, "s", 9, "white", "end")):
            axes.plot(
                points[position, view.across],
                points[position, view.up],
                marker=marker,
                markersize=size,
                markerfacecolor=fill,
                markeredgecolor=color,
                markeredgewidth=1.6,
                linestyle="none",
                zorder=6 if name == "start" else 5,
                label=name if named else None,
            )


# From above


def cloud_figure(kept: KeptScene, paths: Paths | None, title: str) -> Figure:
    """The cloud from above with the way of the camera, coloured by its error where there is a reference.

    What is higher than the cameras is left out: ceilings would hide the rooms below them. It is in perspective, so it
    has no axes; the view stands over the middle of cloud and way and holds all of both.

    Args:
        kept: cloud and poses in the method's world.
        paths: for the reference and the error; None draws the way alone.
        title: of the figure.

    Returns:
        The figure.
    """
    from matplotlib.patheffects import withStroke

    from lingbot_eval.viewing.camera_paths import Segment, camera_path, world_up
    from lingbot_eval.viewing.splats import Splats, Style, View

    width, height = _PICTURE
    voxels, cameras = kept.voxels, kept.camera_to_world
    up = world_up(cameras)
    levels, centres = voxels.positions @ up.astype(np.float32), cameras[:, :3, 3]
    below = levels <= float(np.max(centres @ up))
    if not below.any():
        below[:] = True
    positions, colours = voxels.positions[below], voxels.colours[below]
    segment = Segment(mode="birdeye", margin=1.05)
    way = cameras[thinned(len(cameras))]
    pose = camera_path([segment], way, positions, angle=_ANGLE, aspect=width / height)[0]
    view = View.of_angle(pose, _ANGLE, width, height)
    picture = Splats(positions, colours, voxels.edge).draw(view, Style(background=(255, 255, 255), eye_dome=0.03))

    # In inches: beside the picture is the bar, below it the legend.
    wide, high, left, bottom = 7.8, 4.6, 0.65, 0.38
    tall = high - bottom - 0.55
    figure = new_figure(wide, high, title, arranged=False)
    axes = figure.add_axes((left / wide, bottom / high, tall * width / height / wide, tall / high))
    # Paler than it is, so that the path stands out.
    axes.imshow((0.2 * 255 + 0.8 * picture.image).astype(np.uint8))
    pixels, _ = view.project(centres)
    error = None
    if paths is not None and paths.reference is not None and paths.to_reference is not None:
        error = paths.error
        reference, _ = view.project(paths.to_reference.inverse().apply_points(paths.reference))
        reference = reference[thinned(len(reference))]
        halo = [withStroke(linewidth=3, foreground="white")]
        axes.plot(*reference.T, color=BLACK, linewidth=1.2, linestyle="--", label="ground truth", path_effects=halo)
    scale = None if error is None else error_scale([error])
    axes.plot(*pixels[thinned(len(pixels))].T, color="white", linewidth=4.5, solid_capstyle="round")
    draw_path(axes, pixels, error, scale, "way of the camera")
    look: dict[str, Any] = {
        "marker": "o",
        "markersize": 7,
        "color": VERMILION,
        "markeredgecolor": "white",
        "linestyle": "none",
    }
    axes.plot(*pixels[:1].T, label="start", **look)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_title("The cloud from above, without what is higher than the cameras", fontsize=10, loc="left", y=1.0)
    axes.spines[:].set_visible(False)
    if scale is not None:
        add_error_bar(
            figure, (axes.get_position().x1 + 0.12 / wide, 0.6 / high, 0.16 / wide, (tall - 0.3) / high), scale
        )
    figure.legend(loc="lower center", ncols=3, fontsize=9, frameon=False)
    return figure


_DASHES = ("-", "--", ":", "-.")
_COLUMNS = (
    ("position_error_m", "m", "Distance to the reference after Sim(3) alignment"),
    ("depth_abs_rel", "", "Depth error (abs_rel) of each frame alone, scale_only alignment"),
    ("forward_ms", "ms", "Forward time on the device"),
)
_LONGEST_LABEL = 60
_NAMES_A_ROW = 3
_FEW = 300  # values that can be told apart: longer series are drawn as rolling medians


_Curves = list[tuple[int, FloatArray, FloatArray]]
"""Number of the unit, frame numbers and values of every unit that has some."""


def together_figure(units: Sequence[tuple[str, UnitData]], title: str) -> Figure | None:
    """Units by label, a line each, drawn over each other; None when fewer than two have anything to draw.

    A series of more than 300 frames is drawn as a rolling median, as its panel's title says.
    """
    data = [unit for _, unit in units]
    found = [_growth(data), *(_column(data, *column) for column in _COLUMNS)]
    panels = [panel for panel in found if len(panel[2]) > 1]
    if not panels:
        return None
    names = 0.1 + 0.22 * -(-len(units) // _NAMES_A_ROW)
    figure, drawn = stacked_panels(11, 0.8 + 2.5 * len(panels) + names, len(panels), title, below=names)
    handles: dict[int, Line2D] = {}
    for axes, (words, unit, curves) in zip(drawn, panels, strict=True):
        for number, x, y in curves:
            look: dict[str, Any] = {
                "color": LINE_COLOURS[number % len(LINE_COLOURS)],
                "linestyle": _DASHES[number // len(LINE_COLOURS) % 4],
            }
            (curve,) = axes.plot(x, y, linewidth=1.4, label=_legend_text(units[number][0]), **look)
            handles.setdefault(number, curve)
        limit_to_bulk(axes, np.concatenate([y for _, _, y in curves]), unit)
        axes.margins(x=0.01)
        style(axes, "frame" if axes is drawn[-1] else "", unit, words)
    legend = figure.legend(
        [handles[number] for number in sorted(handles)],
        [str(handles[number].get_label()) for number in sorted(handles)],
        loc="lower center",
        ncols=min(_NAMES_A_ROW, len(handles)),
        fontsize=9,
        frameon=False,
    )
    names_as_they_are(legend)
    return figure


def _growth(units: Sequence[UnitData]) -> tuple[str, str, _Curves]:
    """Title, unit and curves of the panel of growing errors."""
    series = [(number, unit.drift) for number, unit in enumerate(units) if unit.drift is not None]
    curves = [
        (number, drift.prefix_frame.astype(np.float64), drift.prefix_ate_m)
        for number, drift in series
        if np.isfinite(drift.prefix_ate_m).any()
    ]
    return "ATE of growing prefixes, each aligned on itself", "m", curves


def _column(units: Sequence[UnitData], column: str, unit: str, title: str) -> tuple[str, str, _Curves]:
    """Title, unit and curves of the panel of a column of frames.csv."""
    curves, longest = [], 1
    for number, each in enumerate(units):
        if each.columns is None:
            continue
        x, y, stretch = _smoothed(each.columns, column)
        if len(y):
            curves.append((number, x, y))
            longest = max(longest, stretch)
    return title + (f", rolling median of up to {longest} frames" if longest > 1 else ""), unit, curves


def _legend_text(label: str) -> str:
    """Names from anywhere: one line, not too long, and not taken for one of matplotlib's hidden labels ("_…")."""
    text = plain(label, _LONGEST_LABEL)
    return f" {text}" if text.startswith("_") else text


def _smoothed(frames: Columns, column: str) -> tuple[FloatArray, FloatArray, int]:
    """Frame numbers, values and how many were taken together; NaN left out."""
    known = np.isfinite(frames[column])
    x, y = frames["index"][known].astype(np.float64), frames[column][known]
    if len(y) <= _FEW:
        return x, y, 1
    stretch = max(9, len(y) // 200)
    return *rolling_median(x, y, stretch), stretch
