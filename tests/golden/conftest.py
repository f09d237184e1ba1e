"""Holds text against ``expected/``: words exactly, numbers within a tolerance, with a diff of the lines that differ."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lingbot_eval import plots
from tests.support.pictures import blank

HERE = Path(__file__).parent
EXPECTED, STORED = HERE / "expected", HERE / "stored"
UPDATE = "UPDATE_GOLDEN"
NUMBER = re.compile(r"(?<![A-Za-z_.\d])[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![A-Za-z_\d])")
MOST_LINES = 60

Golden = Callable[..., None]


@pytest.fixture
def golden() -> Golden:
    """``golden(name, text, tolerance)``: fails unless ``expected/NAME`` says the same."""

    def check(name: str, text: str, tolerance: float = 1e-9) -> None:
        path = EXPECTED / name
        if os.environ.get(UPDATE):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        lines = differences(path.read_text(encoding="utf-8"), text, tolerance)
        shown = "\n".join(lines[:MOST_LINES])
        assert not lines, f"{name}: {len(lines)} lines differ (- expected, + found); {UPDATE}=1 accepts\n{shown}"

    return check


def differences(expected: str, found: str, tolerance: float) -> list[str]:
    """Lines that differ: in words, or in a number by more than the relative ``tolerance``."""
    before, after = expected.splitlines(), found.splitlines()
    matcher = SequenceMatcher(None, [words(line) for line in before], [words(line) for line in after], autojunk=False)
    lines = []
    for what, i, i_end, j, j_end in matcher.get_opcodes():
        if what == "equal":
            for a, b in zip(before[i:i_end], after[j:j_end], strict=True):
                if a != b and not close(a, b, tolerance):
                    lines += [f"- {a}", f"+ {b}"]
        else:
            lines += [f"- {line}" for line in before[i:i_end]] + [f"+ {line}" for line in after[j:j_end]]
    return lines


def words(line: str) -> str:
    """A line without its numbers, and without the space that they take in a table."""
    return re.sub(r"\s+", " ", re.sub(r"-{2,}", "--", NUMBER.sub("#", line))).strip()


def close(a: str, b: str, tolerance: float) -> bool:
    """Whether two lines of the same words have the same numbers; two lines that differ in space alone do not."""
    first, second = NUMBER.findall(a), NUMBER.findall(b)
    if first == second:
        return "--" in a and re.sub("[ :-]", "", a) == re.sub("[ :-]", "", b)
    return all(float(x) == pytest.approx(float(y), rel=tolerance, abs=1e-9) for x, y in zip(first, second, strict=True))


def table_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def json_text(value: Any, leave_out: Iterable[str] = (), mask: Callable[[str], bool] = lambda key: False) -> str:
    """JSON, keys sorted, without ``leave_out``; numbers and texts under the keys that ``mask`` picks are hidden."""
    out = set(leave_out)

    def shown(value: Any, hidden: bool = False) -> Any:
        if isinstance(value, dict):
            return {key: shown(each, hidden or mask(key)) for key, each in value.items() if key not in out}
        if isinstance(value, list):
            return [shown(each, hidden) for each in value]
        return "…" if hidden and value is not None else value

    return json.dumps(shown(value), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


class PageText(HTMLParser):
    """What a page says, a line a block; pictures are their alternative text."""

    BLOCKS = ("p", "div", "section", "h1", "h2", "h3", "h4", "li", "tr", "table", "summary", "details", "figure", "pre")

    def __init__(self, page: str) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._hidden = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        if tag in self.BLOCKS:
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._parts.append(" | ")
        elif tag == "img":
            self._parts.append(f"[{dict(attrs).get('alt')}]")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(data)

    def text(self) -> str:
        lines = (re.sub(r"\s+", " ", line).strip() for line in "".join(self._parts).split("\n"))
        return "\n".join(line for line in lines if line) + "\n"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Figures are described instead of painted, which takes most of a report's time."""
    drawn: list[str] = []

    def painted(figure: Figure) -> NDArray[np.uint8]:
        drawn.append(described(figure))
        return blank(figure)

    monkeypatch.setattr(plots, "painted", painted)
    return drawn


def described(figure: Figure) -> str:
    """Title, size and what each panel says and holds."""
    width, height = figure.get_size_inches()
    lines = [f"figure: {figure.get_suptitle()}", f"  {width:g}×{height:g} inches, {figure.dpi:g} dpi"]
    for axes in figure.axes:
        title = axes.get_title(loc="left") or axes.get_title()
        lines.append(f"  panel: {title} · x: {axes.get_xlabel()} · y: {axes.get_ylabel()}")
        for line in axes.lines:
            y = [float(value) for value in line.get_ydata()]
            low, high = (min(y), max(y)) if y else (0, 0)
            # How many of the points are exactly equal, and so not drawn, is up to the machine's last bit.
            drawn = f"{len(y)} points from {low:.4g} to {high:.4g}" if high > 1e-12 else "equal but for rounding"
            lines.append(f"    line {line.get_color()} {_bare(line.get_label())}: {drawn}")
        count = {"images": len(axes.images), "patches": len(axes.patches), "areas": len(axes.collections)}
        lines += [f"    {number} {what}" for what, number in count.items() if number]
        legend = axes.get_legend()
        texts = [text.get_text() for text in (*axes.texts, *(legend.get_texts() if legend else ()))]
        lines += [f"    text: {_bare(text)}" for text in texts if text]
    return "\n".join(lines) + "\n"


def _bare(label: object) -> str:
    return re.sub(r" \(\d+ frames exactly equal\)", "", str(label))
