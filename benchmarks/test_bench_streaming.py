"""Speed of the streaming step and of appending to the caches (pytest-benchmark)."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lingbot_eval.model.build import build_model
from lingbot_eval.streaming.cache import CacheShape, CacheStore
from lingbot_eval.streaming.contiguous import AppendStore, ContiguousStore, SlicedAttention
from lingbot_eval.streaming.paged import PagedStore, TorchExecutor
from lingbot_eval.streaming.policy import CachePolicy
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import Backend, StreamSettings

CPU = torch.device("cpu")
WINDOW = 16
FRAME_TOKENS, SPECIAL_TOKENS = 198, 6  # 224×168
ROTATED = 8


@pytest.mark.parametrize("backend", ["sdpa", "paged"])
def test_streaming_step(benchmark: BenchmarkFixture, backend: Backend) -> None:
    """One kept frame of configuration ``ci`` at 224×168 with a full window: pose, depth, confidence."""
    model, _ = build_model("ci", checkpoint=None, seed=0, point_head=False, device=CPU, precision="float32")
    session = StreamingSession(model, StreamSettings(keyframe_interval=1, backend=backend))
    images = torch.rand(ROTATED, 3, 168, 224, generator=torch.Generator().manual_seed(0))
    for frame in range(8 + WINDOW + 4):
        session.step(images[frame % ROTATED])
    frames = iter(range(10**9))
    outputs = benchmark.pedantic(lambda: session.step(images[next(frames) % ROTATED]), rounds=30, warmup_rounds=3)
    assert torch.isfinite(outputs[0].pose).all()


def block_shape() -> CacheShape:
    return CacheShape(4, 2, 64, FRAME_TOKENS, SPECIAL_TOKENS, torch.float32, CPU)


def camera_shape() -> CacheShape:
    return CacheShape(16, 4, 64, 1, 1, torch.float32, CPU)


STORES = {
    "sdpa": lambda: ContiguousStore(block_shape(), WINDOW, SlicedAttention()),
    "paged": lambda: PagedStore(block_shape(), WINDOW, TorchExecutor(block_shape())),
    "camera": lambda: AppendStore(camera_shape()),
}


@pytest.mark.parametrize("name", STORES)
def test_cache_append(benchmark: BenchmarkFixture, name: str) -> None:
    """One kept frame into every layer with a full window: evict, write, remember. One query stands for attention."""
    store: CacheStore = STORES[name]()  # type: ignore[no-untyped-call]
    shape = camera_shape() if name == "camera" else block_shape()
    policy = CachePolicy(WINDOW)
    query = torch.randn(1, shape.heads, shape.head_dim)

    def enter(count: int) -> None:
        key = torch.randn(count * shape.frame_tokens, shape.heads, shape.head_dim)
        store.begin(policy.enter_scale(count) if policy.frames == 0 else policy.keep())
        for layer in range(shape.layers):
            store.attend(layer, query, key, key)

    enter(8)
    for _ in range(WINDOW + 2):
        enter(1)
    benchmark.pedantic(enter, args=(1,), rounds=200, warmup_rounds=5)
    assert policy.kept >= 8 + WINDOW + 2 + 200
