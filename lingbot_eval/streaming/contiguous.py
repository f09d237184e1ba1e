"""The contiguous store: preallocated buffers whose visible part is always one range, whatever has come and gone.

Layout of a layer's tokens, S scale frames, window of W, P patches a frame, 6 special tokens a frame::

    [ … special tokens of frame 1 | of frame 0 | patches: S anchor frames | W window slots | one that passes by ]
                                               ^ base

Special tokens of every kept frame grow to the left, patches of the frames seen whole to the right; what is visible lies
around the base without a hole, because the order of keys does not matter. The window's slots are a ring: a kept frame
overwrites the patches of the one that leaves, whose special tokens stay where they are. A frame that is not kept is
written at both ends, where the next pass overwrites it: it leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lingbot_eval.errors import StreamError
from lingbot_eval.streaming.buffers import CacheShape
from lingbot_eval.streaming.cache import CacheStore
from lingbot_eval.streaming.policy import Step
from lingbot_eval.streaming.ranges import RangeAttention

MEMORY_CHUNK_FRAMES = 256
"""Memory frames added at a time: 151 MB of the full model in bfloat16, one reallocation in as many kept frames."""


def contiguous_tokens(shape: CacheShape, whole: int, entered: int) -> int:
    """Capacity that a stream needs whose cache sees ``whole`` frames whole at most (anchor and window).

    entered: frames whose special tokens have had a place, one that is not kept included.
    """
    patches = shape.frame_tokens - shape.special_tokens
    return _room(shape.special_tokens, whole, entered) + (whole + 1) * patches


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
        self._patches = shape.frame_tokens - shape.special_tokens
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
