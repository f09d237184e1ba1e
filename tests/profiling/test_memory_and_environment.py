"""Memory figures and the machine's description, with a stand-in for NVML."""

from __future__ import annotations

import json
import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from lingbot_eval.errors import DataError, DependencyError, is_out_of_memory
from lingbot_eval.machine import cpu
from lingbot_eval.machine.cpu import threads_that_share
from lingbot_eval.machine.environment import environment, git_state, gpu_names, hardware, rests_on_hardware
from lingbot_eval.machine.nvml import driver_version, processes_bytes
from lingbot_eval.profiling import memory
from lingbot_eval.profiling.memory import (
    DeviceMemory,
    device_memory,
    device_memory_measurements,
    driver_bytes,
    process_memory,
    process_memory_measurements,
    process_resident_bytes,
)


class FakeNvml:
    """One GPU as the driver would describe it; counts how often it is opened and closed."""

    class NVMLError(Exception):
        pass

    def __init__(self, processes: list[SimpleNamespace], version: str | bytes = "575.57", broken: bool = False) -> None:
        self.processes, self.version, self.broken = processes, version, broken
        self.open_count = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")
        self.open_count += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open_count -= 1

    def nvmlSystemGetDriverVersion(self) -> str | bytes:  # noqa: N802
        return self.version

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-abc":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return "handle"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:  # noqa: N802
        assert handle == "handle"
        return self.processes


def process(pid: int, used: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def test_the_driver_tells_of_this_process_only() -> None:
    nvml = FakeNvml([process(1, 111), process(os.getpid(), 222)])
    assert driver_bytes("GPU-abc", nvml) == (222, None)
    assert nvml.open_count == 0


@pytest.mark.parametrize(
    ("nvml", "uuid", "reason"),
    [
        (FakeNvml([process(1, 111)]), "GPU-abc", "container"),
        (FakeNvml([process(os.getpid(), None)]), "GPU-abc", "per process"),
        (FakeNvml([]), "GPU-other", "Not Found"),
        (FakeNvml([], broken=True), "GPU-abc", "Driver Not Loaded"),
    ],
)
def test_a_driver_that_does_not_tell_gives_the_reason(nvml: FakeNvml, uuid: str, reason: str) -> None:
    size, why = driver_bytes(uuid, nvml)
    assert size is None
    assert reason in (why or "")
    assert nvml.open_count == 0


def test_the_driver_tells_of_a_tree_of_processes_on_all_gpus() -> None:
    own = os.getpid()
    nvml = FakeNvml([process(1, 111), process(own, 222), process(own + 1, 333)])
    assert processes_bytes({own, own + 1}, nvml) == 2 * 555
    assert processes_bytes({own}, FakeNvml([])) == 0
    assert processes_bytes({own + 1}, FakeNvml([process(own, 5)])) == 0  # others use it, and ids mean what they say
    for nvml, reason in (
        (FakeNvml([process(2**22 + 1, 5)]), "another world"),
        (FakeNvml([process(own, None)]), "per process"),
        (FakeNvml([], broken=True), "Driver Not Loaded"),
    ):
        with pytest.raises(DependencyError, match=reason):
            processes_bytes({own}, nvml)
        assert nvml.open_count == 0


def test_driver_versions_come_as_text_or_bytes() -> None:
    assert driver_version(FakeNvml([], "575.57")) == "575.57"
    assert driver_version(FakeNvml([], b"470.1")) == "470.1"
    assert "Driver Not Loaded" in driver_version(FakeNvml([], broken=True))


def test_device_figures_in_mebibytes_and_reasons() -> None:
    memory = DeviceMemory(1, 2, 3 * 2**20, 4 * 2**20, None, "hidden")
    allocated, reserved, driver = device_memory_measurements(memory)
    assert (allocated.value, reserved.value) == (3.0, 4.0)
    assert (driver.value, driver.reason) == (None, "hidden")
    assert device_memory("cpu") is None
    assert {m.reason for m in device_memory_measurements(None)} == {"ran on the CPU"}


def test_the_process_grows_by_what_it_touches() -> None:
    before = process_resident_bytes()
    # Mapped anew: an array could lie in memory that earlier tests gave back to the allocator, not to the system.
    block = np.frombuffer(mmap.mmap(-1, 64 * 2**20), np.uint8)
    block[:] = 1
    assert process_resident_bytes() - before > 48 * 2**20
    memory = process_memory()
    assert memory.peak_resident >= memory.resident > block.nbytes
    now, peak = process_memory_measurements(memory)
    assert now.unit == peak.unit == "MiB"
    assert now.value == pytest.approx(memory.resident / 1048576)


def test_the_environment_is_plain_json_and_names_what_matters() -> None:
    found = environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["libraries"]["numpy"] == np.__version__
    assert found["cpu_count"] == os.cpu_count()
    assert found["cpu_model"]
    assert found["torch"]["threads"] >= 1


def test_the_machines_memory_is_in_gibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=48 * 2**30))
    assert environment()["ram_gib"] == 48.0


