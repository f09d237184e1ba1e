"""One pose as a 4×4 matrix: checked, and read from a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lingbot_eval.errors import DataError
from lingbot_eval.files.pose_tables import read_table, rigid
from lingbot_eval.files.text import read_text
from lingbot_eval.types import FloatArray


def checked_rigid(pose: FloatArray, place: str) -> FloatArray:
    """A (4, 4) pose as it is. Raises DataError when it is no rigid motion; rotations may be off by a little."""
    if not np.isfinite(pose).all():
        raise DataError(f"{place}: expected a rigid 4x4 pose, found numbers that are not finite")
    fault = rigid(pose)
    if fault is not None:
        raise DataError(
            f"{place}: expected a rigid 4x4 pose (rotation, translation, last line 0 0 0 1), found a matrix that is"
            f" none ({fault}); is it a pose of this dataset?"
        )
    return pose


def read_pose(path: Path) -> FloatArray | None:
    """(4, 4) float64 camera-to-world of a text file of four lines of four numbers, kept as it is in the file.

    None where its numbers are not finite: that is how such files say "lost". Raises DataError with file and line for
    another count, for words that are no numbers, and for a matrix that is no rigid motion; rotations may be off by a
    little, as those of real sensors are.
    """
    found = read_table(read_text(path, "pose"), path, "kitti").poses
    if len(found) != 1:
        raise DataError(f"{path}: expected the one 4x4 pose of a frame, found {len(found)}; is it of this dataset?")
    return found[0] if np.isfinite(found[0]).all() else None
