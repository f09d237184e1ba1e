"""The baseline file: what was measured, what may change by how much, and the history of both, as YAML for people.

``tolerances`` are there to be edited by hand (the first whose ``match`` fits a metric counts); ``--update`` keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lingbot_eval.errors import ConfigError
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.yaml_documents import MAX_BYTES, load_mapping
from lingbot_eval.gating.judge import Tolerance, default_tolerances, judged_by
from lingbot_eval.gating.sides import SAMPLED, Meaning, Names, Side, SideUnit, from_text, to_text
from lingbot_eval.settings import validated
from lingbot_eval.stored.records import utc_now

SCHEMA_VERSION: Literal[1] = 1

Number = Annotated[float, Field(allow_inf_nan=False)]
_HEADER = """\
# A baseline of lingbot-eval gate. Edit the tolerances by hand; let `lingbot-eval gate RUN --baseline FILE --update
# --reason "why"` write the rest. Tolerances: the first whose match fits counts. kind: absolute or relative (worse_by),
# statistical (min_effect, alpha), shown (never judged); better: lower, higher or same overrides a metric's direction.
"""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaselineUnit(_Part):
    """One method on one scene. failure: why it had no scores. metrics: only where a meaning differs from the shared
    one. samples: of the metrics that have them, milliseconds of the timed frames, one line a round."""

    dataset: str
    scene: str
    method: str
    failure: str | None = None
    values: dict[str, Number] = {}
    reasons: dict[str, str] = {}
    metrics: dict[str, Meaning] = {}
    input: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    samples: dict[str, tuple[str, ...]] = {}

    @field_validator("samples")
    @classmethod
    def _durations(cls, samples: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for metric, rounds in samples.items():
            if metric not in SAMPLED:
                raise ValueError(f"{metric} has no samples; those that have: {', '.join(SAMPLED)}")
            for line in rounds:
                from_text(line)
        return samples


class Change(_Part):
    """One update. replaced: per ``dataset/scene/method`` the judged values that it
    changed, as they were before."""

    when: str
    who: str
    reason: str
    code: dict[str, Any]
    rounds: int
    replaced: dict[str, dict[str, Number]] = {}


class Baseline(_Part):
    """The whole file."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    tolerances: tuple[Tolerance, ...]
    history: Annotated[tuple[Change, ...], Field(min_length=1)]
    environment: dict[str, Any]
    metrics: dict[str, Meaning]
    units: Annotated[tuple[BaselineUnit, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once_and_explained(self) -> Baseline:
        seen: set[Names] = set()
        for unit in self.units:
            names = (unit.dataset, unit.scene, unit.method)
            if names in seen:
                raise ValueError(f"units: {'/'.join(names)} is there twice")
            seen.add(names)
            for metric in (*unit.values, *unit.reasons):
                if metric not in unit.metrics and metric not in self.metrics:
                    raise ValueError(f"metrics: {metric} of {'/'.join(names)} has no unit and convention")
        return self


def load_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises ConfigError, one line, for what is none or of another schema version."""
    if not path.exists():
        raise ConfigError(
            f"{path}: no such baseline; write it from a run that is as it should be: lingbot-eval gate RUN "
            f'--baseline {path} --update --reason "first"'
        )
    document = load_mapping(path)
    version = document.get("schema_version")
    if version is None and {"datasets", "methods"} & document.keys():
        raise ConfigError(f"{path}: expected a baseline, found an experiment; give the baseline a file of its own")
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: expected a baseline of schema version {SCHEMA_VERSION}, found "
            f"{'none' if version is None else version}; gate with the lingbot_eval that wrote it, or move it away and "
            "write a new one with --update"
        )
    return validated(Baseline, document, str(path))


def save_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline, whole or not at all. Raises StoreError, or ConfigError where it would be too large to read."""
    text = baseline_text(baseline)
    size = len(text.encode("utf-8", "backslashreplace"))
    if size > MAX_BYTES:
        raise ConfigError(
            f"{path}: the baseline would have {size} bytes, more than the {MAX_BYTES} of a file that people edit; "
            "give fewer runs, or gate a smaller experiment"
        )
    write_text(path, text)


def baseline_text(baseline: Baseline) -> str:
    """The file's content: what people edit and read first comes first, long numbers' lines last."""
    document = baseline.model_dump(mode="json", exclude_defaults=True)
    document = {"schema_version": SCHEMA_VERSION, "name": baseline.name} | document
    document["tolerances"] = [
        _Line(tolerance.model_dump(mode="json", exclude_none=True)) for tolerance in baseline.tolerances
    ]
    return _HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def side_of(baseline: Baseline) -> Side:
    """The baseline as one of two sides."""
    units: dict[Names, SideUnit] = {}
    for unit in baseline.units:
        meanings = {
            metric: unit.metrics.get(metric) or baseline.metrics[metric] for metric in (*unit.values, *unit.reasons)
        }
        units[unit.dataset, unit.scene, unit.method] = SideUnit(
            failure=unit.failure,
            values=unit.values,
            reasons=unit.reasons,
            meanings=meanings,
            rounds={metric: tuple(from_text(line) for line in lines) for metric, lines in unit.samples.items()},
            input=unit.input,
            settings=unit.settings,
        )
    return Side(
        name=baseline.name, units=units, gaps={}, environment=baseline.environment, code=baseline.history[-1].code
    )


def baseline_of(side: Side, tolerances: Sequence[Tolerance], history: Sequence[Change]) -> Baseline:
    """A baseline that keeps all of a side but its gaps."""
    shared: dict[str, Meaning] = {}
    for unit in side.units.values():
        for metric, meaning in unit.meanings.items():
            shared.setdefault(metric, meaning)
    return Baseline(
        name=str(side.code.get("run", side.name)),
        tolerances=tuple(tolerances),
        history=tuple(history),
        environment=dict(side.environment),
        metrics=shared,
        units=tuple(_unit(names, unit, shared) for names, unit in side.units.items()),
    )


def _unit(names: Names, unit: SideUnit, shared: Mapping[str, Meaning]) -> BaselineUnit:
    dataset, scene, method = names
    return BaselineUnit(
        dataset=dataset,
        scene=scene,
        method=method,
        failure=unit.failure,
        values=dict(unit.values),
        reasons=dict(unit.reasons),
        metrics={m: meaning for m, meaning in unit.meanings.items() if meaning != shared[m]},
        input=dict(unit.input),
        settings=dict(unit.settings),
        samples={metric: tuple(to_text(times) for times in rounds) for metric, rounds in unit.rounds.items()},
    )


class _Line(dict[str, Any]):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """No anchors: an alias saves nothing and reads badly."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Line, lambda dumper, line: dumper.represent_mapping(_MAP, line, flow_style=True))
_MAP = "tag:yaml.org,2002:map"


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
