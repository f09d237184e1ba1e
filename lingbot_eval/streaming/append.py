"""The camera head's store: one token a kept frame, nothing ever evicted, grown in chunks (model.md section 5)."""

from __future__ import annotations

import torch

from lingbot_eval.errors import StreamError
from lingbot_eval.streaming.buffers import CacheShape
from lingbot_eval.streaming.cache import CacheStore
from lingbot_eval.streaming.policy import Step
from lingbot_eval.streaming.ranges import MaskedAttention, RangeAttention, SlicedAttention

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
