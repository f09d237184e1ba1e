"""Builds records for the tests of the run store."""

from __future__ import annotations

from typing import Any

from lingbot_eval.stored.records import RunRecord, UnitRecord
from lingbot_eval.types import Measurement

NAMES = ("tum", "desk", "lingbot")


def make_run_record(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "key": "0123456789abcdef",
        "name": "smoke",
        "command": "lingbot-eval run smoke.yaml",
        "experiment": {"stride": 1},
        "units": [list(NAMES)],
        "weights": {"lingbot": "untrained (seed 0)"},
        "environment": {"python": "3.11"},
        "started": "2026-01-01T00:00:00+00:00",
    }
    return RunRecord(**(values | changes))


def make_unit_record(names: tuple[str, str, str] = NAMES, **changes: Any) -> UnitRecord:
    values: dict[str, Any] = {
        "dataset": names[0],
        "scene": names[1],
        "method": names[2],
        "status": "ok",
        "frames": 3,
        "predictions": 3,
        "input_fingerprint": "input-1",
        "sequence": {},
        "method_facts": {},
        "measurements": [
            Measurement(family="trajectory", name="ate_rmse", variant="sim3", value=0.25, unit="m", convention="RMSE")
        ],
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.5,
    }
    return UnitRecord(**(values | changes))
