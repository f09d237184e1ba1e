"""What real copies have beside the files of a release: every dataset reads the same through it, or says why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_trees
import field_trees
import layout_trees
import pytest
import test_eth3d_release

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import FileSequence, Selection
from lingbot_eval.errors import DataError

Case = tuple[str, str, dict[str, Any], Callable[[Path], object]]
CASES: dict[str, Case] = {
    **{
        name: (found.dataset, found.scene, dict(found.options), lambda root, found=found: found.write(root, found.view))
        for name, found in layout_trees.LAYOUTS.items()
    },
    **{name: (name, field_trees.SCENES[name], {}, write) for name, write in field_trees.WRITERS.items()},
    "tum": ("tum", dataset_trees.TUM_SCENE, {}, dataset_trees.write_tum),
    "seven_scenes": ("seven_scenes", "redkitchen/seq-01", {}, dataset_trees.write_seven_scenes),
    "eth3d release": ("eth3d", "courtyard", {"views": "all"}, test_eth3d_release.write_release),
}
LISTED = ("tum", "tum_dynamics", "bonn", "euroc", "capture")  # a list has the images' names, letter by letter
TEXTS = (".txt", ".csv", ".yaml", ".json", ".log")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The root of a case's tree, written once and not to be changed."""
    written: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp("tree") / "this" / "alone" / "data"
            written[name].mkdir(parents=True)
            CASES[name][3](written[name])
        return written[name]

    return root


def opened(name: str, root: Path) -> FileSequence:
    dataset, scene, options, _ = CASES[name]
    sequence = open_adapter(dataset, root, options).open(scene, Selection())
    assert isinstance(sequence, FileSequence)
    return sequence


def scenes(name: str, root: Path) -> tuple[str, ...]:
    dataset, _, options, _ = CASES[name]
    return tuple(open_adapter(dataset, root, options).scenes())


def frames(name: str, root: Path) -> list[tuple[object, ...]]:
    """What each frame is, without its pixels; images by their numbers, whatever the letters of their suffixes."""
    sequence = opened(name, root)
    read = zip(sequence.files, sequence.frames(images=False), strict=True)
    return [
        (
            file.image.relative_to(root).with_suffix(""),
            file.depth and file.depth.relative_to(root).with_suffix(""),
            frame.timestamp,
            None if frame.camera_to_world is None else frame.camera_to_world.tobytes(),
            None if frame.intrinsics is None else frame.intrinsics.tobytes(),
            None if frame.depth is None else frame.depth.tobytes(),
        )
        for file, frame in read
    ]


def clutter(root: Path) -> None:
    """What macOS, Windows, network disks and browsers leave beside and above the files."""
    twin = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60)
    files = [path for path in root.rglob("*") if path.is_file()]
    for folder in {root, *(path.parent for path in files)}:
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (folder / "README.txt").write_text("Please cite us.\n")
    for path in files:
        mirror = root / "__MACOSX" / path.relative_to(root)
        mirror.parent.mkdir(parents=True, exist_ok=True)
        for place in (path.with_name(f"._{path.name}"), mirror.with_name(f"._{path.name}")):
            place.write_bytes(twin)
        for unfinished in (".part", ".crdownload", ".tmp", "~"):
            path.with_name(path.name + unfinished).write_bytes(b"half")


def retyped(root: Path) -> None:
    """Texts as an editor on Windows saves them."""
    for path in root.rglob("*"):
        if path.suffix in TEXTS:
            lines = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b" \r\n")
            path.write_bytes(b"\xef\xbb\xbf" + lines + b"\r\n \r\n")


def shortened(root: Path) -> None:
    """Texts without a line end behind their last line."""
    for path in root.rglob("*"):
        if path.suffix in TEXTS:
            path.write_bytes(path.read_bytes().rstrip())


def in_capitals(root: Path) -> None:
    for path in list(root.rglob("*")):
        if path.suffix in (".png", ".jpg"):
            path.rename(path.with_suffix(path.suffix.upper()))


CHANGES = {change.__name__: change for change in (clutter, retyped, shortened, in_capitals)}


@pytest.mark.parametrize(
    ("name", "change"), [(name, how) for name in CASES for how in CHANGES if how != "in_capitals" or name not in LISTED]
)
def test_copies_read_as_the_release(name: str, change: str, tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = tmp_path / "this" / "alone" / "data"
    shutil.copytree(tree(name), root)
    CHANGES[change](root)
    assert scenes(name, root) == scenes(name, tree(name))
    assert frames(name, root) == frames(name, tree(name))
    assert opened(name, root).notes == opened(name, tree(name)).notes


@pytest.mark.parametrize("name", ["tum_dynamics", "bonn", "euroc"])
def test_a_list_none_of_whose_images_is_there_says_so(name: str, tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = tmp_path / "this" / "alone" / "data"
    shutil.copytree(tree(name), root)
    in_capitals(root)
    with pytest.raises(DataError, match=r"none of its \d+ images is (there, such as|in) .*/"):
        opened(name, root)
