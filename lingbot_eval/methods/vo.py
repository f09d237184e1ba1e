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
from lingbot_eval.methods.base import BaseMethod, Method, MethodSettings
from lingbot_eval.methods.odometry import Odometry
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Prediction, StepCost

DOUBT_OF_NOMINAL, DOUBT_OF_GUESS = 0.05, 0.3
"""Standard deviation of a focal length, as a share of it: of a data sheet's, of one that nobody has given."""


class VoConfig(MethodSettings):
    """Visual odometry on OpenCV's parts.

    intrinsics: ``auto`` takes the dataset's as they are where they were calibrated, and estimates the focal length
    along with the poses where they are nominal or there are none (a guess from the picture's size is the start then);
    ``fixed`` never estimates, ``refined`` always. seed: of the random samples.
    """

    kind: Literal["vo"]
    name: Annotated[str, Field(min_length=1)] = "vo"
    intrinsics: Literal["auto", "fixed", "refined"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    def create(self) -> Method:
        return VisualOdometry(self)

    @property
    def gives_depth(self) -> bool:
        return False

    def on_this_machine(self) -> VoConfig:
        """Raises DependencyError where OpenCV is missing."""
        opencv()
        return self


class VisualOdometry(BaseMethod):
    """Poses frame by frame, in a scale of its own; a lost frame has none. No depth."""

    gives_depth = False

    def __init__(self, settings: VoConfig) -> None:
        super().__init__(settings)
        self._cv2 = opencv()
        self._nominal = False
        self._odometry: Odometry | None = None
        self._intrinsics = "not known before the first frame"
        self._focal = 0.0

    def describe(self) -> Mapping[str, Any]:
        """Settings, where the intrinsics come from, and what became of the frames."""
        facts = {**super().describe(), "opencv": self._cv2.__version__, "camera": self._intrinsics}
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
        self._nominal = sequence.facts().get("intrinsics_source") == "nominal"
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
        """How much the focal length is in doubt; says in the record where it comes from."""
        given = frame.intrinsics is not None
        source = "the dataset's, nominal" if self._nominal else "the dataset's, calibrated"
        if not given:
            source = "guessed: focal length 0.7 of the longer side, principal point in the middle"
        wanted = self.settings.intrinsics
        refined = wanted == "refined" or (wanted == "auto" and (self._nominal or not given))
        self._intrinsics = f"{source}; focal length {'estimated along with the poses' if refined else 'held'}"
        return (DOUBT_OF_NOMINAL if given else DOUBT_OF_GUESS) if refined else 0.0


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
