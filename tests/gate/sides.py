"""Builds sides, and runs on disk, for the tests of the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lingbot_eval.gating.sides import Meaning, Names, Side, SideUnit
from lingbot_eval.stored.records import HostRecord, RunRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import FloatArray, FrameType, Measurement
from tests.stored.store_records import make_run_record, make_unit_record

NAMES: Names = ("tum", "desk", "lingbot")
ATE, AUC = "trajectory/ate_rmse/sim3", "auc/auc_30"
LATENCY, RSS, WEIGHTS = "throughput/forward_latency/p50", "memory/process_rss", "memory/weights"
UNITS = {ATE: "m", AUC: "%", LATENCY: "ms", RSS: "MiB", WEIGHTS: "MiB"}
VALUES = {ATE: 0.5, AUC: 60.0, LATENCY: 50.0, RSS: 900.0, WEIGHTS: 24.0}
MACHINE: dict[str, Any] = {
    "lingbot_eval": "0.1.0",
    "git": "not a git checkout",
    "python": "3.11.7",
    "cpu_model": "made up",
    "cpu_usable": 2,
    "libraries": {"torch": "2.13.0"},
    "torch": {"threads": 2, "float32_matmul_precision": "highest", "gpus": []},
    "variables": {},
}
SETTINGS = {"device": "cpu", "precision": "float32", "streaming": {"window": 16}, "checkpoint_sha256": "ab"}
INPUT = {"source": "a file", "selection": {"stride": 1}}


def rounds(count: int, seed: int, factor: float = 1.0, frames: int = 64) -> tuple[FloatArray, ...]:
    """Quiet rounds: 1 % from round to round, 2 % from frame to frame."""
    generator = np.random.default_rng(seed)
    return tuple(
        50.0 * factor * np.exp(generator.normal(0, 0.01) + generator.normal(0, 0.02, frames)) for _ in range(count)
    )


def unit(values: dict[str, float] | None = None, **changes: Any) -> SideUnit:
    values = VALUES if values is None else values
    fields: dict[str, Any] = {
        "failure": None,
        "values": values,
        "meanings": {metric: Meaning(UNITS.get(metric, "1"), f"convention of {metric}") for metric in values},
        "rounds": {LATENCY: rounds(10, 0)},
        "input": INPUT,
        "settings": SETTINGS,
    }
    return SideUnit(**(fields | changes))


def side(units: dict[Names, SideUnit] | None = None, **changes: Any) -> Side:
    fields: dict[str, Any] = {
        "name": "made up",
        "units": {NAMES: unit()} if units is None else units,
        "gaps": {},
        "environment": MACHINE,
        "code": {"run": "made up", "key": "k", "lingbot_eval": "0.1.0", "git": "unknown"},
    }
    return Side(**(fields | changes))


def write_run(
    root: Path,
    values: dict[str, float] | None = None,
    scenes: tuple[str, ...] = ("desk",),
    step_ms: FloatArray | None = None,
    host: HostRecord | None = None,
    **record: Any,
) -> Path:
    """A stored run of one method over ``scenes``, written as runs are; returns its directory. host: where units ran."""
    names = [("tum", scene, "lingbot") for scene in scenes]
    run: RunRecord = make_run_record(units=[list(each) for each in names], environment=MACHINE, **record)
    store = RunStore.create(root, run)
    times = rounds(1, 7)[0] if step_ms is None else step_ms
    with store.lock():
        for each in names:
            write_unit(store, each, VALUES if values is None else values, times, host)
        store.write_run(run.model_copy(update={"status": "complete"}))
    return store.path


def write_unit(
    store: RunStore, names: Names, values: dict[str, float], step_ms: FloatArray, host: HostRecord | None = None
) -> None:
    measurements = []
    for metric, value in values.items():
        family, name, *variant = metric.split("/")
        measurements.append(
            Measurement(
                family=family,
                name=name,
                variant="".join(variant),
                value=value,
                unit=UNITS.get(metric, "1"),
                convention=f"convention of {metric}",
            )
        )
    with store.unit_writer(*names) as writer:
        writer.append_row({"index": 0, "timestamp": 0.0, "frame_type": FrameType.SCALE, "forward_ms": 400.0})
        for frame, time in enumerate(step_ms, start=1):
            writer.append_row(
                {
                    "index": frame,
                    "timestamp": float(frame),
                    "frame_type": FrameType.KEPT,
                    "forward_ms": time,
                    "interval_ms": time + 7,
                }
            )
        facts = {"sequence": INPUT, "method_facts": SETTINGS, "host": host}
        writer.finish(make_unit_record(names, measurements=measurements, **facts))
