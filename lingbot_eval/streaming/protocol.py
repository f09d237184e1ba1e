"""What a tensor store offers: the network's ``attend``, and the session's begin, usage and release."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lingbot_eval.streaming.policy import Step, View


@dataclass(frozen=True)
class CacheShape:
    """Sizes that a store is built for.

    layers: attention layers that call ``attend``. frame_tokens: tokens of a frame; special_tokens: the first of
    them, which the memory keeps.
    """

    layers: int
    heads: int
    head_dim: int
    frame_tokens: int
    special_tokens: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return 2 * self.layers * self.heads * self.head_dim * self.dtype.itemsize

    def bytes_in_view(self, view: View) -> dict[str, int]:
        """Bytes of what is visible by kind; special tokens are booked with the part that sees their frame."""
        frame, special = self.frame_tokens * self.token_bytes, self.special_tokens * self.token_bytes
        return {
            "anchor": len(view.anchor) * frame,
            "window": len(view.window) * frame,
            "memory": len(view.memory) * special,
        }


class CacheStore(Protocol):
    """Keys and values of one stream, following the steps that the policy decided."""

    def begin(self, step: Step) -> None:
        """Make room for a pass; must precede its ``attend`` calls."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `lingbot_eval.model.protocols.KVCache`."""
        ...

    def remember(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store the pass's (N, heads, head_dim) keys and values of a layer, as ``attend`` does before it attends."""
        ...

    def keep_last(self, step: Step) -> None:
        """Keep the last pass's frame after the fact; ``step`` is the policy's answer to it."""
        ...

    def capture_key(self) -> Hashable | None:
        """What a captured pass depends on; None where a pass cannot be captured.

        While the key is the same, ``attend`` touches the same memory in the same way and only its content changes.
        """
        ...

    def used_bytes(self) -> dict[str, int]:
        """Bytes in view by kind: ``anchor``, ``window`` and ``memory``, or ``camera_head``."""
        ...

    def allocated_bytes(self) -> int:
        """Bytes that the store holds on the device, headroom included."""
        ...
