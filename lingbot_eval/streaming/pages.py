"""The page table in integers only: which pages hold what, who may see them, where the next tokens go.

A page holds as many tokens as a frame has patches. Patch tokens of a visible frame fill one page, recycled when the
frame leaves the window; special tokens of all kept frames form one append-only stream over pages of their own, which
is never copied: a frame that leaves the window for the memory just gives its patch page back. A step's table lists
the patch pages in view, then the pages of the special stream, of which only the last is partly filled: the form that
paged attention kernels take. Source: model.md section 6; the order of keys does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lingbot_eval.errors import StreamError
from lingbot_eval.streaming.policy import Step


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
