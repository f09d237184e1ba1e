"""Triton kernels of the fused steps (`lingbot_eval.model.blocks`); imported only where a CUDA device runs them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def residual_norm_kernel(
    x, y, gamma, weight, bias, total, normed, eps, width: tl.constexpr, block: tl.constexpr, adds: tl.constexpr,
    norms: tl.constexpr,
):  # fmt: skip
    """One row: total = x + gamma · y in float32, normed = LayerNorm(total)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    here = row * width + column
    value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
    if adds:
        scale = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
        value += scale * tl.load(y + here, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + here, value, mask=inside)
    if norms:
        mean = tl.sum(value, axis=0) / width
        centred = tl.where(inside, value - mean, 0.0)
        variance = tl.sum(centred * centred, axis=0) / width
        out = centred * tl.rsqrt(variance + eps)
        out = out * tl.load(weight + column, mask=inside, other=0.0) + tl.load(bias + column, mask=inside, other=0.0)
        tl.store(normed + here, out.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def norm_rotate_kernel(
    qkv, q_weight, q_bias, k_weight, k_bias, cos, sin, query, key, rows, eps, heads: tl.constexpr, block: tl.constexpr,
    interleaved: tl.constexpr,
):  # fmt: skip
    """One token's queries (program axis 1 is 0) or keys (1): LayerNorm over a head's 64 channels, then rotation."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    pair = tl.arange(0, 32)
    if interleaved:
        first = 2 * pair
        second = first + 1
    else:
        first = (pair // 16) * 32 + pair % 16
        second = first + 16
    head = tl.arange(0, block)[:, None]
    inside = head < heads
    source = qkv + (token * 3 + part) * heads * 64 + head * 64
    target = (query if part == 0 else key) + token * heads * 64 + head * 64
    channel = tl.arange(0, 64)[None, :]
    if interleaved:
        # Loaded as they lie and split in registers: loads of every second channel are several times slower.
        both = tl.load(source + channel, mask=inside, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(both, (block, 32, 2)))
    else:
        a = tl.load(source + first[None, :], mask=inside, other=0.0).to(tl.float32)
        b = tl.load(source + second[None, :], mask=inside, other=0.0).to(tl.float32)
    mean = (tl.sum(a, axis=1) + tl.sum(b, axis=1)) / 64
    a -= mean[:, None]
    b -= mean[:, None]
    variance = (tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / 64
    scale = tl.rsqrt(variance + eps)[:, None]
    weight = q_weight if part == 0 else k_weight
    bias = q_bias if part == 0 else k_bias
    a = a * scale * tl.load(weight + first)[None, :] + tl.load(bias + first)[None, :]
    b = b * scale * tl.load(weight + second)[None, :] + tl.load(bias + second)[None, :]
    angle = (token % rows) * 32 + pair
    c = tl.load(cos + angle)[None, :]
    s = tl.load(sin + angle)[None, :]
    dtype = query.dtype.element_ty
    if interleaved:
        turned = tl.reshape(tl.join(a * c - b * s, b * c + a * s), (block, 64))
        tl.store(target + channel, turned.to(dtype), mask=inside)
    else:
        tl.store(target + first[None, :], (a * c - b * s).to(dtype), mask=inside)
        tl.store(target + second[None, :], (b * c + a * s).to(dtype), mask=inside)
