"""The tensor stores see exactly what the dense masked oracle sees, whatever the stream does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.errors import StreamError
from lingbot_eval.streaming import contiguous
from lingbot_eval.streaming.cache import CacheShape, CacheStore, quantize, widen
from lingbot_eval.streaming.contiguous import (
    QUERIES_AT_ONCE,
    AppendStore,
    ContiguousStore,
    MaskedAttention,
    ProductAttention,
    SlicedAttention,
)
from lingbot_eval.streaming.paged import PagedStore, TorchExecutor
from lingbot_eval.streaming.policy import CachePolicy, Step
from tests.streaming.dense import DenseMaskedStore

LAYERS, HEADS, DIM, SPECIAL = 2, 2, 4, 2


def shape(frame_tokens: int, special: int = SPECIAL) -> CacheShape:
    return CacheShape(LAYERS, HEADS, DIM, frame_tokens, special, torch.float32, torch.device("cpu"))


def run_pass(stores: list[CacheStore], step: Step, frame_tokens: int, generator: torch.Generator) -> None:
    """One pass of random tokens through all stores; their answers must agree."""
    for store in stores:
        store.begin(step)
    for layer in range(LAYERS):
        q, k, v = torch.randn(3, step.count * frame_tokens, HEADS, DIM, generator=generator)
        outputs = [store.attend(layer, q, k, v) for store in stores]
        for out in outputs[1:]:
            torch.testing.assert_close(out, outputs[0], rtol=1e-5, atol=1e-5)


def play(stores: list[CacheStore], policy: CachePolicy, scale: int, fates: list[str], frame_tokens: int) -> None:
    generator = torch.Generator().manual_seed(len(fates))
    run_pass(stores, policy.enter_scale(scale), frame_tokens, generator)
    for fate in fates:
        run_pass(stores, policy.keep() if fate == "keep" else policy.pass_by(), frame_tokens, generator)
        if fate == "late":
            step = policy.keep_last()
            for store in stores:
                store.keep_last(step)


def reduced(frame_tokens: int) -> CacheShape:
    return replace(shape(frame_tokens), quantized=True)


FATES = st.lists(st.sampled_from(["keep", "pass", "late"]), max_size=24)


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(SPECIAL + 1, 6), FATES)
def test_both_stores_equal_the_dense_oracle(scale: int, window: int, tokens: int, fates: list[str]) -> None:
    paged = PagedStore(shape(tokens), window, TorchExecutor(shape(tokens)))
    stores: list[CacheStore] = [
        DenseMaskedStore(LAYERS, tokens, SPECIAL),  # type: ignore[list-item]  # the oracle keeps no books
        ContiguousStore(shape(tokens), window, SlicedAttention()),
        paged,
    ]
    play(stores, CachePolicy(window), scale, fates, tokens)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 5), FATES)
def test_camera_store_equals_the_dense_oracle(scale: int, window: int, fates: list[str]) -> None:
    # With one special token a frame, the memory keeps the whole frame: nothing is ever out of sight.
    stores: list[CacheStore] = [DenseMaskedStore(LAYERS, 1, 1), AppendStore(shape(1, special=1))]  # type: ignore[list-item]  # as above
    play(stores, CachePolicy(window), scale, fates, 1)


def test_growth_by_chunks_keeps_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contiguous, "MEMORY_CHUNK_FRAMES", 3)
    monkeypatch.setattr(contiguous, "CHUNK_FRAMES", 4)
    grown = ContiguousStore(shape(4), 2, SlicedAttention())
    play([DenseMaskedStore(LAYERS, 4, SPECIAL), grown], CachePolicy(2), 2, ["keep", "keep", "late", "pass"] * 6, 4)  # type: ignore[list-item]  # as above
    play([DenseMaskedStore(LAYERS, 1, 1), AppendStore(shape(1, special=1))], CachePolicy(2), 2, ["keep"] * 15, 1)  # type: ignore[list-item]  # as above
    token = shape(4).token_bytes
    # Special tokens of 2 + 2 frames seen whole, of one that is not kept, and of 16 memory frames in chunks of 3; then
    # the patches of the five.
    assert grown.used_bytes() == {"anchor": 8 * token, "window": 8 * token, "memory": 16 * SPECIAL * token}
    assert grown.allocated_bytes() == ((5 + 18) * SPECIAL + 5 * (4 - SPECIAL)) * token


def test_memory_part_follows_its_formula_and_the_rest_stays() -> None:
    policy, store = CachePolicy(3), ContiguousStore(shape(5), 3, SlicedAttention())
    generator = torch.Generator().manual_seed(0)
    run_pass([store], policy.enter_scale(2), 5, generator)
    for kept in range(1, 40):
        run_pass([store], policy.keep(), 5, generator)
        used = store.used_bytes()
        assert used["window"] == min(kept, 3) * 5 * shape(5).token_bytes
        assert used["memory"] == max(0, kept - 3) * SPECIAL * shape(5).token_bytes
    assert shape(5).token_bytes == 2 * LAYERS * HEADS * DIM * 4


def test_the_camera_store_counts_every_kept_frame_however_it_was_kept() -> None:
    policy, store = CachePolicy(2), AppendStore(shape(1, special=1))
    generator, token = torch.Generator().manual_seed(0), shape(1, special=1).token_bytes
    run_pass([store], policy.enter_scale(3), 1, generator)
    assert store.used_bytes() == {"camera_head": 3 * token}
    run_pass([store], policy.pass_by(), 1, generator)
    assert store.used_bytes() == {"camera_head": 3 * token}
    store.keep_last(policy.keep_last())
    assert store.used_bytes() == {"camera_head": 4 * token}
    run_pass([store], policy.keep(), 1, generator)
    assert store.used_bytes() == {"camera_head": 5 * token}


def test_room_of_the_camera_head_comes_in_chunks_of_512_frames() -> None:
    store, policy = AppendStore(shape(1, special=1)), CachePolicy(2)
    store.begin(policy.enter_scale(511))
    held = []
    for step in (policy.keep(), policy.pass_by(), policy.keep()):
        store.begin(step)
        held.append(store.allocated_bytes() // shape(1, special=1).token_bytes)
    assert held == [512, 1024, 1024]


STORES: dict[str, Callable[[], CacheStore]] = {
    "sdpa": lambda: ContiguousStore(shape(4), 2, SlicedAttention()),
    "paged": lambda: PagedStore(shape(4), 2, TorchExecutor(shape(4))),
    "camera": lambda: AppendStore(shape(1, special=1)),
}


@pytest.mark.parametrize("name", STORES)
def test_a_frame_that_is_not_kept_leaves_no_trace(name: str) -> None:
    """The same kept frames with and without passers-by between them give the same answers, to the last bit."""
    plain, disturbed = STORES[name](), STORES[name]()
    tokens = 1 if name == "camera" else 4
    policies = CachePolicy(2), CachePolicy(2)
    generator = torch.Generator().manual_seed(3)

    def kept_pass(first: Step, second: Step) -> None:
        plain.begin(first)
        disturbed.begin(second)
        for layer in range(LAYERS):
            q, k, v = torch.randn(3, first.count * tokens, HEADS, DIM, generator=generator)
            assert torch.equal(plain.attend(layer, q, k, v), disturbed.attend(layer, q, k, v))

    kept_pass(policies[0].enter_scale(2), policies[1].enter_scale(2))
    for frame in range(9):
        for _ in range(frame % 3):
            run_pass([disturbed], policies[1].pass_by(), tokens, torch.Generator().manual_seed(frame))
        kept_pass(policies[0].keep(), policies[1].keep())
    assert plain.used_bytes() == disturbed.used_bytes()


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(SPECIAL + 1, 5), FATES)
def test_stores_of_8_bits_hold_the_nearest_numbers(scale: int, window: int, tokens: int, fates: list[str]) -> None:
    """Whatever comes and goes, growth included, what is seen are the rounded keys and values: to the oracle's bit."""
    contiguous_store = ContiguousStore(reduced(tokens), window, SlicedAttention())
    paged = PagedStore(reduced(tokens), window, TorchExecutor(reduced(tokens)))
    oracle = DenseMaskedStore(LAYERS, tokens, SPECIAL)
    remember = oracle.attend

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return remember(layer, query, *(widen(*quantize(part), torch.float32) for part in (key, value)))

    oracle.attend = attend  # type: ignore[method-assign]
    play([oracle, contiguous_store, paged], CachePolicy(window), scale, fates, tokens)  # type: ignore[list-item]  # as above


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_8_bits_are_half_a_step_off_at_most(seed: int, size: float) -> None:
    x = size * torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(seed))
    x[2, 1] = 0
    numbers, scales = quantize(x)
    step = x.abs().amax(-1, keepdim=True) / 127
    assert ((widen(numbers, scales, torch.float32) - x).abs() <= 0.51 * step).all()
    assert numbers.dtype is torch.int8


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_no_number_does_not_become_one_in_8_bits(value: float) -> None:
    x = torch.ones(2, 1, 64)
    x[1, 0, 7] = value
    kept = widen(*quantize(x), torch.float32).isfinite()
    assert kept[0].all()
    assert not kept[1].any()


