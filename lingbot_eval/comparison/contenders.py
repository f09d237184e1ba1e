"""Who is compared, and on what: backends with a precision over weights that they share, and one scene for all."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

import torch

from lingbot_eval.datasets.prepare.prefetch import prefetch
from lingbot_eval.datasets.prepare.resize import SizeSettings, prepare
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.model import Model
from lingbot_eval.methods.stepper import Stepper
from lingbot_eval.model.build import PRECISIONS
from lingbot_eval.model.network import HeadPrecision, rounds_heads
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.runs.plan import Unit, make_plan, open_scene
from lingbot_eval.streaming.backends import BACKENDS, Backend
from lingbot_eval.streaming.stores import resolve_backend
from lingbot_eval.types import Frame, FrameSequence
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


@dataclass(frozen=True)
class Contender:
    """One side.

    name: ``A``, ``B`` or ``reference``. backend: as it is resolved on the device, never ``auto``. tf32_heads:
    its dense heads may round products on a GPU.
    """

    name: str
    backend: Backend
    precision: str
    tf32_heads: bool = False

    @property
    def label(self) -> str:
        """``A sdpa bfloat16``, and what is unusual of its heads."""
        usual = self.tf32_heads == _rounds_heads("auto", self.precision)
        heads = "" if usual else " tf32 heads" if self.tf32_heads else " float32 heads"
        return f"{self.name} {self.backend} {self.precision}{heads}"

    @property
    def is_reference(self) -> bool:
        """Whether it computes exactly what the reference does."""
        return not self.tf32_heads and (self.backend, self.precision) == (REFERENCE_BACKEND, REFERENCE_PRECISION)


def parse_contender(name: str, text: str, method: LingbotConfig, device: torch.device) -> Contender:
    """``BACKEND[:PRECISION]``; what it leaves out is as ``method`` has it. Raises ConfigError."""
    wanted, *words = text.split(":")
    backend = next((known for known in BACKENDS if known == wanted), None)
    if backend is None:
        raise ConfigError(
            f"{name}: no backend {wanted!r}{nearest(wanted, BACKENDS)}; there are: {', '.join(BACKENDS)}, "
            "each with :PRECISION where wanted"
        )
    known = tuple(PRECISIONS)
    strange = next((word for word in words if word not in known), None)
    if strange is not None:
        raise ConfigError(
            f"{name}: expected {', '.join(known)} behind {wanted}, found {strange!r}{nearest(strange, known)}"
        )
    if len(words) > 1:
        raise ConfigError(f"{name}: expected one precision at most, found {text!r}")
    precision = words[0] if words else method.precision
    tf32 = _rounds_heads(method.heads, precision)
    return Contender(name, resolve_backend(backend, PRECISIONS[precision], device), precision, tf32)


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

    def weights_bytes(self, contender: Contender) -> int:
        """Bytes of its network's parameters on the device."""
        parameters = self.model(contender).network.parameters()
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    def open(self, contender: Contender) -> Stepper:
        """A new stream of this contender, each frame waited for. Raises as `Model.open`."""
        settings = self.method.streaming.model_copy(update={"backend": contender.backend})
        return self.model(contender).open(settings, self.frames, overlapped=False)


def _rounds_heads(heads: HeadPrecision, precision: str) -> bool:
    return rounds_heads(heads, half=PRECISIONS[precision] is not torch.float32)
