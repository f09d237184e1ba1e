"""Holds a run against a baseline metric by metric; what cannot be compared is said to be so, and never passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lingbot_eval.gating.comparable import notes, why_not_this_machine, why_not_this_unit
from lingbot_eval.gating.sides import FAMILIES, Family, Meaning, Names, Side, SideUnit, family_of
from lingbot_eval.gating.tolerances import (
    Absolute,
    Relative,
    Shown,
    Statistical,
    Status,
    Tolerance,
    default_tolerances,
    judge_values,
    tolerance_for,
)
from lingbot_eval.metrics.declarations import declaration
from lingbot_eval.statistics import FEWEST_ROUNDS, judge_rounds, too_few_rounds
from lingbot_eval.types import Direction

SCENE = "scene"
"""Stands for a metric in a finding about a scene as a whole."""
JUDGED: tuple[Status, ...] = ("held", "better", "regression", "incomparable")


@dataclass(frozen=True)
class Finding:
    """One metric of one scene. reason: what the status rests on; for a pair of numbers within tolerance the tolerance.

    baseline, run: None where there is no number.
    """

    names: Names
    family: Family
    metric: str
    unit: str
    status: Status
    baseline: float | None
    run: float | None
    reason: str

    @property
    def scene(self) -> str:
        """``dataset/scene/method``."""
        return "/".join(self.names)

    @property
    def change(self) -> float | None:
        """Relative change; None without two numbers or from 0."""
        if self.baseline is None or self.run is None or self.baseline == 0:
            return None
        return self.run / self.baseline - 1


@dataclass(frozen=True)
class Verdict:
    """required: the families whose verdict decides. notes: one line each, for a reader."""

    run: str
    baseline: str
    findings: tuple[Finding, ...]
    required: tuple[Family, ...]
    notes: tuple[str, ...]

    def of(self, family: Family) -> Status:
        """The family's verdict: its worst finding, or ``shown`` where nothing of it is judged."""
        found = {finding.status for finding in self.findings if finding.family == family}
        for status in ("regression", "incomparable"):
            if status in found:
                return status
        return "held" if found & {"held", "better"} else "shown"

    @property
    def exit_code(self) -> int:
        """0 held, 1 regression, 2 could not be judged; of the required families, a certain regression first."""
        found = [self.of(family) for family in self.required]
        if "regression" in found:
            return 1
        return 0 if found and all(status == "held" for status in found) else 2


def judge(
    baseline: Side, run: Side, tolerances: Sequence[Tolerance], required: Sequence[Family] | None = None
) -> Verdict:
    """The verdict on ``run``. required: families that decide; None for all of which the baseline judges something."""
    findings = list(_findings(baseline, run, tolerances))
    judged = tuple(family for family in FAMILIES if any(f.family == family for f in findings if f.status in JUDGED))
    return Verdict(
        run=run.name,
        baseline=baseline.name,
        findings=tuple(findings),
        required=judged if required is None else tuple(family for family in FAMILIES if family in required),
        notes=(
            *baseline.problems,
            *run.problems,
            *(f"{'/'.join(names)}: {note}" for names, unit in run.units.items() for note in unit.notes),
            *notes(baseline, run),
            *_not_timed(findings),
            *_unused(tolerances, baseline),
            *_not_in_turn(baseline.started, run.started),
        ),
    )


def judged_by(metric: str, meanings: Mapping[str, Meaning], tolerances: Sequence[Tolerance]) -> Tolerance | None:
    """The tolerance that judges a metric; None where it is only shown: by the file, or without a direction."""
    tolerance = tolerance_for(metric, tolerances)
    if tolerance is None or isinstance(tolerance, Shown):
        return None
    return tolerance if tolerance.better is not None or _direction(metric, meanings) is not None else None


def _findings(baseline: Side, run: Side, tolerances: Sequence[Tolerance]) -> Iterator[Finding]:
    for names, old in baseline.units.items():
        new = run.units.get(names)
        families = _families(old, tolerances)
        if new is None:
            reason = run.gaps.get(names, "the run does not have this scene and method")
            yield from _scene(names, families, "incomparable", reason)
        elif old.failure is not None:
            words = (
                f"failed before, too: {old.failure}" if new.failure is not None else f"works now; before: {old.failure}"
            )
            yield from _scene(names, ("accuracy",), "shown" if new.failure is not None else "new", words)
        elif new.failure is not None:
            yield from _scene(names, families, "regression", new.failure)
        else:
            yield from _unit(names, (baseline, run), (old, new), tolerances)
    for names, reason in baseline.gaps.items():
        yield from _scene(names, FAMILIES, "incomparable", f"the baseline has no result: {reason}")
    for names in run.units.keys() - baseline.units.keys() - baseline.gaps.keys():
        yield from _scene(names, ("accuracy",), "new", "not in the baseline: --update takes it in")


def _families(unit: SideUnit, tolerances: Sequence[Tolerance]) -> tuple[Family, ...]:
    """The families of which something is judged; accuracy for a unit that never had a number."""
    found = {family_of(metric) for metric in unit.values if judged_by(metric, unit.meanings, tolerances) is not None}
    return tuple(family for family in FAMILIES if family in found) or ("accuracy",)


def _scene(names: Names, families: Iterable[Family], status: Status, reason: str) -> Iterator[Finding]:
    for family in families:
        yield Finding(names, family, SCENE, "", status, None, None, reason)


