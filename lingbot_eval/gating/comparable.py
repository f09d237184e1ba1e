"""What must be equal before two numbers may be held against each other, and what merely is worth a note."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingbot_eval.gating.sides import Family, Side, SideUnit, family_of
from lingbot_eval.machine.environment import hardware, rests_on_hardware, section
from lingbot_eval.settings import differing_in_both, flattened, short

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
    for names in baseline.units.keys() & run.units.keys():
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
