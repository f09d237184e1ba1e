"""Spans of work and looks at memory; what only a GPU has is faked here and seen in tests/gpu."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from test_memory_and_environment import FakeNvml, Use, gpu, process

from lingbot_eval.profiling import timing
from lingbot_eval.profiling.memory import MemoryProbe
from lingbot_eval.profiling.timing import begin_span


def test_a_span_is_the_time_until_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 102.5, 109.0])
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    span = begin_span("cpu")
    assert span.seconds() == 0
    span.stop()
    assert span.seconds() == 2.5


class FakeEvent:
    """Notes the order of what happens; the n-th event passes n milliseconds after the first."""

    log: list[str]
    made = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        FakeEvent.made += 1
        self.number = FakeEvent.made

    def record(self, stream: str) -> None:
        FakeEvent.log.append(f"record {self.number} on {stream}")

    def synchronize(self) -> None:
        FakeEvent.log.append(f"wait for {self.number}")

    def elapsed_time(self, other: FakeEvent) -> float:
        return float(other.number - self.number)


def test_on_a_gpu_nothing_is_waited_for_before_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEvent.log, FakeEvent.made = [], 0
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    current = {"cuda:1": "compute"}
    monkeypatch.setattr(torch.cuda, "current_stream", current.get)
    span = begin_span("cuda:1")
    current["cuda:1"] = "another"
    span.stop()
    assert FakeEvent.log == ["record 1 on compute", "record 2 on compute"]
    assert span.seconds() == pytest.approx(1e-3)
    assert FakeEvent.log[-1] == "wait for 2"


def test_a_cpu_has_the_process_alone() -> None:
    probe = MemoryProbe("cpu")
    sample = probe.sample()
    assert sample.keys() == {"process_bytes"}
    assert (sample["process_bytes"] or 0) > 10**6
    assert probe.driver_source == "not asked: ran on the CPU"


__all__ = ["gpu"]


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: {"cuda:0": 300}.get(device, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {"cuda:0": (600, 1000)}.get(device, (0, 0)))


@pytest.mark.usefixtures("fake_gpu")
def test_the_driver_is_asked_for_this_process_where_it_answers(gpu: Use) -> None:
    gpu(FakeNvml([process(1, 111), process(os.getpid(), 350)]))
    probe = MemoryProbe("cuda:0")
    sample = probe.sample()
    assert (sample["device_reserved_bytes"], sample["driver_bytes"]) == (300, 350)
    assert "this process" in probe.driver_source
    gpu(FakeNvml([process(os.getpid(), 450)]))
    assert probe.sample()["driver_bytes"] == 450, "as it is now, not as it was found"


@pytest.mark.usefixtures("fake_gpu")
def test_in_a_container_the_whole_device_stands_in_and_says_so(gpu: Use) -> None:
    gpu(FakeNvml([process(1, 111)]))
    probe = MemoryProbe("cuda:0")
    assert probe.sample()["driver_bytes"] == 400
    assert "other processes included" in probe.driver_source
    assert "container" in probe.driver_source
