"""Names of cases and what every measurement of one means, word for word; reasons; what a study prints."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from studies import case_record, study

from lingbot_eval.cli import scale_command
from lingbot_eval.cli.main import main
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.runs.attempt import Attempt
from lingbot_eval.runs.stream import SceneStream
from lingbot_eval.scaling import execute as execute_module
from lingbot_eval.scaling.execute import CaseTask
from lingbot_eval.scaling.page import title
from lingbot_eval.scaling.records import (
    QUANTITIES,
    GrowthRecord,
    SampleLog,
    Setting,
    case_checkpoints,
    case_growth,
    case_measurements,
    error_curve,
    growth,
)
from lingbot_eval.scaling.settings import Case, Scenario
from lingbot_eval.streaming.estimate import NetworkSize
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.types import FrameType, Trajectory

SCALE, KEPT, UNKEPT = FrameType.SCALE, FrameType.KEPT, FrameType.UNKEPT


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "offline-10000-interval-auto-auto-float32-518x378"),
        (
            {
                "frames": 5,
                "scenario": "single_stream",
                "backend": "paged",
                "keyframe_interval": 3,
                "window": 9,
                "precision": "bfloat16",
                "cache_precision": 8,
                "size": (28, 14),
                "limit_s": 4.5,
            },
            "single-stream-5-interval-3-window9-paged-bfloat16-cache8-28x14-limit4.5s",
        ),
        (
            {"scenario": "camera", "camera_hz": 12.5},
            "camera12.5hz-10000-interval-auto-auto-float32-518x378",
        ),
    ],
)
def test_the_name_of_a_case(changes: dict[str, Any], name: str) -> None:
    assert Case.model_validate(changes).name == name


def log(kinds: list[FrameType]) -> SampleLog:
    """Frames each of which takes longer than the last; the cache shrinks, what else is held grows."""
    found = SampleLog()
    for index, kind in enumerate(kinds):
        row: dict[str, float | int | None] = {
            "index": index,
            "frame_type": kind,
            "kept": index + 1,
            "forward_ms": 1.0 + index,
            "interval_ms": 2.0 + index,
            "latency_ms": 60.0 + 2 * index,
            "backlog": index % 3,
            "cache_allocated_bytes": 2**20 * (9 - index),
            "device_allocated_bytes": 2**22 * (3 + index),
            "device_reserved_bytes": 2**24,
            "driver_bytes": 7 * 2**20,
            "process_bytes": 2**21 * (5 + index) if index % 2 else None,
        }
        found.append(row)
    return found


WAITING = "frames that had arrived and waited when one was given; they queue, none is dropped"
DEADLINE = "outputs on the host later than the next arrival, 62.5 ms after the frame's own"
ARRIVED = "from a frame's arrival at 16 Hz to its outputs on the host; step frames only"
GIVEN = "from the frame given to its outputs on the host, the next frame given after that; step frames only"
LATER = [(f"a p{percent} needs {count} samples, there are 3") for percent, count in ((90, 10), (99, 100))]
NONE = "no step frame was reached"
MEMORY = [
    ("largest_cache_allocated", "cache buffers held, headroom included, at every frame"),
    ("largest_device_allocated", "live tensors on the device, between steps, at every frame"),
    ("largest_device_reserved", "what torch's allocator holds on the device, as sampled"),
    ("largest_driver", "what the driver books, as sampled"),
    ("largest_process", "resident set size of the process, as sampled"),
]


@pytest.mark.parametrize(
    ("scenario", "kinds", "expected"),
    [
        (
            "camera",
            [SCALE, KEPT, KEPT, UNKEPT],
            [
                ("latency", "p50", 64.0, "ms", ARRIVED, 3),
                ("latency", "p90", LATER[0], "ms", ARRIVED, 3),
                ("latency", "p99", LATER[1], "ms", ARRIVED, 3),
                ("deadline_misses", "", 2, "frames", DEADLINE, 3),
                ("deadline_miss_rate", "", 200 / 3, "%", DEADLINE, 3),
                ("backlog", "largest", 2.0, "frames", WAITING, 3),
                ("backlog", "last", 0.0, "frames", f"{WAITING}; at the last one", 3),
            ],
        ),
        (
            "camera",
            [SCALE],
            [
                *(
                    ("latency", f"p{percent}", f"a p{percent} needs {count} samples, there are 0", "ms", ARRIVED, 0)
                    for percent, count in ((50, 1), (90, 10), (99, 100))
                ),
                ("deadline_misses", "", NONE, "frames", DEADLINE, 0),
                ("deadline_miss_rate", "", NONE, "%", DEADLINE, 0),
                ("backlog", "largest", NONE, "frames", WAITING, 0),
                ("backlog", "last", NONE, "frames", f"{WAITING}; at the last one", 0),
            ],
        ),
        (
            "single_stream",
            [KEPT, KEPT, KEPT],
            [
                ("latency", "p50", 62.0, "ms", GIVEN, 3),
                ("latency", "p90", LATER[0], "ms", GIVEN, 3),
                ("latency", "p99", LATER[1], "ms", GIVEN, 3),
            ],
        ),
        ("offline", [KEPT, KEPT, KEPT], []),
    ],
)
def test_what_every_measurement_of_a_case_is_and_means(
    scenario: Scenario, kinds: list[FrameType], expected: list[tuple[Any, ...]]
) -> None:
    found = case_measurements(Case(frames=4, scenario=scenario, camera_hz=16), log(kinds), 1.5)
    own = [
        (m.name, m.variant, m.reason if m.value is None else pytest.approx(m.value), m.unit, m.convention, m.samples)
        for m in found
        if m.name in ("latency", "deadline_misses", "deadline_miss_rate", "backlog")
    ]
    assert own == expected
    (warm_up,) = [(m.value, m.unit) for m in found if m.name == "warm_up"]
    assert warm_up == (1500.0, "ms")
    (overhead,) = [m for m in found if m.name == "harness_overhead"]
    waits = "the frames come at the camera's pace, and the waits between them are not the harness's"
    assert (overhead.reason == waits) is (scenario == "camera")
    count, looked = len(kinds), len(kinds) // 2
    values = [9.0, 4.0 * (2 + count), 16.0, 7.0, *([2.0 * (5 + 2 * looked - 1)] if looked else [])]
    counts = [count, count, count, count, *([looked] if looked else [])]
    memory = [(m.name, m.value, m.unit, m.convention, m.samples) for m in found if m.family == "memory"]
    assert memory == [
        (name, value, "MiB", words, samples)
        for (name, words), value, samples in zip(MEMORY, values, counts, strict=False)
    ]


def test_why_a_slope_is_missing_word_for_word() -> None:
    cache = QUANTITIES[0]
    clock = np.arange(40.0)
    for kept, values, reason in (
        (clock[:0], clock[:0], "the window never filled"),
        (clock, np.full(40, np.nan), "not measured"),
        (clock[:31], 3 * clock[:31], "a slope needs samples at 32 kept frames after the window is full, there are 31"),
        (clock, np.repeat([1.0, 2, 3, 4], 10), "it grows in steps; a slope needs 4 of them, there are 3"),
    ):
        found = growth(cache, kept, values, expected=7.0)
        expected = GrowthRecord(quantity="cache", unit="B", expected=7.0, kept=0, reason=reason)
        assert found == expected
    assert growth(cache, clock[:32], 3 * clock[:32]).value == 3
    assert growth(cache, clock, np.repeat([1.0, 2, 3, 4, 5], 8)).reason is None


@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_window_is_full_after_the_scale_frames_and_the_window(on_cpu: bool) -> None:
    """The first frame counts that has so many kept before or with it."""
    streaming = StreamSettings(scale_frames=3, window=4, keyframe_interval=1)
    setting = Setting(Case(frames=60), NetworkSize(CONFIGS["ci"], "float32"), streaming, on_cpu=on_cpu)
    samples = log([SCALE] * 3 + [KEPT] * 77)
    found = {entry.quantity: entry for entry in case_growth(setting, samples)}
    only = {"process_beyond_cache"} if on_cpu else {"device_allocated", "device_reserved", "driver"}
    assert set(found) == {"cache", "cache_allocated", "process", "forward", *only}
    assert (found["forward"].kept, found["process"].kept) == (80 - 7 + 1, 37)
    assert found["forward"].value == pytest.approx(1000)
    assert found["cache_allocated"].value == pytest.approx(-(2**20))
    assert found["cache"].reason == "not measured"


def path(count: int) -> Trajectory:
    index = np.arange(count)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = np.stack([np.cos(index / 3), np.sin(index / 3), index / 9], axis=1)
    return Trajectory(index, index / 30, poses)


def test_where_no_error_can_be_told_there_is_a_reason() -> None:
    samples = log([KEPT] * 9)
    for truth, guess, reason in (
        (None, path(9), "the input has no true poses"),
        (path(9), path(2), "only 2 matched frames, at least 3 are needed"),
    ):
        (first, last) = case_checkpoints(None, samples, [5, 9, 12], truth, guess)
        assert (first.frames, last.frames) == (5, 9)
        assert (last.ate_m, last.ate_reason, last.formula_bytes) == (None, reason, None)
        assert error_curve(truth, guess) == ()
    # The middle of five frames, and the latest of what is looked at now and then.
    assert (first.forward_ms, first.interval_ms, first.kept) == (3.0, 4.0, 5)
    assert (first.process_bytes, first.device_allocated_bytes) == (2**21 * 8, 2**22 * 7)
    # What is held may become less: it is the latest, not the most.
    assert (first.cache_allocated_bytes, last.cache_allocated_bytes) == (5 * 2**20, 2**20)
    (end,) = case_checkpoints(None, samples, [], path(9), path(9))
    assert end.ate_m == pytest.approx(0, abs=1e-9)
    assert end.ate_reason is None
    assert error_curve(path(9), path(9))[-1] == (9, pytest.approx(0, abs=1e-9))
    assert error_curve(path(9), path(3)) == ((3, pytest.approx(0, abs=1e-9)),), "three are enough"


def test_a_cut_says_where_it_came(tmp_path: Path) -> None:
    given = study(defaults={"limit_s": 2.5, "frames": 40})
    (case,) = given.all_cases()
    task = CaseTask(given, case, lambda case: pytest.fail("not opened"))
    attempt = Attempt(
        stream=cast(SceneStream, SimpleNamespace(stopped=True)),
        frames=17,
        predictions=16,
        facts={"source": "made up"},
        started="2026-01-01T00:00:00+00:00",
        begun=time.perf_counter() - 3.5,
        wait_s={"frames": 0.5},
        went_on_at=(9,),
    )
    record = task.record(attempt)
    assert record.stopped == "its limit of 2.5 s ended it after 17 of 40 frames"
    assert (record.frames, record.predictions, record.seconds) == (17, 16, pytest.approx(3.5, abs=1))
    assert (record.input, record.wait_s, record.went_on_at) == ({"source": "made up"}, {"frames": 0.5}, [9])
    assert (record.facts, record.measurements, record.sampling["driver"]) == ({}, [], "not asked")
    attempt.stream = None
    assert task.record(attempt).stopped is None


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 1)])
def test_what_a_study_prints_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failed: int, code: int
) -> None:
    """A line a case, where the files are, and of what is missing or failed how to go on."""
    grown = [GrowthRecord(quantity="cache", unit="B", value=1000.0, low=1000.0, high=1000.0, kept=40)]
    cases = (
        case_record("one", case=Case(frames=30).model_dump(mode="json"), growth=grown, predictions=30),
        case_record("two", case=Case(frames=40).model_dump(mode="json"), stopped="its limit ended it"),
    )
    outcome = SimpleNamespace(
        path=Path("runs/x"),
        record=SimpleNamespace(name="small", weights="w", status="complete"),
        records=cases,
        units=SimpleNamespace(left_out=[SimpleNamespace(reason="damaged")]),
        pending=0,
        lost_record=None,
        failed=failed,
        bad_input=False,
    )
    monkeypatch.setattr(execute_module, "execute", lambda *given, **settings: outcome)
    monkeypatch.setattr(execute_module, "write_scaling", lambda path: (path / "scale.md", path / "scale.png"))
    monkeypatch.setattr(scale_command, "_check", lambda study, case: None)
    monkeypatch.setattr("lingbot_eval.cli.run_check.warning_lines", lambda checks: ["slow here"])
    words = [
        "scale",
        "--set",
        "device=cpu",
        "--set",
        "sweep={backend: [sdpa]}",
        "--set",
        "cases=[{frames: 5}, {frames: 6}, {frames: 7}]",
    ]
    assert main(words) == code
    printed = capsys.readouterr()
    out = printed.out.splitlines()
    assert out[:3] == [title(outcome.record), "", "### Cases"]  # type: ignore[arg-type]
    assert out[-3:] == [
        "one: +1 kB (1 to 1) a kept frame",
        "two: n/a a kept frame",
        "written: runs/x/scale.md, runs/x/scale.png",
    ]
    said = printed.err.splitlines()
    assert [line for line in said if "cases failed" not in line] == [
        "slow here",
        "left out: damaged",
        "note: two: its limit ended it",
    ]
    again = "1 of 3 cases failed; the same command tries them again"
    assert [line for line in said if "cases failed" in line] == [again] * failed
    outcome.bad_input = True
    assert main(words) == 2 * code
    capsys.readouterr()
    outcome.pending = 3
    main(words)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "3 cases have no result yet: whoever ends last writes the page"
    outcome.lost_record, outcome.failed = "it was gone", 0
    assert main(words) == 1
    assert "error: it was gone" in capsys.readouterr().err
