"""What the documents' commands and examples work on: small files under the names that the documents use."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

import lingbot_eval as lb
from lingbot_eval import registry
from lingbot_eval.datasets.registry import DATASETS
from lingbot_eval.methods.base import METHODS
from lingbot_eval.metrics.base import FAMILIES, METRICS

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
import dataset_trees
import videos

POSES = 60
PICTURES = 10


def write_trajectories(folder: Path) -> None:
    """``gt.txt``: a bend of 60 poses, 0.1 m and 0.1 s apart. ``mine.txt``: the same at half the scale, with noise."""
    noise = np.random.default_rng(0).normal(0, 0.002, (POSES, 3))
    reference, estimate = [], []
    for index in range(POSES):
        angle = 0.02 * index
        x, z = np.sin(angle) * 5, (1 - np.cos(angle)) * 5
        turn = f"0 {np.sin(-angle / 2):.9f} 0 {np.cos(angle / 2):.9f}"
        reference.append(f"{1305031102 + index / 10:.6f} {x:.6f} 0 {z:.6f} {turn}")
        dx, dy, dz = noise[index]
        estimate.append(f"{1305031102 + index / 10:.6f} {x / 2 + dx:.6f} {dy:.6f} {z / 2 + dz:.6f} {turn}")
    (folder / "gt.txt").write_text("\n".join(reference) + "\n")
    (folder / "mine.txt").write_text("\n".join(estimate) + "\n")


def write_recordings(root: Path) -> None:
    """``hall``: pictures in ``rgb/``, depth in millimetres in ``depth/``, one pose of 16 numbers a line."""
    for name in ("rgb", "depth"):
        (root / "hall" / name).mkdir(parents=True)
    poses = []
    # Low pictures: a model sees them 518 wide and in proportion, and a pass over 96×72 would take five times as long.
    for frame in lb.open_dataset("synthetic", frames=PICTURES, width=96, height=32).scene("room"):
        assert frame.image is not None
        assert frame.depth is not None
        assert frame.camera_to_world is not None
        name = f"{frame.index:03d}.png"
        Image.fromarray(frame.image).save(root / "hall" / "rgb" / name)
        Image.fromarray(np.round(frame.depth * 1000).astype(np.uint16)).save(root / "hall" / "depth" / name)
        poses.append(" ".join(map(repr, frame.camera_to_world.ravel().tolist())))
    (root / "hall" / "poses.txt").write_text("\n".join(poses) + "\n")


def write_own_tum(folder: Path) -> None:
    """A recording of one's own in TUM's layout."""
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    lists: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for frame in lb.open_dataset("synthetic", frames=PICTURES, width=320, height=240).scene("room"):
        assert frame.image is not None
        assert frame.depth is not None
        assert frame.camera_to_world is not None
        time = f"{1700000000 + frame.index / 30:.6f}"
        Image.fromarray(frame.image).save(folder / "rgb" / f"{time}.png")
        Image.fromarray(np.round(frame.depth * 5000).astype(np.uint16)).save(folder / "depth" / f"{time}.png")
        turn = Rotation.from_matrix(frame.camera_to_world[:3, :3]).as_quat()
        lists["rgb"].append(f"{time} rgb/{time}.png")
        lists["depth"].append(f"{time} depth/{time}.png")
        lists["groundtruth"].append(" ".join([time, *map(str, frame.camera_to_world[:3, 3]), *map(str, turn)]))
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a reader of the documents is told to bring."""
    folder = tmp_path_factory.mktemp("documents")
    write_trajectories(folder)
    write_recordings(folder / "recordings")
    shutil.copytree(folder / "recordings" / "hall" / "rgb", folder / "my_photos")
    shutil.copy(folder / "recordings" / "hall" / "poses.txt", folder / "my_photos")
    dataset_trees.write_tum(folder / "tum")
    write_own_tum(folder / "my_tum" / "office")
    videos.write_video(folder / "walk.mp4", PICTURES)
    return folder


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a document registers in this process is gone after it."""
    monkeypatch.setattr(registry, "_PLUGINS", dict(registry._PLUGINS))
    for known in (DATASETS, METHODS, METRICS, FAMILIES):
        monkeypatch.setattr(known, "_added", dict(known._added))
