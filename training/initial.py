"""Weights to start training from: a ViT's usual draw, heads that begin near a camera at rest."""

from __future__ import annotations

import math

import torch

from lingbot_eval.model.network import GeometricContextTransformer

LAYER_SCALE = 0.3
"""Of twelve blocks from scratch; the 0.01 of deep networks would take a tenth of the run to open."""
FIRST_FOV = 1.1  # radians, about what the data has in both directions
FIRST_LOG_DEPTH = -0.3


@torch.no_grad()
def draw_initial(model: GeometricContextTransformer, iterations: int, seed: int) -> None:
    """Fill every parameter. ``iterations``: refinement iterations, whose increments add up to the first pose."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma"):
            parameter.fill_(LAYER_SCALE)
        elif name.endswith(".bias"):
            parameter.zero_()
        elif name.endswith(".weight") and parameter.ndim == 1:
            parameter.fill_(1.0)
        elif name.endswith(".weight"):
            # Glorot's spread for products, He's for convolutions, which rectifiers follow.
            fan_out, fan_in = parameter.shape[0], math.prod(parameter.shape[1:])
            spread = math.sqrt(2 / (fan_in + fan_out) if parameter.ndim == 2 else 1.5 / fan_in)
            parameter.copy_(torch.randn(parameter.shape, generator=generator).clamp(-2.5, 2.5) * spread)
        else:
            # Where a patch stands says half of how far it is: loud enough to be heard from the first step.
            spread = 0.2 if name.endswith("pos_embed") else 0.05
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    for block in model.aggregator.global_blocks:
        qkv = block.get_parameter("attn.qkv.weight")
        # Keys as queries: tokens attend to what is like them from the first step, and frames meet where they match.
        query, key, _ = qkv.chunk(3)
        key.copy_(query)
    named = dict(model.named_parameters())
    named["camera_head.poseLN_modulation.1.weight"].mul_(0.1)
    named["camera_head.pose_branch.fc2.weight"].mul_(0.05)
    first = torch.tensor([0, 0, 0, 0, 0, 0, 1.0, FIRST_FOV, FIRST_FOV])
    named["camera_head.pose_branch.fc2.bias"].copy_(first / iterations)
    named["depth_head.scratch.output_conv2.2.weight"].mul_(0.1)
    named["depth_head.scratch.output_conv2.2.bias"].copy_(torch.tensor([FIRST_LOG_DEPTH, 0.0]))
