"""Network, auxiliary heads, optimiser and averaged weights: what a step changes and a state keeps.

On a GPU steps are CUDA graphs, one a kind of batch: of a small network a GPU waits for launches, not for arithmetic.
Steps whose gradient is not finite are passed over and counted; too many end the run.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from lingbot_eval.errors import CheckpointError, LingbotEvalError
from lingbot_eval.model.build import empty_model
from lingbot_eval.model.config import ModelConfig
from lingbot_eval.model.network import GeometricContextTransformer
from training.clips import Clips
from training.forward import ClipPlan, run_clips
from training.losses import AuxiliaryHeads, losses
from training.recipe import ITERATIONS, Recipe
from training.state import AUXILIARY, Start, optimizer_tensors, restore_optimizer

RECENT_STEPS = 1_000
MOST_RECENT_SKIPS = 10
"""1 % of the recent steps; a share of fewer steps would make one bad batch early on the end of a run."""
MOST_IN_A_ROW = 20


class TrainingError(LingbotEvalError):
    """Training that cannot go on: too many gradients are no longer numbers."""


@dataclass(frozen=True)
class SkipCount:
    """skipped: of the steps since the last reading. longest: steps skipped one after another, the longest such row."""

    skipped: int
    longest: int


class SkipCounter:
    """On the device, so that counting stalls nothing; reading it waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._skipped, self._row, self._longest = torch.zeros((3,), dtype=torch.int64, device=device).unbind()

    def count(self, finite: Tensor) -> None:
        """A step with a gradient that is finite () bool, or not."""
        bad = (~finite).long()
        self._skipped = self._skipped + bad
        self._row = (self._row + bad) * bad
        self._longest = torch.maximum(self._longest, self._row)

    def read(self) -> SkipCount:
        """What was counted since the last reading; a row that still goes on is carried over."""
        skipped, longest = torch.stack([self._skipped, self._longest]).tolist()
        self._skipped, self._longest = torch.zeros_like(self._skipped), self._row
        return SkipCount(skipped, longest)


