"""Stores whose visible part is one range of contiguous memory, and how attention over a range of keys is computed.

Layout of a layer's tokens in `ContiguousStore`, S scale frames, window of W, P patches a frame, 6 special tokens a
frame::

    [ … special tokens of frame 1 | of frame 0 | patches: S anchor frames | W window slots | one that passes by ]
                                               ^ base

Special tokens of every kept frame grow to the left, patches of the frames seen whole to the right; what is visible lies
around the base without a hole, because the order of keys does not matter. The window's slots are a ring: a kept frame
overwrites the patches of the one that leaves, whose special tokens stay where they are. A frame that is not kept is
written at both ends, where the next pass overwrites it: it leaves no trace.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Hashable, Mapping
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot_eval.errors import DependencyError, StreamError
from lingbot_eval.machine.environment import multiplies_bfloat16
from lingbot_eval.machine.gpu import AMPERE, LARGE_TILES, capability, has_triton, multiprocessors
from lingbot_eval.streaming.cache import CacheReader, CacheShape, CacheStore, stage
from lingbot_eval.streaming.policy import Step

Planned = TypeVar("Planned")

KEYS_AT_ONCE = 64
MOST_PARTS = 8
"""Of `TritonAttention`: more do not pay for putting them together."""

QUERIES_AT_ONCE = 256
"""Of `ProductAttention`: all scores of a scale phase at once would be its largest tensor."""

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Not cuDNN: it is fast at a length it knows, but plans for 50 to 125 ms (measured, H100) at every new one, and
a growing memory is a new length at every kept frame."""


class RangeAttention(CacheReader, Protocol):
    """Attends to keys [start, end) of a buffer."""

    def plan(self, start: int, end: int, capacity: int) -> None:
        """Take the range of the coming pass in buffers of ``capacity`` tokens."""
        ...


class SlicedAttention:
    """Torch's SDPA on a slice: any device, any dtype; every length is another launch."""

    def __init__(self) -> None:
        self._range: tuple[int, int] | None = None

    def plan(self, start: int, end: int, capacity: int) -> None:
        self._range = start, end

    def capture_key(self) -> None:
        """None: every length is another launch."""

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        start, end = _planned(self._range)
        q, k, v = (part.transpose(0, 1)[None] for part in (query, keys[start:end], values[start:end]))
        with sdpa_kernel(KERNELS):
            return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)


class ProductAttention(SlicedAttention):
    """Two matrix products and a softmax, head by head: bfloat16 on a CPU that has instructions for its products.

    Torch's own kernel multiplies there no faster than in float32. Measured, 198 queries of 3 heads over 4,900 keys, one
    thread of such a CPU: 16.1 ms by torch, 8.1 so; where the instructions are missing 13 by torch, 25 to 200 so. Scores
    round to bfloat16, which torch's kernel keeps in float32: docs/measurements.md has what that costs.
    """

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        start, end = _planned(self._range)
        out = torch.empty_like(query)
        query = query * query.shape[-1] ** -0.5  # a power of two for heads of 64: nothing is rounded
        for head in range(query.shape[1]):
            k, v = keys[start:end, head], values[start:end, head]
            for first in range(0, len(query), QUERIES_AT_ONCE):
                rows = slice(first, first + QUERIES_AT_ONCE)
                out[rows, head] = (query[rows, head] @ k.t()).softmax(-1) @ v
        return out


class _LengthsOnDevice:
    """What kernels share that read on the device from where to where they attend."""

    def __init__(self, device: torch.device) -> None:
        self._bounds = torch.zeros(2, dtype=torch.int32, device=device)
        self._capacity: int | None = None

    def plan(self, start: int, end: int, capacity: int) -> None:
        stage(self._bounds, torch.tensor([start, end], dtype=torch.int32))
        self._capacity = capacity

    def capture_key(self) -> Hashable | None:
        """The bounds stay in place."""
        return self._capacity


