"""Writes a comparison: one Markdown page, its numbers as JSON, its figures as PNG, each whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lingbot_eval.comparison import backend_page, run_page
from lingbot_eval.comparison.backends import BackendComparison
from lingbot_eval.comparison.figure import TimeSeries, comparison_figure
from lingbot_eval.comparison.outcome import Side
from lingbot_eval.comparison.runs import RunComparison, UnitComparison
from lingbot_eval.files.atomic import write_text
from lingbot_eval.plots import save
from lingbot_eval.reports.staging import staged
from lingbot_eval.runs.disk import writing
from lingbot_eval.types import FloatArray

PAGE, NUMBERS, FIGURE = "compare.md", "compare.json", "compare.png"


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
        _write_numbers(stage, backend_page.document(found))
        write_text(stage / PAGE, backend_page.page(found, FIGURE))
    return out / PAGE, out / FIGURE, out / NUMBERS


def write_runs(found: RunComparison, out: Path) -> tuple[Path, ...]:
    """Page, numbers, and one figure for each scene that can be compared. Raises StoreError."""
    figures: dict[int, str] = {}
    with staged(out) as stage:
        for position, unit in enumerate(found.units):
            if unit.differences is None:
                continue
            name = f"compare-{position + 1:03d}.png"
            figure = comparison_figure(
                f"{run_page.title(found)}: {unit.label}",
                [("B after alignment to A", unit.differences)],
                _stored_times(unit),
                "Time of each frame on the device, as stored" + ("" if unit.same_hardware else " (different hardware)"),
            )
            save(figure, stage / name)
            figures[position] = name
        _write_numbers(stage, run_page.document(found))
        write_text(stage / PAGE, run_page.page(found, figures))
    return out / PAGE, *(out / name for name in figures.values()), out / NUMBERS


def _write_numbers(out: Path, document: dict[str, object]) -> None:
    write_text(out / NUMBERS, json.dumps(document, indent=2, allow_nan=False) + "\n")


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


def _stored_times(unit: UnitComparison) -> list[TimeSeries]:
    return [
        TimeSeries(name, table.frames, table.milliseconds)
        for name, table in (("A", unit.times[0]), ("B", unit.times[1]))
        if np.isfinite(table.milliseconds).any()
    ]