def test_only_named_variables_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    found = environment()
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_NUM_THREADS"])
def test_what_the_program_set_itself_is_not_said_to_be_the_users(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in (*cpu._OF_WAITING, *cpu._OF_COUNT):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(cpu, "_chosen", {})
    monkeypatch.setattr(cpu, "_quota", lambda: 2.0)
    modules = {key: module for key, module in sys.modules.items() if key != "torch"}
    with monkeypatch.context() as before_torch:
        before_torch.setattr(sys, "modules", modules)
        inside = threads_that_share()
        inside.__enter__()
    found = environment()
    inside.__exit__(None, None, None)
    assert name not in found["variables"]
    assert f"{name}={2 if name == 'OMP_NUM_THREADS' else cpu.SPIN_COUNT}" in found["torch"]["threads_wait"]
    assert name not in os.environ
    monkeypatch.setattr(cpu, "_chosen", {})
    monkeypatch.setenv(name, "7")
    assert environment()["variables"][name] == "7"


def test_gpus_are_described_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory in GiB, major before minor; speed and memory are comparable between such machines alone."""
    gpus = [
        SimpleNamespace(name="A", total_memory=80 * 2**30, major=9, minor=0),
        SimpleNamespace(name="B", total_memory=24 * 2**30, major=8, minor=6),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpus[index])
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    found = environment(FakeNvml([], "575.57"))
    assert found["torch"]["gpus"] == [
        {"name": "A", "memory_gib": 80.0, "compute_capability": "9.0"},
        {"name": "B", "memory_gib": 24.0, "compute_capability": "8.6"},
    ]
    assert (found["torch"]["driver"], found["torch"]["cudnn"]) == ("575.57", 91000)
    assert gpu_names(found) == ["A", "B"]
    same = hardware(found)
    assert (same["gpus"], same["threads"], same["cpu_usable"]) == (
        ["A", "B"],
        torch.get_num_threads(),
        found["cpu_usable"],
    )
    other = {**found, "variables": {**found["variables"], "KMP_AFFINITY": "compact", "OMP_NUM_THREADS": "5"}}
    assert set(hardware(other)["variables"]) - set(same["variables"]) == {"KMP_AFFINITY=compact"}
    for family, name, rests in (
        ("throughput", "forward_fps", True),
        ("memory", "process_peak_rss", True),
        ("memory", "weights", False),
        ("memory", "cache_window", False),
        ("trajectory", "ate_rmse", False),
    ):
        assert rests_on_hardware(family, name) is rests, name


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_git_state_of_a_checkout_and_of_what_only_lies_in_one(tmp_path: Path) -> None:
    assert git_state(tmp_path) == "not a git checkout"
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    state = git_state(package)
    assert isinstance(state, dict)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (package / "notes.txt").write_text("nobody's")  # untracked: what computes is as it was committed
    assert git_state(package) == state
    (package / "a.py").write_text("2")
    assert git_state(package) == state | {"dirty": True}
    installed = tmp_path / "venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "b.py").write_text("1")
    assert git_state(installed) == "not a git checkout"


@pytest.mark.parametrize(("platform", "peak"), [("linux", 3_000_000 * 1024), ("darwin", 3_000_000)])
def test_the_peak_is_in_bytes_whatever_the_system_counts_in(
    monkeypatch: pytest.MonkeyPatch, platform: str, peak: int
) -> None:
    """Linux says KiB, of 1,024 bytes, though its manual calls them kilobytes."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(memory, "process_resident_bytes", lambda: 1_000_000)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=3_000_000))
    assert process_memory().peak_resident == peak
    (measured,) = [m for m in process_memory_measurements(process_memory()) if m.name == "process_peak_rss"]
    assert (measured.value, measured.unit) == (pytest.approx(peak / 2**20), "MiB")


def test_git_that_is_not_installed_is_no_failure(tmp_path: Path) -> None:
    def absent(*_args: object, **_kwargs: object) -> None:
        raise FileNotFoundError("git")

    assert git_state(tmp_path, run=absent) == "not a git checkout"


def test_a_status_that_git_does_not_tell_is_unknown(tmp_path: Path) -> None:
    """A broken index, or a git that takes too long: nobody may take the checkout for clean."""

    def half(command: list[str], **_: object) -> SimpleNamespace:
        if "status" in command:
            raise subprocess.TimeoutExpired(command, 10)
        return SimpleNamespace(returncode=0, stdout="abc\n")

    assert git_state(tmp_path, run=half) == {"commit": "abc", "dirty": "unknown"}
    failed = SimpleNamespace(returncode=128, stdout="")
    assert git_state(tmp_path, run=lambda command, **_: failed if "status" in command else half(command)) == {
        "commit": "abc",
        "dirty": "unknown",
    }


def raised(*errors: Exception) -> Exception:
    """The last of them, each one raised while the one before was handled."""
    found: Exception | None = None
    for error in errors:
        error.__context__ = found
        found = error
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to …"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (raised(torch.OutOfMemoryError("full"), RuntimeError("operation failed during capture")), True),
        (raised(MemoryError(), DataError("frame.png: cannot be decoded")), False),
        (RuntimeError("device-side assert"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_lack_of_memory_looks_like(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_cpu_that_refuses_memory() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(10**15)
    assert is_out_of_memory(refused.value)
