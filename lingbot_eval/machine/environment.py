"""What a number was measured on: CPU and how threads share it, libraries, GPU and driver, state of the code.

Imports no torch before a record is made.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

import lingbot_eval
from lingbot_eval.errors import DependencyError

DESCRIPTION = Path("/proc/cpuinfo")
GROUPS = Path("/sys/fs/cgroup")

SPIN_COUNT = 3000
"""Turns that a thread of OpenMP waits for the next piece of work before it sleeps: some 150 µs, as long as most pauses
between two operators of a network. libgomp's own 300,000 are 14 ms, in which it keeps a core from whoever the thread
waits for; none at all costs a wake-up at every operator. Configuration ci on two quiet cores: 17.9 frames a second,
with libgomp's own 19.6, with one thread 11.9; beside three busy processes 5.0, 2.1 and 6.2
(benchmarks/busy_machine.py)."""
_OF_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
_OF_COUNT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC")
_chosen: dict[str, str] = {}


@functools.cache
def processor_field(name: str) -> str | None:
    """A field of the first processor as Linux describes it (``model name``, ``flags`` …), or None."""
    try:
        lines = DESCRIPTION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() == name), None)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; those with AMX have these, too.

    Not known of a CPU of another system than Linux or of another make than x86: there it is no.
    """
    return "avx512_bf16" in (processor_field("flags") or "").split()


def usable_cores() -> int:
    """Cores that this process may use: by affinity, and by the quota of its container, a part of one counting whole."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota() -> float | None:
    """Cores' worth of time that a container's control group allows; None where there is no limit."""
    try:
        if (GROUPS / "cpu.max").is_file():
            limit, period = (GROUPS / "cpu.max").read_text(encoding="ascii").split()
        else:
            limit = (GROUPS / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (GROUPS / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None  # another system, or "max"


@contextmanager
def threads_that_share() -> Iterator[None]:
    """Lets OpenMP's threads go to sleep soon when they wait, and be no more than the cores that a container has.

    Only for what is loaded within the block, as OpenMP reads its variables once; of no effect when torch is there
    already. Variables that the user has set stay as they are, and the environment is as before at the end.
    """
    wanted = {}
    if "torch" not in sys.modules:
        if not any(name in os.environ for name in _OF_WAITING):
            wanted["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
        if _quota() is not None and not any(name in os.environ for name in _OF_COUNT):
            wanted["OMP_NUM_THREADS"] = str(usable_cores())
    _chosen.update(wanted)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name, None)
        if "torch" not in sys.modules:
            _chosen.clear()  # nobody has read them


def chosen_variables() -> Mapping[str, str]:
    """Variables that `threads_that_share` has chosen for OpenMP in this process, in the user's place."""
    return dict(_chosen)


_LIBRARIES = ("torch", "numpy", "scipy", "evo", "pandas", "flashinfer-python", "av", "pillow", "nvidia-ml-py")

# Only what changes results or speed; the rest of the environment is nobody's business.
_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "OMP_DYNAMIC",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_LOGS",
)


