"""What is held against what: the stored results of one or more runs of the same thing, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from lingbot_eval.types import Direction, FloatArray

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
    reason is why there is no number). rounds: of the metrics in SAMPLED, (N,) milliseconds a round, N as in
    gate/samples.py. input, settings: facts of the sequence and of the method, as the run recorded them. notes: what the
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
