"""Throughput figures against hand-made arithmetic, and what they refuse."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lingbot_eval.profiling import timing
from lingbot_eval.profiling.timing import summarise, throughput_measurements, timed
from lingbot_eval.types import FrameType, Measurement

SCALE, KEPT, UNKEPT = FrameType.SCALE, FrameType.KEPT, FrameType.UNKEPT


def by_name(measurements: tuple[Measurement, ...]) -> dict[tuple[str, str], Measurement]:
    found = {(m.name, m.variant): m for m in measurements}
    assert len(found) == len(measurements)
    return found


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_timed_waits_before_and_after_the_block(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """For the device that was named; the second wait is part of the work, the first is somebody else's."""
    now, events = [100.0], list[str]()

    def wait(device: str) -> None:
        events.append(f"wait for {device}")
        now[0] += 2.0

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def work() -> None:
        events.append("work")
        now[0] += 0.5

    seconds = timed(work, device)
    there = device != "cpu"
    assert events == ["wait for cuda:1", "work", "wait for cuda:1"][not there : 3 - (not there)]
    assert seconds == (2.5 if there else 0.5)


@pytest.mark.parametrize(
    ("count", "given"),
    [(0, ""), (1, "p50"), (19, "p50"), (20, "p50 p95"), (99, "p50 p95"), (100, "p50 p95 p99")],
)
def test_percentiles_of_too_few_samples_are_refused_with_the_count(count: int, given: str) -> None:
    measurements = summarise("x", np.ones(count), "")
    assert [m.variant for m in measurements] == ["p50", "p95", "p99"]
    assert " ".join(m.variant for m in measurements if m.value is not None) == given
    assert all(f"there are {count}" in (m.reason or "") for m in measurements if m.value is None)


