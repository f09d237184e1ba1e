"""What a number was measured on: machine, libraries, GPU and driver, state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

import lingbot_eval
from lingbot_eval.machine.cpu import chosen_variables, processor_field
from lingbot_eval.machine.nvml import NvmlModule, driver_version

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


def environment(nvml: NvmlModule | None = None) -> dict[str, Any]:
    """Everything a record says of the machine, as plain JSON values (units in the key names).

    nvml: a stand-in for the module ``pynvml``, for tests. Nothing here raises: what cannot be found says so in words.
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
        "torch": _torch_state(nvml),
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


def _version(library: str) -> str:
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


def _torch_state(nvml: NvmlModule | None) -> Mapping[str, Any] | str:
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
        "driver": driver_version(nvml),
    }


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
