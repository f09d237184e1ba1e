"""A study with numbers chosen so that all that could be taken for each other differs, as its reader sees it.

Each kept frame is seen in three frames, of which the third is slow more and more: a mean is no median. Bytes grow by
another amount for everything that is measured, forward is not end to end, and one pose, the first beyond a checkpoint,
is far off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from studies import case_record, written

from lingbot_eval.model.config import CONFIGS
from lingbot_eval.scaling.page import Curve, case_labels, growth_statement, page, remarks, scaling_figure, tables
from lingbot_eval.scaling.records import (
    CaseRecord,
    CheckpointRecord,
    GrowthRecord,
    SampleLog,
    ScaleRecord,
    Setting,
    case_checkpoints,
    case_growth,
    case_measurements,
    error_curve,
)
from lingbot_eval.scaling.settings import Case
from lingbot_eval.streaming.estimate import NetworkSize, estimate, kept_frame_bytes
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings, WindowedSettings
from lingbot_eval.tables import Table
from lingbot_eval.types import FrameType, Measurement, Trajectory

SCALE, WINDOW, INTERVAL, FRAMES, CHECKPOINT = 8, 4, 3, 242, 150
MIB = 2**20
GROWTH = {"view": 1000, "held": 1500, "allocated": 7000, "reserved": 9000, "driver": 11_000, "process": 5000}
"""Bytes a kept frame."""
START = {"allocated": 100 * MIB, "reserved": 200 * MIB, "driver": 300 * MIB, "process": 400 * MIB, "held": 50 * MIB}


def kept_after(index: int) -> int:
    return index + 1 if index < SCALE else SCALE + 1 + (index - SCALE) // INTERVAL


def forward_ms(index: int) -> float:
    if index < SCALE:
        return 7.0
    kept, turn = kept_after(index), (index - SCALE) % INTERVAL
    return 20 + 0.5 * kept + (0.0, 1.0, 3.0 * kept)[turn]


def interval_ms(index: int) -> float:
    return 900.0 if index == 0 else 0.01 if index < SCALE else forward_ms(index) + 5


def bytes_of(what: str, index: int) -> int:
    return START[what] + GROWTH[what] * kept_after(index)


def latency_ms(index: int) -> float:
    """Of a camera at 25 Hz, 40 ms from frame to frame: every fifth step frame is late."""
    return 41.0 if index % 5 == 0 else 39.0


def poses(bad: Sequence[int] = ()) -> Trajectory:
    index = np.arange(FRAMES)
    found = np.tile(np.eye(4), (FRAMES, 1, 1))
    found[:, :3, 3] = np.stack([np.cos(index / 30), np.sin(index / 30), index / 100], axis=1)
    found[list(bad), 0, 3] += 9.0
    return Trajectory(index, index / 30, found)


def sampled(*, on_cpu: bool) -> Iterator[dict[str, float | int | None]]:
    for index in range(FRAMES):
        kept = kept_after(index)
        kind = (
            FrameType.SCALE
            if index < SCALE
            else (FrameType.KEPT if (index - SCALE) % INTERVAL == 0 else FrameType.UNKEPT)
        )
        row: dict[str, float | int | None] = {
            "index": index,
            "frame_type": kind,
            "kept": kept,
            "forward_ms": forward_ms(index),
            "interval_ms": interval_ms(index),
            "latency_ms": latency_ms(index),
            # The queue is longest in the middle and not empty at the end.
            "backlog": 6 if index == 100 else 2,
            "cache_anchor_bytes": 1 * MIB,
            "cache_window_bytes": 2 * MIB,
            "cache_memory_bytes": 3 * MIB + 990 * kept,
            "cache_camera_head_bytes": 4 * MIB + 10 * kept,
            "cache_allocated_bytes": bytes_of("held", index),
            "process_bytes": bytes_of("process", index),
        }
        if not on_cpu:
            row |= {
                "device_allocated_bytes": bytes_of("allocated", index),
                "device_reserved_bytes": bytes_of("reserved", index),
                "driver_bytes": bytes_of("driver", index),
            }
        yield row


def study(folder: Path, *, on_cpu: bool = False) -> Curve:
    """The case as it is recorded, and its samples as they are stored."""
    case = Case(
        frames=FRAMES, scenario="camera", camera_hz=25, keyframe_interval=INTERVAL, window=WINDOW, size=(56, 42)
    )
    samples = SampleLog()
    for row in sampled(on_cpu=on_cpu):
        samples.append(row)
    streaming = StreamSettings(scale_frames=SCALE, window=WINDOW, keyframe_interval=INTERVAL)
    setting = Setting(case, NetworkSize(CONFIGS["ci"], "float32"), streaming, on_cpu=on_cpu)
    truth, guess = poses(), poses(bad=(CHECKPOINT,))
    record = CaseRecord(
        name="chosen",
        case=case.model_dump(mode="json"),
        status="ok",
        frames=FRAMES,
        predictions=FRAMES,
        facts={"device": "cpu" if on_cpu else "cuda:0", "trained": True},
        input={},
        sampling={},
        measurements=list(case_measurements(case, samples, 2.0)),
        growth=list(case_growth(setting, samples)),
        # One lies beyond the end, one at it.
        checkpoints=list(case_checkpoints(setting, samples, [CHECKPOINT, FRAMES, FRAMES + 1], truth, guess)),
        error_curve=list(error_curve(truth, guess)),
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
    )
    return Curve("chosen", record, written(folder, sampled(on_cpu=on_cpu)))


def rows(found: Sequence[Table], title: str) -> list[dict[str, str]]:
    """A table of the page by its heading: each row as column → cell."""
    (table,) = [table for table in found if table.title.startswith(title)]
    return [dict(zip((column.title for column in table.columns), row, strict=True)) for row in table.rows]


def test_pace(tmp_path: Path) -> None:
    (row,) = rows(tables([study(tmp_path).record]), "Cases")
    forward, interval = ([each(index) for index in range(FRAMES)] for each in (forward_ms, interval_ms))
    assert row["forward, median"] == f"{np.median(forward[SCALE:]):.2f} ms" == "53.75 ms"
    rates = [float(row[column].removesuffix(" fps")) for column in ("forward", "end to end")]
    assert rates == pytest.approx([1e3 * FRAMES / sum(forward), 1e3 * FRAMES / sum(interval)], rel=1e-3)
    assert rates[0] > 1.05 * rates[1]
    assert row["largest memory"] == f"{bytes_of('allocated', FRAMES - 1) / MIB:.1f} MiB"
    assert row["kept"] == str(kept_after(FRAMES - 1)) == "86"
    assert (row["frames"], row["result"]) == (str(FRAMES), "ok")
    last = study(tmp_path).record.checkpoints[-1]
    assert last.formula_bytes is not None
    ratio = (10 * MIB + 1000 * kept_after(FRAMES - 1)) / sum(last.formula_bytes.values())
    assert row["cache / formula"] == f"{ratio:.4f}"
    assert row["a kept frame"] == growth_statement(study(tmp_path).record)
    (on_cpu,) = rows(tables([study(tmp_path, on_cpu=True).record]), "Cases")
    assert on_cpu["largest memory"] == f"{bytes_of('process', FRAMES - 1) / MIB:.1f} MiB"


def test_what_the_harness_adds_is_told_where_frames_do_not_wait_for_a_camera(tmp_path: Path) -> None:
    samples = SampleLog()
    for row in sampled(on_cpu=True):
        samples.append(row)
    offline = Case(frames=FRAMES, scenario="offline", size=(56, 42))
    record = case_record(
        "x", case=offline.model_dump(mode="json"), measurements=list(case_measurements(offline, samples, 2.0))
    )
    waited = study(tmp_path).record
    (told,), (camera,) = (rows(tables([each]), "Cases") for each in (record, waited))
    steps = [(forward_ms(index), interval_ms(index)) for index in range(SCALE, FRAMES)]
    forward, interval = map(sum, zip(*steps, strict=True))
    assert float(told["overhead"].removesuffix(" %")) == pytest.approx(100 * (interval / forward - 1), rel=0.01)
    assert camera["overhead"] == "n/a"
    # Nor has a case a row of latencies in which nobody waited for an answer.
    (named,) = rows(tables([record, waited]), "Latency")
    assert named["case"] == case_labels([record, waited])[1]
    assert not any(table.title == "Latency" for table in tables([record]))


def test_what_became_of_each_case_and_what_cases_differ_in() -> None:
    def case(name: str, **changes: object) -> CaseRecord:
        return case_record(name, **{"case": Case(frames=30).model_dump(mode="json"), **changes})

    whole = case("ok", predictions=30)
    cut = case(
        "cut", case=Case(frames=40, window=5).model_dump(mode="json"), predictions=9, stopped="its limit ended it"
    )
    full = case("full", status="failed", out_of_memory=True, stage="stream", failed_at_frame=7, reason="no memory")
    broken = case("broken", status="failed", stage="open", reason="no such file")
    found = rows(tables([whole, cut, full, broken]), "Cases")
    assert [row["result"] for row in found] == ["ok", "ok, stopped", "out of memory", "failed"]
    assert [row["frames"] for row in found] == ["30", "9", "0", "0"]
    assert [row["case"] for row in found[:2]] == ["30 frames, window None", "40 frames, window 5"]
    assert remarks([whole, cut, full, broken]) == (
        "cut: its limit ended it",
        "full: failed (stream at frame 7): no memory",
        "broken: failed (open): no such file",
    )


def test_the_page_says_how_each_number_was_measured_once_and_on_what() -> None:
    """Scenarios that were asked for alone, what was sampled when, and what a measurement means."""
    told = [
        Measurement("throughput", "forward_latency", variant, 1.0, "ms", f"of steps, {variant}")
        for variant in ("p50", "p90")
    ]
    nothing: dict[str, Any] = dict.fromkeys(CheckpointRecord.model_fields)
    nothing |= {"formula_bytes": {"anchor": 4}, "ate_reason": "no poses"}
    told.append(Measurement("throughput", "forward_fps", "", 1.0, "fps", "frames by time"))
    cases = [
        case_record(
            name,
            case=Case(scenario="camera").model_dump(mode="json"),
            sampling={"every frame": "times"},
            measurements=told,
            facts={"device": "cuda:0"},
            growth=[GrowthRecord(quantity="cache", unit="B", reason="it grows in steps")],
            checkpoints=[CheckpointRecord(**(nothing | {"frames": 1, "kept": 1, "cache_bytes": {"anchor": 2}}))],
        )
        for name in "ab"
    ]
    record = ScaleRecord(
        key="k" * 16,
        name="mine",
        command="lingbot-eval scale mine.yaml",
        study={},
        cases=["a", "b"],
        weights="w.pt",
        environment={
            "torch": {"gpus": [{"name": "A"}]},
            "libraries": {"flashinfer-python": "0.3", "torch": "2.9", "numpy": "2"},
        },
        started="2026-01-01T00:00:00+00:00",
    )
    text = page(record, cases, None)
    lines = text.splitlines()
    assert lines[0] == "# Scaling: mine, weights w.pt"
    assert not any(line.startswith("![") for line in lines)
    measured = lines[lines.index("### How it was measured") + 2 :]
    measured = measured[: measured.index("")]
    assert [line.partition(":")[0] for line in measured] == [
        "- growth",
        "- camera",
        "- every frame",
        "- forward latency",
        "- forward fps",
        "- formula",
        "- a case that was cut off went on from its last saved state, from its first frame where it had none",
    ]
    assert "- forward latency: of steps, p50" in measured
    assert "Measured on A; torch 2.9, flashinfer-python 0.3; all of it is in `scale.json`." in lines
    assert "### Not to the end, or not as asked for" not in lines
    assert page(record, cases, "f.png").splitlines()[2].endswith("(f.png)")
    # Of a method without such caches neither is told.
    bare = [case.model_copy(update={"growth": [], "checkpoints": []}) for case in cases]
    text = page(record, bare, None)
    assert not any(words in text for words in ("Growth a kept frame", "- growth: ", "- formula: "))


def test_what_a_kept_frame_costs_is_that_of_the_device_where_it_was_measured() -> None:
    cache = GrowthRecord(quantity="cache", unit="B", value=1000.0, low=900.0, high=1100.0)
    device = GrowthRecord(quantity="device_allocated", unit="B", value=7000.0, low=7000.0, high=7000.0)
    stepped = GrowthRecord(quantity="device_allocated", unit="B", reason="it grows in steps")
    for given, where, expected in (
        ([cache, device], "cuda:0", "+7 kB (7 to 7)"),
        ([cache, stepped], "cuda:0", "+1 kB (0.9 to 1.1)"),
        ([cache, device], "cpu", "+1 kB (0.9 to 1.1)"),
        ([stepped], "cuda:0", "n/a"),
        ([], "cpu", "n/a"),
    ):
        said = growth_statement(case_record("x", growth=given, facts={"device": where}))
        assert said == expected


@pytest.mark.parametrize("on_cpu", [False, True])
def test_growth_of_a_kept_frame(tmp_path: Path, on_cpu: bool) -> None:
    record = study(tmp_path, on_cpu=on_cpu).record
    found = {row["quantity"]: row for row in rows(tables([record]), "Growth")}
    expected = {
        "cache in view": ("B", 1000.0),
        "cache as allocated": ("B", 1500.0),
        "process memory": ("B", 5000.0),
        "forward time": ("µs", 500.0),
    }
    if on_cpu:
        # What is held, not what is in view, is not the process's own.
        expected["process memory less the cache"] = ("B", 3500.0)
    else:
        expected |= {
            "allocated on the device": ("B", 7000.0),
            "reserved on the device": ("B", 9000.0),
            "the driver's figure": ("B", 11_000.0),
        }
    assert {name: row["unit"] for name, row in found.items()} == {name: unit for name, (unit, _) in expected.items()}
    for name, (_, slope) in expected.items():
        numbers = [float(found[name][column]) for column in ("slope", "95 % from", "to")]
        assert numbers == pytest.approx([slope] * 3, rel=1e-3), name
        # Every clock from the first full window on, once.
        assert found[name]["kept frames"] == str(kept_after(FRAMES - 1) - SCALE - WINDOW + 1)
        # What the formula says of the network, of the caches alone.
        formula = kept_frame_bytes(NetworkSize(CONFIGS["ci"], "float32"), StreamSettings())
        assert found[name]["formula"] == (f"{formula:.0f}" if name.startswith("cache") else "n/a"), name
    memory = "+1 kB (1 to 1)" if on_cpu else "+7 kB (7 to 7)"
    assert growth_statement(record) == f"{memory} and +500 µs (500 to 500)"


def test_latency_and_deadline(tmp_path: Path) -> None:
    (row,) = rows(tables([study(tmp_path).record]), "Latency")
    late = sum(index % 5 == 0 for index in range(SCALE, FRAMES))
    steps = FRAMES - SCALE
    assert row["late"] == f"{late} frames" == "47 frames"
    assert row["late share"] == f"{100 * late / steps:.2f} %"
    assert (row["p50"], row["p90"], row["p99"]) == ("39.00 ms", "41.00 ms", "41.00 ms")
    assert (row["largest backlog"], row["last backlog"]) == ("6 frames", "2 frames")


def test_every_number_of_a_queue_stands_under_its_name() -> None:
    told = {("latency", "p50"): 1.0, ("latency", "p90"): 2.0, ("deadline_misses", ""): 4.0}
    told |= {("deadline_miss_rate", ""): 5.0, ("backlog", "largest"): 6.0, ("backlog", "last"): 7.0}
    found = [Measurement("throughput", *name, value, "1", "c") for name, value in told.items()]
    few = "a p99 needs 100 samples, there are 20"
    found.append(Measurement("throughput", "latency", "p99", None, "ms", "c", reason=few))
    (row,) = rows(tables([case_record("x", case=Case().model_dump(mode="json"), measurements=found)]), "Latency")
    assert list(row.values())[1:] == [
        "1.000 ms",
        "2.000 ms",
        f"n/a: {few}",
        "4 frames",
        "5.000 %",
        "6 frames",
        "7 frames",
    ]


def test_the_frames_that_enter_together_are_no_pace_of_a_checkpoint() -> None:
    log = SampleLog()
    for row in sampled(on_cpu=True):
        log.append(row)
    first, second, _ = case_checkpoints(None, log, [5, 10], None, poses())
    assert (first.forward_ms, first.interval_ms, first.kept) == (None, None, 5)
    assert second.forward_ms == pytest.approx((forward_ms(8) + forward_ms(9)) / 2)
    assert second.interval_ms == pytest.approx((forward_ms(8) + forward_ms(9)) / 2 + 5)


def test_a_slope_stands_between_its_limits() -> None:
    entry = GrowthRecord(quantity="forward", unit="us", value=10.0, low=9.0, high=12.0, kept=8)
    (row,) = rows(tables([case_record("x", case=Case().model_dump(mode="json"), growth=[entry])]), "Growth")
    assert list(row.values())[1:] == ["forward time", "µs", "10.00", "9.000", "12.00", "n/a", "8"]


def test_why_slopes_are_missing_is_said_once_of_every_case() -> None:
    cases = [
        case_record(
            str(window),
            case=Case(window=window).model_dump(mode="json"),
            growth=[GrowthRecord(quantity=name, unit="B", reason=reason) for name, reason in growth],
        )
        for window, growth in ((3, [("cache", "few"), ("driver", "none")]), (4, [("process", "few")]))
    ]
    (table,) = [table for table in tables(cases) if table.title == "Growth a kept frame"]
    one, other = (f"10,000 frames, window {window}" for window in (3, 4))
    assert table.legend == (
        f"n/a: few ({one}: cache in view; {other}: process memory)",
        f"n/a: none ({one}: the driver's figure)",
    )


def measured(rows: Sequence[dict[str, float | int | None]], **case: object) -> dict[tuple[str, str], object]:
    """Value or reason of each measurement of throughput by name and variant."""
    samples = SampleLog()
    for row in rows:
        samples.append(row)
    given = Case.model_validate({"frames": len(rows), "size": (56, 42), **case})
    found = case_measurements(given, samples, None)
    return {(m.name, m.variant): m.reason if m.value is None else m.value for m in found if m.family == "throughput"}


def test_who_comes_at_the_deadline_is_in_time() -> None:
    row: dict[str, float | int | None] = {"forward_ms": 1.0, "interval_ms": 1.0, "backlog": 0}
    rows = [row | {"frame_type": FrameType.KEPT, "latency_ms": latency} for latency in (50.0, 50.1, 49.9, 20.0)]
    # Of a scale frame nothing is asked, however late it is; its queue is one as well.
    rows.append(row | {"frame_type": FrameType.SCALE, "latency_ms": 900.0, "backlog": 5})
    found = measured(rows, scenario="camera", camera_hz=20)
    assert (found["deadline_misses", ""], found["deadline_miss_rate", ""]) == (1, 25)
    assert (found["backlog", "largest"], found["backlog", "last"]) == (5, 5)
    assert found["latency", "p50"] == pytest.approx(49.95)


@pytest.mark.parametrize(
    ("scenario", "names"),
    [
        ("offline", set()),
        ("single_stream", {("latency", f"p{percent}") for percent in (50, 90, 99)}),
        (
            "camera",
            {
                *(("latency", f"p{percent}") for percent in (50, 90, 99)),
                ("deadline_misses", ""),
                ("deadline_miss_rate", ""),
                ("backlog", "largest"),
                ("backlog", "last"),
            },
        ),
    ],
)
def test_what_a_stream_that_ended_in_its_scale_phase_says(scenario: str, names: set[tuple[str, str]]) -> None:
    row = {"frame_type": FrameType.SCALE, "forward_ms": 1.0, "interval_ms": 1.0, "latency_ms": 1.0, "backlog": 3}
    found = measured([dict(row)], scenario=scenario)
    told = {key: value for key, value in found.items() if key[0] in ("latency", "backlog") or "deadline" in key[0]}
    assert set(told) == names
    for key, value in told.items():
        words = f"a {key[1]} needs " if key[0] == "latency" else "no step frame was reached"
        assert str(value).startswith(words), key


def test_a_method_that_leaves_frames_out_is_told_at_the_frames_numbers() -> None:
    """Another than ours: no caches, no types of frames, a time on the device of some frames alone."""
    log = SampleLog()
    for index in sorted({*range(29)} - {5}):
        forward = {} if index == 7 else {"forward_ms": 2.0}
        log.append(
            {"index": index, "interval_ms": float(index), "latency_ms": 3.0, "process_bytes": 1000 + index, **forward}
        )
    points = case_checkpoints(None, log, [10, 28, 29, 30], None, poses())
    # The thirtieth frame has no prediction, and the stream is told up to the last that has.
    assert [point.frames for point in points] == [10, 28, 29]
    first = points[0]
    assert (first.interval_ms, first.process_bytes, first.forward_ms) == (4.0, 1009, 2.0)
    assert (first.formula_bytes, first.kept, first.cache_allocated_bytes) == (None, 0, None)
    assert (first.ate_m, first.ate_reason) == (None, "the input has no true poses")
    assert (points[-1].interval_ms, points[-1].process_bytes) == (14.5, 1028)
    case = Case(frames=30, scenario="single_stream", size=(56, 42))
    told = {m.name: m.reason or m.value for m in case_measurements(case, log, None) if m.variant in ("", "p50")}
    assert told["forward_fps"] == "the method does not report its time on the device"
    assert told["end_to_end_interval"] == 15.0
    assert told["largest_process"] == pytest.approx(1028 / MIB)
    assert "largest_cache_allocated" not in told


def test_names_of_cases_say_what_they_differ_in() -> None:
    """What was found out in the run's place of what was asked for; the camera's rate even where all have it."""

    def label(facts: dict[str, object] | None = None, **changes: object) -> str:
        given = Case.model_validate({"frames": 12_000, **changes})
        both = (
            case_record("x", case=given.model_dump(mode="json"), facts=facts or {}),
            case_record("y", case=Case(frames=1, window=7).model_dump(mode="json"), facts=facts or {}),
        )
        return case_labels(both)[0]

    assert label(window=7) == "12,000 frames"
    assert label() == "12,000 frames, window None"
    assert label({"window": 64}) == "12,000 frames, window 64"
    for changes, facts, words in (
        ({"backend": "paged"}, {"backend": "triton"}, "triton"),
        ({"backend": "paged"}, None, "paged"),
        ({"keyframe_interval": 4}, None, "interval 4"),
        ({"keyframe_interval": 4}, {"keyframe_interval": 4}, "interval 4"),
        ({"precision": "bfloat16"}, None, "bfloat16"),
        ({"cache_precision": 8}, None, "8-bit cache"),
        ({"size": [56, 42]}, None, "56×42"),
        ({"limit_s": 2.5}, None, "at most 2.5 s"),
        ({"scenario": "single_stream"}, None, "single stream"),
        ({"scenario": "camera", "camera_hz": 12.5}, None, "camera 12.5 Hz"),
    ):
        assert label(facts, window=7, **changes) == f"12,000 frames, {words}", changes
    chosen = [Case(keyframe_interval=interval).model_dump(mode="json") for interval in ("auto", 2)]
    records = [case_record(str(number), case=case) for number, case in enumerate(chosen)]
    records[0] = records[0].model_copy(update={"facts": {"keyframe_interval": 32}})
    assert case_labels(records) == ("10,000 frames, interval auto (32)", "10,000 frames, interval 2")
    narrow = [case_record(str(n), case=Case(cache_precision=n).model_dump(mode="json")) for n in (None, 8)]
    assert case_labels(narrow)[0] == "10,000 frames, cache as it comes"
    camera = case_record("z", case=Case(scenario="camera").model_dump(mode="json"))
    assert case_labels([camera, camera]) == ("10,000 frames, camera 30 Hz",) * 2


def test_the_network_of_the_formula_is_the_study_s_own(tmp_path: Path) -> None:
    """A refinement more costs a step of the camera head's cache; without windows every frame is kept for ever."""
    network = NetworkSize(CONFIGS["ci"], "bfloat16", 2)
    streaming = StreamSettings(scale_frames=SCALE, keyframe_interval=1)
    case = Case(frames=FRAMES, size=(56, 42))
    setting = Setting(case, network, streaming, on_cpu=True)
    assert setting.window == CONFIGS["ci"].window
    assert setting.kept_frame_bytes() == kept_frame_bytes(network, streaming)
    formula = setting.formula(20)
    assert formula == dict(estimate(network, streaming, 42, 56, 20).cache_bytes)
    assert formula != setting.formula(21)
    flow = StreamSettings(flow=FlowSettings(threshold=1.0))
    windowed = StreamSettings(windowed=WindowedSettings(size=32))
    assert Setting(case, network, flow, on_cpu=True).formula(20) is None
    assert Setting(case, network, flow, on_cpu=True).kept_frame_bytes() is not None
    assert Setting(case, network, windowed, on_cpu=True).formula(20) is None
    assert Setting(case, network, windowed, on_cpu=True).kept_frame_bytes() is None


