"""What kernels that need a GPU are told, held against torch's attention: of stand-ins that take the same arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from lingbot_eval.errors import DependencyError, StreamError
from lingbot_eval.streaming import contiguous
from lingbot_eval.streaming.contiguous import (
    MaskedAttention,
    ProductAttention,
    RangeAttention,
    SlicedAttention,
    TritonAttention,
    VarlenAttention,
    sdpa_attention,
    triton_attention,
    triton_why_not,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
VARLEN = "torch.nn.attention.varlen"
CAPACITY, START, END = 192, 17, 150


def inputs(queries: int = 70, heads: int = 2, dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(queries)
    query, keys, values = (torch.randn(count, heads, dim, generator=made) for count in (queries, CAPACITY, CAPACITY))
    return query, keys, values


def attended(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    parts = (part.transpose(0, 1) for part in (query, keys, values))
    return F.scaled_dot_product_attention(*parts).transpose(0, 1)


def varlen_attn(
    query: Tensor, keys: Tensor, values: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """As torch's, of one sequence."""
    (first_query, queries), (start, end) = cu_q.tolist(), cu_k.tolist()
    assert (first_query, queries, max_q, max_k) == (0, len(query), len(query), CAPACITY)
    return attended(query, keys[start:end], values[start:end])


@pytest.fixture
def varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(VARLEN)
    module.varlen_attn = varlen_attn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, VARLEN, module)
    monkeypatch.setattr(contiguous, "has_varlen", lambda: True)


