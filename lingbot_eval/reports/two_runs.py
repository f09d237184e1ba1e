"""Holds two stored runs against each other scene by scene, from their records alone, and says what is not comparable:
as a section of their report, and as the page of ``compare``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lingbot_eval.errors import ConfigError, DataError, StoreError, UnscorableError
from lingbot_eval.files.atomic import staged, write_text
from lingbot_eval.files.times import associate
from lingbot_eval.files.trajectories import TrajectoryFile, read_tum
from lingbot_eval.geometry.alignment import umeyama
from lingbot_eval.machine.environment import hardware, rests_on_hardware, section
from lingbot_eval.plots import save
from lingbot_eval.reports.agreement import (
    AGREEMENT_HEADER,
    AGREEMENT_LEGEND,
    Differences,
    Summary,
    TimeSeries,
    agreement_row,
    comparison_figure,
    missing,
    pose_differences,
    summarise,
)
from lingbot_eval.reports.reading import SAME_FRAME_S, Run, open_runs
from lingbot_eval.settings import differing, short
from lingbot_eval.stored.records import UnitRecord
from lingbot_eval.stored.store import StoredUnit
from lingbot_eval.stored.unit_files import ESTIMATE_FILE, Columns
from lingbot_eval.tables import MISSING, Table, columns, markdown_text, number_text, quantity, reasons
from lingbot_eval.types import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, NUMBERS = "compare.md", "compare.json"
ERROR_COLUMNS = (("position_error_m", "m"), ("rotation_error_deg", "deg"), ("depth_abs_rel", "1"))


@dataclass(frozen=True)
class MeasurementPair:
    """One measurement of both runs. reason: why there is no difference."""

    family: str
    name: str
    variant: str
    unit: str
    a: float | None
    b: float | None
    reason: str | None = None

    @property
    def difference(self) -> float | None:
        """B − A, where the two can be compared."""
        return None if self.reason is not None or self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, eq=False)
class UnitComparison:
    """One scene. methods: A's and B's. remarks: what differs in the input; settings: what differs in the methods.

    differences: of B's trajectory from A's, after the Sim(3) alignment of B to A, None where reason says why. scale: of
    that alignment. errors: |B − A| of the per-frame columns against the dataset's reference. times: A's and B's on
    the device, where they have any.
    """

    dataset: str
    scene: str
    methods: tuple[str, str]
    remarks: tuple[str, ...]
    settings: tuple[tuple[str, str, str], ...]
    same_hardware: bool
    measurements: tuple[MeasurementPair, ...] = ()
    differences: Differences | None = None
    scale: float | None = None
    reason: str | None = None
    errors: tuple[Summary, ...] = ()
    times: tuple[TimeSeries, ...] = ()

    @property
    def label(self) -> str:
        """``dataset / scene``, with the methods where they have two names or there may be more than one."""
        a, b = self.methods
        return f"{self.dataset} / {self.scene} · {a if a == b else f'{a} and {b}'}"


@dataclass(frozen=True, eq=False)
class RunComparison:
    """Two runs, A and B. paths, labels, names: of their directories, here, in their records. remarks: what differs
    between them as wholes. failures: units that have no scores in one of them."""

    paths: tuple[str, str]
    labels: tuple[str, str]
    names: tuple[str, str]
    untrained: tuple[str, ...]
    remarks: tuple[str, ...]
    failures: tuple[str, ...]
    units: tuple[UnitComparison, ...]


def compare_runs(a: Path, b: Path) -> RunComparison:
    """Hold the stored results of two run directories against each other; nothing is run.

    Scenes are paired by dataset, scene and method; where each run has one method, by dataset and scene. Raises
    StoreError for what is no run, ConfigError when the two have no scene in common.
    """
    first, second = open_runs([a, b], labels=("A", "B"))
    return compare_opened(first, second)


def compare_opened(a: Run, b: Run, tables: Mapping[Path, Columns] | None = None) -> RunComparison:
    """As `compare_runs`, of runs that were read; they are called by their labels. tables: of frames that were read, by
    the unit's folder."""
    runs = (a, b)
    pairs = _pairs(a, b)
    if not pairs and not _planned_in_common(a, b):
        scenes = [", ".join("/".join(names) for names in run.results.record.units[:6]) or "nothing" for run in runs]
        raise ConfigError(
            f"the two runs have no scene and method in common: {a.label} has {scenes[0]}; {b.label} has {scenes[1]}"
        )
    same_hardware = not differing(*(hardware(run.results.record.environment) for run in runs))
    return RunComparison(
        paths=(str(a.path), str(b.path)),
        labels=(a.label, b.label),
        names=(a.results.record.name, b.results.record.name),
        untrained=tuple(f"{run.label} {method}" for run in runs for method in run.results.untrained),
        remarks=_run_remarks(runs, same_hardware=same_hardware),
        failures=_failures(runs, pairs),
        units=tuple(_unit(runs, found, tables or {}, same_hardware=same_hardware) for found in pairs),
    )


