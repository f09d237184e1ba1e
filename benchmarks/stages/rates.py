"""What the machine can do at best: measured rates of a large matrix product and of a large copy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.stages.clock import seconds_each
from lingbot_eval.machine.gpu import tf32_products


@dataclass(frozen=True)
class Rates:
    """flops: operations a second of matrix products, by kind of arithmetic. copy_bytes: bytes read and written."""

    flops: dict[str, float]
    copy_bytes: float


@torch.inference_mode()
def measure_rates(device: torch.device, kinds: tuple[str, ...]) -> Rates:
    """Rates on random data. kinds: ``bfloat16``, ``float16``, ``float32`` or ``tf32``."""
    side, size = (8192, 2**30) if device.type == "cuda" else (1024, 2**26)
    flops = {}
    for kind in kinds:
        dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        with tf32_products(allowed=kind == "tf32"):
            flops[kind] = 2 * side**3 / seconds_each([partial(torch.matmul, a, b)], device)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Rates(flops, 2 * size / seconds_each([lambda: target.copy_(source)], device))
