"""Measures every stage of a step, the whole step, what the host adds, and what the machine can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.stages.bench import StreamBench
from benchmarks.stages.work import STAGES, StepShape, Work, least_work
from lingbot_eval.machine.gpu import tf32_products
from lingbot_eval.methods.stepper import WARM_UP_STEPS
from lingbot_eval.model.network import camera_tokens
from lingbot_eval.profiling.timing import synchroniser

WARM_UP = 3
ROUNDS = 20
HOST_SIZES = 1024, 2**26
"""Of the matrix product's sides and of the copy, in bytes, that a CPU's rates are measured on."""


def seconds_each(variants: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Median seconds of one of ``variants``: the same work on different inputs, so that no cache serves it twice.

    On a GPU all of them are captured into one graph, so that launching costs nothing; must run in inference mode.
    """
    for work in list(variants) * WARM_UP:
        work()
    if device.type != "cuda":
        return statistics.median(_on_host(variants) for _ in range(ROUNDS)) / len(variants)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in variants:
            work()
    for _ in range(WARM_UP):
        graph.replay()
    return statistics.median(_on_device(graph) for _ in range(ROUNDS)) / len(variants)


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


@dataclass(frozen=True)
class Rates:
    """flops: operations a second of matrix products, by kind of arithmetic. copy_bytes: bytes read and written."""

    flops: dict[str, float]
    copy_bytes: float


@torch.inference_mode()
def measure_rates(device: torch.device, kinds: tuple[str, ...]) -> Rates:
    """Rates on random data. kinds: ``bfloat16``, ``float16``, ``float32`` or ``tf32``."""
    side, size = (8192, 2**30) if device.type == "cuda" else HOST_SIZES
    flops = {}
    for kind in kinds:
        dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        with tf32_products(allowed=kind == "tf32"):
            flops[kind] = 2 * side**3 / seconds_each([partial(torch.matmul, a, b)], device)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Rates(flops, 2 * size / seconds_each([lambda: target.copy_(source)], device))


STEPS = 60
BURST = 15
"""Steps in a row that nobody waits for. Several bursts: one in which a buffer grows, and the step is captured anew, is
not how steps go."""


@dataclass(frozen=True)
class StageTimes:
    """Seconds.

    stages: of each stage alone. step: from a frame on the device to its pose and maps, waited for; pace: the same
    when nobody waits between frames; both medians. device: of the captured pass on the device, its inputs copied in and
    its outputs out, without what the host does around it; None where it is not captured.
    """

    stages: dict[str, float]
    work: dict[str, Work]
    rates: Rates
    step: float
    pace: float
    device: float | None


@torch.inference_mode()
def measure(bench: StreamBench, precision: str) -> StageTimes:
    """Everything, on a stream that stands at the frame to measure. precision: of the trunk."""
    model, device = bench.model, bench.model.device
    heads = "tf32" if model.tf32_heads and device.type == "cuda" else "float32"
    step, pace = _steps(bench)
    # What the stages below see: the steps so far have filled the caches further.
    shape = StepShape(*bench.size, bench.visible_tokens(), bench.policy.kept)
    work = least_work(model.config, shape, precision, heads, bench.iterations)
    rates = measure_rates(device, tuple(sorted({part.arithmetic for part in work.values()})))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        stages = {name: seconds_each(variants, device) for name, variants in _variants(bench).items()}
        whole = _whole(bench)
    return StageTimes(stages, work, rates, step, pace, whole)


def _steps(bench: StreamBench) -> tuple[float, float]:
    wait = synchroniser(str(bench.model.device))
    for index in range(WARM_UP_STEPS):
        bench.step(index)
    waited = []
    for index in range(STEPS):
        wait()
        start = time.perf_counter()
        bench.step(index)
        wait()
        waited.append(time.perf_counter() - start)
    return statistics.median(waited), statistics.median(_burst(bench, wait) for _ in range(STEPS // BURST))


def _burst(bench: StreamBench, wait: Callable[[], None]) -> float:
    """Seconds a step of a few in a row, waited for at the end."""
    start = time.perf_counter()
    for index in range(BURST):
        bench.step(index)
    wait()
    return (time.perf_counter() - start) / BURST


def _whole(bench: StreamBench) -> float | None:
    """The captured pass between events: the step without what the host does around it."""
    if bench.stores.capture_key() is None:
        return None
    step = bench.policy.keep()
    bench.stores.begin(step)
    inputs = bench.model.aggregator.place(bench.images[0], step.clock)
    times = []
    for _ in range(STEPS):
        start, end = event(), event()
        start.record()
        bench.runner.run(inputs, bench.stores)
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)) / 1e3)
    return statistics.median(times)


def _variants(bench: StreamBench) -> dict[str, list[Callable[[], object]]]:
    """Each stage as calls on random inputs that take turns; the cache stands where the last step left it."""
    model, (height, width) = bench.model, bench.size
    shape, channels = bench.block_shape, model.config.embed_dim
    grid = model.aggregator.constants(height, width)
    rotation = model.aggregator.place(bench.images[0], bench.policy.kept - 1).rotation
    generator = torch.Generator(model.device).manual_seed(2)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=model.device)

    def frame_blocks(stream: Tensor) -> None:
        for block in model.aggregator.frame_blocks:
            block(stream, grid.frame_rotation)

    def global_attention(query: Tensor, key: Tensor, value: Tensor) -> None:
        for layer in range(shape.layers):
            bench.stores.blocks.attend(layer, query, key, value)

    def global_rest(stream: Tensor) -> None:
        for block in model.aggregator.global_blocks:
            block(stream[0], rotation, lambda query, key, value: query)

    variants: dict[str, list[Callable[[], object]]] = {name: [] for name in STAGES}
    for image in bench.images:
        stream = random(1, shape.frame_tokens, channels)
        qkv = random(3, shape.frame_tokens, shape.heads, shape.head_dim).to(shape.dtype)
        tokens = [random(1, shape.frame_tokens, 2 * channels) for _ in range(4)]
        variants["backbone"].append(partial(model.aggregator.patch_embed, image, grid.positions))
        variants["frame blocks"].append(partial(frame_blocks, stream))
        variants["global attention"].append(partial(global_attention, *qkv))
        variants["global rest"].append(partial(global_rest, stream))
        variants["camera head"].append(
            partial(model.poses, camera_tokens(tokens), bench.stores.camera, bench.iterations)
        )
        variants["depth head"].append(partial(model.maps, tokens, height, width))
    return variants
