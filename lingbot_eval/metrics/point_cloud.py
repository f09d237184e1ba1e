"""Collects the true and the predicted cloud of a scene from depth maps, in bounded memory."""

from __future__ import annotations

import numpy as np

from lingbot_eval.errors import DataError
from lingbot_eval.geometry.cameras import world_points
from lingbot_eval.metrics.base import MetricFamily, SceneContext, ScoredScene, because
from lingbot_eval.metrics.points import PointPairs, PointSettings, score_points
from lingbot_eval.types import DepthMap, Frame, Measurement, Prediction


class CloudCollector:
    """Back-projects the pixels valid in both truth and prediction (protocol.md section 1, "Point cloud").

    Every k-th of them is kept; k doubles each time there are more than ``capacity``, 24 bytes each. limits: metres,
    true depth strictly between them is valid.
    """

    def __init__(self, capacity: int, limits: tuple[float, float]) -> None:
        self._capacity = capacity
        self._limits = limits
        self._clouds: list[tuple[DepthMap, DepthMap]] = []  # (n, 3) float32: truth, prediction
        self._every = 1
        self._kept = 0
        self._without: dict[str, int] = {}

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Take one frame; one that lacks something is counted with it. A method without intrinsics uses the frame's.

        Raises DataError when the shapes of the depth maps differ.
        """
        truth, guess = frame.depth, prediction.depth
        intrinsics = prediction.intrinsics if prediction.intrinsics is not None else frame.intrinsics
        pose = prediction.camera_to_world if prediction.has_orientation else None
        needed = {
            "true depth": truth,
            "predicted depth": guess,
            "reference pose": frame.camera_to_world,
            "estimated pose": pose,
            "reference intrinsics": frame.intrinsics,
            "intrinsics": intrinsics,
        }
        missing = next((name for name, value in needed.items() if value is None), None)
        true_pose, true_intrinsics = frame.camera_to_world, frame.intrinsics
        if truth is None or guess is None or true_pose is None or pose is None:
            self._count(str(missing))
            return
        if true_intrinsics is None or intrinsics is None:
            self._count(str(missing))
            return
        if truth.shape != guess.shape:
            raise DataError(
                f"frame {frame.index}: predicted depth of shape {guess.shape} does not match the true depth of shape"
                f" {truth.shape}; both must be at the prepared image size"
            )
        valid = (truth > self._limits[0]) & (truth < self._limits[1]) & (guess > 0) & np.isfinite(guess)
        offset = int(len(self._clouds) * 0.6180339887 % 1 * self._every)
        pixels = np.flatnonzero(valid)[offset :: self._every]
        if not len(pixels):
            return
        own = true_intrinsics if frame.depth_intrinsics is None else frame.depth_intrinsics
        true_points = world_points(truth, pixels, own, true_pose)
        points = world_points(guess, pixels, intrinsics, pose)
        self._clouds.append((true_points, points))
        self._kept += len(pixels)
        while self._kept > self._capacity:
            self._every *= 2
            self._clouds = [(t[::2].copy(), p[::2].copy()) for t, p in self._clouds]
            self._kept = sum(len(t) for t, _ in self._clouds)

    def _count(self, missing: str) -> None:
        self._without[missing] = self._without.get(missing, 0) + 1

    def pairs(self) -> PointPairs:
        """Both clouds, row by row from the same pixels; what they were thinned to is in ``sampled``."""
        truth, points = (
            np.concatenate([cloud[side] for cloud in self._clouds]) if self._clouds else np.empty((0, 3), np.float32)
            for side in range(2)
        )
        words = [f"every {self._every}th valid pixel"] if self._every > 1 else []
        words += [f"{count} frames without {name} left out" for name, count in self._without.items()]
        return PointPairs(truth, points, len(truth), sampled=", ".join(words))


class PointFamily(MetricFamily):
    """Point clouds of all frames against each other. Off unless asked for: it keeps up to 10 million points a scene,
    240 MB, and takes up to a minute and 2 GB to compare them."""

    Settings = PointSettings
    on = False

    def __init__(self, settings: PointSettings, context: SceneContext) -> None:
        super().__init__(settings, context)
        self._clouds = CloudCollector(settings.max_points, context.depth_limits) if context.gives_depth else None

    def add(self, frame: Frame, prediction: Prediction) -> dict[str, float | None]:
        if self._clouds is not None:
            self._clouds.add(frame, prediction)
        return {}

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        if self._clouds is None:
            nothing = PointPairs(np.empty((0, 3)), np.empty((0, 3)), 0)
            return because(score_points(nothing, self.settings).measurements, "the method gives no depth")
        return list(score_points(self._clouds.pairs(), self.settings).measurements)