def test_percentiles_of_a_known_sample() -> None:
    # 0…100: the p-th percentile is p.
    values = [m.value for m in summarise("x", np.random.default_rng(0).permutation(101), "")]
    assert values == pytest.approx([50, 95, 99])
    (between,) = summarise("x", [0.0, 10.0, 20.0, 40.0], "", (50,))
    assert between.value == 15.0


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf")])
def test_a_broken_clock_is_a_fault_in_a_rate_as_well(bad: float) -> None:
    """Of the steps, and of the pace even of scale frames, which no percentile is of."""
    for name, forward, interval in (
        ("forward_fps", [bad, 1.0], [1.0, 1.0]),
        ("end_to_end_fps", [1.0, 1.0], [bad, 1.0]),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected finite durations of at least 0"):
            throughput_measurements(forward, [SCALE, KEPT], interval, None)


@pytest.mark.parametrize("bad", [[-1.0], [float("nan")], [float("inf")]])
def test_a_broken_clock_is_a_fault(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="finite durations"):
        summarise("x", bad, "")


def test_throughput_of_a_hand_made_stream() -> None:
    # Two scale frames in one pass of 4 s, then steps of 1 s, one of them slow; 0.5 s of decoding a step.
    found = by_name(
        throughput_measurements(
            forward_s=[2.0, 2.0, 1.0, 1.0, 3.0],
            frame_types=[SCALE, SCALE, KEPT, UNKEPT, KEPT],
            interval_s=[4.5, 0.0, 1.5, 1.5, 3.5],
            warm_up_s=7.0,
        )
    )
    assert found["forward_fps", ""].value == pytest.approx(5 / 9)
    assert found["end_to_end_fps", ""].value == pytest.approx(5 / 11)
    assert found["forward_latency", "p50"].value == pytest.approx(1000)
    assert found["forward_latency", "p50"].samples == 3
    assert found["end_to_end_interval", "p50"].value == pytest.approx(1500)
    assert found["end_to_end_interval", "p50"].samples == 3
    assert found["first_output_latency", ""].value == pytest.approx(4500)
    assert found["warm_up", ""].value == pytest.approx(7000)
    samples = {name: measured.samples for (name, variant), measured in found.items() if variant in ("", "p50")}
    assert samples == {
        "forward_fps": 5,
        "forward_latency": 3,
        "end_to_end_fps": 5,
        "end_to_end_interval": 3,
        "harness_overhead": 3,
        "first_output_latency": 1,
        "warm_up": 1,
    }
    assert {(m.name, m.unit) for m in found.values()} == {
        *((name, "fps") for name in ("forward_fps", "end_to_end_fps")),
        *((name, "ms") for name in ("forward_latency", "end_to_end_interval", "first_output_latency", "warm_up")),
        ("harness_overhead", "%"),
    }
    assert "needs 20 samples, there are 3" in (found["forward_latency", "p95"].reason or "")
    assert all(m.family == "throughput" for m in found.values())
    counted = {
        "forward_fps": "scale frames included",
        "forward_latency": "no scale frames",
        "end_to_end_fps": "warm-up apart",
        "end_to_end_interval": "no scale frames, not the first output",
        "harness_overhead": "without the first output",
        "first_output_latency": "warm-up apart",
        "warm_up": "in no frame's time",
    }
    assert all(counted[m.name] in m.convention for m in found.values())


def test_a_method_without_device_times_still_has_a_pace() -> None:
    found = by_name(throughput_measurements(None, [None] * 3, [1.0, 0.5, 0.5], None))
    assert found["end_to_end_fps", ""].value == pytest.approx(1.5)
    # The first interval is the start-up, not the pace.
    assert found["end_to_end_interval", "p50"].samples == 2
    assert "not warmed up" in (found["warm_up", ""].reason or "")
    told = by_name(throughput_measurements([1.0] * 3, [None] * 3, [1.0, 0.5, 0.5], None))
    assert found.keys() == told.keys()
    for key in (("forward_fps", ""), *(("forward_latency", f"p{percent}") for percent in (50, 95, 99))):
        assert (found[key].value, found[key].reason) == (None, "the method does not report its time on the device")
        assert (found[key].unit, found[key].convention) == (told[key].unit, told[key].convention)


def test_a_stream_without_predictions_has_reasons_only() -> None:
    measurements = throughput_measurements([], [], [], 0.0)
    assert {m.name for m in measurements if m.value is not None} == {"warm_up"}
    told = {m.name: m.reason for m in measurements if m.variant == ""}
    assert told == {
        "forward_fps": "no time was spent: there are no timed frames",
        "end_to_end_fps": "no time was spent: there are no timed frames",
        "harness_overhead": "there are no step frames",
        "first_output_latency": "no prediction left",
        "warm_up": None,
    }


@pytest.mark.parametrize(
    ("forward", "types", "intervals"),
    [([1.0], 2, 2), ([1.0, 1.0], 1, 2), (None, 3, 2), ([1.0, 1.0], 2, 1), (None, 1, 0)],
)
def test_lengths_that_differ_are_a_fault(forward: list[float] | None, types: int, intervals: int) -> None:
    with pytest.raises(ValueError, match=r"^expected one forward time, frame type and interval for each prediction$"):
        throughput_measurements(forward, [KEPT] * types, [1.0] * intervals, None)


def test_a_p90_may_be_asked_for() -> None:
    values = [m.value for m in summarise("x", np.arange(101.0), "", (50, 90, 99))]
    assert values == pytest.approx([50, 90, 99])
    (found,) = summarise("x", np.ones(9), "", (90,))
    assert found.reason == "a p90 needs 10 samples, there are 9"


def test_overhead_is_what_the_wall_clock_adds_to_the_steps() -> None:
    # Steps of 1 s at a pace of 1.1 s; the first output's wait and the scale frames do not count.
    found = by_name(
        throughput_measurements([2.0, 2.0, 1.0, 1.0], [SCALE, SCALE, KEPT, UNKEPT], [9.0, 0.0, 1.1, 1.1], None)
    )
    assert found["harness_overhead", ""].value == pytest.approx(10)
    assert found["harness_overhead", ""].samples == 2
    only_scale = by_name(throughput_measurements([1.0], [SCALE], [1.0], None))
    assert only_scale["harness_overhead", ""].reason == "there are no step frames"
    unknown = by_name(throughput_measurements(None, [None] * 3, [1.0, 0.5, 0.5], None))
    assert "does not report" in (unknown["harness_overhead", ""].reason or "")
