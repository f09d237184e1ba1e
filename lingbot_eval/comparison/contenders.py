"""Who is compared: backends with a precision, over weights that those of one kind share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lingbot_eval.errors import ConfigError
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.network import build_network
from lingbot_eval.model.build import PRECISIONS
from lingbot_eval.model.network import GeometricContextTransformer, HeadPrecision, rounds_heads
from lingbot_eval.streaming.backends import BACKENDS, Backend
from lingbot_eval.streaming.open import Session, open_session
from lingbot_eval.streaming.stores import resolve_backend
from lingbot_eval.validation import nearest

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
    _models: dict[tuple[str, bool], GeometricContextTransformer] = field(default_factory=dict)

    def model(self, contender: Contender) -> GeometricContextTransformer:
        """Its network, built when one of its kind is first asked for. Raises as `build_model`."""
        kind = contender.precision, contender.tf32_heads
        if kind not in self._models:
            self._models[kind] = self._built(contender)
        return self._models[kind]

    def weights_bytes(self, contender: Contender) -> int:
        """Bytes of its network's parameters on the device."""
        model = self.model(contender)
        return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())

    def open(self, contender: Contender) -> Session:
        """A new stream of this contender. Raises as `open_session`."""
        settings = self.method.streaming.model_copy(update={"backend": contender.backend})
        iterations = self.method.model.camera_iterations
        return open_session(self.model(contender), settings, frames=self.frames, camera_iterations=iterations)

    def _built(self, contender: Contender) -> GeometricContextTransformer:
        model, _ = build_network(self.method.model, self.device, contender.precision)
        model.choose_heads("tf32" if contender.tf32_heads else "float32")
        return model


def _rounds_heads(heads: HeadPrecision, precision: str) -> bool:
    return rounds_heads(heads, half=PRECISIONS[precision] is not torch.float32)
