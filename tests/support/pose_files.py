"""Pose files that only tests write."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lingbot_eval.types import FloatArray


def write_kitti(path: Path, camera_to_world: FloatArray) -> None:
    """(N, 4, 4) poses as KITTI lines, row i for frame i, each number with all its digits."""
    np.savetxt(path, camera_to_world[:, :3].reshape(-1, 12), fmt="%.17g")
