"""Memory figures and the machine's description, with a stand-in for NVML."""

from __future__ import annotations

import json
import mmap
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import numpy as np
import psutil
import pytest
import torch

import lingbot_eval
from lingbot_eval.errors import DataError, DependencyError, is_out_of_memory
from lingbot_eval.machine import environment as environment_module
from lingbot_eval.machine.environment import (
    chosen_variables,
    device_count,
    driver_version,
    environment,
    git_state,
    gpu_names,
    hardware,
    machine_name,
    processes_bytes,
    rests_on_hardware,
    threads_that_share,
)
from lingbot_eval.profiling import memory
from lingbot_eval.profiling.memory import (
    device_memory_measurements,
    driver_bytes,
    process_memory_measurements,
    process_resident_bytes,
)


class FakeNvml:
    """GPUs as the driver would describe them, alike unless a test says otherwise; counts how often they are opened."""

    class NVMLError(Exception):
        pass

    def __init__(self, processes: list[SimpleNamespace], version: str | bytes = "575.57", broken: bool = False) -> None:
        self.processes, self.version, self.broken = processes, version, broken
        self.on_second = processes
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
        return ("handle", "second")[index]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:  # noqa: N802
        return {"handle": self.processes, "second": self.on_second}[handle]


def process(pid: int, used: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


Use = Callable[[FakeNvml], FakeNvml]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Puts a stand-in in the driver's place, and a GPU that it may know."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))

    def use(nvml: FakeNvml) -> FakeNvml:
        monkeypatch.setitem(sys.modules, "pynvml", cast(ModuleType, nvml))
        return nvml

    return use


def test_the_driver_tells_of_this_process_only(gpu: Use) -> None:
    nvml = gpu(FakeNvml([process(1, 111), process(os.getpid(), 222)]))
    assert driver_bytes("cuda:0") == (222, None)
    assert nvml.open_count == 0
    nvml.processes[1].usedGpuMemory = 0
    assert driver_bytes("cuda:0") == (0, None)


@pytest.mark.parametrize(
    ("nvml", "uuid", "reason"),
    [
        (FakeNvml([process(1, 111)]), "abc", "container"),
        (FakeNvml([process(os.getpid(), None)]), "abc", "per process"),
        (FakeNvml([]), "other", "Not Found"),
        (FakeNvml([], broken=True), "abc", "Driver Not Loaded"),
    ],
)
def test_a_driver_that_does_not_tell_gives_the_reason(
    monkeypatch: pytest.MonkeyPatch, gpu: Use, nvml: FakeNvml, uuid: str, reason: str
) -> None:
    gpu(nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))
    size, why = driver_bytes("cuda:0")
    assert size is None
    assert reason in (why or "")
    assert nvml.open_count == 0


def test_the_driver_tells_of_a_tree_of_processes_on_all_gpus(gpu: Use) -> None:
    own = os.getpid()
    gpu(FakeNvml([process(1, 111), process(own, 222), process(own + 1, 333)]))
    assert processes_bytes({own, own + 1}) == 2 * 555
    gpu(FakeNvml([]))
    assert processes_bytes({own}) == 0
    # Others use it, one of which has just ended, and ids mean what they say.
    gpu(FakeNvml([process(own, 5), process(2**22 + 1, 7)]))
    assert processes_bytes({own + 1}) == 0
    apart = gpu(FakeNvml([process(own, 5)]))
    apart.on_second = [process(own + 1, 7), process(1, 11)]
    assert processes_bytes({own, own + 1}) == 5 + 7
    # What is not told of others is no matter.
    gpu(FakeNvml([process(own, 5), process(own + 2, None)]))
    assert processes_bytes({own}) == 2 * 5
    for nvml, reason in (
        (FakeNvml([process(2**22 + 1, 5)]), "another world"),
        (FakeNvml([process(own, None)]), "per process"),
        (FakeNvml([], broken=True), "Driver Not Loaded"),
    ):
        gpu(nvml)
        with pytest.raises(DependencyError, match=reason):
            processes_bytes({own})
        assert nvml.open_count == 0


