"""Compares two stored runs scene by scene, from their records alone, and says what is not comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lingbot_eval.comparison.agreement import Differences, Summary, pose_differences, summarise
from lingbot_eval.errors import ConfigError, DataError, StoreError, UnscorableError
from lingbot_eval.files.association import associate
from lingbot_eval.files.trajectories import TrajectoryFile, read_tum
from lingbot_eval.geometry.alignment import umeyama
from lingbot_eval.machine.environment import hardware, rests_on_hardware, section
from lingbot_eval.runs.records import RunRecord, UnitRecord, is_untrained
from lingbot_eval.runs.store import RunStore, StoredUnit, StoredUnits
from lingbot_eval.runs.unit_writer import ESTIMATE_FILE
from lingbot_eval.settings import differing, short
from lingbot_eval.types import FloatArray, Measurement

if TYPE_CHECKING:
    import pandas as pd

SAME_FRAME_S = 1e-6
"""Both files carry the frames' own timestamps, with all their digits."""
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
class StoredTimes:
    """Milliseconds on the device (N,) of frames (N,), NaN where none were stored."""

    frames: FloatArray
    milliseconds: FloatArray


NO_TIMES = StoredTimes(np.empty(0), np.empty(0))


@dataclass(frozen=True, eq=False)
class UnitComparison:
    """One scene. methods: A's and B's. remarks: what differs in the input; settings: what differs in the methods.

    differences: of B's trajectory from A's, after the Sim(3) alignment of B to A, None where reason says why. scale: of
    that alignment. errors: |B − A| of the per-frame columns against the dataset's reference.
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
    times: tuple[StoredTimes, StoredTimes] = (NO_TIMES, NO_TIMES)

    @property
    def label(self) -> str:
        """``dataset / scene``, with the methods where they have two names or there may be more than one."""
        a, b = self.methods
        return f"{self.dataset} / {self.scene} · {a if a == b else f'{a} and {b}'}"


@dataclass(frozen=True, eq=False)
class RunComparison:
    """Two runs. remarks: what differs between them as wholes. failures: units that have no scores in one of them."""

    a: str
    b: str
    names: tuple[str, str]
    untrained: tuple[str, ...]
    remarks: tuple[str, ...]
    failures: tuple[str, ...]
    units: tuple[UnitComparison, ...]


@dataclass(frozen=True)
class _Run:
    """A run as it is stored."""

    name: str
    store: RunStore
    record: RunRecord
    stored: StoredUnits

    def methods(self) -> set[str]:
        return {names[2] for names in self.record.units if len(names) == 3}


def compare_runs(a: Path, b: Path) -> RunComparison:
    """Hold the stored results of two run directories against each other; nothing is run.

    Scenes are paired by dataset, scene and method; where each run has one method, by dataset and scene. Raises
    StoreError for what is no run, ConfigError when the two have no scene in common.
    """
    runs = (_read("A", a), _read("B", b))
    pairs = _pairs(*runs)
    if not pairs and not _planned_in_common(*runs):
        scenes = [", ".join("/".join(names) for names in run.record.units[:6]) or "nothing" for run in runs]
        raise ConfigError(f"the two runs have no scene and method in common: A has {scenes[0]}; B has {scenes[1]}")
    same_hardware = not differing(*(hardware(run.record.environment) for run in runs))
    units = [_unit(runs, found, same_hardware=same_hardware) for found in pairs]
    untrained = [
        f"{run.name} {method}"
        for run in runs
        for method, weights in run.record.weights.items()
        if is_untrained(weights)
    ]
    return RunComparison(
        a=str(a),
        b=str(b),
        names=(runs[0].record.name, runs[1].record.name),
        untrained=tuple(untrained),
        remarks=_run_remarks(runs, same_hardware=same_hardware),
        failures=_failures(runs, pairs),
        units=tuple(units),
    )


def _read(name: str, path: Path) -> _Run:
    store = RunStore.open(path)
    return _Run(name, store, store.read_run(), store.read_units())


def _pairs(a: _Run, b: _Run) -> list[tuple[StoredUnit, StoredUnit]]:
    single = len(a.methods()) == 1 == len(b.methods())

    def key(unit: StoredUnit) -> tuple[str, ...]:
        record = unit.record
        return (record.dataset, record.scene) if single else (record.dataset, record.scene, record.method)

    others = {key(unit): unit for unit in b.stored.units}
    return [(unit, others[key(unit)]) for unit in a.stored.units if key(unit) in others]


def _planned_in_common(a: _Run, b: _Run) -> bool:
    """Whether more results, or sound ones, could be compared."""
    length = 2 if len(a.methods()) == 1 == len(b.methods()) else 3
    return not {tuple(names[:length]) for names in a.record.units}.isdisjoint(
        tuple(names[:length]) for names in b.record.units
    )


def _unit(runs: tuple[_Run, _Run], pair: tuple[StoredUnit, StoredUnit], *, same_hardware: bool) -> UnitComparison:
    a, b = (unit.record for unit in pair)
    settings = differing(a.method_facts, b.method_facts)
    common: dict[str, Any] = {
        "dataset": a.dataset,
        "scene": a.scene,
        "methods": (a.method, b.method),
        "remarks": _input_remarks(a, b),
        "settings": tuple((key, short(one), short(other)) for key, (one, other) in settings.items()),
        "same_hardware": same_hardware,
    }
    for name, record in (("A", a), ("B", b)):
        if record.status == "failed":
            return UnitComparison(**common, reason=f"{name} failed: {record.reason}")
    common["measurements"] = _measurements(a, b, same_hardware=same_hardware)
    try:
        tables = [run.store.read_frames(unit) for run, unit in zip(runs, pair, strict=True)]
        common["errors"] = _errors(*tables)
        common["times"] = tuple(_times(table) for table in tables)
        differences, scale = _trajectories(*(_estimate(unit) for unit in pair), table=tables[0])
        return UnitComparison(**common, differences=differences, scale=scale)
    except (UnscorableError, StoreError, DataError) as error:
        return UnitComparison(**common, reason=str(error))


def _trajectories(a: TrajectoryFile, b: TrajectoryFile, *, table: pd.DataFrame) -> tuple[Differences, float]:
    """B against A after Sim(3); frames are told by their timestamps. Raises UnscorableError."""
    times_a, times_b = a.timestamps, b.timestamps
    in_a, in_b = associate(times_a, times_b, SAME_FRAME_S)
    rows, in_pairs = associate(table["timestamp"].to_numpy(np.float64), times_a[in_a], SAME_FRAME_S)
    in_a, in_b = in_a[in_pairs], in_b[in_pairs]
    if len(in_a) < 3:
        raise UnscorableError(f"the trajectories have {len(in_a)} timestamps in common, an alignment needs 3")
    poses_a, poses_b = a.camera_to_world[in_a], b.camera_to_world[in_b]
    move = umeyama(poses_b[:, :3, 3], poses_a[:, :3, 3], with_scale=True)
    rotation, position = pose_differences(move.apply_poses(poses_b), poses_a)
    if not (a.has_orientation and b.has_orientation):
        rotation = np.full(len(rotation), np.nan)
    return Differences(table["index"].to_numpy(np.int64)[rows], rotation, position), move.scale


def _estimate(unit: StoredUnit) -> TrajectoryFile:
    path = unit.file(ESTIMATE_FILE)
    if path is None:
        raise UnscorableError(f"no trajectory is stored in {unit.folder}")
    return read_tum(path)


def _errors(a: pd.DataFrame, b: pd.DataFrame) -> tuple[Summary, ...]:
    """|B − A| of what both tables have, frame by frame."""
    merged = a.merge(b, on="index", suffixes=("_a", "_b"))
    indices = merged["index"].to_numpy(np.int64)
    found = []
    for column, unit in ERROR_COLUMNS:
        values = np.abs(merged[f"{column}_b"].to_numpy(np.float64) - merged[f"{column}_a"].to_numpy(np.float64))
        if np.isfinite(values).any():
            found.append(summarise(column, unit, indices, values))
    return tuple(found)


def _times(table: pd.DataFrame) -> StoredTimes:
    return StoredTimes(table["index"].to_numpy(np.float64), table["forward_ms"].to_numpy(np.float64))


def _measurements(a: UnitRecord, b: UnitRecord, *, same_hardware: bool) -> tuple[MeasurementPair, ...]:
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
                reason=_why_no_difference(one, other, same_hardware=same_hardware),
            )
        )
    return tuple(pairs)


def _why_no_difference(a: Measurement | None, b: Measurement | None, *, same_hardware: bool) -> str | None:
    if a is None or b is None:
        return f"not measured in {'A' if a is None else 'B'}"
    for name, measurement in (("A", a), ("B", b)):
        if measurement.reason is not None:
            return f"{name}: {measurement.reason}"
    if a.unit != b.unit:
        return f"units differ: A in {a.unit}, B in {b.unit}"
    if a.convention != b.convention:
        return f"conventions differ: A: {a.convention}; B: {b.convention}"
    if rests_on_hardware(a.family, a.name) and not same_hardware:
        return "different hardware"
    return None


def _input_remarks(a: UnitRecord, b: UnitRecord) -> tuple[str, ...]:
    remarks = [f"input: {line}" for line in _differences(a.sequence, b.sequence)]
    if not remarks and a.input_fingerprint != b.input_fingerprint:
        remarks.append("input: the files differ in name, size or time of change; are they the same data?")
    if a.predictions != b.predictions:
        remarks.append(f"predictions: A {a.predictions} of {a.frames} frames, B {b.predictions} of {b.frames}")
    return tuple(remarks)


def _run_remarks(runs: tuple[_Run, _Run], *, same_hardware: bool) -> tuple[str, ...]:
    a, b = (run.record for run in runs)
    remarks = []
    if not same_hardware:
        found = "; ".join(_differences(hardware(a.environment), hardware(b.environment)))
        remarks.append(f"different hardware, so times and memory are not compared: {found}")
    for method in sorted(a.weights.keys() & b.weights.keys()):
        if a.weights[method] != b.weights[method]:
            remarks.append(f"different weights of {method}: A {a.weights[method]}, B {b.weights[method]}")
    remarks += _differences(*(section(record.environment, "libraries") for record in (a, b)))
    remarks += [
        f"{run.name} was not checked for damage: {run.stored.unchecked}" for run in runs if run.stored.unchecked
    ]
    remarks += _differences(*({"code": record.environment.get("git")} for record in (a, b)))
    return (*remarks, "times were taken in two runs, not in turn: compare backends by name for that")


def _failures(runs: tuple[_Run, _Run], pairs: list[tuple[StoredUnit, StoredUnit]]) -> tuple[str, ...]:
    """What has no scores in one of the runs, or no counterpart in the other."""
    lines = []
    for run, position in zip(runs, (0, 1), strict=True):
        paired = {pair[position].folder for pair in pairs}
        for unit in run.stored.units:
            names = f"{run.name} {unit.record.dataset}/{unit.record.scene}/{unit.record.method}"
            if unit.folder not in paired:
                lines.append(f"{names}: no counterpart in the other run")
            elif unit.record.status == "failed":
                lines.append(f"{names}: failed: {unit.record.reason}")
        lines += [f"{run.name}: left out: {unit.reason}" for unit in run.stored.left_out]
        lines += [f"{run.name} {'/'.join(names)}: no result yet" for names in run.stored.missing]
    return tuple(lines)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [f"{key}: A {short(one)}, B {short(other)}" for key, (one, other) in differing(a, b).items()]
