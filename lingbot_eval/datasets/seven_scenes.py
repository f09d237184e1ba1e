"""7-Scenes: indoor RGB-D sequences with KinectFusion poses (protocol.md section 2)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import existing_folder, folders_in, names_in, shown
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.text import numbered_lines
from lingbot_eval.geometry.cameras import pinhole
from lingbot_eval.settings import StrictModel

COLOUR_INTRINSICS = pinhole(525.0, 525.0, 320.0, 240.0)
DEPTH_INTRINSICS = pinhole(585.0, 585.0, 320.0, 240.0)  # of frame-*.depth.png, the sensor's own view
FRAMES_PER_SECOND = 30.0  # the sensor's rate; the dataset itself has no timestamps

_SPLIT_LINE = re.compile(r"sequence\s*(\d{1,9})", re.IGNORECASE)
_SEQUENCE = re.compile(r"seq-\d+")
_FILE = re.compile(r"frame-(\d{1,9})\.(color|depth\.proj|depth|pose)\.(png|jpg|jpeg|txt)", re.IGNORECASE)


class SevenScenesOptions(StrictModel):
    """split: which sequences ``scenes: all`` means; ``all`` takes every sequence on disk, split files or not."""

    split: Literal["test", "train", "all"] = "test"


class SevenScenesAdapter(FileDataset):
    """ROOT/SCENE/seq-NN; each sequence is a scene called ``SCENE/seq-NN``."""

    name = "seven_scenes"
    layout = "ROOT/SCENE/seq-NN folders"
    licence = "Microsoft Research 7-Scenes licence: research use only"
    Options = SevenScenesOptions

    def scenes(self) -> tuple[str, ...]:
        """Sequences of the split. Raises DataError for a root of another shape and for missing or wrong split files."""
        found = [
            f"{place}/{sequence}"
            for place in self._places()
            for sequence in (self._on_disk(place) if self.options.split == "all" else self._in_split(place))
        ]
        if not found:
            raise DataError(
                f"seven_scenes: no sequence in split '{self.options.split}' under {self.root}; set options.split to"
                " another split, or to all"
            )
        return tuple(found)

    def known_scenes(self) -> list[str]:
        return [f"{place}/{sequence}" for place in self._places() for sequence in self._on_disk(place)]

    def read(self, scene: str) -> FileSequence:
        """One sequence, in whichever split it is. Raises DataError when it has no frames."""
        folder = self.root / scene
        numbered = _frames_in(folder)
        numbers = sorted(number for number, files in numbered.items() if "color" in files)
        if not numbers:
            raise DataError(
                f"seven_scenes: scene {scene} in {folder} has no frames (frame-NNNNNN.color.png or .jpg);"
                f" it holds {shown(names_in(folder), 6)}"
            )
        files = [_frame_files(folder, number, numbered[number]) for number in numbers]
        return self.sequence(
            scene,
            files,
            COLOUR_INTRINSICS,
            {
                "poses": "KinectFusion, camera-to-world, metres, as in the files (rotations orthogonal to about 1e-3)",
                "depth": "uint16 millimetres, 0 and 65535 invalid",
                "depth_registered_frames": sum(f.depth is not None and f.depth_intrinsics is None for f in files),
                "depth_registration": "frame-*.depth.proj.png as it is; frame-*.depth.png (K = 585) looked up along the"
                " colour camera's rays, the distance between the sensors not corrected",
                "intrinsics": "nominal, of the colour camera: 525, 525, 320, 240 (585 is the depth camera's)",
                "intrinsics_source": "nominal",
                "timestamps": f"frame number / {FRAMES_PER_SECOND:g} Hz (nominal)",
                "frames_without_image": len(numbered) - len(numbers),
            },
            numbers=numbers,
        )

    def _places(self) -> list[str]:
        root = existing_folder(self.root, "root of dataset seven_scenes")
        places = [name for name in folders_in(root) if self._on_disk(name)]
        if places:
            return places
        raise DataError(f"seven_scenes: expected ROOT/SCENE/seq-NN folders under {root}, {self._shape_hint(root)}")

    def _shape_hint(self, root: Path) -> str:
        folders = folders_in(root)
        if any(_SEQUENCE.fullmatch(name) for name in folders):
            return f"found sequences directly in it: the root is one level too low, use {root.parent}"
        names = names_in(root)
        if any(_FILE.fullmatch(name) for name in names):
            return f"found frames in it: the root is two levels too low, use {root.parent.parent}"
        for name in folders:
            if any(_sequences(root / name / inner) for inner in folders_in(root / name)):
                return f"found them under {name}: the root is one level too high, use {root / name}"
        archives = [name for name in names if name.endswith(".zip")]
        if archives:
            return f"found archives ({shown(archives, 4)}): unpack them, and the seq-NN.zip files inside them"
        return f"found {shown(names)}"

    def _on_disk(self, place: str) -> list[str]:
        return _sequences(self.root / place)

    def _in_split(self, place: str) -> Iterator[str]:
        path = self.root / place / f"{self.options.split.capitalize()}Split.txt"
        there = self._on_disk(place)
        seen: dict[str, int] = {}
        for number, line in numbered_lines(path, "split file"):
            match = _SPLIT_LINE.fullmatch(line)
            if match is None:
                raise DataError(f"{at(path, number)}: expected 'sequenceN', found {line[:60]!r}")
            name = f"seq-{int(match[1]):02d}"
            if name not in there:
                raise DataError(
                    f"{at(path, number)}: {name} is listed but {self.root / place} holds only {shown(there)};"
                    " unpack or download it, name the scenes you want, or set options.split to all"
                )
            if name in seen:
                raise DataError(f"{at(path, number)}: {name} is in line {seen[name]} already; keep one of the lines")
            seen[name] = number
            yield name


def _sequences(folder: Path) -> list[str]:
    return [name for name in folders_in(folder) if _SEQUENCE.fullmatch(name)]


def _frames_in(folder: Path) -> dict[int, dict[str, str]]:
    """Frame number → kind of file → name."""
    frames: dict[int, dict[str, str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _FILE.fullmatch(entry.name)
            if match is None:
                continue
            kinds, kind = frames.setdefault(int(match[1]), {}), match[2].lower()
            if kind in kinds:
                raise DataError(
                    f"seven_scenes: {folder}: two files for the {kind} of frame {int(match[1])}:"
                    f" {shown(sorted((kinds[kind], entry.name)))}; remove one of them"
                )
            kinds[kind] = entry.name
    return frames


def _frame_files(folder: Path, number: int, files: dict[str, str]) -> FrameFiles:
    registered = files.get("depth.proj")
    depth = registered or files.get("depth")
    pose = files.get("pose")
    return FrameFiles(
        image=folder / files["color"],
        timestamp=number / FRAMES_PER_SECOND,
        pose=None if pose is None else folder / pose,
        depth=None if depth is None else folder / depth,
        depth_intrinsics=DEPTH_INTRINSICS if depth is not None and registered is None else None,
    )
