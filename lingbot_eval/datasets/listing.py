"""Looking at folders: what is there, in natural order, and how to say that what was wanted is not."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from lingbot_eval.errors import DataError, UnknownSceneError, reason
from lingbot_eval.files.reading import finite_number
from lingbot_eval.files.times import read_stamps
from lingbot_eval.settings import nearest
from lingbot_eval.types import FloatArray

NUMBER = r"(\d{1,10})"
"""The number in the name of a file, for the patterns of `FileDataset.numbered`."""
IMAGE = r"\.(?:png|jpg|jpeg)"
"""The ending of an image, likewise."""

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")
_IMAGES = (".jpg", ".jpeg", ".png")
_NOT_OF_DATASETS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
"""Folders that archives, disks and network storage add; the first mirrors an archive's folders with other content."""
_FOLDERS_TRIED = 100  # a home folder given by mistake should not be searched through
_MOST_FOLDERS = 20_000  # listed for scenes that may lie some folders deeper; a root given by mistake is not a disk
_DIGITS = re.compile(r"(\d+)")
_TIME = re.compile(r"(\d{9,})\.(\d{1,18})(?!\d)")  # seconds since 1970 or nanoseconds, and a fraction


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``frame2`` comes before ``frame10``, and the time ``1700000000.05`` before ``….1``."""
    parts = _DIGITS.split(_TIME.sub(lambda match: f"{match[1]}.{match[2]:0<18}", name))
    # A number compares with a number and text with text; the text itself decides between 01 and 1.
    key = [(1, int(part), part) if part.isdecimal() else (0, 0, part.lower()) for part in parts]
    return [*key, (0, 0, name)]


def existing_folder(path: Path, what: str) -> Path:
    """``path``, or DataError that says how far the path exists and what lies there."""
    refuse_impossible(path, what)
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{what} {path} is a file, expected a folder")
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    names = names_in(parent)
    raise DataError(f"{what} {path} does not exist{nearest(path.name, names)}; {parent} holds {shown(names)}")


def refuse_impossible(path: Path, what: str) -> None:
    """Raises DataError for a path that the system cannot even look at; one that is not there passes."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # a name too long, no permission, a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{what} {shortened(path)} cannot be looked at: {reason}") from error


def shortened(path: Path) -> str:
    """A path for a message, its middle left out where nobody would read it all."""
    text = str(path)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 300 else f"{text[:140]} … {text[-140:]}"


def names_in(folder: Path) -> list[str]:
    """Names in a folder, in natural order. Raises DataError when it cannot be listed."""
    with _listing(folder):
        return sorted(os.listdir(folder), key=natural_key)  # noqa: PTH208 – names only, no Path a file


@contextmanager
def _listing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"folder {shortened(folder)} cannot be listed: {reason(error)}") from error


