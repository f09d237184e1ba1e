"""From a method's settings to the method, and what a plan must know of it before it is built. Imports torch lazily."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass

from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.protocol import Method
from lingbot_eval.methods.replay_config import ReplayConfig

MethodSettings = LingbotConfig | ReplayConfig


@dataclass(frozen=True)
class WeightFile:
    """Which weights a method will have. sha256: of the checkpoint file, None for untrained weights."""

    label: str
    sha256: str | None


def create_method(settings: MethodSettings) -> Method:
    """The method that ``settings`` describe, not opened yet. Raises ConfigError for a device that is not there."""
    if isinstance(settings, ReplayConfig):
        from lingbot_eval.methods.replay import ReplayMethod

        return ReplayMethod(settings)
    from lingbot_eval.methods.lingbot import LingbotMethod

    return LingbotMethod(settings)


class OpenMethod:
    """Keeps the method used last, so that its weights serve scene after scene; never two at once."""

    def __init__(self) -> None:
        self._held: tuple[MethodSettings, Method] | None = None

    def get(self, settings: MethodSettings) -> Method:
        """The method of these settings; another one that is held is closed first."""
        if self._held is None or self._held[0] != settings:
            self.close()
            self._held = (settings, create_method(settings))
        return self._held[1]

    def close(self) -> None:
        """Let go of the method and of what it left on the device."""
        if self._held is not None:
            held, self._held = self._held[1], None
            held.close()
        free_device_memory()


def with_device(settings: MethodSettings) -> MethodSettings:
    """``auto`` replaced by the device that it means on this machine, since numbers depend on it.

    Raises ConfigError for a device that is not there.
    """
    if isinstance(settings, ReplayConfig) or settings.device == "cpu":
        return settings
    from lingbot_eval.model.build import choose_device

    return settings.model_copy(update={"device": str(choose_device(settings.device))})


def weights_of(settings: MethodSettings) -> WeightFile | None:
    """Which weights the method will have; None for a method without any.

    Raises CheckpointError or DependencyError when the checkpoint is not there.
    """
    if isinstance(settings, ReplayConfig):
        return None
    if settings.model.checkpoint is None:
        return WeightFile(f"untrained (seed {settings.model.seed})", None)
    from lingbot_eval.model.weights import file_sha256, resolve_checkpoint

    path = resolve_checkpoint(settings.model.checkpoint)
    digest = file_sha256(path)
    return WeightFile(f"{path.name}, SHA-256 {digest}", digest)


def gives_depth(settings: MethodSettings) -> bool:
    """Whether predictions will carry depth, so that reference depth is worth decoding."""
    return not isinstance(settings, ReplayConfig) or settings.depth is not None


def leaves_the_cpu_free(settings: MethodSettings) -> bool:
    """Whether the method computes elsewhere, so that the cores may decode, score and store meanwhile."""
    return not isinstance(settings, ReplayConfig) and settings.device.startswith("cuda")


def free_device_memory() -> None:
    """Give back what a failed method left on the device, once nothing refers to it any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
