"""What surrounds a pass: the device, the arithmetic, and what a captured one keeps alive (graphs are made up here)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from lingbot_eval.model.build import build_model
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming import passes, session
from lingbot_eval.streaming.passes import CapturedPass, PassRunner, launch
from lingbot_eval.streaming.policy import CachePolicy
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.streaming.stores import StreamStores, build_stores
from tests.streaming.networks import TINY, tiny_network

SETTINGS = StreamSettings(scale_frames=1, window=2, keyframe_interval=1, backend="sdpa")


def test_stores_and_passes_run_on_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[torch.device] = []
    seen: list[str] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        inside.append(device)
        yield
        inside.pop()

    def watched(name: str, work: Any) -> Any:
        def call(*args: Any) -> Any:
            assert inside == [torch.device("cpu")]
            seen.append(name)
            return work(*args)

        return call

    monkeypatch.setattr(session, "on_device", current)
    monkeypatch.setattr(StreamStores, "begin", watched("begin", StreamStores.begin))
    monkeypatch.setattr(PassRunner, "run", watched("run", PassRunner.run))
    stream = StreamingSession(tiny_network(), SETTINGS)
    for image in torch.rand(2, 3, 28, 42):
        stream.step(image)
    assert seen == ["begin", "run"] * 2
    assert inside == []


@pytest.mark.parametrize("heads", ["float32", "tf32"])
def test_only_the_dense_heads_may_round_to_tf32(heads: Any) -> None:
    model, _ = build_model(
        "mini", checkpoint=None, seed=0, point_head=False, device=torch.device("cpu"), precision="float32"
    )
    model.choose_heads(heads)
    allowed: dict[str, bool] = {}

    def note(name: str) -> Any:
        return lambda module, inputs: allowed.update({name: torch.backends.cudnn.allow_tf32})

    model.aggregator.patch_embed.patch_embed.proj.register_forward_pre_hook(note("patches"))
    model.depth_head.scratch.output_conv1.register_forward_pre_hook(note("depth"))
    before = torch.backends.cudnn.allow_tf32
    StreamingSession(model, SETTINGS).step(torch.rand(3, 28, 42))
    assert allowed == {"patches": False, "depth": heads == "tf32"}
    assert torch.backends.cudnn.allow_tf32 == before


class NoStream:
    def wait_stream(self, other: NoStream) -> None:
        pass


@pytest.fixture
def _pretended_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(passes, "_streams", lambda device: (NoStream(), NoStream()))


def fresh_network() -> GeometricContextTransformer:
    model = GeometricContextTransformer(TINY)
    model.load_state_dict(tiny_network().state_dict())
    return model.requires_grad_(requires_grad=False).eval()


def one_pass(model: GeometricContextTransformer, height: int, width: int) -> CapturedPass:
    stores = build_stores(model, (height, width), SETTINGS, 4)
    stores.begin(CachePolicy(2).enter_scale(1))
    inputs = model.aggregator.place(torch.rand(1, 3, height, width), 0)
    launch(model, inputs, stores, 4)
    return CapturedPass(model, inputs, stores, 4)


@pytest.mark.usefixtures("_pretended_graphs")
@torch.inference_mode()
def test_a_captured_pass_keeps_what_its_graph_reads() -> None:
    """The network drops the constants of an image size when others come; a graph still reads them where they were."""
    model = fresh_network()
    captured = one_pass(model, 28, 42)
    constants = model.aggregator.constants(28, 42)
    read = [constants.positions, constants.frame_rotation.cos, *model.depth_head.position_maps()]
    alive = [weakref.ref(tensor) for tensor in read]
    del constants, read
    others = [one_pass(model, 14 * side, 28) for side in range(1, 8)]
    gc.collect()
    assert not set(map(id, model.depth_head.position_maps())) & {id(ref()) for ref in alive}
    assert all(ref() is not None for ref in alive)
    del captured, others
    gc.collect()
    assert all(ref() is None for ref in alive)
