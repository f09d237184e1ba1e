"""A scaling run as a Markdown page: cases side by side, what each kept frame costs, the checkpoints, how to repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lingbot_eval.machine.environment import machine_name
from lingbot_eval.scaling.records import KINDS, CaseRecord, CheckpointRecord, ScaleRecord
from lingbot_eval.scaling.settings import SCENARIOS
from lingbot_eval.scaling.summary import CONVENTION, QUANTITIES, growth_text
from lingbot_eval.tables import (
    MISSING,
    Table,
    columns,
    fenced,
    markdown_text,
    mebibytes,
    number_text,
    quantity,
    reasons,
)


def title(record: ScaleRecord) -> str:
    """The run in a line, with a word on its weights."""
    return f"Scaling: {record.name}, weights {record.weights}"


def page(record: ScaleRecord, cases: Sequence[CaseRecord], figure: str | None) -> str:
    """The whole page."""
    parts = [f"# {markdown_text(title(record))}", ""]
    if figure is not None:
        parts += [f"![Time, memory and error along the frames]({figure})", ""]
    parts += [table.markdown() for table in tables(cases)]
    problems = remarks(cases)
    if problems:
        parts += ["### Not to the end, or not as asked for", "", *(f"- {markdown_text(line)}" for line in problems), ""]
    parts += ["### How it was measured", "", *(f"- {markdown_text(line)}" for line in _conventions(cases)), ""]
    parts += ["### Repeat", "", *fenced(record.command, "sh"), *_machine(record.environment), ""]
    return "\n".join(parts)


def tables(cases: Sequence[CaseRecord]) -> tuple[Table, ...]:
    """Pace, growth, latency where it was measured, and the checkpoints of every case."""
    labels = case_labels(cases)
    latency = [
        (label, case) for label, case in zip(labels, cases, strict=True) if _value(case, "latency", "p50") is not None
    ]
    found = [_cases_table(labels, cases)]
    if growing := _growth_rows(labels, cases):
        found.append(Table("Growth a kept frame", columns(_GROWTH, left=3), growing, legend=_missing(labels, cases)))
    if latency:
        found.append(Table("Latency", columns(_LATENCY), [_latency(label, case) for label, case in latency]))
    found += [
        Table(
            f"Checkpoints: {label}", columns(_CHECKPOINTS, left=0), [_checkpoint(point) for point in case.checkpoints]
        )
        for label, case in zip(labels, cases, strict=True)
        if case.checkpoints
    ]
    return tuple(found)


def remarks(cases: Sequence[CaseRecord]) -> tuple[str, ...]:
    """What failed or ended early, a line each."""
    lines = []
    for case in cases:
        if case.status == "failed":
            where = "" if case.failed_at_frame is None else f" at frame {case.failed_at_frame}"
            lines.append(f"{case.name}: failed ({case.stage}{where}): {case.reason}")
        elif case.stopped:
            lines.append(f"{case.name}: {case.stopped}")
    return tuple(lines)


def growth_statement(case: CaseRecord) -> str:
    """``+0.59 MB (0.59 to 0.59) and +0.4 µs (0.3 to 0.5)``: memory (allocated, on a CPU cache) and forward time."""
    wanted = ("device_allocated", "cache") if "cuda" in str(case.facts.get("device")) else ("cache",)
    found = {entry.quantity: entry for entry in case.growth}
    memory = next((found[name] for name in wanted if name in found and found[name].value is not None), None)
    time = found.get("forward")
    parts = [growth_text(entry) for entry in (memory, time) if entry is not None and entry.value is not None]
    return " and ".join(parts) or MISSING


def case_labels(cases: Sequence[CaseRecord]) -> tuple[str, ...]:
    """Short names: what the cases differ in, besides what they were asked for frames."""
    shown = [key for key in _NAMED if _tells(key, [case.case.get(key) for case in cases])]
    return tuple(
        ", ".join([f"{case.case['frames']:,} frames", *(_setting(case, key) for key in shown)]) for case in cases
    )


_NAMED = ("scenario", "backend", "keyframe_interval", "window", "precision", "cache_precision", "size", "limit_s")
_ALWAYS_NAMED = {"scenario": "camera"}
"""Without these words the figures would be misread, even where all cases have them."""
_PACE = (
    "case",
    "frames",
    "kept",
    "forward, median",
    "forward",
    "end to end",
    "overhead",
    "largest memory",
    "cache / formula",
    "a kept frame",
    "result",
)
_GROWTH = ("case", "quantity", "unit", "slope", "95 % from", "to", "formula", "kept frames")
_LATENCY = ("case", "p50", "p90", "p99", "late", "late share", "largest backlog", "last backlog")
_CHECKPOINTS = (
    "frames",
    "kept",
    "forward ms",
    "end to end ms",
    *(f"{kind.replace('_', ' ')} MiB" for kind in KINDS),
    "/ formula",
    "cache held MiB",
    "allocated MiB",
    "reserved MiB",
    "driver MiB",
    "process MiB",
    "ATE m",
)


def _tells(key: str, values: Sequence[Any]) -> bool:
    return len(set(map(str, values))) > 1 or _ALWAYS_NAMED.get(key, ...) in values


def _setting(case: CaseRecord, key: str) -> str:
    value = case.case.get(key)
    if key == "backend":
        return str(case.facts.get("backend", value))
    if key == "keyframe_interval":
        resolved = case.facts.get(key, value)
        return f"interval {value}" + (f" ({resolved})" if resolved != value else "")
    if key == "window":
        return f"window {case.facts.get(key, value)}"
    if key == "cache_precision":
        return "cache as it comes" if value is None else f"{value}-bit cache"
    if key == "size" and isinstance(value, list):
        return "×".join(map(str, value))
    if key == "scenario" and value == "camera":
        return f"camera {case.case.get('camera_hz'):g} Hz"
    return f"at most {value} s" if key == "limit_s" else str(value).replace("_", " ")


def _cases_table(labels: Sequence[str], cases: Sequence[CaseRecord]) -> Table:
    rows = [_pace(label, case) for label, case in zip(labels, cases, strict=True)]
    return Table("Cases", columns(_PACE), rows)


def _pace(label: str, case: CaseRecord) -> tuple[str, ...]:
    memory = _value(case, "largest_device_allocated") or _value(case, "largest_process")
    result = "ok" if case.status == "ok" else "out of memory" if case.out_of_memory else "failed"
    last = case.checkpoints[-1] if case.checkpoints else None
    return (
        label,
        f"{case.predictions}",
        MISSING if last is None else str(last.kept),
        quantity(_value(case, "forward_latency", "p50"), "ms"),
        quantity(_value(case, "forward_fps"), "fps"),
        quantity(_value(case, "end_to_end_fps"), "fps"),
        quantity(_value(case, "harness_overhead"), "%"),
        quantity(memory, "MiB"),
        _ratio(last),
        growth_statement(case),
        f"{result}, stopped" if case.stopped else result,
    )


def _growth_rows(labels: Sequence[str], cases: Sequence[CaseRecord]) -> list[tuple[str, ...]]:
    titles = {quantity.name: quantity.title for quantity in QUANTITIES}
    rows = []
    for label, case in zip(labels, cases, strict=True):
        for entry in case.growth:
            unit = "B" if entry.unit == "B" else "µs"
            expected = MISSING if entry.expected is None else number_text(entry.expected, "1")
            numbers: tuple[str, ...] = (MISSING, MISSING, MISSING)
            if entry.value is not None and entry.low is not None and entry.high is not None:
                numbers = tuple(number_text(value, "1") for value in (entry.value, entry.low, entry.high))
            rows.append((label, titles[entry.quantity], unit, *numbers, expected, str(entry.kept)))
    return rows


def _missing(labels: Sequence[str], cases: Sequence[CaseRecord]) -> tuple[str, ...]:
    """Why slopes are missing, each reason once."""
    titles = {quantity.name: quantity.title for quantity in QUANTITIES}
    gaps = reasons(
        (f"{label}: {titles[entry.quantity]}", entry.reason)
        for label, case in zip(labels, cases, strict=True)
        for entry in case.growth
    )
    return tuple(f"{MISSING}: {reason} ({'; '.join(where)})" for reason, where in gaps.items())


def _latency(label: str, case: CaseRecord) -> tuple[str, ...]:
    return (
        label,
        *(_or_reason(case, "latency", f"p{percent}", "ms") for percent in (50, 90, 99)),
        quantity(_value(case, "deadline_misses"), "frames"),
        quantity(_value(case, "deadline_miss_rate"), "%"),
        quantity(_value(case, "backlog", "largest"), "frames"),
        quantity(_value(case, "backlog", "last"), "frames"),
    )


def _checkpoint(point: CheckpointRecord) -> tuple[str, ...]:
    return (
        str(point.frames),
        str(point.kept),
        *(MISSING if value is None else number_text(value, "ms") for value in (point.forward_ms, point.interval_ms)),
        *(mebibytes(point.cache_bytes.get(kind)) for kind in KINDS),
        _ratio(point),
        mebibytes(point.cache_allocated_bytes),
        mebibytes(point.device_allocated_bytes),
        mebibytes(point.device_reserved_bytes),
        mebibytes(point.driver_bytes),
        mebibytes(point.process_bytes),
        MISSING if point.ate_m is None else number_text(point.ate_m, "m"),
    )


def _ratio(point: CheckpointRecord | None) -> str:
    if point is None or point.formula_bytes is None:
        return MISSING
    return f"{sum(point.cache_bytes.values()) / sum(point.formula_bytes.values()):.4f}"


def _value(case: CaseRecord, name: str, variant: str = "") -> float | None:
    return next((m.value for m in case.measurements if (m.name, m.variant) == (name, variant)), None)


def _or_reason(case: CaseRecord, name: str, variant: str, unit: str) -> str:
    for m in case.measurements:
        if (m.name, m.variant) == (name, variant):
            return quantity(m.value, unit) if m.value is not None else f"{MISSING}: {m.reason}"
    return MISSING


def _conventions(cases: Sequence[CaseRecord]) -> list[str]:
    lines = [f"growth: {CONVENTION}"] if any(case.growth for case in cases) else []
    lines += [f"{name.replace('_', ' ')}: {words}" for name, words in SCENARIOS.items() if _asked(cases, name)]
    for case in cases:
        lines += [f"{when}: {what}" for when, what in case.sampling.items()]
        lines += [f"{m.name.replace('_', ' ')}: {m.convention}" for m in case.measurements if m.variant in ("", "p50")]
    if any(point.formula_bytes for case in cases for point in case.checkpoints):
        lines.append("formula: cache bytes in view by model.md section 7, for the frames kept so far")
    lines.append("a stream cannot go on in its middle: a case that was cut was run again from its first frame")
    return list(dict.fromkeys(lines))


def _asked(cases: Sequence[CaseRecord], scenario: str) -> bool:
    return any(case.case.get("scenario") == scenario for case in cases)


def _machine(environment: dict[str, Any]) -> list[str]:
    libraries = environment.get("libraries", {})
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "flashinfer-python") if name in libraries)
    measured = f"Measured on {markdown_text(machine_name(environment))}; {markdown_text(versions)}"
    return [f"{measured}; all of it is in `scale.json`."]
