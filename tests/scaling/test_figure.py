"""The figure of a study: every case has its cache drawn, equal ones once, and no legend lies over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lingbot_eval.scaling.figure import LETTERS, MOST_CASES, Curve, scaling_figure
from lingbot_eval.scaling.records import CaseRecord
from lingbot_eval.scaling.samples import COLUMNS, KINDS


def curve(label: str, frames: int, kept_bytes: int) -> Curve:
    """A case of which each frame adds ``kept_bytes`` to every kind of cache."""
    index = np.arange(frames, dtype=np.float64)
    samples = pd.DataFrame({name: np.full(frames, np.nan) for name in COLUMNS})
    samples = samples.assign(index=index, forward_ms=10.0 + index / frames, process_bytes=1e9)
    for kind in KINDS:
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
    assert [text.get_text() for text in legend.get_texts()] == [kind.replace("_", " ") for kind in KINDS]
    assert all(legend.get_window_extent().y0 > axes.get_window_extent().y1 for axes in stacks)
    assert all(axes.get_legend() is None for axes in stacks)
