"""The paged store: pages of a frame's patch tokens and of the special stream, one table a pass for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lingbot_eval.streaming.buffers import CacheShape
from lingbot_eval.streaming.cache import CacheStore
from lingbot_eval.streaming.executors import PagedExecutor
from lingbot_eval.streaming.pages import PageManager, PageTable
from lingbot_eval.streaming.policy import Step
from lingbot_eval.types import FrameType


def paged_tokens(shape: CacheShape, whole: int, entered: int, *, passing: bool) -> int:
    """Capacity that a stream needs whose cache sees ``whole`` frames whole at most.

    Args:
        shape: of the store.
        whole: anchor and window.
        entered: frames whose special tokens have had a place, one that is not kept included.
        passing: whether any frame was not kept.
    """
    page, special = shape.frame_tokens - shape.special_tokens, shape.special_tokens
    at_first = whole + -(-whole * special // page)
    return page * max(at_first, min(entered, whole + passing) + -(-entered * special // page))


class PagedStore(CacheStore):
    """Keys and values of the global blocks in pages.

    Room for a full window is made at the start. After it the store grows by the pages that the table asks for and by
    no more: the window's are recycled, so the special stream alone adds one, every page_tokens / special_tokens frames.
    """

    def __init__(self, shape: CacheShape, window: int, executor: PagedExecutor) -> None:
        super().__init__(shape, executor)
        self._window = window
        self._executor = executor
        self._page_tokens = shape.frame_tokens - shape.special_tokens
        self._manager = PageManager(self._page_tokens, shape.special_tokens)

    def begin(self, step: Step) -> None:
        table = self._manager.begin(step)
        self._reserve(step, table)
        self._view = step.view
        self._buffers.aim(self._token_slots(table), range(self._buffers.capacity))
        self._executor.plan(table, step.count * self._shape.frame_tokens)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "pages": self._manager.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._manager.restore(state["pages"])

    def keep_last(self, step: Step) -> None:
        """Nothing is copied."""
        self._manager.keep_last(step)
        self._view = step.view

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
