"""Contiguous keys and values a layer, grown in place of being concatenated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lingbot_eval.errors import StreamError
from lingbot_eval.machine.gpu import runs_triton
from lingbot_eval.streaming.policy import View
from lingbot_eval.streaming.release import release_freed
from lingbot_eval.streaming.staging import restage

LARGEST = 127
"""Of a whole number in 8 bits, so that there are as many below zero as above."""

SCALE_DTYPE = torch.float16
SMALLEST_SCALE = 2.0**-24
"""Of float16 above zero."""


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


@dataclass(frozen=True)
class Quantized:
    """Keys or values in 8 bits: whole numbers times one scale a token and head.

    numbers: (N, heads, head_dim) int8. scales: (N, heads) float16.
    """

    numbers: Tensor
    scales: Tensor

    def __getitem__(self, tokens: slice) -> Quantized:
        return Quantized(self.numbers[tokens], self.scales[tokens])


Keys = Tensor | Quantized
"""(N, heads, head_dim) keys or values."""


def quantize(x: Tensor) -> Quantized:
    """The nearest 8-bit numbers to (N, heads, head_dim); what is not finite stays so."""
    x = x.float()
    scales = (x.abs().amax(-1) / LARGEST).to(SCALE_DTYPE)
    numbers = (x / scales.float().clamp_min(SMALLEST_SCALE)[..., None]).round().clamp(-LARGEST, LARGEST)
    return Quantized(numbers.to(torch.int8), scales)


def widened(keys: Keys, dtype: torch.dtype) -> Tensor:
    """Keys or values as attention multiplies them: 8-bit ones in ``dtype``, others as they are."""
    if not isinstance(keys, Quantized):
        return keys
    exact = SCALE_DTYPE if dtype is SCALE_DTYPE else torch.float32
    return (keys.numbers * keys.scales.to(exact)[..., None]).to(dtype)


class LayerBuffers:
    """Keys and values of each layer, tokens in a row: (2, capacity, heads, head_dim), in 8 bits with their scales.

    Tokens come before heads, so that a prefix of tokens is one contiguous piece, a frame is written in one copy, and
    attention kernels read it with strides. Scales, (2, capacity, heads) to look at, lie head by head: a kernel reads
    those of one head for many tokens.
    """

    def __init__(self, shape: CacheShape) -> None:
        self._shape = shape
        self._layers: list[tuple[Tensor, ...]] = []
        self._slots: Tensor | None = None
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
        scales = torch.zeros(2, shape.heads, capacity, dtype=SCALE_DTYPE, device=shape.device)
        return torch.zeros(size, dtype=torch.int8, device=shape.device), scales.transpose(1, 2)

    def aim(self, slots: Tensor) -> None:
        """Say where the tokens of the coming pass go: (N,) int64 on the CPU, after ``reserve``.

        Kept in place from pass to pass of one size: a captured pass reads it from there.
        """
        self._slots = restage(self._slots, slots, self._layers[0][0])

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store the pass's (N, heads, head_dim) keys and values of a layer where ``aim`` said."""
        slots = self._slots
        if slots is None:
            raise StreamError("begin must come before attend")
        if runs_triton(key.device):
            scatter(key, value, slots, *self.layer(layer))
            return
        for given, kept in zip((key, value), self.layer(layer), strict=True):
            if isinstance(kept, Quantized):
                new = quantize(given)
                kept.numbers.index_copy_(0, slots, new.numbers)
                kept.scales.index_copy_(0, slots, new.scales)
            else:
                kept.index_copy_(0, slots, given)

    def cast(self, shape: CacheShape) -> None:
        """Become buffers of ``shape``, which differs in ``dtype``, layer by layer."""
        self._shape = shape
        if not shape.quantized:
            for layer, (tokens,) in enumerate(self._layers):
                self._layers[layer] = (tokens.to(shape.dtype),)

    def move(self, layer: int, source: int, target: int, count: int) -> None:
        """Copy ``count`` tokens; the two places must not overlap."""
        for buffer in self._layers[layer]:
            buffer[:, target : target + count] = buffer[:, source : source + count]

    def layer(self, layer: int) -> tuple[Keys, Keys]:
        """Keys and values of a layer, the buffers themselves."""
        if not self._shape.quantized:
            keys, values = self._layers[layer][0]
            return keys, values
        numbers, scales = self._layers[layer]
        return Quantized(numbers[0], scales[0]), Quantized(numbers[1], scales[1])


def scatter(key: Tensor, value: Tensor, slots: Tensor, keys: Keys, values: Keys) -> None:
    """Write (N, heads, head_dim) keys and values to their (N,) slots in one launch of this project's kernel."""
    import triton

    from lingbot_eval.streaming.triton_kernels import quantize_kernel, scatter_kernel

    count, heads, dim = key.shape
    if any(part.stride()[1:] != (dim, 1) for part in (key, value)):
        key, value = key.contiguous(), value.contiguous()
    strides = key.stride(0), value.stride(0)
    if isinstance(keys, Quantized) and isinstance(values, Quantized):
        quantize_kernel[(count, 2)](
            key,
            value,
            *strides,
            slots,
            keys.numbers,
            values.numbers,
            keys.scales,
            values.scales,
            len(keys.scales),
            heads=heads,
            block=triton.next_power_of_2(heads),
            dim=dim,
        )
    else:
        width = heads * dim
        scatter_kernel[(count,)](
            key, value, *strides, slots, keys, values, width=width, block=triton.next_power_of_2(width)
        )
