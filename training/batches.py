"""Batches as a diet asks for them: clips of the bank, the masks of a stream, and whose depth is supervised."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from training.bank import Bank
from training.clips import Clips, ClipShape, draw_clips
from training.forward import ClipPlan
from training.recipe import SCALE_FRAMES, Diet, Phase
from training.visibility import StreamShape

Batch = tuple[Clips, ClipPlan, Tensor]
"""Clips, their masks, and the (n,) indices of the frames whose depth is supervised."""


class BatchMaker:
    """Draws from a bank of sequences of ``length`` frames; masks are made once and kept."""

    def __init__(self, bank: Bank, length: int, precision: torch.dtype) -> None:
        self._bank, self._length = bank, length
        self._like = torch.empty(0, dtype=precision, device=bank.device)
        self._plans: dict[tuple[StreamShape, Diet], ClipPlan] = {}

    def draw(self, phase: Phase, generator: torch.Generator) -> Batch:
        """A batch of one of the phase's diets, in one of its windows and intervals."""
        dice = random.Random(int(torch.randint(2**62, (), generator=generator)))
        diet = dice.choices([d for _, d in phase.diets], [w for w, _ in phase.diets])[0]
        stream = StreamShape(diet.frames, SCALE_FRAMES, dice.choice(diet.windows), dice.choice(diet.intervals))
        return self._make(diet, stream, generator)

    def widest(self, diet: Diet, generator: torch.Generator) -> Batch:
        """The batch of a diet that needs most memory."""
        stream = StreamShape(diet.frames, SCALE_FRAMES, max(diet.windows), max(diet.intervals))
        return self._make(diet, stream, generator)

    def _make(self, diet: Diet, stream: StreamShape, generator: torch.Generator) -> Batch:
        shape = ClipShape(diet.clips, diet.frames, diet.size, diet.strides, SCALE_FRAMES)
        clips = draw_clips(self._bank, self._length, shape, generator)
        order = torch.randperm(diet.clips * diet.frames, generator=generator)
        chosen = order[: diet.depth_frames].sort().values
        return clips, self._plan(stream, diet), chosen.to(self._bank.device)

    def _plan(self, stream: StreamShape, diet: Diet) -> ClipPlan:
        # A plan of each diet's own: a captured step is of one plan, and of one number of clips and supervised frames.
        key = (stream, diet)
        if key not in self._plans:
            self._plans[key] = ClipPlan(stream, diet.size, self._like)
        return self._plans[key]
