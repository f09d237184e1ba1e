"""Every option of a dataset changes what is read: none is accepted, stated in the record and ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tests.datasets.dataset_trees as trees
from lingbot_eval.datasets.registry import DATASETS, open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError

SYNTHETIC = {"frames": 6, "width": 32, "height": 24}


def read(name: str, root: Path | None, options: dict[str, Any]) -> list[Any] | str:
    """Scenes, and of the first one every frame: picture, depth, pose, time, camera; or what is said instead."""
    try:
        adapter = open_adapter(name, root, options)
        scenes = list(adapter.scenes())
        sequence = adapter.open(scenes[0], Selection())
        reference = sequence.reference()
        return [
            scenes,
            [] if reference is None else reference.camera_to_world.tolist(),
            *(
                [
                    None if each is None else np.asarray(each).tolist()
                    for each in (frame.image, frame.depth, frame.camera_to_world, frame.timestamp, frame.intrinsics)
                ]
                for frame in sequence.frames()
            ),
        ]
    except DataError as error:
        return str(error)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("frames", 7),
        ("width", 40),
        ("height", 30),
        ("fov", 80.0),
        ("fps", 10.0),
        ("step", 0.2),
        ("laps", 0.5),
        ("motion", "standstill"),
        ("motion", "rotation"),
        ("motion", "revisit"),
        ("seed", 3),
        ("variants", 2),
        ("exposure_variation", 0.5),
    ],
)
def test_options_of_what_is_made_up(option: str, value: object) -> None:
    assert read("synthetic", None, {**SYNTHETIC, option: value}) != read("synthetic", None, SYNTHETIC)


def test_a_rate_changes_times_and_no_pictures() -> None:
    slow, fast = (read("synthetic", None, {**SYNTHETIC, "fps": fps}) for fps in (10.0, 20.0))
    assert [frame[3] for frame in slow[2:]] == pytest.approx([2 * frame[3] for frame in fast[2:]])  # type: ignore[index]
    assert [frame[0] for frame in slow[2:]] == [frame[0] for frame in fast[2:]]


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    """Images named by seconds, and poses 15 ms after each: as TUM and, without times, as KITTI."""
    root = tmp_path / "walk"
    root.mkdir()
    for number in range(3):
        Image.fromarray(trees.picture(number)).save(root / f"{number}.png")
    rows = [f"{number / 30 + 0.015:.6f} {number + 1} 0 0 0 0 0 1" for number in range(3)]
    (root / "poses.txt").write_text("\n".join(rows))
    (root / "other.txt").write_text("\n".join(reversed([row.replace(" 1 0 0", " 9 0 0") for row in rows])))
    return root


@pytest.mark.parametrize(
    ("base", "option", "value"),
    [
        ({}, "fps", 10.0),
        ({}, "timestamps", "seconds_in_names"),
        ({}, "timestamps", "nanoseconds_in_names"),
        ({}, "trajectory", "poses.txt"),
        ({"trajectory": "poses.txt"}, "trajectory", "other.txt"),
        ({"trajectory": "poses.txt"}, "trajectory_format", "kitti"),
        ({"trajectory": "poses.txt"}, "max_time_difference", 0.01),
        ({}, "intrinsics", (30.0, 31.0, 20.0, 15.0)),
    ],
)
def test_options_of_a_folder(walk: Path, base: dict[str, Any], option: str, value: object) -> None:
    assert read("folder", walk, {**base, option: value}) != read("folder", walk, base)


def test_names_that_are_times_are_seconds_or_nanoseconds(walk: Path) -> None:
    for unit, second in (("seconds_in_names", 1.0), ("nanoseconds_in_names", 1e-9)):
        found = read("folder", walk, {"timestamps": unit})
        assert [frame[3] for frame in found[2:]] == pytest.approx([0, second, 2 * second])  # type: ignore[index]


@pytest.mark.parametrize(
    ("option", "value"), [("camera", "freiburg3"), ("intrinsics", (5, 6, 7, 8)), ("depth_scale", 1000)]
)
def test_options_of_tum(tmp_path: Path, option: str, value: object) -> None:
    """Its cameras are scenes of their own and have numbers of their own."""
    trees.write_tum(tmp_path)
    trees.write_tum(tmp_path, "rgbd_dataset_freiburg3_office")
    plain, other = (read("tum", tmp_path, options) for options in ({}, {option: value}))
    assert other != plain
    if option == "depth_scale":
        depths = [np.array(found[2][1]) for found in (plain, other)]
        assert depths[1].max() == pytest.approx(5 * depths[0].max())


@pytest.mark.parametrize("split", ["train", "all"])
def test_splits_of_seven_scenes(tmp_path: Path, split: str) -> None:
    trees.write_seven_scenes(tmp_path)
    (scenes, *_), (plain, *_) = (read("seven_scenes", tmp_path, {"split": each}) for each in (split, "test"))
    assert plain == ["chess/seq-01", "redkitchen/seq-01", "redkitchen/seq-03"]
    assert scenes == (["redkitchen/seq-02"] if split == "train" else sorted([*plain, "redkitchen/seq-02"]))


def test_every_option_is_here_or_where_its_layout_is_tested() -> None:
    known = {
        "synthetic": {*SYNTHETIC, "fov", "fps", "step", "laps", "motion", "seed", "variants", "exposure_variation"},
        "folder": {"fps", "timestamps", "trajectory", "trajectory_format", "max_time_difference", "intrinsics"}
        | {"reference"},  # test_structure_reference.py
        "tum": {"camera", "intrinsics", "depth_scale"},
        "seven_scenes": {"split"},
    }
    assert {name: set(DATASETS.get(name).Options.model_fields) for name in known} == known
