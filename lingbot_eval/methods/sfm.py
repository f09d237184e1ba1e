"""The ``sfm`` method: COLMAP on the whole sequence, a baseline that is not causal."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lingbot_eval.errors import DataError, UnscorableError
from lingbot_eval.geometry.structure import Images, Mapper, Structure, pycolmap
from lingbot_eval.methods.base import Method
from lingbot_eval.methods.calibrating import CalibratingConfig, CalibratingMethod
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Prediction, StepCost


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
