"""What is trained on when: phases of a run, each with diets of clips, the batches drawn from them, and the optimiser's
numbers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from training.clips import Bank, Clips, draw_clips
from training.forward import ClipPlan, StreamShape
from training.losses import LossWeights

ITERATIONS = 4
"""Refinement iterations of the camera head, as streaming runs them."""
SCALE_FRAMES = 8
"""Anchor frames, as streaming takes them unless told otherwise."""


@dataclass(frozen=True)
class Diet:
    """One kind of batch.

    size: (height, width). strides: frames apart in the rendered sequence, inclusive. windows, intervals: one of each is
    drawn a batch. depth_frames: how many of the clips·frames images have their depth supervised, drawn a batch.
    """

    clips: int
    frames: int
    size: tuple[int, int]
    strides: tuple[int, int]
    windows: tuple[int, ...]
    intervals: tuple[int, ...]
    depth_frames: int


@dataclass(frozen=True)
class Phase:
    """diets: (weight, diet) drawn from until the run has come as far as ``until``, a share of the whole."""

    until: float
    diets: tuple[tuple[float, Diet], ...]


@dataclass(frozen=True)
class Recipe:
    """A whole run. bank_*: sequences held, frames of each, their size. opening_jobs: scenes before the first step;
    first_jobs: scenes taken as soon as they are there, one a step; job_every: steps between further scenes. walks:
    sequences a scene."""

    phases: tuple[Phase, ...]
    bank_capacity: int
    bank_frames: int
    bank_size: tuple[int, int]
    opening_jobs: int
    first_jobs: int
    job_every: int
    walks: int
    validation_scenes: int
    validation_frames: int
    learning_rate: float = 1e-3
    final_share: float = 0.01
    warmup: float = 0.03
    weight_decay: float = 0.03
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ema: float = 0.998
    weights: LossWeights = field(default_factory=LossWeights)

    def phase_at(self, progress: float) -> Phase:
        """The phase of a run that has come as far as ``progress`` in [0, 1]."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])

    def learning_rate_at(self, progress: float) -> float:
        """Linear warm-up, then a cosine down to ``final_share``."""
        if progress < self.warmup:
            return self.learning_rate * (progress + 1e-3) / (self.warmup + 1e-3)
        done = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        return self.learning_rate * (self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2)


LOW, HIGH = (84, 112), (168, 224)
# Batches small enough that a run of minutes has thousands of steps: finding matches at all takes many.
_SHORT = Diet(24, 16, LOW, (1, 8), (4, 8, 16), (1, 1, 2), 48)
_LONG = Diet(8, 144, LOW, (1, 1), (8, 16, 16), (1, 1, 2, 4), 96)
_SHORT_SHARP = Diet(16, 16, HIGH, (1, 8), (4, 8, 16), (1, 1, 2), 48)
_LONG_SHARP = Diet(3, 144, HIGH, (1, 1), (8, 16, 16), (1, 1, 2, 4), 48)

_GPU = Recipe(
    phases=(
        Phase(0.21, ((1.0, _SHORT),)),
        Phase(0.58, ((0.4, _SHORT), (0.6, _LONG))),
        Phase(1.0, ((0.6, _SHORT_SHARP), (0.4, _LONG_SHARP))),
    ),
    bank_capacity=900,
    bank_frames=160,
    bank_size=HIGH,
    opening_jobs=20,
    first_jobs=200,
    job_every=16,
    walks=3,
    validation_scenes=10,
    validation_frames=150,
)

RECIPES = {
    # One GPU, twenty minutes: most of them at half resolution, where a step sees most.
    "gpu": _GPU,
    # The same where another run's weights go on: what comes early is known, and nothing is to be unlearned.
    "gpu-more": replace(
        _GPU,
        phases=(
            Phase(0.20, ((0.5, _SHORT), (0.5, _LONG))),
            Phase(1.0, ((0.45, _SHORT_SHARP), (0.55, _LONG_SHARP))),
        ),
        learning_rate=6e-4,
    ),
    # Seconds on a CPU: that everything runs, not that anything is learned.
    "tiny": Recipe(
        phases=(
            Phase(0.5, ((1.0, Diet(2, 8, (28, 42), (1, 2), (2, 4), (1, 2), 8)),)),
            Phase(1.0, ((1.0, Diet(1, 10, (56, 84), (1, 1), (2,), (1,), 4)),)),
        ),
        bank_capacity=4,
        bank_frames=24,
        bank_size=(56, 84),
        opening_jobs=2,
        first_jobs=3,
        job_every=4,
        walks=1,
        validation_scenes=2,
        validation_frames=12,
    ),
}


Batch = tuple[Clips, ClipPlan, Tensor]
"""Clips, their masks, and the (n,) indices of the frames whose depth is supervised."""


class BatchMaker:
    """Draws from a bank of sequences; masks are made once and kept."""

    def __init__(self, bank: Bank, precision: torch.dtype) -> None:
        self._bank = bank
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
        clips = draw_clips(
            self._bank,
            generator,
            clips=diet.clips,
            frames=diet.frames,
            size=diet.size,
            strides=diet.strides,
            anchor=SCALE_FRAMES,
        )
        order = torch.randperm(diet.clips * diet.frames, generator=generator)
        chosen = order[: diet.depth_frames].sort().values
        return clips, self._plan(stream, diet), chosen.to(self._bank.device)

    def _plan(self, stream: StreamShape, diet: Diet) -> ClipPlan:
        # A plan of each diet's own: a captured step is of one plan, and of one number of clips and supervised frames.
        key = (stream, diet)
        if key not in self._plans:
            self._plans[key] = ClipPlan(stream, diet.size, self._like)
        return self._plans[key]
