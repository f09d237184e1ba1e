"""KITTI odometry: driving sequences with GPS/INS poses (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.calibration import checked_pinhole, read_keyed, read_times
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import existing_folder, folders_in, numbered_files, root_hint
from lingbot_eval.datasets.reference_poses import poses_by_number
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError
from lingbot_eval.files.trajectories import TrajectoryFile, read_kitti
from lingbot_eval.types import FloatArray

WITH_GROUND_TRUTH = tuple(f"{number:02d}" for number in range(11))

_SEQUENCE = re.compile(r"\d\d")
_IMAGE = re.compile(r"(\d{1,9})\.(?:png|jpg|jpeg)", re.IGNORECASE)


class KittiOptions(BaseModel):
    """camera: ``image_2`` is the left colour camera, ``image_0`` the left grey one, whose poses the file has.

    None: image_2, or image_0 where only that is there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    camera: Literal["image_0", "image_1", "image_2", "image_3"] | None = None


class KittiAdapter(FileDataset):
    """ROOT/sequences/NN and ROOT/poses/NN.txt; each sequence is a scene called ``NN``."""

    name = "kitti"
    layout = "sequences/NN folders"
    licence = "CC BY-NC-SA 3.0 (KITTI)"
    Options = KittiOptions

    def scenes(self) -> tuple[str, ...]:
        """All sequences on disk; those from 11 have no ground truth. Raises DataError for a root of another shape."""
        root = existing_folder(self.root, "root of dataset kitti")
        found = _sequences(root)
        if not found:
            hint = root_hint(root, lambda folder: bool(_sequences(folder)))
            raise DataError(f"kitti: expected {self.layout} under {root}, {hint}")
        return tuple(found)

    def read(self, scene: str) -> FileSequence:
        """One sequence. Raises DataError when images, times and poses do not fit together."""
        folder = self.root / "sequences" / scene
        camera = self.options.camera or next((c for c in ("image_2", "image_0") if (folder / c).is_dir()), "image_2")
        images = numbered_files(folder / camera, _IMAGE, "kitti")
        last = max(images, default=-1)
        times = read_times(folder / "times.txt", last)
        trajectory = self._trajectory(scene)
        poses = {} if trajectory is None else poses_by_number(trajectory, last)
        beside = "" if camera == "image_0" else f"; the images are of camera {camera[-1]} beside it, as published"
        return self.sequence(
            scene,
            [FrameFiles(image, float(times[n]), poses.get(n)) for n, image in images.items()],
            _intrinsics(folder / "calib.txt", f"P{camera[-1]}"),
            {
                "poses": f"GPS/INS, camera-to-world of camera 0 (grey left), metres, row n for image n{beside}",
                "intrinsics": f"P{camera[-1]} of calib.txt (rectified)",
                "timestamps": "times.txt, seconds",
            },
            trajectory=trajectory,
            numbers=list(images),
            index_files=(folder / "calib.txt", folder / "times.txt"),
        )

    def _trajectory(self, scene: str) -> TrajectoryFile | None:
        path = self.root / "poses" / f"{scene}.txt"
        return read_kitti(path) if scene in WITH_GROUND_TRUTH or path.is_file() else None


def _sequences(root: Path) -> list[str]:
    folder = root / "sequences"
    return [name for name in folders_in(folder) if _SEQUENCE.fullmatch(name)] if folder.is_dir() else []


def _intrinsics(path: Path, name: str) -> FloatArray:
    values, place = read_keyed(path, {name: 12})[name]
    return checked_pinhole(values.reshape(3, 4)[:, :3], place)
