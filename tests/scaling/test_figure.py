"""The figure of a study: every case has its cache drawn, equal ones once, and no legend lies over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from lingbot_eval.scaling.page import LETTERS, MOST_CASES, Curve, scaling_figure
from lingbot_eval.scaling.records import COLUMNS, CaseRecord
from lingbot_eval.types import CACHE_KINDS
from tests.support.figure_reader import axes_titled, layers
from tests.support.figure_reader import curve as points


def curve(label: str, frames: int, kept_bytes: int) -> Curve:
    """A case of which each frame adds ``kept_bytes`` to every kind of cache."""
    index = np.arange(frames, dtype=np.float64)
    samples = pd.DataFrame({name: np.full(frames, np.nan) for name in COLUMNS})
    samples = samples.assign(index=index, forward_ms=10.0 + index / frames, process_bytes=1e9)
    for kind in CACHE_KINDS:
        samples[f"cache_{kind}_bytes"] = kept_bytes * (index + 1)
    record = CaseRecord(
        name=label,
        case={"scenario": "offline"},
        status="ok",
        frames=frames,
        predictions=frames,
        facts={},
        input={},
        sampling={},
        measurements=[],
        growth=[],
        checkpoints=[],
        error_curve=[],
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
    )
    return Curve(label, record, samples)


def panels(curves: list[Curve]) -> list[str]:
    """Titles of the panels that say which cases' cache they show."""
    titles = [axes.get_title(loc="left") for axes in scaling_figure("made up", curves).axes]
    return [title for title in titles if set(title.split(", ")) <= set(LETTERS)]


def test_cases_that_hold_the_same_share_a_panel() -> None:
    cases = [curve("one", 40, 1000), curve("other", 60, 1000), curve("as one", 40, 1000), curve("more", 40, 1001)]
    assert panels(cases) == ["A, C", "B", "D"]


@pytest.mark.parametrize("count", [1, MOST_CASES, MOST_CASES + 2])
def test_every_case_that_is_drawn_has_its_cache_drawn(count: int) -> None:
    cases = [curve(f"{number} frames", 40 + number, 1000) for number in range(count)]
    assert panels(cases) == list(LETTERS[: min(count, MOST_CASES)])


def test_the_legend_of_the_caches_lies_above_them(tmp_path: Path) -> None:
    figure = scaling_figure("made up", [curve(f"case {number}", 40 + number, 10**7) for number in range(5)])
    figure.savefig(tmp_path / "figure.png")
    stacks = [axes for axes in figure.axes if axes.get_title(loc="left") in set(LETTERS)]
    (names,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("Cache in view")]
    legend = names.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [kind.replace("_", " ") for kind in CACHE_KINDS]
    assert all(legend.get_window_extent().y0 > axes.get_window_extent().y1 for axes in stacks)
    assert all(axes.get_legend() is None for axes in stacks)


def test_every_curve_of_a_study_lies_under_its_name_in_its_unit() -> None:
    """On a GPU, where five kinds of bytes are drawn: of two cases that differ in all."""
    cases = []
    for label, start in (("one", 1.0), ("other", 5.0)):
        case = curve(label, 20, 0)
        index = case.samples["index"]
        samples = case.samples.assign(
            forward_ms=10 * start + index % 7,
            device_allocated_bytes=1e9 * (start + index),
            device_reserved_bytes=2e9 * (start + index),
            driver_bytes=3e9 * (start + index),
            process_bytes=4e9 * (start + index),
            backlog=start + index % 3,
        )
        for number, kind in enumerate(CACHE_KINDS, start=1):
            samples[f"cache_{kind}_bytes"] = 1e9 * number * (start + index)
        changes = {"case": {"scenario": "camera"}, "error_curve": [(10, 0.1 * start), (20, 0.2 * start)]}
        cases.append(Curve(label, case.record.model_copy(update=changes), samples))
    figure = scaling_figure("made up", cases)
    times = axes_titled(figure, "Forward time of each frame, rolling median bold")
    assert times.get_ylabel() == "ms"
    memory = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("Memory, colours as above"))
    assert memory.get_ylabel() == "GB"
    assert "solid: allocated on the device" in memory.get_title(loc="left")
    assert "dashed: the driver's figure; dotted: cache in view" in memory.get_title(loc="left")
    errors = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("Error so far"))
    backlog = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("Backlog"))
    for letter, case, start in (("A", cases[0], 1.0), ("B", cases[1], 5.0)):
        index = case.samples["index"].to_numpy()
        name = f"{letter}: {case.label}"
        assert points(times, name) == pytest.approx(np.column_stack([index, 10 * start + index % 7]))
        (named,) = [line for line in times.lines if line.get_label() == name]
        own = {line.get_linestyle(): line for line in memory.lines if line.get_color() == named.get_color()}
        for look, factor in (("-", 1), ("--", 3), (":", sum(range(1, len(CACHE_KINDS) + 1)))):
            assert np.asarray(own[look].get_ydata()) == pytest.approx(factor * (start + index)), look
        (error,) = [line for line in errors.lines if line.get_color() == named.get_color()]
        assert np.asarray(error.get_xydata()) == pytest.approx(np.array([[10, 0.1 * start], [20, 0.2 * start]]))
        (waiting,) = [line for line in backlog.lines if line.get_color() == named.get_color()]
        assert np.asarray(waiting.get_ydata()) == pytest.approx(start + index % 3)
        cache = axes_titled(figure, letter)
        parts = layers(cache, [kind.replace("_", " ") for kind in CACHE_KINDS])
        for number, kind in enumerate(CACHE_KINDS, start=1):
            expected = np.column_stack([index, number * (start + index)])
            assert parts[kind.replace("_", " ")] == pytest.approx(expected)
    assert errors.get_xscale() == "log"
    assert times.get_ylim()[1] > 55, "the slower one is in the picture"
    # Side by side and to one scale, whose unit the first one has.
    caches = [axes_titled(figure, letter) for letter in "AB"]
    assert [axes.get_ylabel() for axes in caches] == ["GB", ""]
    assert caches[0].get_ylim() == caches[1].get_ylim()
    (names,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("Cache in view")]
    legend = names.get_legend()
    assert legend is not None
    colours = [tuple(part.get_facecolor()[0][:3]) for part in axes_titled(figure, "A").collections]
    assert [tuple(patch.get_facecolor()[:3]) for patch in legend.get_patches()] == colours


