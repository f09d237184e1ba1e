"""A network small enough for many streams in a test, with weights that make every part matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch

from lingbot_eval.model.aggregator import PassInputs
from lingbot_eval.model.build import fill_by_formula
from lingbot_eval.model.config import ModelConfig
from lingbot_eval.model.network import DenseOutput, GeometricContextTransformer
from lingbot_eval.streaming.passes import PassOutput, PassRunner
from lingbot_eval.streaming.stores import StreamStores

TINY = ModelConfig(
    embed_dim=64,
    groups=4,
    output_groups=(0, 1, 2, 3),
    backbone_blocks=1,
    trained_grid=3,
    camera_blocks=1,
    camera_heads=2,
    dpt_channels=(4, 4, 4, 4),
    dpt_features=8,
)


@contextmanager
def made_up_outputs() -> Iterator[None]:
    """Passes that compute nothing and say anything: of a stream's books alone the network is no part.

    Places in the caches are made as ever, before the pass.
    """
    generator = torch.Generator().manual_seed(0)

    def run(runner: PassRunner, inputs: PassInputs, stores: StreamStores) -> PassOutput:
        count, _, height, width = inputs.images.shape
        poses = torch.randn(count, 9, generator=generator)
        poses[:, 7:] = 1.0
        depth = 1 + torch.rand(count, height, width, generator=generator)
        return PassOutput(poses, DenseOutput(depth, torch.ones_like(depth)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PassRunner, "run", run)
        yield


@cache
def tiny_network() -> GeometricContextTransformer:
    """Deterministic, in evaluation mode, on the CPU. All share it: whoever changes it copies it first."""
    # Whoever asks first may be in inference mode; tensors that are made there are of no use outside.
    with torch.inference_mode(mode=False), torch.no_grad():
        model = GeometricContextTransformer(TINY)
        fill_by_formula(model)
    return model.requires_grad_(requires_grad=False).eval()
