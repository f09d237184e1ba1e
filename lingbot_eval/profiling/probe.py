"""Looks at memory while a stream runs: what is dear to ask, asked every so often."""

from __future__ import annotations

from dataclasses import dataclass

from lingbot_eval.machine.nvml import NvmlModule
from lingbot_eval.profiling.memory import driver_bytes, process_resident_bytes


@dataclass(frozen=True)
class MemorySample:
    """Bytes now. reserved: held by torch's allocator; driver: see `MemoryProbe.driver_source`; None on a CPU."""

    process: int
    reserved: int | None = None
    driver: int | None = None


class MemoryProbe:
    """One device's memory. How the driver is asked is found out once: NVML for this process where it answers.

    Inside a container process ids are hidden from NVML; then CUDA's own figure stands in, which counts all that is in
    use on the device, whoever uses it.
    """

    def __init__(self, device: str, nvml: NvmlModule | None = None) -> None:
        self._device = device
        self._nvml = nvml
        self._uuid = ""
        self.driver_source = "not asked: ran on the CPU"
        if device.startswith("cuda"):
            import torch

            self._uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            found, reason = driver_bytes(self._uuid, nvml)
            self._by_process = found is not None
            self.driver_source = (
                "NVML's figure for this process"
                if self._by_process
                else f"cudaMemGetInfo: all that is in use on the device, other processes included ({reason})"
            )

    def sample(self) -> MemorySample:
        """Takes some hundred microseconds on a GPU; nothing is waited for on the device."""
        if not self._uuid:
            return MemorySample(process_resident_bytes())
        import torch

        if self._by_process:
            driver, _ = driver_bytes(self._uuid, self._nvml)
        else:
            free, total = torch.cuda.mem_get_info(self._device)
            driver = total - free
        return MemorySample(process_resident_bytes(), torch.cuda.memory_reserved(self._device), driver)