@pytest.mark.parametrize(
    ("nvml", "version"),
    [
        (FakeNvml([], "575.57"), "575.57"),
        (FakeNvml([], b"470.1"), "470.1"),
        (FakeNvml([], broken=True), "unknown (NVML does not answer: Driver Not Loaded)"),
    ],
)
def test_driver_versions_come_as_text_or_bytes(gpu: Use, nvml: FakeNvml, version: str) -> None:
    gpu(nvml)
    assert driver_version() == version


def test_memory_of_the_device_that_was_named(monkeypatch: pytest.MonkeyPatch, gpu: Use) -> None:
    """Figures in mebibytes, each under its own name, or a reason; peaks are reset there and nowhere else."""
    asked: list[str] = []
    figures = {"memory_allocated": 1, "memory_reserved": 2, "max_memory_allocated": 3, "max_memory_reserved": 4}
    for name, size in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size * 2**20 if device == "cuda:1" else 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    of_device = {"cuda:1": SimpleNamespace(uuid="abc")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: of_device[device])
    peaks = {"device_peak_allocated": 3.0, "device_peak_reserved": 4.0}
    gpu(FakeNvml([process(os.getpid(), 5 * 2**20)]))
    assert {m.name: m.value for m in device_memory_measurements("cuda:1")} == peaks | {"driver_process": 5.0}
    gpu(FakeNvml([process(os.getpid(), None)]))
    hidden = {m.name: m.reason or m.value for m in device_memory_measurements("cuda:1")}
    assert hidden == peaks | {"driver_process": "the driver does not tell memory per process on this system"}
    assert {m.reason for m in device_memory_measurements("cpu")} == {"ran on the CPU"}
    memory.reset_peaks("cpu")
    memory.reset_peaks("cuda:1")
    assert asked == ["cuda:1"]


@pytest.mark.parametrize(("nvml", "count"), [(FakeNvml([]), 2), (FakeNvml([], broken=True), 0)])
def test_gpus_that_the_driver_knows(gpu: Use, nvml: FakeNvml, count: int) -> None:
    gpu(nvml)
    assert device_count() == count
    assert nvml.open_count == 0


@pytest.mark.usefixtures("gpu")
def test_without_the_package_there_is_no_driver_and_the_record_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_count() == 0
    assert driver_version() == "unknown (NVML needs the package nvidia-ml-py: pip install nvidia-ml-py)"
    assert driver_bytes("cuda:0") == (None, "NVML needs the package nvidia-ml-py: pip install nvidia-ml-py")


def test_the_process_grows_by_what_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_resident_bytes()
    # Mapped anew: an array could lie in memory that earlier tests gave back to the allocator, not to the system.
    block = np.frombuffer(mmap.mmap(-1, 64 * 2**20), np.uint8)
    assert process_resident_bytes() - before < 16 * 2**20, "what is only asked for is nowhere yet"
    block[:] = 1
    assert process_resident_bytes() - before > 48 * 2**20
    monkeypatch.setattr(memory, "process_resident_bytes", lambda: before + block.nbytes)
    now, peak = process_memory_measurements()
    assert now.unit == peak.unit == "MiB"
    assert now.value == pytest.approx((before + block.nbytes) / 1048576)
    assert peak.value is not None
    assert peak.value >= now.value


def test_the_environment_is_plain_json_and_names_what_matters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The code's own commit, wherever the user stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment_module, "git_state", lambda folder: {"commit": f"of {folder}", "dirty": False})
    found = environment()
    assert found["git"] == {"commit": f"of {Path(lingbot_eval.__file__).parent}", "dirty": False}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["libraries"]["numpy"] == np.__version__
    assert found["libraries"]["torch"] == metadata.version("torch")
    assert found["cpu_count"] == os.cpu_count()
    assert found["cpu_model"]
    assert (found["lingbot_eval"], found["python"]) == (lingbot_eval.__version__, platform.python_version())
    assert found["platform"] == platform.platform()
    state = found["torch"]
    assert (state["threads"], state["interop_threads"]) == (torch.get_num_threads(), torch.get_num_interop_threads())
    assert state["float32_matmul_precision"] == torch.get_float32_matmul_precision()
    assert state["cuda_build"] == (torch.version.cuda or "none")


