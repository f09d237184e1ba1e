"""Holds a run against a baseline metric by metric; what cannot be compared is said to be so, and never passes.

First tolerances, as a baseline file writes them and by default as the metrics declare them; then what must be equal
before two numbers may be held against each other, and what merely is worth a note; then the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from lingbot_eval.declarations import declaration, declarations
from lingbot_eval.gating.sides import FAMILIES, Family, Meaning, Names, Side, SideUnit, family_of, metric_id
from lingbot_eval.machine.environment import hardware, rests_on_hardware, section
from lingbot_eval.settings import differing_in_both, flattened, short
from lingbot_eval.statistics import ALPHA, FEWEST_ROUNDS, MIN_EFFECT, judge_rounds, too_few_rounds
from lingbot_eval.stored.records import StoredRecord
from lingbot_eval.types import Declaration, Direction

Status = Literal["held", "better", "regression", "incomparable", "new", "shown"]
"""held: within the tolerance. better: outside it on the good side. incomparable: cannot be judged. new: not in the
baseline. shown: printed, never judged."""

Share = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class _Tolerance(StoredRecord):
    """match: ``family/name`` or ``family/name/variant``, with ``*`` and ``?`` as in file names."""

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

_TOLERANCES: TypeAdapter[Tolerance] = TypeAdapter(Tolerance)
_OF_ALL = Relative(kind="relative", match="*", worse_by=0.01, floor=1e-6)


@cache
def default_tolerances() -> tuple[Tolerance, ...]:
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


def tolerance_for(metric: str, tolerances: Iterable[Tolerance]) -> Tolerance | None:
    """The first tolerance whose pattern fits ``family/name/variant``; None when none does."""
    return next((tolerance for tolerance in tolerances if fnmatchcase(metric, tolerance.match)), None)


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


# Where the same file lies on another machine; its content is in checkpoint_sha256.
_PATHS_OF_WEIGHTS = ("model.checkpoint", "weights")
# Free text, and what a run counted: results of what was compared, not conditions of comparing.
_NO_CONDITION = ("notes", "name", "licence", "found")
# Of the environment's torch section: updates that change speed while the hardware stays.
_OF_GPUS = ("driver", "cudnn", "cuda_build")
# What was asked for, and what that stood for.
_BACKENDS = {"backend", "streaming.backend"}
# Older records have FlashInfer's kernel in the backend's name; which one ran, attention says in old and new ones.
_BACKENDS_ONCE = {"flashinfer-fa2": "flashinfer", "flashinfer-fa3": "flashinfer"}


def numerics(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for accuracy beside the method's own settings (device kind, precision, backend): settings that
    change the arithmetic by far more than another processor's order of summation does."""
    state = section(environment, "torch")
    return {
        "float32_matmul_precision": state.get("float32_matmul_precision", "unknown"),
        "cudnn_tf32": state.get("cudnn_tf32", "no GPU"),
        "NVIDIA_TF32_OVERRIDE": section(environment, "variables").get("NVIDIA_TF32_OVERRIDE", "not set"),
    }


def why_not_this_machine(baseline: Side, run: Side, metric: str) -> str | None:
    """Why a metric cannot be compared between the two machines; None when it can."""
    family: Family = family_of(metric)
    if family != "accuracy" and not rests_on_hardware(*metric.split("/")[:2]):
        return None
    facts = numerics if family == "accuracy" else hardware
    found = differences(facts(baseline.environment), facts(run.environment))
    if not found:
        return None
    return f"different {'arithmetic' if family == 'accuracy' else 'hardware'}: {'; '.join(found)}"


def why_not_this_unit(baseline: SideUnit, run: SideUnit) -> str | None:
    """Why nothing of a scene can be compared: other input, settings or weights. None when it can.

    A fact that only one of the two recorded is no difference (see :func:`notes`): the other's code did not know it.
    """
    found = [f"input: {line}" for line in differences(_input(baseline), _input(run))]
    found += [f"settings: {line}" for line in differences(_settings(baseline), _settings(run))]
    return "; ".join(found) or None


def notes(baseline: Side, run: Side) -> tuple[str, ...]:
    """What differs and may explain a change, though the numbers stay comparable."""
    lines = []
    for name in ("python", "libraries"):
        lines += [
            f"{line}"
            for line in differences(
                _as_mapping(name, baseline.environment.get(name)), _as_mapping(name, run.environment.get(name))
            )
        ]
    lines += differences(
        *({key: section(side.environment, "torch").get(key) for key in _OF_GPUS} for side in (baseline, run))
    )
    for names in [names for names in run.units if names in baseline.units]:
        old, new = baseline.units[names], run.units[names]
        for what, one, other in (("input", _input(old), _input(new)), ("settings", _settings(old), _settings(new))):
            only = sorted(set(flattened(one)) ^ set(flattened(other)))
            if only and old.failure is None and new.failure is None:
                lines.append(f"{what} recorded on one side only: {', '.join(only)}")
    return tuple(dict.fromkeys(lines))


def differences(baseline: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """``key: baseline 16, run 8`` for each key of both whose values differ, inner mappings opened."""
    pairs = differing_in_both(baseline, run)
    return [f"{key}: baseline {short(old)}, run {short(new)}" for key, (old, new) in pairs.items()]


def _input(unit: SideUnit) -> dict[str, Any]:
    return {key: value for key, value in unit.input.items() if key not in _NO_CONDITION}


def _settings(unit: SideUnit) -> dict[str, Any]:
    asked = {key: value for key, value in unit.settings.items() if key not in _NO_CONDITION}
    facts = {key: value for key, value in flattened(asked).items() if key not in _PATHS_OF_WEIGHTS}
    if "device" in facts:
        # cuda:0 or cuda:1 is a matter of the host; which GPUs it has is in the hardware.
        facts["device"] = str(facts["device"]).partition(":")[0]
    for key in _BACKENDS & facts.keys():
        facts[key] = _BACKENDS_ONCE.get(str(facts[key]), facts[key])
    return facts


def _as_mapping(name: str, value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {name: value}


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
    for names in [names for names in run.units if names not in baseline.units and names not in baseline.gaps]:
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
    for metric in [metric for metric in new.values if metric not in old.values]:
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
