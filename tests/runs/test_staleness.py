"""Whatever decides a number, or what is kept, is looked at: where it changes its units run again, and else none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import lingbot_eval as lb
from lingbot_eval.resources import shared_file
from lingbot_eval.runs.plan import input_fingerprint, open_scene

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
import dataset_trees as trees

KITCHEN = "redkitchen/seq-01"
FRAMES = 4


def tum(rows: int) -> str:
    return "".join(f"{number / 30:.6f} {number} {number % 2} {number**2} 0 0 0 1\n" for number in range(rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with a trajectory, a scene of 7-Scenes, saved poses and depth of both, masks, a card."""
    home = tmp_path_factory.mktemp("stale")
    trees.write_seven_scenes(home / "7scenes")
    (home / "walk").mkdir()
    (home / "masks").mkdir()
    for number in range(FRAMES):
        Image.fromarray(trees.picture(number)).save(home / "walk" / f"{number}.png")
        Image.fromarray(np.zeros((28, 42), np.uint8)).save(home / "masks" / f"{number}.png")
    (home / "walk" / "gt.txt").write_text(tum(FRAMES))
    for scene in ("walk", KITCHEN):
        (home / "depth" / scene).mkdir(parents=True)
        for number in range(FRAMES):
            np.save(home / "depth" / scene / f"{number}.npy", np.full((28, 42), 1.0 + number, np.float32))
        (home / "poses" / scene).parent.mkdir(parents=True, exist_ok=True)
        (home / "poses" / f"{scene}.txt").write_text(tum(FRAMES))
    card = yaml.safe_load(shared_file("datasets", "seven_scenes").read_text())
    card["protocol"]["stride"] = 1
    card["download"] = {"page": "https://example.org", "steps": ["ask them"]}
    (home / "card.yaml").write_text(yaml.safe_dump(card))
    return home


def made_from(home: Path) -> dict[str, tuple[str, str]]:
    """Of each scene what its result is filed under: it is run again where this is another."""
    size = {"mode": "exact", "width": 42, "height": 28}
    walk = {"name": "folder", "root": f"{home}/walk", "options": {"trajectory": "gt.txt"}, "size": size}
    rooms = {"name": "seven_scenes", "root": f"{home}/7scenes", "scenes": [KITCHEN], "card": f"{home}/card.yaml"}
    saved = {"trajectory": f"{home}/poses/{{scene}}.txt", "depth": f"{home}/depth/{{scene}}"}
    plan = lb.plan_run(
        {
            "name": "stale",
            "datasets": [walk, {**rooms, "size": size}],
            "methods": [{"kind": "replay", **saved}],
            "keep": {"masks": f"{home}/masks"},
        }
    )
    return {unit.scene: (plan.key, input_fingerprint(unit, open_scene(unit))) for unit in plan.units}


def changed(home: Path, change: Callable[[Path], object], path: str) -> set[str]:
    """Scenes that a change runs again."""
    before = made_from(home)
    assert made_from(home) == before
    change(home / path)
    after = made_from(home)
    return {scene for scene in before if before[scene] != after[scene]}


def other_number(path: Path) -> None:
    """The same size and times: as of a file that was copied over it."""
    before, text = path.stat(), path.read_text()
    for old, new in ((" 2 0 4 ", " 3 0 4 "), (" 2.0000000e+00", " 3.0000000e+00")):
        text = text.replace(old, new, 1)
    assert text != path.read_text()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_picture(path: Path) -> None:
    with Image.open(path) as image:
        values = np.array(image)
    values[5:9, 5:9] ^= 255 if values.dtype == np.uint8 else 64
    Image.fromarray(values).save(path)


def other_array(path: Path) -> None:
    np.save(path, np.load(path) + 1)


def other_protocol(path: Path) -> None:
    card = yaml.safe_load(path.read_text())
    card["protocol"]["max_depth"] += 1
    path.write_text(yaml.safe_dump(card))


CHANGES: dict[str, tuple[str, Callable[[Path], object], set[str]]] = {
    "an image": ("walk/2.png", other_picture, {"walk"}),
    "the file of true poses": ("walk/gt.txt", other_number, {"walk"}),
    "an image of a dataset": (f"7scenes/{KITCHEN}/frame-000001.color.png", other_picture, {KITCHEN}),
    "true depth": (f"7scenes/{KITCHEN}/frame-000001.depth.png", other_picture, {KITCHEN}),
    "a true pose": (f"7scenes/{KITCHEN}/frame-000002.pose.txt", other_number, {KITCHEN}),
    "saved poses": ("poses/walk.txt", other_number, {"walk"}),
    "saved poses of the other scene": (f"poses/{KITCHEN}.txt", other_number, {KITCHEN}),
    "saved depth": ("depth/walk/3.npy", other_array, {"walk"}),
    "saved depth that goes": ("depth/walk/2.npy", Path.unlink, {"walk"}),
    "saved depth that comes": (
        "depth/walk/02.npy",
        lambda path: np.save(path, np.ones((28, 42), np.float32)),
        {"walk"},
    ),
    "a mask of what is left out": ("masks/1.png", other_picture, {"walk", KITCHEN}),
    "the card's protocol": ("card.yaml", other_protocol, {"walk", KITCHEN}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_a_result_runs_its_units_again(folder: Path, name: str) -> None:
    path, change, scenes = CHANGES[name]
    assert changed(folder, change, path) == scenes


def other_download(path: Path) -> None:
    card = yaml.safe_load(path.read_text())
    card["download"]["steps"].append("wait")
    path.write_text(yaml.safe_dump(card))


IDLE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "notes beside images": ("walk/notes.txt", Path.touch),
    "another scene": ("7scenes/chess/seq-01/frame-000002.pose.txt", other_number),
    "the time of a file": ("poses/walk.txt", os.utime),
    "how a dataset is had": ("card.yaml", other_download),
}


@pytest.mark.parametrize("name", IDLE)
def test_what_decides_nothing_runs_nothing_again(folder: Path, name: str) -> None:
    path, change = IDLE[name]
    assert changed(folder, change, path) == set()
