"""KITTI and TUM trajectory files are read exactly as evo reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evo.tools import file_interface

from lingbot_eval.files.trajectories import read_kitti, read_tum

REAL = Path(__file__).parents[3] / "shared" / "data" / "trajectories"
KITTI_FILES = ("KITTI_00_gt.txt", "KITTI_00_ORB.txt")
TUM_FILES = (
    "freiburg1_xyz-groundtruth.txt",
    "freiburg1_xyz-rgbdslam.txt",
    "freiburg1_xyz-rgbdslam_drift.txt",
    "freiburg1_xyz-ORB_kf_mono.txt",
)


def same_kitti(path: Path) -> None:
    theirs = file_interface.read_kitti_poses_file(str(path))
    np.testing.assert_array_equal(read_kitti(path).camera_to_world, np.stack(theirs.poses_se3))


def same_tum(path: Path) -> None:
    theirs, ours = file_interface.read_tum_trajectory_file(str(path)), read_tum(path)
    assert ours.timestamps is not None
    np.testing.assert_array_equal(ours.timestamps, theirs.timestamps)
    np.testing.assert_array_equal(ours.camera_to_world[:, :3, 3], theirs.positions_xyz)
    np.testing.assert_allclose(ours.camera_to_world, np.stack(theirs.poses_se3), atol=1e-12)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real trajectories are not beside the checkout")
@pytest.mark.parametrize("name", [*KITTI_FILES, *TUM_FILES])
def test_real_files(name: str) -> None:
    (same_kitti if name in KITTI_FILES else same_tum)(REAL / name)


def test_written_files(tmp_path: Path) -> None:
    angles = np.linspace(0, 3, 20)
    tum, kitti = tmp_path / "tum.txt", tmp_path / "kitti.txt"
    tum.write_text(
        "# time tx ty tz qx qy qz qw\n"
        + "".join(
            f"{1305031098.6659 + a:.4f} {a:.4f} {-a:.4f} 1.5 0.0 {np.sin(a / 2):.4f} 0.0 {np.cos(a / 2):.4f}\n"
            for a in angles
        )
    )
    rows = [[np.cos(a), 0, np.sin(a), a, 0, 1, 0, 2 * a, -np.sin(a), 0, np.cos(a), 3 * a] for a in angles]
    kitti.write_text("".join(" ".join(f"{value:.6e}" for value in row) + "\n" for row in rows))
    same_tum(tum)
    same_kitti(kitti)
