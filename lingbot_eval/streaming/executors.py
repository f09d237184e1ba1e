"""How attention over a page table is computed: the seam between the paged store and its kernels, and the oracle."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lingbot_eval.errors import StreamError
from lingbot_eval.streaming.buffers import CacheShape
from lingbot_eval.streaming.cache import CacheReader
from lingbot_eval.streaming.pages import PageTable


class PagedExecutor(CacheReader, Protocol):
    """Attends to pages of a layer's tokens."""

    def plan(self, table: PageTable, query_tokens: int) -> None:
        """Take the table of the coming pass, of ``query_tokens`` queries."""
        ...


def in_pages(tokens: Tensor, page_tokens: int) -> Tensor:
    """(pages, page_tokens, heads, head_dim) of (capacity, heads, head_dim) keys or values."""
    return tokens.view(-1, page_tokens, *tokens.shape[1:])


class TorchExecutor:
    """Gathers the pages and calls torch's SDPA: any device, any dtype. The oracle of the other executors."""

    def __init__(self, shape: CacheShape, page_tokens: int) -> None:
        self._device = shape.device
        self._page_tokens = page_tokens
        self._table: PageTable | None = None
        self._pages: Tensor | None = None

    def plan(self, table: PageTable, query_tokens: int) -> None:
        self._table = table
        self._pages = torch.tensor(table.pages, dtype=torch.int64, device=self._device)

    def capture_key(self) -> None:
        """Gathers another number of pages as the table grows."""

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if self._table is None or self._pages is None:
            raise StreamError("plan must come before run")
        visible = (len(self._table.pages) - 1) * self._page_tokens + self._table.last_page_tokens
        tokens = (in_pages(part, self._page_tokens) for part in (keys, values))
        key, value = (part.index_select(0, self._pages).flatten(0, 1)[:visible] for part in tokens)
        q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
