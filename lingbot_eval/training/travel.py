"""Weights that travel from one machine to the next: parts small enough to carry, and a start from them.

The averaged weights and the auxiliary heads travel in half precision. The optimiser's moments do not: with β₂ = 0.98
they forget within fifty steps, which the warm-up of the run that goes on covers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lingbot_eval.errors import CheckpointError
from lingbot_eval.formats.atomic import atomic_path
from lingbot_eval.training.journal import CSV, CURVE

PART_BYTES = 14 * 2**20
"""Of tensors in one file; the header comes on top."""
AUXILIARY = "auxiliary."
PARTS = "weights.part*.safetensors"


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


def export_parts(out: Path, folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write weights in parts, and copy log and curve of ``out``. Raises StoreError."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(_cut({name: value.detach().half().cpu().contiguous() for name, value in tensors.items()}))
    for old in folder.glob(PARTS):
        old.unlink()
    for number, part in enumerate(parts):
        with atomic_path(folder / f"weights.part{number}.safetensors") as temporary:
            note = {**about, "part": json.dumps([number, len(parts)])}
            safetensors.torch.save_file(part, temporary, note)
    for name in (CSV, CURVE):
        if (out / name).is_file():
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(out / name, temporary)


def read_start(path: Path) -> Start:
    """Weights of a folder of parts, or of one file. Raises CheckpointError."""
    files = sorted(path.glob(PARTS)) if path.is_dir() else [path]
    if not files:
        raise CheckpointError(f"{path}: holds no weights; expected {PARTS}, which --export writes, or give one file")
    tensors: dict[str, Tensor] = {}
    about: dict[str, str] = {}
    found: set[int] = set()
    count = 1
    for file_path in files:
        try:
            with safetensors.safe_open(file_path, "pt") as file:
                about = dict(file.metadata() or {})
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            number, count = json.loads(about.pop("part", "[0, 1]"))
            origin = Origin(int(about["runs"]), int(about["steps"]), float(about["minutes"]), int(about["scenes"]))
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise CheckpointError(f"{file_path}: not weights of an earlier run ({error!r})") from error
        found.add(number)
    if missing := set(range(count)) - found:
        raise CheckpointError(f"{path}: {len(found)} of {count} parts; missing is part {min(missing)}")
    auxiliary = {key.removeprefix(AUXILIARY): value for key, value in tensors.items() if key.startswith(AUXILIARY)}
    model = {key: value for key, value in tensors.items() if not key.startswith(AUXILIARY)}
    return Start(model, auxiliary, origin, about)


def join_parts(folder: Path, path: Path) -> None:
    """The network alone of a folder of parts as one file. Raises CheckpointError, StoreError."""
    start = read_start(folder)
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(start.model, temporary, dict(start.about))


def _cut(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, value in tensors.items():
        if part and size + value.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = value
        size += value.nbytes
    if part:
        yield part
