"""What a training run leaves on disk: a state that it resumes from exactly, weights, log and curve, and what travels.

The averaged weights and the auxiliary heads travel to the next machine in half precision. The optimiser's moments do
not: with β₂ = 0.98 they forget within fifty steps, which the warm-up of the run that goes on covers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from lingbot_eval.errors import CheckpointError
from lingbot_eval.files.atomic import atomic_path, write_text

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


CSV, CURVE = "training_log.csv", "training_curve.png"
POSE_TERMS = ("translation", "rotation", "relative_translation", "relative_rotation")
OTHER_TERMS = ("depth", "gradient", "points", "flow", "matching", "fov")
VALIDATION = {
    "ate_share_of_motionless": "ATE / ATE of a motionless estimate (target 0.25)",
    "ate_share_of_path": "ATE / path length (target 0.05)",
    "auc_30": "AUC@30 / 100 (target 0.5)",
    "delta_125": "share of pixels δ < 1.25 (target 0.85)",
}


class Journal:
    """Rows of numbers, some of which also carry validation; a resumed run goes on with the rows it finds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows = _rows(folder / CSV)

    def follow(self, earlier: Path) -> None:
        """Begin with the rows of the run in another folder that this one goes on with, if it has any."""
        self.rows = _rows(earlier / CSV)

    def forget_after(self, step: int) -> None:
        """Drop rows of steps that the state a run resumes from has not seen."""
        self.rows = [row for row in self.rows if row["step"] <= step]

    def add(self, row: dict[str, float]) -> None:
        """Append and write. Raises StoreError."""
        self.rows.append(row)
        write_text(self._folder / CSV, pd.DataFrame(self.rows).to_csv(index=False, float_format="%.6g"))

    def draw(self) -> None:
        """Loss terms and validation over minutes. Raises StoreError."""
        if not self.rows:
            return
        table = pd.DataFrame(self.rows)
        figure = Figure(figsize=(12, 4), dpi=110, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 3)
        for axes, terms, title in zip(
            panels,
            (POSE_TERMS, OTHER_TERMS, tuple(VALIDATION)),
            ("pose terms", "other terms", "validation"),
            strict=True,
        ):
            for term in terms:
                known = table[["minutes", term]].dropna() if term in table else None
                if known is not None and len(known):
                    axes.plot(known["minutes"], known[term], label=VALIDATION.get(term, term), marker=".", markersize=3)
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlabel("minutes", fontsize=9)
            axes.grid(True, color="#DDDDDD", linewidth=0.6)
            if axes.get_legend_handles_labels()[0]:
                # Below, where it hides no data; the names of what is validated are long.
                columns = 1 if title == "validation" else 2
                axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns)
            if title == "validation":
                axes.set_ylim(0, 1.2)
            elif (table[[t for t in terms if t in table]] > 0).all(axis=None):
                axes.set_yscale("log")
        with atomic_path(self._folder / CURVE) as temporary:
            figure.savefig(temporary)


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    return [{str(k): float(v) for k, v in row.dropna().items()} for _, row in pd.read_csv(path).iterrows()]


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
    return Start(model, auxiliary, origin)