def test_misuse_is_refused() -> None:
    for make in STORES.values():
        store, policy = make(), CachePolicy(2)
        with pytest.raises(StreamError, match="begin must come before"):
            store.attend(0, *torch.zeros(3, 4, HEADS, DIM))
        opening = policy.enter_scale(1)
        store.begin(opening)
        with pytest.raises(StreamError, match="kept already"):
            store.keep_last(opening)
        store.begin(policy.pass_by())
        last = policy.keep_last()
        store.keep_last(last)
        with pytest.raises(StreamError, match="kept already"):
            store.keep_last(last)
    with pytest.raises(ValueError, match="one token a frame"):
        AppendStore(shape(4))


@settings(max_examples=20)
@given(st.integers(1, 2 * QUERIES_AT_ONCE + 1), st.integers(0, 40), st.integers(1, 300))
def test_products_are_attention_to_half_precision(queries: int, start: int, count: int) -> None:
    generator = torch.Generator().manual_seed(queries * count)
    capacity = start + count + 7
    query = torch.randn(queries, 3, 64, generator=generator).bfloat16()
    keys, values = torch.randn(2, capacity, 3, 64, generator=generator).bfloat16()
    found, wanted = ProductAttention(), SlicedAttention()
    found.plan(start, start + count, capacity)
    wanted.plan(start, start + count, capacity)
    reference = wanted.run(query.double(), keys.double(), values.double())
    out = found.run(query, keys, values)
    assert out.dtype is torch.bfloat16
    assert (out.double() - reference).norm() < 0.01 * reference.norm()


@pytest.mark.parametrize(("start", "end"), [(0, 40), (7, 30), (12, 13)])
def test_attention_under_a_mask_equals_that_of_the_slice(start: int, end: int) -> None:
    """What a GPU runs in float32, and no CPU would: here for its arithmetic, with one buffer planned anew."""
    generator = torch.Generator().manual_seed(end)
    query, keys, values = (torch.randn(n, 3, 16, generator=generator) for n in (5, 40, 40))
    masked, sliced = MaskedAttention(torch.device("cpu")), SlicedAttention()
    for first, last in ((0, 2), (start, end)):
        masked.plan(first, last, 40)
        sliced.plan(first, last, 40)
        torch.testing.assert_close(masked.run(query, keys, values), sliced.run(query, keys, values))
    before = masked.capture_key()
    masked.plan(0, 1, 41)
    assert masked.capture_key() != before
