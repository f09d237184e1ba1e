"""How figures become files: the same bytes each time, whole or not at all, in three formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lingbot_eval.errors import ConfigError
from lingbot_eval.plots import (
    BLUE,
    CACHE_COLOURS,
    LINE_COLOURS,
    MOST_POINTS,
    VERMILION,
    check_ending,
    draw_series,
    legend_above,
    limit_to_bulk,
    new_figure,
    rolling_median,
    save,
    stacked_panels,
    style,
    thinned,
)
from lingbot_eval.types import CACHE_KINDS
from tests.support.figure_reader import curve

pytestmark = pytest.mark.usefixtures("painted_pictures")


def drawn(path: Path) -> bytes:
    figure = new_figure(4, 3, "a$title$ \n of two lines")
    axes = figure.subplots()
    draw_series(axes, np.arange(40.0), np.arange(40.0) ** 2, "squares", BLUE)
    style(axes, "frame", "m", "panel")
    legend_above(axes)
    save(figure, path)
    return path.read_bytes()


@pytest.mark.parametrize(("ending", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_the_same_figure_is_the_same_bytes(
    ending: str, begins: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "100000")
    first = drawn(tmp_path / f"a.{ending}")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "200000")
    assert drawn(tmp_path / f"b.{ending}") == first
    assert first.startswith(begins)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{ending}", f"b.{ending}"]


def test_a_png_holds_the_pixels_that_were_drawn(tmp_path: Path) -> None:
    figure = new_figure(2, 1.5, "t", arranged=False)
    figure.add_axes((0.1, 0.1, 0.8, 0.7)).imshow(np.random.default_rng(0).random((9, 9, 3)))
    save(figure, tmp_path / "x.png")
    figure.savefig(tmp_path / "theirs.png")
    with Image.open(tmp_path / "x.png") as ours, Image.open(tmp_path / "theirs.png") as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs.convert("RGB")))
        assert ours.info["dpi"] == pytest.approx((110, 110), rel=1e-3)


def test_a_title_is_text_and_one_line(tmp_path: Path) -> None:
    figure = new_figure(4, 3, "a$title$ \n of two lines" + 200 * "x")
    assert figure.get_suptitle().startswith("a$title$ of two lines")
    assert len(figure.get_suptitle()) == 110
    assert figure.get_size_inches().tolist() == [4, 3]


def test_panels_of_one_figure_share_their_x_and_lie_in_order() -> None:
    figure, panels = stacked_panels(8, 6, 3, "t", below=0.5)
    assert figure.get_size_inches().tolist() == [8, 6]
    assert figure.get_suptitle() == "t"
    heights = [panel.get_position().y0 for panel in panels]
    assert (len(heights), heights) == (3, sorted(heights, reverse=True))
    assert 6 * heights[-1] >= 0.5
    panels[0].plot([5, 9], [0, 1])
    assert panels[2].get_xlim() == panels[0].get_xlim() != (0, 1)


def test_a_legend_names_what_it_is_given_or_all() -> None:
    axes = new_figure(4, 3, "x").subplots()
    lines = [axes.plot([0, 1], [0, 1], label=name)[0] for name in "abc"]
    for handles, names in ((None, "abc"), (lines[:0:-1], "cb")):
        legend_above(axes, handles)
        legend = axes.get_legend()
        assert legend is not None
        assert "".join(text.get_text() for text in legend.get_texts()) == names


def test_other_endings_are_refused() -> None:
    check_ending(Path("x.SVG"), "--plot")
    with pytest.raises(ConfigError, match=r"--plot x\.jpg: expected a file name ending in \.png, \.svg, \.pdf"):
        check_ending(Path("x.jpg"), "--plot")


def test_a_series_is_drawn_as_it_is_and_with_its_rolling_median() -> None:
    """Up to 300 values alone, up to MOST_POINTS beside their median, beyond as the band that they lie in."""
    for count in (301, 302, MOST_POINTS + 1):
        axes = new_figure(4, 3, "x").subplots()
        x, y = np.arange(count, dtype=np.float64), np.arange(count) % 7.0
        y[3] = np.nan
        draw_series(axes, x, y, "it", BLUE)
        assert curve(axes, "it") == pytest.approx(np.delete(np.column_stack([x, y]), 3, axis=0))
        width = max(9, (count - 1) // 200)
        assert [line.get_label() for line in axes.lines[1:]] == ([] if count == 301 else [f"median of {width}"])
    axes = new_figure(4, 3, "x").subplots()
    x, y = 7 + 3 * np.arange(2.0 * MOST_POINTS), np.ones(2 * MOST_POINTS)
    y[100], y[5000] = 40.0, -9.0
    draw_series(axes, x, y, "it", BLUE)
    (band,) = axes.collections
    assert band.get_label() == "it, range"
    places, heights = band.get_paths()[0].vertices.T
    assert (heights.max(), heights.min()) == (40.0, -9.0)
    # Each in its own thousandth of the width.
    for spike, place in ((40.0, x[100]), (-9.0, x[5000])):
        there = places[heights == spike]
        assert there.min() <= place <= there.max() <= there.min() + 3 * 8
    assert places.min() == 7
    assert set(curve(axes, "median of 40")[:, 1]) == {1.0}


def test_rolling_medians_stand_in_the_middle_of_their_stretch() -> None:
    places, medians = rolling_median(np.arange(10.0, 17.0), np.array([9.0, 1, 2, 30, 4, 5, 6]), 3)
    assert places.tolist() == [11, 12, 13, 14, 15]
    assert medians.tolist() == [2, 2, 4, 5, 5]
    places, medians = rolling_median(np.arange(4.0), np.array([1.0, 3, 5, 9]), 4)
    assert (places.tolist(), medians.tolist()) == ([2], [4])
    assert 1000 <= len(rolling_median(np.arange(5000.0), np.arange(5000.0), 5)[0]) <= 1300


@pytest.mark.parametrize(
    ("values", "top", "says"),
    [
        ([1.0] * 99 + [2.0], 1.08 * 2.0, ""),  # within the axis, or nearly
        ([1.0] * 99 + [9.0], 1.6, "1 of 100 values above the axis, largest 9 ms"),
        ([1.0] * 99 + [np.nan], 1.08, ""),
        ([1.0] * 99 + [2.5, np.nan], 1.6, "1 of 100 values above the axis, largest 2.5 ms"),
        ([1.0] * 99 + [2.3], 1.08 * 2.3, ""),  # up to half as high again is no reason to hide it
        # The bulk is 98 of 100.
        ([1.0] * 98 + [9.0] * 2, 1.6 * 1.16, "2 of 100 values above the axis, largest 9 ms"),
        ([1.0] * 97 + [9.0] * 3, 1.08 * 9, ""),
        ([0.0] * 99 + [9.0], 1.08 * 9, ""),  # most are nothing: there is no bulk
        ([0.0, 0.0], 1.0, ""),
        ([np.nan, np.nan], 1.0, ""),
    ],
)
def test_an_axis_ends_above_the_bulk_and_says_what_it_hides(values: list[float], top: float, says: str) -> None:
    axes = new_figure(4, 3, "x").subplots()
    limit_to_bulk(axes, np.array(values), "ms")
    assert axes.get_ylim() == pytest.approx((0, top))
    assert [text.get_text() for text in axes.texts] == ([says] if says else [])


def test_thinned_points_have_both_ends() -> None:
    assert thinned(0).tolist() == []
    assert thinned(1).tolist() == [0]
    assert thinned(MOST_POINTS).tolist() == list(range(MOST_POINTS))
    few = thinned(MOST_POINTS + 1)
    assert (few[0], few[1], few[-1]) == (0, 2, MOST_POINTS)
    assert len(thinned(10 * MOST_POINTS + 5)) <= MOST_POINTS + 1


def test_labels_and_titles_are_text() -> None:
    axes = new_figure(4, 3, "x").subplots()
    style(axes, "the $x$", "the y", "a title")
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("the $x$", "the y", "a title")
    assert not axes.xaxis.label.get_parse_math()


def test_no_text_of_a_figure_is_taken_for_a_formula(tmp_path: Path) -> None:
    """Matplotlib refuses to draw one with a command that it does not know."""
    bad = r"a $\x$ b"
    for arranged in (True, False):
        figure = new_figure(4, 3, bad, arranged=arranged)
        axes = figure.subplots()
        draw_series(axes, np.arange(4.0), np.arange(4.0), bad, BLUE)
        style(axes, bad, bad, bad)
        legend_above(axes)
        save(figure, tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.filterwarnings("error")
def test_a_name_in_a_script_that_the_font_lacks_alarms_nobody(tmp_path: Path) -> None:
    figure = new_figure(4, 3, "場面")
    style(figure.subplots(), "x", "y", "場面")
    save(figure, tmp_path / "a.png")


@pytest.mark.parametrize(("count", "marker"), [(1, "."), (30, "."), (31, "None"), (300, "None")])
def test_few_values_are_marked_one_by_one(count: int, marker: str) -> None:
    """A single one would be no line."""
    axes = new_figure(4, 3, "x").subplots()
    draw_series(axes, np.arange(float(count)), np.ones(count), "it", VERMILION)
    (line,) = axes.lines
    assert (line.get_marker(), line.get_label(), line.get_color()) == (marker, "it", VERMILION)


def test_lines_and_kinds_of_a_cache_are_told_apart_by_colour() -> None:
    assert len(set(LINE_COLOURS)) == 7
    assert list(CACHE_COLOURS) == list(CACHE_KINDS)
    assert len(set(CACHE_COLOURS.values())) == len(CACHE_KINDS)
