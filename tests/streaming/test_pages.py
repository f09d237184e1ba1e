"""The page manager: pages are never lost, never shared, and no more than the policy can need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.errors import StreamError
from lingbot_eval.streaming.paged import PageManager, PageTable
from lingbot_eval.streaming.policy import CachePolicy, Step

FATES = st.lists(st.sampled_from(["keep", "pass", "late"]), max_size=60)
SPECIAL = 6


def check(table: PageTable, step: Step, manager: PageManager, page_tokens: int) -> None:
    """One pass: what is in view is there once, and what is written is in view."""
    specials = (step.clock + step.count) * SPECIAL  # of every kept frame, and of this one
    full = step.view.full_frames + (0 if step.kept else 1)
    special_pages = -(-specials // page_tokens)
    assert len(table.pages) == len(set(table.pages)) == full + special_pages
    assert max(table.pages) < table.pages_needed == manager.pages
    assert 0 < table.last_page_tokens <= page_tokens
    assert (special_pages - 1) * page_tokens + table.last_page_tokens == specials
    # Its own patch pages are in view, before the special pages; its special tokens end the stream.
    patches, stream = table.pages[:full], table.pages[full:]
    assert set(table.patch_pages) <= set(patches)
    assert len(table.patch_pages) == step.count
    written = [(stream.index(slot // page_tokens), slot % page_tokens) for slot in table.special_slots]
    assert written == [divmod(token, page_tokens) for token in range(specials - step.count * SPECIAL, specials)]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 40), FATES)
def test_pages_never_leak_and_never_alias(scale: int, window: int, page_tokens: int, fates: list[str]) -> None:
    policy, manager = CachePolicy(window), PageManager(page_tokens, SPECIAL)
    step = policy.enter_scale(scale)
    check(manager.begin(step), step, manager, page_tokens)
    scratch = 0
    for fate in fates:
        step = policy.keep() if fate == "keep" else policy.pass_by()
        check(manager.begin(step), step, manager, page_tokens)
        if fate != "keep":
            scratch = 1
        if fate == "late":
            manager.keep_last(policy.keep_last())
        # Every page is the anchor's, the window's, the special stream's, free, or the one of a frame passing by.
        streamed = -(-(policy.kept + (fate == "pass")) * SPECIAL // page_tokens)
        view = policy.view()
        most = scale + min(window, len(view.window) + len(view.memory)) + scratch
        assert manager.pages - streamed <= most
        assert len(manager._free) == manager.pages - view.full_frames - streamed - (fate == "pass")


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 30), st.integers(0, 6))
def test_passing_frames_leave_no_trace(scale: int, window: int, page_tokens: int, passing: int) -> None:
    """The same kept frames, with and without others between them, are in view as often and in as many tokens."""
    plain, disturbed = PageManager(page_tokens, SPECIAL), PageManager(page_tokens, SPECIAL)
    policies = CachePolicy(window), CachePolicy(window)
    plain.begin(policies[0].enter_scale(scale))
    disturbed.begin(policies[1].enter_scale(scale))
    for _ in range(8):
        for _ in range(passing):
            disturbed.begin(policies[1].pass_by())
        one, other = plain.begin(policies[0].keep()), disturbed.begin(policies[1].keep())
        assert len(one.pages) == len(other.pages)
        assert one.last_page_tokens == other.last_page_tokens
    # All that the frames passing by ever cost is the one page that the last of them lay in.
    assert disturbed.pages - plain.pages <= 1 + -(-SPECIAL // page_tokens)


def test_only_a_passing_frame_can_be_kept_late() -> None:
    policy, manager = CachePolicy(2), PageManager(10, SPECIAL)
    manager.begin(policy.enter_scale(1))
    policy.pass_by()
    with pytest.raises(StreamError, match="kept already"):
        manager.keep_last(policy.keep_last())
