"""How attention over a page table is computed: the seam between the paged store and its kernels, and the oracle."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lingbot_eval.errors import StreamError
from lingbot_eval.streaming.pages import PageTable
from lingbot_eval.streaming.protocol import CacheShape


class PagedExecutor(Protocol):
    """Attends to pages: planned once a pass, run once a layer."""

    def plan(self, table: PageTable, query_tokens: int) -> None:
        """Take the table of the coming pass, of ``query_tokens`` queries."""
        ...

    def capture_key(self) -> Hashable | None:
        """See `CacheStore`: changes when ``run`` would read its table from other memory."""
        ...

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(N, heads, head_dim) queries over (pages, page_tokens, heads, head_dim) keys and values → as the queries."""
        ...


class TorchExecutor:
    """Gathers the pages and calls torch's SDPA: any device, any dtype. The oracle of the other executors."""

    def __init__(self, shape: CacheShape, page_tokens: int) -> None:
        self._device = shape.device
        self._page_tokens = page_tokens
        self._table: PageTable | None = None
        self._pages: Tensor | None = None

    def plan(self, table: PageTable, query_tokens: int) -> None:
        """See `PagedExecutor`."""
        self._table = table
        self._pages = torch.tensor(table.pages, dtype=torch.int64, device=self._device)

    def capture_key(self) -> None:
        """Gathers another number of pages as the table grows. See `PagedExecutor`."""

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `PagedExecutor`."""
        if self._table is None or self._pages is None:
            raise StreamError("plan must come before run")
        visible = (len(self._table.pages) - 1) * self._page_tokens + self._table.last_page_tokens
        key, value = (
            part.index_select(0, self._pages).flatten(0, 1)[:visible].transpose(0, 1)[None] for part in (keys, values)
        )
        return F.scaled_dot_product_attention(query.transpose(0, 1)[None], key, value)[0].transpose(0, 1)
