"""A new baseline from a run: tolerances and history stay, replaced values go into the history."""

from __future__ import annotations

from collections.abc import Mapping

from lingbot_eval.errors import ConfigError
from lingbot_eval.gating.baseline import Baseline, Change, baseline_of, side_of
from lingbot_eval.gating.judge import judged_by
from lingbot_eval.gating.sides import Side
from lingbot_eval.gating.tolerances import default_tolerances
from lingbot_eval.runs.records import utc_now

KEPT_VALUES = 10
"""Updates of which the replaced values are kept; of older ones who, when and why."""


def updated(old: Baseline | None, side: Side, who: str, reason: str) -> Baseline:
    """The baseline that follows ``old`` (None: the first one).

    Raises ConfigError for a run with gaps: what a baseline lacks would never be judged again.
    """
    if side.gaps:
        names, why = next(iter(side.gaps.items()))
        more = f" (and {len(side.gaps) - 1} more)" if len(side.gaps) > 1 else ""
        raise ConfigError(f"a baseline needs a whole run; {'/'.join(names)}: {why}{more}; run it again, then --update")
    if all(unit.failure is not None for unit in side.units.values()):
        raise ConfigError("a baseline needs a run that measured something; every scene of this one failed")
    change = Change(
        when=utc_now(),
        who=who,
        reason=reason,
        code=dict(side.code),
        rounds=max(1, len(side.started)),
        replaced={} if old is None else _replaced(old, side),
    )
    history = () if old is None else old.history
    entries = [*history, change]
    entries = [entry.model_copy(update={"replaced": {}}) for entry in entries[:-KEPT_VALUES]] + entries[-KEPT_VALUES:]
    return baseline_of(side, default_tolerances() if old is None else old.tolerances, entries)


def _replaced(old: Baseline, new: Side) -> dict[str, dict[str, float]]:
    """What is judged and changes; what is only shown changes with every run."""
    found: dict[str, dict[str, float]] = {}
    for names, unit in side_of(old).units.items():
        now: Mapping[str, float] = new.units[names].values if names in new.units else {}
        values = {
            metric: value
            for metric, value in unit.values.items()
            if now.get(metric) != value and judged_by(metric, unit.meanings, old.tolerances) is not None
        }
        if values:
            found["/".join(names)] = values
    return found


def given_up(old: Baseline, new: Baseline) -> tuple[str, ...]:
    """What ``old`` judged and ``new`` cannot judge any more, a line for each scene."""
    now = {(unit.dataset, unit.scene, unit.method): unit for unit in new.units}
    lines = []
    for names, unit in side_of(old).units.items():
        judged = [metric for metric in unit.values if judged_by(metric, unit.meanings, new.tolerances) is not None]
        if names not in now:
            lines.append(f"{'/'.join(names)} is not in the run and leaves the baseline")
        elif gone := [metric for metric in judged if metric not in now[names].values]:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            lines.append(f"{'/'.join(names)} has no number of {gone[0]}{more}, which was judged until now")
    return tuple(lines)
