"""Neural RGB-D: synthetic rooms with noisy depth and exact poses in OpenGL axes (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.calibration import read_numbers
from lingbot_eval.datasets.image_folder import gap_notes, numbering_of
from lingbot_eval.datasets.listing import numbered_files, scene_folders, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.readers import png_depth
from lingbot_eval.datasets.reference_poses import facts_of
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, pinhole, selected
from lingbot_eval.errors import DataError
from lingbot_eval.files.pose_documents import OPENGL_TO_OPENCV
from lingbot_eval.files.trajectories import read_kitti

CENTRE = (320.0, 240.0)
NEAREST, FARTHEST = 0.001, 10.0  # metres of depth that are kept
FRAMES_PER_SECOND = 30.0  # nominal; the dataset has no timestamps

_IMAGE = re.compile(r"img(\d{1,9})\.(?:png|jpg|jpeg)", re.IGNORECASE)
_DEPTH = re.compile(r"depth(\d{1,9})\.png", re.IGNORECASE)


class NeuralRgbdOptions(BaseModel):
    """There is nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NeuralRgbdAdapter:
    """ROOT/SCENE/{images, depth, poses.txt, focal.txt}."""

    name = "neural_rgbd"
    Options = NeuralRgbdOptions

    def __init__(self, root: Path, options: NeuralRgbdOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Folders with ``images`` and ``poses.txt``. Raises DataError for a root of another shape."""
        layout = "ROOT/SCENE folders with images/ and poses.txt"
        return tuple(scene_folders(self._root, "neural_rgbd", layout, _is_scene))

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One room. Raises DataError when it is not there or malformed."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene("neural_rgbd", scene, scenes)
        folder = self._root / scene
        images = numbered_files(folder / "images", _IMAGE, "neural_rgbd")
        depths = numbered_files(folder / "depth", _DEPTH, "neural_rgbd") if (folder / "depth").is_dir() else {}
        chosen = [list(images)[i] for i in selected("neural_rgbd", scene, selection, len(images))]
        path = folder / "poses.txt"
        trajectory = read_kitti(path)
        poses = {row: pose @ OPENGL_TO_OPENCV for row, pose in trajectory.by_row().items()}
        if trajectory.rows <= max(images):
            raise DataError(
                f"{path}: expected a pose for each image up to number {max(images)}, found {trajectory.rows};"
                " are poses and images of one scene?"
            )
        focal = read_numbers(folder / "focal.txt", ("focal",))[0]
        if focal <= 0:
            raise DataError(f"{folder / 'focal.txt'}: expected a focal length in pixels, found {focal:g}")
        return FileSequence(
            dataset="neural_rgbd",
            scene=scene,
            root=self._root,
            files=[FrameFiles(images[n], n / FRAMES_PER_SECOND, poses.get(n), depths.get(n)) for n in chosen],
            intrinsics=pinhole(focal, focal, *CENTRE),
            conventions={
                "poses": "exact, camera-to-world, metres; OpenGL axes in the file, columns y and z negated",
                "depth": f"uint16 millimetres with simulated noise; {NEAREST:g} to {FARTHEST:g} m kept",
                "intrinsics": f"focal.txt, principal point {CENTRE[0]:g}, {CENTRE[1]:g}",
                "timestamps": f"number in the name / {FRAMES_PER_SECOND:g} Hz (nominal)",
                **facts_of(trajectory, len(poses.keys() & images.keys())),
                "licence": "see the dataset's page; not redistributed here",
            },
            index_files=(path, folder / "focal.txt"),
            notes=gap_notes(numbering_of(list(images))),
            depth_reader=png_depth(1000.0, NEAREST, FARTHEST),
        )


def _is_scene(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "poses.txt").is_file()
