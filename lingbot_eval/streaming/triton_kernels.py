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
def quantize_kernel(
    key, value, key_stride, value_stride, slots, numbers, scales, capacity,
    heads: tl.constexpr, block: tl.constexpr, dim: tl.constexpr,
):  # fmt: skip
    """One token's keys (program axis 1 is 0) or values (1) to its slot in 8 bits, as `buffers.quantize` makes them."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    slot = part.to(tl.int64) * capacity + tl.load(slots + token)
    head = tl.arange(0, block)
    inside = head[:, None] < heads
    place = head[:, None] * dim + tl.arange(0, dim)[None, :]
    source = (key if part == 0 else value) + token * (key_stride if part == 0 else value_stride)
    x = tl.load(source + place, mask=inside, other=0.0).to(tl.float32)
    # A product with zero is zero, or not a number: what is not finite must not vanish here.
    scale = (tl.max(tl.abs(x), 1) / 127 + tl.sum(x * 0, 1)).to(tl.float16)
    number = x / tl.maximum(scale.to(tl.float32), 2.0**-24)[:, None]
    # The sum has no room for fractions: it rounds to the nearest whole number, of two to the even one.
    whole = (number + 12582912.0) - 12582912.0
    whole = tl.minimum(tl.maximum(whole, -127.0), 127.0)
    tl.store(numbers + slot * heads * dim + place, whole.to(tl.int8), mask=inside)
    tl.store(scales + slot * heads + head, scale, mask=head < heads)


@triton.jit
def widen_kernel(
    numbers, scales, bounds, copy, capacity,
    heads: tl.constexpr, block: tl.constexpr, block_heads: tl.constexpr, dim: tl.constexpr,
):  # fmt: skip
    """What the 8-bit keys (program axis 1 is 0) or values (1) of [bounds[0], bounds[1]) stand for.

    Behind them come zeros, as many tokens as `range_attention_kernel` may read in vain.
    """
    first = tl.load(bounds) + tl.program_id(0) * block
    end = tl.load(bounds + 1)
    last = tl.minimum(end + 64, capacity)
    if first < last:
        token = first + tl.arange(0, block)
        head = tl.arange(0, block_heads)
        inside = (token < last)[:, None] & (head < heads)[None, :]
        seen = inside & (token < end)[:, None]
        of_head = (tl.program_id(1).to(tl.int64) * capacity + token[:, None]) * heads + head[None, :]
        place = of_head[:, :, None] * dim + tl.arange(0, dim)[None, None, :]
        number = tl.load(numbers + place, mask=seen[:, :, None], other=0)
        scale = tl.load(scales + of_head, mask=seen, other=0.0).to(tl.float32)
        tl.store(copy + place, number.to(tl.float32) * scale[:, :, None], mask=inside[:, :, None])


@triton.jit
def range_attention_kernel(
    query, keys, values, bounds, partial, sums, count, scale, parts,
    heads: tl.constexpr, block_q: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """A tile of one head's queries over one part of the keys [bounds[0], bounds[1]), softmax in powers of two.

    keys, values: tensor descriptors of (capacity, heads·64) with blocks of (block_k, 64). The bounds are read on the
    device, so that a captured launch follows a cache that grows. partial: (parts, count, heads·64) weighted sums of
    values; sums: (2, parts, heads, count) what the scores were shifted by, and the sum of weights.

    Softmax may be shifted by any number that neither overflows nor lets everything vanish. The best score of the first
    block of keys is such a number unless later keys beat it by a power of two that the weights' type cannot hold, so
    the loop needs no running maximum and no rescaling; a sum that is no number, or a huge one, tells that they did, and
    then the part is done again with a running maximum. The sum of weights is float32, whatever the weights are.
    """
    tile = tl.program_id(0)
    head = tl.program_id(1)
    part = tl.program_id(2)
    lane = head * 64
    channel = tl.arange(0, 64)
    row = tile * block_q + tl.arange(0, block_q)
    place = row[:, None] * (heads * 64) + lane + channel[None, :]
    q = tl.load(query + place, mask=row[:, None] < count, other=0.0)
    start = tl.load(bounds)
    end = tl.load(bounds + 1)
    share = tl.cdiv(tl.cdiv(end - start, block_k), parts) * block_k
    start += part * share
    end = tl.minimum(end, start + share)
    column = tl.arange(0, block_k)
    whole = start + tl.maximum(end - start, 0) // block_k * block_k
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
    # Written so that what is no number counts as huge.
    huge = tl.max(tl.where(tl.abs(acc) < 1e30, 0, 1)) + tl.max(tl.where(total < 1e30, 0, 1))
    if huge > 0:
        shift = tl.full([block_q], float("-inf"), tl.float32)
        total = tl.zeros([block_q], tl.float32)
        acc = tl.zeros([block_q, 64], tl.float32)
        for at in range(start, end, block_k):
            scores = tl.dot(q, keys.load([at, lane]).T) * scale
            scores = tl.where(at + column[None, :] < end, scores, float("-inf"))
            best = tl.maximum(shift, tl.max(scores, 1))
            weight = tl.exp2(scores - best[:, None])
            shrink = tl.exp2(shift - best)
            total = total * shrink + tl.sum(weight, 1)
            acc = tl.dot(weight.to(q.dtype), values.load([at, lane]), acc * shrink[:, None])
            shift = best
    inside = row < count
    tl.store(partial + part * count * (heads * 64) + place, acc, mask=inside[:, None])
    tl.store(sums + (part * heads + head) * count + row, shift, mask=inside)
    tl.store(sums + ((parts + part) * heads + head) * count + row, total, mask=inside)


@triton.jit
def merge_kernel(partial, sums, out, count, parts: tl.constexpr, heads: tl.constexpr, block: tl.constexpr):
    """One query's answer, all heads, from the parts that `range_attention_kernel` made; one without keys weighs 0."""
    row = tl.program_id(0)
    channel = tl.arange(0, block)
    inside = channel < heads * 64
    place = channel // 64 * count + row
    best = tl.load(sums + place, mask=inside, other=0.0)
    for part in tl.static_range(1, parts):
        best = tl.maximum(best, tl.load(sums + part * heads * count + place, mask=inside, other=0.0))
    acc = tl.zeros([block], tl.float32)
    total = tl.zeros([block], tl.float32)
    for part in tl.static_range(0, parts):
        shift = tl.load(sums + part * heads * count + place, mask=inside, other=0.0)
        weight = tl.exp2(shift - best)
        total += weight * tl.load(sums + (parts + part) * heads * count + place, mask=inside, other=1.0)
        acc += weight * tl.load(partial + (part * count + row) * (heads * 64) + channel, mask=inside, other=0.0)
    tl.store(out + row * (heads * 64) + channel, (acc / total).to(out.dtype.element_ty), mask=inside)
