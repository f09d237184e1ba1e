"""Reads a drawn figure as its reader does: a panel by its title, a curve by its label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2): x and y of each


def axes_titled(figure: Figure | None, title: str) -> Axes:
    """The one panel of this title; a list of all titles in the failure otherwise."""
    assert figure is not None, "nothing is drawn"
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]
    assert titles.count(title) == 1, f"panels: {titles}"
    return figure.axes[titles.index(title)]


def curves(axes: Axes) -> dict[str, Points]:
    """Points of every line that the legend names."""
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): np.asarray(line.get_xydata(), dtype=np.float64) for line in named}


def curve(axes: Axes, label: str) -> Points:
    """Points of the one line of this label."""
    named = [line for line in axes.lines if line.get_label() == label]
    assert len(named) == 1, f"curves: {list(curves(axes))}"
    return curves(axes)[label]


def layers(axes: Axes, names: Sequence[str] = ()) -> dict[str, Points]:
    """Of each layer of a stack, its thickness at every x, by label and from below; ``names`` stand for labels that a
    legend elsewhere gives."""
    found = {}
    for number, collection in enumerate(axes.collections):
        assert isinstance(collection, PolyCollection)
        (path,) = collection.get_paths()
        vertices = np.asarray(path.vertices, dtype=np.float64)
        places = np.unique(vertices[:, 0])
        thick = [np.ptp(vertices[vertices[:, 0] == x, 1]) for x in places]
        name = names[number] if names else str(collection.get_label())
        found[name] = np.column_stack([places, thick])
    return found


def pictures(figure: Figure | None, title: str) -> list[NDArray[np.uint8]]:
    """The framed pictures below (or around) a title of a sheet of pictures, from top to bottom: (H, W, 3) pixels."""
    assert figure is not None, "nothing is drawn"
    sheet, scale = _sheet(figure)
    (across,) = [text.get_position()[0] for text in figure.axes[0].texts if text.get_text() == title]
    frames = [path for area in figure.axes[0].collections for path in area.get_paths() if len(path.vertices) == 5]
    found = []
    for box in (frame.get_extents() for frame in frames):
        if box.xmin < across < box.xmax:
            left, top, right, bottom = (round(scale * edge) for edge in (box.xmin, box.ymin, box.xmax, box.ymax))
            found.append((top, sheet[top:bottom, left:right]))
    return [picture for _, picture in sorted(found, key=lambda each: each[0])]


def ticks(figure: Figure | None, top: float, bottom: float) -> list[tuple[float, list[int]]]:
    """Between two heights (inches from the top) of a sheet of pictures: each number beside a colour bar, from left to
    right and top to bottom, and the colour at it."""
    assert figure is not None, "nothing is drawn"
    sheet, scale = _sheet(figure)
    found = []
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        if top < y < bottom and text.get_fontsize() == 8:
            column = sheet[:, round(scale * (x - 7 / 72 - 0.055))].tolist()
            # At an end of the bar one of the two is beyond it, and white.
            pixel = min(column[int(scale * y - 0.5)], column[int(scale * y + 0.5)], key=sum)
            found.append((round(x), y, float(text.get_text()), pixel))
    return [(value, pixel) for _, _, value, pixel in sorted(found)]


def _sheet(figure: Figure) -> tuple[NDArray[np.uint8], float]:
    """The pixels and how many there are an inch."""
    (axes,) = figure.axes
    (image,) = axes.images
    sheet = np.asarray(image.get_array())
    return sheet, sheet.shape[1] / figure.get_size_inches()[0]
