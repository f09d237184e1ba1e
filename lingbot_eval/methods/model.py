"""The streaming model: in a user's hands, sessions that take one image after the other, and as a method of a run."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from operator import length_hint
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PillowImage

from lingbot_eval.errors import DataError
from lingbot_eval.methods.base import BaseMethod
from lingbot_eval.methods.lingbot_config import LingbotConfig, ModelSettings, Precision
from lingbot_eval.methods.stepper import Stepper, transfer_for, warm_up
from lingbot_eval.model.build import PRECISIONS, build_model, choose_device, resolve_precision
from lingbot_eval.model.weights import resolve_checkpoint
from lingbot_eval.prepare import SizeSettings, prefetch, prepare
from lingbot_eval.profiling.memory import device_memory_measurements, mebibytes, reset_peaks
from lingbot_eval.resources import SHIPPED, SHIPPED_CONFIG
from lingbot_eval.settings import validated
from lingbot_eval.streaming.estimate import limit_memory
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings, WindowedSettings, stream_interval
from lingbot_eval.streaming.stores import attention_name, resolve_backend
from lingbot_eval.streaming.windowed import open_session
from lingbot_eval.types import Frame, FrameSequence, Image, Measurement, Prediction

AHEAD = 4
# What the weights of each configuration were trained on, or nearest to it.
_WIDTH = {"ci": 224, "mini": 224, "full": 518}


class Model:
    """A network with its weights on a device. Made by `load_model`; keeps no state between sessions.

    Attributes:
        config: name of the configuration: ``full``, ``mini`` or ``ci``.
        source: where the weights came from: name, SHA-256, whether they are trained.
        weights: what they are, in words; ``untrained`` where there are none.
        device: ``cpu`` or ``cuda:N``.
        notes: what the checkpoint held besides, one line each.
    """

    def __init__(self, settings: LingbotConfig) -> None:
        """Load the weights. Users call `load_model`."""
        self._settings = settings
        self._device = choose_device(settings.device)
        if settings.memory_gb is not None and self._device.type == "cuda":
            limit_memory(self._device, int(settings.memory_gb * 1e9))
        if settings.model.checkpoint is not None:
            resolve_checkpoint(settings.model.checkpoint)  # a download here ends by a key
        # OpenMP keeps threads for each thread that computed, as long as that lives; with more of them than cores all
        # sleep at each barrier. Who loads the model here may stream in another thread, as a page does.
        with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
            self.network, source = loader.submit(
                build_model,
                settings.model.config,
                checkpoint=settings.model.checkpoint,
                seed=settings.model.seed,
                point_head=settings.model.point_head,
                device=self._device,
                precision=resolve_precision(settings.precision, self._device),
            ).result()
        self.network.choose_heads(settings.heads)
        self.network.leaves_float16 = settings.precision == "auto"
        self.config: str = settings.model.config
        self.source = source
        self.weights = source.name
        self.device = str(self._device)
        self.notes = tuple(source.notes)

    @property
    def weights_bytes(self) -> int:
        """Of the parameters on the device."""
        return sum(p.numel() * p.element_size() for p in self.network.parameters())

    def session(
        self,
        *,
        window: int | None = None,
        keyframe_interval: int | Literal["auto"] = "auto",
        scale_frames: int = 8,
        flow: dict[str, Any] | FlowSettings | None = None,
        windowed: dict[str, Any] | WindowedSettings | None = None,
        frames: int | None = None,
        size: dict[str, Any] | SizeSettings | None = None,
    ) -> Session:
        """Open a stream; each session has caches of its own.

        Args:
            window: last kept frames that are seen whole; the configuration's own if left out.
            keyframe_interval: every k-th frame is kept. ``auto`` keeps at most 320 of ``frames``, and every one where
                the length is not known: memory then grows with each frame.
            scale_frames: the anchor context. They enter together: predictions begin with the last of them.
            flow: keyframes by image motion, ``{"threshold": 20}`` (pixels), in place of the interval.
            windowed: windows of fresh caches, joined afterwards, ``{"size": 64}`` (kept frames).
            frames: how many frames will come, where that is known.
            size: what images are resized to, as an experiment's ``size``; by default the width that the weights were
                made for, the height following from the image.

        Returns:
            The session: ``step(image)`` for each frame, ``finish()`` at the end.

        Raises:
            ConfigError: a setting that cannot be, one line.
        """
        if keyframe_interval == "auto" and frames is None:
            keyframe_interval = 1
        given = {
            "window": window,
            "keyframe_interval": keyframe_interval,
            "scale_frames": scale_frames,
            "flow": flow.model_dump() if isinstance(flow, FlowSettings) else flow,
            "windowed": windowed.model_dump() if isinstance(windowed, WindowedSettings) else windowed,
            "backend": self._settings.streaming.backend,
            "cache_precision": self._settings.streaming.cache_precision,
        }
        streaming = validated(StreamSettings, given, "session")
        if not isinstance(size, SizeSettings):
            size = validated(SizeSettings, {"width": _WIDTH[self.config]} if size is None else size, "session: size")
        return Session(self.open(streaming, frames), size)

    def open(self, streaming: StreamSettings, frames: int | None, *, overlapped: bool = True) -> Stepper:
        """A stream of prepared frames.

        Args:
            streaming: its settings.
            frames: how many will come, where that is known.
            overlapped: whether a GPU may compute one frame while the next one is prepared.

        Raises:
            ConfigError: interval ``auto`` for a stream of unknown length.
        """
        iterations = self._settings.model.camera_iterations
        session = open_session(self.network, streaming, frames=frames, camera_iterations=iterations, checks_late=True)
        return Stepper(session, self._device, transfer_for(self._device, overlapped=overlapped))


class Session:
    """One stream of images through a model, in order."""

    def __init__(self, stepper: Stepper, size: SizeSettings) -> None:
        """Made by `Model.session`."""
        self._stepper = stepper
        self._size = size
        self._frames = 0

    def step(self, image: Any, timestamp: float | None = None) -> tuple[Prediction, ...]:
        """Take the next image.

        Args:
            image: a `Frame`; a PIL image; an array (H, W, 3), (H, W) or (H, W, 4), uint8 or floats in [0, 1]; or a
                tensor of such shapes or (3, H, W). Any size; all of one stream alike.
            timestamp: seconds; the frame's number if left out.

        Returns:
            The predictions that are ready, in order: none while the scale frames gather, then one a frame (on a GPU a
            frame or two later). Poses are camera-to-world 4×4 in OpenCV axes, in the model's own scale; depth (H, W)
            along z and intrinsics (3, 3) belong to the resized image.

        Raises:
            DataError: what is no image.
            StreamError: a size that differs from the stream's, or a step after ``finish``.
        """
        return self._stepper.step(self._prepared(image, timestamp))

    def _prepared(self, image: Any, timestamp: float | None = None) -> Frame:
        """The next image at the size that the model sees."""
        if isinstance(image, Frame):
            frame = image
        else:
            number = self._frames
            time = float(number) if timestamp is None else timestamp
            frame = Frame(number, time, as_image(image, number), f"frame {number}")
        self._frames += 1
        return prepare(frame, self._size)

    def with_frames(self, frames: Iterable[Any]) -> Generator[tuple[Frame, Prediction], None, None]:
        """Stream images to the end: each frame, at the size that the model saw, with its prediction.

        Args:
            frames: a scene, a dataset with one, or images as `step` takes them.
        """
        waiting: dict[int, Frame] = {}
        with closing(prefetch(frames, AHEAD)) as ahead:
            for image in ahead:
                frame = self._prepared(image)
                waiting[frame.index] = frame
                for prediction in self._stepper.step(frame):
                    yield waiting.pop(prediction.index), prediction
        for prediction in self.finish():
            yield waiting.pop(prediction.index), prediction

    def finish(self) -> tuple[Prediction, ...]:
        """End the stream.

        Returns:
            The predictions still under way: all of them for a stream shorter than its scale frames.
        """
        return self._stepper.finish()


def load_model(
    weights: str | None = "shipped",
    *,
    config: Literal["full", "mini", "ci"] | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    backend: str = "auto",
    cache_precision: Literal[8] | None = None,
    seed: int = 0,
) -> Model:
    """The streaming model with its weights.

    Args:
        weights: ``shipped`` (small, of configuration ``ci``; made-up rooms alone), ``lingbot-map`` or
            ``lingbot-map-long`` (the public checkpoints, fetched at a pinned revision and checked; extra ``hub``), a
            file, ``hf://owner/repo/file``, or None for untrained ones.
        config: of the network; ``ci`` for shipped weights and ``full`` for all others if left out.
        device: ``auto`` takes a GPU where there is one; ``cpu``, ``cuda``, ``cuda:1``.
        precision: of the trunk's products and the K/V cache; ``auto``: the nearest to float32 without its price.
        backend: where keys and values live: ``auto``, ``sdpa``, ``paged``, ``triton``, ``flashinfer`` ….
        cache_precision: 8 keeps keys and values in 8 bits.
        seed: of untrained weights.

    Returns:
        The model, ready to stream.

    Raises:
        ConfigError: a setting that cannot be, or a device that is not there.
        CheckpointError: weights that are damaged, unsafe or of another model.
        DependencyError: an extra that is needed and not installed.
    """
    chosen = config or (SHIPPED_CONFIG if weights == SHIPPED else "full")
    settings = validated(
        LingbotConfig,
        {
            "kind": "lingbot",
            "model": validated(ModelSettings, {"config": chosen, "checkpoint": weights, "seed": seed}, "load_model"),
            "streaming": {"backend": backend, "cache_precision": cache_precision},
            "device": device,
            "precision": precision,
        },
        "load_model",
    )
    return Model(settings)


def stream(model: Model, frames: Iterable[Any], **settings: Any) -> Iterator[Prediction]:
    """Stream a scene, or any images, through a model.

    Args:
        model: from `load_model`.
        frames: a dataset with one scene or a scene (see `open_dataset`), or images as `Session.step` takes them.
        settings: as of `Model.session`; ``frames`` is the length of what is given, where it has one.

    Yields:
        One prediction a frame, in order, as they are ready.

    Raises:
        ConfigError, DataError, StreamError: as `Model.session` and `Session.step`.
    """
    for _, prediction in model.session(**settings, frames=length_hint(frames) or None).with_frames(frames):
        yield prediction


def as_image(image: Any, number: int) -> Image:
    """(H, W, 3) uint8 RGB of what users hold. ``number``: the frame's, for messages. Raises DataError."""
    if isinstance(image, PillowImage.Image):
        return np.asarray(image.convert("RGB"), np.uint8)
    if isinstance(image, torch.Tensor):
        pixels = image.detach().cpu().numpy()
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (3, 4):
            pixels = np.moveaxis(pixels, 0, 2)
    else:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise DataError(f"frame {number}: expected an image (H, W, 3), found {type(image).__name__} {pixels.shape}")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(
                f"frame {number}: expected floats in [0, 1], found {pixels.min():g} to {pixels.max():g}; divide by 255,"
                " or give uint8"
            )
        pixels = np.round(pixels * 255)
    elif pixels.dtype != np.uint8:
        raise DataError(f"frame {number}: expected uint8 or floats in [0, 1], found {pixels.dtype}; convert it")
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3], np.uint8)


class LingbotMethod(BaseMethod):
    """Images in, poses, depth and their cost out. The model is loaded at the first ``open``, kept until ``close``."""

    def __init__(self, config: LingbotConfig, model: Model | None = None) -> None:
        """``model``: loaded before with these weights; it is loaded when it is needed if left out."""
        super().__init__(config)
        self._config = config
        self._device = choose_device(config.device)
        self._loaded = model
        self._frames: int | None = None
        self._stream: Stepper | None = None
        self._interval = 0
        self._left_at: dict[str, Any] | None = None

    def describe(self) -> Mapping[str, Any]:
        """Configuration, weights, stream, device, precision and what ran, as plain values."""
        settings = self._config.streaming
        network, source = self._model().network, self._model().source
        backend = resolve_backend(settings.backend, network.trunk_dtype, self._device)
        return {
            **super().describe(),
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

    @property
    def weights_bytes(self) -> int:
        """Of its network's parameters on the device."""
        return self._model().weights_bytes

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
