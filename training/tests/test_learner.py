"""A step changes weights that the evaluation computes with, or nothing where a gradient is not finite."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lingbot_eval.model.build import empty_model
from lingbot_eval.model.network import GeometricContextTransformer
from tests.streaming.networks import TINY
from training.clips import Clips
from training.forward import ClipPlan, StreamShape, run_clips
from training.learner import Learner, SkipCount, SkipCounter, SkipLimit, TrainingError
from training.recipe import ITERATIONS, RECIPES
from training.tests.test_losses import clips

CPU = torch.device("cpu")


def test_a_batch_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    good = clips((28, 42))
    bad = replace(good, log_depth=good.log_depth.clone())
    bad.log_depth[0, 0, 3, 3] = torch.inf
    plan = ClipPlan(StreamShape(good.images.shape[1], 8, 4, 1), (28, 42), good.images)
    learner = Learner(TINY, RECIPES["tiny"], 0, CPU)
    learner.learn(good, plan, torch.arange(4), 1e-3)
    before = {name: value.clone() for name, value in learner.tensors().items()}
    terms = learner.learn(bad, plan, torch.arange(4), 1e-3)
    assert set(map(float, terms.values())) == {0.0}
    for name, value in learner.tensors().items():
        assert torch.equal(value, before[name]), name
    assert learner.skips.read() == SkipCount(1, 1)
    assert float(learner.learn(good, plan, torch.arange(4), 1e-3)["loss"]) > 0
    assert learner.skips.read().skipped == 0


def test_a_row_of_skips_is_carried_over_a_reading() -> None:
    counter = SkipCounter(CPU)
    for finite in (True, False, False):
        counter.count(torch.tensor(finite))
    assert counter.read() == SkipCount(2, 2)
    for finite in (False, True, False):
        counter.count(torch.tensor(finite))
    assert counter.read() == SkipCount(2, 3)


def test_one_bad_batch_early_ends_nothing_but_many_and_rows_do() -> None:
    SkipLimit().check(80, 80, SkipCount(10, 3))
    with pytest.raises(TrainingError, match="11 of the last 80 steps"):
        SkipLimit().check(80, 80, SkipCount(11, 3))
    with pytest.raises(TrainingError, match="20 in a row"):
        SkipLimit().check(500, 5000, SkipCount(20, 20))
    limit = SkipLimit()
    for step in range(1, 40):  # 1 % for ever
        limit.check(step * 500, 500, SkipCount(5, 1))
    with pytest.raises(TrainingError):
        limit.check(20_000, 500, SkipCount(6, 1))


def test_skips_long_ago_are_forgotten() -> None:
    limit = SkipLimit()
    limit.check(500, 500, SkipCount(10, 1))
    for step in (1000, 1500):
        limit.check(step, 500, SkipCount(0, 0))
    limit.check(2000, 500, SkipCount(10, 1))


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
