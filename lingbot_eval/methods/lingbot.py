"""The streaming model as a method: images in, poses, depth and their cost out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.model import Model
from lingbot_eval.methods.stepper import Stepper, warm_up
from lingbot_eval.model.build import PRECISIONS, choose_device, resolve_precision
from lingbot_eval.profiling.memory import device_memory_measurements, mebibytes, reset_peaks
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import stream_interval
from lingbot_eval.streaming.stores import attention_name, resolve_backend
from lingbot_eval.types import Frame, FrameSequence, Measurement, Prediction


class LingbotMethod:
    """A `lingbot_eval.methods.base.Method`. The model is loaded at the first ``open`` and kept until ``close``."""

    def __init__(self, config: LingbotConfig, model: Model | None = None) -> None:
        """``model``: loaded before with these weights; it is loaded when it is needed if left out."""
        self._config = config
        self._device = choose_device(config.device)
        self._loaded = model
        self._frames: int | None = None
        self._stream: Stepper | None = None
        self._interval = 0
        self._left_at: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """As in the experiment file."""
        return self._config.name

    @property
    def needs_images(self) -> bool:
        """Always: it is a model of images."""
        return True

    def describe(self) -> Mapping[str, Any]:
        """Configuration, weights, stream, device, precision and what ran, as plain values."""
        settings = self._config.streaming
        network, source = self._model().network, self._model().source
        backend = resolve_backend(settings.backend, network.trunk_dtype, self._device)
        return {
            **self._config.model_dump(mode="json"),
            "weights": source.name,
            "trained": source.trained,
            "checkpoint_sha256": source.sha256,
            "notes": [*source.notes, *self._stream_notes()],
            "precision": resolve_precision(self._config.precision, self._device),
            "device": str(self._device),
            "backend": backend,
            "attention": attention_name(backend, network.trunk_dtype, self._device),
            "window": settings.window or network.config.window,
            "keyframe_interval": self._interval,
            "scale": "relative: the model's own, not metric",
            "pose": "camera-to-world, OpenCV axes",
            "depth": "along z",
        }

    def _stream_notes(self) -> tuple[str, ...]:
        left_at = None if self._stream is None else self._stream.session.bfloat16_from
        if left_at is None:
            return ()
        return (f"computed in bfloat16 from frame {left_at} on, where a value left the range of float16",)

    def open(self, sequence: FrameSequence) -> None:
        """Raises ConfigError for interval ``auto`` on a sequence of unknown length."""
        self._stream = None  # the last scene's caches go before the next one's come
        self._frames = sequence.length
        self._interval = stream_interval(self._config.streaming, self._frames)
        wanted = PRECISIONS[resolve_precision(self._config.precision, self._device)]
        if self._loaded is not None and self._loaded.network.trunk_dtype is not wanted:
            self._loaded = None  # the last scene left float16, and its weights have lost bits
        self._model()

    def warm_up(self, frame: Frame) -> float:
        """A scale phase and a few steps of this image through a stream of their own."""
        return warm_up(self._open, frame, self._config.streaming.scale_frames, self._device)

    def predict(self, frames: Iterable[Frame | None]) -> Iterator[Prediction]:
        """On a GPU a prediction leaves while the device computes the next frame; at None all leave that there are."""
        reset_peaks(str(self._device))
        self._stream = self._open()
        state, self._left_at = self._left_at, None
        if state is not None:
            session = self._stream.session
            if not isinstance(session, StreamingSession):
                raise TypeError("windows have no state that could be gone on from")
            session.restore(state)
        return self._stream.drive(frames)

    def stream_state(self) -> dict[str, Any] | None:
        """None in the scale phase, and of windows."""
        stream = self._stream
        if stream is None or not stream.is_at_rest or not isinstance(stream.session, StreamingSession):
            return None
        return stream.session.state()

    def go_on_from(self, state: dict[str, Any]) -> None:
        """The next stream begins there."""
        self._left_at = state

    def resources(self) -> tuple[Measurement, ...]:
        """Memory of weights, caches by kind and as allocated, and the device's own, in MiB."""
        used = self._stream.session.used_bytes() if self._stream else {}
        held = self._stream.session.allocated_bytes() if self._stream else 0
        kinds = tuple(
            mebibytes(f"cache_{kind}", size, f"keys and values of the {kind.replace('_', ' ')} in view at the end")
            for kind, size in used.items()
        )
        return (
            mebibytes("weights", self.weights_bytes, "parameters on the device"),
            *kinds,
            mebibytes("cache_allocated", held, "cache buffers held at the end, headroom included"),
            *device_memory_measurements(str(self._device)),
        )

    def files(self) -> Mapping[str, Path]:
        """None."""
        return {}

    @property
    def weights_bytes(self) -> int:
        """Of the parameters on the device."""
        return sum(p.numel() * p.element_size() for p in self._model().network.parameters())

    def with_settings(self, config: LingbotConfig) -> LingbotMethod | None:
        """A method that streams otherwise through the model of this one; None where it needs another model."""
        return LingbotMethod(config, self._loaded) if _loads(config) == _loads(self._config) else None

    def close(self) -> None:
        """Let the network and its caches go."""
        self._loaded = None
        self._stream = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            if self._config.memory_gb is not None:
                torch.cuda.set_per_process_memory_fraction(1.0, self._device)

    def _model(self) -> Model:
        if self._loaded is None:
            self._loaded = Model(self._config)
        return self._loaded

    def _open(self) -> Stepper:
        return self._model().open(self._config.streaming, self._frames, overlapped=self._config.overlapped)


def _loads(config: LingbotConfig) -> tuple[object, ...]:
    """The settings that decide what is loaded."""
    return config.model, config.device, config.precision, config.heads, config.memory_gb
