"""KITTI odometry: driving sequences with GPS/INS poses (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.calibration import checked_pinhole, numbers
from lingbot_eval.datasets.image_folder import gap_notes, numbering_of
from lingbot_eval.datasets.listing import existing_folder, folders_in, numbered_files, root_hint, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.reference_poses import facts_of
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, selected
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.text import read_text
from lingbot_eval.files.trajectories import TrajectoryFile, read_kitti
from lingbot_eval.types import FloatArray

WITH_GROUND_TRUTH = tuple(f"{number:02d}" for number in range(11))

_SEQUENCE = re.compile(r"\d\d")
_IMAGE = re.compile(r"(\d{1,9})\.(?:png|jpg|jpeg)", re.IGNORECASE)


class KittiOptions(BaseModel):
    """There is nothing to choose: the left colour camera, image_2."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KittiAdapter:
    """ROOT/sequences/NN and ROOT/poses/NN.txt; each sequence is a scene called ``NN``."""

    name = "kitti"
    Options = KittiOptions

    def __init__(self, root: Path, options: KittiOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """All sequences on disk; those from 11 have no ground truth. Raises DataError for a root of another shape."""
        root = existing_folder(self._root, "root of dataset kitti")
        found = _sequences(root)
        if not found:
            hint = root_hint(root, lambda folder: bool(_sequences(folder)))
            raise DataError(f"kitti: expected sequences/NN folders under {root}, {hint}")
        return tuple(found)

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One sequence. Raises DataError when it is not there, or images, times and poses do not fit together."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene("kitti", scene, scenes)
        folder = self._root / "sequences" / scene
        images = numbered_files(folder / "image_2", _IMAGE, "kitti")
        chosen = [list(images)[i] for i in selected("kitti", scene, selection, len(images))]
        last = max(images)
        times = _times(folder / "times.txt", last)
        trajectory = self._trajectory(scene, last)
        poses = (
            {}
            if trajectory is None
            else dict(zip(trajectory.indices.tolist(), trajectory.camera_to_world, strict=True))
        )
        return FileSequence(
            dataset="kitti",
            scene=scene,
            root=self._root,
            files=[FrameFiles(images[n], float(times[n]), poses.get(n)) for n in chosen],
            intrinsics=_intrinsics(folder / "calib.txt"),
            conventions={
                "poses": "GPS/INS, camera-to-world of camera 0 (grey left), metres, row n for image n; the images are"
                " of camera 2, 6 cm beside it, as in the published protocol",
                "depth": "none",
                "intrinsics": "P2 of calib.txt (rectified)",
                "timestamps": "times.txt, seconds",
                **({} if trajectory is None else facts_of(trajectory, len(poses.keys() & images.keys()))),
                "licence": "CC BY-NC-SA 3.0 (KITTI)",
            },
            index_files=(
                folder / "calib.txt",
                folder / "times.txt",
                *(() if trajectory is None else (trajectory.path,)),
            ),
            notes=gap_notes(numbering_of(list(images))),
        )

    def _trajectory(self, scene: str, last: int) -> TrajectoryFile | None:
        path = self._root / "poses" / f"{scene}.txt"
        if scene not in WITH_GROUND_TRUTH and not path.is_file():
            return None
        trajectory = read_kitti(path)
        if trajectory.rows <= last:
            raise DataError(
                f"{path}: expected a row for each image up to number {last}, found {trajectory.rows} rows; are poses"
                " and images of one sequence?"
            )
        return trajectory


def _sequences(root: Path) -> list[str]:
    folder = root / "sequences"
    return [name for name in folders_in(folder) if _SEQUENCE.fullmatch(name)] if folder.is_dir() else []


def _times(path: Path, last: int) -> FloatArray:
    times: list[float] = []
    for number, line in enumerate(read_text(path, "list of times").split("\n"), start=1):
        if not line.strip():
            continue
        values = numbers(line, at(path, number))
        if len(values) != 1 or (times and values[0] <= times[-1]):
            raise DataError(f"{at(path, number)}: expected one time in seconds, later than before, found {line[:40]!r}")
        times += values
    if len(times) <= last:
        raise DataError(f"{path}: expected a time for each image up to number {last}, found {len(times)}")
    return np.array(times)


def _intrinsics(path: Path) -> FloatArray:
    for number, line in enumerate(read_text(path, "calibration").split("\n"), start=1):
        name, colon, rest = line.partition(":")
        if not colon or name.strip() != "P2":
            continue
        values = numbers(rest, at(path, number))
        if len(values) != 12:
            raise DataError(f"{at(path, number)}: expected the 12 numbers of P2, found {len(values)}")
        return checked_pinhole(np.array(values).reshape(3, 4)[:, :3], at(path, number))
    raise DataError(f"{path}: expected a line 'P2: …', found none; is it the calib.txt of the odometry benchmark?")
