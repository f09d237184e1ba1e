"""Settings under which a stream fits into a card, by the forecast: a ladder of them, what loses least comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from lingbot_eval.errors import ConfigError
from lingbot_eval.model.build import PRECISIONS, resolve_precision
from lingbot_eval.streaming.estimate import NetworkSize, StreamEstimate, estimate
from lingbot_eval.streaming.settings import StreamSettings, resolve_interval
from lingbot_eval.streaming.stores import resolve_backend

RESERVED_BYTES = 700_000_000
"""Of a card: what the driver, CUDA's context and the kernels' code take beside torch's memory."""
SIZES_GB = (24, 16, 12, 8, 6)
"""Cards as they are sold, for advice; any size is taken."""
COSTS = {
    "precision": "0.06° and 0.05 % of depth from float32",
    "cache_precision": "AUC@30 ±0.1, ATE ±0.2 % (ci)",
    "keyframe_interval": "not measured",
}
WINDOW_COSTS = {6: "AUC@30 +0.1 (ci)", 4: "AUC@30 −0.8 (ci)", 2: "AUC@30 −10 (ci)", 1: "AUC@30 −29 (ci)"}
"""What each change takes of the accuracy, where that was measured; of a window by eighths of what was asked for. ci: of
the shipped weights, in points and shares of the median over three places (docs/measurements.md, "Small cards")."""

_SIZE = re.compile(r"\s*(\d{1,6}(?:\.\d+)?)\s*(GB|GiB|MB|MiB)?\s*", re.IGNORECASE)
_UNITS = {"": 1e9, "GB": 1e9, "GIB": 2.0**30, "MB": 1e6, "MIB": 2.0**20}


@dataclass(frozen=True)
class Stream:
    """Images of (height, width), and how many of them."""

    height: int
    width: int
    frames: int


@dataclass(frozen=True)
class Choice:
    """A rung of the ladder. changed: what it has otherwise than asked for. estimate: of the stream that needs most.

    cost: what is known of the accuracy that it takes, change by change.
    """

    precision: str
    settings: StreamSettings
    changed: dict[str, object]
    estimate: StreamEstimate
    cost: str


@dataclass(frozen=True)
class Fit:
    """The rungs that were tried, up to the one that fits. memory_bytes: of the card."""

    memory_bytes: int
    choices: tuple[Choice, ...]

    @property
    def chosen(self) -> Choice:
        """The first that fits."""
        return self.choices[-1]

    @property
    def usable_bytes(self) -> int:
        """What a forecast may come to."""
        return self.memory_bytes - RESERVED_BYTES

    def changes(self) -> dict[str, object]:
        """The chosen settings of the method by dotted key, with the bound that holds them to it."""
        streaming = {name: f"streaming.{name}" for name in StreamSettings.model_fields}
        changed = {streaming.get(name, name): value for name, value in self.chosen.changed.items()}
        return {**changed, "memory_gb": self.memory_bytes / 1e9}


def memory_bytes(text: str) -> int:
    """Bytes of ``8GB``, ``8`` (GB), ``7.5 GiB`` or ``6000MB``. Raises ConfigError."""
    found = _SIZE.fullmatch(text)
    size = int(float(found[1]) * _UNITS[(found[2] or "").upper()]) if found else 0
    if size < 2 * RESERVED_BYTES:
        raise ConfigError(f"--fit {text}: expected the memory of a card, such as 8GB (at least 1.4GB)")
    return size


def fit(
    network: NetworkSize, settings: StreamSettings, streams: Sequence[Stream], memory: int, device: torch.device
) -> Fit:
    """The first settings of the ladder under which each of the streams fits into a card of ``memory`` bytes.

    Args:
        network: as asked for; its precision may be ``auto``.
        settings: of the stream as asked for. An interval that is a number is kept as long as a quarter of the window
            fits.
        streams: one of each size and length.
        memory: of the card, or of the machine where the CPU computes.
        device: where it will run.

    Raises:
        ConfigError: nothing on the ladder fits.
    """
    usable = memory - RESERVED_BYTES
    tried: list[Choice] = []
    for changed in _ladder(network, settings, streams, device):
        tried.append(_choice(network, settings, streams, device, changed))
        if tried[-1].estimate.reserved_bytes <= usable:
            return Fit(memory, tuple(tried))
    least = min(choice.estimate.reserved_bytes for choice in tried) + RESERVED_BYTES
    raise ConfigError(
        f"nothing fits into {memory / 1e9:g} GB: the least of {len(tried)} choices takes {least / 1e9:.1f} GB; use "
        "smaller images, windows of fresh caches (streaming.windowed), or fewer frames"
    )


def limit_memory(device: torch.device, memory: int) -> None:
    """Have torch take no more of a GPU than a card of ``memory`` bytes would leave it."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (memory - RESERVED_BYTES) / total), device)


def smaller_preset(memory: int) -> str | None:
    """The next card below one of ``memory`` bytes, as ``--fit`` takes it; None below the smallest."""
    return next((f"{size}GB" for size in SIZES_GB if size * 1e9 < 0.95 * memory), None)


def _ladder(
    network: NetworkSize, settings: StreamSettings, streams: Sequence[Stream], device: torch.device
) -> Iterator[dict[str, object]]:
    """Changes, each rung with those of the rungs before it but for the window, which opens again with the interval."""
    changed: dict[str, object] = {}
    yield changed
    if network.precision == "float32" and device.type == "cuda":
        changed = {**changed, "precision": "auto"}
        yield changed
    if settings.cache_precision is None and settings.backend != "flashinfer":
        changed = {**changed, "cache_precision": 8}
        yield changed
    window = settings.window or network.config.window
    windows = list(dict.fromkeys(max(1, window * eighths // 8) for eighths in range(7, 0, -1)))
    interval = settings.keyframe_interval
    longest = max(stream.frames for stream in streams)
    if interval != "auto" and not settings.flow and resolve_interval("auto", longest) > interval:
        yield from ({**changed, "window": smaller} for smaller in windows if 4 * smaller >= window)
        changed = {**changed, "keyframe_interval": "auto"}
        yield changed
    yield from ({**changed, "window": smaller} for smaller in windows)


def _choice(
    network: NetworkSize,
    settings: StreamSettings,
    streams: Sequence[Stream],
    device: torch.device,
    changed: dict[str, object],
) -> Choice:
    asked = str(changed.get("precision", network.precision))
    precision = resolve_precision(asked, device)
    backend = resolve_backend(settings.backend, PRECISIONS[precision], device)
    streaming = settings.model_copy(update={name: value for name, value in changed.items() if name != "precision"})
    forecast = streaming.model_copy(update={"backend": backend})
    sized = replace(network, precision=precision)
    needed = [estimate(sized, forecast, each.height, each.width, each.frames) for each in streams]
    eighths = 8 * (streaming.window or 0) / (settings.window or network.config.window)
    costs = {**COSTS, "window": WINDOW_COSTS.get(int(eighths), "not measured") if eighths % 1 == 0 else "not measured"}
    cost = "; ".join(f"{name}: {costs[name]}" for name in changed) or "none: as asked for"
    return Choice(asked, streaming, changed, max(needed, key=lambda each: each.reserved_bytes), cost)
