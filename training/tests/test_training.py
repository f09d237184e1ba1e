"""A run learns, stops, resumes as if it had not stopped, and leaves weights that the evaluation loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from lingbot_eval.errors import ConfigError
from lingbot_eval.model.build import build_model
from tests.streaming.networks import TINY
from training.__main__ import main
from training.clips import Bank, draw_clips
from training.forward import ClipPlan, StreamShape, run_clips
from training.learner import Learner
from training.recipe import ITERATIONS, RECIPES
from training.scene_jobs import build_job, training_jobs
from training.state import CSV, CURVE, STATE, WEIGHTS, load_state
from training.trainer import TrainingSettings, train

CPU = torch.device("cpu")


def settings(out: Path, **changes: object) -> TrainingSettings:
    return replace(TrainingSettings(out=out, recipe="tiny", steps=6, log_seconds=0.0), **changes)


def ignore(row: dict[str, float]) -> None:
    """Nobody listens."""


def test_a_run_goes_on_where_it_stopped_and_leaves_weights_log_and_curve(tmp_path: Path) -> None:
    train(settings(tmp_path, call_minutes=0.0), CPU, ignore)
    first, _ = load_state(tmp_path) or pytest.fail("no state")
    assert first.steps < 6
    rows: list[dict[str, float]] = []
    weights = train(settings(tmp_path), CPU, rows.append)
    last, tensors = load_state(tmp_path) or pytest.fail("no state")
    assert last.steps == 6
    assert last.jobs > first.jobs
    assert last.seconds > first.seconds
    assert float(tensors["optimizer.model.camera_head.pose_branch.fc2.weight.step"]) == 6

    assert weights == tmp_path / WEIGHTS
    model, source = build_model(
        "ci", checkpoint=str(weights), seed=0, point_head=False, device=CPU, precision="float32"
    )
    assert source.trained
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    table = pd.read_csv(tmp_path / CSV)
    assert table["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(table["ate_share_of_path"]).all()
    assert (tmp_path / CURVE).stat().st_size > 0
    assert [row["step"] for row in rows if "step" in row] == [1, 2, 3, 4, 5, 6]

    before = (tmp_path / STATE).stat().st_mtime_ns
    with pytest.raises(ConfigError, match="holds a run"):
        train(settings(tmp_path, steps=7), CPU, ignore)
    assert (tmp_path / STATE).stat().st_mtime_ns == before


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is set up and stepped in a part of the time; what is asked is of the run and not of it."""
    monkeypatch.setattr("training.trainer.CONFIGS", {"ci": TINY})


@pytest.mark.usefixtures("_small")
def test_a_run_that_was_cut_off_keeps_the_length_that_its_schedule_lies_over(tmp_path: Path) -> None:
    within = replace(settings(tmp_path), steps=None, within_minutes=0.5)
    train(replace(within, call_minutes=0.0), CPU, ignore)
    first, _ = load_state(tmp_path) or pytest.fail("no state")
    assert 0 < first.length < 30
    assert first.seconds < first.length
    train(replace(within, call_minutes=0.0), CPU, ignore)
    second, _ = load_state(tmp_path) or pytest.fail("no state")
    assert second.length == first.length
    assert second.seconds >= first.seconds


def test_a_state_brings_back_the_learner_exactly() -> None:
    clips, plan = batch()
    frames = torch.arange(4)
    one = Learner(TINY, RECIPES["tiny"], 0, CPU)
    one.learn(clips, plan, frames, 1e-3)
    one.average(1)
    other = Learner(TINY, RECIPES["tiny"], 5, CPU)
    other.restore(safetensors.torch.load(safetensors.torch.save(one.tensors())))
    for learner in (one, other):
        learner.learn(clips, plan, frames, 1e-3)
        learner.average(2)
    for name, value in one.tensors().items():
        assert torch.equal(value, other.tensors()[name]), name


def batch() -> tuple[object, ClipPlan]:
    size = (28, 42)
    bank = Bank(1, 16, size, CPU)
    bank.add(build_job(training_jobs(16, 1, 0), 0))
    generator = torch.Generator().manual_seed(0)
    clips = draw_clips(bank, generator, clips=1, frames=8, size=size, strides=(2, 2), anchor=4)
    return clips, ClipPlan(StreamShape(8, 4, 2, 1), size, clips.images)


def test_one_clip_can_be_learned_by_heart() -> None:
    """Poses and depth of a clip come out right after a few dozen steps on it, so every gradient points home."""
    clips, plan = batch()
    frames = torch.arange(8)
    learner = Learner(TINY, RECIPES["tiny"], 0, CPU)
    for step in range(80):
        learner.learn(clips, plan, frames, 2e-3 * min(1.0, (step + 1) / 10) * (1 - step / 85))
    with torch.no_grad():
        out = run_clips(learner.model, clips.images, plan, ITERATIONS, frames)
    travelled = clips.encoding[..., :3].norm(dim=-1).max()
    assert (out.poses[-1][..., :3] - clips.encoding[..., :3]).norm(dim=-1).mean() < 0.1 * travelled
    off = out.log_depth - clips.log_depth[0]
    assert ((off - off.median()).abs() < np.log(1.25)).float().mean() > 0.85


@pytest.mark.usefixtures("_small")
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--recipe", "tiny", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / STATE).write_bytes(b"no state at all")
    assert main(["--out", str(tmp_path), "--recipe", "tiny", "--device", "cpu", "--steps", "1"]) == 2
    assert "not a training state" in capsys.readouterr().err
