"""The table of agreement, which both kinds of comparison share."""

from __future__ import annotations

from collections.abc import Iterable

from lingbot_eval.comparison.agreement import MATERIAL_RISE, Growth, Summary
from lingbot_eval.statistics import FEWEST_SLOPE_VALUES, SLOPE_BLOCKS
from lingbot_eval.tables import MISSING, number_text, quantity, reasons

AGREEMENT_HEADER = (
    "pair",
    "difference",
    "median",
    "p99",
    "largest",
    "trend per 1,000 frames (95 %)",
    "verdict",
    "frames",
)
AGREEMENT_LEGEND = (
    "rotation: angle between the two orientations; position: distance of the two camera centres",
    f"trend: Theil–Sen slope over medians of up to {SLOPE_BLOCKS} stretches of the sequence; 'grows' where its "
    f"interval lies above 0 and it adds more than {MATERIAL_RISE:.0%} of the median from first frame to last",
)


def agreement_row(pair: str, summary: Summary) -> tuple[str, ...]:
    """One row under AGREEMENT_HEADER."""
    return (
        pair,
        summary.name,
        *(quantity(value, summary.unit) for value in (summary.median, summary.p99, summary.largest)),
        *_trend(summary.growth, summary.unit),
        str(summary.frames),
    )


def missing(rows: Iterable[tuple[str, Summary]]) -> tuple[str, ...]:
    """What is missing and why, each reason once; rows: pair and summary."""
    found = reasons((f"{pair} {summary.name}", summary.reason) for pair, summary in rows)
    return tuple(f"{MISSING}: {reason} ({', '.join(where)})" for reason, where in found.items())


def _trend(growth: Growth | None, unit: str) -> tuple[str, str]:
    if growth is None:
        return MISSING, f"needs {FEWEST_SLOPE_VALUES} frames"
    slope, low, high = (number_text(value, unit) for value in (growth.slope, growth.low, growth.high))
    return f"{slope} ({low} to {high})", "grows" if growth.grows else "does not grow"
