"""Faults for the evaluation's own path, one at a time: the ablations of training, planted in the streaming code.

Settings stay as they are, so that records of broken and of whole code can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lingbot_eval.methods.model import LingbotMethod
from lingbot_eval.model.blocks import Rotation, StreamRotary
from lingbot_eval.streaming.contiguous import AppendStore, ContiguousStore, SlicedAttention
from lingbot_eval.streaming.policy import Step, View
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.stores import StreamStores
from lingbot_eval.types import Frame, FrameType, Prediction

Fault = Callable[[pytest.MonkeyPatch], None]


def window_of_one(patch: pytest.MonkeyPatch) -> None:
    """Sessions hold a window of one frame, whatever was asked for."""
    opened = StreamingSession.__init__

    def open_narrow(self: StreamingSession, model: Any, settings: Any, **given: Any) -> None:
        opened(self, model, settings.model_copy(update={"window": 1}), **given)

    patch.setattr(StreamingSession, "__init__", open_narrow)


def one_iteration(patch: pytest.MonkeyPatch) -> None:
    """Sessions refine a pose once."""
    opened = StreamingSession.__init__

    def open_hasty(self: StreamingSession, model: Any, settings: Any, **given: Any) -> None:
        opened(self, model, settings, **(given | {"camera_iterations": 1}))

    patch.setattr(StreamingSession, "__init__", open_hasty)


def frozen_clock(patch: pytest.MonkeyPatch) -> None:
    """Every frame stands at the first one's time."""
    at = StreamRotary.at

    def at_zero(self: StreamRotary, clock: int, count: int) -> Rotation:
        first = at(self, 0, 1)
        return replace(first, cos=first.cos.repeat(count, 1), sin=first.sin.repeat(count, 1))

    patch.setattr(StreamRotary, "at", at_zero)


def shuffled_frames(patch: pytest.MonkeyPatch) -> None:
    """Frames after the first enter in random order; predictions leave in the true one, each with its own frame."""
    predict = LingbotMethod.predict

    def predict_shuffled(self: LingbotMethod, frames: Iterable[Frame]) -> Iterator[Prediction]:
        given = list(frames)
        order = [0, *(1 + torch.randperm(len(given) - 1, generator=torch.Generator().manual_seed(0))).tolist()]
        yield from sorted(predict(self, (given[i] for i in order)), key=lambda prediction: prediction.index)

    patch.setattr(LingbotMethod, "predict", predict_shuffled)


def no_anchor(patch: pytest.MonkeyPatch) -> None:
    """Attention passes over the scale frames once their phase is over."""
    _hide(patch, lambda view: view.anchor)


def no_memory(patch: pytest.MonkeyPatch) -> None:
    """Attention passes over frames that left the window."""
    _hide(patch, lambda view: view.memory)


# By their names in training/ablations.py.
FAULTS: Mapping[str, Fault] = {
    "window of 1": window_of_one,
    "no anchor frames": no_anchor,
    "no trajectory memory": no_memory,
    "frozen rotary clock": frozen_clock,
    "shuffled frames": shuffled_frames,
    "one refinement iteration": one_iteration,
}


def _hide(patch: pytest.MonkeyPatch, hidden: Callable[[View], range]) -> None:
    """From steps after the scale phase, in the blocks' store of backend sdpa on a CPU and in the camera head's."""
    begun: list[Step] = []
    begin = StreamStores.begin

    def begin_and_note(self: StreamStores, step: Step) -> None:
        begin(self, step)
        begun[:] = [step]

    def attend(places_of: Callable[[Any, range], Tensor]) -> Callable[..., Tensor]:
        def attend_past(self: Any, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.remember(layer, key, value)
            (step,) = begun
            start, end = self._attention._range
            seen = torch.ones(end, dtype=torch.bool)
            seen[:start] = False
            if step.frame_type is not FrameType.SCALE:
                seen[places_of(self, hidden(step.view))] = False
            keys, values = (part[:end][seen] for part in self._buffers.layer(layer))
            kernel = SlicedAttention()
            kernel.plan(0, len(keys), len(keys))
            return kernel.run(query, keys, values)

        return attend_past

    patch.setattr(StreamStores, "begin", begin_and_note)
    patch.setattr(ContiguousStore, "attend", attend(_places_in_blocks))
    patch.setattr(AppendStore, "attend", attend(lambda _, frames: torch.arange(frames.start, frames.stop)))


def _places_in_blocks(store: Any, frames: range) -> Tensor:
    """Of the tokens of anchor or memory frames: special tokens left of the base, anchors' patches right of it."""
    special, anchors = store._shape.special_tokens, len(store._view.anchor)
    patches = [store._base + min(ordinal, anchors) * store._patches for ordinal in (frames.start, frames.stop)]
    specials = store._base - frames.stop * special, store._base - frames.start * special
    return torch.cat([torch.arange(*specials), torch.arange(*patches)])