class SkipLimit:
    """Remembers the readings of the last RECENT_STEPS or so."""

    def __init__(self) -> None:
        self._readings: deque[tuple[int, int]] = deque()

    def check(self, step: int, steps: int, found: SkipCount) -> None:
        """A reading after ``steps`` steps, at ``step``. Raises TrainingError where too many were skipped."""
        self._readings.append((steps, found.skipped))
        while sum(n for n, _ in self._readings) - self._readings[0][0] >= RECENT_STEPS:
            self._readings.popleft()
        recent, skipped = (sum(part) for part in zip(*self._readings, strict=True))
        allowed = max(MOST_RECENT_SKIPS, recent * MOST_RECENT_SKIPS // RECENT_STEPS)
        if found.longest >= MOST_IN_A_ROW or skipped > allowed:
            raise TrainingError(
                f"step {step}: {skipped} of the last {recent} steps had a gradient that is not finite ({found.longest}"
                f" in a row; at most {allowed}, {MOST_IN_A_ROW - 1} in a row); start again in another folder with a"
                " lower learning rate or another seed"
            )


Gradients = Callable[[Clips, ClipPlan, Tensor], dict[str, Tensor]]
"""Clips, their plan, the frames whose depth is supervised → named scalars; fills the gradients on its way."""
Update = Callable[[], dict[str, Tensor]]
"""Lets the gradients change the weights → named scalars; what it writes beside them exists before."""
WARM_UPS = 3
"""Launched passes before the captured one, in which libraries choose and allocate what they need."""


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, what it reads, what it writes, and what else must live as long as it does."""

    graph: torch.cuda.CUDAGraph
    clips: Clips
    depth_frames: Tensor
    found: dict[str, Tensor]
    kept: object


class CapturedSteps:
    """Gradients and update, replayed: a plan's first batch is captured, and its number of supervised frames is that of
    all its batches. What is returned is valid until the next call."""

    def __init__(
        self, gradients: Gradients, update: Update, constants: Callable[[int, int], object], device: torch.device
    ) -> None:
        """constants: what the network keeps of images of a height and width and reads beside weights."""
        self._gradients, self._update = gradients, update
        self._constants = constants
        # One stream and one pool for all: a matrix library takes a workspace for every stream, and of graphs that
        # are never replayed together the memory of one serves the next.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._pool = torch.cuda.graph_pool_handle()
        self._of_plan: dict[ClipPlan, _Captured] = {}

    def prepare(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor) -> _Captured:
        """Capture the plan unless it is; changes no weight."""
        if plan not in self._of_plan:
            self._of_plan[plan] = self._capture(clips, plan, depth_frames)
        return self._of_plan[plan]

    def __call__(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor) -> dict[str, Tensor]:
        captured = self.prepare(clips, plan, depth_frames)
        for field in fields(clips):
            getattr(captured.clips, field.name).copy_(getattr(clips, field.name))
        captured.depth_frames.copy_(depth_frames)
        captured.graph.replay()
        return captured.found

    def _capture(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor) -> _Captured:
        clips = clips.each(torch.clone)
        depth_frames = depth_frames.clone()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                self._gradients(clips, plan, depth_frames)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            found = self._gradients(clips, plan, depth_frames) | self._update()
        # Without its history: a gradient's way back, kept, would tie the next capture to this thread's own stream.
        with torch.no_grad():
            constants = self._constants(*plan.size)
        return _Captured(graph, clips, depth_frames, found, (plan, constants))


LAYER_SCALE = 0.3
"""Of twelve blocks from scratch; the 0.01 of deep networks would take a tenth of the run to open."""
FIRST_FOV = 1.1  # radians, about what the data has in both directions
FIRST_LOG_DEPTH = -0.3


@torch.no_grad()
def draw_initial(model: GeometricContextTransformer, iterations: int, seed: int) -> None:
    """Fill every parameter. ``iterations``: refinement iterations, whose increments add up to the first pose."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma"):
            parameter.fill_(LAYER_SCALE)
        elif name.endswith(".bias"):
            parameter.zero_()
        elif name.endswith(".weight") and parameter.ndim == 1:
            parameter.fill_(1.0)
        elif name.endswith(".weight"):
            # Glorot's spread for products, He's for convolutions, which rectifiers follow.
            fan_out, fan_in = parameter.shape[0], math.prod(parameter.shape[1:])
            spread = math.sqrt(2 / (fan_in + fan_out) if parameter.ndim == 2 else 1.5 / fan_in)
            parameter.copy_(torch.randn(parameter.shape, generator=generator).clamp(-2.5, 2.5) * spread)
        else:
            # Where a patch stands says half of how far it is: loud enough to be heard from the first step.
            spread = 0.2 if name.endswith("pos_embed") else 0.05
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    for block in model.aggregator.global_blocks:
        qkv = block.get_parameter("attn.qkv.weight")
        # Keys as queries: tokens attend to what is like them from the first step, and frames meet where they match.
        query, key, _ = qkv.chunk(3)
        key.copy_(query)
    named = dict(model.named_parameters())
    named["camera_head.poseLN_modulation.1.weight"].mul_(0.1)
    named["camera_head.pose_branch.fc2.weight"].mul_(0.05)
    first = torch.tensor([0, 0, 0, 0, 0, 0, 1.0, FIRST_FOV, FIRST_FOV])
    named["camera_head.pose_branch.fc2.bias"].copy_(first / iterations)
    named["depth_head.scratch.output_conv2.2.weight"].mul_(0.1)
    named["depth_head.scratch.output_conv2.2.bias"].copy_(torch.tensor([FIRST_LOG_DEPTH, 0.0]))


