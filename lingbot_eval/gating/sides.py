"""What is held against what: the stored results of one or more runs of the same thing, as plain values.

Of timed frames all of a short scene are kept, and stretches spread over a long one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict

from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.machine.environment import hardware, rests_on_hardware
from lingbot_eval.statistics import BLOCK_FRAMES
from lingbot_eval.stored.lock import writer_of
from lingbot_eval.stored.records import RunRecord
from lingbot_eval.stored.store import RUN_FILE, RunStore, StoredUnit, find_runs
from lingbot_eval.types import Direction, FloatArray

if TYPE_CHECKING:
    import pandas as pd


Names = tuple[str, str, str]
"""Dataset, scene, method."""

Family = Literal["accuracy", "speed", "memory"]
FAMILIES: tuple[Family, ...] = ("accuracy", "speed", "memory")


def metric_id(family: str, name: str, variant: str) -> str:
    """``trajectory/ate_rmse/sim3``; without the last part where there is one variant only."""
    return "/".join(part for part in (family, name, variant) if part)


def family_of(metric: str) -> Family:
    """Which verdict a metric belongs to."""
    group = metric.partition("/")[0]
    return "speed" if group == "throughput" else "memory" if group == "memory" else "accuracy"


# Metrics with raw samples: column of frames.csv. Their values are medians over the step frames.
SAMPLED: Mapping[str, str] = {
    metric_id("throughput", "forward_latency", "p50"): "forward_ms",
    metric_id("throughput", "end_to_end_interval", "p50"): "interval_ms",
}


@dataclass(frozen=True)
class Meaning:
    """What a number means: its unit, its convention, and which way is better. A baseline stores it as it is."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    unit: str
    convention: str
    better: Direction | None = None


@dataclass(frozen=True, eq=False)
class SideUnit:
    """One method on one scene.

    failure: why it has no scores; None when it has. values and reasons: by metric, each metric in one of them (a
    reason is why there is no number). rounds: of the metrics in SAMPLED, (N,) milliseconds a round, N as of
    `round_of`. input, settings: facts of the sequence and of the method, as the run recorded them. notes: what the
    run says of the numbers, a sentence each.
    """

    failure: str | None
    values: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, Meaning] = field(default_factory=dict)
    rounds: Mapping[str, tuple[FloatArray, ...]] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Side:
    """One or more runs of the same thing, or what a baseline kept of them.

    gaps: units without a readable result, and why. code: key of the run, package version, state of the checkout.
    problems: one line for each unit that is there and left out, and where nothing could be checked for damage.
    started: of each run, ISO 8601.
    """

    name: str
    units: Mapping[Names, SideUnit]
    gaps: Mapping[Names, str]
    environment: Mapping[str, Any]
    code: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    started: tuple[str, ...] = ()


MOST_BLOCKS = 48
"""Stretches of BLOCK_FRAMES frames kept of a round: enough for a test, in a file that one can still read."""
DIGITS = 4


def round_of(frames: pd.DataFrame, column: str) -> FloatArray | None:
    """(N,) milliseconds of the step frames of one pass, thinned; None where the method told none.

    Scale frames enter together and the first output has the start-up in it: neither is the pace. N depends only on
    the number of frames, so repeats keep the same ones.
    """
    steps = (frames["frame_type"] != "scale").to_numpy() & (np.arange(len(frames)) > 0)
    times = frames[column].to_numpy(np.float64)[steps]
    if not np.isfinite(times).any():
        return None
    return thinned(times)


def thinned(times: FloatArray) -> FloatArray:
    """``times``, or of more than MOST_BLOCKS blocks that many, evenly spread from the first to the last."""
    blocks = len(times) // BLOCK_FRAMES
    if blocks <= MOST_BLOCKS:
        return times
    chosen = np.linspace(0, blocks - 1, MOST_BLOCKS).round().astype(np.int64)
    kept: FloatArray = times[: blocks * BLOCK_FRAMES].reshape(blocks, BLOCK_FRAMES)[chosen].ravel()
    return kept


def to_text(times: FloatArray) -> str:
    """One line of numbers with four significant digits."""
    return " ".join(f"{time:.{DIGITS}g}" for time in times)


def from_text(text: str) -> FloatArray:
    """The numbers of a line. Raises ValueError for anything else, and for what is no duration."""
    times = np.array([float(word) for word in text.split()], dtype=np.float64)
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError("expected durations in milliseconds")
    return times


def run_directories(given: Sequence[Path]) -> tuple[Path, ...]:
    """Each path itself where it is a run, else the runs directly in it. Raises ConfigError where there are none."""
    found: list[Path] = []
    for path in given:
        inside = (path,) if (path / RUN_FILE).is_file() else find_runs(path)
        if not inside:
            what = "a folder without either" if path.is_dir() else "no such folder"
            raise ConfigError(
                f"expected a run directory (with {RUN_FILE}) or a folder of repeats of one run, found {what}: {path}; "
                "start one with: lingbot-eval run"
            )
        found += inside
    return tuple(dict.fromkeys(found))


