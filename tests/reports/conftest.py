"""Reports for what they say: where a fault may show in the painting alone, their pictures are painted, in less time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tests.support.pictures import PAINTED, pictures_by

COARSE_DPI = 15


@pytest.fixture(scope="module")
def coarse_pictures(unpainted_pictures: None) -> Iterator[None]:
    """Every figure is drawn as ever, on few pixels and where its parts happen to lie: a fifth of the time."""

    def coarse(figure: Figure) -> NDArray[np.uint8]:
        figure.set_dpi(COARSE_DPI)
        return PAINTED(figure)

    with pictures_by(coarse):
        yield