def test_what_of_the_machine_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside all that there is; a machine that names no processor still has a name, and what is lacking says so."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5}, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(environment_module, "processor_field", lambda name: None)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(environment_module, "_LIBRARIES", ("numpy", "no-such-library"))
    monkeypatch.setitem(sys.modules, "torch", None)
    found = environment()
    assert (found["cpu_count"], found["cpu_usable"], found["cpu_model"]) == (8, 3, "riscv64")
    assert found["libraries"] == {"numpy": np.__version__, "no-such-library": "not installed"}
    assert found["torch"] == "not installed"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert environment()["cpu_usable"] == 8
    for processor, machine, name in (("POWER9", "ppc64le", "POWER9"), ("", "", "unknown")):
        monkeypatch.setattr(platform, "processor", lambda processor=processor: processor)
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert environment()["cpu_model"] == name


def test_the_machines_memory_is_in_gibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=48 * 2**30 + 2**28))
    assert environment()["ram_gib"] == 48.2


def test_only_named_variables_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of threads, of GPUs and of the arithmetic, as the user set them."""
    named = "OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS OMP_WAIT_POLICY OMP_PROC_BIND OMP_DYNAMIC"
    named += " GOMP_SPINCOUNT GOMP_CPU_AFFINITY KMP_AFFINITY KMP_BLOCKTIME CUDA_VISIBLE_DEVICES CUDA_LAUNCH_BLOCKING"
    named += " CUBLAS_WORKSPACE_CONFIG NVIDIA_TF32_OVERRIDE PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF TORCH_LOGS"
    monkeypatch.setattr(environment_module, "_chosen", {})
    for number, name in enumerate(named.split()):
        monkeypatch.setenv(name, str(number))
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    found = environment()
    assert found["variables"] == {name: str(number) for number, name in enumerate(named.split())}
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_NUM_THREADS"])
def test_what_the_program_set_itself_is_not_said_to_be_the_users(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in (*environment_module._OF_WAITING, *environment_module._OF_COUNT):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(environment_module, "_chosen", {})
    monkeypatch.setattr(environment_module, "_quota", lambda: 2.0)
    modules = {key: module for key, module in sys.modules.items() if key != "torch"}
    with monkeypatch.context() as before_torch:
        before_torch.setattr(sys, "modules", modules)
        inside = threads_that_share()
        inside.__enter__()
    found = environment()
    inside.__exit__(None, None, None)
    assert name not in found["variables"]
    assert (
        f"{name}={2 if name == 'OMP_NUM_THREADS' else environment_module.SPIN_COUNT}" in found["torch"]["threads_wait"]
    )
    assert name not in os.environ
    assert name in chosen_variables(), "what was loaded within goes on by it"
    monkeypatch.setattr(environment_module, "_chosen", {})
    monkeypatch.setenv(name, "7")
    assert environment()["variables"][name] == "7"


def test_gpus_are_described_one_by_one(monkeypatch: pytest.MonkeyPatch, gpu: Use) -> None:
    """Memory in GiB, major before minor; speed and memory are comparable between such machines alone."""
    gpus = [
        SimpleNamespace(name="A", total_memory=80 * 2**30, major=9, minor=0),
        SimpleNamespace(name="B", total_memory=24 * 2**30 - 2**28, major=8, minor=6),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpus[index])
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    gpu(FakeNvml([], "575.57"))
    found = environment()
    assert found["torch"]["gpus"] == [
        {"name": "A", "memory_gib": 80.0, "compute_capability": "9.0"},
        {"name": "B", "memory_gib": 23.8, "compute_capability": "8.6"},
    ]
    assert (found["torch"]["driver"], found["torch"]["cudnn"]) == ("575.57", 91000)
    backend = torch.backends.cudnn
    for benchmark, tf32 in ((True, False), (False, True)):
        monkeypatch.setattr(backend, "benchmark", benchmark)
        monkeypatch.setattr(backend, "allow_tf32", tf32)
        state = environment()["torch"]
        assert (state["cudnn_benchmark"], state["cudnn_tf32"]) == (benchmark, tf32)
    assert gpu_names(found) == ["A", "B"]
    assert machine_name(found) == "A + B"
    same = hardware(found)
    assert (same["gpus"], same["threads"], same["cpu_usable"]) == (
        ["A", "B"],
        torch.get_num_threads(),
        found["cpu_usable"],
    )
    no_matter = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    seen_elsewhere = dict.fromkeys(no_matter, "5")
    other = {**found, "variables": {**found["variables"], "KMP_AFFINITY": "compact", **seen_elsewhere}}
    assert set(hardware(other)["variables"]) - set(same["variables"]) == {"KMP_AFFINITY=compact"}
    for family, name, rests in (
        ("throughput", "forward_fps", True),
        ("memory", "process_peak_rss", True),
        ("memory", "weights", False),
        ("memory", "cache_window", False),
        ("trajectory", "ate_rmse", False),
    ):
        assert rests_on_hardware(family, name) is rests, name


@pytest.mark.parametrize(
    ("block", "names", "name"),
    [
        ({"torch": {"gpus": [{"name": "A"}, {"name": "A"}, {}]}, "cpu_model": "c"}, ["A", "A", "GPU"], "A + GPU"),
        ({"torch": {"gpus": []}, "cpu_model": "c"}, [], "c"),
        ({"torch": "not installed", "cpu_model": "c"}, [], "c"),
        ({"torch": {"gpus": 5}}, [], "a machine of no name"),
        ({"torch": {"gpus": ["A"]}, "cpu_model": ""}, [], "a machine of no name"),
    ],
)
def test_what_a_stored_machine_is_called(block: dict[str, object], names: list[str], name: str) -> None:
    """Whatever somebody's record has in its places."""
    assert (gpu_names(block), machine_name(block)) == (names, name)


