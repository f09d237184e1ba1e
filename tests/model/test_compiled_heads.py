"""Dense heads through torch.compile: the same maps, one program a size, and plain heads where compiling fails."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

from lingbot_eval.methods.network import compilation_measurements
from lingbot_eval.model.config import PATCH_SIZE
from lingbot_eval.model.network import DenseOutput, GeometricContextTransformer
from tests.streaming.networks import TINY, tiny_network

SIZES = ((2, 3), (3, 4))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    counters.clear()
    yield
    torch.compiler.reset()


def network(monkeypatch: pytest.MonkeyPatch, backend: Any) -> GeometricContextTransformer:
    """With a point head, about to be compiled by this backend in place of the one that takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = GeometricContextTransformer(TINY, point_head=True)
    model.load_state_dict(tiny_network().state_dict(), strict=False)
    model.requires_grad_(requires_grad=False).eval().compile_heads()
    return model


@torch.inference_mode()
def maps(model: GeometricContextTransformer, rows: int, columns: int, frames: int) -> DenseOutput:
    generator = torch.Generator().manual_seed(rows)
    tokens = [torch.randn(frames, 6 + rows * columns, TINY.token_dim, generator=generator) for _ in range(4)]
    return model.maps(tokens, PATCH_SIZE * rows, PATCH_SIZE * columns)


def test_maps_are_the_same_and_each_size_compiles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(monkeypatch, "eager")
    for rows, columns in (*SIZES, *SIZES):
        found = maps(model, rows, columns, frames=2)
        torch.testing.assert_close(found.depth, maps(tiny_network(), rows, columns, frames=2).depth)
        assert found.points is not None
    assert counters["stats"]["unique_graphs"] == 2 * len(SIZES)
    assert not counters["graph_break"]
    compilation = model.head_compilation
    assert compilation is not None
    assert compilation.reason is None
    (measured,) = compilation_measurements(model)
    assert measured.value == pytest.approx(1e3 * compilation.seconds)
    assert measured.value > 0


def test_heads_that_cannot_be_compiled_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def broken(graph: Any, inputs: Any) -> Any:
        asked.append("once")
        raise RuntimeError("no compiler\nhere")

    model = network(monkeypatch, broken)
    for _ in range(2):
        assert torch.equal(maps(model, 2, 3, frames=2).depth, maps(tiny_network(), 2, 3, frames=2).depth)
    assert len(asked) == 2  # one head each
    (measured,) = compilation_measurements(model)
    assert measured.value is None
    assert measured.reason is not None
    assert measured.reason.startswith("the heads run as they are: BackendCompilerFailed")
    assert "no compiler here" in measured.reason


def test_what_is_no_failure_of_the_compiler_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out is a data point of a study, not a reason to try again without the compiler."""

    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    model = network(monkeypatch, "eager")
    monkeypatch.setattr(next(iter(model._compiled.values())), "_compiled", full)
    assert not issubclass(torch.OutOfMemoryError, TorchDynamoException)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        maps(model, 2, 3, frames=1)


def test_more_sizes_than_torch_compiles_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(monkeypatch, "eager")
    assert compilation_measurements(model)[0].reason == "no frame has reached the heads"
    sizes = [(rows, 2) for rows in range(1, 6)]  # of two heads each; torch's own limit is 8
    for rows, columns in sizes:
        maps(model, rows, columns, frames=1)
    assert counters["stats"]["unique_graphs"] == 2 * len(sizes)


def test_nobody_asked() -> None:
    assert tiny_network().head_compilation is None
    assert compilation_measurements(tiny_network()) == ()


@pytest.mark.slow
@torch.inference_mode()
def test_the_real_compiler() -> None:
    model = GeometricContextTransformer(TINY)
    model.load_state_dict(tiny_network().state_dict())
    model.requires_grad_(requires_grad=False).eval().compile_heads()
    torch.testing.assert_close(maps(model, 2, 3, frames=1).depth, maps(tiny_network(), 2, 3, frames=1).depth)
    assert model.head_compilation is not None
    assert model.head_compilation.reason is None
