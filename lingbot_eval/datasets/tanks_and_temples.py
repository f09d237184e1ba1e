"""Tanks and Temples: video frames around objects and through rooms with COLMAP poses (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.image_folder import gap_notes, numbering_of
from lingbot_eval.datasets.listing import numbered_files, scene_folders, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.reference_poses import facts_of
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, selected
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.trajectories import read_trajectory

_IMAGE = re.compile(r"(\d{1,9})\.(?:jpg|jpeg|png)", re.IGNORECASE)


class TanksAndTemplesOptions(BaseModel):
    """There is nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TanksAndTemplesAdapter:
    """ROOT/SCENE/{NNNNNN.jpg, SCENE_COLMAP_SfM.log}."""

    name = "tanks_and_temples"
    Options = TanksAndTemplesOptions

    def __init__(self, root: Path, options: TanksAndTemplesOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Folders with their camera log. Raises DataError for a root of another shape."""
        layout = "ROOT/SCENE folders with SCENE_COLMAP_SfM.log"
        return tuple(scene_folders(self._root, "tanks_and_temples", layout, _is_scene))

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One scene. Raises DataError when it is not there or images and log do not fit together."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene("tanks_and_temples", scene, scenes)
        folder = self._root / scene
        images = numbered_files(folder, _IMAGE, "tanks_and_temples")
        chosen = [list(images)[i] for i in selected("tanks_and_temples", scene, selection, len(images))]
        log = _log(folder)
        # Images count from 1, the log from 0.
        trajectory = read_trajectory(log, "log")
        poses = {entry + 1: row for row, entry in enumerate(trajectory.indices.tolist())}
        stray = sorted(set(poses) - set(images))
        if stray:
            line = int(trajectory.lines[poses[stray[0]]])
            raise DataError(
                f"{at(log, line)}: a pose for image {stray[0]:06d}, which is not in {folder}; {len(stray)} in all have"
                " no image: is the set of images complete, and counted from 1?"
            )
        return FileSequence(
            dataset="tanks_and_temples",
            scene=scene,
            root=self._root,
            files=[
                FrameFiles(images[n], float(n - 1), trajectory.camera_to_world[poses[n]] if n in poses else None)
                for n in chosen
            ],
            intrinsics=None,
            conventions={
                "poses": "COLMAP, camera-to-world, in COLMAP's own unit of length, not metres; entry n for image n + 1",
                "depth": "none",
                "intrinsics": "none",
                "timestamps": "number of the image - 1; the dataset has none",
                **facts_of(trajectory, len(poses)),
                "licence": "CC BY-NC-SA 3.0 (Tanks and Temples training data); see the dataset's page",
            },
            index_files=(log,),
            notes=gap_notes(numbering_of(list(images))),
        )


def _log(scene: Path) -> Path:
    return scene / f"{scene.name}_COLMAP_SfM.log"


def _is_scene(folder: Path) -> bool:
    return _log(folder).is_file()
