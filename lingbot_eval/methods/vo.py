"""The ``vo`` method: causal monocular visual odometry, a baseline that runs on two cores."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lingbot_eval.errors import DataError, DependencyError
from lingbot_eval.geometry.cameras import guessed_intrinsics
from lingbot_eval.methods.base import Method
from lingbot_eval.methods.calibrating import CalibratingConfig, CalibratingMethod
from lingbot_eval.methods.odometry import Odometry
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Prediction, StepCost

DOUBT_OF_NOMINAL, DOUBT_OF_GUESS = 0.05, 0.3
"""Standard deviation of a focal length, as a share of it: of a data sheet's, of one that nobody has given."""


class VoConfig(CalibratingConfig):
    """Visual odometry on OpenCV's parts.

    intrinsics: ``auto`` takes the dataset's as they are where they were calibrated, and estimates the focal length
    along with the poses where they are nominal or there are none (a guess from the picture's size is the start then);
    ``fixed`` never estimates, ``refined`` always. seed: of the random samples.
    """

    kind: Literal["vo"]
    name: Annotated[str, Field(min_length=1)] = "vo"

    def create(self) -> Method:
        return VisualOdometry(self)

    def on_this_machine(self) -> VoConfig:
        """Raises DependencyError where OpenCV is missing."""
        opencv()
        return self


class VisualOdometry(CalibratingMethod):
    """Poses frame by frame, in a scale of its own; a lost frame has none. No depth."""

    def __init__(self, settings: VoConfig) -> None:
        super().__init__(settings)
        self._cv2 = opencv()
        self._odometry: Odometry | None = None
        self._focal = 0.0

    def describe(self) -> Mapping[str, Any]:
        """Settings, where the intrinsics come from, and what became of the frames."""
        facts = {**super().describe(), "opencv": self._cv2.__version__, "camera": self.camera}
        odometry = self._odometry
        if odometry is not None:
            facts["found"] = {
                "focal_px": round(self._focal * odometry.focal, 2),
                "keyframes": len(odometry.keyframes),
                "points": odometry.points,
                "lost_frames": odometry.lost,
                "frames_found_again": odometry.relocated,
            }
        return facts

    def open(self, sequence: FrameSequence) -> None:
        super().open(sequence)
        self._odometry = None

    def warm_up(self, frame: Frame) -> float:
        """Seconds that a first frame takes, whose features are found twice."""
        started = time.perf_counter()
        list(Odometry(self._cv2).step(0, *self._seen(frame)))
        return time.perf_counter() - started

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """A prediction a frame, without a pose where it is lost. Raises DataError for a frame without an image."""
        odometry = None
        known: dict[int, tuple[float, FloatArray, float]] = {}

        def prediction(index: int, pose: FloatArray | None) -> Prediction:
            timestamp, intrinsics, seconds = known.pop(index)
            focal = odometry.focal if odometry is not None else 1.0
            estimated = np.where(np.eye(3, dtype=bool), intrinsics * [focal, focal, 1.0], intrinsics)
            return Prediction(index, timestamp, pose, intrinsics=estimated, cost=StepCost(seconds))

        for frame in frames:
            image, intrinsics = self._seen(frame)
            if odometry is None:
                odometry = self._odometry = Odometry(self._cv2, self._doubt(frame), self.settings.seed)
                self._focal = float(intrinsics[0, 0])
            started = time.perf_counter()
            decided = list(odometry.step(frame.index, image, intrinsics))
            known[frame.index] = frame.timestamp, intrinsics, time.perf_counter() - started
            for index, pose in decided:
                yield prediction(index, pose)
        for index, pose in odometry.finish() if odometry is not None else ():
            yield prediction(index, pose)

    def _seen(self, frame: Frame) -> tuple[Any, FloatArray]:
        if frame.image is None:
            raise DataError(f"frame {frame.index}: visual odometry needs images, found none")
        height, width = frame.image.shape[:2]
        return frame.image, guessed_intrinsics(width, height) if frame.intrinsics is None else frame.intrinsics

    def _doubt(self, frame: Frame) -> float:
        """How much the focal length is in doubt."""
        if frame.intrinsics is not None:
            return DOUBT_OF_NOMINAL if self.refines(None) else 0.0
        guess = "guessed: focal length 0.7 of the longer side, principal point in the middle"
        return DOUBT_OF_GUESS if self.refines(guess) else 0.0


def opencv() -> ModuleType:
    """OpenCV's module. Raises DependencyError, one line, where it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise DependencyError(
            "method 'vo' needs OpenCV, which is not installed: pip install 'lingbot-eval[baselines]'"
        ) from error
    module: ModuleType = cv2
    return module
