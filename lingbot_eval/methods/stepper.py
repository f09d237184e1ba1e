"""The driver of the session: frames in, predictions out with their cost; every measured stream is one of these.

Pixels go to the device and outputs back beside the computation where the device has a way for it. One code path for
both kinds of device: a step uploads, computes and downloads in this order. On a CPU that is all in place. On a GPU
copies run from and to pinned memory on streams of their own, and up to ``in_flight`` steps may be unfinished while the
host goes on to the next: so the device computes one frame while the next one travels to it, the one before travels
back, and the host prepares what follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot_eval.errors import DataError
from lingbot_eval.geometry.poses import decode_camera_to_world, decode_intrinsics
from lingbot_eval.methods.base import free_device_memory
from lingbot_eval.profiling.timing import Span, begin_span, timed
from lingbot_eval.streaming.session import FrameOutput
from lingbot_eval.streaming.windowed import Session
from lingbot_eval.types import Frame, FrameType, Image, Prediction, StepCost

HostArray = NDArray[np.float32]


Arrival = Callable[[], tuple[HostArray | None, ...]]
"""Outputs on their way to the host: them, in the order given, once they are there; None for what was None."""


class HostTransfer:
    """Copies between host and CPU: there is nowhere to copy to, and nothing to overlap."""

    in_flight = 0
    """Steps that may be unfinished when the host begins another."""

    def upload(self, image: Image) -> Tensor:
        """(3, H, W) float32 in [0, 1] on the device from (H, W, 3) uint8 RGB; the bytes travel, not the floats.

        What the caller queues next on the current stream waits for it.
        """
        return _normalised(torch.from_numpy(np.ascontiguousarray(image)))

    def download(self, tensors: Sequence[Tensor | None]) -> Arrival:
        """Begin to fetch ``tensors`` as they will be when the work queued so far is done.

        They have to be the caller's own: nothing queued later may write to them.
        """
        arrays = _arrays(tensors)
        return lambda: arrays


class DeviceTransfer:
    """A GPU's. in_flight: 1 overlaps a step with the next one; 0 waits for each, as somebody who needs it now would.

    Pinned memory comes from torch's own pool, which hands a piece out again only when the copies that used it are
    done; so an array of outputs lives as long as somebody holds it, and the amount is bounded by what is held.
    """

    def __init__(self, device: torch.device, in_flight: int = 1) -> None:
        self.in_flight = in_flight
        self._device = device
        self._to_device = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._to_host = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, image: Image) -> Tensor:
        """As of `HostTransfer`."""
        pinned = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
        np.copyto(pinned.numpy(), image)
        with torch.cuda.stream(self._to_device):
            pixels = _normalised(pinned.to(self._device, non_blocking=True))
        compute = torch.cuda.current_stream(self._device)
        compute.wait_stream(self._to_device)
        # Allocated on one stream, used on another: its memory must not go to a new upload before that use.
        pixels.record_stream(compute)
        return pixels

    def download(self, tensors: Sequence[Tensor | None]) -> Arrival:
        """As of `HostTransfer`."""
        self._to_host.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._to_host):
            copies = [None if tensor is None else self._fetched(tensor) for tensor in tensors]
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._to_host)

        def arrived() -> tuple[HostArray | None, ...]:
            done.synchronize()
            return _arrays(copies)

        return arrived

    def _fetched(self, tensor: Tensor) -> Tensor:
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._to_host)
        return copy


Transfer = HostTransfer | DeviceTransfer


def transfer_for(device: torch.device, *, overlapped: bool = True) -> Transfer:
    """The transfer of a device; ``overlapped``: whether a GPU's steps may overlap."""
    return DeviceTransfer(device, in_flight=1 if overlapped else 0) if device.type == "cuda" else HostTransfer()


def _arrays(tensors: Sequence[Tensor | None]) -> tuple[HostArray | None, ...]:
    return tuple(None if tensor is None else tensor.numpy() for tensor in tensors)


def _normalised(pixels: Tensor) -> Tensor:
    return pixels.permute(2, 0, 1).float().div_(255.0)


WARM_UP_STEPS = 4
"""Frames after the scale phase: enough for kept and passing ones, and for the pass that a CUDA graph records."""

FIELDS = 5
"""Tensors of one frame's output that come back: pose, depth and its confidence, points and theirs."""


@dataclass(frozen=True, eq=False)
class _Submitted:
    """Frames whose outputs the device has been asked for, and what the step that made them cost.

    spans: of all steps since the outputs before; frames that entered together share them equally.
    """

    frames: tuple[Frame, ...]
    types: tuple[FrameType, ...]
    spans: tuple[Span, ...]
    cache_bytes: Mapping[str, int]
    cache_allocated: int
    device_bytes: int | None
    outputs: tuple[Tensor | None, ...]
    arrival: Arrival