def test_checkpoints(tmp_path: Path) -> None:
    first, last = rows(tables([study(tmp_path).record]), "Checkpoints")
    assert (first["frames"], last["frames"]) == (str(CHECKPOINT), str(FRAMES))
    for row, frames in ((first, CHECKPOINT), (last, FRAMES)):
        end = frames - 1
        near = [forward_ms(index) for index in range(frames - 100, frames)]
        assert float(row["forward ms"]) == pytest.approx(np.median(near), abs=0.005)
        assert float(row["end to end ms"]) == pytest.approx(np.median(near) + 5, abs=0.005)
        assert abs(np.mean(near) - np.median(near)) > 10
        assert row["kept"] == str(kept_after(end))
        megabytes = {
            "anchor MiB": 1,
            "window MiB": 2,
            "memory MiB": 3 + 990 * kept_after(end) / MIB,
            "camera head MiB": 4 + 10 * kept_after(end) / MIB,
            "cache held MiB": bytes_of("held", end) / MIB,
            "allocated MiB": bytes_of("allocated", end) / MIB,
            "reserved MiB": bytes_of("reserved", end) / MIB,
            "driver MiB": bytes_of("driver", end) / MIB,
            "process MiB": bytes_of("process", end) / MIB,
        }
        for column, size in megabytes.items():
            assert float(row[column]) == pytest.approx(size, rel=1e-3), column
    # The bad pose is the first that the checkpoint does not have.
    assert float(first["ATE m"]) == pytest.approx(0, abs=1e-9)
    assert float(last["ATE m"]) > 0.1


