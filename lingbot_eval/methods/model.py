"""The streaming model in a user's hands: weights on a device, sessions that take one image after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from operator import length_hint
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PillowImage

from lingbot_eval.datasets.prepare import SizeSettings, prefetch, prepare
from lingbot_eval.errors import DataError
from lingbot_eval.methods.lingbot_config import LingbotConfig, ModelSettings, Precision
from lingbot_eval.methods.stepper import Stepper
from lingbot_eval.methods.transfer import transfer_for
from lingbot_eval.model.build import build_model, choose_device, resolve_precision
from lingbot_eval.resources import SHIPPED, SHIPPED_CONFIG
from lingbot_eval.streaming.fit import limit_memory
from lingbot_eval.streaming.open import open_session
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings, WindowedSettings
from lingbot_eval.types import Frame, Image, Prediction
from lingbot_eval.validation import validated

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
        self.network, source = build_model(
            settings.model.config,
            checkpoint=settings.model.checkpoint,
            seed=settings.model.seed,
            point_head=settings.model.point_head,
            device=self._device,
            precision=resolve_precision(settings.precision, self._device),
        )
        self.network.choose_heads(settings.heads)
        self.network.leaves_float16 = settings.precision == "auto"
        self.config: str = settings.model.config
        self.source = source
        self.weights = source.name
        self.device = str(self._device)
        self.notes = tuple(source.notes)

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
    if "frames" not in settings:
        settings["frames"] = length_hint(frames) or None
    for _, prediction in model.session(**settings).with_frames(frames):
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
