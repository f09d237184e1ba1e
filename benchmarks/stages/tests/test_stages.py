"""The stage table: work counted as by hand, a stream put at a frame as if it had got there, and the command."""

from __future__ import annotations

import json
import time
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from benchmarks.stages import measure as measured
from benchmarks.stages.__main__ import count, floor_seconds, main, markdown
from benchmarks.stages.bench import StreamBench
from benchmarks.stages.measure import Rates, StageTimes, measure
from benchmarks.stages.work import STAGES, StepShape, Work, least_work
from lingbot_eval.model.build import build_model
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import StreamSettings

FULL = CONFIGS["full"]


@cache
def full_step(visible: int) -> dict[str, Work]:
    return least_work(FULL, StepShape(378, 518, visible, 1000), "bfloat16", "tf32", 4)


def test_operations_are_those_of_model_md() -> None:
    """Section 7: attention over a full window about 7.2 TFLOP a frame, other products of the trunk about 1.9."""
    work = full_step(72 * 1005)
    assert work["global attention"].flops == pytest.approx(7.2e12, rel=0.02)
    trunk = sum(work[name].flops for name in ("backbone", "frame blocks", "global rest"))
    assert trunk == pytest.approx(1.9e12, rel=0.1)
    # One global block's products: 12·C² weights, two operations a token each.
    assert work["global rest"].flops == pytest.approx(24 * 2 * 1005 * 12 * 1024**2, rel=1e-6)


def test_bytes_are_weights_and_what_is_cached() -> None:
    work = full_step(72 * 1005)
    assert work["global attention"].bytes == pytest.approx(7.1e9, rel=0.02)  # the cache of model.md section 7
    assert work["camera head"].bytes > 4 * 4 * 201e6  # four iterations over four blocks of 12·2048² float32 weights
    assert full_step(10**5)["global attention"].bytes > work["global attention"].bytes


def test_the_floor_is_the_slower_of_computing_and_moving() -> None:
    rates = Rates({"bfloat16": 100.0}, 10.0)
    assert floor_seconds(Work(200.0, 5.0, "bfloat16"), rates) == (2.0, "operations")
    assert floor_seconds(Work(100.0, 50.0, "bfloat16"), rates) == (5.0, "bytes")


@pytest.mark.parametrize("backend", ["sdpa", "paged"])
def test_a_bench_stands_where_a_stream_would(backend: str) -> None:
    model, _ = build_model(
        "mini", checkpoint=None, seed=0, point_head=False, device=torch.device("cpu"), precision="float32"
    )
    settings = StreamSettings(scale_frames=3, window=2, keyframe_interval=1, backend=backend)
    with torch.inference_mode():
        bench = StreamBench(model, settings, (28, 42), 9)
        outputs = [bench.step(i) for i in range(2)]
    session = StreamingSession(model, settings)
    for _ in range(11):
        session.step(torch.rand(3, 28, 42))
    assert bench.stores.used_bytes() == session.used_bytes()
    assert bench.visible_tokens() == 5 * 12 + 6 * 6
    assert all(torch.isfinite(out.poses).all() for out in outputs)


def test_the_command_measures_every_stage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WARM_UP": 1, "ROUNDS": 2, "STEPS": 4, "BURST": 2, "HOST_SIZES": (64, 2**12)}.items():
        monkeypatch.setattr(measured, name, value)
    command = ["--config", "mini", "--size", "56x42", "--frame", "12", "--device", "cpu", "--json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["stages"]) == set(STAGES)
    assert all(seconds > 0 for seconds in document["stages"].values())
    assert document["environment"]


def test_the_table_shows_every_stage_beside_its_floor() -> None:
    work = {stage: Work(50.0, 1.0, "float32") for stage in STAGES}
    times = StageTimes(dict.fromkeys(STAGES, 2.0), work, Rates({"float32": 50.0}, 10.0), 12.5, 12.0, None)
    text = markdown(times)
    assert all(f"| {stage} | 2000.00 | 1000.00 | 50% | operations |" in text for stage in STAGES)
    assert "| sum | 12000.00 | 6000.00 | 50% |" in text
    assert "not captured" in text


@pytest.mark.parametrize(
    ("options", "says"), [(["--size", "57x42"], "multiples of 14"), (["--frame", "8"], "more than the 8 scale frames")]
)
def test_bad_input_is_one_line(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("value", "text"), [(10006.3, "10,006"), (1000, "1,000"), (209.64, "209.6"), (1.728, "1.728")])
def test_large_counts_have_no_exponent(value: float, text: str) -> None:
    assert count(value) == text


def test_floors_belong_to_the_frame_that_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build_model(
        "mini", checkpoint=None, seed=0, point_head=False, device=torch.device("cpu"), precision="float32"
    )
    settings = StreamSettings(scale_frames=3, window=2, keyframe_interval=1, backend="sdpa")
    timed_at: list[int] = []

    def one_second(variants: object, device: object) -> float:
        timed_at.append(bench.visible_tokens())
        return 1.0

    monkeypatch.setattr(measured, "WARM_UP_STEPS", 2)
    monkeypatch.setattr(measured, "STEPS", 4)
    monkeypatch.setattr(measured, "BURST", 2)
    monkeypatch.setattr(measured, "seconds_each", one_second)
    monkeypatch.setattr(measured, "measure_rates", lambda device, kinds: Rates(dict.fromkeys(kinds, 1.0), 1.0))
    with torch.inference_mode():
        bench = StreamBench(model, settings, (28, 42), 9)
        times: StageTimes = measure(bench, "float32")
    (visible,) = set(timed_at)
    config = model.config
    assert times.work["global attention"].flops == 4 * config.groups * 12 * visible * config.embed_dim


def test_a_step_that_captures_anew_is_not_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def step(index: int) -> None:
        taken.append(index)
        # One slow step late in the run, as when a buffer grows.
        time.sleep(0.3 if len(taken) == measured.WARM_UP_STEPS + measured.STEPS + 5 else 1e-4)

    bench = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")), step=step)
    _, pace = measured._steps(cast(Any, bench))
    assert len(taken) == measured.WARM_UP_STEPS + 2 * measured.STEPS
    assert pace < 0.3 / measured.STEPS