def _unit(
    names: Names, sides: tuple[Side, Side], units: tuple[SideUnit, SideUnit], tolerances: Sequence[Tolerance]
) -> Iterator[Finding]:
    old, new = units
    other_thing = why_not_this_unit(old, new)
    for metric in old.values:
        rule = judged_by(metric, old.meanings, tolerances)
        status: Status
        if rule is None:
            status, reason = "shown", "not judged"
        elif other_thing is not None:
            status, reason = "incomparable", other_thing
        else:
            status, reason = _metric(metric, sides, units, rule)
        yield _finding(names, metric, units, status, reason)
    for metric in new.values.keys() - old.values.keys():
        before = f"; before: {old.reasons[metric]}" if metric in old.reasons else ""
        yield _finding(names, metric, units, "new", f"not in the baseline{before}")


def _finding(names: Names, metric: str, units: tuple[SideUnit, SideUnit], status: Status, reason: str) -> Finding:
    old, new = units
    meaning = old.meanings.get(metric) or new.meanings[metric]
    values = (old.values.get(metric), new.values.get(metric))
    return Finding(names, family_of(metric), metric, meaning.unit, status, *values, reason)


def _direction(metric: str, meanings: Mapping[str, Meaning]) -> Direction | None:
    """As it is stored with the metric; of a file that is older than that, as the built-in metric declares."""
    stored = meanings[metric].better if metric in meanings else None
    return stored or declaration(*metric.split("/", 2)).better


def _metric(
    metric: str, sides: tuple[Side, Side], units: tuple[SideUnit, SideUnit], rule: Tolerance
) -> tuple[Status, str]:
    old, new = units
    machine = why_not_this_machine(*sides, metric)
    if metric not in new.values:
        if metric not in new.reasons:
            return "incomparable", "the run did not measure it"
        if family_of(metric) == "accuracy" and machine is None:
            # The input is the same, so it is the output that cannot be scored any more.
            return "regression", f"was scored, cannot be now: {new.reasons[metric]}"
        return "incomparable", f"no number in the run: {new.reasons[metric]}"
    other_thing = _why_not_this_meaning(old.meanings[metric], new.meanings[metric])
    if other_thing is not None:
        return "incomparable", other_thing
    if machine is not None:
        return "incomparable", machine
    if isinstance(rule, Statistical):
        return _statistical(metric, sides, units, rule)
    if isinstance(rule, Shown):
        raise TypeError(f"{metric} is only shown")
    better = rule.better or _direction(metric, old.meanings)
    if better is None:
        raise ValueError(f"{metric} is judged without a direction")
    return judge_values(old.values[metric], new.values[metric], rule, better), _allowed(rule, new.meanings[metric].unit)


def _statistical(
    metric: str, sides: tuple[Side, Side], units: tuple[SideUnit, SideUnit], rule: Statistical
) -> tuple[Status, str]:
    old, new = (unit.rounds.get(metric, ()) for unit in units)
    if not old or not new:
        side = "baseline" if not old else "run"
        return "incomparable", f"the {side} has no timing samples of it: choose a tolerance that needs none"
    if not sides[0].started and len(old) < FEWEST_ROUNDS:
        # A file that was never given the rounds promises no verdict on speed; --require speed still asks for one.
        return "shown", f"not judged: {too_few_rounds(len(old))}"
    in_turn = _in_turn(*(side.started for side in sides))
    found = judge_rounds(old, new, rule.min_effect, rule.alpha, in_turn=in_turn)
    return found.status, found.reason


def _why_not_this_meaning(before: Meaning, now: Meaning) -> str | None:
    if before.unit != now.unit:
        return f"units differ: baseline {before.unit}, run {now.unit}"
    if before.convention != now.convention:
        return f"conventions differ: baseline: {before.convention}; run: {now.convention}"
    return None


def _allowed(rule: Absolute | Relative, unit: str) -> str:
    """The limit in words: ``may be worse by 1 %``, ``may be worse by 0.2 percentage points``."""
    if isinstance(rule, Relative):
        return f"may be worse by {100 * rule.worse_by:.3g} %" + (
            f", or by {rule.floor:g}" if rule.floor >= 0.01 else ""
        )
    words = {"%": " percentage points", "1": ""}.get(unit, f" {unit}")
    return f"may be worse by {rule.worse_by:g}{words}"


def _not_timed(findings: Iterable[Finding]) -> Iterator[str]:
    reasons = (f.reason for f in findings if f.status == "shown" and f.reason.startswith("not judged: "))
    yield from dict.fromkeys(f"speed is {reason}" for reason in reasons)


def _unused(tolerances: Sequence[Tolerance], baseline: Side) -> Iterator[str]:
    """A pattern that fits nothing is likely a slip of the pen; the defaults name more than any one run measures."""
    metrics = {metric for unit in baseline.units.values() for metric in unit.meanings}
    used = {id(tolerance_for(metric, tolerances)) for metric in metrics}
    for tolerance in tolerances:
        if id(tolerance) not in used and tolerance not in default_tolerances():
            yield f"tolerance {tolerance.match!r} is used for no metric: none fits, or an earlier one is taken"


def _not_in_turn(baseline: Sequence[str], run: Sequence[str]) -> Iterator[str]:
    """For two sides of several runs each; a baseline file has no times."""
    if len(baseline) > 1 and len(run) > 1 and not _in_turn(baseline, run):
        yield "the two sides were not measured in turn: a drift of the machine looks like a change"


def _in_turn(baseline: Sequence[str], run: Sequence[str]) -> bool:
    """Whether the k-th runs of both sides, by the times they started, were neighbours: A B A B, or A B B A."""
    order = [side for _, side in sorted([(t, 0) for t in baseline] + [(t, 1) for t in run])]
    pairs = zip(order[::2], order[1::2], strict=False)
    return len(baseline) == len(run) > 0 and all(one != other for one, other in pairs)


def counts(findings: Iterable[Finding]) -> Mapping[Status, int]:
    """How many findings there are of each status."""
    found: dict[Status, int] = {}
    for finding in findings:
        found[finding.status] = found.get(finding.status, 0) + 1
    return found
