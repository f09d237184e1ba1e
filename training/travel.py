"""Weights that travel from one machine to the next, and a start from them.

The averaged weights and the auxiliary heads travel in half precision. The optimiser's moments do not: with β₂ = 0.98
they forget within fifty steps, which the warm-up of the run that goes on covers.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lingbot_eval.errors import CheckpointError
from lingbot_eval.files.atomic import atomic_path
from training.journal import CSV, CURVE

AUXILIARY = "auxiliary."
EXPORTED = "weights.safetensors"


@dataclass(frozen=True)
class Origin:
    """What was trained before this run: runs, their steps, minutes and scenes."""

    runs: int = 0
    steps: int = 0
    minutes: float = 0.0
    scenes: int = 0


@dataclass(frozen=True, eq=False)
class Start:
    """Weights to begin with. auxiliary: empty where only the network was exported."""

    model: dict[str, Tensor]
    auxiliary: dict[str, Tensor]
    origin: Origin
    about: Mapping[str, str]


def about_run(origin: Origin, **more: Any) -> dict[str, str]:
    """Metadata of exported weights, from which `read_start` knows their origin."""
    return {key: str(value) for key, value in (asdict(origin) | more).items()}


def export(out: Path, folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write weights in half precision, and copy log and curve of ``out``. Raises StoreError."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: value.detach().half().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(folder / EXPORTED) as temporary:
        safetensors.torch.save_file(halves, temporary, dict(about))
    for name in (CSV, CURVE):
        if (out / name).is_file():
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(out / name, temporary)


def read_start(path: Path) -> Start:
    """Weights of a folder that was exported to, or of one file. Raises CheckpointError."""
    file_path = path / EXPORTED if path.is_dir() else path
    if not file_path.is_file():
        raise CheckpointError(f"{path}: holds no weights; expected {EXPORTED}, which --export writes, or give a file")
    try:
        with safetensors.safe_open(file_path, "pt") as file:
            about = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        origin = Origin(int(about["runs"]), int(about["steps"]), float(about["minutes"]), int(about["scenes"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{file_path}: not weights of an earlier run ({error!r})") from error
    auxiliary = {key.removeprefix(AUXILIARY): value for key, value in tensors.items() if key.startswith(AUXILIARY)}
    model = {key: value for key, value in tensors.items() if not key.startswith(AUXILIARY)}
    return Start(model, auxiliary, origin, about)
