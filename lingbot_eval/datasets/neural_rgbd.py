"""Neural RGB-D: synthetic rooms with noisy depth and exact poses in OpenGL axes (protocol.md section 2)."""

from __future__ import annotations

import re
from pathlib import Path

from lingbot_eval.datasets.calibration import read_numbers
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import numbered_files
from lingbot_eval.datasets.readers import png_depth
from lingbot_eval.datasets.reference_poses import moved, poses_by_number
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, pinhole
from lingbot_eval.errors import DataError
from lingbot_eval.files.pose_documents import OPENGL_TO_OPENCV
from lingbot_eval.files.trajectories import read_kitti

CENTRE = (320.0, 240.0)
NEAREST, FARTHEST = 0.001, 10.0  # metres of depth that are kept

_IMAGE = re.compile(r"img(\d{1,9})\.(?:png|jpg|jpeg)", re.IGNORECASE)
_DEPTH = re.compile(r"depth(\d{1,9})\.png", re.IGNORECASE)


class NeuralRgbdAdapter(FileDataset):
    """ROOT/SCENE/{images, depth, poses.txt, focal.txt}."""

    name = "neural_rgbd"
    layout = "ROOT/SCENE folders with images/ and poses.txt"
    licence = "see the dataset's page; not redistributed here"

    def is_scene(self, folder: Path) -> bool:
        return (folder / "images").is_dir() and (folder / "poses.txt").is_file()

    def read(self, scene: str) -> FileSequence:
        """One room. Raises DataError when it is malformed."""
        folder = self.folders[scene]
        images = numbered_files(folder / "images", _IMAGE, self.name)
        depths = numbered_files(folder / "depth", _DEPTH, self.name, optional=True)
        trajectory = read_kitti(folder / "poses.txt")
        poses = moved(poses_by_number(trajectory, max(images, default=0)), OPENGL_TO_OPENCV)
        focal = read_numbers(folder / "focal.txt", ("focal",))[0]
        if focal <= 0:
            raise DataError(f"{folder / 'focal.txt'}: expected a focal length in pixels, found {focal:g}")
        return self.sequence(
            scene,
            [FrameFiles(path, n / self.frames_per_second, poses.get(n), depths.get(n)) for n, path in images.items()],
            pinhole(focal, focal, *CENTRE),
            {
                "poses": "exact, camera-to-world, metres; OpenGL axes in the file, columns y and z negated",
                "depth": f"uint16 millimetres with simulated noise; {NEAREST:g} to {FARTHEST:g} m kept",
                "intrinsics": f"focal.txt, principal point {CENTRE[0]:g}, {CENTRE[1]:g}",
                "timestamps": self.nominal_times,
            },
            trajectory=trajectory,
            numbers=list(images),
            index_files=(folder / "focal.txt",),
            depth_reader=png_depth(1000.0, NEAREST, FARTHEST),
        )
