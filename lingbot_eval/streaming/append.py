"""The camera head's store: one token a kept frame, nothing ever evicted, grown in chunks (model.md section 5)."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from lingbot_eval.errors import StreamError
from lingbot_eval.streaming.buffers import LayerBuffers
from lingbot_eval.streaming.policy import Step
from lingbot_eval.streaming.protocol import CacheShape
from lingbot_eval.streaming.ranges import MaskedAttention, RangeAttention, SlicedAttention

CHUNK_FRAMES = 512


class AppendStore:
    """Every kept frame stays visible for ever; a frame that is not kept is written behind the end and forgotten."""

    def __init__(self, shape: CacheShape) -> None:
        if shape.frame_tokens != 1:
            raise ValueError(f"one token a frame expected, found {shape.frame_tokens}")
        self._shape = shape
        self._attention: RangeAttention = (
            MaskedAttention(shape.device) if shape.device.type == "cuda" else SlicedAttention()
        )
        self._buffers = LayerBuffers(shape)
        self._kept = 0
        self._visible = 0

    def begin(self, step: Step) -> None:
        """See `CacheStore`."""
        self._visible = step.clock + step.count
        self._kept = self._visible if step.kept else step.clock
        self._buffers.reserve(-(-self._visible // CHUNK_FRAMES) * CHUNK_FRAMES)
        self._attention.plan(0, self._visible, self._buffers.capacity)
        self._buffers.aim(torch.arange(step.clock, self._visible))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `lingbot_eval.model.protocols.KVCache`."""
        self.remember(layer, key, value)
        keys, values = self._buffers.layer(layer)
        return self._attention.run(query, keys, values)

    def remember(self, layer: int, key: Tensor, value: Tensor) -> None:
        """See `CacheStore`."""
        self._buffers.write(layer, key, value)

    def keep_last(self, step: Step) -> None:
        """The frame already lies where it belongs. See `CacheStore`."""
        if self._kept == self._visible:
            raise StreamError("the last frame of the stream is kept already")
        self._kept = step.clock + 1

    def capture_key(self) -> Hashable | None:
        """See `CacheStore`."""
        return self._buffers.capture_key(self._attention.capture_key())

    def used_bytes(self) -> dict[str, int]:
        """See `CacheStore`."""
        return {"camera_head": self._kept * self._shape.token_bytes}

    def allocated_bytes(self) -> int:
        """See `CacheStore`."""
        return self._buffers.allocated_bytes()