def _pairs(a: Run, b: Run) -> list[tuple[StoredUnit, StoredUnit]]:
    single = _one_method_each(a, b)

    def key(unit: StoredUnit) -> tuple[str, ...]:
        record = unit.record
        return (record.dataset, record.scene) if single else (record.dataset, record.scene, record.method)

    others = {key(unit): unit for unit in b.results.units}
    return [(unit, others[key(unit)]) for unit in a.results.units if key(unit) in others]


def _one_method_each(a: Run, b: Run) -> bool:
    return all(len({names[2] for names in run.results.record.units if len(names) == 3}) == 1 for run in (a, b))


def _planned_in_common(a: Run, b: Run) -> bool:
    """Whether more results, or sound ones, could be compared."""
    length = 2 if _one_method_each(a, b) else 3
    planned = [{tuple(names[:length]) for names in run.results.record.units} for run in (a, b)]
    return not planned[0].isdisjoint(planned[1])


def _unit(
    runs: tuple[Run, Run],
    pair: tuple[StoredUnit, StoredUnit],
    known: Mapping[Path, Columns],
    *,
    same_hardware: bool,
) -> UnitComparison:
    a, b = (unit.record for unit in pair)
    labels = (runs[0].label, runs[1].label)
    settings = differing(a.method_facts, b.method_facts)
    common: dict[str, Any] = {
        "dataset": a.dataset,
        "scene": a.scene,
        "methods": (a.method, b.method),
        "remarks": _input_remarks(a, b, labels),
        "settings": tuple((key, short(one), short(other)) for key, (one, other) in settings.items()),
        "same_hardware": same_hardware,
    }
    for name, record in zip(labels, (a, b), strict=True):
        if record.status == "failed":
            return UnitComparison(**common, reason=f"{name} failed: {record.reason}")
    common["measurements"] = _measurements(a, b, labels, same_hardware=same_hardware)
    try:
        tables = [
            known[unit.folder] if unit.folder in known else run.store.read_columns(unit)
            for run, unit in zip(runs, pair, strict=True)
        ]
        common["errors"] = _errors(*tables)
        common["times"] = tuple(
            TimeSeries(label, table["index"].astype(np.float64), table["forward_ms"])
            for label, table in zip(labels, tables, strict=True)
            if np.isfinite(table["forward_ms"]).any()
        )
        differences, scale = _trajectories(*(_estimate(unit) for unit in pair), table=tables[0])
        return UnitComparison(**common, differences=differences, scale=scale)
    except (UnscorableError, StoreError, DataError) as error:
        return UnitComparison(**common, reason=str(error))


def _trajectories(a: TrajectoryFile, b: TrajectoryFile, *, table: Columns) -> tuple[Differences, float]:
    """B against A after Sim(3); frames are told by their timestamps. Raises UnscorableError."""
    times_a, times_b = a.timestamps, b.timestamps
    in_a, in_b = associate(times_a, times_b, SAME_FRAME_S)
    rows, in_pairs = associate(table["timestamp"], times_a[in_a], SAME_FRAME_S)
    in_a, in_b = in_a[in_pairs], in_b[in_pairs]
    if len(in_a) < 3:
        raise UnscorableError(f"the trajectories have {len(in_a)} timestamps in common, an alignment needs 3")
    poses_a, poses_b = a.camera_to_world[in_a], b.camera_to_world[in_b]
    move = umeyama(poses_b[:, :3, 3], poses_a[:, :3, 3], with_scale=True)
    rotation, position = pose_differences(move.apply_poses(poses_b), poses_a)
    if not (a.has_orientation and b.has_orientation):
        rotation = np.full(len(rotation), np.nan)
    return Differences(table["index"][rows], rotation, position), move.scale


