"""Opens the session that the settings ask for."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.session import FrameOutput, StreamingSession
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.streaming.windowed import WindowedSession


class Session(Protocol):
    """One stream: frames in, outputs as soon as they are known.

    bfloat16_from: the frame from which on it is computed in bfloat16, having left float16's range; None as a rule.
    """

    interval: int
    bfloat16_from: int | None

    def step(self, image: Tensor) -> tuple[FrameOutput, ...]: ...

    def finish(self) -> tuple[FrameOutput, ...]: ...

    def settle(self) -> bool: ...

    def used_bytes(self) -> dict[str, int]: ...

    def allocated_bytes(self) -> int: ...


def open_session(
    model: GeometricContextTransformer,
    settings: StreamSettings,
    *,
    frames: int | None,
    camera_iterations: int,
    checks_late: bool = False,
) -> Session:
    """A stream of ``frames`` images (None where the length is not known), whole or in windows.

    checks_late: see `StreamingSession`; windows, which read what they join, check at once.

    Raises ConfigError for interval ``auto`` without a length.
    """

    def whole(*, checks_late: bool = False) -> StreamingSession:
        return StreamingSession(
            model, settings, frames=frames, camera_iterations=camera_iterations, checks_late=checks_late
        )

    return WindowedSession(settings, whole, frames) if settings.windowed else whole(checks_late=checks_late)
