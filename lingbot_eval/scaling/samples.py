"""What is kept of every frame of a case."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping

import numpy as np

from lingbot_eval.types import FloatArray

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


class SampleLog:
    """The samples of one case as they come, as columns."""

    def __init__(self) -> None:
        self._values = {name: array("d") for name in COLUMNS}

    def __len__(self) -> int:
        return len(self._values["index"])

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Keep one frame: column → number, a FrameType by its number; None and columns left out were not measured."""
        for name, values in self._values.items():
            value = row.get(name)
            values.append(math.nan if value is None else value)

    def column(self, name: str) -> FloatArray:
        """(N,) float64, NaN where not measured; frame types as their numbers."""
        return np.array(self._values[name], dtype=np.float64)
