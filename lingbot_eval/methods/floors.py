"""The floors under every method: what poses are worth that come from no image and no truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from lingbot_eval.methods.base import BaseMethod, Method, MethodSettings
from lingbot_eval.types import Frame, Prediction


class _FloorConfig(MethodSettings):
    @property
    def needs_images(self) -> bool:
        return False

    @property
    def gives_depth(self) -> bool:
        return False

    def stream_key(self, frames: int) -> tuple[object, ...]:
        return ()


class MotionlessConfig(_FloorConfig):
    """A camera that never moves nor turns."""

    kind: Literal["motionless"]
    name: Annotated[str, Field(min_length=1)] = "motionless"

    def create(self) -> Method:
        return Floor(self, 0.0)

    @property
    def motionless(self) -> bool:
        return True


class ConstantVelocityConfig(_FloorConfig):
    """A camera that moves straight on along its optical axis, one unit a second, and never turns.

    The speed is arbitrary: whoever compares with it after an alignment with scale, as Sim(3), finds the best one.
    """

    kind: Literal["constant_velocity"]
    name: Annotated[str, Field(min_length=1)] = "constant_velocity"

    def create(self) -> Method:
        return Floor(self, 1.0)


class Floor(BaseMethod):
    """Every frame's pose by its time alone; images are not read."""

    needs_images = False
    gives_depth = False

    def __init__(self, settings: MethodSettings, speed: float) -> None:
        """``speed``: units a second along the optical axis."""
        super().__init__(settings)
        self._speed = speed

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """One pose a frame, from the first frame's camera."""
        start: float | None = None
        for frame in frames:
            start = frame.timestamp if start is None else start
            pose = np.eye(4)
            pose[2, 3] = self._speed * (frame.timestamp - start)
            yield Prediction(frame.index, frame.timestamp, pose)
