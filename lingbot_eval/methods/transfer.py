"""Pixels to the device and outputs back, beside the computation where the device has a way for it.

One code path for both kinds of device: a step uploads, computes and downloads in this order. On a CPU that is all in
place. On a GPU copies run from and to pinned memory on streams of their own, and up to ``in_flight`` steps may be
unfinished while the host goes on to the next: so the device computes one frame while the next one travels to it, the
one before travels back, and the host prepares what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot_eval.types import Image

HostArray = NDArray[np.float32]


class Arrival(Protocol):
    """Outputs on their way to the host."""

    def arrays(self) -> tuple[HostArray | None, ...]:
        """Them, in the order given, waiting until they are there; None for what was None."""
        ...


class Transfer(Protocol):
    """Copies between host and one device. in_flight: steps that may be unfinished when the host begins another."""

    @property
    def in_flight(self) -> int: ...

    def upload(self, image: Image) -> Tensor:
        """(3, H, W) float32 in [0, 1] on the device from (H, W, 3) uint8 RGB; the bytes travel, not the floats.

        What the caller queues next on the current stream waits for it.
        """
        ...

    def download(self, tensors: Sequence[Tensor | None]) -> Arrival:
        """Begin to fetch ``tensors`` as they will be when the work queued so far is done.

        They have to be the caller's own: nothing queued later may write to them.
        """
        ...


class HostTransfer:
    """A CPU's: there is nowhere to copy to, and nothing to overlap."""

    in_flight = 0

    def upload(self, image: Image) -> Tensor:
        return _normalised(torch.from_numpy(np.ascontiguousarray(image)))

    def download(self, tensors: Sequence[Tensor | None]) -> Arrival:
        return _Here(tuple(None if tensor is None else tensor.numpy() for tensor in tensors))


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
        self._to_host.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._to_host):
            copies = tuple(None if tensor is None else self._fetched(tensor) for tensor in tensors)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._to_host)
        return _UnderWay(copies, done)

    def _fetched(self, tensor: Tensor) -> Tensor:
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._to_host)
        return copy


def transfer_for(device: torch.device, *, overlapped: bool = True) -> Transfer:
    """The transfer of a device; ``overlapped``: whether a GPU's steps may overlap."""
    return DeviceTransfer(device, in_flight=1 if overlapped else 0) if device.type == "cuda" else HostTransfer()


class _Here:
    def __init__(self, arrays: tuple[HostArray | None, ...]) -> None:
        self._arrays = arrays

    def arrays(self) -> tuple[HostArray | None, ...]:
        return self._arrays


class _UnderWay:
    def __init__(self, copies: tuple[Tensor | None, ...], done: Any) -> None:
        self._copies = copies
        self._done = done

    def arrays(self) -> tuple[HostArray | None, ...]:
        self._done.synchronize()
        return tuple(None if copy is None else copy.numpy() for copy in self._copies)


def _normalised(pixels: Tensor) -> Tensor:
    return pixels.permute(2, 0, 1).float().div_(255.0)
