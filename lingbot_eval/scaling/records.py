"""The stored form of a scaling run.

Layout::

    RUN/scale.json                 ScaleRecord: what was asked, where, how to repeat it
    RUN/scale.md  RUN/scale.png    the page and its figure, made anew after every run
    RUN/cases/CASE/
        case.json                  CaseRecord; its presence means the case has its result
        samples.csv                one row a frame (columns: COLUMNS)
        traceback.txt              of a case that failed
    RUN/cases/.partial-…/          a case under way
    RUN/.lock                      held while a process writes here
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from lingbot_eval.runs.records import JobRecord, Names, ResultRecord, StoredRecord
from lingbot_eval.runs.store import Store
from lingbot_eval.runs.unit_writer import Layout

KINDS = ("anchor", "window", "memory", "camera_head")

COLUMNS: Mapping[str, str] = {
    "index": "frame, from 0",
    "frame_type": "scale, kept or unkept",
    "kept": "frames kept so far, this one included",
    "forward_ms": "the step on its device: between CUDA events, on a CPU wall clock; scale frames share their pass",
    "interval_ms": "wall clock since the prediction before came: end to end",
    "latency_ms": "from given (single stream) or arrived (camera) to the outputs on the host; empty in offline",
    "backlog": "frames waiting when this one was given; camera only",
    **{f"cache_{kind}_bytes": f"keys and values of the {kind.replace('_', ' ')} in view" for kind in KINDS},
    "cache_allocated_bytes": "cache buffers held, headroom included",
    "device_allocated_bytes": "live tensors on the device",
    "device_reserved_bytes": "what torch's allocator holds on the device",
    "driver_bytes": "what the driver books (the record says how it was asked)",
    "process_bytes": "resident set size of the process",
}
"""Column → what it is. The last three are asked for every few frames only; empty cells were not measured."""

SAMPLES_FILE = "samples.csv"


class GrowthRecord(StoredRecord):
    """What one more kept frame costs once the window is full, or why that cannot be said.

    quantity: a name of `lingbot_eval.scaling.summary.QUANTITIES`. unit: of a kept frame: ``B`` or ``us``. value, low,
    high: slope and its 95 % interval. expected: by the formula of model.md section 7, where it has a say. kept: kept
    frames it rests on.
    """

    quantity: str
    unit: Literal["B", "us"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    expected: float | None = None
    kept: int = 0
    reason: str | None = None

    @model_validator(mode="after")
    def _value_or_reason(self) -> Self:
        numbers = (self.value, self.low, self.high)
        if (None in numbers) == (self.reason is None):
            raise ValueError(f"{self.quantity}: expected a slope with its interval or a reason, one of them")
        if not all(math.isfinite(number) for number in numbers if number is not None):
            raise ValueError(f"{self.quantity}: expected finite numbers, found {numbers}")
        return self


def _pairs(rows: Any) -> Any:
    """JSON knows no tuples."""
    return [tuple(row) if isinstance(row, list) else row for row in rows] if isinstance(rows, list) else rows


class CheckpointRecord(StoredRecord):
    """The stream after its first ``frames`` frames.

    forward_ms, interval_ms: medians of the step frames among the last 100 before it.
    cache_bytes: in view, by kind; formula_bytes: the same by model.md section 7, None where the settings have no
    closed form. device_…, driver_bytes, process_bytes: the last sample at or before it. ate_m: RMSE after Sim(3)
    alignment of these frames alone; None exactly when ate_reason says why.
    """

    frames: int
    kept: int
    forward_ms: float | None
    interval_ms: float | None
    cache_bytes: dict[str, int]
    formula_bytes: dict[str, int] | None
    cache_allocated_bytes: int | None
    device_allocated_bytes: int | None
    device_reserved_bytes: int | None
    driver_bytes: int | None
    process_bytes: int | None
    ate_m: float | None
    ate_reason: str | None


class CaseRecord(ResultRecord):
    """The result of one case: measurements as far as it came, and why it came no further.

    status: ``failed`` for what the case could not do (a cut by its own limit is not a failure: see stopped).
    out_of_memory: whether memory was what was missing. error_curve: frames and ATE in metres of growing prefixes.
    expected_growth: bytes a kept frame of trajectory memory and camera head cache, by formula.
    """

    name: str
    case: dict[str, Any]
    out_of_memory: bool = False
    bad_input: bool = False
    stopped: str | None = None
    facts: dict[str, Any]
    input: dict[str, Any]
    sampling: dict[str, str]
    growth: list[GrowthRecord]
    checkpoints: list[CheckpointRecord]
    error_curve: Annotated[list[tuple[int, float]], BeforeValidator(_pairs)]

    @property
    def names(self) -> Names:
        return (self.name,)


class ScaleRecord(JobRecord):
    """A study that was run. cases: their names, in the order in which they run."""

    study: dict[str, Any]
    cases: list[str]
    weights: str

    @property
    def planned(self) -> tuple[Names, ...]:
        return tuple((name,) for name in self.cases)


SCALE_LAYOUT = Layout("scale.json", "cases", 1, "case.json", SAMPLES_FILE, tuple(COLUMNS), "case")


class ScaleStore(Store[ScaleRecord, CaseRecord]):
    """The directory of a study's run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SCALE_LAYOUT, ScaleRecord, CaseRecord)