def _estimate(unit: StoredUnit) -> TrajectoryFile:
    path = unit.file(ESTIMATE_FILE)
    if path is None:
        raise UnscorableError(f"no trajectory is stored in {unit.folder}")
    return read_tum(path)


def _errors(a: Columns, b: Columns) -> tuple[Summary, ...]:
    """|B − A| of what both tables have, frame by frame."""
    indices, in_a, in_b = np.intersect1d(a["index"], b["index"], return_indices=True)
    found = []
    for column, unit in ERROR_COLUMNS:
        values = np.abs(b[column][in_b] - a[column][in_a])
        if np.isfinite(values).any():
            found.append(summarise(column, unit, indices, values))
    return tuple(found)


def _measurements(
    a: UnitRecord, b: UnitRecord, labels: tuple[str, str], *, same_hardware: bool
) -> tuple[MeasurementPair, ...]:
    def key(measurement: Measurement) -> tuple[str, str, str]:
        return measurement.family, measurement.name, measurement.variant

    first, second = ({key(m): m for m in record.measurements} for record in (a, b))
    pairs = []
    for names in dict.fromkeys((*first, *second)):
        one, other = first.get(names), second.get(names)
        known = one or other
        if known is None:
            continue
        pairs.append(
            MeasurementPair(
                *names,
                unit=known.unit,
                a=one.value if one else None,
                b=other.value if other else None,
                reason=_why_no_difference(one, other, labels, same_hardware=same_hardware)
                or _disturbed(known, (a, b), labels),
            )
        )
    return tuple(pairs)


def _why_no_difference(
    a: Measurement | None, b: Measurement | None, labels: tuple[str, str], *, same_hardware: bool
) -> str | None:
    if a is None or b is None:
        return f"not measured in {labels[0] if a is None else labels[1]}"
    for label, measurement in zip(labels, (a, b), strict=True):
        if measurement.reason is not None:
            return f"{label}: {measurement.reason}"
    if a.unit != b.unit:
        return f"units differ: {labels[0]} in {a.unit}, {labels[1]} in {b.unit}"
    if a.convention != b.convention:
        return f"conventions differ: {labels[0]}: {a.convention}; {labels[1]}: {b.convention}"
    if rests_on_hardware(a.family, a.name) and not same_hardware:
        return "different hardware"
    return None


def _disturbed(measured: Measurement, records: tuple[UnitRecord, UnitRecord], labels: tuple[str, str]) -> str | None:
    """Why one of two times is not of the machine alone."""
    found = [f"{label}: {x.disturbed}" for label, x in zip(labels, records, strict=True) if x.disturbed]
    return "; ".join(found) if found and rests_on_hardware(measured.family, measured.name) else None


def _input_remarks(a: UnitRecord, b: UnitRecord, labels: tuple[str, str]) -> tuple[str, ...]:
    remarks = [f"input: {line}" for line in _differences((a.sequence, b.sequence), labels)]
    if not remarks and a.input_fingerprint != b.input_fingerprint:
        remarks.append("input: the files differ in name, size or time of change; are they the same data?")
    if a.predictions != b.predictions:
        found = (f"{label} {x.predictions} of {x.frames} frames" for label, x in zip(labels, (a, b), strict=True))
        remarks.append(f"predictions: {', '.join(found)}")
    return tuple(remarks)


def _run_remarks(runs: tuple[Run, Run], *, same_hardware: bool) -> tuple[str, ...]:
    a, b = (run.results.record for run in runs)
    labels = (runs[0].label, runs[1].label)
    environments = (a.environment, b.environment)
    remarks = []
    if not same_hardware:
        found = "; ".join(_differences([hardware(each) for each in environments], labels))
        remarks.append(f"different hardware, so times and memory are not compared: {found}")
    for method in sorted(a.weights.keys() & b.weights.keys()):
        if a.weights[method] != b.weights[method]:
            found = f"{labels[0]} {a.weights[method]}, {labels[1]} {b.weights[method]}"
            remarks.append(f"different weights of {method}: {found}")
    remarks += _differences([section(each, "libraries") for each in environments], labels)
    unchecked = [(run.label, run.results.unchecked) for run in runs if run.results.unchecked]
    remarks += [f"{label} was not checked for damage: {reason}" for label, reason in unchecked]
    remarks += _differences([{"code": each.get("git")} for each in environments], labels)
    return (*remarks, "times were taken in two runs, not in turn: compare backends by name for that")


