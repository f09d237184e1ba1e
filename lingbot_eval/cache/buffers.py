"""Contiguous keys and values a layer, grown in place of being concatenated."""

from __future__ import annotations

import torch
from torch import Tensor

from lingbot_eval.cache.protocol import CacheShape
from lingbot_eval.cache.release import release_freed


class LayerBuffers:
    """One (2, capacity, heads, head_dim) tensor a layer: keys at 0, values at 1, tokens in a row.

    Tokens come before heads, so that a prefix of tokens is one contiguous piece, a frame is written in one copy, and
    attention kernels read it with strides.
    """

    def __init__(self, shape: CacheShape) -> None:
        self._shape = shape
        self._layers: list[Tensor] = []
        self.capacity = 0

    def reserve(self, capacity: int) -> None:
        """Grow to at least ``capacity`` tokens, keeping what is there.

        Layer by layer: the old and the new tensor of one layer exist side by side, never those of all layers.
        """
        if capacity <= self.capacity:
            return
        shape = self._shape
        for layer in range(shape.layers):
            grown = torch.empty(2, capacity, shape.heads, shape.head_dim, dtype=shape.dtype, device=shape.device)
            if self.capacity:
                grown[:, : self.capacity] = self._layers[layer]
                self._layers[layer] = grown
                release_freed(shape.device)
            else:
                self._layers.append(grown)
        self.capacity = capacity

    def write(self, layer: int, start: int, key: Tensor, value: Tensor) -> None:
        """Store the (N, heads, head_dim) keys and values of tokens ``start`` … ``start + N``."""
        buffer = self._layers[layer]
        buffer[0, start : start + len(key)] = key
        buffer[1, start : start + len(value)] = value

    def scatter(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store the (N, heads, head_dim) keys and values of tokens ``slots`` (N,) int64 on the device."""
        buffer = self._layers[layer]
        buffer[0].index_copy_(0, slots, key)
        buffer[1].index_copy_(0, slots, value)

    def move(self, layer: int, source: int, target: int, count: int) -> None:
        """Copy ``count`` tokens; the two places must not overlap."""
        buffer = self._layers[layer]
        buffer[:, target : target + count] = buffer[:, source : source + count]

    def prefix(self, layer: int, count: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first ``count`` tokens, as views (count, heads, head_dim)."""
        buffer = self._layers[layer]
        return buffer[0, :count], buffer[1, :count]

    def allocated_bytes(self) -> int:
        """Bytes held on the device."""
        return self.capacity * self._shape.token_bytes
