"""The figure of a comparison: which differences and which times lie under which name."""

from __future__ import annotations

import numpy as np
import pytest

from lingbot_eval.reports.agreement import Differences, TimeSeries
from lingbot_eval.reports.agreement_figure import comparison_figure
from tests.support.figure_reader import axes_titled, curve, curves

FRAMES = np.arange(3, 11)


def values(first: float) -> np.ndarray:
    return first * np.array([1.0, 2, 4, 3, 5, 9, 7, 8])


def differences(first: float, depth: bool = True) -> Differences:
    return Differences(FRAMES, values(first), values(10 * first), values(100 * first) if depth else None)


def test_every_difference_and_time_lies_under_its_name() -> None:
    times = [
        TimeSeries("sdpa", FRAMES.astype(np.float64), values(2)),
        TimeSeries("paged", FRAMES + 1.0, values(3)),
    ]
    pairs = [("A–reference", differences(0.001)), ("B–reference", differences(0.003, depth=False))]
    figure = comparison_figure("t", pairs, times, "Time of each frame, last round")
    for title, unit, factor, labels in (
        ("Angle between the orientations", "deg", 1, {"A–reference": 0.001, "B–reference": 0.003}),
        (
            "Distance of the camera centres, relative to the trajectory's extent",
            "of the extent",
            10,
            {"A–reference": 0.001, "B–reference": 0.003},
        ),
        ("Depth difference, median over pixels", "relative", 100, {"A–reference": 0.001}),
    ):
        axes = axes_titled(figure, title)
        assert (axes.get_ylabel(), axes.get_yscale()) == (unit, "log")
        assert set(curves(axes)) == set(labels)
        for label, first in labels.items():
            assert curve(axes, label) == pytest.approx(np.column_stack([FRAMES, factor * values(first)]))
    axes = axes_titled(figure, "Time of each frame, last round")
    assert axes.get_ylabel() == "ms"
    assert curve(axes, "sdpa") == pytest.approx(np.column_stack([FRAMES, values(2)]))
    assert curve(axes, "paged") == pytest.approx(np.column_stack([FRAMES + 1, values(3)]))


def test_what_is_exactly_equal_has_no_place_on_a_logarithm_and_is_counted() -> None:
    pair = differences(1.0)
    pair.rotation_deg[[2, 5]] = 0
    pair.rotation_deg[6] = np.nan
    axes = axes_titled(comparison_figure("t", [("A–B", pair)], [], "times"), "Angle between the orientations")
    drawn = curve(axes, "A–B (2 frames exactly equal)")
    assert drawn[:, 0].tolist() == [3, 4, 6, 7, 10]
