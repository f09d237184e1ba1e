"""Differences of poses and their trends, against SciPy's rotations and series whose growth is known; their figure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lingbot_eval.reports.agreement import (
    AGREEMENT_HEADER,
    Differences,
    Growth,
    Summary,
    TimeSeries,
    agreement_row,
    comparison_figure,
    extent,
    missing,
    pose_differences,
    summarise,
    trend,
)
from tests.support.figure_reader import axes_titled, curve, curves


def poses(count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    found = np.tile(np.eye(4), (count, 1, 1))
    found[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    found[:, :3, 3] = generator.normal(size=(count, 3))
    return found


@given(st.integers(0, 10**6), st.floats(1e-6, 179.0))
def test_pose_differences_are_the_turn_and_the_shift_that_were_made(seed: int, degrees: float) -> None:
    second = poses(6, seed)
    first = second.copy()
    generator = np.random.default_rng(seed)
    axes = generator.normal(size=(6, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    first[:, :3, :3] = Rotation.from_rotvec(axes * np.radians(degrees)).as_matrix() @ second[:, :3, :3]
    first[:, :3, 3] = 3 * first[:, :3, 3] + [0.3, 0.0, -0.4]
    rotation, position = pose_differences(first, second)
    np.testing.assert_allclose(rotation, degrees, rtol=1e-6, atol=1e-9)
    # Of the second one's extent; the first one's is three times it.
    diagonal = np.linalg.norm(second[:, :3, 3].max(axis=0) - second[:, :3, 3].min(axis=0))
    moved = np.linalg.norm(2 * second[:, :3, 3] + [0.3, 0.0, -0.4], axis=1)
    np.testing.assert_allclose(position, moved / diagonal, rtol=1e-12)


def test_poses_that_are_not_finite_are_left_out_and_only_they() -> None:
    second = poses(5, 1)
    first = second.copy()
    first[2, 0, 0] = np.nan
    first[3, 1, 3] = np.inf
    rotation, position = pose_differences(first, second)
    assert np.isnan(rotation).tolist() == [False, False, True, True, False]
    assert np.isnan(position).tolist() == [False, False, False, True, False]
    assert [summary.frames for summary in Differences(np.arange(5), rotation, position).summaries()] == [3, 4]


def test_half_a_position_has_no_part_in_the_extent() -> None:
    second = np.tile(np.eye(4), (3, 1, 1))
    second[:, :3, 3] = [[0, 0, 0], [np.nan, 50, 0], [3, 4, 0]]
    first = second.copy()
    first[:, 2, 3] = 1
    assert extent(second[:, :3, 3]) == 5
    assert pose_differences(first, second)[1].tolist() == pytest.approx([0.2, np.nan, 0.2], nan_ok=True)


def test_a_trajectory_that_stands_still_has_no_relative_positions() -> None:
    still = np.tile(np.eye(4), (4, 1, 1))
    rotation, position = pose_differences(still, still)
    assert rotation.tolist() == [0, 0, 0, 0]
    assert np.isnan(position).all()
    assert summarise("position", "1", np.arange(4), position).reason == "no frame could be compared"
    assert extent(np.full((3, 3), np.nan)) == 0


def test_percentiles_are_of_enough_frames() -> None:
    values = np.arange(1.0, 101.0)
    whole = summarise("depth", "1", np.arange(100), values)
    assert (whole.median, whole.largest, whole.frames, whole.reason) == (50.5, 100.0, 100, None)
    assert whole.p99 == pytest.approx(np.percentile(values, 99))
    few = summarise("depth", "1", np.arange(99), values[:99])
    assert few.p99 is None
    assert few.reason == "a p99 needs 100 frames, there are 99"
    assert few.growth is not None
    fewer = summarise("depth", "1", np.arange(31), values[:31])
    assert (fewer.p99, fewer.growth, fewer.reason) == (None, None, "a trend needs 32 frames, there are 31")


def test_a_trend_is_by_frames_and_not_by_what_was_compared() -> None:
    """Each fifth frame, every second of them without a value: 0.01 a frame is 10 a thousand of them."""
    indices = 5 * np.arange(80)
    found = summarise("depth", "1", indices, np.where(np.arange(80) % 2, np.nan, 1 + 0.01 * indices))
    assert found.growth is not None
    assert (found.frames, found.growth.slope, found.growth.grows) == (40, pytest.approx(10), True)


@pytest.mark.parametrize(
    ("summary", "row"),
    [
        (
            Summary("rotation", "deg", 200, 1.5, 2.5, 3.5, Growth(0.25, 0.125, 0.5, grows=True)),
            ("A–B", "rotation", "1.500 deg", "2.500 deg", "3.500 deg", "0.2500 (0.1250 to 0.5000)", "grows", "200"),
        ),
        (
            Summary("depth", "1", 99, 0.5, None, 0.75, Growth(-0.25, -0.5, 0.125, grows=False), "few"),
            ("A–B", "depth", "0.5000", "n/a", "0.7500", "-0.2500 (-0.5000 to 0.1250)", "does not grow", "99"),
        ),
        (
            Summary("depth", "1", 0, reason="none"),
            ("A–B", "depth", "n/a", "n/a", "n/a", "n/a", "needs 32 frames", "0"),
        ),
    ],
)
def test_a_row_of_agreement_says_each_number_under_its_heading(summary: Summary, row: tuple[str, ...]) -> None:
    assert AGREEMENT_HEADER[1:5] == ("difference", "median", "p99", "largest")
    assert agreement_row("A–B", summary) == row


def test_what_is_missing_is_said_once_with_each_pair_and_difference() -> None:
    few, none = "a p99 needs 100 frames, there are 99", "no frame could be compared"
    rows = [
        ("A–B", Summary("rotation", "deg", 99, 1.0, None, 2.0, reason=few)),
        ("A–B", Summary("position", "1", 0, reason=none)),
        ("A–C", Summary("rotation", "deg", 200, 1.0, 2.0, 3.0)),
        ("A–C", Summary("position", "1", 99, 1.0, None, 2.0, reason=few)),
    ]
    assert missing(rows) == (f"n/a: {few} (A–B rotation, A–C position)", f"n/a: {none} (A–B position)")


def test_a_steady_growth_is_found_with_its_slope() -> None:
    indices = np.arange(0, 1200, 2)
    values = 0.01 + 3e-5 * indices + np.random.default_rng(0).gamma(1.0, 0.002, len(indices))
    growth = trend(indices, values)
    assert growth is not None
    assert growth.grows
    assert growth.low <= 0.03 <= growth.high  # a thousand frames
    assert growth.slope == pytest.approx(0.03, rel=0.1)
    assert growth.low == pytest.approx(0.03, rel=0.3)


def test_noise_rarely_counts_as_growth() -> None:
    found = [trend(np.arange(400), np.random.default_rng(seed).lognormal(size=400)) for seed in range(40)]
    assert sum(growth is not None and growth.grows for growth in found) == 0


def test_a_rise_that_may_be_chance_does_not_grow() -> None:
    """However large it is: the interval's lower end decides."""
    values = np.random.default_rng(0).lognormal(0, 1.5, size=40)
    growth = trend(np.arange(40), values)
    assert growth is not None
    assert growth.slope * 39 / 1000 > 0.4 * np.median(values)
    assert (growth.low < 0 < growth.slope < growth.high, growth.grows) == (True, False)


