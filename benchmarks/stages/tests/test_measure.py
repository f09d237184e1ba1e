"""What the stage table is made of: floors of the frame that is timed, and a pace that no growth bends."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from benchmarks.stages import measure as measured
from benchmarks.stages.bench import StreamBench
from benchmarks.stages.measure import StageTimes, measure
from benchmarks.stages.rates import Rates
from lingbot_eval.model.build import build_model
from lingbot_eval.streaming.settings import StreamSettings


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
