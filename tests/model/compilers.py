"""Compilers in place of the one that takes half a minute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lingbot_eval.model import compiled_heads


def use(monkeypatch: pytest.MonkeyPatch, compiler: Any) -> None:
    """``eager`` runs a program's graph as it is."""
    monkeypatch.setattr(compiled_heads, "COMPILER", compiler)


def broken(graph: Any, inputs: Any) -> Any:
    """No compiler on this machine, say."""
    raise RuntimeError("no compiler\nhere")


def full(graph: Any, inputs: Any) -> Any:
    """The device has no room for what compiling needs."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def full_driver(graph: Any, inputs: Any) -> Any:
    """As the driver says it, outside torch's own pool."""
    raise RuntimeError("Triton Error [CUDA]: out of memory")


def full_memory(graph: Any, inputs: Any) -> Any:
    """As Python says it."""
    raise MemoryError("cannot allocate")


def full_host(graph: Any, inputs: Any) -> Any:
    """As a CPU says it."""
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 1 bytes")
