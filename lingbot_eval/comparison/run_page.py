"""A comparison of two runs as a Markdown page and as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lingbot_eval.comparison.runs import MeasurementPair, RunComparison, UnitComparison
from lingbot_eval.comparison.tables import AGREEMENT_HEADER, AGREEMENT_LEGEND, agreement_row, missing
from lingbot_eval.tables import MISSING, Table, columns, markdown_text, number_text, quantity, reasons


def title(found: RunComparison) -> str:
    """What was compared, with a word on untrained weights."""
    a, b = found.names
    return f"Run B ({b}) against run A ({a}){_untrained(found)}"


def tables(found: RunComparison) -> tuple[Table, ...]:
    """Agreement of all scenes, then for each scene what differs in the settings, and the measurements."""
    details = (
        table for unit in found.units for table in (_settings(found, unit), _measurements(found, unit)) if table.rows
    )
    return _agreement(found), *details


def page(found: RunComparison, figures: Mapping[int, str]) -> str:
    """The whole page; figures: position of the unit → file name beside the page."""
    lines = [
        f"# {markdown_text(title(found))}",
        "",
        f"- A: {markdown_text(found.a)}",
        f"- B: {markdown_text(found.b)}",
        *(f"- untrained weights: {markdown_text(name)}" for name in found.untrained),
        *(f"- **{markdown_text(line)}**" for line in found.failures),
        *(f"- {markdown_text(line)}" for line in remarks(found)),
        "",
        *(table.markdown() for table in tables(found)),
    ]
    for position, name in figures.items():
        label = markdown_text(found.units[position].label)
        lines += [f"### {label}", "", f"![Agreement and time along the sequence: {label}]({name})", ""]
    return "\n".join(lines)


def remarks(found: RunComparison) -> tuple[str, ...]:
    """What a reader must know before comparing: differences of the runs, then of the input of each scene."""
    return (*found.remarks, *(f"{unit.label}: {remark}" for unit in found.units for remark in unit.remarks))


def document(found: RunComparison) -> dict[str, Any]:
    """Everything but the per-frame series, as plain JSON values."""
    return {
        "title": title(found),
        "a": found.a,
        "b": found.b,
        "untrained_weights": list(found.untrained),
        "remarks": list(found.remarks),
        "failures": list(found.failures),
        "units": [
            {
                "dataset": unit.dataset,
                "scene": unit.scene,
                "methods": list(unit.methods),
                "remarks": list(unit.remarks),
                "settings": [{"key": key, "a": a, "b": b} for key, a, b in unit.settings],
                "reason": unit.reason,
                "scale_of_b": unit.scale,
                "differences": [asdict(s) for s in unit.differences.summaries()] if unit.differences else [],
                "error_differences": [asdict(summary) for summary in unit.errors],
                "measurements": [{**asdict(m), "difference": m.difference} for m in unit.measurements],
            }
            for unit in found.units
        ],
    }


def _agreement(found: RunComparison) -> Table:
    summaries = [
        (unit.label, summary)
        for unit in found.units
        for summary in (*(unit.differences.summaries() if unit.differences else ()), *unit.errors)
    ]
    rows = [agreement_row(label, summary) for label, summary in summaries]
    header = ("scene", *AGREEMENT_HEADER[1:])
    rows += [
        (unit.label, "trajectory", *(MISSING,) * 4, unit.reason or "", "0")
        for unit in found.units
        if unit.differences is None
    ]
    scales = [
        f"{unit.label}: B was scaled by {number_text(unit.scale, '1')}"
        for unit in found.units
        if unit.scale is not None
    ]
    legend = (
        *AGREEMENT_LEGEND,
        "rotation and position after the Sim(3) alignment of B to A; position relative to the extent of A; a column "
        "named as in frames.csv: absolute difference of that error against the dataset's reference",
        *scales,
        *missing(summaries),
    )
    return Table(f"Agreement{_untrained(found)}", columns(header, left=2), rows, legend=legend)


def _settings(found: RunComparison, unit: UnitComparison) -> Table:
    return Table(
        f"Settings that differ: {unit.label}{_untrained(found)}", columns(("setting", "A", "B"), left=3), unit.settings
    )


def _measurements(found: RunComparison, unit: UnitComparison) -> Table:
    header = ("family", "measurement", "A", "B", "B − A", "relative")
    rows = [_row(measurement) for measurement in unit.measurements]
    gaps = reasons((f"{each.name} {each.variant}".strip(), each.reason) for each in unit.measurements)
    legend = [f"no difference: {reason} ({', '.join(names)})" for reason, names in gaps.items()]
    return Table(f"Measurements: {unit.label}{_untrained(found)}", columns(header, left=2), rows, legend=legend)


def _row(measurement: MeasurementPair) -> tuple[str, ...]:
    difference, unit = measurement.difference, measurement.unit
    relative = MISSING
    if difference is not None and measurement.a:
        relative = quantity(100 * difference / abs(measurement.a), "%")
    return (
        measurement.family,
        f"{measurement.name} {measurement.variant}".strip(),
        quantity(measurement.a, unit),
        quantity(measurement.b, unit),
        quantity(difference, unit),
        relative,
    )


def _untrained(found: RunComparison) -> str:
    return " (untrained weights)" if found.untrained else ""
