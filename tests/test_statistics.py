"""The slope that outliers do not move."""

from __future__ import annotations

import numpy as np
import pytest

from lingbot_eval.statistics import FEWEST_SLOPE_VALUES, robust_slope


def test_too_few_values_have_no_slope() -> None:
    fewest = FEWEST_SLOPE_VALUES
    assert robust_slope(np.arange(fewest - 1.0), np.arange(fewest - 1.0)) is None
    assert robust_slope(np.arange(float(fewest)), np.arange(float(fewest))) is not None


def test_a_line_with_holes_and_spikes() -> None:
    x = np.sort(np.random.default_rng(1).choice(5000, 900, replace=False)).astype(np.float64)
    y = 3 - 0.25 * x
    y[::13] += 1e4
    slope = robust_slope(x, y)
    assert slope is not None
    assert slope.value == pytest.approx(-0.25, abs=1e-2)
    assert slope.low <= slope.value <= slope.high