class VarlenAttention(_LengthsOnDevice):
    """Torch's flash kernel with lengths read on the device (half precision, Ampere or later, torch ≥ 2.10)."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._queries = torch.zeros(2, dtype=torch.int32, device=device)
        self._attend: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        capacity = _planned(self._capacity)
        self._queries[1:].fill_(len(query))
        return cast(Tensor, self._attend(query, keys, values, self._queries, self._bounds, len(query), capacity))


class TritonAttention(_LengthsOnDevice):
    """This project's kernel, lengths read on the device (half precision, Ampere or later, heads of 64)."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        # Two programs a multiprocessor: one's exponentials run beside the other's products. With half the queries a
        # program, keys are read twice as often, and that many do not fit without parts. Measured on an H200, one layer
        # of 1,005 queries and 77,824 keys: 64 queries, 128 keys 0.60 ms; 128 queries, 64 keys, two parts 0.56.
        large = capability(device)[0] in LARGE_TILES
        self._block_q, self._stages = (128, 3) if large else (64, 2)
        self._programs = 2 * multiprocessors(device)

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        import triton
        from triton.tools.tensor_descriptor import TensorDescriptor

        from lingbot_eval.streaming.triton_kernels import merge_kernel, range_attention_kernel

        _planned(self._capacity)
        query = query.contiguous()
        count, heads, dim = query.shape
        tiles = -(-count // self._block_q)
        parts = min(MOST_PARTS, max(1, self._programs // (tiles * heads)))
        partial = torch.empty(parts, count, heads, dim, dtype=torch.float32, device=query.device)
        sums = torch.empty(2, parts, heads, count, dtype=torch.float32, device=query.device)
        range_attention_kernel[(tiles, heads, parts)](
            query,
            *(TensorDescriptor.from_tensor(part.flatten(1), [KEYS_AT_ONCE, dim]) for part in (keys, values)),
            self._bounds,
            partial,
            sums,
            count,
            1 / (dim**0.5 * math.log(2)),  # softmax in powers of two
            parts,
            heads=heads,
            block_q=self._block_q,
            block_k=KEYS_AT_ONCE,
            num_warps=4,
            num_stages=self._stages,
        )
        out = torch.empty_like(query)
        block = triton.next_power_of_2(heads * dim)
        merge_kernel[(count,)](partial, sums, out, count, parts=parts, heads=heads, block=block)
        return out


class MaskedAttention:
    """Products over the whole buffer with a bias that hides what is not visible: for few queries, in float32.

    Two matrix products keep a GPU busy with one query where fused kernels give it sixteen blocks of work; the buffer is
    at most a chunk longer than what is visible. Hidden keys and values must be finite.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._bias: Tensor | None = None
        self._made = 0

    def plan(self, start: int, end: int, capacity: int) -> None:
        if self._bias is None or len(self._bias) != capacity:
            self._bias = torch.empty(capacity, device=self._device)
            self._made += 1
        self._bias.fill_(-torch.inf)
        self._bias[start:end] = 0

    def capture_key(self) -> Hashable | None:
        """The bias stays in place while the buffer does."""
        return self._made

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        bias = _planned(self._bias).to(query.dtype)
        q, k, v = (part.transpose(0, 1) for part in (query, keys, values))
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
        return (scores.softmax(-1) @ v).transpose(0, 1)


def has_varlen() -> bool:
    """Whether this torch has attention over lengths on the device."""
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None


def sdpa_attention(dtype: torch.dtype, device: torch.device) -> RangeAttention:
    """Torch's attention for keys of this type there: with lengths on the device where torch can."""
    half = dtype in (torch.bfloat16, torch.float16)
    if half and capability(device) >= AMPERE and has_varlen():
        return VarlenAttention(device)
    return ProductAttention() if attends_by_products(dtype, device) else SlicedAttention()


def attends_by_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``sdpa`` is not torch's kernel there but `ProductAttention`, which rounds scores to bfloat16."""
    return dtype is torch.bfloat16 and device.type == "cpu" and multiplies_bfloat16()


def triton_why_not(dtype: torch.dtype, device: torch.device) -> str | None:
    """One line that says why the Triton kernel cannot serve keys of this type there, or None when it can."""
    if device.type != "cuda":
        return f"backend triton needs a CUDA device, the model is on {device}; backend sdpa works there"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"backend triton needs precision bfloat16 or float16, found {dtype}; backend sdpa works with it"
    if not has_triton():
        return "Triton is not installed: pip install triton; backend sdpa works meanwhile"
    if capability(device) < AMPERE:
        found, least = (".".join(map(str, each)) for each in (capability(device), AMPERE))
        return f"backend triton needs compute capability {least}, {device} has {found}; backend sdpa works there"
    return None


def triton_attention(dtype: torch.dtype, device: torch.device) -> RangeAttention:
    """Raises DependencyError with :func:`triton_why_not`'s line."""
    reason = triton_why_not(dtype, device)
    if reason is not None:
        raise DependencyError(reason)
    return TritonAttention(device)


def _planned(value: Planned | None) -> Planned:
    if value is None:
        raise StreamError("begin must come before attend")
    return value


MEMORY_CHUNK_FRAMES = 256
"""Memory frames added at a time: 151 MB of the full model in bfloat16, one reallocation in as many kept frames."""


def contiguous_tokens(shape: CacheShape, whole: int, entered: int) -> int:
    """Capacity that a stream needs whose cache sees ``whole`` frames whole at most (anchor and window).

    entered: frames whose special tokens have had a place, one that is not kept included.
    """
    return _room(shape.special_tokens, whole, entered) + (whole + 1) * shape.patch_tokens


def _room(special: int, whole: int, entered: int) -> int:
    """Tokens to the left of the base: a full window's special tokens, then chunks."""
    chunks = -(-max(0, entered - whole - 1) // MEMORY_CHUNK_FRAMES)
    return (whole + 1 + chunks * MEMORY_CHUNK_FRAMES) * special


class ContiguousStore(CacheStore):
    """Keys and values of the global blocks in contiguous memory."""

    def __init__(self, shape: CacheShape, window: int, attention: RangeAttention) -> None:
        super().__init__(shape, attention)
        self._attention = attention
        self._window = window
        self._patches = shape.patch_tokens
        self._base = 0
        self._step: Step | None = None

    def begin(self, step: Step) -> None:
        """Decide where the pass is written and which range is visible."""
        self._step, self._view = step, step.view
        self._reserve(step)
        special = self._shape.special_tokens
        pages = step.view.full_frames + (not step.kept)
        start = self._base - (step.clock + step.count) * special
        seen = range(start, self._base + pages * self._patches)
        self._attention.plan(seen.start, seen.stop, self._buffers.capacity)
        self._buffers.aim(self._token_slots(step), seen)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "base": self._base}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._base = state["base"]

    def keep_last(self, step: Step) -> None:
        """Move the patches of the frame that passed by to their window slot."""
        last = self._step
        if last is None or last.kept:
            raise StreamError("the last frame of the stream is kept already")
        source, slot = self._page(last), self._page(step)
        if source != slot:
            for layer in range(self._shape.layers):
                self._buffers.move(layer, self._place(source), self._place(slot), self._patches)
        self._step, self._view = step, step.view

    def _page(self, step: Step) -> int:
        """Where the patches of the step's first frame lie: anchor frames in a row, then the window's ring."""
        if not step.kept:
            return step.view.full_frames
        scale = len(step.view.anchor)
        return step.clock if step.clock < scale else scale + (step.clock - scale) % self._window

    def _place(self, page: int) -> int:
        return self._base + page * self._patches

    def _token_slots(self, step: Step) -> Tensor:
        """(count·T,) int64: where every token of the pass goes, frame by frame, special tokens first."""
        frame = torch.arange(step.count)[:, None]
        special = self._shape.special_tokens
        specials = self._base - (step.clock + frame + 1) * special + torch.arange(special)
        patches = self._place(self._page(step)) + frame * self._patches + torch.arange(self._patches)
        return torch.cat([specials, patches], dim=1).flatten()

    def _reserve(self, step: Step) -> None:
        whole, entered = len(step.view.anchor) + self._window, step.clock + step.count
        capacity = contiguous_tokens(self._shape, whole, entered)
        if capacity > self._buffers.capacity:
            self._buffers.reserve(capacity, at_front=True)
            self._base = _room(self._shape.special_tokens, whole, entered)


CHUNK_FRAMES = 512


def append_tokens(frames: int) -> int:
    """Capacity that a stream needs in which so many frames have had a place, one that is not kept included."""
    return -(-frames // CHUNK_FRAMES) * CHUNK_FRAMES


class AppendStore(CacheStore):
    """Every kept frame stays visible for ever; a frame that is not kept is written behind the end and forgotten."""

    def __init__(self, shape: CacheShape) -> None:
        if shape.frame_tokens != 1:
            raise ValueError(f"one token a frame expected, found {shape.frame_tokens}")
        self._attention: RangeAttention = (
            MaskedAttention(shape.device) if shape.device.type == "cuda" else SlicedAttention()
        )
        super().__init__(shape, self._attention)
        self._kept = 0
        self._visible = 0

    def begin(self, step: Step) -> None:
        """Room in chunks."""
        self._visible = step.clock + step.count
        self._kept = self._visible if step.kept else step.clock
        self._buffers.reserve(append_tokens(self._visible))
        self._attention.plan(0, self._visible, self._buffers.capacity)
        self._buffers.aim(torch.arange(step.clock, self._visible), range(self._visible))

    def keep_last(self, step: Step) -> None:
        """The frame already lies where it belongs."""
        if self._kept == self._visible:
            raise StreamError("the last frame of the stream is kept already")
        self._kept = step.clock + 1

    def used_bytes(self) -> dict[str, int]:
        return {"camera_head": self._kept * self._shape.token_bytes}
