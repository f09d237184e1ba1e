"""Scenes and camera paths for training, built in order by worker processes; imports no torch, so workers start fast.

Training and validation scenes have seeds that no test scene has: an evaluation names scenes below TEST_SEEDS. A scene
travels from the process that builds it to the device as plain arrays.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.datasets.synthetic.plans import PLANS
from lingbot_eval.datasets.synthetic.scene import CameraPath, Scene, build_scene
from lingbot_eval.types import FloatArray

SCENE_PARTS = (
    "origin", "right", "down", "size", "texture", "tiling", "tint", "light", "light_offset", "light_columns",
    "light_density", "texels", "level_offset",
)  # fmt: skip


def scene_arrays(scene: Scene) -> dict[str, NDArray[np.generic]]:
    """What the ray caster needs of a scene; keys are SCENE_PARTS."""
    faces, maps, textures = scene.faces, scene.light_maps, scene.textures
    return {
        "origin": faces.origin,
        "right": faces.right,
        "down": faces.down,
        "size": faces.size,
        "texture": faces.texture,
        "tiling": faces.tiling,
        "tint": faces.tint,
        "light": maps.values,
        "light_offset": maps.offset,
        "light_columns": maps.columns,
        "light_density": maps.density,
        "texels": textures.texels,
        "level_offset": textures.level_offset,
    }


TEST_SEEDS = range(1_000)
VALIDATION_SEEDS = range(900_000, 901_000)
TRAINING_SEEDS = range(1_000_000, 900_000_000)
TEST_STEP = 0.05
TEST_FOV = 70.0


@dataclass(frozen=True)
class JobSettings:
    """What a job makes of its scene.

    walks: sequences a scene. frames: of each. steps: range of metres between frames. fovs: range of the horizontal
    field of view in degrees. first_seed: the seed of job 0, the others following.
    """

    walks: int
    frames: int
    steps: tuple[float, float]
    fovs: tuple[float, float]
    first_seed: int


@dataclass(frozen=True, eq=False)
class SceneJob:
    """One scene and the walks through it. poses: (walks, frames, 4, 4) float64 camera-to-world. fovs: (walks,) rad."""

    scene: dict[str, NDArray[np.generic]]
    poses: FloatArray
    fovs: FloatArray


def training_jobs(frames: int, walks: int, run_seed: int) -> JobSettings:
    """Jobs of a training run: another run seed walks through other scenes."""
    first = TRAINING_SEEDS.start + (run_seed % 800) * 1_000_000
    return JobSettings(walks, frames, (0.03, 0.11), (58.0, 84.0), first)


def validation_jobs(frames: int) -> JobSettings:
    """The walk that an evaluation takes, through scenes that neither training nor evaluation sees."""
    return JobSettings(1, frames, (TEST_STEP, TEST_STEP), (TEST_FOV, TEST_FOV), VALIDATION_SEEDS.start)


def build_job(settings: JobSettings, number: int) -> SceneJob:
    """Job ``number``: kinds of places take turns; everything is drawn from the job's own seed."""
    kind = tuple(PLANS)[number % len(PLANS)]
    seed = settings.first_seed + number
    scene = build_scene(kind, seed)
    rng = np.random.default_rng([seed, 11])
    varied = settings.steps[0] < settings.steps[1]
    poses = []
    for walk in range(settings.walks):
        # The first walk is the scene's own; the others wander elsewhere along the same way.
        path = CameraPath(scene.walk, seed + 1_000_000_000 * walk)
        step = np.exp(rng.uniform(*np.log(settings.steps)))
        start = rng.uniform(0.0, scene.walk.length) if varied else 0.0
        poses.append(np.stack([path.camera_to_world(start + i * step) for i in range(settings.frames)]))
    fovs = np.radians(rng.uniform(*settings.fovs, settings.walks))
    return SceneJob(scene_arrays(scene), np.stack(poses), fovs)


Order = tuple[JobSettings, int]
"""A job to build: its settings and its number."""


class JobSupply:
    """Jobs in the order in which they are asked for, from processes that keep a few ahead; without workers, built on
    demand."""

    def __init__(self, orders: Iterator[Order], workers: int) -> None:
        self._orders = orders
        self._waiting: deque[Future[SceneJob]] = deque()
        self._ahead = 3 * workers
        # Spawned and not forked: the parent has threads and a CUDA context.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=context) if workers else None

    def __enter__(self) -> JobSupply:
        self._fill()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[SceneJob]:
        return self

    def __next__(self) -> SceneJob:
        """The next job; waits for it."""
        if self._pool is None:
            return build_job(*next(self._orders))
        self._fill()
        job = self._waiting.popleft().result()
        self._fill()
        return job

    def ready(self) -> bool:
        """Whether the next job is there without waiting."""
        return bool(self._waiting) and self._waiting[0].done()

    def _fill(self) -> None:
        while self._pool is not None and len(self._waiting) < self._ahead:
            order = next(self._orders, None)
            if order is None:
                return
            self._waiting.append(self._pool.submit(build_job, *order))
