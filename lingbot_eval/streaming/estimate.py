"""What a stream will need before it is run, the settings under which it fits into a card, and what to be warned of.

Kept frames, cache by kind, weights and peak come from the settings alone: integers only, after model.md sections 6 and
7; the caches' headroom is counted as the stores reserve it. Nothing is allocated: parameters are counted on torch's
meta device.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from lingbot_eval.errors import ConfigError
from lingbot_eval.machine.environment import multiplies_bfloat16
from lingbot_eval.machine.gpu import AMPERE, capability
from lingbot_eval.model.build import PRECISIONS, resolve_precision
from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS, ModelConfig
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.cache import CacheShape
from lingbot_eval.streaming.contiguous import append_tokens, contiguous_tokens
from lingbot_eval.streaming.paged import WORKSPACE_BYTES, paged_tokens
from lingbot_eval.streaming.policy import is_keyframe, kept_frames, view_of
from lingbot_eval.streaming.settings import (
    TRAINED_VIEWS,
    StreamSettings,
    overlap_frames,
    resolve_interval,
    stream_interval,
    window_span,
)
from lingbot_eval.streaming.stores import block_cache_shape, camera_cache_shape, resolve_backend

CONTIGUOUS = ("auto", "sdpa", "triton")

# Live tensors of one pass, counted operator by operator on the meta device for `full`, `mini` and `ci` at 224×168,
# 518×378 and 518×518, scale phases of 2 and 8 frames, both precisions, with and without point head: the allowance made
# of these coefficients is never less than the count and at most 15 % more (tests/streaming/test_estimate.py).
TRUNK_BYTES = 46  # a token and channel, inside a block of the aggregator; and TRUNK_NUMBERS in the products' precision
TRUNK_NUMBERS = 9
OUTPUT_BYTES = 32  # a token and channel, the four outputs that wait for the dense heads
HEAD_BYTES = 180  # a pixel of the one frame in a dense head, and HEAD_FEATURE_BYTES more a feature
HEAD_FEATURE_BYTES = 3
WORKSPACES_BYTES = 200_000_000
"""The matrix library's, 32 MiB each of two of its parts, for the three streams that a stream computes on."""
RESERVED_SHARE = 1.05
"""Reserved over allocated, measured on an H200 at 5 to 14 GB (docs/measurements.md, "Small cards")."""
FRAME_BYTES = 8  # a pixel of every frame of the pass, and POINT_BYTES more with a point head
POINT_BYTES = 32


@dataclass(frozen=True)
class NetworkSize:
    """What of the network decides its memory. precision: of the trunk's matrix products and of the K/V cache."""

    config: ModelConfig
    precision: str
    camera_iterations: int = 4
    point_head: bool = False


@dataclass(frozen=True)
class StreamEstimate:
    """Prediction for one stream; bytes are of tensors, without the libraries' own code and contexts.

    frames: length of the stream; interval: keyframe interval. kept_least, kept: frames kept in one cache (of the whole
    stream, or of a full window), at least and at most: flow keyframes decide by the images. windows: 1 for an unbroken
    stream; with flow keyframes at most that many. cache_bytes: in view when the cache is fullest, by kind;
    cache_allocated: with the stores' headroom; cache_at_first: that at the scale phase. activation_bytes: live tensors
    of the scale phase and the kernels' workspace. growth_bytes: what moving a store to a larger buffer takes, between
    passes. step_bytes: live tensors of a step, which a captured pass keeps for its replays; torch counts them as
    reserved alone then.
    """

    frames: int
    interval: int
    kept_least: int
    kept: int
    windows: int
    cache_bytes: dict[str, int]
    cache_allocated: int
    cache_at_first: int
    weights_bytes: int
    activation_bytes: int
    growth_bytes: int
    step_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most that is there at one time."""
        return self._most(max(self.step_bytes, self.growth_bytes))

    @property
    def reserved_bytes(self) -> int:
        """What torch takes of a GPU for it at most: a store grows beside what a captured pass keeps, the matrix library
        keeps workspaces, and the allocator rounds."""
        return int((self._most(self.step_bytes + self.growth_bytes) + WORKSPACES_BYTES) * RESERVED_SHARE)

    def _most(self, late: int) -> int:
        """Where the scale phase comes upon empty caches, and ``late`` bytes upon full ones."""
        return self.weights_bytes + max(self.cache_at_first + self.activation_bytes, self.cache_allocated + late)


def estimate(network: NetworkSize, settings: StreamSettings, height: int, width: int, frames: int) -> StreamEstimate:
    """The prediction for ``frames`` images of (height, width), multiples of 14. An ``auto`` backend counts as sdpa."""
    interval = stream_interval(settings, frames)
    scale = min(settings.scale_frames, frames)
    longest, windows = _windows(settings, interval, frames)
    steps = longest - scale
    kept = scale + (min(steps, _kept_room(settings)) if settings.flow else kept_frames(steps, interval))
    least = kept
    if settings.flow and steps:
        # The first step frame is kept always, then one a gap at the latest.
        least = min(kept, scale + 1 + (steps - 1) // settings.flow.max_gap)
    blocks, camera = _cache_shapes(network, (height, width), settings)
    window = settings.window or network.config.window
    # A frame that is not kept has its place, too; after the last kept one it is one more than is kept.
    passing = settings.flow is not None or steps > kept - scale
    entered = kept + (settings.flow is not None or (steps > 0 and not is_keyframe(longest - 1, scale, interval)))
    whole = scale + window

    def tokens(entered: int, *, passing: bool) -> int:
        """Room in the blocks' store when so many frames have entered."""
        if settings.backend in CONTIGUOUS:
            return contiguous_tokens(blocks, whole, entered)
        return paged_tokens(blocks, whole, entered, passing=passing)

    def activations(count: int, tokens: int) -> int:
        """Of a pass of so many frames. 8-bit keys and values are read by way of a copy of one layer in the products'
        precision."""
        copied = tokens * replace(blocks, layers=1, quantized=False).token_bytes if blocks.quantized else 0
        workspace = WORKSPACE_BYTES if settings.backend == "flashinfer" else 0
        return _activation_bytes(network, count, height, width, copied) + workspace

    first, last = tokens(scale, passing=False), tokens(entered, passing=passing)
    return StreamEstimate(
        frames=frames,
        interval=interval,
        kept_least=least,
        kept=kept,
        windows=windows,
        cache_bytes=blocks.bytes_in_view(view_of(scale, kept, window)) | {"camera_head": kept * camera.token_bytes},
        cache_allocated=last * blocks.token_bytes + append_tokens(entered) * camera.token_bytes,
        cache_at_first=first * blocks.token_bytes + append_tokens(scale) * camera.token_bytes,
        weights_bytes=weights_bytes(network),
        activation_bytes=activations(scale, first),
        # Before a pass, while a store grows, the old and the new buffer of one layer are there together.
        growth_bytes=last * blocks.token_bytes // blocks.layers if kept - scale > window else 0,
        step_bytes=activations(1, last),
    )


