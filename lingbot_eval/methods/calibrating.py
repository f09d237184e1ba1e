"""What the baselines that look at images share: a camera that is known, in doubt or guessed, and no depth."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lingbot_eval.methods.base import BaseMethod, MethodSettings
from lingbot_eval.types import FrameSequence


class CalibratingConfig(MethodSettings):
    """Settings of a method that can estimate the focal length along with the poses."""

    intrinsics: Literal["auto", "fixed", "refined"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def gives_depth(self) -> bool:
        return False


class CalibratingMethod(BaseMethod):
    """Poses in a scale of their own, no depth. camera: what the record says of the intrinsics."""

    gives_depth = False

    def __init__(self, settings: CalibratingConfig) -> None:
        super().__init__(settings)
        self.camera = "not known before the first frame"
        self._nominal = False

    def open(self, sequence: FrameSequence) -> None:
        """Remember the scene, and whether its intrinsics are of a data sheet."""
        super().open(sequence)
        self._nominal = sequence.facts().get("intrinsics_source") == "nominal"

    def refines(self, guess: str | None) -> bool:
        """Whether the focal length is to be estimated; ``guess``: the camera in words where the dataset has none."""
        wanted = self.settings.intrinsics
        refined = wanted == "refined" or (wanted == "auto" and (self._nominal or guess is not None))
        source = guess or f"the dataset's, {'nominal' if self._nominal else 'calibrated'}"
        self.camera = f"{source}; focal length {'estimated along with the poses' if refined else 'held'}"
        return refined