def test_what_settles_after_a_start_does_not_grow() -> None:
    """Windows fill up at first: the difference rises for a while and then stays."""
    indices = np.arange(1000)
    values = 0.02 * np.minimum(1.0, indices / 60) + 0.001 * np.random.default_rng(3).random(1000)
    growth = trend(indices, values)
    assert growth is not None
    assert not growth.grows


def test_a_decline_and_equality_do_not_grow() -> None:
    for values in (np.linspace(2.0, 1.0, 64), np.zeros(64)):
        growth = trend(np.arange(64), values)
        assert growth is not None
        assert not growth.grows
    assert trend(np.arange(31), np.arange(31.0)) is None


@pytest.mark.parametrize(("last", "grows"), [(1.3, False), (1.64, False), (1.7, True), (2.0, True)])
@pytest.mark.parametrize("every", [1, 3])
def test_a_certain_rise_counts_only_when_it_is_material(last: float, every: int, grows: bool) -> None:
    """Half of the median: 0.64 of 1.32 is less, 0.7 of 1.35 is more; from the first frame to the last, not a frame."""
    growth = trend(every * np.arange(64), np.linspace(1.0, last, 64))
    assert growth is not None
    assert growth.low > 0
    assert growth.grows is grows


# Which differences and which times lie under which name


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


def test_what_is_a_millionth_of_the_largest_difference_of_any_pair_is_not_drawn() -> None:
    small, large = differences(1.0), differences(100.0)
    small.rotation_deg[[1, 4]] = 1e-3, 1e-5
    figure = comparison_figure("t", [("A–B", small), ("A–C", large)], [], "times")
    axes = axes_titled(figure, "Angle between the orientations")
    assert curve(axes, "A–B")[:, 0].tolist() == [3, 4, 5, 6, 8, 9, 10]  # of 900 a millionth is 9e-4
    assert axes.get_yscale() == "log"


def test_of_long_series_the_legend_names_the_pairs_alone_and_the_first_is_seen_under_the_others() -> None:
    frames = np.arange(1000)
    pairs = [(name, Differences(frames, 1 + frames / k, 1 + frames / k)) for k, name in ((10, "A–B"), (20, "A–C"))]
    times = [TimeSeries("sdpa", frames.astype(np.float64), 5.0 + frames % 7)]
    figure = comparison_figure("t", pairs, times, "times")
    for title, names in (("Angle between the orientations", ["A–B", "A–C"]), ("times", ["sdpa"])):
        legend = axes_titled(figure, title).get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == names
    widths = []
    for shown in (pairs, pairs[:1]):
        axes = axes_titled(comparison_figure("t", shown, [], "times"), "Angle between the orientations")
        widths.append(
            {str(line.get_label()): line.get_linewidth() for line in axes.lines if line.get_label()[0] != "_"}
        )
    assert widths[0]["A–B"] == widths[0]["A–C"] + 2 == widths[1]["A–B"] + 2
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "frame"]


def test_the_axis_of_times_holds_both_sides() -> None:
    times = [TimeSeries(name, FRAMES.astype(np.float64), values(first)) for name, first in (("a", 1), ("b", 5))]
    axes = axes_titled(comparison_figure("t", [("A–B", differences(0.1))], times, "times"), "times")
    assert axes.get_ylim() == (0, pytest.approx(1.08 * 5 * 9))
