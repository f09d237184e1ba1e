"""One figure of what several runs did on one scene: error and time along the sequence, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lingbot_eval.reports.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    limit_to_bulk,
    new_figure,
    rolling_median,
    style,
)
from lingbot_eval.reports.rendering import plain
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd

_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_DASHES = ("-", "--", ":", "-.")
_PANELS = (
    ("position_error_m", "m", "Distance to the reference after Sim(3) alignment"),
    ("depth_abs_rel", "", "Depth error (abs_rel) of each frame alone, scale_only alignment"),
    ("forward_ms", "ms", "Forward time on the device"),
)
_LONGEST_LABEL = 60
_FEW = 300  # values that can be told apart: longer series are drawn as rolling medians


def together_figure(runs: Sequence[tuple[str, pd.DataFrame]], title: str) -> Figure | None:
    """Labelled frame tables drawn over each other; None when fewer than two have anything to draw.

    A series of more than 300 frames is drawn as a rolling median, with the width of its stretch in the legend.
    """
    panels = [panel for panel in _PANELS if sum(frames[panel[0]].notna().any() for _, frames in runs) > 1]
    if not panels:
        return None
    figure = new_figure(11, 1.1 + 2.5 * len(panels), title)
    drawn = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    labels: dict[str, None] = {}
    for axes, (column, unit, name) in zip(drawn, panels, strict=True):
        shown = []
        for number, (label, frames) in enumerate(runs):
            x, y, stretch = _smoothed(frames, column)
            if not len(y):
                continue
            look = {"color": _COLORS[number % len(_COLORS)], "linestyle": _DASHES[number // len(_COLORS) % 4]}
            text = _legend_text(label) + (f", median of {stretch}" if stretch > 1 else "")
            labels.setdefault(text)
            axes.plot(x, y, linewidth=1.4, label=text, **look)
            shown.append(y)
        limit_to_bulk(axes, np.concatenate(shown), unit)
        axes.margins(x=0.01)
        style(axes, "frame" if axes is drawn[-1] else "", unit, name)
    handles = {str(line.get_label()): line for axes in drawn for line in axes.get_lines() if line.get_label() in labels}
    legend = figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(3, len(handles)),
        fontsize=9,
        frameon=False,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    return figure


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
