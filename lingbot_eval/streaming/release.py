"""Gives memory that a growing buffer has freed back to where it came from."""

from __future__ import annotations

import ctypes
import functools
import platform

import torch


def release_freed(device: torch.device) -> None:
    """Return freed blocks of a device's allocator to the driver, or of the C heap to the system.

    A buffer that grows frees blocks which are a little too small for its next size. On a GPU torch would keep them
    aside and the reserved memory would double; on a CPU glibc would keep them in a heap that only gets longer.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