def read_runs(paths: Sequence[Path]) -> Side:
    """Repeats of one run as one side: values are medians over them, timings stay apart.

    Raises StoreError for a run that is still being written, holds no results at all or whose ``run.json`` is damaged,
    ConfigError for runs that are not repeats of each other.
    """
    read = [_read(path) for path in paths]
    _refuse_strangers(paths, [record for record, *_ in read])
    read.sort(key=lambda entry: entry[0].started)
    first = read[0][0]
    units: dict[Names, SideUnit] = {}
    gaps: dict[Names, str] = {}
    for _, _, missing, _ in read:
        gaps.update(missing)
    for names in dict.fromkeys(names for _, found, *_ in read for names in found):
        repeats = [found[names] for _, found, *_ in read if names in found]
        if names not in gaps:
            units[names] = _merged(repeats)
    return Side(
        name=", ".join(str(path) for path in paths),
        units=units,
        gaps=gaps,
        environment=first.environment,
        code={
            "run": first.name,
            "key": first.key,
            "lingbot_eval": first.environment.get("lingbot_eval", "unknown"),
            "git": first.environment.get("git", "unknown"),
        },
        problems=tuple(dict.fromkeys(line for *_, lines in read for line in lines)),
        started=tuple(record.started for record, *_ in read),
    )


def _read(path: Path) -> tuple[RunRecord, dict[Names, SideUnit], dict[Names, str], list[str]]:
    """The record, whole units, what is missing or left out by name, and a line for each that is left out."""
    writer = writer_of(path)
    if writer is not None:
        raise StoreError(f"run {path} is still being written by {writer}; wait until it ends, then gate it")
    store = RunStore.open(path)
    record, stored = store.read_run(), store.read_units()
    if not stored.units and not stored.left_out:
        raise StoreError(f"run {path} is empty: expected results of {len(record.units)} scenes, found none; run it")
    reasons = {unit.folder: f"left out: {unit.reason}" for unit in stored.left_out}
    gaps = {
        (dataset, scene, method): reasons.get(
            store.folder(dataset, scene, method), "there is no result: the run did not get to it"
        )
        for dataset, scene, method in stored.missing
    }
    units: dict[Names, SideUnit] = {}
    problems = [*reasons.values()]
    if stored.unchecked:
        problems.append(f"run {path} could not be checked for damage: {stored.unchecked}")
    for unit in stored.units:
        names = (unit.record.dataset, unit.record.scene, unit.record.method)
        try:
            units[names] = _unit(store, unit)
        except StoreError as error:
            gaps[names] = f"left out: {error}"
            problems.append(gaps[names])
    return record, units, gaps, problems


def _unit(store: RunStore, unit: StoredUnit) -> SideUnit:
    record = unit.record
    if record.status == "failed":
        where = f" in stage {record.stage}" if record.stage else ""
        frame = f" at frame {record.failed_at_frame}" if record.failed_at_frame is not None else ""
        return SideUnit(failure=f"failed{where}{frame}: {record.reason or 'no reason was stored'}")
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    meanings: dict[str, Meaning] = {}
    for measured in record.measurements:
        metric = metric_id(measured.family, measured.name, measured.variant)
        meanings[metric] = Meaning(measured.unit, measured.convention, measured.better)
        if measured.value is None:
            reasons[metric] = measured.reason or "no reason was stored"
        elif record.disturbed is not None and rests_on_hardware(measured.family, measured.name):
            reasons[metric] = record.disturbed
        else:
            values[metric] = measured.value
    rounds: dict[str, tuple[FloatArray, ...]] = {}
    if any(metric in values for metric in SAMPLED):
        frames = store.read_table(unit)
        for metric, column in SAMPLED.items():
            times = round_of(frames, column) if metric in values else None
            if times is not None:
                rounds[metric] = (times,)
    return SideUnit(None, values, reasons, meanings, rounds, record.sequence, record.method_facts, record.remarks)


def _merged(repeats: Sequence[SideUnit]) -> SideUnit:
    """Several passes over one scene. A failure of one of them is the result: it might be the next one's."""
    failed = [unit for unit in repeats if unit.failure is not None]
    if failed or len(repeats) == 1:
        return (failed or list(repeats))[0]
    first = repeats[0]
    # What one of them could not tell has its reason, not the others' median.
    reasons = {metric: reason for unit in reversed(repeats) for metric, reason in unit.reasons.items()}
    return SideUnit(
        failure=None,
        values={
            metric: float(np.median([unit.values[metric] for unit in repeats]))
            for metric in first.values
            if all(metric in unit.values for unit in repeats)
        },
        reasons=reasons,
        meanings={metric: meaning for unit in reversed(repeats) for metric, meaning in unit.meanings.items()},
        rounds={
            metric: tuple(times for unit in repeats for times in unit.rounds.get(metric, ())) for metric in first.rounds
        },
        input=first.input,
        settings=first.settings,
        notes=tuple(dict.fromkeys(note for unit in repeats for note in unit.notes)),
    )


def _refuse_strangers(paths: Sequence[Path], records: Sequence[RunRecord]) -> None:
    """Repeats are of one experiment, checkpoint and code (which the run's key holds), on one machine."""
    for path, record in zip(paths[1:], records[1:], strict=True):
        if record.key != records[0].key:
            raise ConfigError(
                f"expected repeats of one run, found {paths[0]} (key {records[0].key[:12]}) and {path} "
                f"(key {record.key[:12]}), which differ in experiment, checkpoint or code; gate them one by one"
            )
        one, other = hardware(records[0].environment), hardware(record.environment)
        if one != other:
            first, second = (json.dumps(facts, ensure_ascii=False) for facts in (one, other))
            raise ConfigError(f"expected repeats on one machine, found {first} in {paths[0]} and {second} in {path}")
