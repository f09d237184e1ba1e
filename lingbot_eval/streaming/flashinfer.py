"""FlashInfer as the kernel of the paged store: planned once a pass, run once a layer, on the same page tables."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Hashable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lingbot_eval.errors import ConfigError, DependencyError, StreamError
from lingbot_eval.machine.gpu import HOPPER, capability
from lingbot_eval.streaming.buffers import CacheShape
from lingbot_eval.streaming.executors import in_pages
from lingbot_eval.streaming.pages import PageTable

OLDEST = (0, 6)
WORKSPACE_BYTES = 128 * 2**20
"""What FlashInfer's documentation recommends for the split-k intermediate results."""

SMALLEST_ROOM = 512
"""Page numbers that the first index buffer holds: two kilobytes."""

Kernel = Literal["fa2", "fa3"]
MEANWHILE = "backend sdpa works meanwhile"


def flashinfer_version() -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version("flashinfer-python")
    except importlib.metadata.PackageNotFoundError:
        return None


def kernel_of(device: torch.device) -> Kernel:
    """FlashInfer's kernels for a card: fa3, which was written for Hopper, there, and fa2 on all others."""
    return "fa3" if capability(device)[0] == HOPPER else "fa2"


def why_not(dtype: torch.dtype, device: torch.device) -> str | None:
    """One line that says why FlashInfer cannot serve keys of this type there, or None when it can."""
    version = flashinfer_version()
    if version is None:
        return f"FlashInfer is not installed: pip install 'lingbot-eval[flashinfer]'; {MEANWHILE}"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return f"FlashInfer {version} is too old: pip install 'flashinfer-python>={OLDEST[0]}.{OLDEST[1]}'; {MEANWHILE}"
    if device.type != "cuda":
        return f"FlashInfer needs a CUDA device, the model is on {device}; {MEANWHILE}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"FlashInfer needs precision bfloat16 or float16, found {dtype}; {MEANWHILE}"
    return None


class FlashInferExecutor:
    """A `PagedExecutor` on ``BatchPrefillWithPagedKVCacheWrapper``.

    Its index buffers are its own and stay in place from plan to plan, so that a captured CUDA graph reads the new
    table; they are made anew, larger, when a table no longer fits. The first run compiles the kernel.
    """

    def __init__(self, shape: CacheShape, page_tokens: int) -> None:
        """Raises DependencyError or ConfigError with :func:`why_not`'s line."""
        reason = why_not(shape.dtype, shape.device)
        if reason is not None:
            raise (ConfigError if "precision" in reason else DependencyError)(reason)
        self._shape = shape
        self._dtype = shape.dtype
        self._planned: tuple[PageTable, int] | None = None
        self._page_tokens = page_tokens
        self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=shape.device)
        self._wrapper: Any = None
        self._room = 0
        self._rows = 0
        self._made = 0

    def plan(self, table: PageTable, query_tokens: int) -> None:
        self._planned = table, query_tokens
        if self._wrapper is None or len(table.pages) > self._room or query_tokens != self._rows:
            self._make(len(table.pages), query_tokens)
        self._wrapper.plan(
            torch.tensor([0, query_tokens], dtype=torch.int32),
            torch.tensor([0, len(table.pages)], dtype=torch.int32),
            torch.tensor(table.pages, dtype=torch.int32),
            torch.tensor([table.last_page_tokens], dtype=torch.int32),
            num_qo_heads=self._shape.heads,
            num_kv_heads=self._shape.heads,
            head_dim_qk=self._shape.head_dim,
            page_size=self._page_tokens,
            causal=False,
            q_data_type=self._dtype,
        )

    def capture_key(self) -> Hashable | None:
        """The wrapper reads its table from buffers that stay in place as long as it lives."""
        return self._made

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if self._planned is None:
            raise StreamError("plan must come before run")
        if query.dtype is not self._dtype:  # the stream has left float16
            self._dtype = query.dtype
            self.plan(*self._planned)
        pages = tuple(in_pages(part, self._page_tokens) for part in (keys, values))
        return cast(Tensor, self._wrapper.run(query.contiguous(), pages))

    def _make(self, pages: int, rows: int) -> None:
        flashinfer = importlib.import_module("flashinfer")
        # Room for a window that is still filling: a new wrapper is a new capture. Then twice the table: the special
        # stream adds a page only every hundred kept frames or so.
        self._room, self._rows = max(SMALLEST_ROOM, 2 * pages), rows
        self._made += 1

        def buffer(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.int32, device=self._shape.device)

        self._wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            qo_indptr_buf=buffer(2),
            paged_kv_indptr_buf=buffer(2),
            paged_kv_indices_buf=buffer(self._room),
            paged_kv_last_page_len_buf=buffer(1),
            backend=kernel_of(self._shape.device),
        )
