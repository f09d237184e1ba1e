"""Reports for what they say: where a fault may show in the painting alone, their pictures are painted, in less time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.support.pictures import pictures_by

COARSE_DPI = 15


@pytest.fixture(scope="module")
def coarse_pictures(painted_pictures: None) -> Iterator[None]:
    """Every figure is drawn as ever, on few pixels and where its parts happen to lie: a fifth of the time."""
    draw = FigureCanvasAgg.draw

    def coarse(canvas: FigureCanvasAgg) -> None:
        canvas.figure.set_dpi(COARSE_DPI)
        draw(canvas)

    with pictures_by(coarse):
        yield
