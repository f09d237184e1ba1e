"""Who is compared, and on what: backends with a precision over weights that they share, and one scene for all."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

import torch

from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.model import Model
from lingbot_eval.methods.stepper import Stepper
from lingbot_eval.model.build import PRECISIONS, resolve_precision
from lingbot_eval.model.network import HeadPrecision, rounds_heads
from lingbot_eval.prepare import SizeSettings, prefetch, prepare
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.runs.plan import Unit, make_plan, open_scene
from lingbot_eval.settings import nearest, validated
from lingbot_eval.streaming.settings import BACKENDS, Backend, StreamSettings
from lingbot_eval.streaming.stores import resolve_backend
from lingbot_eval.types import Frame, FrameSequence

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
        self._kept: tuple[Frame, ...] | None = None

    def frames(self) -> Generator[Frame, None, None]:
        """Prepared, in order. Raises DataError for one without an image."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Frame] = []
        held = 0
        with closing(prefetch(map(self._prepared, self.sequence.frames(depth=False)), AHEAD)) as source:
            for frame in source:
                held += 0 if frame.image is None else frame.image.nbytes
                if held <= MAX_BYTES_KEPT:
                    kept.append(frame)
                else:
                    kept.clear()
                yield frame
        if 0 < held <= MAX_BYTES_KEPT:
            self._kept = tuple(kept)

    def first(self) -> Frame:
        """The first frame. Raises DataError when there is none."""
        with closing(self.frames()) as frames:
            for frame in frames:
                return frame
        raise DataError(f"{self.sequence.dataset}/{self.sequence.scene}: expected frames, found none")

    def _prepared(self, frame: Frame) -> Frame:
        return prepare(frame, self._size)


REFERENCE_BACKEND: Backend = "sdpa"
REFERENCE_PRECISION = "float32"
CACHE_PRECISIONS: dict[str, Literal[8] | None] = {"8": 8, "16": None}
"""Words of a side for keys and values in 8 bits, and for what they come in."""


@dataclass(frozen=True)
class Contender:
    """One side.

    name: ``A``, ``B`` or ``reference``. backend: as it is resolved on the device, never ``auto``. tf32_heads:
    its dense heads may round products on a GPU. cache_precision: as in the stream's settings.
    """

    name: str
    backend: Backend
    precision: str
    tf32_heads: bool = False
    cache_precision: Literal[8] | None = None

    @property
    def label(self) -> str:
        """``A sdpa bfloat16``, and what is unusual of its heads and its cache."""
        usual = self.tf32_heads == _rounds_heads("auto", self.precision)
        heads = "" if usual else " tf32 heads" if self.tf32_heads else " float32 heads"
        cache = "" if self.cache_precision is None else f" {self.cache_precision}-bit cache"
        return f"{self.name} {self.backend} {self.precision}{heads}{cache}"

    @property
    def is_reference(self) -> bool:
        """Whether it computes exactly what the reference does."""
        rounds = self.tf32_heads or self.cache_precision is not None
        return not rounds and (self.backend, self.precision) == (REFERENCE_BACKEND, REFERENCE_PRECISION)


def parse_contender(name: str, text: str, method: LingbotConfig, device: torch.device) -> Contender:
    """``BACKEND[:PRECISION][:8|:16]``, the last of keys and values; what it leaves out is as ``method`` has it.

    Raises ConfigError.
    """
    wanted, *words = text.split(":")
    backend = next((known for known in BACKENDS if known == wanted), None)
    if backend is None:
        raise ConfigError(
            f"{name}: no backend {wanted!r}{nearest(wanted, BACKENDS)}; there are: {', '.join(BACKENDS)}, "
            "each with :PRECISION where wanted"
        )
    known = (*PRECISIONS, *CACHE_PRECISIONS)
    strange = next((word for word in words if word not in known), None)
    if strange is not None:
        raise ConfigError(
            f"{name}: expected {', '.join(known)} behind {wanted}, found {strange!r}{nearest(strange, known)}"
        )
    products = [word for word in words if word in PRECISIONS]
    caches = [word for word in words if word in CACHE_PRECISIONS]
    if len(products) > 1 or len(caches) > 1:
        raise ConfigError(f"{name}: expected one precision at most and one of keys and values, found {text!r}")
    precision = products[0] if products else resolve_precision(method.precision, device)
    backend = resolve_backend(backend, PRECISIONS[precision], device)
    cache_precision = CACHE_PRECISIONS[caches[0]] if caches else method.streaming.cache_precision
    validated(StreamSettings, {"backend": backend, "cache_precision": cache_precision}, name)
    return Contender(name, backend, precision, _rounds_heads(method.heads, precision), cache_precision)


def reference_contender() -> Contender:
    """What the others are held against: torch's attention in float32, and heads that round nothing."""
    return Contender("reference", REFERENCE_BACKEND, REFERENCE_PRECISION)


@dataclass
class Bench:
    """The networks under comparison, one a precision (and rounding of heads), and the sessions opened on them.

    method: the model and the stream; its backend and precision are the contenders'. frames: length of the stream,
    None where it is not known.
    """

    method: LingbotConfig
    device: torch.device
    frames: int | None
    _models: dict[tuple[str, bool], Model] = field(default_factory=dict)

    def model(self, contender: Contender) -> Model:
        """Its network, loaded when one of its kind is first asked for. Raises as `Model`."""
        kind = contender.precision, contender.tf32_heads
        if kind not in self._models:
            changes = {"device": str(self.device), "precision": kind[0], "heads": "tf32" if kind[1] else "float32"}
            self._models[kind] = Model(self.method.model_copy(update=changes))
        return self._models[kind]

    def open(self, contender: Contender) -> Stepper:
        """A new stream of this contender, each frame waited for. Raises as `Model.open`."""
        changes = {"backend": contender.backend, "cache_precision": contender.cache_precision}
        settings = self.method.streaming.model_copy(update=changes)
        return self.model(contender).open(settings, self.frames, overlapped=False)


def _rounds_heads(heads: HeadPrecision, precision: str) -> bool:
    return rounds_heads(heads, half=PRECISIONS[precision] is not torch.float32)
