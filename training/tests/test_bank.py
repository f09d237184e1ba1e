"""What the bank takes: walks of which every ray hit something, whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.clips import Bank, draw_clips
from training.scene_jobs import build_job, training_jobs

CPU = torch.device("cpu")
SIZE = (28, 42)


def test_a_walk_with_a_ray_that_hits_nothing_is_refused_and_spoils_nothing() -> None:
    good = build_job(training_jobs(12, 1, 0), 0)
    bank = Bank(1, 12, SIZE, CPU)
    bank.add(good)
    frames = torch.arange(12)[None]
    before = bank.take(torch.tensor([0]), frames)
    bad = build_job(training_jobs(12, 1, 0), 3)
    bad.poses[0, 5, :3, 3] += 1e4  # out of the house
    bank.add(bad)
    assert (len(bank), bank.refused) == (1, 1)
    after = bank.take(torch.tensor([0]), frames)
    for name in ("images", "depths", "poses", "focals"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name


@pytest.fixture(scope="module")
def bank() -> Bank:
    held = Bank(6, 24, (56, 84), CPU)
    for number in range(6):
        held.add(build_job(training_jobs(24, 1, 0), number))
    return held


@pytest.mark.parametrize("size", [SIZE, (56, 84)])
def test_what_is_true_of_a_clip_is_finite(bank: Bank, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        clips = draw_clips(bank, generator, clips=8, frames=8, size=size, strides=(1, 3), anchor=4)
        for name in ("images", "log_depth", "poses", "encoding", "points", "scale", "focal"):
            assert torch.isfinite(getattr(clips, name)).all(), name
        assert np.log(1e-3) < float(clips.log_depth.min())
        assert float(clips.scale.min()) > 0.1
