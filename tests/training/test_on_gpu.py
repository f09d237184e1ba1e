"""Training on a CUDA device: the same pictures, the same loss to the precision of bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lingbot_eval.training.bank import Bank
from lingbot_eval.training.clips import ClipShape, draw_clips
from lingbot_eval.training.forward import ClipPlan
from lingbot_eval.training.learner import Learner
from lingbot_eval.training.recipe import RECIPES
from lingbot_eval.training.scene_jobs import build_job, training_jobs
from lingbot_eval.training.trainer import TrainingSettings, train
from lingbot_eval.training.visibility import StreamShape
from tests.streaming.networks import TINY

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SIZE = (56, 84)


def test_a_gpu_renders_and_learns_as_a_cpu_does() -> None:
    job = build_job(training_jobs(40, 1, 0), 3)
    depths, firsts = [], []
    for device in (torch.device("cpu"), torch.device("cuda")):
        bank = Bank(1, 40, SIZE, device)
        bank.add(job)
        clips = draw_clips(bank, 40, ClipShape(1, 40, SIZE, (1, 1), 8), torch.Generator().manual_seed(0))
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


def test_replayed_gradients_are_the_launched_ones() -> None:
    cuda = torch.device("cuda")
    bank = Bank(1, 40, SIZE, cuda)
    bank.add(build_job(training_jobs(40, 1, 0), 3))
    learner = Learner(TINY, RECIPES["tiny"], 0, cuda)
    plan = ClipPlan(StreamShape(24, 8, 4, 2), SIZE, torch.empty(0, dtype=learner.precision, device=cuda))
    generator = torch.Generator().manual_seed(0)
    found = []
    for frames in (torch.arange(8), torch.arange(4, 12)):
        batch = draw_clips(bank, 40, ClipShape(1, 24, SIZE, (1, 1), 8), generator), plan, frames.to(cuda)
        for step in (learner.differentiate, learner.rehearse):
            step(*batch)
            found.append(torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]))
    launched, replayed = found[::2], found[1::2]
    # Sums of atomic additions have no fixed order.
    for one, other in zip(launched, replayed, strict=True):
        torch.testing.assert_close(other, one, rtol=0.02, atol=0.02 * float(one.abs().max()))
    assert (launched[0] - launched[1]).norm() > 0.1 * launched[0].norm()
