"""The network that an experiment's, a study's or a comparison's settings name, and what compiling its heads took."""

from __future__ import annotations

from typing import Literal

import torch

from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.model.build import build_model
from lingbot_eval.model.compilation import Compilation
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource
from lingbot_eval.types import Measurement


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


def compilation_measurements(model: GeometricContextTransformer, before: Compilation | None) -> tuple[Measurement, ...]:
    """What compiling the dense heads took since ``before`` (None: since ever), or why one of them ran as it is.

    Nothing where nobody asked for it.
    """
    found = model.head_compilation_since(before)
    if found is None:
        return ()
    reason = found.reason
    if reason is not None and found.seconds:
        reason = f"{reason} ({found.seconds:.1f} s of compiling)"
    elif not found.calls:
        reason = "no frame has reached the heads"
    return (
        Measurement(
            family="throughput",
            name="head_compilation",
            variant="",
            value=1e3 * found.seconds if reason is None else None,
            unit="ms",
            convention="calls in which torch.compile made a program of a dense head, one an image size, as a rule in "
            "the warm-up and part of its time; 0 where those of an earlier stream served",
            samples=found.programs if reason is None else None,
            reason=reason,
        ),
    )


def dense_heads(model: GeometricContextTransformer, before: Compilation | None) -> Literal["compiled", "plain"]:
    """How the dense heads ran since ``before``, whatever was asked for."""
    found = model.head_compilation_since(before)
    return "plain" if found is None or found.plain_calls else "compiled"
