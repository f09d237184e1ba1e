"""VBR: long walks and drives in and around Rome, in the processed layout (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.calibration import read_matrix
from lingbot_eval.datasets.image_folder import gap_notes, numbering_of
from lingbot_eval.datasets.listing import numbered_files, scene_folders, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.reference_poses import facts_of
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, selected
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.trajectories import TrajectoryFile, read_tum
from lingbot_eval.types import FloatArray

_SUFFIX = "_processed_aligned"
_IMAGE = re.compile(r"(\d{1,9})\.(?:png|jpg|jpeg)", re.IGNORECASE)


class VbrOptions(BaseModel):
    """There is nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VbrAdapter:
    """ROOT/SCENE_processed_aligned and ROOT/processed_gt/SCENE_gt.txt; the scene is called SCENE."""

    name = "vbr"
    Options = VbrOptions

    def __init__(self, root: Path, options: VbrOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Folders called SCENE_processed_aligned. Raises DataError for a root of another shape."""
        layout = f"ROOT/SCENE{_SUFFIX} folders with rgb/"
        folders = scene_folders(self._root, "vbr", layout, _is_scene)
        return tuple(name.removesuffix(_SUFFIX) for name in folders)

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One walk. Raises DataError when it is not there or its poses are not of its frames."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene("vbr", scene, scenes)
        folder = self._root / f"{scene}{_SUFFIX}"
        images = numbered_files(folder / "rgb", _IMAGE, "vbr")
        chosen = [list(images)[i] for i in selected("vbr", scene, selection, len(images))]
        truth = self._root / "processed_gt" / f"{scene}_gt.txt"
        trajectory = read_tum(truth)
        poses = _poses(trajectory)
        if not poses.keys() & images.keys():
            raise DataError(
                f"{truth}: no pose is of a frame in {folder / 'rgb'}: poses are of frames {min(poses)} to {max(poses)},"
                f" images of {min(images)} to {max(images)}; is it the ground truth of this scene?"
            )
        return FileSequence(
            dataset="vbr",
            scene=scene,
            root=self._root,
            files=[FrameFiles(images[n], float(n), poses.get(n)) for n in chosen],
            intrinsics=read_matrix(folder / "intrinsics.txt"),
            conventions={
                "poses": "lidar, inertial and RTK-GPS fusion, camera-to-world, metres; time in the file = number in the"
                " image's name",
                "depth": "none",
                "intrinsics": "intrinsics.txt",
                "timestamps": "number of the frame; the processed layout has no times",
                **facts_of(trajectory, len(poses.keys() & images.keys())),
                "licence": "see the dataset's page; not redistributed here",
            },
            index_files=(truth, folder / "intrinsics.txt"),
            notes=gap_notes(numbering_of(list(images))),
        )


def _is_scene(folder: Path) -> bool:
    return folder.name.endswith(_SUFFIX) and (folder / "rgb").is_dir()


def _poses(trajectory: TrajectoryFile) -> dict[int, FloatArray]:
    poses = {}
    for stamp, pose, line in zip(
        trajectory.timestamps.tolist(), trajectory.camera_to_world, trajectory.lines.tolist(), strict=True
    ):
        if abs(stamp - round(stamp)) > 1e-6 or stamp < 0:
            raise DataError(
                f"{at(trajectory.path, line)}: expected the number of a frame as the time, found {stamp:.6f}; use"
                " processed_gt, not the raw ground truth"
            )
        poses[round(stamp)] = pose
    return poses