def environment() -> dict[str, Any]:
    """Everything a record says of the machine, as plain JSON values (units in the key names).

    Nothing here raises: what cannot be found says so in words.
    """
    import psutil

    chosen = chosen_variables()
    return {
        "lingbot_eval": lingbot_eval.__version__,
        "git": git_state(Path(lingbot_eval.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_model": processor_field("model name") or platform.processor() or platform.machine() or "unknown",
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "torch": _torch_state(),
        # As the user set them; what was chosen in the user's place is said beside the number of threads.
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ and name not in chosen},
    }


def git_state(folder: Path, run: Callable[..., Any] = subprocess.run) -> dict[str, Any] | str:
    """Commit and dirtiness of the checkout that ``folder`` belongs to, or "not a git checkout".

    A folder that merely lies inside somebody's repository (an installed package in a virtual environment there) is
    not of that checkout: git has to know its files. Untracked files do not make it dirty.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError):
            return None
        return str(done.stdout).strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None or not git("ls-files", "."):
        return "not a git checkout"
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes) if changes is not None else "unknown"}


@functools.cache
def _version(library: str) -> str:
    """Looked up once: a process goes on with the libraries that it has loaded."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _waiting() -> str:
    """How OpenMP's threads wait for one another, which decides their speed on a machine that others use."""
    chosen = chosen_variables()
    if chosen:
        return f"{', '.join(f'{name}={value}' for name, value in chosen.items())}, chosen by lingbot-eval"
    return "as the variables say, else as OpenMP does by itself"


def _torch_state() -> Mapping[str, Any] | str:
    try:
        import torch
    except ImportError:
        return "not installed"
    state: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "threads_wait": _waiting(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda_build": torch.version.cuda or "none",
    }
    if not torch.cuda.is_available():
        return state | {"gpus": []}
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return state | {
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "gpus": [
            {
                "name": device.name,
                "memory_gib": round(device.total_memory / 2**30, 1),
                "compute_capability": f"{device.major}.{device.minor}",
            }
            for device in devices
        ],
        "driver": driver_version(),
    }


# The NVIDIA driver's own view, through NVML (the module pynvml of nvidia-ml-py)


@contextmanager
def _driver() -> Iterator[Any]:
    """The module ``pynvml``, at work. Raises DependencyError without it, and where the driver refuses in the block."""
    try:
        import pynvml
    except ImportError as error:
        raise DependencyError("NVML needs the package nvidia-ml-py: pip install nvidia-ml-py") from error
    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise DependencyError(f"NVML does not answer: {error}") from error


def driver_version() -> str:
    """Version of the installed driver, or why it cannot be told."""
    try:
        with _driver() as nvml:
            version = nvml.nvmlSystemGetDriverVersion()
    except DependencyError as error:
        return f"unknown ({error})"
    return version.decode() if isinstance(version, bytes) else str(version)


def device_count() -> int:
    """GPUs that the driver knows; 0 where there is no driver."""
    try:
        with _driver() as nvml:
            return int(nvml.nvmlDeviceGetCount())
    except DependencyError:
        return 0


def process_bytes(gpu_uuid: str) -> int:
    """Bytes that the driver books for this process on one GPU: context, kernels and all allocations.

    gpu_uuid: NVML's form, ``GPU-xxxxxxxx-…``; an index would be wrong under CUDA_VISIBLE_DEVICES.
    Raises DependencyError with the reason when the driver does not tell (a container hides process ids).
    """
    with _driver() as nvml:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByUUID(gpu_uuid))
    own = [process for process in processes if process.pid == os.getpid()]
    if not own:
        raise DependencyError(
            "the driver lists no process of this id on the GPU (inside a container process ids are hidden from it)"
        )
    if own[0].usedGpuMemory is None:
        raise DependencyError("the driver does not tell memory per process on this system")
    return int(own[0].usedGpuMemory)


def processes_bytes(pids: Collection[int]) -> int:
    """Bytes that the driver books for some processes on all GPUs; 0 while none of them uses one.

    Raises DependencyError with the reason when there is no driver, or when it does not tell.
    """
    with _driver() as nvml:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        known = [process for handle in handles for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    own = [process.usedGpuMemory for process in known if process.pid in pids]
    if None in own:
        raise DependencyError("the driver does not tell memory per process on this system")
    if known and not own and not any(Path(f"/proc/{process.pid}").exists() for process in known):
        raise DependencyError("the driver lists processes by ids of another world (it does so inside a container)")
    return sum(own)


# When two machines are the same


_NO_MATTER_TO_SPEED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
"""What they do is seen in the number of threads and the list of GPUs."""
COUNTED = ("memory/weights", "memory/cache_*")
"""Bytes counted from shapes, the same on every machine; all other memory is what a system books."""


def gpu_names(environment: Mapping[str, Any]) -> list[str]:
    """The GPUs that a stored record names, whatever else stands in its place."""
    gpus = section(environment, "torch").get("gpus")
    return [str(gpu.get("name", "GPU")) for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []


def machine_name(environment: Mapping[str, Any]) -> str:
    """What a stored record's machine is called: its GPUs, each name once, or its processor."""
    return (
        " + ".join(dict.fromkeys(gpu_names(environment)))
        or str(environment.get("cpu_model", ""))
        or "a machine of no name"
    )


def hardware(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record's environment what must be equal for speed, and for memory as a system books it."""
    state, variables = section(environment, "torch"), section(environment, "variables")
    gpus = state.get("gpus", [])
    return {
        "cpu_model": environment.get("cpu_model", "unknown"),
        "cpu_usable": environment.get("cpu_usable", "unknown"),
        "threads": state.get("threads", "unknown"),
        "gpus": [gpu.get("name") if isinstance(gpu, dict) else gpu for gpu in gpus] if isinstance(gpus, list) else gpus,
        # A list, so that one that only one side has set is a difference as well.
        "variables": [f"{name}={value}" for name, value in variables.items() if name not in _NO_MATTER_TO_SPEED],
    }


def rests_on_hardware(family: str, name: str) -> bool:
    """Whether a measurement means something on the same hardware only."""
    metric = f"{family}/{name}"
    return family in ("throughput", "memory") and not any(fnmatchcase(metric, pattern) for pattern in COUNTED)


def section(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a record's environment; empty where it is not there, or no mapping."""
    found = environment.get(name)
    return found if isinstance(found, Mapping) else {}