class Kernels:
    """Stands for this project's two kernels: computes each part of the keys by itself, and puts them together."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []
        self.told: dict[str, Any] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def power(number: int) -> int:
            return 1 << (number - 1).bit_length()

        def module(name: str, **content: object) -> None:
            made = ModuleType(name)
            vars(made).update(content)
            monkeypatch.setitem(sys.modules, name, made)

        described = SimpleNamespace(from_tensor=lambda tensor, block: (tensor, block))
        module("triton", next_power_of_2=power)
        module("triton.tools")
        module("triton.tools.tensor_descriptor", TensorDescriptor=described)
        module(
            "lingbot_eval.streaming.triton_kernels",
            range_attention_kernel=Launch(self.grids, self.range_attention),
            merge_kernel=Launch(self.grids, self.merge),
        )

    def range_attention(
        self,
        query: Tensor,
        keys: tuple[Tensor, list[int]],
        values: tuple[Tensor, list[int]],
        bounds: Tensor,
        partial: Tensor,
        sums: Tensor,
        count: int,
        scale: float,
        parts: int,
        **constants: Any,
    ) -> None:
        self.told = {"parts": parts, "count": count, "blocks": (keys[1], values[1]), **constants}
        start, end = bounds.tolist()
        heads, dim = query.shape[1:]
        k, v = (part[0].view(-1, heads, dim) for part in (keys, values))
        for part, rows in enumerate(torch.arange(start, end).tensor_split(parts)):
            scores = torch.einsum("qhd,khd->hqk", query, k[rows]) * scale
            weights = torch.exp2(scores)
            partial[part] = torch.einsum("hqk,khd->qhd", weights, v[rows])
            sums[0, part], sums[1, part] = 0, weights.sum(-1)

    def merge(self, partial: Tensor, sums: Tensor, out: Tensor, count: int, **constants: Any) -> None:
        self.told |= {"merged": (count, constants)}
        out.copy_(partial.sum(0) / sums[1].sum(0).t()[..., None])


class Launch:
    def __init__(self, grids: list[tuple[int, ...]], kernel: Callable[..., None]) -> None:
        self.grids, self.kernel = grids, kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        self.grids.append(grid)
        return self.kernel


def on_a_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], multiprocessors: int = 132) -> None:
    monkeypatch.setattr(contiguous, "capability", lambda device: capability if device.type == "cuda" else (0, 0))
    monkeypatch.setattr(contiguous, "multiprocessors", lambda device: multiprocessors)


@pytest.mark.usefixtures("varlen")
def test_torch_s_own_kernel_is_told_the_bounds() -> None:
    attention = VarlenAttention(CPU)
    query, keys, values = inputs()
    assert attention.capture_key() is None
    for start, end in ((START, END), (3, 5)):
        attention.plan(start, end, CAPACITY)
        for count in (70, 9):
            found = attention.run(query[:count], keys, values)
            torch.testing.assert_close(found, attended(query[:count], keys[start:end], values[start:end]))
    assert attention.capture_key() == CAPACITY


@pytest.mark.parametrize(
    ("card", "multiprocessors", "queries", "block_q", "stages", "tiles", "parts"),
    [
        ((8, 0), 5, 70, 64, 2, 2, 2),
        ((8, 0), 200, 64, 64, 2, 1, 8),  # no more of them pay
        ((8, 0), 1, 70, 64, 2, 2, 1),
        ((9, 0), 7, 70, 128, 3, 1, 7),
        ((9, 0), 7, 129, 128, 3, 2, 3),
    ],
)
def test_this_project_s_kernel_is_told_the_range_in_tiles_and_parts(
    monkeypatch: pytest.MonkeyPatch,
    card: tuple[int, int],
    multiprocessors: int,
    queries: int,
    block_q: int,
    stages: int,
    tiles: int,
    parts: int,
) -> None:
    """Two programs a multiprocessor, for each of two heads."""
    kernels = Kernels()
    kernels.install(monkeypatch)
    monkeypatch.setattr(contiguous, "capability", lambda device: card)
    monkeypatch.setattr(contiguous, "multiprocessors", lambda device: multiprocessors)
    attention = TritonAttention(CPU)
    assert attention.capture_key() is None
    attention.plan(START, END, CAPACITY)
    query, keys, values = inputs(queries)
    found = attention.run(query, keys, values)
    torch.testing.assert_close(found, attended(query, keys[START:END], values[START:END]), rtol=1e-4, atol=1e-5)
    assert kernels.grids == [(tiles, 2, parts), (queries,)]
    assert kernels.told == {
        "parts": parts,
        "count": queries,
        "blocks": ([64, 16], [64, 16]),
        "heads": 2,
        "block_q": block_q,
        "block_k": 64,
        "num_warps": 4,
        "num_stages": stages,
        "merged": (queries, {"parts": parts, "heads": 2, "block": 32}),
    }
    assert attention.capture_key() == CAPACITY


@pytest.mark.parametrize("made", [SlicedAttention, ProductAttention, lambda: MaskedAttention(CPU)])
@pytest.mark.parametrize("queries", [1, 70, 300])
def test_every_attention_of_a_cpu_sees_the_range_alone(made: Callable[[], RangeAttention], queries: int) -> None:
    attention = made()
    query, keys, values = inputs(queries)
    for start, end in ((START, END), (0, CAPACITY), (5, 6)):
        attention.plan(start, end, CAPACITY)
        wanted = attended(query, keys[start:end], values[start:end])
        torch.testing.assert_close(attention.run(query, keys, values), wanted, rtol=1e-4, atol=1e-5)


def test_a_captured_pass_lives_as_long_as_its_buffer() -> None:
    attention = MaskedAttention(CPU)
    keys = []
    for capacity in (8, 8, 16, 16, 8):
        attention.plan(0, 5, capacity)
        keys.append(attention.capture_key())
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3
    for attention_of_slices in (SlicedAttention(), ProductAttention()):
        attention_of_slices.plan(0, 5, 8)
        assert attention_of_slices.capture_key() is None


@pytest.mark.usefixtures("varlen")
@pytest.mark.parametrize("made", [SlicedAttention, ProductAttention, MaskedAttention, VarlenAttention, TritonAttention])
def test_a_range_comes_before_its_attention(monkeypatch: pytest.MonkeyPatch, made: Callable[..., Any]) -> None:
    Kernels().install(monkeypatch)
    attention = made() if made in (SlicedAttention, ProductAttention) else made(CPU)
    with pytest.raises(StreamError, match=r"^begin must come before attend$"):
        attention.run(*inputs())


def test_cudnn_is_none_of_the_kernels() -> None:
    """It plans anew at every length."""
    assert contiguous.KERNELS == [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@pytest.mark.usefixtures("varlen")
@pytest.mark.parametrize(
    ("dtype", "card", "installed", "kernel"),
    [
        (torch.float16, (8, 0), True, VarlenAttention),
        (torch.bfloat16, (9, 0), True, VarlenAttention),
        (torch.bfloat16, (9, 0), False, SlicedAttention),
        (torch.float16, (7, 5), True, SlicedAttention),
        (torch.float32, (9, 0), True, SlicedAttention),
    ],
)
def test_which_of_torch_s_kernels_serves_a_gpu(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, card: tuple[int, int], installed: bool, kernel: type
) -> None:
    on_a_card(monkeypatch, card)
    monkeypatch.setattr(contiguous, "has_varlen", lambda: installed)
    asked: list[torch.device] = []
    monkeypatch.setattr(contiguous, "VarlenAttention", lambda device: asked.append(device) or kernel)
    found = sdpa_attention(dtype, GPU)
    assert (found is kernel) if kernel is VarlenAttention else (type(found) is kernel)
    assert asked == ([GPU] if kernel is VarlenAttention else [])


@pytest.mark.parametrize(
    ("dtype", "device", "card", "installed", "line"),
    [
        (torch.float16, GPU, (8, 0), True, None),
        (torch.bfloat16, GPU, (9, 0), True, None),
        (
            *(torch.float16, CPU, (0, 0), True),
            "backend triton needs a CUDA device, the model is on cpu; backend sdpa works there",
        ),
        (
            *(torch.float32, GPU, (9, 0), True),
            "backend triton needs precision bfloat16 or float16, found torch.float32; backend sdpa works with it",
        ),
        (
            *(torch.bfloat16, GPU, (9, 0), False),
            "Triton is not installed: pip install triton; backend sdpa works meanwhile",
        ),
        (
            *(torch.bfloat16, GPU, (7, 5), True),
            "backend triton needs compute capability 8.0, cuda:1 has 7.5; backend sdpa works there",
        ),
    ],
)
def test_why_triton_cannot_serve(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    device: torch.device,
    card: tuple[int, int],
    installed: bool,
    line: str | None,
) -> None:
    on_a_card(monkeypatch, card)
    monkeypatch.setattr(contiguous, "has_triton", lambda: installed)
    assert triton_why_not(dtype, device) == line
    made: list[torch.device] = []
    monkeypatch.setattr(contiguous, "TritonAttention", made.append)
    if line is None:
        triton_attention(dtype, device)
        assert made == [device]
    else:
        with pytest.raises(DependencyError) as refused:
            triton_attention(dtype, device)
        assert str(refused.value) == line


def test_attention_over_lengths_is_asked_of_torch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(contiguous.importlib.util, "find_spec", lambda name: asked.append(name))
    assert not contiguous.has_varlen()
    assert asked == [VARLEN]
