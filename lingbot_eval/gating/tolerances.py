"""How much worse a number may be: tolerances as a baseline file writes them, and the judgement of one pair of numbers.

Nothing here knows of runs: two numbers, which way is better, a tolerance, by default the one that the metric declares.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from lingbot_eval.gating.sides import metric_id
from lingbot_eval.metrics.declarations import declarations
from lingbot_eval.statistics import ALPHA, MIN_EFFECT
from lingbot_eval.types import Declaration, Direction

Status = Literal["held", "better", "regression", "incomparable", "new", "shown"]
"""held: within the tolerance. better: outside it on the good side. incomparable: cannot be judged. new: not in the
baseline. shown: printed, never judged."""

Share = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class _Tolerance(BaseModel):
    """match: ``family/name`` or ``family/name/variant``, with ``*`` and ``?`` as in file names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Annotated[str, Field(min_length=1)]
    better: Direction | Literal["same"] | None = None
    """Overrides what the metric declares; ``same``: a change either way is a regression."""


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

_TOLERANCES: TypeAdapter[Absolute | Relative | Statistical | Shown] = TypeAdapter(Tolerance)
_OF_ALL = Relative(kind="relative", match="*", worse_by=0.01, floor=1e-6)


@cache
def default_tolerances() -> tuple[Absolute | Relative | Statistical | Shown, ...]:
    """What the metrics declare, in the order in which they are tried, then the tolerance of everything else."""
    declared = [
        _TOLERANCES.validate_python({"match": _match(family, metric), **metric.tolerance})
        for family, metric in declarations()
        if metric.tolerance is not None
    ]
    return (*declared, _OF_ALL)


def _match(family: str, metric: Declaration) -> str:
    any_variant = "" if metric.name.endswith("*") else "*"
    return metric_id(family, metric.name, any_variant if metric.variant is None else metric.variant)


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
