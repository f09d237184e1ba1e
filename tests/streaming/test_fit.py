"""Settings that fit into a card: the ladder's order, the limit, and the one line where nothing fits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lingbot_eval.errors import ConfigError
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.streaming.estimate import (
    RESERVED_BYTES,
    Fit,
    NetworkSize,
    Stream,
    estimate,
    fit,
    limit_memory,
    memory_bytes,
    smaller_preset,
)
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings

FULL = NetworkSize(CONFIGS["full"], "bfloat16")
LONG = Stream(378, 518, 2000)
EVERY = StreamSettings(keyframe_interval=1, backend="triton")


def fitted(card: str, settings: StreamSettings = EVERY, *streams: Stream) -> Fit:
    return fit(FULL, settings, streams or (LONG,), memory_bytes(card), torch.device("cpu"))


@pytest.mark.parametrize(
    ("card", "changed"),
    [
        ("16GB", {}),
        ("12GB", {"cache_precision": 8}),
        ("8GB", {"cache_precision": 8, "window": 32}),
        ("6GB", {"cache_precision": 8, "keyframe_interval": "auto", "window": 8}),
    ],
)
def test_a_smaller_card_takes_what_loses_least(card: str, changed: dict[str, object]) -> None:
    found = fitted(card)
    assert found.chosen.changed == changed
    assert found.chosen.settings == EVERY.model_copy(update=changed)
    assert found.chosen.estimate.reserved_bytes <= memory_bytes(card) - RESERVED_BYTES
    # What comes before it on the ladder does not fit.
    assert all(choice.estimate.reserved_bytes > found.usable_bytes for choice in found.choices[:-1])
    keys = {name: f"streaming.{name}" for name in changed}
    assert found.changes() == {keys[name]: value for name, value in changed.items()} | {
        "memory_gb": memory_bytes(card) / 1e9
    }


def test_each_change_says_what_it_costs_where_that_was_measured() -> None:
    costs = {str(choice.changed.get("window")): choice.cost for choice in fitted("8GB").choices}
    assert costs["None"] == "cache_precision: AUC@30 ±0.1, ATE ±0.2 % (ci)"
    assert costs["32"].endswith("; window: AUC@30 −0.8 (ci)")
    assert costs["40"].endswith("; window: not measured")


def test_a_window_that_was_asked_for_is_what_smaller_ones_are_shares_of() -> None:
    odd = [choice for choice in fitted("6GB", EVERY.model_copy(update={"window": 30})).choices if choice.changed]
    # Of 30 frames 26 are a little less than seven eighths, 15 are four.
    costs = {choice.changed.get("window"): choice.cost.partition("; window: ")[2] for choice in odd}
    assert {window: costs[window] for window in (26, 22, 18, 15)} == {
        **dict.fromkeys((26, 22, 18), "not measured"),
        15: "AUC@30 −0.8 (ci)",
    }
    asked = EVERY.model_copy(update={"window": 32, "cache_precision": 8})
    assert [(choice.changed, choice.cost) for choice in fitted("7GB", asked).choices] == [
        ({}, "none: as asked for"),
        ({"window": 28}, "window: not measured"),
        ({"window": 24}, "window: AUC@30 +0.1 (ci)"),
        ({"window": 20}, "window: not measured"),
    ]


@pytest.mark.parametrize(("frames", "last"), [(320, {"window": 8}), (321, {"keyframe_interval": "auto", "window": 8})])
def test_an_interval_that_auto_would_choose_is_no_change(frames: int, last: dict[str, object]) -> None:
    choices = fitted("6GB", EVERY, Stream(378, 518, frames)).choices
    assert choices[-1].changed == {"cache_precision": 8, **last}
    assert any("keyframe_interval" in choice.changed for choice in choices) is ("keyframe_interval" in last)


def test_every_stream_must_fit() -> None:
    short = Stream(378, 518, 100)
    alone = fitted("8GB").chosen
    for streams in ((short, LONG), (LONG, short)):
        assert fitted("8GB", EVERY, *streams).chosen == alone, "the numbers, too, are of the one that needs most"
    assert fitted("8GB", EVERY, short).chosen.changed["window"] == 48
    # A few large images need more than many small ones.
    large, small = Stream(518, 518, 100), Stream(112, 140, 2000)
    needs = fitted("8GB", EVERY, large).chosen
    assert needs.changed["window"] == 24
    assert fitted("8GB", EVERY, small).chosen.changed == {}
    for streams in ((large, small), (small, large)):
        both = fitted("8GB", EVERY, *streams).chosen
        assert (both.changed, both.estimate) == (needs.changed, needs.estimate)
    # The interval is of the longest, whichever comes first.
    assert fitted("6GB", EVERY, short, LONG).chosen.changed == fitted("6GB").chosen.changed


def test_what_the_backend_or_the_keyframes_rule_out_is_not_tried() -> None:
    pages = StreamSettings(keyframe_interval=1, backend="flashinfer")
    assert not any("cache_precision" in choice.changed for choice in fitted("10GB", pages).choices)
    flow = StreamSettings(flow=FlowSettings(threshold=20.0), backend="triton")
    assert not any("keyframe_interval" in choice.changed for choice in fitted("8GB", flow).choices)


@pytest.mark.parametrize(
    ("precision", "device", "second"),
    [
        ("float32", "cuda", {"precision": "auto"}),
        ("float32", "cpu", {"cache_precision": 8}),
        ("bfloat16", "cuda", {"cache_precision": 8}),
    ],
)
def test_of_a_gpu_alone_float32_is_given_up_first(precision: str, device: str, second: dict[str, object]) -> None:
    sdpa = EVERY.model_copy(update={"backend": "sdpa"})
    found = fit(NetworkSize(CONFIGS["full"], precision), sdpa, [LONG], memory_bytes("10GB"), torch.device(device))
    assert [choice.changed for choice in found.choices[:2]] == [{}, second]
    # The forecast is of the weights in that precision; 8 bits are of the cache alone.
    weights = [choice.estimate.weights_bytes for choice in found.choices[:2]]
    assert weights[1] < 0.7 * weights[0] if "precision" in second else weights[1] == weights[0]


def test_nothing_that_fits_is_one_line_with_what_it_would_take() -> None:
    with pytest.raises(
        ConfigError, match=r"nothing fits into 4 GB: the least of 16 choices takes 5\.\d GB; use smaller"
    ) as met:
        fitted("4GB")
    # A card of that size would do; one that is smaller would not.
    takes = float(str(met.value).partition("takes ")[2].partition(" GB")[0])
    assert len(fitted(f"{takes + 0.06:.2f}GB").choices) == 16
    with pytest.raises(ConfigError, match=f"the least of 16 choices takes {takes} GB"):
        fitted(f"{takes - 0.06:.2f}GB")


def test_a_window_of_two_frames_can_be_halved_once() -> None:
    asked = EVERY.model_copy(update={"window": 2})
    choices = "the least of 5 choices"  # as asked for; in 8 bits; one frame; auto; auto and one frame
    with pytest.raises(ConfigError, match=f"nothing fits into 2.5 GB: {choices} takes "):
        fitted("2.5GB", asked)
    eight = {"cache_precision": 8}
    assert [choice.changed for choice in fitted("5.15GB", asked).choices] == [
        {},
        eight,
        {**eight, "window": 1},
        {**eight, "keyframe_interval": "auto"},
        {**eight, "keyframe_interval": "auto", "window": 1},
    ]


def test_what_the_smallest_windows_cost_is_said() -> None:
    costs = [choice.cost for choice in fitted("6GB").choices if choice.changed.get("window") in (48, 16, 8)]
    assert [cost.partition("window: ")[2] for cost in costs] == [
        "AUC@30 +0.1 (ci)",
        "AUC@30 −10 (ci)",
        "AUC@30 +0.1 (ci)",
        "AUC@30 −10 (ci)",
        "AUC@30 −29 (ci)",
    ]
    assert costs[-1].startswith("cache_precision: AUC@30 ±0.1, ATE ±0.2 % (ci); keyframe_interval: not measured; ")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *[("8GB", 8e9), ("8", 8e9), ("7.5 gb", 7.5e9), ("8GiB", 2**33), ("6000MB", 6e9), (" 4096mib ", 2**32)],
        ("1.4GB", 1.4e9),  # the least that is taken
    ],
)
def test_sizes(text: str, size: float) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "1GB", "1399MB", "-8GB", "8TB", "nan", "1e9", "8 G B", "0"])
def test_what_is_no_size_of_a_card(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--fit .*: expected the memory of a card, such as 8GB"):
        memory_bytes(text)


def test_the_next_smaller_preset() -> None:
    assert [smaller_preset(memory_bytes(card)) for card in ("80GB", "24GB", "8GB", "7GB", "6GB")] == [
        "24GB",
        "16GB",
        "6GB",
        "6GB",
        None,
    ]
    # A card of 16 GB has a little more than that: the next smaller is not its own size.
    assert smaller_preset(16_700_000_000) == "12GB"


@pytest.mark.parametrize(
    ("card", "frames", "changed"),
    [
        ("8GB", 24, {"cache_precision": 8, "window": 56, "keyframe_interval": "auto"}),
        ("8GB", 2000, {"cache_precision": 8, "window": 40}),
    ],
)
def test_what_an_h200_limited_to_a_card_could_not_hold_does_not_fit(
    card: str, frames: int, changed: dict[str, object]
) -> None:
    """Both ran out of memory there: in the scale phase, and as a store grew at frame 1,840 (docs/measurements.md)."""
    settings = EVERY.model_copy(update=changed)
    needs = estimate(NetworkSize(CONFIGS["full"], "float16"), settings, 378, 518, frames)
    assert needs.reserved_bytes > memory_bytes(card) - RESERVED_BYTES


@pytest.mark.parametrize(("card", "share"), [(8_700_000_000, 0.4), (20_700_000_000, 1.0), (30_000_000_000, 1.0)])
def test_torch_is_held_to_the_share_that_the_card_would_leave_it(
    monkeypatch: pytest.MonkeyPatch, card: int, share: float
) -> None:
    told: list[object] = []
    device = torch.device("cuda:1")
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda asked: SimpleNamespace(total_memory=20_000_000_000 * (asked == device)),
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: told.append(given))
    limit_memory(device, card)
    assert told == [(pytest.approx(share), device)]
