"""Memory of the process and of the device, and the measurements made from it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from lingbot_eval.errors import DependencyError
from lingbot_eval.machine.nvml import NvmlModule, process_bytes
from lingbot_eval.types import Declaration, Measurement

_MIB = 2**20

DECLARED = (
    Declaration("process_peak_rss", "lower", "", headline=11, line="peak process memory", title="RAM (GB)"),
    Declaration("device_peak_allocated", "lower", "", headline=12, title="GPU (GB)"),
    # Counted from shapes: they are what they are.
    Declaration("weights", "lower", "", tolerance={"kind": "relative", "worse_by": 0.001}),
    Declaration("cache_*", "lower", tolerance={"kind": "relative", "worse_by": 0.001}),
    # As the system books it, allocator and libraries included.
    Declaration("*", "lower", tolerance={"kind": "relative", "worse_by": 0.05, "floor": 16.0}),
)


@dataclass(frozen=True)
class ProcessMemory:
    """Resident set size in bytes: now, and the largest since the process started."""

    resident: int
    peak_resident: int


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one GPU. peaks: since :func:`reset_peaks`. driver: what the driver books for this process now,
    None exactly when driver_reason says why it does not tell."""

    allocated: int
    reserved: int
    peak_allocated: int
    peak_reserved: int
    driver: int | None
    driver_reason: str | None = None


def process_resident_bytes() -> int:
    """Resident set size of this process now, in bytes; cheap enough to ask at every frame."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def process_memory() -> ProcessMemory:
    """Memory of this process, as the system books it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    peak_bytes = peak if sys.platform == "darwin" else 1024 * peak
    resident = process_resident_bytes()
    # The kernel updates the peak lazily, so it can lag behind what is resident now.
    return ProcessMemory(resident, max(peak_bytes, resident))


def reset_peaks(device: str) -> None:
    """Start counting the device's peaks anew; nothing to do on a CPU."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def device_memory(device: str, nvml: NvmlModule | None = None) -> DeviceMemory | None:
    """Memory on ``device`` now; None on a CPU, where the process figures say it all.

    nvml: a stand-in for the module ``pynvml``, for tests.
    """
    if not device.startswith("cuda"):
        return None
    import torch

    driver, reason = driver_bytes(f"GPU-{torch.cuda.get_device_properties(device).uuid}", nvml)
    return DeviceMemory(
        allocated=torch.cuda.memory_allocated(device),
        reserved=torch.cuda.memory_reserved(device),
        peak_allocated=torch.cuda.max_memory_allocated(device),
        peak_reserved=torch.cuda.max_memory_reserved(device),
        driver=driver,
        driver_reason=reason,
    )


def driver_bytes(gpu_uuid: str, nvml: NvmlModule | None = None) -> tuple[int | None, str | None]:
    """What the driver books for this process on the GPU, or None and the reason it does not tell."""
    try:
        return process_bytes(gpu_uuid, nvml), None
    except DependencyError as error:
        return None, str(error)


def process_memory_measurements(memory: ProcessMemory) -> tuple[Measurement, ...]:
    """``process_rss`` and ``process_peak_rss`` in MiB."""
    return (
        mebibytes("process_rss", memory.resident, "resident set size of the process at the end of the stream"),
        mebibytes(
            "process_peak_rss",
            memory.peak_resident,
            "largest resident set size since the process started, earlier scenes of the same process included",
        ),
    )


def device_memory_measurements(memory: DeviceMemory | None) -> tuple[Measurement, ...]:
    """``device_peak_allocated``, ``device_peak_reserved``, ``driver_process`` in MiB; on a CPU the reason why not."""
    names: Mapping[str, tuple[int | None, str]] = {
        "device_peak_allocated": (
            memory.peak_allocated if memory else None,
            "largest sum of live tensors on the device during the stream",
        ),
        "device_peak_reserved": (
            memory.peak_reserved if memory else None,
            "largest amount the allocator held on the device during the stream",
        ),
        "driver_process": (
            memory.driver if memory else None,
            "what the driver books for the process after the stream (NVML), CUDA context and kernels included",
        ),
    }
    otherwise = "ran on the CPU" if memory is None else memory.driver_reason
    return tuple(mebibytes(name, size, convention, otherwise) for name, (size, convention) in names.items())


def mebibytes(name: str, size: int | None, convention: str, reason: str | None = None) -> Measurement:
    """One figure of the family ``memory``, from bytes to MiB; ``reason`` says why when ``size`` is None."""
    return Measurement(
        family="memory",
        name=name,
        variant="",
        value=size / _MIB if size is not None else None,
        unit="MiB",
        convention=convention,
        reason=(reason or "not measured") if size is None else None,
    )
