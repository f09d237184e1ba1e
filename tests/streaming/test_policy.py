"""The cache policy against the rules of model.md section 6, spelled out frame by frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.errors import ConfigError, StreamError
from lingbot_eval.streaming.policy import CachePolicy, Step, is_keyframe
from lingbot_eval.types import FrameType

# What becomes of each step frame: kept at once, passed by, or passed by and kept after the fact.
FATES = st.lists(st.sampled_from(["keep", "pass", "late"]), max_size=40)


def play(policy: CachePolicy, scale: int, fates: list[str]) -> list[tuple[str, Step]]:
    steps = [("scale", policy.enter_scale(scale))]
    for fate in fates:
        if fate == "keep":
            steps.append((fate, policy.keep()))
        else:
            steps.append(("pass", policy.pass_by()))
            if fate == "late":
                steps.append(("late", policy.keep_last()))
    return steps


@given(st.integers(1, 6), st.integers(1, 7), FATES)
def test_view_is_the_rule_of_the_specification(scale: int, window: int, fates: list[str]) -> None:
    kept = list(range(scale))  # ordinals, in order
    frame = scale
    for kind, step in play(CachePolicy(window), scale, fates)[1:]:
        if kind == "pass":
            expected_clock, expected_frame = len(kept), frame
            frame += 1
        else:
            expected_clock = len(kept)
            expected_frame = frame if kind == "keep" else frame - 1
            frame += kind == "keep"
            kept.append(expected_clock)
        anchor = set(kept[:scale])
        recent = set(kept[-window:]) - anchor
        assert set(step.view.anchor) == anchor
        assert set(step.view.window) == recent
        assert set(step.view.memory) == set(kept) - anchor - recent
        assert (step.clock, step.frame) == (expected_clock, expected_frame)
        assert step.frame_type is (FrameType.UNKEPT if kind == "pass" else FrameType.KEPT)


@given(st.integers(1, 6), st.integers(1, 7), FATES)
def test_every_evicted_frame_left_the_window_just_then(scale: int, window: int, fates: list[str]) -> None:
    before = None
    for _, step in play(CachePolicy(window), scale, fates):
        if before is not None:
            left = set(before.view.window) - set(step.view.window)
            assert left == (set() if step.evicted is None else {step.evicted})
        before = step


def test_scale_frames_are_one_step() -> None:
    step = CachePolicy(4).enter_scale(3)
    assert (step.count, step.clock, step.frame_type, step.kept) == (3, 0, FrameType.SCALE, True)
    assert (list(step.view.anchor), list(step.view.window), list(step.view.memory)) == ([0, 1, 2], [], [])


def test_tokens_in_view() -> None:
    policy = CachePolicy(2)
    policy.enter_scale(3)
    for _ in range(5):
        step = policy.keep()
    assert step.view.tokens(frame_tokens=10, special_tokens=6) == (3 + 2) * 10 + 3 * 6


@pytest.mark.parametrize(("scale", "interval", "kept"), [(3, 1, [3, 4, 5, 6, 7, 8]), (3, 3, [3, 6]), (8, 2, [8])])
def test_fixed_interval_counts_from_the_scale_frames(scale: int, interval: int, kept: list[int]) -> None:
    assert [frame for frame in range(scale, 9) if is_keyframe(frame, scale, interval)] == kept


def test_order_of_calls_is_held() -> None:
    policy = CachePolicy(2)
    for too_early in (policy.keep, policy.pass_by):
        with pytest.raises(StreamError, match="a stream opens with its scale phase"):
            too_early()
    with pytest.raises(StreamError, match="needs at least one frame, found none"):
        policy.enter_scale(0)
    assert (policy.frames, policy.kept) == (0, 0)
    policy.enter_scale(1)
    with pytest.raises(StreamError, match="opens a stream"):
        policy.enter_scale(1)
    policy.keep()
    with pytest.raises(StreamError, match="passed by last"):
        policy.keep_last()
    policy.pass_by()
    policy.keep_last()
    with pytest.raises(StreamError, match="passed by last"):
        policy.keep_last()
    policy.pass_by()
    policy.keep()
    with pytest.raises(StreamError, match="passed by last"):
        policy.keep_last()
    assert (policy.frames, policy.kept) == (5, 4)
    with pytest.raises(ConfigError, match="window must be at least 1"):
        CachePolicy(0)
