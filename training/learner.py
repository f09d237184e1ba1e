"""Network, auxiliary heads, optimiser and averaged weights: what a step changes and a state keeps."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lingbot_eval.errors import CheckpointError
from lingbot_eval.model.build import empty_model
from lingbot_eval.model.config import ModelConfig
from training.auxiliary import AuxiliaryHeads
from training.captured import CapturedSteps
from training.clips import Clips
from training.forward import ClipPlan, run_clips
from training.initial import draw_initial
from training.losses import losses
from training.recipe import ITERATIONS, Recipe
from training.skips import SkipCounter
from training.state import optimizer_tensors, restore_optimizer
from training.travel import AUXILIARY, Start


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
