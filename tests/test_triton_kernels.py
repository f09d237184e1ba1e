"""This project's Triton kernels and their calls on a CPU, under Triton's interpreter: every line without a GPU.

Skipped where Triton is not installed (it is no dependency of a CPU build of torch; ``pip install triton`` is enough)
and where there is a GPU, on which tests/gpu runs them compiled.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lingbot_eval.machine.gpu import has_triton
from lingbot_eval.model import blocks
from lingbot_eval.model.blocks import (
    Rotation,
    StreamRotary,
    add_and_norm,
    frame_rotation,
    norm_and_rotate,
    scaled_add,
    to_norm,
)
from lingbot_eval.streaming import cache
from lingbot_eval.streaming.cache import CacheShape, LayerBuffers, scatter, widen
from lingbot_eval.streaming.contiguous import ContiguousStore, SlicedAttention, TritonAttention
from lingbot_eval.streaming.policy import CachePolicy

if not has_triton() or "triton" in sys.modules or torch.cuda.is_available():
    pytest.skip("needs Triton, not yet imported, and no GPU", allow_module_level=True)
# Read when Triton and the kernels are first imported, which happens inside the tests.
os.environ["TRITON_INTERPRET"] = "1"

CPU = torch.device("cpu")
# NumPy, which the interpreter computes with, speaks of the overflow that the kernel provokes and then deals with.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")


@pytest.fixture(autouse=True)
def interpreted_with_any_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6 makes a whole number of an array with one element, which NumPy refuses since 2.4."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


def randn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("start", "end"), [(0, 256), (7, 200), (100, 110), (5, 133)])
@pytest.mark.parametrize("gain", [1.0, 30.0])
@pytest.mark.parametrize("parts", [1, 3])
def test_attention_over_a_range(start: int, end: int, gain: float, parts: int) -> None:
    """With the larger gain later keys beat the first ones beyond what half precision can hold; parts may be empty."""
    query, keys, values = (randn(n, 2, 64, seed=seed + end).half() for seed, n in enumerate((70, 256, 256)))
    keys[100:] *= gain
    attention = TritonAttention(CPU)
    attention._programs = 4 * parts  # two tiles of each of two heads
    attention.plan(start, end, 256)
    found = attention.run(query, keys, values).double()
    seen = (part[start:end].transpose(0, 1).double() for part in (keys, values))
    wanted = F.scaled_dot_product_attention(query.transpose(0, 1).double(), *seen).transpose(0, 1)
    assert float((found - wanted).norm() / wanted.norm()) < 2e-3


@pytest.mark.parametrize("quantized", [False, True])
def test_a_store_under_its_kernels(monkeypatch: pytest.MonkeyPatch, quantized: bool) -> None:
    """Scattered and attended to by this project's kernels: kept frames, passing ones, and a window that is reused."""
    shape = CacheShape(1, 2, 64, 9, 6, torch.float16, CPU, quantized)
    store, plain = (ContiguousStore(shape, 2, attention) for attention in (TritonAttention(CPU), SlicedAttention()))
    policy = CachePolicy(2)
    steps = [policy.enter_scale(2), *(fate() for fate in [policy.keep, policy.pass_by, policy.keep] * 2)]
    for number, step in enumerate(steps):
        # Values as they come from the model: every third part of one product.
        query, key, value = randn(step.count * 9, 3, 2, 64, seed=number).half().unbind(1)
        plain.begin(step)
        wanted = plain.attend(0, query, key, value)
        store.begin(step)
        with monkeypatch.context() as patch:
            patch.setattr(cache, "runs_triton", lambda device: True)
            found = store.attend(0, query, key.contiguous(), value)
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=2e-3)
    for one, other in zip(store._buffers._layers[0], plain._buffers._layers[0], strict=True):
        assert other.any()
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_no_number_does_not_become_one_in_8_bits(value: float) -> None:
    key = randn(2, 2, 64).half()
    key[1, 1, 7] = value
    numbers, scales = torch.zeros(2, 4, 2, 64, dtype=torch.int8), torch.zeros(2, 4, 2, dtype=torch.float16)
    scatter(key, key, torch.tensor([2, 0]), numbers, scales)
    for part in widen(numbers, scales, torch.float32).isfinite().all(-1):
        assert part.tolist() == [[True, False], [True, True], [True, True], [True, True]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_8_bits_are_widened_where_they_are_seen(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that are no power of two; zeros come behind what is seen, for a kernel that reads on in vain."""
    held = LayerBuffers(CacheShape(1, 3, 64, 1, 1, dtype, CPU, quantized=True))
    held.reserve(60)
    numbers, scales = held._layers[0]
    key, value = randn(2, 60, 3, 64).to(dtype)
    scatter(key, value, torch.arange(60).flip(0), numbers, scales)
    wanted = widen(numbers, scales, dtype)
    held.aim(torch.arange(1), range(5, 41))
    monkeypatch.setattr(cache, "runs_triton", lambda device: True)
    assert torch.equal(held.layer(0)[:, 5:41], wanted[:, 5:41])
    assert not held.layer(0)[:, 41:].any()


def normed(width: int, seed: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width).requires_grad_(requires_grad=False)
    norm.weight.copy_(randn(width, seed=seed))
    norm.bias.copy_(randn(width, seed=seed + 1))
    return norm


@pytest.mark.parametrize("rotation", [frame_rotation(2, 3, CPU), StreamRotary(2, 3, CPU).at(7, 1)])
def test_fused_operations(rotation: Rotation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths and heads that are no powers of two; two frames, whose tokens share the rotation's rows."""
    x, y, gamma = randn(2, 12, 192), randn(2, 12, 192, seed=1).half(), randn(192, seed=2)
    norm, q_norm, k_norm = normed(192, 3), normed(64, 5), normed(64, 7)
    qkv = randn(2, 12, 3, 3, 64, seed=9)

    def all_of_them() -> list[torch.Tensor]:
        total, after = add_and_norm(x, y, gamma, norm, torch.float16)
        rotated = norm_and_rotate(qkv, q_norm, k_norm, rotation)
        return [to_norm(x, norm, torch.float16), total, after, scaled_add(x, y, gamma), *rotated]

    plain = all_of_them()
    monkeypatch.setattr(blocks, "fuses", lambda x: True)
    for one, other in zip(all_of_them(), plain, strict=True):
        assert one.dtype is other.dtype
        tolerance = 2e-3 if one.dtype is torch.float16 else 1e-5
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
