"""What ``lingbot-eval run`` says about memory and settings before it streams: a table and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.errors import DataError, LingbotEvalError
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.tables import Column, Table, columns
from lingbot_eval.types import CACHE_KINDS

if TYPE_CHECKING:
    from lingbot_eval.runs.plan import Plan, Unit
    from lingbot_eval.streaming.estimate import Fit, StreamEstimate
    from lingbot_eval.viewing.kept import KeepSettings

_MIB = 2**20
_HEADER = ("frames", "size", "interval", "kept", *(kind.replace("_", " ") for kind in CACHE_KINDS))
_HEADER += ("allocated", "weights", "peak")


@dataclass(frozen=True)
class UnitCheck:
    """The prediction for one unit, or the reason there is none. size: (width, height) as the model sees it.

    refused: whether the reason is bad input, which would end the unit. distance: what is known of the precision's from
    float32. kept_bytes: what will be kept of it on the disk,
    by kind, at most; None where that is not known.
    """

    names: tuple[str, str, str]
    size: tuple[int, int] | None = None
    estimate: StreamEstimate | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    refused: bool = False
    distance: str | None = None
    kept_bytes: Mapping[str, int] | None = None


def check_units(plan: Plan) -> tuple[UnitCheck, ...]:
    """One entry for each unit of the streaming model; decodes one frame of each scene to know its size."""
    keep = plan.experiment.keep
    return tuple(_checked(unit, unit.method, keep) for unit in plan.units if isinstance(unit.method, LingbotConfig))


def refused_units(plan: Plan) -> tuple[UnitCheck, ...]:
    """Units of other methods that would fail: their scene cannot be opened, or what is saved of it does not fit."""
    from lingbot_eval.runs.plan import open_scene

    found = []
    for unit in plan.units:
        if isinstance(unit.method, LingbotConfig):
            continue
        try:
            unit.method.check(open_scene(unit))
        except LingbotEvalError as error:
            found.append(UnitCheck(unit.names, reason=str(error), refused=isinstance(error, DataError)))
    return tuple(found)


def scene_notes(plan: Plan) -> tuple[str, ...]:
    """What there is to say of the scenes before they are decoded, ``dataset/scene: text``, each once."""
    from lingbot_eval.prepare import input_notes
    from lingbot_eval.runs.plan import open_scene

    notes: dict[str, None] = {}
    for unit in plan.units:
        # A scene that cannot be opened is its unit's failure, which the run records.
        with suppress(LingbotEvalError):
            for text in input_notes(open_scene(unit).facts(), unit.size):
                notes[f"{unit.names[0]}/{unit.names[1]}: {text}"] = None
    return tuple(notes)


def print_checks(checks: Sequence[UnitCheck]) -> None:
    """The predictions as a table in MiB, then what stands in the way of one, then the warnings."""
    rows = [(*_cells(check, check.estimate), "/".join(check.names)) for check in checks if check.estimate is not None]
    if rows:
        output.line()
        output.line(
            "Predicted, in MiB: cache in view when it is fullest, as allocated, weights, and the peak of it all"
        )
        table = Table("Predicted", (*columns(_HEADER, left=0), Column("unit", "left")), rows)
        for line in table.text().splitlines():
            output.line(f"  {line}")
    for known in dict.fromkeys(check.distance for check in checks if check.distance):
        output.line(f"  {known}")
    for check in checks:
        sizes = {kind: size for kind, size in (check.kept_bytes or {}).items() if size}
        if sizes:
            words = ", ".join(f"{kind} {size / _MIB:.1f} MiB" for kind, size in sizes.items())
            output.line(f"  {'/'.join(check.names)}: kept on the disk, at most: {words}")
    for check in checks:
        if check.reason is not None:
            what = "would fail" if check.refused else "no prediction"
            output.line(f"  {'/'.join(check.names)}: {what}: {check.reason}")
    for line in warning_lines(checks):
        output.line(line)


_GB = 1e9


def fit_line(at: str, fit: Fit) -> str:
    """What was chosen for a method, in a line."""
    chosen = fit.chosen
    words = ", ".join(f"{name} {value}" for name, value in chosen.changed.items()) or "as asked for"
    return (
        f"fit: {at} into {fit.memory_bytes / _GB:g} GB: {words} (predicted {chosen.estimate.reserved_bytes / _GB:.2f}"
        f" of {fit.usable_bytes / _GB:.2f} GB; accuracy: {chosen.cost})"
    )


def print_fit(at: str, fit: Fit) -> None:
    """The choices that were tried, in GB, and the one that fits."""
    rows = [
        (
            choice.precision,
            str(choice.settings.cache_precision or "as products"),
            str(choice.settings.window or "the network's"),
            str(choice.settings.keyframe_interval),
            *(f"{size / _GB:.2f}" for size in (choice.estimate.cache_allocated, choice.estimate.reserved_bytes)),
            "yes" if choice is fit.chosen else "no",
            choice.cost,
        )
        for choice in fit.choices
    ]
    header = ("precision", "cache", "window", "interval", "cache, GB", "in all, GB", "fits")
    table = Table("Choices", (*columns(header, left=2), Column("what is known of its accuracy", "left")), rows)
    output.line()
    output.line(f"Choices of {at} for {fit.memory_bytes / _GB:g} GB, of which {fit.usable_bytes / _GB:.2f} can be used")
    for line in table.text().splitlines():
        output.line(f"  {line}")


def fit_data(fit: Fit) -> dict[str, Any]:
    """The choices as plain JSON values."""
    return {
        "memory_bytes": fit.memory_bytes,
        "usable_bytes": fit.usable_bytes,
        "changes": fit.changes(),
        "choices": [
            {"changed": choice.changed, "cost": choice.cost, "reserved_bytes": choice.estimate.reserved_bytes}
            for choice in fit.choices
        ],
    }


def warning_lines(checks: Sequence[UnitCheck]) -> list[str]:
    """Each different warning once, with the unit that it is about and how many more."""
    about: dict[tuple[str, str], list[UnitCheck]] = {}
    for check in checks:
        for warning in check.warnings:
            about.setdefault((check.names[2], warning), []).append(check)
    return [
        f"warning: {'/'.join(found[0].names)}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {text}"
        for (_, text), found in about.items()
    ]


def checks_data(checks: Sequence[UnitCheck]) -> list[dict[str, Any]]:
    """The predictions as plain JSON values."""
    return [
        {
            "unit": list(check.names),
            "size": None if check.size is None else list(check.size),
            "estimate": None
            if check.estimate is None
            else {**asdict(check.estimate), "peak_bytes": check.estimate.peak_bytes},
            "kept_bytes": None if check.kept_bytes is None else dict(check.kept_bytes),
            "distance": check.distance,
            "reason": check.reason,
            "warnings": list(check.warnings),
        }
        for check in checks
    ]


def _cells(check: UnitCheck, estimate: StreamEstimate) -> tuple[str, ...]:
    kept = f"{estimate.kept_least}–{estimate.kept}" if estimate.kept_least < estimate.kept else str(estimate.kept)
    if estimate.windows > 1:
        kept += " a window"
    sizes = [estimate.cache_bytes[kind] for kind in CACHE_KINDS]
    sizes += [estimate.cache_allocated, estimate.weights_bytes, estimate.peak_bytes]
    width, height = check.size or (0, 0)
    return (
        str(estimate.frames),
        f"{width}×{height}",
        str(estimate.interval),
        kept,
        *(f"{size / _MIB:.1f}" for size in sizes),
    )


def _checked(unit: Unit, method: LingbotConfig, keep: KeepSettings) -> UnitCheck:
    from lingbot_eval.prepare import refuse_faulty_images
    from lingbot_eval.runs.plan import open_scene, prepared_size

    try:
        sequence = open_scene(unit)
        refuse_faulty_images(sequence.facts())
        size = prepared_size(unit, sequence)
        found = predicted(unit.names, method, size, sequence.length)
        if found.estimate is None:
            return found
        frames = found.estimate.frames
        kept = min(frames, found.estimate.kept * found.estimate.windows)
        return replace(found, kept_bytes=keep.predicted_bytes(*size, frames, kept))
    except LingbotEvalError as error:
        # The run itself will record it as this unit's failure, and go on with the others.
        return UnitCheck(unit.names, reason=str(error), refused=isinstance(error, DataError))


def predicted(
    names: tuple[str, str, str], method: LingbotConfig, size: tuple[int, int], frames: int | None
) -> UnitCheck:
    """The prediction for ``frames`` frames of ``size`` (width, height). Raises ConfigError for a device not there."""
    from lingbot_eval.model.build import PRECISIONS, choose_device, resolve_precision
    from lingbot_eval.model.config import CONFIGS
    from lingbot_eval.streaming.estimate import NetworkSize, check, distance, estimate, kept_frame_bytes, this_machine
    from lingbot_eval.streaming.stores import resolve_backend

    model, device = method.model, choose_device(method.device)
    precision = resolve_precision(method.precision, device)
    network = NetworkSize(CONFIGS[model.config], precision, model.camera_iterations, model.point_head)
    if frames is None:
        growth = kept_frame_bytes(network, method.streaming) / _MIB
        return UnitCheck(
            names,
            size,
            reason="how long it is shows only when it is decoded; "
            f"every kept frame beyond the window adds {growth:.2f} MiB to the cache",
        )
    backend = resolve_backend(method.streaming.backend, PRECISIONS[precision], device)
    settings = method.streaming.model_copy(update={"backend": backend})
    predicted = estimate(network, settings, size[1], size[0], frames)
    warnings = check(predicted, settings, precision, this_machine(device))
    known = distance(precision, settings.cache_precision)
    return UnitCheck(names, size, predicted, warnings=warnings, distance=known)
