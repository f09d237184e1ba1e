"""The network that an experiment's, a study's or a comparison's settings name, and what compiling its heads took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.model.build import build_model
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource
from lingbot_eval.types import Measurement

if TYPE_CHECKING:
    from lingbot_eval.model.compiled_heads import Compilation


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
    """What compiling the dense heads took since ``before`` (None: since ever), or why they run as they are.

    Nothing where nobody asked for it.
    """
    found = model.head_compilation
    if found is None:
        return ()
    reason = None if found.reason is None else f"the heads run as they are: {found.reason}"
    if reason is None and not found.programs:
        reason = "no frame has reached the heads"
    seconds, programs = (found.seconds, found.programs)
    if before is not None:
        seconds, programs = seconds - before.seconds, programs - before.programs
    return (
        Measurement(
            family="throughput",
            name="head_compilation",
            variant="",
            value=1e3 * seconds if reason is None else None,
            unit="ms",
            convention="calls in which torch.compile made a program of a dense head, one an image size, as a rule in "
            "the warm-up; 0 where those of an earlier stream served",
            samples=programs if reason is None else None,
            reason=reason,
        ),
    )