def _failures(runs: tuple[Run, Run], pairs: list[tuple[StoredUnit, StoredUnit]]) -> tuple[str, ...]:
    """What has no scores in one of the runs, or no counterpart in the other."""
    lines = []
    for run, position in zip(runs, (0, 1), strict=True):
        paired = {pair[position].folder for pair in pairs}
        for unit in run.results.units:
            names = f"{run.label} {unit.record.dataset}/{unit.record.scene}/{unit.record.method}"
            if unit.folder not in paired:
                lines.append(f"{names}: no counterpart in the other run")
            elif unit.record.status == "failed":
                lines.append(f"{names}: failed: {unit.record.reason}")
        lines += [f"{run.label}: left out: {reason}" for reason in run.results.left_out]
        lines += [f"{run.label} {'/'.join(names)}: no result yet" for names in run.results.gaps]
    return tuple(lines)


def _differences(of: Sequence[Mapping[str, Any]], labels: tuple[str, str]) -> list[str]:
    (a, b), found = labels, differing(*of)
    return [f"{key}: {a} {short(one)}, {b} {short(other)}" for key, (one, other) in found.items()]


def title(found: RunComparison) -> str:
    """What was compared, with a word on untrained weights."""
    (a, b), (name_a, name_b) = found.labels, found.names
    return f"Run {b} ({name_b}) against run {a} ({name_a}){_untrained(found)}"


def tables(found: RunComparison) -> tuple[Table, ...]:
    """Agreement of all scenes, then for each scene what differs in the settings, and the measurements."""
    details = (
        table
        for unit in found.units
        for table in (_settings_table(found, unit), _measurements_table(found, unit))
        if table.rows
    )
    return _agreement_table(found), *details


def page(found: RunComparison, figures: Mapping[int, str]) -> str:
    """The whole page; figures: position of the unit → file name beside the page."""
    lines = [
        f"# {markdown_text(title(found))}",
        "",
        *(f"- {label}: {markdown_text(path)}" for label, path in zip(found.labels, found.paths, strict=True)),
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
        "a": found.paths[0],
        "b": found.paths[1],
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


def _agreement_table(found: RunComparison) -> Table:
    a, b = found.labels
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
        f"{unit.label}: {b} was scaled by {number_text(unit.scale, '1')}"
        for unit in found.units
        if unit.scale is not None
    ]
    legend = (
        *AGREEMENT_LEGEND,
        f"rotation and position after the Sim(3) alignment of {b} to {a}; position relative to the extent of {a}; a "
        "column named as in frames.csv: absolute difference of that error against the dataset's reference",
        *scales,
        *missing(summaries),
    )
    return Table(f"Agreement{_untrained(found)}", columns(header, left=2), rows, legend=legend)


def _settings_table(found: RunComparison, unit: UnitComparison) -> Table:
    return Table(
        f"Settings that differ: {unit.label}{_untrained(found)}",
        columns(("setting", *found.labels), left=3),
        unit.settings,
    )


def _measurements_table(found: RunComparison, unit: UnitComparison) -> Table:
    a, b = found.labels
    header = ("family", "measurement", a, b, f"{b} − {a}", "relative")
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


def figure_of(found: RunComparison, unit: UnitComparison) -> Figure | None:
    """Agreement and time along the sequence of one scene; None where it has none."""
    if unit.differences is None:
        return None
    a, b = found.labels
    return comparison_figure(
        f"{title(found)}: {unit.label}",
        [(f"{b} after alignment to {a}", unit.differences)],
        unit.times,
        "Time of each frame on the device, as stored" + ("" if unit.same_hardware else " (different hardware)"),
    )


def write_runs(found: RunComparison, out: Path) -> tuple[Path, ...]:
    """Page, numbers, and one figure for each scene that can be compared. Raises StoreError."""
    figures: dict[int, str] = {}
    with staged(out) as stage:
        for position, unit in enumerate(found.units):
            if (figure := figure_of(found, unit)) is not None:
                figures[position] = f"compare-{position + 1:03d}.png"
                save(figure, stage / figures[position])
        write_text(stage / NUMBERS, json.dumps(document(found), indent=2, allow_nan=False) + "\n")
        write_text(stage / PAGE, page(found, figures))
    return out / PAGE, *(out / name for name in figures.values()), out / NUMBERS
