"""One mask that stands for streaming: what every frame of a training clip sees, from the cache's own policy.

Source: model.md section 6. `lingbot_eval.streaming.policy.CachePolicy`, which streaming obeys, is asked frame by frame;
its answers are laid out as a matrix of frames. Nothing of the policy is repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.streaming.policy import CachePolicy, Step, is_keyframe

HIDDEN, SPECIALS, WHOLE = 0, 1, 2


@dataclass(frozen=True)
class StreamShape:
    """A clip as a stream: its frames, the first scale_frames of which enter together; window and interval as usual."""

    frames: int
    scale_frames: int
    window: int
    interval: int


@dataclass(frozen=True, eq=False)
class Visibility:
    """seen: (F, F) uint8; row f says of every frame whether f sees nothing, the special tokens, or all of it.

    clocks: (F,) int64 keyframe clock. kept: (F,) whether the frame enters the cache.
    """

    shape: StreamShape
    seen: NDArray[np.uint8]
    clocks: NDArray[np.int64]
    kept: NDArray[np.bool_]


Ablated = Callable[[Visibility], Visibility]
"""A change of what a stream sees, as `training.ablations` makes them."""


def unchanged(seen: Visibility) -> Visibility:
    """No ablation."""
    return seen


def visibility(shape: StreamShape) -> Visibility:
    """Run the policy over a clip."""
    policy = CachePolicy(shape.window)
    seen = np.full((shape.frames, shape.frames), HIDDEN, np.uint8)
    clocks, kept = np.zeros(shape.frames, np.int64), np.zeros(shape.frames, bool)
    frame_of: list[int] = []  # kept frames by ordinal
    while policy.frames < shape.frames:
        step = _next_step(policy, shape)
        frames = range(step.frame, step.frame + step.count)
        if step.kept:
            frame_of += frames
        for ordinals, what in ((step.view.memory, SPECIALS), (step.view.anchor, WHOLE), (step.view.window, WHOLE)):
            seen[np.ix_(frames, [frame_of[ordinal] for ordinal in ordinals])] = what
        for offset, frame in enumerate(frames):
            seen[frame, frame] = WHOLE
            clocks[frame], kept[frame] = step.clock + offset, step.kept
    return Visibility(shape, seen, clocks, kept)


def _next_step(policy: CachePolicy, shape: StreamShape) -> Step:
    if not policy.frames:
        return policy.enter_scale(min(shape.scale_frames, shape.frames))
    if is_keyframe(policy.frames, shape.scale_frames, shape.interval):
        return policy.keep()
    return policy.pass_by()
