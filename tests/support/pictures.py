"""How much of a figure is painted when it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from lingbot_eval import plots

PAINTED, LAYOUT = plots.painted, ConstrainedLayoutEngine.execute
"""As users have them."""


def blank(figure: Figure) -> NDArray[np.uint8]:
    """In place of ``plots.painted``: white paper of the figure's size."""
    width, height = figure.canvas.get_width_height()
    return np.full((height, width, 3), 255, np.uint8)


@contextmanager
def pictures_by(
    painted: Callable[[Figure], NDArray[np.uint8]], layout: Callable[..., None] = lambda engine, figure: None
) -> Iterator[None]:
    """``painted`` paints what is written, whose parts stay where they happen to lie unless ``layout`` places them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "painted", painted)
        patch.setattr(ConstrainedLayoutEngine, "execute", layout)
        yield
