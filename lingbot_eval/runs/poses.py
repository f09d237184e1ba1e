"""Poses kept while a scene streams: the one thing that grows with its length, 144 bytes a frame."""

from __future__ import annotations

from array import array

import numpy as np

from lingbot_eval.types import FloatArray, Trajectory


class PoseLog:
    """Collects poses by frame; ``trajectory`` gives them as one object."""

    def __init__(self) -> None:
        self._indices = array("q")
        self._timestamps = array("d")
        self._poses = array("d")
        self._has_orientation = True

    def append(
        self, index: int, timestamp: float, camera_to_world: FloatArray, *, has_orientation: bool = True
    ) -> None:
        """Keep a (4, 4) pose. Raises ValueError for another shape (a fault of the method)."""
        pose = np.ascontiguousarray(camera_to_world, dtype=np.float64)
        if pose.shape != (4, 4):
            raise ValueError(f"expected a (4, 4) pose of frame {index}, found shape {pose.shape}")
        self._indices.append(index)
        self._timestamps.append(timestamp)
        self._poses.frombytes(pose.tobytes())
        self._has_orientation = self._has_orientation and has_orientation

    def trajectory(self) -> Trajectory:
        """Everything kept so far, as arrays of its own."""
        return Trajectory(
            indices=np.array(self._indices, dtype=np.int64),
            timestamps=np.array(self._timestamps, dtype=np.float64),
            camera_to_world=np.array(self._poses, dtype=np.float64).reshape(-1, 4, 4),
            has_orientation=self._has_orientation,
        )
