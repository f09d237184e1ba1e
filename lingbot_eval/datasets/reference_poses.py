"""Reference poses of a trajectory file put to the frames of a scene, and what must be said of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lingbot_eval.errors import DataError
from lingbot_eval.files.times import Clock, pair_times
from lingbot_eval.files.trajectories import TrajectoryFile
from lingbot_eval.types import FloatArray


def poses_by_time(
    trajectory: TrajectoryFile,
    times: FloatArray,
    max_difference: float,
    images: str,
    advice: str = "is it the ground truth of this scene?",
) -> dict[int, FloatArray]:
    """Image → (4, 4) pose nearest in time, one to one. times: (N,) seconds of the images. images: what they are called.
    advice: the end of the message.

    Raises DataError, one line with both spans, when nothing pairs.
    """
    clock = Clock(images, times, "frames")
    image_index, pose_index = pair_times(clock, trajectory.clock(str(trajectory.path)), max_difference, advice)
    poses = trajectory.camera_to_world
    return {int(i): poses[p] for i, p in zip(image_index.tolist(), pose_index.tolist(), strict=True)}


def poses_by_number(trajectory: TrajectoryFile, last: int) -> dict[int, FloatArray]:
    """Number of an image, from 0 → its (4, 4) pose, which is the row of this number.

    Raises DataError where images up to number ``last`` have no row.
    """
    if trajectory.rows <= last:
        raise DataError(
            f"{trajectory.path}: expected a row for each image up to number {last}, found {trajectory.rows} rows; are"
            " poses and images of one sequence?"
        )
    return trajectory.by_row()


def moved(
    poses: Mapping[int, FloatArray], body: FloatArray | None, into_world: FloatArray | None = None
) -> dict[int, FloatArray]:
    """Poses of a camera on a body, from those of the body.

    body: (4, 4) camera-to-body; None: the poses are the camera's. into_world: (4, 4) from the world of the poses to
    another, or None.
    """
    if not poses:
        return {}
    stacked = np.stack(list(poses.values()))
    stacked = stacked if body is None else stacked @ body
    return dict(zip(poses, stacked if into_world is None else into_world @ stacked, strict=True))


def facts_of(trajectory: TrajectoryFile, used: int) -> dict[str, Any]:
    """What a scene records of its trajectory file: counts, and the reader's notes where there are any."""
    found: dict[str, Any] = {"poses_in_file": trajectory.rows, "images_with_pose": used}
    if trajectory.lost:
        found["lost_poses"] = trajectory.lost
    if trajectory.repeated:
        found["repeated_stamps"] = trajectory.repeated
    return {"found": found, **({"notes": list(trajectory.notes)} if trajectory.notes else {})}
