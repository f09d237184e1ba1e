"""What a stream will need before it is run: kept frames, cache by kind, weights and peak, from the settings alone.

Integers only, after model.md sections 6 and 7; the caches' headroom is counted as the stores reserve it. Nothing is
allocated: parameters are counted on torch's meta device.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from lingbot_eval.model.build import PRECISIONS
from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS, ModelConfig
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.append import append_tokens
from lingbot_eval.streaming.buffers import CacheShape
from lingbot_eval.streaming.contiguous import contiguous_tokens
from lingbot_eval.streaming.flashinfer import WORKSPACE_BYTES
from lingbot_eval.streaming.paged import paged_tokens
from lingbot_eval.streaming.policy import is_keyframe, kept_frames, view_of
from lingbot_eval.streaming.settings import StreamSettings, overlap_frames, stream_interval, window_span
from lingbot_eval.streaming.stores import block_cache_shape, camera_cache_shape

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
        return frames, 1
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
