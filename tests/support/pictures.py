"""How much of a figure is painted when it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.layout_engine import ConstrainedLayoutEngine

_DRAW, _LAYOUT = FigureCanvasAgg.draw, ConstrainedLayoutEngine.execute


@contextmanager
def pictures_by(draw: Callable[[FigureCanvasAgg], object]) -> Iterator[None]:
    """``draw`` paints every figure, whose parts stay where they happen to lie."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasAgg, "draw", draw)
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
        yield


@contextmanager
def pictures_as_ever() -> Iterator[None]:
    """Figures are painted whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasAgg, "draw", _DRAW)
        patch.setattr(ConstrainedLayoutEngine, "execute", _LAYOUT)
        yield
