"""The oracle: every token that ever entered is kept, and a mask made from the policy's view decides what is seen."""

from __future__ import annotations

import torch
from torch import Tensor

from lingbot_eval.streaming.policy import Step

UNKEPT = -1


class DenseMaskedStore:
    """A `CacheStore` that forgets nothing and masks; float64 softmax written out."""

    def __init__(self, layers: int, frame_tokens: int, special_tokens: int) -> None:
        self._frame_tokens = frame_tokens
        self._special = special_tokens
        self._keys: list[list[Tensor]] = [[] for _ in range(layers)]
        self._values: list[list[Tensor]] = [[] for _ in range(layers)]
        self._ordinals: list[int] = []  # of every frame that entered, UNKEPT where it was not kept
        self._step: Step | None = None

    def begin(self, step: Step) -> None:
        self._step = step
        self._ordinals += [step.clock + i if step.kept else UNKEPT for i in range(step.count)]

    def keep_last(self, step: Step) -> None:
        self._ordinals[-1] = step.clock

    def visible(self) -> Tensor:
        """(all tokens,) bool: what the current pass sees."""
        assert self._step is not None
        view = self._step.view
        full = set(view.anchor) | set(view.window)
        special = torch.arange(self._frame_tokens) < self._special
        rows = []
        for frame, ordinal in enumerate(self._ordinals):
            own = frame >= len(self._ordinals) - self._step.count
            whole = own or ordinal in full
            rows.append(special | True if whole else special & (ordinal in view.memory))
        return torch.cat(rows)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._keys[layer].append(key)
        self._values[layer].append(value)
        keys, values = torch.cat(self._keys[layer]).double(), torch.cat(self._values[layer]).double()
        scores = torch.einsum("qhd,khd->hqk", query.double(), keys) / query.shape[-1] ** 0.5
        scores = scores.masked_fill(~self.visible(), -torch.inf)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(query.dtype)
