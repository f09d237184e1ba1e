"""What only a GPU can show: run with ``-m gpu`` on a CUDA device (FlashInfer cases need the extra ``flashinfer``)."""

from __future__ import annotations

import json

import pytest
import torch

from lingbot_eval.cache.executors import TorchExecutor
from lingbot_eval.cache.flashinfer import FlashInferExecutor, Kernel, why_not
from lingbot_eval.cache.pages import PageTable
from lingbot_eval.cache.protocol import CacheShape
from lingbot_eval.cli.main import main
from lingbot_eval.model.build import build_model
from lingbot_eval.streaming.backends import Backend
from lingbot_eval.streaming.passes import PassRunner
from lingbot_eval.streaming.session import FrameOutput, StreamingSession
from lingbot_eval.streaming.settings import StreamSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
KERNELS: tuple[Kernel, ...] = ("fa2", "fa3")


def device() -> torch.device:
    return torch.device("cuda", 0)


def need(kernel: Kernel) -> None:
    reason = why_not(torch.bfloat16, device(), kernel)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("backend", ["sdpa", "paged"])
def test_float32_holds_the_reference(backend: str) -> None:
    assert main(["verify", "--device", "cuda", "--backend", backend]) == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_flashinfer_holds_the_reference_in_bfloat16(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    need(kernel)
    backend = f"flashinfer-{kernel}"
    assert main(["verify", "--device", "cuda", "--backend", backend, "--dtype", "bfloat16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["pass"] > 40


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("page_tokens", "pages", "last"), [(999, 73, 432), (999, 10, 999), (20, 7, 6)])
def test_flashinfer_equals_torch_on_random_pages(kernel: Kernel, page_tokens: int, pages: int, last: int) -> None:
    """999 patches a frame at 518×378 is no power of two: checked, not assumed."""
    need(kernel)
    shape = CacheShape(1, 16, 64, page_tokens + 6, 6, torch.bfloat16, device())
    generator = torch.Generator(device()).manual_seed(page_tokens + pages)
    keys, values = torch.randn(
        2, pages + 5, page_tokens, 16, 64, dtype=torch.bfloat16, device=device(), generator=generator
    )
    query = torch.randn(page_tokens + 6, 16, 64, dtype=torch.bfloat16, device=device(), generator=generator)
    order = torch.randperm(pages + 5, generator=torch.Generator().manual_seed(pages))[:pages]
    table = PageTable(tuple(order.tolist()), last, (), (), pages + 5)
    oracle = TorchExecutor(CacheShape(1, 16, 64, page_tokens + 6, 6, torch.float32, device()), page_tokens)
    executor = FlashInferExecutor(shape, page_tokens, kernel)
    for each in (oracle, executor):
        each.plan(table, len(query))
    wanted = oracle.run(query.float(), keys.float(), values.float())
    found = executor.run(query, keys, values).float()
    assert float((found - wanted).norm() / wanted.norm()) < 5e-3


@pytest.mark.parametrize("backend", ["flashinfer-fa2", "flashinfer-fa3"])
def test_a_captured_step_is_the_step(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept and passing frames, a window that fills and recycles pages: replayed and launched one by one."""
    need("fa3" if backend.endswith("3") else "fa2")
    model, _ = build_model("mini", checkpoint=None, seed=0, point_head=True, device=device(), precision="bfloat16")
    images = torch.rand(40, 3, 56, 70, generator=torch.Generator().manual_seed(0))

    def stream() -> list[FrameOutput]:
        settings = StreamSettings(scale_frames=3, window=4, keyframe_interval=2, backend=backend)
        session = StreamingSession(model, settings)
        return [out for image in images for out in session.step(image)]

    captured = stream()
    monkeypatch.setattr(PassRunner, "run", lambda self, inputs, store: model.dense(inputs, store))
    for one, other in zip(captured, stream(), strict=True):
        assert torch.equal(one.pose, other.pose)
        assert torch.equal(one.depth, other.depth)
        assert torch.equal(one.depth_confidence, other.depth_confidence)


@pytest.mark.parametrize("backend", ["sdpa", "flashinfer"])
def test_device_memory_grows_by_the_trajectory_memory_alone(backend: Backend) -> None:
    if backend == "flashinfer":
        need("fa2")
    model, _ = build_model("mini", checkpoint=None, seed=0, point_head=False, device=device(), precision="bfloat16")
    images = torch.rand(8, 3, 56, 70, device=device())
    session = StreamingSession(model, StreamSettings(scale_frames=3, window=4, keyframe_interval=1, backend=backend))

    def run_to(frames: range) -> int:
        for frame in frames:
            session.step(images[frame % 8])
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated() - session.allocated_bytes()

    before = run_to(range(60))
    # The allocator rounds blocks up to 512 bytes; nothing else may be added by 400 more frames.
    assert run_to(range(60, 460)) - before < 2**20
