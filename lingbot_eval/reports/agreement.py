"""How far two series of predictions are apart: numbers that sum it up, whether it grows along the sequence, the table
that says so, and the figure of it along the sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.geometry.poses import relative, rotation_angle
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
from lingbot_eval.statistics import FEWEST_SLOPE_VALUES, SLOPE_BLOCKS, robust_slope
from lingbot_eval.tables import MISSING, number_text, quantity, reasons
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST_FOR_P99 = 100
"""Of fewer values, the largest one or two decide the 99th percentile."""
MATERIAL_RISE = 0.5
"""A trend counts as growth when it also rises, over the sequence, by this part of the median."""
AGREEMENT_HEADER = (
    "pair",
    "difference",
    "median",
    "p99",
    "largest",
    "trend per 1,000 frames (95 %)",
    "verdict",
    "frames",
)
AGREEMENT_LEGEND = (
    "rotation: angle between the two orientations; position: distance of the two camera centres",
    f"trend: Theil–Sen slope over medians of up to {SLOPE_BLOCKS} stretches of the sequence; 'grows' where its "
    f"interval lies above 0 and it adds more than {MATERIAL_RISE:.0%} of the median from first frame to last",
)


@dataclass(frozen=True)
class Growth:
    """Theil–Sen slope over block medians, a 1,000 frames, with its 95 % interval.

    grows: whether the interval lies above 0 and the rise over the sequence is more than half of the median.
    """

    slope: float
    low: float
    high: float
    grows: bool


@dataclass(frozen=True)
class Summary:
    """One quantity of one pair over the sequence. unit: as in Measurement.

    frames: that could be compared. median, p99, largest: None exactly when there was nothing to compare, p99 also where
    there are too few frames; growth: None where there are too few for a trend. reason: why the last thing missing is.
    """

    name: str
    unit: str
    frames: int
    median: float | None = None
    p99: float | None = None
    largest: float | None = None
    growth: Growth | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Differences:
    """Of the first from the second, frame by frame; all arrays (N,), NaN where a frame cannot be compared.

    indices: frame indices, increasing. rotation_deg: angle between the cameras' orientations. position: distance of the
    camera centres / extent of the second trajectory (diagonal of its bounding box). depth: median over pixels of
    |first − second| / |second|, None where no depth was compared.
    """

    indices: NDArray[np.int64]
    rotation_deg: FloatArray
    position: FloatArray
    depth: FloatArray | None = None

    def summaries(self) -> tuple[Summary, ...]:
        """Rotation, position and, where there is any, depth."""
        found = [
            summarise("rotation", "deg", self.indices, self.rotation_deg),
            summarise("position", "1", self.indices, self.position),
        ]
        if self.depth is not None:
            found.append(summarise("depth", "1", self.indices, self.depth))
        return tuple(found)


@dataclass(frozen=True, eq=False)
class TimeSeries:
    """Milliseconds of one side: frames (N,) and values (N,), NaN where there is none."""

    label: str
    frames: FloatArray
    milliseconds: FloatArray


def pose_differences(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Degrees between the orientations, and distances / extent of ``second``, of (N, 4, 4) camera-to-world poses.

    Both in one world. Poses that are not finite give NaN, and so does every position when ``second`` has no extent.
    """
    rotation = np.full(len(first), np.nan)
    usable = np.isfinite(first).all(axis=(1, 2)) & np.isfinite(second).all(axis=(1, 2))
    rotation[usable] = np.degrees(rotation_angle(relative(first[usable], second[usable])[:, :3, :3]))
    length = extent(second[:, :3, 3])
    distance = np.linalg.norm(first[:, :3, 3] - second[:, :3, 3], axis=1)
    position = np.where(np.isfinite(distance), distance, np.nan) / (length if length > 0 else np.nan)
    return rotation, position


def extent(positions: FloatArray) -> float:
    """Diagonal of the bounding box of the finite ones among (N, 3) positions; 0 when there is none."""
    finite = positions[np.isfinite(positions).all(axis=1)]
    return float(np.linalg.norm(np.ptp(finite, axis=0))) if len(finite) else 0.0


def summarise(name: str, unit: str, indices: NDArray[np.int64], values: FloatArray) -> Summary:
    """Median, 99th percentile, largest value and trend of (N,) ``values`` at frames ``indices``; NaN is left out."""
    there = np.isfinite(values)
    indices, values = indices[there], values[there]
    count = len(values)
    if not count:
        return Summary(name, unit, 0, reason="no frame could be compared")
    growth = trend(indices, values)
    few = count < FEWEST_FOR_P99
    reason = f"a p99 needs {FEWEST_FOR_P99} frames, there are {count}" if few else None
    if growth is None:
        reason = f"a trend needs {FEWEST_SLOPE_VALUES} frames, there are {count}"
    return Summary(
        name,
        unit,
        count,
        median=float(np.median(values)),
        p99=None if few else float(np.percentile(values, 99)),
        largest=float(values.max()),
        growth=growth,
        reason=reason,
    )


def trend(indices: NDArray[np.int64], values: FloatArray) -> Growth | None:
    """How finite ``values`` (N,) change along ``indices`` (N,); None for fewer than 32 of them."""
    slope = robust_slope(indices, values)
    if slope is None:
        return None
    rise = slope.value * float(indices[-1] - indices[0])
    grows = bool(slope.low > 0 and rise > MATERIAL_RISE * float(np.median(values)))
    return Growth(1000 * slope.value, 1000 * slope.low, 1000 * slope.high, grows)


def agreement_row(pair: str, summary: Summary) -> tuple[str, ...]:
    """One row under AGREEMENT_HEADER."""
    return (
        pair,
        summary.name,
        *(quantity(value, summary.unit) for value in (summary.median, summary.p99, summary.largest)),
        *_trend(summary.growth, summary.unit),
        str(summary.frames),
    )


def missing(rows: Iterable[tuple[str, Summary]]) -> tuple[str, ...]:
    """What is missing and why, each reason once; rows: pair and summary."""
    found = reasons((f"{pair} {summary.name}", summary.reason) for pair, summary in rows)
    return tuple(f"{MISSING}: {reason} ({', '.join(where)})" for reason, where in found.items())


def _trend(growth: Growth | None, unit: str) -> tuple[str, str]:
    if growth is None:
        return MISSING, f"needs {FEWEST_SLOPE_VALUES} frames"
    slope, low, high = (number_text(value, unit) for value in (growth.slope, growth.low, growth.high))
    return f"{slope} ({low} to {high})", "grows" if growth.grows else "does not grow"


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
