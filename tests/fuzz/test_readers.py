"""Every reader of a file, fed damaged ones: it reads, or says in one line what is wrong; it never breaks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from mutations import damaged, odd_json
from PIL import Image
from torch import nn

from lingbot_eval.datasets.cards import load_card
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import LingbotEvalError
from lingbot_eval.files.depth_maps import array_depth, png_depth, read_depth_map
from lingbot_eval.files.images import image_size, read_image
from lingbot_eval.files.pose_tables import read_pose
from lingbot_eval.files.trajectories import read_trajectory
from lingbot_eval.model.weights import load_checkpoint
from lingbot_eval.resources import shared_file
from lingbot_eval.scaling.records import COLUMNS, SAMPLES_FILE, SCALE_LAYOUT
from lingbot_eval.stored.records import RunRecord, UnitRecord, read_record, write_record
from lingbot_eval.stored.unit_files import load_drift, load_panels, read_table, save_drift, save_panels
from lingbot_eval.types import DriftSeries
from tests.datasets import dataset_trees, field_trees
from tests.datasets.videos import write_video
from tests.reports import fake_run
from tests.stored.store_records import make_run_record, make_unit_record

FEW, MANY = 20, 500
"""Damaged files a reader: in the suite, and under ``-m slow``."""


@dataclass(frozen=True)
class Reader:
    """A reader of files called ``name``, a sound one, and how it is damaged."""

    name: str
    sound: Callable[[Path], object]
    read: Callable[[Path], object]
    damage: Callable[[bytes, int], bytes] = damaged


def _drift(path: Path) -> None:
    whole, real = np.arange(40), np.linspace(0.1, 2.0, 40)
    none = np.arange(0)
    save_drift(path, DriftSeries(whole, real, real, real, whole, real, whole, real, real, real, none, none))


def _array(path: Path) -> None:
    np.save(path, np.linspace(1, 2, 48 * 64, dtype=np.float32).reshape(48, 64))


def _depth_png(path: Path) -> None:
    Image.fromarray((np.arange(48 * 64).reshape(48, 64) * 9).astype(np.uint16)).save(path)


def _picture(path: Path) -> None:
    Image.fromarray(field_trees.picture(1)).save(path)


def _poses(path: Path) -> None:
    path.write_text("".join(f"{i}.5 {i} {i * i % 5} 0 0 0 0 1\n" for i in range(9)))


def _kitti(path: Path) -> None:
    path.write_text("".join(f"{field_trees.numbers(field_trees.pose(i)[:3])}\n" for i in range(6)))


def _euroc(path: Path) -> None:
    path.write_text("#t\n" + "".join(f"{10**18 + i * 10**8},{i},0,{i},1,0,0,0,0.1\n" for i in range(9)))


def _colmap(path: Path) -> None:
    path.write_text("".join(f"{i} 1 0 0 0 {i} 0 {i * i % 5} 1 {i}.png\n10 20 -1\n" for i in range(1, 9)))


def _nerfstudio(path: Path) -> None:
    frames = [{"file_path": f"{i}.png", "transform_matrix": field_trees.pose(i).tolist()} for i in range(6)]
    path.write_text(json.dumps({"fl_x": 60.0, "frames": frames}))


def _pose_array(path: Path) -> None:
    poses = np.stack([field_trees.pose(i) for i in range(6)])
    if path.suffix == ".npz":
        np.savez_compressed(path, poses=poses)
    else:
        np.save(path, poses)


def _packed(path: Path) -> None:
    _poses(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def _card(path: Path) -> None:
    card = yaml.safe_load(shared_file("datasets", "seven_scenes").read_text(encoding="utf-8"))
    path.write_text(json.dumps(card))


def _pose(path: Path) -> None:
    path.write_text("\n".join(field_trees.numbers(row) for row in field_trees.pose(3)))


def _samples(path: Path) -> None:
    rows = [",".join(COLUMNS), *(f"{index},kept,{index},1.5,1.6,,0" + 9 * "," for index in range(30))]
    path.write_text("\n".join(rows))


def _checkpoint(path: Path) -> None:
    torch.save({"model": nn.Linear(2, 3).state_dict()}, path)


def _safetensors(path: Path) -> None:
    safetensors.torch.save_file(nn.Linear(2, 3).state_dict(), path)


def _legacy(path: Path) -> None:
    """As torch saved before 1.6: pickles one after the other, no archive."""
    torch.save({"state_dict": nn.Linear(2, 3).state_dict()}, path, _use_new_zipfile_serialization=False)


def _shards(path: Path) -> None:
    safetensors.torch.save_file(nn.Linear(2, 3).state_dict(), path.with_name("shard.safetensors"))
    weights = {"weight": "shard.safetensors", "bias": "shard.safetensors"}
    path.write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def _video(path: Path) -> None:
    write_video(path, frames=6)


def _play(path: Path) -> None:
    sequence = open_adapter("video", path, {}).open(path.name, Selection())
    for _ in sequence.frames():
        pass


def _load(path: Path) -> None:
    load_checkpoint(nn.Linear(2, 3), str(path))  # type: ignore[arg-type]  # any module that has parameters


READERS = (
    Reader("drift.npz", _drift, load_drift),
    Reader("panels.npz", lambda path: save_panels(path, fake_run.panels(9)), load_panels),
    Reader("depth.npy", _array, lambda path: read_depth_map(path, 1000.0)),
    Reader("frame.npy", _array, lambda path: array_depth(path, "frame 1", (64, 48))),
    Reader("depth.png", _depth_png, lambda path: png_depth(1000.0)(path, "frame 1", (64, 48))),
    Reader("replayed.png", _depth_png, lambda path: read_depth_map(path, 1000.0)),
    *(
        Reader(f"image.{suffix}", _picture, lambda path: (image_size(path, "frame 1"), read_image(path, "frame 1")))
        for suffix in ("png", "jpg", "webp", "bmp", "tif")
    ),
    Reader("poses.tum", _poses, lambda path: read_trajectory(path, "tum")),
    Reader("poses.kitti", _kitti, lambda path: read_trajectory(path, "kitti")),
    Reader("poses.euroc", _euroc, lambda path: read_trajectory(path, "euroc")),
    *(
        Reader(name, sound, read_trajectory, damage)
        for name, sound, damage in (
            ("images.txt", _colmap, damaged),
            ("transforms.json", _nerfstudio, odd_json),
            ("poses.npy", _pose_array, damaged),
            ("poses.npz", _pose_array, damaged),
            ("poses.txt.gz", _packed, damaged),
            ("unknown.txt", _poses, damaged),
        )
    ),
    Reader("frame.pose.txt", _pose, read_pose),
    Reader("seven_scenes.yaml", _card, lambda path: load_card("seven_scenes", path), odd_json),
    Reader(SAMPLES_FILE, _samples, lambda path: read_table(path, SCALE_LAYOUT)),
    Reader("weights.pt", _checkpoint, _load),
    Reader("legacy.pt", _legacy, _load),
    Reader("weights.safetensors", _safetensors, _load),
    Reader("weights.safetensors.index.json", _shards, _load, odd_json),
    *(Reader(f"video.{suffix}", _video, _play) for suffix in ("mp4", "mkv", "avi", "mov")),
    Reader(
        "run.json",
        lambda path: write_record(path, make_run_record()),
        lambda path: read_record(path, RunRecord),
        odd_json,
    ),
    Reader(
        "result.json",
        lambda path: write_record(path, make_unit_record()),
        lambda path: read_record(path, UnitRecord),
        odd_json,
    ),
)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_damaged_file_is_read_or_refused_in_a_line(tmp_path: Path, reader: Reader, count: int) -> None:
    path = tmp_path / reader.name
    reader.sound(path)
    reader.read(path)
    sound = path.read_bytes()
    for seed in range(count):
        path.write_bytes(reader.damage(sound, seed))
        read_or_refused(lambda: reader.read(path), f"{reader.name} seed {seed}")


def read_or_refused(read: Callable[[], object], what: str) -> None:
    refused = ""
    try:
        read()
    except LingbotEvalError as error:
        refused = str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert "\n" not in refused, what
    assert len(refused) < 1000, what


TREES = {
    **{name: (write, field_trees.SCENES[name]) for name, write in field_trees.WRITERS.items()},
    "tum": (dataset_trees.write_tum, dataset_trees.TUM_SCENE),
    "seven_scenes": (dataset_trees.write_seven_scenes, "chess/seq-01"),
}


@pytest.mark.parametrize("name", sorted(TREES))
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_dataset_with_one_damaged_file_is_read_or_refused_in_a_line(tmp_path: Path, name: str, count: int) -> None:
    write, scene = TREES[name]
    write(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    # Lists and calibrations are few beside the pictures, and all stands on them.
    files = [
        *files[::8],
        *(path for path in files if path.suffix in (".txt", ".yaml", ".npz", ".json", ".csv", ".log")),
    ]

    def read() -> None:
        sequence = open_adapter(name, tmp_path, {}).open(scene, Selection())
        sequence.reference()
        for _ in sequence.frames():
            pass

    read()
    for seed in range(count):
        path = files[seed % len(files)]
        sound = path.read_bytes()
        path.write_bytes(damaged(sound, seed))
        read_or_refused(read, f"{path.name} seed {seed}")
        path.write_bytes(sound)
