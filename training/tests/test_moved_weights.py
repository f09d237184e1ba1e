"""Weights that training moved are the ones that a network put to evaluation computes with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lingbot_eval.model.build import empty_model
from lingbot_eval.model.network import GeometricContextTransformer
from tests.streaming.networks import TINY
from training.clips import Clips
from training.forward import ClipPlan, StreamShape, run_clips
from training.learner import Learner
from training.recipe import ITERATIONS, RECIPES
from training.tests.test_targets import clips

SIZE = (28, 42)
FRAMES = torch.arange(4)


def outputs(model: GeometricContextTransformer, given: Clips, plan: ClipPlan) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        found = run_clips(model, given.images, plan, ITERATIONS, FRAMES)
    return found.poses[-1], found.log_depth


@pytest.mark.parametrize("evaluated_before", [False, True])
def test_a_network_after_a_step_is_a_fresh_one_of_its_weights(evaluated_before: bool) -> None:
    """The position map, resized from a weight, is of the weight as it is now, not as it was when first asked for."""
    given = clips(SIZE)
    plan = ClipPlan(StreamShape(given.images.shape[1], 8, 4, 1), SIZE, given.images)
    learner = Learner(TINY, RECIPES["tiny"], 0, torch.device("cpu"))
    if evaluated_before:
        outputs(learner.model.eval(), given, plan)
        learner.model.train()
    before = learner.model.aggregator.constants(*SIZE).positions.detach().clone()
    learner.learn(given, plan, FRAMES, 1e-2)
    fresh = empty_model(TINY, point_head=False)
    fresh.load_state_dict(learner.model.state_dict())
    found, wanted = (outputs(model.eval(), given, plan) for model in (learner.model, fresh))
    assert not torch.equal(fresh.aggregator.constants(*SIZE).positions, before)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
