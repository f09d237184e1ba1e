"""Training on a CUDA device: the same pictures, the same loss to the precision of bfloat16."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from tests.streaming.networks import TINY
from training.clips import Bank, draw_clips
from training.forward import ClipPlan, StreamShape
from training.learner import Learner, SkipCount
from training.recipe import RECIPES
from training.scene_jobs import build_job, training_jobs
from training.state import CSV, load_state
from training.trainer import TrainingSettings, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SIZE = (56, 84)


def test_a_gpu_renders_and_learns_as_a_cpu_does() -> None:
    job = build_job(training_jobs(40, 1, 0), 3)
    depths, firsts = [], []
    for device in (torch.device("cpu"), torch.device("cuda")):
        bank = Bank(1, 40, SIZE, device)
        bank.add(job)
        clips = draw_clips(
            bank, torch.Generator().manual_seed(0), clips=1, frames=40, size=SIZE, strides=(1, 1), anchor=8
        )
        learner = Learner(TINY, RECIPES["tiny"], 0, device)
        like = torch.empty(0, dtype=learner.precision, device=device)
        terms = learner.learn(clips, ClipPlan(StreamShape(40, 8, 4, 2), SIZE, like), torch.arange(8).to(device), 1e-3)
        depths.append(clips.log_depth.cpu())
        firsts.append(float(terms["loss"]))
    off = (depths[0] - depths[1]).abs()
    assert off.flatten().kthvalue(int(0.99 * off.numel())).values < 1e-3
    assert firsts[1] == pytest.approx(firsts[0], rel=0.05)


def test_a_run_on_a_gpu(tmp_path: Path) -> None:
    settings = TrainingSettings(out=tmp_path, recipe="tiny", steps=6, workers=1)
    assert train(settings, torch.device("cuda"), lambda row: None).is_file()


def gradient_of(learner: Learner) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])


def test_replayed_steps_are_the_launched_ones() -> None:
    cuda = torch.device("cuda")
    bank = Bank(1, 40, SIZE, cuda)
    bank.add(build_job(training_jobs(40, 1, 0), 3))
    launched, replayed = (Learner(TINY, RECIPES["tiny"], 0, cuda) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    like = torch.empty(0, dtype=launched.precision, device=cuda)
    plans = [ClipPlan(StreamShape(24, 8, 4, interval), SIZE, like) for interval in (1, 2)]
    begun = torch.cat([p.detach().flatten() for p in replayed.model.parameters()])
    gradients = []
    for plan, frames in zip(plans * 2, (torch.arange(i, i + 8) for i in range(4)), strict=True):
        clips = draw_clips(bank, generator, clips=1, frames=24, size=SIZE, strides=(1, 1), anchor=8)
        batch = clips, plan, frames.to(cuda)
        terms = replayed.learn(*batch, 0.0)
        wanted = launched.differentiate(*batch)
        for name, value in wanted.items():
            torch.testing.assert_close(terms[name], value, rtol=0.02, atol=1e-4)
        one, other = (gradient_of(learner) for learner in (replayed, launched))
        # Sums of atomic additions have no fixed order, and the one that learns has clipped.
        assert torch.cosine_similarity(one, other, dim=0) > 0.999
        gradients.append(other)
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) < 0.999
    # A rate of 0 moved nothing; another does.
    assert torch.equal(begun, torch.cat([p.detach().flatten() for p in replayed.model.parameters()]))
    replayed.learn(*batch, 1e-3)
    moved = torch.cat([p.detach().flatten() for p in replayed.model.parameters()]) - begun
    assert 1e-5 < float(moved.abs().max()) < 0.02


def test_a_replayed_step_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    cuda = torch.device("cuda")
    bank = Bank(1, 40, SIZE, cuda)
    bank.add(build_job(training_jobs(40, 1, 0), 3))
    good = draw_clips(bank, torch.Generator().manual_seed(0), clips=1, frames=24, size=SIZE, strides=(1, 1), anchor=8)
    bad = replace(good, log_depth=good.log_depth.clone())
    bad.log_depth[0, 0, 3, 3] = torch.inf
    learner = Learner(TINY, RECIPES["tiny"], 0, cuda)
    plan = ClipPlan(StreamShape(24, 8, 4, 1), SIZE, torch.empty(0, dtype=learner.precision, device=cuda))
    frames = torch.arange(8).to(cuda)
    learner.learn(good, plan, frames, 1e-3)
    before = {name: value.clone() for name, value in learner.tensors().items()}
    terms = learner.learn(bad, plan, frames, 1e-3)
    assert {float(value) for value in terms.values()} == {0.0}
    for name, value in learner.tensors().items():
        assert torch.equal(value, before[name]), name
    assert learner.skips.read() == SkipCount(1, 1)
    assert float(learner.learn(good, plan, frames, 1e-3)["loss"]) > 0
    assert learner.skips.read().skipped == 0
    after = learner.tensors()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before if name.startswith("trained."))
    steps = {name: int(value) for name, value in after.items() if name.endswith(".step")}
    assert set(steps.values()) == {2}, steps


def test_a_run_stopped_by_its_call_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0.0

    def stop_after_three(row: dict[str, float]) -> None:
        nonlocal waited
        if row.get("step") == 3:
            waited += 3600.0

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + waited)
    monkeypatch.setattr("training.trainer.time", clock)
    settings = TrainingSettings(out=tmp_path, recipe="tiny", steps=6, log_seconds=0.0)
    step = "optimizer.model.camera_head.pose_branch.fc2.weight.step"
    train(replace(settings, call_minutes=30.0), torch.device("cuda"), stop_after_three)
    first, tensors = load_state(tmp_path) or pytest.fail("no state")
    assert (first.steps, float(tensors[step])) == (3, 3)
    train(settings, torch.device("cuda"), lambda row: None)
    last, tensors = load_state(tmp_path) or pytest.fail("no state")
    assert (last.steps, float(tensors[step])) == (6, 6)
    assert last.jobs > first.jobs
    assert last.seconds > first.seconds
    assert pd.read_csv(tmp_path / CSV)["step"].tolist() == [1, 2, 3, 4, 5, 6]
