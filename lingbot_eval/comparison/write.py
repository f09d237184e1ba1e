"""Writes a comparison of backends: a Markdown page, its numbers as JSON, its figure as PNG, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lingbot_eval.comparison import backend_page
from lingbot_eval.comparison.backends import BackendComparison
from lingbot_eval.comparison.outcome import Side
from lingbot_eval.files.atomic import write_text
from lingbot_eval.plots import save
from lingbot_eval.reports.agreement import TimeSeries
from lingbot_eval.reports.agreement_figure import comparison_figure
from lingbot_eval.reports.staging import staged
from lingbot_eval.reports.two_runs import NUMBERS, PAGE
from lingbot_eval.runs.disk import writing
from lingbot_eval.types import FloatArray

FIGURE = "compare.png"


def prepare_folder(out: Path) -> Path:
    """``out``, made when missing, before hours are spent on what goes there. Raises StoreError."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    return out


def write_backends(found: BackendComparison, out: Path) -> tuple[Path, ...]:
    """Page, numbers and figure in ``out``; returns the files, page first. Raises StoreError."""
    figure = comparison_figure(
        backend_page.title(found),
        [(backend_page.pair_label(pair), pair.differences) for pair in found.pairs],
        [series for side in found.sides if (series := _times(side)) is not None],
        f"Time of each frame, median of {found.rounds} round{'s' * (found.rounds > 1)}; "
        f"the first {min(found.scale_frames, found.frames)} enter in one pass and share its time",
    )
    with staged(out) as stage:
        save(figure, stage / FIGURE)
        write_text(stage / NUMBERS, json.dumps(backend_page.document(found), indent=2, allow_nan=False) + "\n")
        write_text(stage / PAGE, backend_page.page(found, FIGURE))
    return out / PAGE, out / FIGURE, out / NUMBERS


def _times(side: Side) -> TimeSeries | None:
    """Median over rounds of each frame; a round that ended early is out where it has nothing."""
    length = max((len(step_ms) for step_ms in side.step_ms), default=0)
    if not length:
        return None
    padded = [np.pad(ms, (0, length - len(ms)), constant_values=np.nan) for ms in side.step_ms]
    reached = np.isfinite(padded).any(axis=0)
    milliseconds: FloatArray = np.full(length, np.nan)
    milliseconds[reached] = np.nanmedian(np.array(padded)[:, reached], axis=0)
    return TimeSeries(side.contender.label, np.arange(length, dtype=np.float64), milliseconds)
