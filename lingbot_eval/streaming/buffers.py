"""Contiguous keys and values a layer, grown in place of being concatenated."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from lingbot_eval.errors import StreamError
from lingbot_eval.machine.gpu import runs_triton
from lingbot_eval.streaming.protocol import CacheShape
from lingbot_eval.streaming.release import release_freed
from lingbot_eval.streaming.staging import restage


class LayerBuffers:
    """One (2, capacity, heads, head_dim) tensor a layer: keys at 0, values at 1, tokens in a row.

    Tokens come before heads, so that a prefix of tokens is one contiguous piece, a frame is written in one copy, and
    attention kernels read it with strides.
    """

    def __init__(self, shape: CacheShape) -> None:
        self._shape = shape
        self._layers: list[Tensor] = []
        self._slots: Tensor | None = None
        self.capacity = 0

    def reserve(self, capacity: int, *, at_front: bool = False) -> None:
        """Grow to at least ``capacity`` tokens behind what is there, or before it; what is new is zero.

        Layer by layer: the old and the new tensor of one layer exist side by side, never those of all layers.
        """
        if capacity <= self.capacity:
            return
        shape = self._shape
        kept = slice(capacity - self.capacity, None) if at_front else slice(self.capacity)
        for layer in range(shape.layers):
            grown = torch.zeros(2, capacity, shape.heads, shape.head_dim, dtype=shape.dtype, device=shape.device)
            if self.capacity:
                grown[:, kept] = self._layers[layer]
                self._layers[layer] = grown
                release_freed(shape.device)
            else:
                self._layers.append(grown)
        self.capacity = capacity

    def aim(self, slots: Tensor) -> None:
        """Say where the tokens of the coming pass go: (N,) int64 on the CPU, after ``reserve``.

        Kept in place from pass to pass of one size: a captured pass reads it from there.
        """
        self._slots = restage(self._slots, slots, self._layers[0])

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store the pass's (N, heads, head_dim) keys and values of a layer where ``aim`` said."""
        slots = self._slots
        if slots is None:
            raise StreamError("begin must come before attend")
        keys, values = self._layers[layer]
        if not runs_triton(key.device):
            keys.index_copy_(0, slots, key)
            values.index_copy_(0, slots, value)
            return
        import triton

        from lingbot_eval.streaming.triton_kernels import scatter_kernel

        width = self._shape.heads * self._shape.head_dim
        if key.stride()[1:] != keys.stride()[1:] or value.stride()[1:] != values.stride()[1:]:
            key, value = key.contiguous(), value.contiguous()
        scatter_kernel[(len(slots),)](
            key,
            value,
            key.stride(0),
            value.stride(0),
            slots,
            keys,
            values,
            width=width,
            block=triton.next_power_of_2(width),
        )

    def move(self, layer: int, source: int, target: int, count: int) -> None:
        """Copy ``count`` tokens; the two places must not overlap."""
        buffer = self._layers[layer]
        buffer[:, target : target + count] = buffer[:, source : source + count]

    def layer(self, layer: int) -> Tensor:
        """(2, capacity, heads, head_dim): keys and values of a layer, the buffer itself."""
        return self._layers[layer]

    def capture_key(self, attention: Hashable | None) -> Hashable | None:
        """See `CacheStore`: while the buffers do not grow, they and the slots stay in place. attention: the key of what
        reads them."""
        return None if attention is None else (attention, self.capacity)

    def allocated_bytes(self) -> int:
        """Bytes held on the device."""
        return self.capacity * self._shape.token_bytes
