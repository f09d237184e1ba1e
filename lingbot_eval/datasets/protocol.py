"""How a dataset is opened: an adapter lists scenes and opens one with a selection of its frames."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field

from lingbot_eval.settings import StrictModel
from lingbot_eval.types import FrameSequence

MAX_FRAMES = 10**9
"""A year of video at 30 Hz; start + stride · count still fits the machine's integers."""


class Selection(StrictModel):
    """Which frames of a scene are used: every ``stride``-th from ``start``, at most ``count``."""

    start: Annotated[int, Field(ge=0, le=MAX_FRAMES)] = 0
    stride: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 1
    count: Annotated[int, Field(ge=1, le=MAX_FRAMES)] | None = None

    def indices(self, total: int) -> range:
        """Source indices of the selected frames of ``total``."""
        stop = total if self.count is None else min(total, self.start + self.stride * self.count)
        return range(min(self.start, total), stop, self.stride)


class Adapter(Protocol):
    """One dataset on disk (or generated). Reads only: never resizes, never scores."""

    @property
    def name(self) -> str: ...

    def scenes(self) -> tuple[str, ...]:
        """Scenes found under the root, in order. Raises DataError when the root is missing, saying what is there."""
        ...

    def open(self, scene: str, selection: Selection) -> FrameSequence:
        """Raises DataError for an unknown scene (listing those there are) or a malformed one (file and line)."""
        ...