def test_hardware_of_a_record_that_says_nothing() -> None:
    unknown: dict[str, object] = dict.fromkeys(("cpu_model", "cpu_usable", "threads"), "unknown")
    assert hardware({}) == {**unknown, "gpus": [], "variables": []}
    odd = hardware({"torch": {"gpus": ["A", {"name": "B"}]}, "variables": {"KMP_AFFINITY": "compact"}})
    assert (odd["gpus"], odd["variables"]) == (["A", "B"], ["KMP_AFFINITY=compact"])


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
    peaks = {resource.RUSAGE_SELF: 3_000_000, resource.RUSAGE_CHILDREN: 7_000_000}
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=peaks[who]))
    (measured,) = [m for m in process_memory_measurements() if m.name == "process_peak_rss"]
    assert (measured.value, measured.unit) == (pytest.approx(peak / 2**20), "MiB")
    # What is resident now was a peak, whatever the kernel has noted of it.
    monkeypatch.setattr(memory, "process_resident_bytes", lambda: 5 * 2**30)
    assert {m.name: m.value for m in process_memory_measurements()} == {"process_rss": 5120, "process_peak_rss": 5120}


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


def caused(error: Exception, cause: Exception) -> Exception:
    """As ``raise error from cause`` has it, where something else was being handled."""
    error.__cause__, error.__context__ = cause, KeyError("something else")
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to …"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (raised(torch.OutOfMemoryError("full"), RuntimeError("operation failed during capture")), True),
        (raised(MemoryError(), DataError("frame.png: cannot be decoded")), False),
        (caused(RuntimeError("capture"), MemoryError()), True),
        (caused(RuntimeError("capture"), KeyError("no memory")), False),
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