@pytest.mark.parametrize("on_cpu", [False, True])
def test_curves_lie_under_their_labels(tmp_path: Path, on_cpu: bool) -> None:
    curve = study(tmp_path, on_cpu=on_cpu)
    panels = {axes.get_title(loc="left").partition(",")[0]: axes for axes in scaling_figure("chosen", [curve]).axes}
    frames = list(range(FRAMES))

    times = panels["Forward time of each frame"]
    assert times.get_ylabel() == "ms"
    bold = times.lines[-1]
    assert bold.get_label() == "A: chosen"
    assert np.nanmedian(bold.get_ydata()) == pytest.approx(np.median([forward_ms(index) for index in frames]), rel=0.05)

    memory = panels["Memory"]
    assert memory.get_ylabel() == "GB"
    drawn = {line.get_linestyle(): line for line in memory.lines}
    main = "process" if on_cpu else "allocated"
    assert drawn["-"].get_ydata() == pytest.approx([bytes_of(main, index) / 1e9 for index in frames])
    assert drawn[":"].get_ydata() == pytest.approx([(10 * MIB + 1000 * kept_after(index)) / 1e9 for index in frames])
    if on_cpu:
        assert "--" not in drawn
    else:
        assert drawn["--"].get_ydata() == pytest.approx([bytes_of("driver", index) / 1e9 for index in frames])

    # Anchor, window, memory, camera head, one upon the other.
    tops = [float(layer.get_paths()[0].vertices[:, 1].max()) * 1e9 / MIB for layer in panels["A"].collections]
    assert tops == pytest.approx([1, 3, 6, 10], abs=0.2)

    errors = panels["Error so far"]
    assert (errors.get_xlabel(), errors.get_ylabel()) == ("frames so far", "m")
    ends, values = (np.array(errors.lines[0].get_xdata()), np.array(errors.lines[0].get_ydata()))
    assert ends[-1] == FRAMES
    assert (values[ends <= CHECKPOINT] < 1e-6).all()
    assert (values[ends > CHECKPOINT] > 0.1).all()

    backlog = panels["Backlog"]
    assert backlog.lines[0].get_ydata()[100] == 6
    assert backlog.lines[0].get_ydata()[-1] == 2


def test_the_slow_third_moves_a_mean() -> None:
    """What the growth of the forward time is asserted on would be seven times it with means."""
    groups = pd.Series([forward_ms(index) for index in range(SCALE, FRAMES)]).groupby(
        [kept_after(index) for index in range(SCALE, FRAMES)]
    )
    means = groups.mean()
    assert (means.iloc[-2] - means.iloc[0]) / (len(means) - 2) == pytest.approx(1.5)