class Stepper:
    """One stream. With a transfer that keeps steps in flight, predictions come that many steps later.

    Attributes:
        session: what the frames go into.
        given: frames that it was given so far.
    """

    def __init__(self, session: Session, device: torch.device, transfer: Transfer) -> None:
        self.session = session
        self.given = 0
        self._device = device
        self._transfer = transfer
        self._waiting: list[tuple[Frame, Span]] = []
        self._last: Span | None = None
        self._submitted: deque[_Submitted] = deque()

    def step(self, frame: Frame) -> tuple[Prediction, ...]:
        """Take the next frame; returns the predictions that are there, in order.

        Raises DataError for a frame without an image, StreamError for one that the stream cannot take, and what the
        device raises (torch.OutOfMemoryError).
        """
        self.given += 1
        image = self._transfer.upload(_image(frame))
        self._settle()
        span = begin_span(str(self._device))
        outputs = self.session.step(image)
        span.stop()
        self._waiting.append((frame, span))
        self._submit(outputs)
        return self._ready(self._transfer.in_flight)

    def finish(self) -> tuple[Prediction, ...]:
        """End the stream: the predictions still under way or held back."""
        self._settle()
        self._last = begin_span(str(self._device))
        outputs = self.session.finish()
        self._last.stop()
        self._submit(outputs)
        return self._ready(0)

    def drive(self, frames: Iterable[Frame | None]) -> Iterator[Prediction]:
        """The whole stream of ``frames``: predictions as they are ready, and at None all that there are.

        Raises as `step`.
        """
        for frame in frames:
            yield from self._ready(0) if frame is None else self.step(frame)
        yield from self.finish()

    @property
    def is_at_rest(self) -> bool:
        """Whether every frame that was given has its prediction, so that the session's state is the stream's."""
        return self.given > 0 and not self._waiting and not self._submitted

    def _submit(self, outputs: tuple[FrameOutput, ...]) -> None:
        if not outputs:
            return
        done, self._waiting[:] = self._waiting[: len(outputs)], self._waiting[len(outputs) :]
        spans = tuple(span for _, span in done)
        if self._last is not None:
            spans = (*spans, self._last)
        tensors = tuple(
            tensor
            for out in outputs
            for tensor in (out.pose, out.depth, out.depth_confidence, out.points, out.points_confidence)
        )
        self._submitted.append(
            _Submitted(
                frames=tuple(frame for frame, _ in done),
                types=tuple(out.frame_type for out in outputs),
                spans=spans,
                cache_bytes=self.session.used_bytes(),
                cache_allocated=self.session.allocated_bytes(),
                device_bytes=torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else None,
                outputs=tensors,
                arrival=self._transfer.download(tensors),
            )
        )

    def _settle(self) -> None:
        """Outputs of the last step that the session has computed again are fetched again."""
        if self.session.settle():
            last = self._submitted.pop()
            self._submitted.append(replace(last, arrival=self._transfer.download(last.outputs)))

    def _ready(self, unfinished: int) -> tuple[Prediction, ...]:
        """Predictions of all submitted steps but the last ``unfinished``."""
        ready: list[Prediction] = []
        if not unfinished:
            self._settle()
        while len(self._submitted) > unfinished:
            ready += _predictions(self._submitted.popleft())
        return tuple(ready)


def warm_up(begin: Callable[[], Stepper], frame: Frame, scale_frames: int, device: torch.device) -> float:
    """Compile and touch everything once, on a stream of its own that is let go of.

    Args:
        begin: opens the stream.
        frame: what it sees, again and again.
        scale_frames: that enter together.
        device: where it runs.

    Returns:
        The seconds it took.
    """

    def work() -> Stepper:
        stepper = begin()
        for _ in range(scale_frames + WARM_UP_STEPS):
            stepper.step(frame)
        return stepper

    seconds = timed(work, str(device))
    free_device_memory()
    return seconds


def _predictions(step: _Submitted) -> list[Prediction]:
    arrays = step.arrival()
    cost = StepCost(
        forward_s=sum(span.seconds() for span in step.spans) / len(step.frames),
        cache_bytes=step.cache_bytes,
        cache_allocated=step.cache_allocated,
        device_bytes=step.device_bytes,
    )
    found = []
    for position, (frame, kind) in enumerate(zip(step.frames, step.types, strict=True)):
        pose, depth, confidence, points, points_confidence = arrays[FIELDS * position : FIELDS * (position + 1)]
        if pose is None or depth is None:
            raise TypeError(f"frame {frame.index}: the session gives every frame a pose and a depth map")
        encoding = pose.astype("float64")
        # A collapsed field of view says nothing of the camera.
        intrinsics = decode_intrinsics(encoding, *depth.shape) if (encoding[7:] > 0).all() else None
        found.append(
            Prediction(
                index=frame.index,
                timestamp=frame.timestamp,
                camera_to_world=decode_camera_to_world(encoding),
                depth=depth,
                depth_confidence=confidence,
                intrinsics=intrinsics,
                points=points,
                points_confidence=points_confidence,
                frame_type=kind,
                cost=cost,
            )
        )
    return found


def _image(frame: Frame) -> Image:
    if frame.image is None:
        raise DataError(f"{frame.source}: frame {frame.index} came without its image, which the model needs")
    return frame.image
