"""The synthetic dataset: made-up places as scenes, any length and size, nothing on disk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from lingbot_eval.datasets.sequence import Selection, selected
from lingbot_eval.datasets.synthetic.plans import PLANS
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.geometry.cameras import pinhole
from lingbot_eval.settings import StrictModel, nearest
from lingbot_eval.types import FloatArray, Frame, Trajectory

if TYPE_CHECKING:
    from lingbot_eval.datasets.synthetic.render import Renderer
    from lingbot_eval.datasets.synthetic.scene import CameraPath, Scene

GENERATOR_VERSION = 1
"""Part of every fingerprint: raise it when the same settings give other pictures."""

_SCENE = re.compile(r"([a-z_]+?)(?:-(\d{1,9}))?")


class SyntheticOptions(StrictModel):
    """What is rendered.

    frames: of a sequence. width, height: pixels. fov: horizontal field of view in degrees. fps: frames a second.
    step: metres walked between frames; ``laps`` instead spreads that many rounds over the sequence, so that a
    whole number ends where it began. motion: ``walk`` goes on all the time; in the middle third of the frames
    ``standstill`` stands and ``rotation`` turns once about itself, on the spot; ``revisit`` turns back at the middle
    frame and sees every view again, the last frame that of the first. seed: of the first variant; ``variants``: how
    many seeds of every kind ``scenes: all`` means. exposure_variation: greatest relative change of brightness along
    the sequence, 0 = none.
    """

    frames: Annotated[int, Field(ge=1, le=10_000_000)] = 300
    width: Annotated[int, Field(ge=16, le=4096)] = 224
    height: Annotated[int, Field(ge=16, le=4096)] = 168
    fov: Annotated[float, Field(ge=20.0, le=140.0)] = 70.0
    fps: Annotated[float, Field(gt=0.0, le=1000.0)] = 30.0
    step: Annotated[float, Field(gt=0.0, le=10.0)] = 0.05
    laps: Annotated[float, Field(gt=0.0, le=10_000.0)] | None = None
    motion: Literal["walk", "standstill", "rotation", "revisit"] = "walk"
    seed: Annotated[int, Field(ge=0, lt=10**9)] = 0
    variants: Annotated[int, Field(ge=1, le=10_000)] = 1
    exposure_variation: Annotated[float, Field(ge=0.0, le=0.8)] = 0.0

    @model_validator(mode="after")
    def _one_speed(self) -> SyntheticOptions:
        if self.laps is not None and "step" in self.model_fields_set:
            raise ValueError("step: cannot be given together with 'laps', which decides the speed; keep one")
        return self


class SyntheticAdapter:
    """Scenes are kinds of places, with a seed after a hyphen where it is not that of the options: ``office-7``."""

    name = "synthetic"
    Options = SyntheticOptions

    def __init__(self, root: Path | None, options: SyntheticOptions) -> None:
        if root is not None:
            raise ConfigError(f"dataset synthetic is made, not read: expected no root, found {root}; leave it out")
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """``room``, ``corridor`` … for one variant; ``room-0``, ``room-1`` … for several."""
        if self._options.variants == 1:
            return tuple(PLANS)
        seeds = range(self._options.seed, self._options.seed + self._options.variants)
        return tuple(f"{kind}-{seed}" for kind in PLANS for seed in seeds)

    def open(self, scene: str, selection: Selection) -> SyntheticSequence:
        """A sequence of a kind in PLANS. Raises DataError for another name, and for a selection of no frames."""
        match = _SCENE.fullmatch(scene)
        kind = match[1] if match else scene
        if match is None or kind not in PLANS:
            raise DataError(
                f"synthetic: no scene {scene!r}{nearest(kind, PLANS)}; there are {', '.join(PLANS)},"
                " each also with a seed, such as room-7"
            )
        indices = selected(self.name, scene, selection, self._options.frames)
        seed = self._options.seed if match[2] is None else int(match[2])
        return SyntheticSequence(scene, kind, seed, self._options, indices)


@dataclass(frozen=True, eq=False)
class SyntheticSequence:
    """A walk through one place (a FrameSequence); the place is built when the first frame or pose is asked for."""

    scene: str
    kind: str
    seed: int
    options: SyntheticOptions
    indices: range

    @property
    def dataset(self) -> str:
        return "synthetic"

    @property
    def length(self) -> int:
        return len(self.indices)

    @property
    def intrinsics(self) -> FloatArray:
        """(3, 3) pinhole with square pixels; pixel (0, 0) is the centre of the top left pixel."""
        width, height = self.options.width, self.options.height
        focal = width / 2 / np.tan(np.radians(self.options.fov) / 2)
        return pinhole(focal, focal, (width - 1) / 2, (height - 1) / 2)

    @cached_property
    def place(self) -> Scene:
        """Geometry, textures and light."""
        from lingbot_eval.datasets.synthetic.scene import build_scene

        return build_scene(self.kind, self.seed)

    @cached_property
    def _path(self) -> CameraPath:
        from lingbot_eval.datasets.synthetic.scene import CameraPath

        return CameraPath(self.place.walk, self.seed)

    def frames(self, *, images: bool = True, depth: bool = True) -> Iterator[Frame]:
        """Frames in order; each is computed by itself."""
        for load in self.loaders(images=images, depth=depth):
            yield load()

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        from lingbot_eval.datasets.synthetic.render import Renderer

        renderer = Renderer(self.place, self.intrinsics, (self.options.width, self.options.height))
        for index, source_index in enumerate(self.indices):
            yield partial(self._frame, renderer, index, self._pose(source_index), images=images, depth=depth)

    def _frame(self, renderer: Renderer, index: int, pose: FloatArray, *, images: bool, depth: bool) -> Frame:
        source_index = self.indices[index]
        image = depth_map = None
        if images:
            image, depth_map = renderer.image_and_depth(pose, self._exposure(source_index))
        elif depth:
            depth_map = renderer.depth(pose)
        return Frame(
            index=index,
            timestamp=source_index / self.options.fps,
            image=image,
            source=f"synthetic/{self.scene} frame {source_index}",
            camera_to_world=pose,
            depth=depth_map if depth else None,
            intrinsics=self.intrinsics,
        )

    def reference(self) -> Trajectory:
        """Exact poses of all frames."""
        poses = np.stack([self._pose(source_index) for source_index in self.indices])
        return Trajectory(np.arange(self.length), self.timestamps(), poses)

    def timestamps(self) -> FloatArray:
        """(length,) seconds at the options' frame rate."""
        return np.asarray(self.indices, np.float64) / self.options.fps

    def fingerprint(self) -> str:
        """Digest of everything that the generator is given."""
        settings = {key: value for key, value in self._stated.items() if key not in ("variants", "seed")}
        key = [
            GENERATOR_VERSION,
            self.kind,
            self.seed,
            settings,
            list(self.indices[:1]),
            self.indices.step,
            self.length,
        ]
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()

    def facts(self) -> Mapping[str, Any]:
        """Conventions and settings for the record."""
        return {
            "source": f"generated: {self.kind}, seed {self.seed}, generator version {GENERATOR_VERSION}",
            "options": self._stated,
            "poses": "exact, camera-to-world, OpenCV camera axes, metres, world z up",
            "depth": "exact, along the optical axis, metres, every pixel",
            "intrinsics": "exact pinhole, pixel (0, 0) is the centre of the top left pixel",
            "timestamps": f"frame number / {self.options.fps:g} Hz",
            "licence": "generated by the project (Apache-2.0)",
        }

    @property
    def _stated(self) -> dict[str, Any]:
        """The options; a plain walk goes without saying, as when there was nothing else."""
        return self.options.model_dump(exclude={"motion"} if self.options.motion == "walk" else set())

    def _pose(self, source_index: int) -> FloatArray:
        laps = self.options.laps
        step = self.options.step if laps is None else laps * self.place.walk.length / self.options.frames
        walked, turned = self._motion(source_index)
        pose = self._path.camera_to_world(walked * step)
        cos, sin = np.cos(turned), np.sin(turned)
        pose[:2, :3] = np.array([[cos, -sin], [sin, cos]]) @ pose[:2, :3]  # about the vertical, on the spot
        return pose

    def _motion(self, source_index: int) -> tuple[int, float]:
        """Steps walked until a frame, and the turn about the vertical in radians besides."""
        frames, motion = self.options.frames, self.options.motion
        if motion == "walk":
            return source_index, 0.0
        if motion == "revisit":
            return min(source_index, frames - 1 - source_index), 0.0
        # Of the middle third all frames are at the place of its first.
        begin, end = frames // 3, 2 * frames // 3
        share = min(max(source_index - begin, 0), end - begin) / max(end - begin, 1)
        walked = source_index - round(share * (end - begin))
        return walked, 2 * np.pi * share if motion == "rotation" and share < 1 else 0.0

    def _exposure(self, source_index: int) -> float:
        if self.options.exposure_variation == 0.0:
            return 1.0
        phase = np.random.default_rng([self.seed, 5]).uniform(0, 2 * np.pi, 2)
        seconds = source_index / self.options.fps
        wave = 0.6 * np.sin(2 * np.pi * seconds / 7.0 + phase[0]) + 0.4 * np.sin(2 * np.pi * seconds / 2.9 + phase[1])
        return float(1.0 + self.options.exposure_variation * wave)
