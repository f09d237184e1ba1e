"""Small host values that a pass reads on the device, written in place without waiting for the device."""

from __future__ import annotations

from torch import Tensor


def stage(target: Tensor, values: Tensor) -> None:
    """Copy CPU ``values`` into ``target``, in stream order.

    From pinned memory, which torch recycles once the copy is done: a copy from ordinary memory makes the host wait for
    everything that the device still has to do, and the device then waits for the host.
    """
    if target.is_cuda:
        target.copy_(values.pin_memory(), non_blocking=True)
    else:
        target.copy_(values)


def restage(target: Tensor | None, values: Tensor, like: Tensor) -> Tensor:
    """As :func:`stage` into ``target`` where it has the values' shape, else into a new tensor on ``like``'s device."""
    if target is None or target.shape != values.shape:
        target = like.new_empty(values.shape, dtype=values.dtype)
    stage(target, values)
    return target
