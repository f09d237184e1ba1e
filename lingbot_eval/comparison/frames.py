"""The frames that all contenders see: one scene of an experiment, prepared alike, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lingbot_eval.datasets.prepare.prefetch import prefetch
from lingbot_eval.datasets.prepare.resize import SizeSettings, prepare
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.runs.plan import Unit, make_plan, open_scene
from lingbot_eval.types import Frame, FrameSequence, Image
from lingbot_eval.validation import nearest

AHEAD = 4
MAX_BYTES_KEPT = 2**30
"""Of prepared images: about 1,750 of 518×378. What is longer is decoded anew for every pass."""


@dataclass(frozen=True)
class Selected:
    """The scene and the streaming model of an experiment that are compared on. weights: the run's words for them."""

    unit: Unit
    method: LingbotConfig
    weights: str


def select(experiment: Experiment, scene: str | None, frames: int | None) -> Selected:
    """The first streaming model of ``experiment``, on ``scene`` (default: the first), cut to ``frames``.

    Raises ConfigError for an experiment without such a method or scene, and what `make_plan` raises.
    """
    methods = [method for method in experiment.methods if isinstance(method, LingbotConfig)]
    if not methods:
        raise ConfigError(
            f"experiment {experiment.name}: comparing backends needs a method of kind lingbot, found none"
        )
    plan = make_plan(experiment.model_copy(update={"methods": tuple(methods[:1])}))
    units = [unit for unit in plan.units if scene in (None, unit.scene)]
    if not units:
        names = [unit.scene for unit in plan.units]
        hint = f"{nearest(str(scene), names)}; there are: {', '.join(names)}"
        raise ConfigError(f"experiment {experiment.name}: no scene {scene!r}{hint}")
    unit, (method,) = units[0], plan.experiment.methods
    if not isinstance(method, LingbotConfig):
        raise TypeError(f"planning turned {methods[0].name} into {method}")
    if frames is not None:
        given = unit.dataset.selection.count
        count = frames if given is None else min(given, frames)
        selection = unit.dataset.selection.model_copy(update={"count": count})
        unit = Unit(unit.dataset.model_copy(update={"selection": selection}), unit.scene, unit.method)
    return Selected(unit, method, plan.weights[method.name])


class PreparedFrames:
    """The images of a scene at the size that the model sees, the same ones at every pass.

    Up to MAX_BYTES_KEPT they stay in memory after the first pass, so that decoding does not disturb the clock.
    """

    def __init__(self, unit: Unit) -> None:
        """Raises DataError when the scene is not there or not what it should be."""
        self.sequence: FrameSequence = open_scene(unit)
        self._size: SizeSettings = unit.size
        self._kept: tuple[Image, ...] | None = None

    def images(self) -> Generator[Image, None, None]:
        """(H, W, 3) uint8 RGB, in order."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Image] = []
        held = 0
        with closing(prefetch(map(self._prepared, self.sequence.frames(depth=False)), AHEAD)) as source:
            for image in source:
                held += image.nbytes
                if held <= MAX_BYTES_KEPT:
                    kept.append(image)
                else:
                    kept.clear()
                yield image
        if 0 < held <= MAX_BYTES_KEPT:
            self._kept = tuple(kept)

    def first(self) -> Image:
        """The first image. Raises DataError when there is none."""
        with closing(self.images()) as images:
            for image in images:
                return image
        raise DataError(f"{self.sequence.dataset}/{self.sequence.scene}: expected frames, found none")

    def _prepared(self, frame: Frame) -> Image:
        image = prepare(frame, self._size).image
        if image is None:
            raise DataError(f"{frame.source}: frame {frame.index} came without its image, which the model needs")
        return image


def on_device(image: Image, device: torch.device) -> Tensor:
    """(3, H, W) float32 in [0, 1], as `lingbot_eval.methods.lingbot` feeds the model."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device)
    return pixels.permute(2, 0, 1).float().div_(255.0)
