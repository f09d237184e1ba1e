"""Growth a kept frame, once the window is full: the slope of what is measured along the frames kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lingbot_eval.scaling.records import GrowthRecord
from lingbot_eval.statistics import CONFIDENCE, FEWEST_SLOPE_VALUES, robust_slope
from lingbot_eval.types import FloatArray

CONVENTION = (
    f"Theil–Sen slope over medians of stretches of kept frames, from the first frame with a full window on, with its "
    f"{CONFIDENCE:.0%} interval; of frames with the same number of kept ones before them the median counts"
)
FEWEST_LEVELS = 5
"""Buffers grow in chunks: a line through fewer levels than these says where the chunks fell, not how fast they come."""


@dataclass(frozen=True)
class Quantity:
    """What may grow. unit: of a kept frame; scale: of the samples' own unit to that one. title: in words."""

    name: str
    title: str
    unit: Literal["B", "us"]
    scale: float = 1.0


QUANTITIES = (
    Quantity("cache", "cache in view", "B"),
    Quantity("cache_allocated", "cache as allocated", "B"),
    Quantity("device_allocated", "allocated on the device", "B"),
    Quantity("device_reserved", "reserved on the device", "B"),
    Quantity("driver", "the driver's figure", "B"),
    Quantity("process", "process memory", "B"),
    Quantity("process_beyond_cache", "process memory less the cache", "B"),
    Quantity("forward", "forward time", "us", 1e3),
)


def growth(quantity: Quantity, kept: FloatArray, values: FloatArray, expected: float | None = None) -> GrowthRecord:
    """How ``values`` (N,) change along ``kept`` (N,), of frames with a full window; NaN in values is left out."""

    def failed(reason: str) -> GrowthRecord:
        return GrowthRecord(quantity=quantity.name, unit=quantity.unit, expected=expected, reason=reason)

    there = np.isfinite(values)
    if not there.any():
        return failed("not measured" if len(values) else "the window never filled")
    clock, medians = _by_kept(kept[there], values[there])
    levels = len(np.unique(medians))
    if 1 < levels < FEWEST_LEVELS:
        return failed(f"it grows in steps; a slope needs {FEWEST_LEVELS - 1} of them, there are {levels - 1}")
    slope = robust_slope(clock, medians)
    if slope is None:
        needs = f"a slope needs samples at {FEWEST_SLOPE_VALUES} kept frames after the window is full"
        return failed(f"{needs}, there are {len(clock)}")
    return GrowthRecord(
        quantity=quantity.name,
        unit=quantity.unit,
        value=slope.value * quantity.scale,
        low=slope.low * quantity.scale,
        high=slope.high * quantity.scale,
        expected=expected,
        kept=len(clock),
    )


def growth_text(found: GrowthRecord) -> str:
    """``+0.59 MB (0.59 to 0.59)``, or the reason."""
    if found.value is None or found.low is None or found.high is None:
        return found.reason or ""
    size, unit = _readable(max(abs(found.value), abs(found.low), abs(found.high)), found.unit)
    low, value, high = (number / size for number in (found.low, found.value, found.high))
    return f"{value:+.3g} {unit} ({low:.3g} to {high:.3g})"


def _readable(largest: float, unit: str) -> tuple[float, str]:
    steps = ((1e6, "MB"), (1e3, "kB"), (1.0, "B")) if unit == "B" else ((1e3, "ms"), (1.0, "µs"), (1e-3, "ns"))
    return next(((size, name) for size, name in steps if largest >= size), steps[-1])


def _by_kept(kept: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Each number of kept frames once, and the median of the values there; kept does not fall."""
    clock, starts = np.unique(kept, return_index=True)
    return clock, np.array([np.median(group) for group in np.split(values, starts[1:])])
