"""What a GPU can run, asked before a kernel is chosen, which GPU work goes to, and whether it was full."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch

AMPERE = (8, 0)
"""Compute capability from which Triton compiles, flash attention runs, and bfloat16 has units of its own."""
HOPPER = 9
"""Major compute capability of the GPUs that fa3 is written for."""
LARGE_TILES = (9, 10)
"""Major compute capabilities with 228 KiB of shared memory a multiprocessor; consumer GPUs that came later have 100."""


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a CUDA device; (0, 0) of anything else."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def multiprocessors(device: torch.device) -> int:
    """Of a CUDA device; 1 of anything else."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; CPU builds of torch come without it. A mere folder of that name does not count."""
    spec = importlib.util.find_spec("triton")
    return spec is not None and spec.origin is not None


@functools.cache
def runs_triton(device: torch.device) -> bool:
    """Whether this project's kernels run on ``device``."""
    return has_triton() and capability(device) >= AMPERE


@contextmanager
def tf32_products(*, allowed: bool) -> Iterator[None]:
    """Whether products of float32 on a GPU may round to the matrix units' short mantissa; as before at the end."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """Makes a CUDA device the current one; nothing to do for a CPU.

    Torch's operators follow their tensors. Triton's launches, graph captures and events without a stream go to the
    current device, whichever that is.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
    else:
        yield
