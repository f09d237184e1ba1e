"""A network small enough for many streams in a test, with weights that make every part matter."""

from __future__ import annotations

from functools import cache

import torch

from lingbot_eval.model.build import fill_by_formula
from lingbot_eval.model.config import ModelConfig
from lingbot_eval.model.network import GeometricContextTransformer

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


@cache
def tiny_network() -> GeometricContextTransformer:
    """Deterministic, in evaluation mode, on the CPU."""
    with torch.no_grad():
        model = GeometricContextTransformer(TINY)
        fill_by_formula(model)
    return model.requires_grad_(requires_grad=False).eval()
