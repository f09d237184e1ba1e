"""Build a network with its weights, on its device and in its precision."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lingbot_eval.errors import ConfigError, DependencyError, is_out_of_memory
from lingbot_eval.machine.environment import multiplies_bfloat16
from lingbot_eval.machine.wait import WAIT
from lingbot_eval.model.config import CONFIGS, ConfigName, ModelConfig
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource, draw_untrained, fitting, load_checkpoint

DEVICES = r"auto|cpu|cuda(:\d{1,3})?"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none. Raises ConfigError for a GPU that is not there."""
    if not re.fullmatch(DEVICES, name):
        raise ConfigError(f"device {name}: expected auto, cpu, cuda or cuda:N")
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not available or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if available else 0
        raise ConfigError(f"device {name}: this machine has {count} CUDA devices; use device auto or cpu")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def resolve_precision(name: str, device: torch.device) -> str:
    """What ``auto`` stands for on this device; other names are what they are.

    The nearest to float32 that costs at most 3 % more than the fastest: on a GPU float16, which multiplies as fast as
    bfloat16 and keeps three more bits; on a CPU float32, unless it has instructions for bfloat16, which then is a third
    faster (docs/measurements.md).
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "float16"
    return "bfloat16" if multiplies_bfloat16() else "float32"


def build_model(
    config: ConfigName, *, checkpoint: str | None, seed: int, point_head: bool, device: torch.device, precision: str
) -> tuple[GeometricContextTransformer, WeightSource]:
    """A network ready for streaming. Its weights come to the device one by one, in the precision that they have there.

    Raises CheckpointError or DependencyError where the checkpoint cannot be had, and DependencyError where this machine
    has too little memory for the network.
    """
    with WAIT.part("build network"):
        model = _described(CONFIGS[config], point_head=point_head)
        model.set_trunk_dtype(PRECISIONS[precision])
    if device.type == "cpu":
        _check_memory(model)
    source = load_checkpoint(model, checkpoint, device) if checkpoint else draw_untrained(model, seed, device)
    return ready(model, device, precision), source


def check_checkpoint(config: ConfigName, path: Path, *, point_head: bool) -> None:
    """Hold a checkpoint's headers against the network, without reading a weight. Raises CheckpointError.

    Args:
        config: Of the network.
        path: The local file, index or folder.
        point_head: Whether the network has one.
    """
    fitting(_described(CONFIGS[config], point_head=point_head), path)


def _described(config: ModelConfig, *, point_head: bool) -> GeometricContextTransformer:
    """The network without memory for its numbers."""
    with torch.device("meta"):
        return GeometricContextTransformer(config, point_head=point_head)


def empty_model(config: ModelConfig, *, point_head: bool) -> GeometricContextTransformer:
    """A network on the CPU whose every parameter is about to be written: nothing is initialised.

    Raises:
        DependencyError: This machine has too little memory for it.
    """
    model = _described(config, point_head=point_head)
    needed = _check_memory(model)
    try:
        model.to_empty(device="cpu")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_little_memory(needed, "refuses them to this process") from error
    model.aggregator.patch_embed.reset_constants()
    return model


def _check_memory(model: GeometricContextTransformer) -> int:
    """Bytes that the weights of a network without memory will take. Raises DependencyError where they are not there.

    Asked first: Linux promises memory that it does not have, and ends the process when it is written to.
    """
    import psutil

    needed: int = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    free = psutil.virtual_memory().available
    if needed > free:
        raise _too_little_memory(needed, f"has {free / 2**30:.1f} GiB available")
    return needed


def _too_little_memory(needed: int, there: str) -> DependencyError:
    return DependencyError(
        f"too little memory: the network takes {needed / 2**30:.1f} GiB, and this machine {there}; "
        "free some, or use a smaller model.config"
    )


def ready(model: GeometricContextTransformer, device: torch.device, precision: str) -> GeometricContextTransformer:
    """The filled network for inference: what is not yet in its precision and on the device is cast, then moved.

    Convolutions of its dense heads lie channels last; a writer of safetensors wants ``.contiguous()`` of them.
    """
    model.set_trunk_dtype(PRECISIONS[precision])
    model.choose_heads("auto")
    model.aggregator.patch_embed.reset_constants()
    model.requires_grad_(requires_grad=False).eval().to(device)
    # The layout that tokens come in and a GPU's matrix units read; a CPU's convolutions spare turning it round.
    for head in (model.depth_head, model.point_head):
        if head is not None:
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    return model


def formula_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The reference value of the parameter with this full state-dict key."""
    count = int(np.prod(shape))
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(count)
    r = (((raw >> np.uint64(11)) * 2.0**-53 * 2 - 1) * np.sqrt(3.0)).reshape(shape)
    if name.endswith("pose_branch.fc2.bias"):
        value = 0.01 * r
        value[6:9] += 0.25
    elif name.endswith(".gamma"):
        value = 0.25 + 0.05 * r
    elif name.endswith(".bias"):
        value = 0.05 * r
    elif name.endswith(".weight") and len(shape) == 1:
        value = 1 + 0.1 * r
    elif name.endswith(".weight"):
        value = r / np.sqrt(np.prod(shape[1:]))
        if name.endswith("pose_branch.fc2.weight"):
            value = 0.1 * value
    else:
        value = 0.5 * r
    return np.asarray(value, dtype=np.float32)


@torch.no_grad()
def fill_by_formula(model: nn.Module) -> None:
    """Set every parameter to its reference value, one at a time."""
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.from_numpy(formula_weight(name, tuple(parameter.shape))))
