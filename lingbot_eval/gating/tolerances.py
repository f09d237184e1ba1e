"""How much worse a number may be: tolerances as a baseline file writes them, and the judgement of one pair of numbers.

Nothing here knows of runs: two numbers, which way is better, a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingbot_eval.statistics import ALPHA, MIN_EFFECT
from lingbot_eval.types import Direction

Status = Literal["held", "better", "regression", "incomparable", "new", "shown"]
"""held: within the tolerance. better: outside it on the good side. incomparable: cannot be judged. new: not in the
baseline. shown: printed, never judged."""

Share = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class _Tolerance(BaseModel):
    """match: ``family/name`` or ``family/name/variant``, with ``*`` and ``?`` as in file names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Annotated[str, Field(min_length=1)]
    better: Direction | Literal["same"] | None = None
    """Overrides what lingbot_eval/metrics/directions.py says; ``same``: a change either way is a regression."""


class Absolute(_Tolerance):
    """May be worse by ``worse_by``, in the metric's own unit."""

    kind: Literal["absolute"]
    worse_by: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Relative(_Tolerance):
    """May be worse by the share ``worse_by`` of the baseline's value, and always by ``floor`` in the metric's unit,
    so that a baseline of almost nothing leaves room for rounding."""

    kind: Literal["relative"]
    worse_by: Share
    floor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Statistical(_Tolerance):
    """For what has raw samples (the medians of forward_latency and end_to_end_interval): see statistics.py.

    min_effect: share below which a slow-down does not matter. alpha: chance of calling the same code slower.
    """

    kind: Literal["statistical"]
    min_effect: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = MIN_EFFECT
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = ALPHA


class Shown(_Tolerance):
    """Printed beside the baseline's value and not judged."""

    kind: Literal["shown"]


Tolerance = Annotated[Absolute | Relative | Statistical | Shown, Field(discriminator="kind")]

DEFAULTS: tuple[Absolute | Relative | Statistical | Shown, ...] = (
    # Rates and tails follow from the same samples as the medians, or rest on a single one.
    Statistical(kind="statistical", match="throughput/forward_latency/p50"),
    Statistical(kind="statistical", match="throughput/end_to_end_interval/p50"),
    Shown(kind="shown", match="throughput/*"),
    # Counted from shapes: they are what they are.
    Relative(kind="relative", match="memory/weights", worse_by=0.001),
    Relative(kind="relative", match="memory/cache_*", worse_by=0.001),
    # As the system books it, allocator and libraries included.
    Relative(kind="relative", match="memory/*", worse_by=0.05, floor=16.0),
    # Shares of pairs and pixels, in percent: a few sit on the threshold on any machine.
    Absolute(kind="absolute", match="auc/*", worse_by=0.2),
    Absolute(kind="absolute", match="depth/delta_*", worse_by=0.2),
    # One frame decides these.
    Relative(kind="relative", match="trajectory/ate_max/*", worse_by=0.02),
    Relative(kind="relative", match="drift/largest_step_error/*", worse_by=0.02),
    Absolute(kind="absolute", match="depth/confidence_rank_correlation", worse_by=0.01),
    Relative(kind="relative", match="*", worse_by=0.01, floor=1e-6),
)


def tolerance_for(
    metric: str, tolerances: Iterable[Absolute | Relative | Statistical | Shown]
) -> Absolute | Relative | Statistical | Shown | None:
    """The first tolerance whose pattern fits ``family/name/variant``; None when none does."""
    for tolerance in tolerances:
        if fnmatchcase(metric, tolerance.match):
            return tolerance
    return None


def judge_values(
    baseline: float, run: float, tolerance: Absolute | Relative, better: Direction | Literal["same"]
) -> Status:
    """held, better or regression. A value exactly at the limit holds."""
    allowed = tolerance.worse_by
    if isinstance(tolerance, Relative):
        allowed = max(tolerance.floor, tolerance.worse_by * abs(baseline))
    worse = run - baseline if better == "lower" else baseline - run
    if better == "same":
        return "regression" if abs(worse) > allowed else "held"
    if worse > allowed:
        return "regression"
    return "better" if -worse > allowed else "held"
