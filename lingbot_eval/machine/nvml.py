"""The NVIDIA driver's own view, through NVML (the module pynvml of nvidia-ml-py)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lingbot_eval.errors import DependencyError


class NvmlModule(Protocol):
    """The part of ``pynvml`` that is used here, so that tests can hand in a stand-in."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802 - the library's own name

    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlSystemGetDriverVersion(self) -> str | bytes: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any: ...  # noqa: N802

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]: ...  # noqa: N802


def load_nvml() -> NvmlModule:
    """The real module. Raises DependencyError when it is not installed."""
    try:
        import pynvml
    except ImportError as error:
        raise DependencyError("NVML needs the package nvidia-ml-py: pip install nvidia-ml-py") from error
    module: NvmlModule = pynvml
    return module


@contextmanager
def _initialised(nvml: NvmlModule) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def driver_version(nvml: NvmlModule | None = None) -> str:
    """Version of the installed driver, or why it cannot be told."""
    try:
        module = nvml if nvml is not None else load_nvml()
    except DependencyError as error:
        return f"unknown ({error})"
    try:
        with _initialised(module):
            version = module.nvmlSystemGetDriverVersion()
    except module.NVMLError as error:
        return f"unknown ({error})"
    return version.decode() if isinstance(version, bytes) else version


def process_bytes(gpu_uuid: str, nvml: NvmlModule | None = None) -> int:
    """Bytes that the driver books for this process on one GPU: context, kernels and all allocations.

    gpu_uuid: NVML's form, ``GPU-xxxxxxxx-…``; an index would be wrong under CUDA_VISIBLE_DEVICES.
    Raises DependencyError with the reason when the driver does not tell (a container hides process ids).
    """
    module = nvml if nvml is not None else load_nvml()
    try:
        with _initialised(module):
            handle = module.nvmlDeviceGetHandleByUUID(gpu_uuid)
            processes = module.nvmlDeviceGetComputeRunningProcesses(handle)
    except module.NVMLError as error:
        raise DependencyError(f"NVML does not answer: {error}") from error
    own = [process for process in processes if process.pid == os.getpid()]
    if not own:
        raise DependencyError(
            "the driver lists no process of this id on the GPU (inside a container process ids are hidden from it)"
        )
    if own[0].usedGpuMemory is None:
        raise DependencyError("the driver does not tell memory per process on this system")
    return int(own[0].usedGpuMemory)


def processes_bytes(pids: Collection[int], nvml: NvmlModule | None = None) -> int:
    """Bytes that the driver books for some processes on all GPUs; 0 while none of them uses one.

    Raises DependencyError with the reason when there is no driver, or when it does not tell.
    """
    module = nvml if nvml is not None else load_nvml()
    try:
        with _initialised(module):
            handles = [module.nvmlDeviceGetHandleByIndex(index) for index in range(module.nvmlDeviceGetCount())]
            known = [process for handle in handles for process in module.nvmlDeviceGetComputeRunningProcesses(handle)]
    except module.NVMLError as error:
        raise DependencyError(f"NVML does not answer: {error}") from error
    own = [process.usedGpuMemory for process in known if process.pid in pids]
    if None in own:
        raise DependencyError("the driver does not tell memory per process on this system")
    if known and not own and not any(Path(f"/proc/{process.pid}").exists() for process in known):
        raise DependencyError("the driver lists processes by ids of another world (it does so inside a container)")
    return sum(own)


def device_count(nvml: NvmlModule | None = None) -> int:
    """GPUs that the driver knows; 0 where there is no driver."""
    try:
        module = nvml if nvml is not None else load_nvml()
    except DependencyError:
        return 0
    try:
        with _initialised(module):
            return module.nvmlDeviceGetCount()
    except module.NVMLError:
        return 0
