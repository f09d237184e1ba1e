"""The frames of a study: a pool that lies in memory before the clock starts, or a scene streamed from its files."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from lingbot_eval.datasets.cards import load_card
from lingbot_eval.datasets.prepare import SizeSettings, prefetch_mapped, prepare
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError
from lingbot_eval.runs.plan import adapter_of
from lingbot_eval.scaling.settings import DatasetInput, Input, NoiseInput, SyntheticInput
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Image, Trajectory

AHEAD = 4
MOST_WORKERS = 8
FRAME_RATE = 30.0
"""Frames a second that the timestamps of a pool say; the scenario decides when a frame really comes."""

DATASET, SCENE = "input", "of the case"
"""What a method is told."""

Size = tuple[int, int]


class FrameSource(Protocol):
    """Frames at one size. facts: for the record."""

    @property
    def facts(self) -> dict[str, object]: ...

    def frames(self, count: int) -> Generator[Frame, None, None]:
        """The first ``count`` frames, prepared.

        Raises DataError where there are fewer: at once, or at the end of what only decoding counts (a video).
        """
        ...

    def reference(self, count: int) -> Trajectory | None:
        """True poses of those of them that have one; None where none has."""
        ...


@dataclass(frozen=True, eq=False)
class CaseFrames:
    """The first ``length`` frames of a source, as a sequence; they are prepared already."""

    source: FrameSource
    length: int
    dataset: str = DATASET
    scene: str = SCENE

    def frames(self, *, images: bool = True, depth: bool = True) -> Generator[Frame, None, None]:
        """As `FrameSource` has them, images with them."""
        return self.source.frames(self.length)

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        return (partial(_itself, frame) for frame in self.frames())

    def reference(self) -> Trajectory | None:
        return self.source.reference(self.length)

    def timestamps(self) -> FloatArray | None:
        """Nobody asks."""
        return None

    def fingerprint(self) -> str:
        """It is in the study's key."""
        return ""

    def facts(self) -> Mapping[str, Any]:
        return self.source.facts


def pool_position(index: int, pool: int) -> int:
    """Which frame of a pool is played at ``index``: 0, 1 … pool − 1, pool − 2 … 1, 0, 1 …"""
    turn = index % (2 * (pool - 1))
    return turn if turn < pool else 2 * (pool - 1) - turn


@dataclass(frozen=True, eq=False)
class PooledFrames:
    """Prepared frames in memory, played forward and backward for as long as is asked."""

    pool: tuple[Frame, ...]
    facts: dict[str, object]

    def frames(self, count: int) -> Generator[Frame, None, None]:
        for index in range(count):
            frame = self.pool[pool_position(index, len(self.pool))]
            yield dataclasses.replace(frame, index=index, timestamp=index / FRAME_RATE)

    def reference(self, count: int) -> Trajectory | None:
        poses = {position: frame.camera_to_world for position, frame in enumerate(self.pool)}
        found = [
            (index, pose) for index in range(count) if (pose := poses[pool_position(index, len(self.pool))]) is not None
        ]
        if not found:
            return None
        indices = np.array([index for index, _ in found], dtype=np.int64)
        return Trajectory(indices, indices / FRAME_RATE, np.stack([pose for _, pose in found]))


@dataclass(frozen=True, eq=False)
class FileFrames:
    """A scene decoded and resized in the background while the stream runs. workers: threads for it; 0: one."""

    sequence: FrameSequence
    size: SizeSettings
    facts: dict[str, object]
    workers: int

    def frames(self, count: int) -> Generator[Frame, None, None]:
        length = self.sequence.length
        if length is None or length >= count:
            length = 0
            with closing(_loaded(self.sequence, self.size, self.workers)) as frames:
                for frame in itertools.islice(frames, count):
                    length += 1
                    yield frame
        if length < count:
            raise DataError(
                f"{self.sequence.dataset}/{self.sequence.scene} has {length} frames, the case wants {count}; "
                "set input.pool to play it forward and backward, or ask for fewer frames"
            )

    def reference(self, count: int) -> Trajectory | None:
        whole = self.sequence.reference()
        if whole is None:
            return None
        among = whole.indices < count
        return replace(
            whole,
            indices=whole.indices[among],
            timestamps=whole.timestamps[among],
            camera_to_world=whole.camera_to_world[among],
        )


def open_source(settings: Input, size: Size, workers: int, each_frame: Callable[[], None]) -> FrameSource:
    """Frames of ``size`` (width, height); a pool is made now, ``each_frame`` called after each of its frames.

    workers: threads that may decode while the stream runs; 0 on a machine whose cores have the model to compute.
    Raises DataError or ConfigError where the input cannot be had.
    """
    if isinstance(settings, NoiseInput):
        return _noise(settings, size)
    prepared = SizeSettings(mode="cover", width=size[0], height=size[1])
    if isinstance(settings, SyntheticInput):
        options = {"frames": settings.pool, "width": size[0], "height": size[1], "seed": settings.seed}
        adapter = open_adapter("synthetic", None, {**options, "step": settings.step})
        return _pooled(adapter.open(settings.scene, Selection()), settings.pool, prepared, each_frame)
    sequence = _scene(settings)
    if settings.pool is None:
        return FileFrames(sequence, prepared, dict(sequence.facts()), workers)
    return _pooled(sequence, settings.pool, prepared, each_frame)


def _scene(settings: DatasetInput) -> FrameSequence:
    dataset = settings.dataset
    selection = dataset.selection
    if "stride" not in selection.model_fields_set:
        selection = selection.model_copy(update={"stride": load_card(dataset.name).protocol.stride})
    return adapter_of(dataset).open(dataset.scenes[0], selection)


def _pooled(sequence: FrameSequence, pool: int, size: SizeSettings, each_frame: Callable[[], None]) -> PooledFrames:
    frames: list[Frame] = []
    # Nothing is timed yet: all cores may help.
    with closing(_loaded(sequence, size, min(MOST_WORKERS, os.cpu_count() or 1))) as ahead:
        for frame in itertools.islice(ahead, pool):
            frames.append(frame)
            each_frame()
    if len(frames) < 2:
        raise DataError(f"{sequence.dataset}/{sequence.scene}: a pool needs 2 frames, found {len(frames)}")
    played = f"pool of {len(frames)} frames in memory, played forward and backward"
    return PooledFrames(tuple(frames), {**sequence.facts(), "played": played})


def _loaded(sequence: FrameSequence, size: SizeSettings, workers: int) -> Generator[Frame, None, None]:
    def prepared(load: Callable[[], Frame]) -> Frame:
        return prepare(load(), size)

    return prefetch_mapped(prepared, sequence.loaders(depth=False), AHEAD + workers, workers)


def _noise(settings: NoiseInput, size: Size) -> PooledFrames:
    width, height = size
    generator = np.random.default_rng(settings.seed)

    def image() -> Image:
        return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)

    frames = tuple(Frame(i, i / FRAME_RATE, image(), f"noise frame {i}") for i in range(settings.pool))
    facts: dict[str, object] = {
        "source": f"uniform random pixels, seed {settings.seed}",
        "poses": "none",
        "played": f"pool of {settings.pool} frames in memory, played forward and backward",
    }
    return PooledFrames(frames, facts)


def _itself(frame: Frame) -> Frame:
    return frame
