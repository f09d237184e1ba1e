"""The figures of one unit: error, drift and cost along the sequence, depth panels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.Image import Resampling

from lingbot_eval.plots import (
    BLACK,
    BLUE,
    CACHE_COLOURS,
    DPI,
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
from lingbot_eval.stored.unit_files import Columns, DepthPanels
from lingbot_eval.types import CACHE_KINDS, DriftSeries, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    high = _WIDE * ratio
    sheet = _Sheet(0.8 + count * (2.6 * ratio + 0.12), title)
    for row in range(count):
        top = 0.66 + row * (2.6 * ratio + 0.12)
        truth, prediction = _known(panels.truth[row]), _known(panels.prediction[row])
        error = np.abs(prediction - truth)
        depths = _middle(truth if np.isfinite(truth).any() else prediction)
        known = error[np.isfinite(error)]
        worst = float(np.percentile(known, 98)) if len(known) else 1.0
        errors = 0.0, worst if worst > 0 else 1.0
        pictures = panels.image[row], _coloured(truth, *depths), _coloured(prediction, *depths)
        for left, picture in zip(_PANELS, (*pictures, _coloured(error, *errors, "magma")), strict=True):
            sheet.picture(left, top, _WIDE, high, picture)
        sheet.bar(_BARS[0], top, high, *depths, "depth [m]")
        sheet.bar(_BARS[1], top, high, *errors, "error [m]", "magma", below=False)
        sheet.words(_PANELS[0] - 0.12, top + high / 2, f"frame {panels.index[row]}", rotation=90)
    for left, name in zip(_PANELS, ("image", "truth", "prediction (scale_only)", "|prediction − truth|"), strict=True):
        sheet.words(left + _WIDE / 2, 0.66 - 0.13, name)
    return sheet.finished()


def _depth_alone(panels: DepthPanels, count: int, ratio: float, title: str) -> Figure:
    """Images above the depth that was predicted for them."""
    depth = [_known(panels.prediction[column]) for column in range(count)]
    limits = _middle(np.concatenate(depth))
    gap, room = 0.12, 10.85
    wide = (room + gap) / max(count, 3) - gap
    high = wide * ratio
    left = 0.2 + (room + gap - count * (wide + gap)) / 2
    sheet = _Sheet(0.8 + 2 * (high + gap), title)
    for column in range(count):
        x = left + column * (wide + gap)
        sheet.words(x + wide / 2, 0.66 - 0.13, f"frame {panels.index[column]}")
        sheet.picture(x, 0.66, wide, high, panels.image[column])
        sheet.picture(x, 0.66 + high + gap, wide, high, _coloured(depth[column], *limits))
    sheet.bar(left + count * (wide + gap), 0.66 + high + gap, high, *limits, "depth [method's own unit]")
    return sheet.finished()


class _Sheet:
    """Pictures, colour bars and words at places in inches, right and down from the upper left corner of a figure.

    All pictures are one image on one pair of axes: a pair for each of them and each bar takes five times as long.
    """

    def __init__(self, height: float, title: str) -> None:
        rows = round(height * DPI)
        self.figure = new_figure(12, rows / DPI, title, arranged=False)
        self._axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, 12), ylim=(rows / DPI, 0))
        self._axes.set_axis_off()
        self._pixels = np.full((rows, 12 * DPI, 3), 255, np.uint8)
        self._outlines: list[FloatArray] = []
        self._ticks: list[FloatArray] = []
        self._tips: list[FloatArray] = []
        self._shades: list[FloatArray] = []

    def picture(self, left: float, top: float, wide: float, high: float, image: NDArray[np.uint8]) -> None:
        """A framed picture (H, W, 3), made as large as its place."""
        x, y, right, bottom = _pixels(left, top, left + wide, top + high)
        # Large pixels are seen as such; between a few of ours and one of theirs every other way leaves steps.
        way = Resampling.NEAREST if right - x >= 3 * image.shape[1] else Resampling.HAMMING
        shown = PillowImage.fromarray(np.ascontiguousarray(image)).resize((right - x, bottom - y), way)
        self._pixels[y:bottom, x:right] = np.asarray(shown)
        self._outlines.append(np.array([(x, y), (right, y), (right, bottom), (x, bottom)]) / DPI)

    def bar(
        self,
        left: float,
        top: float,
        high: float,
        low: float,
        most: float,
        label: str,
        colours: str = "viridis",
        *,
        below: bool = True,
    ) -> None:
        """What colours from ``low`` to ``most`` mean: values above them have a point at the upper end, those below
        them one at the lower where ``below`` says so."""
        from matplotlib import colormaps
        from matplotlib.ticker import MaxNLocator, ScalarFormatter

        point = 0.05 * high / (1.05 + 0.05 * below)
        x, y, end, bottom = _pixels(left, top + point, left + 0.11, top + high - point * below)
        left, upper, right, lower = (edge / DPI for edge in (x, y, end, bottom))
        shades = colormaps[colours](np.linspace(1, 0, bottom - y), bytes=True)
        self._pixels[y:bottom, x:end] = shades[:, None, :3]
        around = [(left, upper), ((left + right) / 2, top), (right, upper), (right, lower), (left, lower)]
        self._tips.append(np.array(around[:3]))
        self._shades.append(shades[0] / 255)
        if below:
            around.insert(4, ((left + right) / 2, top + high))
            self._tips.append(np.array(around[3:]))
            self._shades.append(shades[-1] / 255)
        self._outlines.append(np.array(around))
        # As many as fit, with the height of a label between two.
        fitting = int((lower - upper) * 72 / (2 * 8))
        locator = MaxNLocator(min(max(fitting, 1), 9), steps=[1, 2, 2.5, 5, 10])
        ticks = [value for value in np.asarray(locator.tick_values(low, most)).tolist() if low <= value <= most]
        names: Any = ScalarFormatter(useOffset=False)
        names.set_scientific(False)
        names.create_dummy_axis()
        names.axis.set_view_interval(low, most)
        texts = names.format_ticks(ticks)
        for value, text in zip(ticks, texts, strict=True):
            level = lower + (value - low) / (most - low) * (upper - lower)
            self._ticks.append(np.array([(right, level), (right + 3.5 / 72, level)]))
            self.words(right + 7 / 72, level, text, size=8, ha="left", va="center_baseline")
        reach = 7 / 72 + 0.071 * max(map(len, texts), default=0)
        self.words(right + reach + 0.1, top + high / 2, label, size=9, rotation=90)

    def words(self, x: float, y: float, text: str, *, size: float = 10, **look: Any) -> None:
        """Words around a place."""
        self._axes.text(x, y, text, fontsize=size, **{"ha": "center", "va": "center", **look})

    def finished(self) -> Figure:
        """The figure."""
        from matplotlib.collections import LineCollection, PolyCollection

        rows, columns, _ = self._pixels.shape
        place = (0, columns / DPI, rows / DPI, 0)
        self._axes.imshow(self._pixels, extent=place, interpolation="nearest", aspect="auto")
        self._axes.add_collection(PolyCollection(self._tips, facecolors=self._shades, linewidths=0))
        self._axes.add_collection(PolyCollection(self._outlines, facecolors="none", edgecolors=BLACK, linewidths=0.8))
        self._axes.add_collection(LineCollection(self._ticks, colors=BLACK, linewidths=0.8))
        return self.figure


def _pixels(left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
    """Edges in inches as those of pixels, at least one of them apart."""
    x, y = round(DPI * left), round(DPI * top)
    return x, y, max(round(DPI * right), x + 1), max(round(DPI * bottom), y + 1)


def _coloured(values: FloatArray, low: float, most: float, colours: str = "viridis") -> NDArray[np.uint8]:
    """(H, W, 3) of (H, W) values; grey where there is none."""
    from matplotlib import colormaps

    shades = colormaps[colours].with_extremes(bad="#C8C8C8")
    return np.asarray(shades((values - low) / (most - low), bytes=True)[:, :, :3])


def _middle(values: FloatArray) -> tuple[float, float]:
    """The middle 96 % of what there is."""
    known = values[np.isfinite(values)]
    low, high = (float(value) for value in np.percentile(known, [2, 98])) if len(known) else (0.0, 1.0)
    return low, high if high > low else low + 1


def _known(depth: NDArray[np.float32]) -> FloatArray:
    """Depth with NaN where there is no measurement or no prediction."""
    values = depth.astype(np.float64)
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


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
