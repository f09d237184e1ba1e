"""The network of a study's cases, built once for all that differ in their streams alone."""

from __future__ import annotations

import torch

from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.methods.network import build_network
from lingbot_eval.methods.registry import free_device_memory
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource


class Networks:
    """Holds the network used last; never two at once."""

    def __init__(self, settings: ModelSettings, device: torch.device) -> None:
        self._settings = settings
        self._device = device
        self._held: tuple[str, GeometricContextTransformer, WeightSource] | None = None

    def get(self, precision: str) -> tuple[GeometricContextTransformer, WeightSource]:
        """The network in this precision. Raises as `build_model`."""
        if self._held is None or self._held[0] != precision:
            self.close()
            self._held = precision, *build_network(self._settings, self._device, precision)
        _, model, source = self._held
        return model, source

    def close(self) -> None:
        """Let it go."""
        self._held = None
        free_device_memory()
