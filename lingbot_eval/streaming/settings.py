"""Settings of a stream: scale phase, window, keyframes, backend. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingbot_eval.errors import ConfigError

TRAINED_VIEWS = 320
"""Frames that the temporal rotary was trained on; ``auto`` keeps no more than that many (model.md section 6)."""

Backend = Literal["sdpa"]


class StreamSettings(BaseModel):
    """How frames enter and which are kept (model.md section 6).

    scale_frames: the anchor context, entering together. window: last kept frames seen whole, None for the model
    configuration's own. keyframe_interval: every k-th step frame is kept; ``auto`` = 1 up to 320 frames, else
    ceil(N/320). backend: where keys and values live.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale_frames: Annotated[int, Field(ge=1)] = 8
    window: Annotated[int, Field(ge=1)] | None = None
    keyframe_interval: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    backend: Backend = "sdpa"


def resolve_interval(keyframe_interval: int | Literal["auto"], frames: int | None) -> int:
    """The fixed interval that ``auto`` stands for on a stream of ``frames`` frames.

    Raises ConfigError for ``auto`` on a stream of unknown length.
    """
    if keyframe_interval != "auto":
        return keyframe_interval
    if frames is None:
        raise ConfigError(
            "keyframe_interval 'auto' needs the number of frames, which this input cannot tell; "
            "set streaming.keyframe_interval to a number, or selection.count"
        )
    return 1 if frames <= TRAINED_VIEWS else -(-frames // TRAINED_VIEWS)
