"""What can be evaluated: anything that turns frames into predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from lingbot_eval.types import Frame, FrameSequence, Measurement, Prediction


class Method(Protocol):
    """One method, opened for one sequence after the other.

    The runner calls, for each sequence in this order: ``open``, ``warm_up`` with the first frame when
    ``needs_images``, ``predict``, ``resources`` after the last prediction; and ``close`` at the end or after a failure.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_images(self) -> bool: ...

    def describe(self) -> Mapping[str, Any]:
        """What the record must say of it: configuration, checkpoint or "untrained", backend, precision, device."""
        ...

    def open(self, sequence: FrameSequence) -> None:
        """Bind to a scene (reads saved trajectories, resolves ``auto`` settings). Raises DataError or ConfigError."""
        ...

    def warm_up(self, frame: Frame) -> float:
        """Compile and touch everything once on a throw-away stream; returns the seconds it took."""
        ...

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """Predictions in frame order, as they are ready; frames without a prediction are simply left out."""
        ...

    def resources(self) -> tuple[Measurement, ...]:
        """Device-side memory (weights, cache, peaks) of the last ``predict``."""
        ...

    def close(self) -> None:
        """Free device memory and files."""
        ...
