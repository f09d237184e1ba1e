"""All that the network knows of a stream: where its frames stand, and something that remembers keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Where the frames of one pass stand in the stream (model.md sections 3 and 4).

    clock: keyframe clock of the first of them, the others following. starts_stream: the first of them is the first
    of the stream. scale_phase: they are scale frames.
    """

    clock: int
    starts_stream: bool
    scale_phase: bool


class KVCache(Protocol):
    """Keys and values of the past, seen by one attention layer at a time."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of this pass's tokens over all that they may see, their own keys and values included.

        query, key, value: (N, heads, head_dim) of the N = frames·tokens of the pass, keys already rotated.
        Returns (N, heads, head_dim). Called once a layer and pass, layers in order.
        """
        ...
