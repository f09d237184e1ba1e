"""Tanks and Temples: video frames around objects and through rooms with COLMAP poses (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import numbered_files
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.trajectories import read_trajectory

_IMAGE = re.compile(r"(\d{1,9})\.(?:jpg|jpeg|png)", re.IGNORECASE)


class TanksAndTemplesAdapter(FileDataset):
    """ROOT/SCENE/{NNNNNN.jpg, SCENE_COLMAP_SfM.log}."""

    name = "tanks_and_temples"
    layout = "ROOT/SCENE folders with SCENE_COLMAP_SfM.log"
    licence = "CC BY-NC-SA 3.0 (Tanks and Temples training data); see the dataset's page"

    def is_scene(self, folder: Path) -> bool:
        return _log(folder).is_file()

    def read(self, scene: str) -> FileSequence:
        """One scene. Raises DataError when images and log do not fit together."""
        folder = self.folders[scene]
        images = numbered_files(folder, _IMAGE, self.name)
        log = _log(folder)
        # Images count from 1, the log from 0.
        trajectory = read_trajectory(log, "log")
        poses = {entry + 1: row for row, entry in enumerate(trajectory.indices.tolist())}
        stray = sorted(set(poses) - set(images)) if images else []
        if stray:
            line = int(trajectory.lines[poses[stray[0]]])
            raise DataError(
                f"{at(log, line)}: a pose for image {stray[0]:06d}, which is not in {folder}; {len(stray)} in all have"
                " no image: is the set of images complete, and counted from 1?"
            )
        return self.sequence(
            scene,
            [
                FrameFiles(image, float(n - 1), trajectory.camera_to_world[poses[n]] if n in poses else None)
                for n, image in images.items()
            ],
            None,
            {
                "poses": "COLMAP, camera-to-world, in COLMAP's own unit of length, not metres; entry n for image n + 1",
                "timestamps": "number of the image - 1; the dataset has none",
            },
            trajectory=trajectory,
            numbers=list(images),
        )


def _log(scene: Path) -> Path:
    return scene / f"{scene.name}_COLMAP_SfM.log"
