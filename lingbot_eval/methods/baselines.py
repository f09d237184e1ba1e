"""Baselines and floors: what a method is held against. Poses alone, in a scale of their own, no depth.

``vo`` is causal monocular visual odometry that runs on two cores, ``sfm`` is COLMAP on the whole sequence, which is not
causal; both look at images through a camera that is known, in doubt or guessed. ``motionless`` and
``constant_velocity`` are the floors under every method: what poses are worth that come from no image and no truth.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lingbot_eval.errors import DataError, DependencyError, UnscorableError
from lingbot_eval.geometry.cameras import guessed_intrinsics
from lingbot_eval.geometry.structure import Images, Mapper, Structure, pycolmap
from lingbot_eval.methods.base import BaseMethod, Method, MethodSettings
from lingbot_eval.methods.odometry import Odometry
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Prediction, StepCost


class CalibratingConfig(MethodSettings):
    """Settings of a method that can estimate the focal length along with the poses."""

    intrinsics: Literal["auto", "fixed", "refined"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def gives_depth(self) -> bool:
        return False


class CalibratingMethod(BaseMethod):
    """Poses in a scale of their own, no depth. camera: what the record says of the intrinsics."""

    gives_depth = False

    def __init__(self, settings: CalibratingConfig) -> None:
        super().__init__(settings)
        self.camera = "not known before the first frame"
        self._nominal = False

    def open(self, sequence: FrameSequence) -> None:
        """Remember the scene, and whether its intrinsics are of a data sheet."""
        super().open(sequence)
        self._nominal = sequence.facts().get("intrinsics_source") == "nominal"

    def refines(self, guess: str | None) -> bool:
        """Whether the focal length is to be estimated; ``guess``: the camera in words where the dataset has none."""
        wanted = self.settings.intrinsics
        refined = wanted == "refined" or (wanted == "auto" and (self._nominal or guess is not None))
        source = guess or f"the dataset's, {'nominal' if self._nominal else 'calibrated'}"
        self.camera = f"{source}; focal length {'estimated along with the poses' if refined else 'held'}"
        return refined


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


class SfmConfig(CalibratingConfig):
    """Structure from motion by pycolmap.

    mapper: ``global`` places all images at once, ``incremental`` one after the other. intrinsics: ``auto`` holds the
    dataset's where they were calibrated, and estimates the focal length where they are nominal or there are none;
    ``fixed`` never estimates, ``refined`` always. seed: of the random samples.
    """

    kind: Literal["sfm"]
    name: Annotated[str, Field(min_length=1)] = "sfm"
    mapper: Mapper = "global"

    def create(self) -> Method:
        return StructureFromMotion(self)

    def on_this_machine(self) -> SfmConfig:
        """Raises DependencyError where pycolmap is missing."""
        pycolmap()
        return self


class StructureFromMotion(CalibratingMethod):
    """All poses after the last frame; images that COLMAP does not register have none. No depth."""

    def __init__(self, settings: SfmConfig) -> None:
        super().__init__(settings)
        self._version = str(pycolmap().__version__)
        self._structure: Structure | None = None

    def describe(self) -> Mapping[str, Any]:
        """Settings, where the intrinsics come from, and all models that were found."""
        facts = {
            **super().describe(),
            "pycolmap": self._version,
            "camera": self.camera,
            "causal": "no: every pose is of the whole sequence; seconds a frame are the total by the frames",
        }
        found = self._structure
        if found is not None:
            camera = next(iter(found.intrinsics.values()))
            facts["found"] = {
                "models": list(found.models),
                "points": found.points,
                "reprojection_px": round(found.reprojection_px, 4),
                "focal_px": [round(float(camera[0, 0]), 2), round(float(camera[1, 1]), 2)],
            }
        return facts

    def open(self, sequence: FrameSequence) -> None:
        super().open(sequence)
        self._structure = None

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """A prediction a frame, all after the last; without a pose where COLMAP has none.

        Raises:
            DataError: a frame without an image, images of several sizes, or no model at all.
        """
        began = time.perf_counter()
        waited = 0.0
        seen: list[Frame] = []
        with Images() as images:
            asked = time.perf_counter()
            for frame in frames:
                waited += time.perf_counter() - asked
                if frame.image is None:
                    raise DataError(f"frame {frame.index}: structure from motion needs images, found none")
                images.add(frame.image)
                seen.append(dataclasses.replace(frame, image=None, depth=None))
                asked = time.perf_counter()
            waited += time.perf_counter() - asked
            if not seen:
                return
            camera, refine = self._intrinsics(seen)
            try:
                found = images.structure(camera, refine=refine, mapper=self.settings.mapper, seed=self.settings.seed)
            except UnscorableError as error:
                raise DataError(str(error)) from error
        self._structure = found
        cost = StepCost((time.perf_counter() - began - waited) / len(seen))
        for number, frame in enumerate(seen):
            pose, intrinsics = found.camera_to_world.get(number), found.intrinsics.get(number)
            yield Prediction(frame.index, frame.timestamp, pose, intrinsics=intrinsics, cost=cost)

    def _intrinsics(self, seen: list[Frame]) -> tuple[FloatArray | None, bool]:
        """Those of all frames, and whether to estimate the focal length."""
        given = [frame.intrinsics for frame in seen if frame.intrinsics is not None]
        camera = given[0] if len(given) == len(seen) and np.ptp(np.stack(given), axis=0).max() < 1e-6 else None
        if camera is None:
            return None, self.refines("COLMAP's guess" if not given else "COLMAP's guess, as the frames' own differ")
        return camera, self.refines(None)


class _FloorConfig(MethodSettings):
    @property
    def needs_images(self) -> bool:
        return False

    @property
    def gives_depth(self) -> bool:
        return False

    def stream_key(self, frames: int) -> tuple[object, ...]:
        return ()


class MotionlessConfig(_FloorConfig):
    """A camera that never moves nor turns."""

    kind: Literal["motionless"]
    name: Annotated[str, Field(min_length=1)] = "motionless"

    def create(self) -> Method:
        return Floor(self, 0.0)

    @property
    def motionless(self) -> bool:
        return True


class ConstantVelocityConfig(_FloorConfig):
    """A camera that moves straight on along its optical axis, one unit a second, and never turns.

    The speed is arbitrary: whoever compares with it after an alignment with scale, as Sim(3), finds the best one.
    """

    kind: Literal["constant_velocity"]
    name: Annotated[str, Field(min_length=1)] = "constant_velocity"

    def create(self) -> Method:
        return Floor(self, 1.0)


class Floor(BaseMethod):
    """Every frame's pose by its time alone; images are not read."""

    needs_images = False
    gives_depth = False

    def __init__(self, settings: MethodSettings, speed: float) -> None:
        """``speed``: units a second along the optical axis."""
        super().__init__(settings)
        self._speed = speed

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """One pose a frame, from the first frame's camera."""
        start: float | None = None
        for frame in frames:
            start = frame.timestamp if start is None else start
            pose = np.eye(4)
            pose[2, 3] = self._speed * (frame.timestamp - start)
            yield Prediction(frame.index, frame.timestamp, pose)
