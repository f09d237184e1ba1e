"""Every kernel gives the metrics of float32 on the shipped weights, within what half precision leaves."""

from __future__ import annotations

import importlib.util
from functools import cache

import pytest
import torch

from lingbot_eval.model.build import build_model
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import Backend, StreamSettings
from training.ablations import held_out
from training.clips import Clips
from training.validation import delta_125, pose_scores

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
TOLERANCES = {"ate_share_of_motionless": 0.01, "ate_share_of_path": 0.003, "auc_30": 0.02, "delta_125": 0.01}
"""Absolute, of shares of 1; without trajectory memory the first three are off by ten times as much and more."""


@cache
def scene() -> Clips:
    _, clips = next(held_out(1, 150, (168, 224)))
    return clips


@cache
def scores(backend: Backend, precision: str) -> dict[str, float]:
    device = torch.device("cuda", 0)
    model, _ = build_model("ci", checkpoint="shipped", seed=0, point_head=False, device=device, precision=precision)
    clips = scene()
    session = StreamingSession(model, StreamSettings(scale_frames=8, keyframe_interval=1, backend=backend))
    frames = [frame for image in clips.images[0].to(device) for frame in session.step(image)]
    frames += session.finish()
    poses = torch.stack([frame.pose for frame in frames]).float()
    depth = torch.stack([frame.depth for frame in frames]).float().cpu()
    return pose_scores(poses, clips.poses[0]) | {"delta_125": delta_125(depth.log(), clips.log_depth[0])}


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("paged", "float32"), ("sdpa", "bfloat16"), ("triton", "bfloat16"), ("flashinfer", "bfloat16")],
)
def test_backends_give_the_same_metrics(backend: Backend, precision: str) -> None:
    if backend == "flashinfer" and importlib.util.find_spec("flashinfer") is None:
        pytest.skip("FlashInfer is not installed")
    wanted, found = scores("sdpa", "float32"), scores(backend, precision)
    assert wanted["ate_share_of_motionless"] < 0.5
    for name, tolerance in TOLERANCES.items():
        assert found[name] == pytest.approx(wanted[name], abs=tolerance), name
