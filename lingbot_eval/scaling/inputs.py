"""The frames of a study: a pool that lies in memory before the clock starts, or a scene streamed from its files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np

from lingbot_eval.datasets.cards import load_card
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError
from lingbot_eval.prepare import SizeSettings, prefetch_mapped, prepare
from lingbot_eval.resources import expanded
from lingbot_eval.runs.plan import adapter_of
from lingbot_eval.scaling.records import first_poses
from lingbot_eval.scaling.settings import DatasetInput, Input, NoiseInput, SyntheticInput
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Image, Trajectory

AHEAD = 4
MOST_WORKERS = 8
FRAME_RATE = 30.0
"""Frames a second that the timestamps of a pool say; the scenario decides when a frame really comes."""

DATASET, SCENE = "input", "of the case"
"""What a method is told."""

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class CaseFrames:
    """The first ``length`` frames of an input at one size, as a sequence; they are prepared already."""

    known: Mapping[str, Any]
    """Facts for the record."""
    length: int = field(default=0, kw_only=True)
    dataset: str = field(default=DATASET, kw_only=True)
    scene: str = field(default=SCENE, kw_only=True)

    def first(self, count: int) -> Self:
        """The same input, ``count`` frames of it."""
        return replace(self, length=count)

    def frames(self, *, images: bool = True, depth: bool = True) -> Generator[Frame, None, None]:
        """Prepared, images with them.

        Raises DataError where there are fewer: at once, or at the end of what only decoding counts (a video).
        """
        raise NotImplementedError

    def reference(self) -> Trajectory | None:
        """True poses of those frames that have one; None where none has."""
        raise NotImplementedError

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        return (partial(_itself, frame) for frame in self.frames())

    def timestamps(self) -> FloatArray | None:
        """Nobody asks."""
        return None

    def fingerprint(self) -> str:
        """It is in the study's key."""
        return ""

    def facts(self) -> Mapping[str, Any]:
        return self.known


def pool_position(index: int, pool: int) -> int:
    """Which frame of a pool is played at ``index``: 0, 1 … pool − 1, pool − 2 … 1, 0, 1 …"""
    turn = index % (2 * (pool - 1))
    return turn if turn < pool else 2 * (pool - 1) - turn


@dataclass(frozen=True, eq=False)
class PooledFrames(CaseFrames):
    """Prepared frames in memory, played forward and backward for as long as is asked."""

    pool: tuple[Frame, ...]

    def frames(self, *, images: bool = True, depth: bool = True) -> Generator[Frame, None, None]:
        for index in range(self.length):
            yield replace(self._at(index), index=index, timestamp=index / FRAME_RATE)

    def reference(self) -> Trajectory | None:
        found = [(i, pose) for i in range(self.length) if (pose := self._at(i).camera_to_world) is not None]
        if not found:
            return None
        indices = np.array([index for index, _ in found], dtype=np.int64)
        return Trajectory(indices, indices / FRAME_RATE, np.stack([pose for _, pose in found]))

    def _at(self, index: int) -> Frame:
        return self.pool[pool_position(index, len(self.pool))]


@dataclass(frozen=True, eq=False)
class FileFrames(CaseFrames):
    """A scene decoded and resized in the background while the stream runs. workers: threads for it; 0: one."""

    sequence: FrameSequence
    size: SizeSettings
    workers: int

    def frames(self, *, images: bool = True, depth: bool = True) -> Generator[Frame, None, None]:
        there = self.sequence.length
        if there is None or there >= self.length:
            there = 0
            with closing(_loaded(self.sequence, self.size, self.workers)) as frames:
                for frame in itertools.islice(frames, self.length):
                    there += 1
                    yield frame
        if there < self.length:
            raise DataError(
                f"{self.sequence.dataset}/{self.sequence.scene} has {there} frames, the case wants {self.length}; "
                "set input.pool to play it forward and backward, or ask for fewer frames"
            )

    def reference(self) -> Trajectory | None:
        whole = self.sequence.reference()
        return None if whole is None else first_poses(whole, self.length)


def open_source(settings: Input, size: Size, workers: int, each_frame: Callable[[], None]) -> CaseFrames:
    """An input at ``size`` (width, height), of which `CaseFrames.first` takes what a case wants.

    A pool is made now, ``each_frame`` called after each of its frames. workers: threads that may decode while the
    stream runs; 0 on a machine whose cores have the model to compute. Raises DataError or ConfigError where the input
    cannot be had.
    """
    if isinstance(settings, NoiseInput):
        return _noise(settings, size)
    prepared = SizeSettings(mode="cover", width=size[0], height=size[1])
    if isinstance(settings, SyntheticInput):
        options = {"frames": settings.pool, "width": size[0], "height": size[1], "seed": settings.seed}
        adapter = open_adapter("synthetic", None, {**options, "step": settings.step})
        return _pooled(adapter.open(settings.scene, Selection()), settings.pool, prepared, each_frame)
    sequence = adapter_of(settings.dataset).open(settings.dataset.scenes[0], settings.dataset.selection)
    if settings.pool is None:
        return FileFrames(dict(sequence.facts()), sequence, prepared, workers)
    return _pooled(sequence, settings.pool, prepared, each_frame)


def selected(settings: Input) -> Input:
    """An input with the stride of its dataset's card where it gives none. Raises ConfigError for a card."""
    if not isinstance(settings, DatasetInput) or "stride" in settings.dataset.selection.model_fields_set:
        return settings
    dataset = settings.dataset
    card = load_card(dataset.name, None if dataset.card is None else expanded(dataset.card))
    selection = dataset.selection.model_copy(update={"stride": card.protocol.stride})
    return settings.model_copy(update={"dataset": dataset.model_copy(update={"selection": selection})})


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
    return PooledFrames({**sequence.facts(), "played": played}, tuple(frames))


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
    return PooledFrames(facts, frames)


def _itself(frame: Frame) -> Frame:
    return frame