def test_on_a_cpu_the_process_stands_for_the_device() -> None:
    """As it was sampled, now and then."""
    case = curve("case", 20, 10**8)
    case.samples.loc[case.samples["index"] % 5 != 4, "process_bytes"] = np.nan
    figure = scaling_figure("made up", [case])
    memory = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("Memory, colours as above"))
    solid = next(line for line in memory.lines if line.get_linestyle() == "-")
    assert np.asarray(solid.get_xydata()).tolist() == [[frame, 1.0] for frame in (4, 9, 14, 19)]
    # Not where the device was looked at, though the first frame had nothing on it yet.
    case.samples.loc[1:, "device_allocated_bytes"] = 2e9
    figure = scaling_figure("made up", [case])
    memory = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("Memory, colours as above"))
    solid = next(line for line in memory.lines if line.get_linestyle() == "-")
    assert np.asarray(solid.get_xydata()).tolist() == [[frame, 2.0] for frame in range(1, 20)]


def test_what_the_figure_says_in_words_and_marks() -> None:
    """Of cases beyond those that are drawn how many, of untrained weights and of no poses that it is so."""

    def titled(curves: list[Curve], beginning: str) -> Axes:
        return next(
            axes for axes in scaling_figure("made up", curves).axes if axes.get_title(loc="left").startswith(beginning)
        )

    whole, full = curve("whole", 20, 1000), curve("full", 10, 5 * 10**8)
    full = Curve(full.label, full.record.model_copy(update={"out_of_memory": True, "status": "failed"}), full.samples)
    crashed = Curve("crashed", whole.record.model_copy(update={"status": "failed"}), whole.samples)
    drawn = titled([whole, full, crashed], "Memory, colours as above").lines
    marks = [line for line in drawn if line.get_marker() == "x"]
    # Where it ended, at what its caches held then: four kinds of half a GB for each of ten frames.
    assert [np.asarray(line.get_xydata()).tolist() for line in marks] == [[[9.0, pytest.approx(20.0)]]]
    for count, more in ((MOST_CASES, ""), (MOST_CASES + 2, "; 2 more in the tables")):
        cases = [curve(f"case {number}", 20 + number, 1000) for number in range(count)]
        figure = scaling_figure("made up", cases)
        assert figure.get_suptitle() == f"made up{more}"
        # The first of them, in their order.
        times = axes_titled(figure, "Forward time of each frame, rolling median bold")
        names = [label for line in times.lines if not (label := str(line.get_label())).startswith("_")]
        assert names == [f"{letter}: case {number}" for number, letter in enumerate(LETTERS)]
    known = {"error_curve": [(10, 0.1)]}
    for trained in ((True, True), (True, False)):
        cases = [
            Curve(each.label, each.record.model_copy(update={**known, "facts": {"trained": yes}}), each.samples)
            for each, yes in zip((whole, full), trained, strict=True)
        ]
        errors = titled(cases, "Error so far")
        assert errors.get_title(loc="left").endswith("says nothing of the method)") is not all(trained)
        assert [text.get_text() for text in errors.texts] == []
    without = titled([whole], "Error so far")
    assert [text.get_text() for text in without.texts] == ["the input has no true poses"]
    assert without.get_title(loc="left").endswith("says nothing of the method)"), "of weights that nobody tells of"
    # A queue is there where a camera was asked for alone.
    titles = [axes.get_title(loc="left") for axes in scaling_figure("made up", [whole]).axes]
    assert not any(title.startswith("Backlog") for title in titles)
    camera = Curve("camera", whole.record.model_copy(update={"case": {"scenario": "camera"}}), whole.samples)
    camera.samples["backlog"] = 3.0
    for cases in ([whole, camera], [camera, whole]):
        (queue,) = titled(cases, "Backlog").lines
        assert np.asarray(queue.get_ydata()).tolist() == [3.0] * 20
