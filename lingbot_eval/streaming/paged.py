"""The paged store: pages of a frame's patch tokens and of the special stream, one table a pass for all layers."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from lingbot_eval.streaming.buffers import LayerBuffers
from lingbot_eval.streaming.executors import PagedExecutor
from lingbot_eval.streaming.pages import PageManager, PageTable
from lingbot_eval.streaming.policy import EMPTY, Step, View
from lingbot_eval.streaming.protocol import CacheShape
from lingbot_eval.types import FrameType


class PagedStore:
    """Keys and values of the global blocks in pages (a `CacheStore`).

    Room for a full window is made at the start. After it the store grows by the pages that the table asks for and by
    no more: the window's are recycled, so the special stream alone adds one, every page_tokens / special_tokens frames.
    """

    def __init__(self, shape: CacheShape, window: int, executor: PagedExecutor) -> None:
        self._shape = shape
        self._window = window
        self._executor = executor
        self._page_tokens = shape.frame_tokens - shape.special_tokens
        self._manager = PageManager(self._page_tokens, shape.special_tokens)
        self._buffers = LayerBuffers(shape)
        self._view: View = EMPTY

    def begin(self, step: Step) -> None:
        """See `CacheStore`."""
        table = self._manager.begin(step)
        self._reserve(step, table)
        self._view = step.view
        self._buffers.aim(self._token_slots(table))
        self._executor.plan(table, step.count * self._shape.frame_tokens)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `lingbot_eval.model.protocols.KVCache`."""
        self.remember(layer, key, value)
        keys, values = self._buffers.layer(layer)
        pages = (-1, self._page_tokens, self._shape.heads, self._shape.head_dim)
        return self._executor.run(query, keys.view(pages), values.view(pages))

    def remember(self, layer: int, key: Tensor, value: Tensor) -> None:
        """See `CacheStore`."""
        self._buffers.write(layer, key, value)

    def keep_last(self, step: Step) -> None:
        """See `CacheStore`; nothing is copied."""
        self._manager.keep_last(step)
        self._view = step.view

    def capture_key(self) -> Hashable | None:
        """See `CacheStore`: while no page is added, tables change in place."""
        return self._buffers.capture_key(self._executor.capture_key())

    def used_bytes(self) -> dict[str, int]:
        """See `CacheStore`."""
        return self._shape.bytes_in_view(self._view)

    def allocated_bytes(self) -> int:
        """See `CacheStore`."""
        return self._buffers.allocated_bytes()

    def _token_slots(self, table: PageTable) -> Tensor:
        """Flat slot of every token of the pass, frame by frame: special tokens first, as frames have them."""
        special = torch.tensor(table.special_slots, dtype=torch.int64).view(len(table.patch_pages), -1)
        offsets = torch.arange(self._page_tokens)
        patches = torch.tensor(table.patch_pages, dtype=torch.int64)[:, None] * self._page_tokens + offsets
        return torch.cat([special, patches], dim=1).flatten()

    def _reserve(self, step: Step, table: PageTable) -> None:
        pages = table.pages_needed
        if step.frame_type is FrameType.SCALE:
            # A whole window is to come, and growing by a page a frame would copy all of it again and again.
            frames = step.count + self._window
            pages = max(pages, frames + -(-frames * self._shape.special_tokens // self._page_tokens))
        self._buffers.reserve(pages * self._page_tokens)
