"""What every store of keys and values is: it follows the policy's steps, and layer after layer attends to it.

Its memory are contiguous buffers a layer, grown in place of being concatenated.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lingbot_eval.errors import StreamError
from lingbot_eval.machine.gpu import runs_triton
from lingbot_eval.streaming.policy import EMPTY, Step, View


def stage(target: Tensor, values: Tensor) -> None:
    """Copy CPU ``values`` into ``target``, in stream order.

    From pinned memory, which torch recycles once the copy is done: a copy from ordinary memory makes the host wait for
    everything that the device still has to do, and the device then waits for the host.
    """
    if target.is_cuda:
        target.copy_(values.pin_memory(), non_blocking=True)
    else:
        target.copy_(values)


def restage(target: Tensor | None, values: Tensor, like: Tensor) -> Tensor:
    """As :func:`stage` into ``target`` where it has the values' shape, else into a new tensor on ``like``'s device."""
    if target is None or target.shape != values.shape:
        target = like.new_empty(values.shape, dtype=values.dtype)
    stage(target, values)
    return target


def release_freed(device: torch.device) -> None:
    """Return freed blocks of a device's allocator to the driver, or of the C heap to the system.

    A buffer that grows frees blocks which are a little too small for its next size. On a GPU torch would keep them
    aside and the reserved memory would double; on a CPU glibc would keep them in a heap that only gets longer.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


LARGEST = 127
"""Of a whole number in 8 bits, so that there are as many below zero as above."""

SCALE_DTYPE = torch.float16
SMALLEST_SCALE = 2.0**-24
"""Of float16 above zero."""

WIDENED_AT_ONCE = 16
"""Tokens of one program."""


@dataclass(frozen=True)
class CacheShape:
    """Sizes that a store is built for.

    layers: attention layers that call ``attend``. frame_tokens: tokens of a frame; special_tokens: the first of
    them, which the memory keeps. dtype: of the keys and values that come. quantized: they are kept in 8 bits.
    """

    layers: int
    heads: int
    head_dim: int
    frame_tokens: int
    special_tokens: int
    dtype: torch.dtype
    device: torch.device
    quantized: bool = False

    @property
    def patch_tokens(self) -> int:
        """Tokens of a frame that only the window and the anchor keep."""
        return self.frame_tokens - self.special_tokens

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token over all layers, scales included."""
        head = self.head_dim + SCALE_DTYPE.itemsize if self.quantized else self.head_dim * self.dtype.itemsize
        return 2 * self.layers * self.heads * head

    def bytes_in_view(self, view: View) -> dict[str, int]:
        """Bytes of what is visible by kind; special tokens are booked with the part that sees their frame."""
        frame, special = self.frame_tokens * self.token_bytes, self.special_tokens * self.token_bytes
        return {
            "anchor": len(view.anchor) * frame,
            "window": len(view.window) * frame,
            "memory": len(view.memory) * special,
        }


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest 8-bit numbers to (N, heads, head_dim), and their (N, heads) scales; what is not finite stays so."""
    x = x.float()
    scales = (x.abs().amax(-1) / LARGEST).to(SCALE_DTYPE)
    numbers = (x / scales.float().clamp_min(SMALLEST_SCALE)[..., None]).round().clamp(-LARGEST, LARGEST)
    return numbers.to(torch.int8), scales


