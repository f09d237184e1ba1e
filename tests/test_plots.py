"""How figures become files: the same bytes each time, whole or not at all, in three formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lingbot_eval.errors import ConfigError
from lingbot_eval.plots import BLUE, check_ending, draw_series, legend_above, new_figure, save, style


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


def test_a_title_is_text_and_one_line(tmp_path: Path) -> None:
    figure = new_figure(4, 3, "a$title$ \n of two lines" + 200 * "x")
    assert figure.get_suptitle().startswith("a$title$ of two lines")
    assert len(figure.get_suptitle()) == 110


def test_other_endings_are_refused() -> None:
    check_ending(Path("x.SVG"), "--plot")
    with pytest.raises(ConfigError, match=r"--plot x\.jpg: expected a file name ending in \.png, \.svg, \.pdf"):
        check_ending(Path("x.jpg"), "--plot")
