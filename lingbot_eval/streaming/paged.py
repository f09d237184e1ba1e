"""The paged store: pages of a frame's patch tokens and of the special stream, one table a pass for all layers.

The page table is in integers only. A page holds as many tokens as a frame has patches. Patch tokens of a visible frame
fill one page, recycled when the frame leaves the window; special tokens of all kept frames form one append-only stream
over pages of their own, which is never copied: a frame that leaves the window for the memory just gives its patch page
back. A step's table lists the patch pages in view, then the pages of the special stream, of which only the last is
partly filled: the form that paged attention kernels take. Source: model.md section 6; the order of keys does not
matter.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lingbot_eval.errors import ConfigError, DependencyError, StreamError
from lingbot_eval.machine.gpu import HOPPER, capability
from lingbot_eval.streaming.cache import CacheShape, CacheStore
from lingbot_eval.streaming.policy import Step
from lingbot_eval.types import FrameType


@dataclass(frozen=True)
class PageTable:
    """What one pass sees and where it is written; the same for every layer.

    pages: page numbers in view, the partly filled one last. last_page_tokens: tokens in it. patch_pages: the pages
    that the pass's frames fill with patch tokens. special_slots: flat slots (page · page_tokens + offset) of their
    special tokens, frame by frame. pages_needed: pages that must exist.
    """

    pages: tuple[int, ...]
    last_page_tokens: int
    patch_pages: tuple[int, ...]
    special_slots: tuple[int, ...]
    pages_needed: int


class PageManager:
    """Hands pages out and takes them back, following the policy's steps."""

    def __init__(self, page_tokens: int, special_tokens: int) -> None:
        self._page_tokens = page_tokens
        self._special_tokens = special_tokens
        self._patch_pages: dict[int, int] = {}  # ordinal of a frame in view → its page
        self._special_pages: list[int] = []
        self._free: list[int] = []
        self._pages = 0
        self._passing: int | None = None  # page of the frame that passed by last

    @property
    def pages(self) -> int:
        """Pages handed out so far, free ones included: what must be allocated."""
        return self._pages

    def state(self) -> dict[str, Any]:
        """The whole of it as plain values, for :meth:`restore`."""
        return {
            "patch_pages": [list(pair) for pair in self._patch_pages.items()],
            "special_pages": list(self._special_pages),
            "free": list(self._free),
            "pages": self._pages,
            "passing": self._passing,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where another manager of the same pages was."""
        self._patch_pages = dict(state["patch_pages"])
        self._special_pages, self._free = list(state["special_pages"]), list(state["free"])
        self._pages, self._passing = state["pages"], state["passing"]

    def begin(self, step: Step) -> PageTable:
        """The table of a pass; the page of a frame that passed by before is taken back first."""
        if self._passing is not None:
            self._free.append(self._passing)
            self._passing = None
        self._evict(step)
        own = tuple(self._take() for _ in range(step.count))
        if step.kept:
            self._patch_pages |= {step.clock + i: page for i, page in enumerate(own)}
        else:
            (self._passing,) = own
        special = (step.clock + step.count) * self._special_tokens
        while len(self._special_pages) * self._page_tokens < special:
            self._special_pages.append(self._take())
        first = step.clock * self._special_tokens
        # A frame that passes by writes behind the stream's end, where the next frame overwrites it.
        filled = -(-special // self._page_tokens)
        return PageTable(
            pages=(*self._visible(step), *(() if step.kept else own), *self._special_pages[:filled]),
            last_page_tokens=special - (filled - 1) * self._page_tokens,
            patch_pages=own,
            special_slots=tuple(self._slot(token) for token in range(first, special)),
            pages_needed=self._pages,
        )

    def keep_last(self, step: Step) -> None:
        """The frame that passed by last stays: its page becomes its own, its special tokens lie in place already."""
        if self._passing is None:
            raise StreamError("the last frame of the stream is kept already")
        self._evict(step)
        self._patch_pages[step.clock] = self._passing
        self._passing = None

    def _visible(self, step: Step) -> tuple[int, ...]:
        return tuple(self._patch_pages[ordinal] for part in (step.view.anchor, step.view.window) for ordinal in part)

    def _evict(self, step: Step) -> None:
        if step.evicted is not None:
            self._free.append(self._patch_pages.pop(step.evicted))

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self._pages += 1
        return self._pages - 1

    def _slot(self, token: int) -> int:
        page, offset = divmod(token, self._page_tokens)
        return self._special_pages[page] * self._page_tokens + offset


def in_pages(tokens: Tensor, page_tokens: int) -> Tensor:
    """(pages, page_tokens, heads, head_dim) of (capacity, heads, head_dim) keys or values."""
    return tokens.view(-1, page_tokens, *tokens.shape[1:])


class TorchExecutor:
    """Gathers the pages and calls torch's SDPA: any device, any dtype. The oracle of the other executors."""

    def __init__(self, shape: CacheShape) -> None:
        self._device = shape.device
        self._page_tokens = shape.patch_tokens
        self._table: PageTable | None = None
        self._pages: Tensor | None = None

    def plan(self, table: PageTable, query_tokens: int) -> None:
        """Take the table of the coming pass, of ``query_tokens`` queries."""
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


def flashinfer_why_not(dtype: torch.dtype, device: torch.device) -> str | None:
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
    """FlashInfer, on ``BatchPrefillWithPagedKVCacheWrapper``: planned once a pass, run once a layer.

    Its index buffers are its own and stay in place from plan to plan, so that a captured CUDA graph reads the new
    table; they are made anew, larger, when a table no longer fits. The first run compiles the kernel.
    """

    def __init__(self, shape: CacheShape) -> None:
        """Raises DependencyError or ConfigError with :func:`flashinfer_why_not`'s line."""
        reason = flashinfer_why_not(shape.dtype, shape.device)
        if reason is not None:
            raise (ConfigError if "precision" in reason else DependencyError)(reason)
        self._shape = shape
        self._dtype = shape.dtype
        self._planned: tuple[PageTable, int] | None = None
        self._page_tokens = shape.patch_tokens
        self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=shape.device)
        self._wrapper: Any = None
        self._room = 0
        self._rows = 0
        self._made = 0

    def plan(self, table: PageTable, query_tokens: int) -> None:
        """As of `TorchExecutor`."""
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


def paged_tokens(shape: CacheShape, whole: int, entered: int, *, passing: bool) -> int:
    """Capacity that a stream needs whose cache sees ``whole`` frames whole at most.

    Args:
        shape: of the store.
        whole: anchor and window.
        entered: frames whose special tokens have had a place, one that is not kept included.
        passing: whether any frame was not kept.
    """
    page, special = shape.patch_tokens, shape.special_tokens
    at_first = whole + -(-whole * special // page)
    return page * max(at_first, min(entered, whole + passing) + -(-entered * special // page))


PagedExecutor = TorchExecutor | FlashInferExecutor
"""Attends to pages of a layer's tokens."""


class PagedStore(CacheStore):
    """Keys and values of the global blocks in pages.

    Room for a full window is made at the start. After it the store grows by the pages that the table asks for and by
    no more: the window's are recycled, so the special stream alone adds one, every page_tokens / special_tokens frames.
    """

    def __init__(self, shape: CacheShape, window: int, executor: PagedExecutor) -> None:
        super().__init__(shape, executor)
        self._window = window
        self._executor = executor
        self._page_tokens = shape.patch_tokens
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
