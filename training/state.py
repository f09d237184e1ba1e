"""What a training run leaves on disk: a state that it resumes from exactly, and the weights that it is for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lingbot_eval.errors import CheckpointError
from lingbot_eval.files.atomic import atomic_path

STATE, WEIGHTS = "training_state.safetensors", "ci.safetensors"


@dataclass(frozen=True)
class Progress:
    """steps: done. seconds: trained. jobs: scenes taken. plan: what the run was started as. origin: what other runs
    had trained before it. length: seconds planned in all, infinite of a run that is planned in steps."""

    steps: int
    seconds: float
    jobs: int
    plan: Mapping[str, Any]
    origin: Mapping[str, Any]
    length: float


def save_state(folder: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write everything that a run needs to go on, whole or not at all. Raises StoreError."""
    note = {"progress": json.dumps(progress.__dict__)}
    with atomic_path(folder / STATE) as temporary:
        safetensors.torch.save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, note)


def load_state(folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """The state in a folder, or None. Raises CheckpointError for one that cannot be read."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            note = (file.metadata() or {})["progress"]
            return Progress(**json.loads(note)), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not a training state ({error}); remove it to start anew") from error


def export_weights(path: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Half-precision weights with where they come from. Raises StoreError."""
    state = {name: value.detach().half().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(state, temporary, {key: str(value) for key, value in about.items()})


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimiser's state by parameter name; ``names`` in the order of its parameters."""
    held = optimizer.state_dict()["state"]
    return {f"optimizer.{names[i]}.{key}": value for i, part in held.items() for key, value in part.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for i, name in enumerate(names):
        prefix = f"optimizer.{name}."
        held = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if held:  # before its first step a run has none
            state[i] = held
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