class Learner:
    """One network in training on one device."""

    def __init__(self, config: ModelConfig, recipe: Recipe, seed: int, device: torch.device) -> None:
        self._recipe = recipe
        self.device = device
        # bfloat16 for products on a GPU; a CPU computes in float32 throughout.
        self.precision = torch.bfloat16 if device.type == "cuda" else torch.float32
        torch.manual_seed(seed)  # the auxiliary heads' draw, and the images' noise
        self.model = empty_model(config, point_head=False)
        draw_initial(self.model, ITERATIONS, seed)
        self._auxiliary = AuxiliaryHeads(config.token_dim).to(device)
        self.model.to(device).train()
        # Left in training mode, in which the aggregator computes its position map anew: these weights keep moving.
        self.averaged = copy.deepcopy(self.model).requires_grad_(requires_grad=False)
        self._trained = nn.ModuleDict({"model": self.model, "auxiliary": self._auxiliary})
        named = dict(self._trained.named_parameters())
        decayed = [name for name, value in named.items() if value.ndim > 1 and name.endswith(".weight")]
        rest = [name for name in named if name not in decayed]
        self._names = [*decayed, *rest]
        groups = [
            {"params": [named[name] for name in decayed], "weight_decay": recipe.weight_decay},
            {"params": [named[name] for name in rest], "weight_decay": 0.0},
        ]
        on_gpu = device.type == "cuda"
        # A tensor on a GPU, where a captured update reads it.
        rate = torch.zeros((), device=device) if on_gpu else 0.0
        self._optimizer = torch.optim.AdamW(groups, lr=rate, betas=recipe.betas, fused=on_gpu, capturable=on_gpu)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._gradients = [torch.zeros_like(parameter) for parameter in self._trained.parameters()]
        for parameter, gradient in zip(self._trained.parameters(), self._gradients, strict=True):
            parameter.grad = gradient
        self._captured: CapturedSteps | None = None
        if on_gpu:
            self._captured = CapturedSteps(self.differentiate, self._update, self.model.constants, device)
        self.skips = SkipCounter(device)

    def differentiate(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor) -> dict[str, Tensor]:
        """Fill the gradients, launched operation by operation; returns the terms of the loss and their sum."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            output = run_clips(self.model, clips.images, plan, ITERATIONS, depth_frames)
            auxiliary = self._auxiliary(output.tokens)
        terms = losses(output, auxiliary, clips, depth_frames, self._recipe.weights)
        loss = torch.stack(list(terms.values())).sum()
        parameters = list(self._trained.parameters())
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        # Into tensors that stay where they are: a captured pass writes where it wrote when it was captured.
        torch._foreach_copy_(self._gradients, found)
        return {name: value.detach() for name, value in {**terms, "loss": loss}.items()}

    def rehearse(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor) -> None:
        """Capture and allocate what a kind of batch needs; the weights stay."""
        if self._captured is None:
            self.differentiate(clips, plan, depth_frames)
            return
        self._prime()
        self._captured.prepare(clips, plan, depth_frames)

    def learn(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor, learning_rate: float) -> dict[str, Tensor]:
        """One step; the terms of the loss, their sum and the norm of the gradient, on the device: all 0 where the
        gradient is not finite, which changes nothing and is counted in ``skips``."""
        if self._captured is None:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            found = self.differentiate(clips, plan, depth_frames) | self._update()
        else:
            self._prime()
            for group in self._optimizer.param_groups:
                group["lr"].fill_(learning_rate)
            found = self._captured(clips, plan, depth_frames)
        self.skips.count(self._finite)
        return {name: torch.where(self._finite, value, 0.0) for name, value in found.items()}

    def _update(self) -> dict[str, Tensor]:
        """Let the gradients change the weights, unless one is not finite: it would turn every weight into NaN."""
        norm = nn.utils.clip_grad_norm_(self._trained.parameters(), self._recipe.clip_norm)
        self._finite.copy_(torch.isfinite(norm))
        if self._captured is not None:
            # Read by the fused optimiser on the device: asking for the value here would stall every step.
            self._optimizer.found_inf = (~self._finite).float()  # type: ignore[attr-defined]  # not declared
            self._optimizer.step()
        elif self._finite:
            self._optimizer.step()
        return {"gradient_norm": norm}

    def _prime(self) -> None:
        """Give the optimiser its moments, which it would else make anew in every replay of the step it was captured
        in: an update of rate 0 by no gradient."""
        if self._optimizer.state:
            return
        for group in self._optimizer.param_groups:
            group["lr"].zero_()
        torch._foreach_zero_(self._gradients)
        self._optimizer.step()
        torch._foreach_zero_([state["step"] for state in self._optimizer.state.values()])

    @torch.no_grad()
    def average(self, steps: int) -> None:
        """Move the averaged weights; early on they follow faster, or they would carry the initial draw along."""
        share = 1 - min(self._recipe.ema, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), share)

    def begin_with(self, start: Start) -> None:
        """Weights of an earlier run in place of the draw. Raises CheckpointError where they do not fit."""
        try:
            self.model.load_state_dict(start.model)
            self.averaged.load_state_dict(start.model)
            if start.auxiliary:
                self._auxiliary.load_state_dict(start.auxiliary)
        except RuntimeError as error:
            # torch lists every key that differs, a line each; the first says enough.
            first = str(error).splitlines()[1:2]
            raise CheckpointError(
                f"the weights to start from do not fit this network: {''.join(first).strip()}"
            ) from error

    def exported(self) -> dict[str, Tensor]:
        """What `begin_with` takes: the averaged network and the auxiliary heads, which are not averaged."""
        auxiliary = {AUXILIARY + name: value for name, value in self._auxiliary.state_dict().items()}
        return dict(self.averaged.state_dict()) | auxiliary

    def tensors(self) -> dict[str, Tensor]:
        """All that a state keeps."""
        kept = {f"trained.{name}": value for name, value in self._trained.state_dict().items()}
        kept |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        return kept | optimizer_tensors(self._optimizer, self._names)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`."""
        for prefix, module in (("trained.", self._trained), ("averaged.", self.averaged)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        restore_optimizer(self._optimizer, self._names, tensors)