def kept_frame_bytes(network: NetworkSize, settings: StreamSettings) -> int:
    """Bytes that every kept frame beyond the window adds for ever: its special tokens and the camera head's."""
    return sum(shape.special_tokens * shape.token_bytes for shape in _cache_shapes(network, (0, 0), settings))


def _cache_shapes(
    network: NetworkSize, size: tuple[int, int], settings: StreamSettings
) -> tuple[CacheShape, CacheShape]:
    """Of the global blocks and of the camera head."""
    nowhere = torch.device("meta")
    return (
        block_cache_shape(network.config, size, PRECISIONS[network.precision], nowhere, settings.cache_precision),
        camera_cache_shape(network.config, network.camera_iterations, nowhere),
    )


@functools.cache
def weights_bytes(network: NetworkSize) -> int:
    """Bytes of all parameters: the trunk's matrices in its precision, the rest in float32."""
    with torch.device("meta"):
        model = GeometricContextTransformer(network.config, point_head=network.point_head)
    model.set_trunk_dtype(PRECISIONS[network.precision])
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _windows(settings: StreamSettings, interval: int, frames: int) -> tuple[int, int]:
    """Frames of the longest window, and how many windows there are (at most, with flow keyframes)."""
    if settings.windowed is None:
        return frames, 1
    span = window_span(settings, interval)
    windows = 1 + -(-max(0, frames - span) // progress(settings, interval))
    if settings.flow:
        # A window that keeps few of its frames may run to the end of the stream.
        return frames, windows
    return min(span, frames), windows


def progress(settings: StreamSettings, interval: int) -> int:
    """Frames by which each window starts later than the one before."""
    return max(1, window_span(settings, interval) - overlap_frames(settings, interval))


def _kept_room(settings: StreamSettings) -> int:
    """Step frames that a flow window can keep before it ends; without windows there is no end."""
    return settings.windowed.size - settings.scale_frames if settings.windowed else 2**62


def _activation_bytes(network: NetworkSize, scale: int, height: int, width: int, copied: int) -> int:
    config = network.config
    pixels = height * width
    tokens = scale * (SPECIAL_TOKENS + (height // PATCH_SIZE) * (width // PATCH_SIZE))
    trunk = (TRUNK_BYTES + TRUNK_NUMBERS * PRECISIONS[network.precision].itemsize) * tokens * config.embed_dim + copied
    head = OUTPUT_BYTES * tokens * config.embed_dim
    head += (HEAD_BYTES + HEAD_FEATURE_BYTES * config.dpt_features) * pixels
    head += scale * pixels * (FRAME_BYTES + POINT_BYTES * network.point_head)
    return max(trunk, head)


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
    found = (
        _warn_of_views(estimate, settings),
        _warn_of_windows(estimate, settings),
        _warn_of_precision(precision, machine),
        _warn_of_memory(estimate, machine),
    )
    return tuple(line for line in found if line)


def _warn_of_views(estimate: StreamEstimate, settings: StreamSettings) -> str | None:
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


def _warn_of_windows(estimate: StreamEstimate, settings: StreamSettings) -> str | None:
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


def _warn_of_precision(precision: str, machine: Machine) -> str | None:
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


def _warn_of_memory(estimate: StreamEstimate, machine: Machine) -> str | None:
    if estimate.peak_bytes <= machine.free_bytes:
        return None
    return (
        f"predicted peak {estimate.peak_bytes / _MIB:,.0f} MiB, but {machine.name} has "
        f"{machine.free_bytes / _MIB:,.0f} MiB free; keep fewer frames (keyframe_interval, window, windowed), "
        "use a lower precision or smaller images"
    )
