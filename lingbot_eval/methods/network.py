"""The network that an experiment's, a study's or a comparison's settings name."""

from __future__ import annotations

import torch

from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.model.build import build_model
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource


def build_network(
    settings: ModelSettings, device: torch.device, precision: str
) -> tuple[GeometricContextTransformer, WeightSource]:
    """See `build_model`, also for what is raised."""
    return build_model(
        settings.config,
        checkpoint=settings.checkpoint,
        seed=settings.seed,
        point_head=settings.point_head,
        device=device,
        precision=precision,
    )
