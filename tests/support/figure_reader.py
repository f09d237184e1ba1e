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
