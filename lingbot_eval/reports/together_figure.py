"""One figure of what several methods or runs did on one scene: error and time along the sequence, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lingbot_eval.plots import LINE_COLOURS, limit_to_bulk, rolling_median, stacked_panels, style
from lingbot_eval.reports.unit_data import Line
from lingbot_eval.tables import plain
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd

_DASHES = ("-", "--", ":", "-.")
_COLUMNS = (
    ("position_error_m", "m", "Distance to the reference after Sim(3) alignment"),
    ("depth_abs_rel", "", "Depth error (abs_rel) of each frame alone, scale_only alignment"),
    ("forward_ms", "ms", "Forward time on the device"),
)
_LONGEST_LABEL = 60
_NAMES_A_ROW = 3
_FEW = 300  # values that can be told apart: longer series are drawn as rolling medians


@dataclass(frozen=True)
class _Panel:
    """curves: (number of the line, frame numbers, values) of every line that has some."""

    title: str
    unit: str
    curves: tuple[tuple[int, FloatArray, FloatArray], ...]


def together_figure(lines: Sequence[Line], title: str) -> Figure | None:
    """Lines drawn over each other; None when fewer than two have anything to draw.

    A series of more than 300 frames is drawn as a rolling median, as its panel's title says.
    """
    panels = [panel for panel in (_growth(lines), *(_column(lines, *column) for column in _COLUMNS)) if panel]
    if not panels:
        return None
    names = 0.1 + 0.22 * -(-len(lines) // _NAMES_A_ROW)
    figure, drawn = stacked_panels(11, 0.8 + 2.5 * len(panels) + names, len(panels), title, below=names)
    handles: dict[int, Line2D] = {}
    for axes, panel in zip(drawn, panels, strict=True):
        for number, x, y in panel.curves:
            look: dict[str, Any] = {
                "color": LINE_COLOURS[number % len(LINE_COLOURS)],
                "linestyle": _DASHES[number // len(LINE_COLOURS) % 4],
            }
            (curve,) = axes.plot(x, y, linewidth=1.4, label=_legend_text(lines[number].label), **look)
            handles.setdefault(number, curve)
        limit_to_bulk(axes, np.concatenate([y for _, _, y in panel.curves]), panel.unit)
        axes.margins(x=0.01)
        style(axes, "frame" if axes is drawn[-1] else "", panel.unit, panel.title)
    legend = figure.legend(
        [handles[number] for number in sorted(handles)],
        [str(handles[number].get_label()) for number in sorted(handles)],
        loc="lower center",
        ncols=min(_NAMES_A_ROW, len(handles)),
        fontsize=9,
        frameon=False,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    return figure


def _growth(lines: Sequence[Line]) -> _Panel | None:
    curves = []
    for number, line in enumerate(lines):
        if line.drift is not None and np.isfinite(line.drift.prefix_ate_m).any():
            curves.append((number, line.drift.prefix_frame.astype(np.float64), line.drift.prefix_ate_m))
    return _Panel("ATE of growing prefixes, each aligned on itself", "m", tuple(curves)) if len(curves) > 1 else None


def _column(lines: Sequence[Line], column: str, unit: str, title: str) -> _Panel | None:
    curves, stretches = [], [1]
    for number, line in enumerate(lines):
        if line.frames is None:
            continue
        x, y, stretch = _smoothed(line.frames, column)
        if len(y):
            curves.append((number, x, y))
            stretches.append(stretch)
    if len(curves) < 2:
        return None
    note = f", rolling median of up to {max(stretches)} frames" if max(stretches) > 1 else ""
    return _Panel(title + note, unit, tuple(curves))


def _legend_text(label: str) -> str:
    """Names from anywhere: one line, not too long, and not taken for one of matplotlib's hidden labels ("_…")."""
    text = plain(label)
    text = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    return f" {text}" if text.startswith("_") else text


def _smoothed(frames: pd.DataFrame, column: str) -> tuple[FloatArray, FloatArray, int]:
    """Frame numbers, values and how many were taken together; NaN left out."""
    values = frames[column].to_numpy(np.float64)
    known = np.isfinite(values)
    x, y = frames["index"].to_numpy(np.float64)[known], values[known]
    if len(y) <= _FEW:
        return x, y, 1
    stretch = max(9, len(y) // 200)
    return *rolling_median(x, y, stretch), stretch
