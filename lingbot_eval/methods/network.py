"""The network that an experiment's, a study's or a comparison's settings name."""

from __future__ import annotations

import torch

from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.model.build import build_model
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource
from lingbot_eval.types import Measurement


def build_network(
    settings: ModelSettings, device: torch.device, precision: str
) -> tuple[GeometricContextTransformer, WeightSource]:
    """See `build_model`, also for what is raised."""
    model, source = build_model(
        settings.config,
        checkpoint=settings.checkpoint,
        seed=settings.seed,
        point_head=settings.point_head,
        device=device,
        precision=precision,
    )
    if settings.compile_heads:
        model.compile_heads()
    return model, source


def compilation_measurements(model: GeometricContextTransformer) -> tuple[Measurement, ...]:
    """What compiling the dense heads took, or why they run as they are; nothing where nobody asked for it."""
    found = model.head_compilation
    if found is None:
        return ()
    reason = None if found.reason is None else f"the heads run as they are: {found.reason}"
    if reason is None and not found.seconds:
        reason = "no frame has reached the heads"
    return (
        Measurement(
            family="throughput",
            name="head_compilation",
            variant="",
            value=1e3 * found.seconds if reason is None else None,
            unit="ms",
            convention="torch.compile of the dense heads, at the first pass of each image size; part of the warm-up",
            reason=reason,
        ),
    )
