"""Memory of the process and of the device, and the measurements made from it."""

from __future__ import annotations

import resource
import sys

from lingbot_eval.errors import DependencyError
from lingbot_eval.machine.environment import process_bytes
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


def process_resident_bytes() -> int:
    """Resident set size of this process now, in bytes; cheap enough to ask at every frame."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def process_memory_measurements() -> tuple[Measurement, ...]:
    """``process_rss`` and ``process_peak_rss`` of this process in MiB, as the system books them."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    peak_bytes = peak if sys.platform == "darwin" else 1024 * peak
    resident = process_resident_bytes()
    return (
        mebibytes("process_rss", resident, "resident set size of the process at the end of the stream"),
        mebibytes(
            "process_peak_rss",
            # The kernel updates the peak lazily, so it can lag behind what is resident now.
            max(peak_bytes, resident),
            "largest resident set size since the process started, earlier scenes of the same process included",
        ),
    )


def reset_peaks(device: str) -> None:
    """Start counting the device's peaks anew; nothing to do on a CPU."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def driver_bytes(device: str) -> tuple[int | None, str | None]:
    """What the driver books for this process on a GPU (``cuda:0``), or None and the reason it does not tell."""
    import torch

    try:
        return process_bytes(f"GPU-{torch.cuda.get_device_properties(device).uuid}"), None
    except DependencyError as error:
        return None, str(error)


def device_memory_measurements(device: str) -> tuple[Measurement, ...]:
    """``device_peak_allocated``, ``device_peak_reserved`` (since `reset_peaks`) and ``driver_process`` (now) in MiB; on
    a CPU, where the process figures say it all, the reason why not."""
    allocated = reserved = driver = None
    reason: str | None = "ran on the CPU"
    if device.startswith("cuda"):
        import torch

        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        driver, reason = driver_bytes(device)
    return (
        mebibytes(
            "device_peak_allocated", allocated, "largest sum of live tensors on the device during the stream", reason
        ),
        mebibytes(
            "device_peak_reserved",
            reserved,
            "largest amount the allocator held on the device during the stream",
            reason,
        ),
        mebibytes(
            "driver_process",
            driver,
            "what the driver books for the process after the stream (NVML), CUDA context and kernels included",
            reason,
        ),
    )


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


class MemoryProbe:
    """Looks at the memory of the process and of one device while a stream runs.

    How the driver is asked is found out once: NVML for this process where it answers. Inside a container process ids
    are hidden from NVML; then CUDA's own figure stands in, which counts all that is in use on the device, whoever uses
    it.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._by_process = False
        self.driver_source = "not asked: ran on the CPU"
        if device.startswith("cuda"):
            found, reason = driver_bytes(device)
            self._by_process = found is not None
            self.driver_source = (
                "NVML's figure for this process"
                if self._by_process
                else f"cudaMemGetInfo: all that is in use on the device, other processes included ({reason})"
            )

    def sample(self) -> dict[str, int | None]:
        """Bytes now: ``process_bytes``, and on a GPU ``device_reserved_bytes`` (held by torch's allocator) and
        ``driver_bytes`` (see ``driver_source``).

        Takes some hundred microseconds on a GPU; nothing is waited for on the device.
        """
        found: dict[str, int | None] = {"process_bytes": process_resident_bytes()}
        if self._device.startswith("cuda"):
            import torch

            if self._by_process:
                driver, _ = driver_bytes(self._device)
            else:
                free, total = torch.cuda.mem_get_info(self._device)
                driver = total - free
            found |= {"device_reserved_bytes": torch.cuda.memory_reserved(self._device), "driver_bytes": driver}
        return found
