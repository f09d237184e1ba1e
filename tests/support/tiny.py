"""The cheapest real experiment: made-up rooms, saved trajectories of a known scale; a second or so to run."""

from __future__ import annotations

from pathlib import Path

import yaml

from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.types import Trajectory

FRAMES = 12
SCENES = ("room", "corridor")
TIMES_LARGER = 3.0
"""The estimates are the reference, so many times its size."""


def experiment_file(folder: Path, **changes: object) -> Path:
    """``tiny.yaml``: two made-up places; a replay of the trajectories in ``folder/estimates``."""
    document = {
        "name": "tiny",
        "datasets": [
            {
                "name": "synthetic",
                "scenes": list(SCENES),
                "options": {"frames": FRAMES, "width": 56, "height": 42},
                "size": {"mode": "exact", "width": 56, "height": 42},
            }
        ],
        "methods": [
            {"kind": "replay", "name": "saved", "trajectory": f"{folder}/estimates/{{scene}}.txt", "format": "tum"}
        ],
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def write_experiment(folder: Path, **changes: object) -> Path:
    """The experiment's file, with its estimates beside it."""
    from lingbot_eval.datasets.registry import open_adapter
    from lingbot_eval.datasets.sequence import Selection

    (folder / "estimates").mkdir(parents=True)
    adapter = open_adapter("synthetic", None, {"frames": FRAMES, "width": 56, "height": 42})
    for scene in SCENES:
        reference = adapter.open(scene, Selection()).reference()
        if reference is None:
            raise TypeError("the made-up scenes have poses")
        poses = reference.camera_to_world.copy()
        poses[:, :3, 3] *= TIMES_LARGER
        estimate = Trajectory(reference.indices, reference.timestamps, poses)
        write_tum(folder / "estimates" / f"{scene}.txt", estimate)
    return experiment_file(folder, **changes)


def run_folder(out: Path) -> Path:
    """The one run directory under ``out``."""
    (folder,) = out.iterdir()
    return folder
