"""Seconds of a piece of work on a device: replayed as a CUDA graph between events, or called on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

WARM_UP = 3
ROUNDS = 20


def seconds_each(variants: Sequence[Callable[[], object]], device: torch.device, rounds: int = ROUNDS) -> float:
    """Median seconds of one of ``variants``: the same work on different inputs, so that no cache serves it twice.

    On a GPU all of them are captured into one graph, so that launching costs nothing; must run in inference mode.
    """
    for work in list(variants) * WARM_UP:
        work()
    if device.type != "cuda":
        return statistics.median(_on_host(variants) for _ in range(rounds)) / len(variants)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in variants:
            work()
    for _ in range(WARM_UP):
        graph.replay()
    return statistics.median(_on_device(graph) for _ in range(rounds)) / len(variants)


def _on_host(variants: Sequence[Callable[[], object]]) -> float:
    start = time.perf_counter()
    for work in variants:
        work()
    return time.perf_counter() - start


def _on_device(graph: torch.cuda.CUDAGraph) -> float:
    start, end = event(), event()
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def event() -> torch.cuda.Event:
    """A mark in the device's stream that carries the time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
