"""Who is compared: backends with a precision, over networks that those of one precision share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lingbot_eval.errors import ConfigError
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.network import build_network
from lingbot_eval.model.build import PRECISIONS
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource
from lingbot_eval.streaming.backends import BACKENDS, Backend
from lingbot_eval.streaming.open import Session, open_session
from lingbot_eval.streaming.stores import resolve_backend
from lingbot_eval.validation import nearest

REFERENCE_BACKEND: Backend = "sdpa"
REFERENCE_PRECISION = "float32"


@dataclass(frozen=True)
class Contender:
    """One side. name: ``A``, ``B`` or ``reference``. backend: as it is resolved on the device, never ``auto``."""

    name: str
    backend: Backend
    precision: str

    @property
    def label(self) -> str:
        """``A sdpa bfloat16``."""
        return f"{self.name} {self.backend} {self.precision}"

    @property
    def is_reference(self) -> bool:
        """Whether it computes exactly what the reference does."""
        return (self.backend, self.precision) == (REFERENCE_BACKEND, REFERENCE_PRECISION)


def parse_contender(name: str, text: str, precision: str, device: torch.device) -> Contender:
    """``BACKEND`` or ``BACKEND:PRECISION``; the other precision is ``precision``. Raises ConfigError."""
    wanted, colon, given = text.partition(":")
    backend = next((known for known in BACKENDS if known == wanted), None)
    if backend is None:
        raise ConfigError(
            f"{name}: no backend {wanted!r}{nearest(wanted, BACKENDS)}; there are: {', '.join(BACKENDS)}, "
            "each with :PRECISION where wanted"
        )
    if colon and given not in PRECISIONS:
        raise ConfigError(
            f"{name}: no precision {given!r}{nearest(given, PRECISIONS)}; there are: {', '.join(PRECISIONS)}"
        )
    chosen = given or precision
    return Contender(name, resolve_backend(backend, PRECISIONS[chosen], device), chosen)


def reference_contender() -> Contender:
    """What the others are held against: torch's attention in float32."""
    return Contender("reference", REFERENCE_BACKEND, REFERENCE_PRECISION)


@dataclass
class Bench:
    """The networks under comparison, one a precision, and the sessions opened on them.

    method: the model and the stream; its backend and precision are the contenders'. frames: length of the stream,
    None where it is not known.
    """

    method: LingbotConfig
    device: torch.device
    frames: int | None
    _models: dict[str, tuple[GeometricContextTransformer, WeightSource]] = field(default_factory=dict)

    def model(self, precision: str) -> tuple[GeometricContextTransformer, WeightSource]:
        """The network in this precision, built when it is first asked for. Raises as `build_model`."""
        if precision not in self._models:
            self._models[precision] = build_network(self.method.model, self.device, precision)
        return self._models[precision]

    def weights_bytes(self, precision: str) -> int:
        """Bytes of the network's parameters on the device."""
        model, _ = self.model(precision)
        return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())

    def open(self, contender: Contender) -> Session:
        """A new stream of this contender. Raises as `open_session`."""
        model, _ = self.model(contender.precision)
        settings = self.method.streaming.model_copy(update={"backend": contender.backend})
        iterations = self.method.model.camera_iterations
        return open_session(model, settings, frames=self.frames, camera_iterations=iterations)
