"""Warnings about settings, before hours are spent on them: one line each, from the estimate and the machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lingbot_eval.machine.environment import multiplies_bfloat16
from lingbot_eval.machine.gpu import AMPERE, capability
from lingbot_eval.streaming.estimate import StreamEstimate, progress
from lingbot_eval.streaming.settings import TRAINED_VIEWS, StreamSettings, resolve_interval, window_span

_MIB = 2**20

_DISTANCES: dict[tuple[str, int | None], tuple[float, float, float]] = {
    ("bfloat16", None): (0.91, 0.0027, 0.0019),
    ("float16", None): (0.085, 0.0003, 0.00053),
    ("bfloat16", 8): (0.93, 0.0027, 0.0019),
    ("float16", 8): (0.092, 0.00031, 0.00052),
}
"""Of precision and cache precision: degrees of rotation, position / extent and relative depth from float32, medians
over a stream of the full network with untrained weights, which hang on every digit (docs/measurements.md)."""


@dataclass(frozen=True)
class Machine:
    """Where the stream will run.

    capability: of a CUDA device, None on a CPU. free_bytes: of the device's memory. bfloat16: whether it has units or
    instructions for products in that precision.
    """

    name: str
    capability: tuple[int, int] | None
    free_bytes: int
    bfloat16: bool


def this_machine(device: torch.device) -> Machine:
    """What there is now; on a CPU the memory that can be had without swapping."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        found = capability(device)
        return Machine(torch.cuda.get_device_name(device), found, free, bfloat16=found >= AMPERE)
    import psutil

    available = int(psutil.virtual_memory().available)
    return Machine("the CPU", None, available, bfloat16=multiplies_bfloat16())


def distance(precision: str, cache_precision: int | None) -> str | None:
    """How far from float32 outputs in this precision were where that was measured; None where it was not."""
    found = _DISTANCES.get((precision, cache_precision))
    if found is None:
        return None
    cache = "" if cache_precision is None else f", keys and values in {cache_precision} bits"
    rotation, position, depth = found
    return (
        f"{precision}{cache}: {rotation:g}° of rotation, {100 * position:.2g} % of the extent and {100 * depth:.2g} % "
        "of depth from float32 (medians, untrained full network; compare measures it on your frames)"
    )


def check(estimate: StreamEstimate, settings: StreamSettings, precision: str, machine: Machine) -> tuple[str, ...]:
    """What somebody who waits for the result would want to know first; nothing where all is well."""
    found = (_views(estimate, settings), _windows(estimate, settings), *_machine(estimate, precision, machine))
    return tuple(line for line in found if line)


def _views(estimate: StreamEstimate, settings: StreamSettings) -> str | None:
    """The temporal rotary sees the keyframe clock, which a window starts anew."""
    if estimate.kept <= TRAINED_VIEWS or (settings.keyframe_interval == "auto" and not settings.flow):
        # ``auto`` is the rule that the public checkpoints run by, scale frames on top of the 320.
        return None
    beyond = f"the temporal rotary was trained on {TRAINED_VIEWS}"
    if settings.flow:
        count = f"{estimate.kept_least} to {estimate.kept}"
        return (
            f"flow keyframes keep {count} frames in one clock and {beyond}; raise streaming.flow.threshold or max_gap"
        )
    if settings.windowed:
        size = settings.windowed.size
        return f"windowed.size {size} keeps {estimate.kept} frames in one clock and {beyond}; use no larger windows"
    automatic = resolve_interval("auto", estimate.frames)
    return (
        f"keyframe_interval {estimate.interval} keeps {estimate.kept} of {estimate.frames} frames in view and "
        f"{beyond}; use auto (here {automatic}) or streaming.windowed"
    )


def _windows(estimate: StreamEstimate, settings: StreamSettings) -> str | None:
    if settings.windowed is None:
        return None
    span = window_span(settings, estimate.interval)
    if estimate.frames <= span:
        return (
            f"windowed mode has no effect: the {estimate.frames} frames fit one window, which spans {span}; "
            "leave streaming.windowed out, or make windows smaller"
        )
    ahead = progress(settings, estimate.interval)
    if 2 * ahead >= span:
        return None
    return (
        f"each window of {span} frames goes on by {ahead} only, so most frames are computed {span / ahead:.1f} times; "
        "overlap less, or make windows larger"
    )


def _machine(estimate: StreamEstimate, precision: str, machine: Machine) -> tuple[str | None, ...]:
    return _precision(precision, machine), _memory(estimate, machine)


def _precision(precision: str, machine: Machine) -> str | None:
    if precision == "float32" or (precision == "bfloat16" and machine.bfloat16):
        return None
    if machine.capability is None:
        return f"precision {precision} is slow on the CPU, which computes it by way of float32; use float32"
    if precision == "bfloat16":
        major, minor = machine.capability
        return (
            f"{machine.name} (compute capability {major}.{minor}) has no bfloat16 units, which came with "
            f"{AMPERE[0]}.{AMPERE[1]}; use float16 or float32"
        )
    return None


def _memory(estimate: StreamEstimate, machine: Machine) -> str | None:
    if estimate.peak_bytes <= machine.free_bytes:
        return None
    return (
        f"predicted peak {estimate.peak_bytes / _MIB:,.0f} MiB, but {machine.name} has "
        f"{machine.free_bytes / _MIB:,.0f} MiB free; keep fewer frames (keyframe_interval, window, windowed), "
        "use a lower precision or smaller images"
    )