def widen(numbers: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """What 8-bit numbers stand for."""
    return (numbers * scales.float()[..., None]).to(dtype)


class LayerBuffers:
    """Keys and values of each layer, tokens in a row: (2, capacity, heads, head_dim), in 8 bits with their scales.

    Tokens come before heads, so that a prefix of tokens is one contiguous piece, a frame is written in one copy, and
    attention kernels read it with strides.

    8-bit numbers are read by way of a copy of one layer in the products' precision. A multiplication of 1,005 queries
    with tens of thousands of keys would otherwise widen each key once a tile of queries, through the memory that its
    own operands come from: measured on an H200 with 77,824 keys, 0.84 ms a layer in the best of 40 shapes, where the
    copy takes 0.13 and the multiplication of it 0.56.
    """

    def __init__(self, shape: CacheShape) -> None:
        self._shape = shape
        self._layers: list[tuple[Tensor, ...]] = []
        self._slots: Tensor | None = None
        self._seen = range(0)
        self._bounds: Tensor | None = None
        self._copy: Tensor | None = None
        self.capacity = 0

    def reserve(self, capacity: int, *, at_front: bool = False) -> None:
        """Grow to at least ``capacity`` tokens behind what is there, or before it; what is new is zero.

        Layer by layer: the old and the new tensors of one layer exist side by side, never those of all layers.
        """
        if capacity <= self.capacity:
            return
        kept = slice(capacity - self.capacity, None) if at_front else slice(self.capacity)
        for layer in range(self._shape.layers):
            grown = self._empty(capacity)
            if self.capacity:
                for new, old in zip(grown, self._layers[layer], strict=True):
                    new[:, kept] = old
                self._layers[layer] = grown
                release_freed(self._shape.device)
            else:
                self._layers.append(grown)
        self.capacity = capacity

    def _empty(self, capacity: int) -> tuple[Tensor, ...]:
        shape = self._shape
        size = 2, capacity, shape.heads, shape.head_dim
        if not shape.quantized:
            return (torch.zeros(size, dtype=shape.dtype, device=shape.device),)
        kinds = (size, torch.int8), (size[:-1], SCALE_DTYPE)
        return tuple(torch.zeros(sides, dtype=dtype, device=shape.device) for sides, dtype in kinds)

    def tensors(self) -> list[Tensor]:
        """All of them, layer by layer."""
        return [tensor for layer in self._layers for tensor in layer]

    def aim(self, slots: Tensor, seen: range) -> None:
        """Say where the tokens of the coming pass go, (N,) int64 on the CPU, and which it sees; after ``reserve``.

        Kept in place from pass to pass of one size: a captured pass reads it from there.
        """
        self._slots = restage(self._slots, slots, self._layers[0][0])
        self._seen = seen
        self._copy = None
        if self._shape.quantized:
            bounds = torch.tensor([seen.start, seen.stop], dtype=torch.int32)
            self._bounds = restage(self._bounds, bounds, self._layers[0][0])

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store the pass's (N, heads, head_dim) keys and values of a layer where ``aim`` said."""
        slots = self._slots
        if slots is None:
            raise StreamError("begin must come before attend")
        kept = self._layers[layer]
        if runs_triton(key.device):
            scatter(key, value, slots, *kept)
            return
        for part, given in enumerate((key, value)):
            for tokens, new in zip(kept, quantize(given) if self._shape.quantized else (given,), strict=True):
                tokens[part].index_copy_(0, slots, new)

    def layer(self, layer: int) -> Tensor:
        """(2, capacity, heads, head_dim) keys and values of a layer: the buffer itself, or a copy of what is seen."""
        if not self._shape.quantized:
            return self._layers[layer][0]
        copy = self._widened(layer, self._copy)
        # One serves all layers of a pass, and nobody after the last.
        self._copy = copy if layer + 1 < self._shape.layers else None
        return copy

    def _widened(self, layer: int, copy: Tensor | None) -> Tensor:
        """What the pass sees of a layer in the precision of what comes; the rest of the copy is anything."""
        numbers, scales = self._layers[layer]
        if copy is None:
            copy = torch.empty(numbers.shape, dtype=self._shape.dtype, device=numbers.device)
        if not runs_triton(copy.device):
            seen = slice(self._seen.start, self._seen.stop)
            copy[:, seen] = widen(numbers[:, seen], scales[:, seen], copy.dtype)
            return copy
        import triton

        from lingbot_eval.streaming.triton_kernels import widen_kernel

        heads, dim = self._shape.heads, self._shape.head_dim
        widen_kernel[(-(-self.capacity // WIDENED_AT_ONCE), 2)](
            numbers,
            scales,
            self._bounds,
            copy,
            self.capacity,
            heads=heads,
            block=WIDENED_AT_ONCE,
            block_heads=triton.next_power_of_2(heads),
            dim=dim,
        )
        return copy

    def move(self, layer: int, source: int, target: int, count: int) -> None:
        """Copy ``count`` tokens; the two places must not overlap."""
        for tokens in self._layers[layer]:
            tokens[:, target : target + count] = tokens[:, source : source + count]

    def cast(self, shape: CacheShape) -> None:
        """Become buffers of ``shape``, which differs in ``dtype``, layer by layer."""
        self._shape = shape
        self._copy = None
        if not shape.quantized:
            for layer, (tokens,) in enumerate(self._layers):
                self._layers[layer] = (tokens.to(shape.dtype),)


def scatter(key: Tensor, value: Tensor, slots: Tensor, tokens: Tensor, scales: Tensor | None = None) -> None:
    """Write (N, heads, head_dim) keys and values to their (N,) slots in one launch of this project's kernel.

    tokens: (2, capacity, heads, head_dim), in 8 bits where there are scales.
    """
    import triton

    from lingbot_eval.streaming.triton_kernels import quantize_kernel, scatter_kernel

    count, heads, dim = key.shape
    if any(part.stride()[1:] != (dim, 1) for part in (key, value)):
        key, value = key.contiguous(), value.contiguous()
    strides = key.stride(0), value.stride(0)
    if scales is not None:
        quantize_kernel[(count, 2)](
            key,
            value,
            *strides,
            slots,
            tokens,
            scales,
            tokens.shape[1],
            heads=heads,
            block=triton.next_power_of_2(heads),
            dim=dim,
        )
    else:
        width = heads * dim
        scatter_kernel[(count,)](key, value, *strides, slots, *tokens, width=width, block=triton.next_power_of_2(width))


class CacheReader(Protocol):
    """How attention over the keys of a layer is computed: planned by its store once a pass, run once a layer."""

    def capture_key(self) -> Hashable | None:
        """Changes when ``run`` would read what was planned from other memory; None: not to be captured."""
        ...

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(N, heads, head_dim) queries over (capacity, heads, head_dim) keys and values → as the queries."""
        ...


class CacheStore(ABC):
    """Keys and values of one stream. Where a pass is written and what it sees, each store decides in ``begin``."""

    def __init__(self, shape: CacheShape, reader: CacheReader) -> None:
        self._shape = shape
        self._reader = reader
        self._buffers = LayerBuffers(shape)
        self._view: View = EMPTY

    @abstractmethod
    def begin(self, step: Step) -> None:
        """Make room for a pass; must precede its ``attend`` calls."""

    @abstractmethod
    def keep_last(self, step: Step) -> None:
        """Keep the last pass's frame after the fact; ``step`` is the policy's answer to it."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The pass is remembered first: it sees itself, too."""
        self.remember(layer, key, value)
        keys, values = self._buffers.layer(layer)
        return self._reader.run(query, keys, values)

    def remember(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store the pass's (N, heads, head_dim) keys and values of a layer, as ``attend`` does before it attends."""
        self._buffers.write(layer, key, value)

    def capture_key(self) -> Hashable | None:
        """What a captured pass depends on; None where a pass cannot be captured.

        While the key is the same, ``attend`` touches the same memory in the same way and only its content changes:
        while the buffers do not grow, they and the places in them stay.
        """
        key = self._reader.capture_key()
        return None if key is None else (key, self._buffers.capacity)

    def state(self) -> dict[str, Any]:
        """All that later passes rest on: plain values, and the tensors themselves, which the next pass changes."""
        return {"capacity": self._buffers.capacity, "tensors": self._buffers.tensors()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where another store of the same shape was. tensors: functions that give their bytes, flat."""
        self._buffers.reserve(state["capacity"])
        for mine, content in zip(self._buffers.tensors(), state["tensors"], strict=True):
            mine.copy_(content().view(mine.dtype).view(mine.shape))

    @property
    def dtype(self) -> torch.dtype:
        """Of the keys and values that come."""
        return self._shape.dtype

    def cast(self, dtype: torch.dtype) -> None:
        """Go on with what comes in another precision; what is there is cast, unless it is in 8 bits."""
        self._shape = replace(self._shape, dtype=dtype)
        self._buffers.cast(self._shape)

    def used_bytes(self) -> dict[str, int]:
        """Bytes in view by kind: ``anchor``, ``window`` and ``memory``, or ``camera_head``."""
        return self._shape.bytes_in_view(self._view)

    def allocated_bytes(self) -> int:
        """Bytes that the store holds on the device, headroom included."""
        return self._buffers.capacity * self._shape.token_bytes