def names_listed(folder: Path) -> frozenset[str]:
    """Names in a folder, to ask which are there; none for a folder that is not. Raises DataError as `names_in`."""
    with _listing(folder):
        try:
            return frozenset(os.listdir(folder))  # noqa: PTH208 – names only, no Path a file
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder (links followed; left out are hidden ones and those that systems add), in
    natural order.
    """
    with _listing(folder), os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".") and entry.name.lower() not in _NOT_OF_DATASETS
        ]
    return sorted(names, key=natural_key)


def shown(names: Iterable[str], limit: int = 12) -> str:
    """A few names for a message, and how many more there are."""
    listed = list(names)
    if not listed:
        return "nothing"
    rest = f" … ({len(listed)} in all)" if len(listed) > limit else ""
    # A name from elsewhere may hold a line break; a message is one line.
    return ", ".join(name if name.isprintable() else repr(name) for name in listed[:limit]) + rest


def and_more(count: int) -> str:
    """What follows the first of several lines of one kind; "" for the only one."""
    return f" (and {count} more like it)" if count else ""


def root_hint(root: Path, is_root: Callable[[Path], bool]) -> str:
    """Why ``root`` is not the right folder, for a message: which one near it is, or archives, or what is there.

    is_root: whether a folder looks right; a folder that it cannot list does not.
    """
    root = root.absolute()
    for levels, parent in zip(("one level", "two levels"), root.parents, strict=False):
        if _looks_right(parent, is_root):
            return f"the root is {levels} too low, use {parent}"
    names = names_in(root)
    inner = [root / name for name in folders_in(root)[:_FOLDERS_TRIED]]
    for levels, folders in (("one level", inner), ("two levels", _folders_inside(inner))):
        for folder in folders:
            if _looks_right(folder, is_root):
                return f"the root is {levels} too high, use {folder}"
    archives = [name for name in names if name.lower().endswith(_ARCHIVES)]
    if archives:
        return f"found archives ({shown(archives, 4)}): unpack them"
    return f"found {shown(names)}"


def scene_folders(
    root: Path, dataset: str, layout: str, is_scene: Callable[[Path], bool], levels: int = 1
) -> dict[str, Path]:
    """Relative names (with ``/``) and paths of the scenes at most ``levels`` folders below ``root``, in natural order.

    Nothing is looked for inside a scene. Raises DataError that says which folder looks right.
    """
    existing_folder(root, f"root of dataset {dataset}")
    found = _scenes_below(root, is_scene, levels)
    if found:
        return found
    hint = root_hint(root, lambda folder: any(is_scene(folder / name) for name in folders_in(folder)))
    raise DataError(f"{dataset}: expected {layout} under {root}, {hint}")


def _scenes_below(root: Path, is_scene: Callable[[Path], bool], levels: int) -> dict[str, Path]:
    found: dict[str, Path] = {}
    level, looked_in = [("", root)], 0
    for _ in range(levels):
        below: list[tuple[str, Path]] = []
        for prefix, folder in level:
            looked_in += 1
            if looked_in > _MOST_FOLDERS:
                return found
            try:
                names = folders_in(folder)
            except DataError:  # one that may not be listed is no scene
                if folder == root:
                    raise
                continue
            for name in names:
                path = folder / name
                if is_scene(path):
                    found[prefix + name] = path
                else:
                    below.append((f"{prefix}{name}/", path))
        level = below
    return found


def _looks_right(folder: Path, is_root: Callable[[Path], bool]) -> bool:
    try:
        return is_root(folder)
    except DataError:
        return False


def _folders_inside(folders: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        with suppress(DataError):
            found += [folder / name for name in folders_in(folder)]
    return found[:_FOLDERS_TRIED]


def timed_files(folder: Path, dataset: str) -> tuple[list[Path], FloatArray]:
    """Images of ``folder`` whose names are times, in order of these, and the times in seconds.

    Raises DataError for a name that is no time, and for two files of one time.
    """
    names = [name for name in names_in(folder) if name.lower().endswith(_IMAGES) and not name.startswith(".")]
    stems = [name.rpartition(".")[0] for name in names]
    for name, stem in zip(names, stems, strict=True):
        finite_number(stem, f"{dataset}: {folder / name}", "a time in seconds as the name")
    if not names:
        return [], np.empty(0)
    stamped = sorted(zip(read_stamps(stems, "s")[0].tolist(), names, strict=True))
    for (before, first), (time, second) in itertools.pairwise(stamped):
        if time == before:
            raise DataError(
                f"{dataset}: {folder}: two images of one time: {shown((first, second))}; remove one of them"
            )
    return [folder / name for _, name in stamped], np.array([time for time, _ in stamped])


def unknown_scene(dataset: str, scene: str, scenes: Iterable[str]) -> UnknownSceneError:
    """The error for a scene that is not there, listing those that are."""
    listed = list(scenes)
    return UnknownSceneError(f"{dataset}: no scene {scene!r}{nearest(scene, listed)}; there are: {shown(listed, 30)}")


def inside(folder: Path, relative: str, place: str) -> Path:
    """``folder / relative``, where ``relative`` was read from a file; DataError when it leads out of the folder.

    Links inside the folder are the user's own and are followed.
    """
    path = Path(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative:
        raise DataError(f"{place}: expected a path inside {folder}, found {relative[:80]!r}")
    return folder / path
