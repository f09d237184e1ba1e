"""Triton kernels of the stores; imported only where a CUDA device runs them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scatter_kernel(
    key, value, key_stride, value_stride, slots, keys, values, width: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """One token's keys and values to its slot."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    channel = tl.arange(0, block)
    inside = channel < width
    tl.store(keys + slot * width + channel, tl.load(key + token * key_stride + channel, mask=inside), mask=inside)
    tl.store(values + slot * width + channel, tl.load(value + token * value_stride + channel, mask=inside), mask=inside)


@triton.jit
def range_attention_kernel(
    query, keys, values, bounds, out, count, scale, limit,
    heads: tl.constexpr, block_q: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """A tile of one head's queries over the keys [bounds[0], bounds[1]), 64 channels a head; softmax in powers of two.

    keys, values: tensor descriptors of (capacity, heads·64) with blocks of (block_k, 64). The bounds are read on the
    device, so that a captured launch follows a cache that grows.

    Softmax may be shifted by any number that neither overflows nor lets everything vanish. The best score of the first
    block of keys is such a number unless later keys beat it by a power of two that the weights' type cannot hold, so
    the loop needs no running maximum and no rescaling; a sum beyond ``limit`` tells that they did, and then the tile is
    done again with a running maximum.
    """
    tile = tl.program_id(0)
    lane = tl.program_id(1) * 64
    channel = tl.arange(0, 64)
    row = tile * block_q + tl.arange(0, block_q)
    place = row[:, None] * (heads * 64) + lane + channel[None, :]
    q = tl.load(query + place, mask=row[:, None] < count, other=0.0)
    start = tl.load(bounds)
    end = tl.load(bounds + 1)
    column = tl.arange(0, block_k)
    whole = start + (end - start) // block_k * block_k
    scores = tl.dot(q, keys.load([start, lane]).T) * scale
    shift = tl.max(tl.where(start + column[None, :] < end, scores, float("-inf")), 1)
    total = tl.zeros([block_q], tl.float32)
    acc = tl.zeros([block_q, 64], tl.float32)
    for at in range(start, whole, block_k):
        scores = tl.dot(q, keys.load([at, lane]).T)
        weight = tl.exp2(scores * scale - shift[:, None])
        total += tl.sum(weight, 1)
        acc = tl.dot(weight.to(q.dtype), values.load([at, lane]), acc)
    if whole < end:
        scores = tl.dot(q, keys.load([whole, lane]).T) * scale - shift[:, None]
        weight = tl.where(whole + column[None, :] < end, tl.exp2(scores), 0.0)
        total += tl.sum(weight, 1)
        acc = tl.dot(weight.to(q.dtype), values.load([whole, lane]), acc)
    # Rows beyond the last query are zero: every key counts 1 there, and a long range would look like an overflow.
    if tl.max(tl.where(row < count, total, 0.0), 0) > limit:
        best = tl.full([block_q], float("-inf"), tl.float32)
        total = tl.zeros([block_q], tl.float32)
        acc = tl.zeros([block_q, 64], tl.float32)
        for at in range(start, end, block_k):
            scores = tl.dot(q, keys.load([at, lane]).T) * scale
            scores = tl.where(at + column[None, :] < end, scores, float("-inf"))
            peak = tl.maximum(best, tl.max(scores, 1))
            weight = tl.exp2(scores - peak[:, None])
            shrink = tl.exp2(best - peak)
            total = total * shrink + tl.sum(weight, 1)
            acc = tl.dot(weight.to(q.dtype), values.load([at, lane]), acc * shrink[:, None])
            best = peak
    tl.store(out + place, (acc / total[:, None]).to(out.dtype.element_ty), mask=row[:, None] < count)
