"""Growth a kept frame on data whose growth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.model.config import CONFIGS
from lingbot_eval.scaling.records import QUANTITIES, GrowthRecord, SampleLog, Setting, case_growth, growth, growth_text
from lingbot_eval.scaling.settings import Case
from lingbot_eval.statistics import robust_slope
from lingbot_eval.streaming.estimate import NetworkSize
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.types import FrameType

BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}


@given(st.integers(-(10**6), 10**6), st.integers(1, 40), st.integers(32, 300), st.integers(0, 10**10))
def test_an_exact_line_is_found_exactly(slope: int, interval: int, kept: int, start: int) -> None:
    clock = np.repeat(np.arange(kept, dtype=np.float64), interval)
    found = growth(BY_NAME["cache"], clock, start + slope * clock)
    assert (found.value, found.low, found.high) == pytest.approx((slope, slope, slope), rel=1e-9)
    assert found.kept == kept


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_slow_frames_do_not_move_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    clock = np.arange(2000, dtype=np.float64)
    times = 50 + 0.004 * clock + random.normal(0, 0.3, 2000)
    times[random.choice(2000, 60, replace=False)] += random.uniform(50, 500, 60)
    found = growth(BY_NAME["forward"], clock, times)
    assert found.unit == "us"
    assert found.value == pytest.approx(4.0, abs=0.5)


def test_its_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        clock = np.arange(1000, dtype=np.float64)
        found = robust_slope(clock, 0.01 * clock + random.normal(0, 5, 1000))
        assert found is not None
        held += found.low <= 0.01 <= found.high
    assert 0.9 <= held / 200 <= 0.995


def test_gaps_are_left_out() -> None:
    clock = np.arange(400, dtype=np.float64)
    values = np.where(clock % 5 == 0, 7 * clock, np.nan)
    found = growth(BY_NAME["driver"], clock, values)
    assert found.value == pytest.approx(7)
    assert found.kept == 80


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.full(100, np.nan), "not measured"),
        (np.empty(0), "the window never filled"),
        (np.arange(20.0), "there are 20"),
        (np.repeat([1e6, 2e6, 3e6], 40), "a slope needs 4 of them, there are 2"),
    ],
)
def test_what_cannot_be_said_has_its_reason(values: np.ndarray, says: str) -> None:
    found = growth(BY_NAME["cache_allocated"], np.arange(len(values), dtype=np.float64), values)
    assert found.value is None
    assert says in (found.reason or "")
    assert growth_text(found) == found.reason


def test_what_stands_still_grows_by_nothing() -> None:
    found = growth(BY_NAME["driver"], np.arange(100.0), np.full(100, 5e9))
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("unit", "numbers", "text"),
    [
        ("B", (589_824.0, 589_000.0, 590_000.0), "+590 kB (589 to 590)"),
        ("B", (1_250_000.0, 1_240_000.0, 1_260_000.0), "+1.25 MB (1.24 to 1.26)"),
        ("B", (500.0, -2000.0, 900.0), "+0.5 kB (-2 to 0.9)"),
        ("us", (0.4, 0.3, 0.5), "+400 ns (300 to 500)"),
        ("us", (0.0004, 0.0003, 0.0005), "+0.4 ns (0.3 to 0.5)"),
        ("B", (0.25, -0.5, 0.75), "+0.25 B (-0.5 to 0.75)"),
        ("B", (0.0, 0.0, 0.0), "+0 B (0 to 0)"),
        ("us", (2.5, -0.1, 3.0), "+2.5 µs (-0.1 to 3)"),
        ("us", (-1500.0, -1600.0, -1400.0), "-1.5 ms (-1.6 to -1.4)"),
    ],
)
def test_statements(unit: str, numbers: tuple[float, float, float], text: str) -> None:
    value, low, high = numbers
    record = GrowthRecord(quantity="cache", unit=unit, value=value, low=low, high=high, kept=100)  # type: ignore[arg-type]
    assert growth_text(record) == text


def test_a_slope_needs_its_interval() -> None:
    with pytest.raises(ValueError, match="interval or a reason"):
        GrowthRecord(quantity="cache", unit="B", value=1.0)
    with pytest.raises(ValueError, match="finite"):
        GrowthRecord(quantity="cache", unit="B", value=1.0, low=float("nan"), high=2.0)


def test_scale_frames_of_later_windows_do_not_move_the_start() -> None:
    """Forty windows have 320 scale frames between them; the first one is full after 8 and the window."""
    log = SampleLog()
    for frame in range(800):
        kind = FrameType.SCALE if frame % 20 < 8 else FrameType.KEPT
        log.append({"index": frame, "frame_type": int(kind), "kept": frame + 1, "process_bytes": 3.0 * frame})
    streaming = StreamSettings.model_validate({"scale_frames": 8, "windowed": {"size": 24, "overlap_size": 4}})
    setting = Setting(Case(frames=800, window=16), NetworkSize(CONFIGS["ci"], "float32"), streaming, on_cpu=True)
    (process,) = [found for found in case_growth(setting, log) if found.quantity == "process"]
    assert process.value == pytest.approx(3.0)
    assert process.kept == sum(frame % 20 >= 8 and frame + 1 >= 8 + 16 for frame in range(800))


def test_the_limits_of_a_slope_lie_on_either_side_of_it() -> None:
    kept = np.arange(20.0, 80.0)
    values = 3 * kept + np.random.default_rng(1).normal(0, 2, len(kept))
    for quantity in QUANTITIES:
        found = growth(quantity, kept, values)
        assert found.low is not None
        assert found.value is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        assert found.value / quantity.scale == pytest.approx(3, abs=0.1)
        assert quantity.scale == (1e3 if quantity.unit == "us" else 1)
