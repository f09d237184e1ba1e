"""Settings of a stream: scale phase, window, keyframes, windowed mode, backend. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from lingbot_eval.errors import ConfigError
from lingbot_eval.settings import StrictModel

Backend = Literal["auto", "sdpa", "triton", "paged", "flashinfer"]
"""``sdpa``: contiguous keys, torch's attention. ``triton``: contiguous keys, this project's kernel (CUDA). ``paged``:
pages, gathered by torch (any device; the oracle). ``flashinfer``: pages, FlashInfer's kernels, fa3 on a Hopper GPU and
fa2 on others. ``auto``: the fastest that can be had (`lingbot_eval.streaming.stores.resolve_backend`)."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)


TRAINED_VIEWS = 320
"""Frames that the temporal rotary was trained on; ``auto`` keeps no more than that many (model.md section 6)."""

Positive = Annotated[int, Field(ge=1)]


class FlowSettings(StrictModel):
    """Keyframes by how far the image has moved since the last one (model.md section 6, "Flow keyframes").

    threshold: mean displacement in pixels above which a frame is kept. max_gap: frames after which one is kept
    whatever it shows.
    """

    threshold: Annotated[float, Field(gt=0)]
    max_gap: Positive = 30


class WindowedSettings(StrictModel):
    """Windows of fresh caches and clocks, joined afterwards (model.md section 6, "Windowed mode").

    size: kept frames a window, scale frames included. overlap_keyframes: kept frames that neighbours share;
    overlap_size: the same in frames; with neither, the scale frames.
    """

    size: Positive = 64
    overlap_size: Positive | None = None
    overlap_keyframes: Positive | None = None

    @model_validator(mode="after")
    def _one_overlap(self) -> WindowedSettings:
        if self.overlap_size is not None and self.overlap_keyframes is not None:
            raise ValueError("give overlap_size (frames) or overlap_keyframes, not both")
        return self


class StreamSettings(StrictModel):
    """How frames enter and which are kept (model.md section 6).

    scale_frames: the anchor context, entering together. window: last kept frames seen whole, None for the model
    configuration's own. keyframe_interval: every k-th step frame is kept; ``auto`` = 1 up to 320 frames, else
    ceil(N/320); flow replaces it. windowed: None is one stream from end to end. backend: where keys and values live.
    cache_precision: 8 keeps those of the global blocks in 8 bits, with a scale a token and head; None as they come.
    """

    scale_frames: Positive = 8
    window: Positive | None = None
    keyframe_interval: Positive | Literal["auto"] = "auto"
    flow: FlowSettings | None = None
    windowed: WindowedSettings | None = None
    backend: Backend = "auto"
    cache_precision: Literal[8] | None = None

    @model_validator(mode="after")
    def _backend_reads_the_cache(self) -> StreamSettings:
        if self.cache_precision is not None and self.backend == "flashinfer":
            raise ValueError(
                "FlashInfer reads no 8-bit numbers with a scale a token; use backend triton, sdpa or paged, or leave "
                "cache_precision out"
            )
        return self

    @model_validator(mode="after")
    def _windows_advance(self) -> StreamSettings:
        if self.windowed is not None and self.windowed.size <= self.scale_frames:
            raise ValueError(
                f"windowed.size {self.windowed.size} counts the {self.scale_frames} scale frames of each window and "
                f"leaves none to go on with; the smallest that works is {self.scale_frames + 1}"
            )
        return self


def overlap_frames(settings: StreamSettings, interval: int) -> int:
    """Frames that neighbouring windows share, before the limits that the stream's length sets."""
    windowed = settings.windowed or WindowedSettings()
    if windowed.overlap_keyframes is not None:
        return max(settings.scale_frames, windowed.overlap_keyframes * interval)
    return windowed.overlap_size or settings.scale_frames


def window_span(settings: StreamSettings, interval: int) -> int:
    """Frames of a full window at a fixed interval."""
    windowed = settings.windowed or WindowedSettings()
    return settings.scale_frames + (windowed.size - settings.scale_frames) * interval


def stream_interval(settings: StreamSettings, frames: int | None) -> int:
    """The fixed interval of a stream of ``frames`` frames; 1 in the formulas of flow keyframes, which have none.

    Raises ConfigError for ``auto`` on a stream of unknown length.
    """
    return 1 if settings.flow else resolve_interval(settings.keyframe_interval, frames)


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
