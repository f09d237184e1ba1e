"""A dataset in memory and methods that behave, or misbehave, on purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError, UnknownSceneError
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.runs import plan
from lingbot_eval.runs.execute import Observer
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.settings import validated
from lingbot_eval.types import (
    FloatArray,
    Frame,
    FrameSequence,
    FrameType,
    Measurement,
    Prediction,
    StepCost,
    Trajectory,
)

FRAMES = 24
SIDE = 28


def pose_at(index: int) -> FloatArray:
    """On a circle of 2 m, looking outwards, 7 degrees a frame."""
    angle = np.radians(7.0 * index)
    cosine, sine = np.cos(angle), np.sin(angle)
    pose = np.eye(4)
    pose[:3, :3] = [[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]
    pose[:3, 3] = [2 * sine, 0.1 * index, 2 * cosine]
    return pose


@dataclass
class FakeSequence:
    """FRAMES small frames. ``broken_at``: the frame whose image cannot be decoded."""

    scene: str
    selection: Selection
    with_reference: bool = True
    broken_at: int | None = None
    version: str = "1"
    dataset: str = "synthetic"

    @property
    def length(self) -> int:
        return len(self.selection.indices(FRAMES))

    def frames(self, *, images: bool = True, depth: bool = True) -> Iterator[Frame]:
        return (load() for load in self.loaders(images=images, depth=depth))

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        for index, source in enumerate(self.selection.indices(FRAMES)):
            yield partial(self._frame, index, source, images, depth)

    def _frame(self, index: int, source: int, images: bool, depth: bool) -> Frame:
        if index == self.broken_at:
            raise DataError(f"{self.scene}/{source:06d}.png: expected an image, found a truncated file")
        return Frame(
            index=index,
            timestamp=source / 10,
            image=np.full((SIDE, SIDE, 3), source, np.uint8) if images else None,
            source=f"{self.scene}/{source:06d}.png",
            camera_to_world=pose_at(source) if self.with_reference else None,
            depth=self.depth(source) if depth and self.with_reference else None,
            intrinsics=np.array([[30.0, 0, 13.5], [0, 30.0, 13.5], [0, 0, 1]]),
        )

    def depth(self, source: int) -> np.ndarray:
        return np.fromfunction(lambda v, u: 1 + 0.05 * u + 0.02 * v + 0.1 * source, (SIDE, SIDE)).astype(np.float32)

    def reference(self) -> Trajectory | None:
        if not self.with_reference:
            return None
        sources = list(self.selection.indices(FRAMES))
        poses = np.stack([pose_at(source) for source in sources])
        return Trajectory(np.arange(len(sources)), np.array(sources) / 10, poses)

    def timestamps(self) -> FloatArray:
        return np.array(self.selection.indices(FRAMES)) / 10

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.scene} {self.version}".encode()).hexdigest()

    def facts(self) -> Mapping[str, Any]:
        return {"units": "metres"}


@dataclass
class FakeAdapter:
    """Scenes by name; a test changes ``scenes_there`` to change the data."""

    scenes_there: dict[str, dict[str, Any]] = field(default_factory=lambda: {"one": {}, "two": {}})
    name: str = "synthetic"
    opened: list[str] = field(default_factory=list)

    def scenes(self) -> tuple[str, ...]:
        return tuple(self.scenes_there)

    def open(self, scene: str, selection: Selection) -> FrameSequence:
        self.opened.append(scene)
        if scene not in self.scenes_there:
            raise UnknownSceneError(f"no scene {scene!r}; there are: {', '.join(self.scenes_there)}")
        return FakeSequence(scene, selection, **self.scenes_there[scene])


@dataclass
class FakeMethod:
    """Poses twice as large as the truth and depth three times, both exact up to that; ``misbehave`` at each frame.

    last: frames that it answers before it stops. lacks_cost: frames of which it does not say what they took. clock: its
    idea of a frame's time.
    """

    name: str
    misbehave: Callable[[str, int], None] = lambda scene, index: None
    needs_images: bool = True
    log: list[str] = field(default_factory=list)
    scene: str = ""
    last: int = FRAMES
    lacks_cost: frozenset[int] = frozenset()
    clock: Callable[[float], Any] = lambda seconds: seconds
    close_fails: BaseException | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: {"weights": "none"})

    def describe(self) -> Mapping[str, Any]:
        return self.facts

    def open(self, sequence: FrameSequence) -> None:
        self.scene = sequence.scene
        self.log.append(f"open {self.scene}")

    def warm_up(self, frame: Frame) -> float:
        self.log.append(f"warm up on {frame.index}")
        return 0.5

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        for frame in frames:
            if frame.index == self.last:
                return
            self.misbehave(self.scene, frame.index)
            cost = StepCost(0.001, {"anchor": 10, "window": 20, "memory": frame.index, "camera_head": 5})
            pose = pose_at(round(frame.timestamp * 10))
            pose[:3, 3] *= 2
            yield Prediction(
                index=frame.index,
                timestamp=self.clock(frame.timestamp),
                camera_to_world=pose,
                depth=np.full((SIDE, SIDE), 3.0, np.float32) if frame.depth is None else 3 * frame.depth,
                frame_type=FrameType.SCALE if frame.index < 8 else FrameType.KEPT,
                cost=None if frame.index in self.lacks_cost else cost,
            )

    def resources(self) -> tuple[Measurement, ...]:
        self.log.append("resources")
        return (Measurement("memory", "weights", "", 1.0, "MiB", "parameters"),)

    def files(self) -> Mapping[str, Path]:
        return {}

    def close(self) -> None:
        self.log.append("close")
        if self.close_fails is not None:
            raise self.close_fails


@dataclass
class World:
    """What the runner sees in place of the real adapter and method."""

    adapter: FakeAdapter = field(default_factory=FakeAdapter)
    misbehave: dict[str, Callable[[str, int], None]] = field(default_factory=dict)
    made: list[FakeMethod] = field(default_factory=list)
    methods: dict[str, Any] = field(default_factory=dict)
    """What every FakeMethod is made with."""

    def create_method(self, settings: Any) -> FakeMethod:
        misbehave = self.misbehave.get(settings.name, lambda scene, index: None)
        self.made.append(FakeMethod(settings.name, misbehave, **self.methods))
        return self.made[-1]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "open_adapter", lambda name, root, options: self.adapter)
        # Two processes of one test mean one code, also while somebody edits it.
        monkeypatch.setattr(plan, "code_digest", lambda *, of_study=False: "code")
        monkeypatch.setattr(LingbotConfig, "create", lambda settings: self.create_method(settings))


def experiment(*methods: str, **changes: Any) -> Experiment:
    """The fake dataset under ``methods``."""
    dataset = {"name": "synthetic", "size": {"mode": "exact", "width": SIDE, "height": SIDE}}
    document = {
        "name": "fake",
        "datasets": [{**dataset, **changes.pop("dataset", {})}],
        "methods": [{"kind": "lingbot", "name": name, "device": "cpu"} for name in methods or ("good",)],
        **changes,
    }
    return validated(Experiment, document, "test")


class Quiet(Observer):
    """An observer that only counts."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.frames = 0

    def started(self, unit: plan.Unit, frames: int | None) -> None:
        self.lines.append(f"started {'/'.join(unit.names)} {frames}")

    def frame(self) -> None:
        self.frames += 1

    def finished(self, unit: plan.Unit, record: Any) -> None:
        self.lines.append(f"{record.status} {'/'.join(unit.names)}")

    def skipped(self, unit: plan.Unit) -> None:
        self.lines.append(f"skipped {'/'.join(unit.names)}")

    def left_out(self, unit: plan.Unit, reason: str) -> None:
        self.lines.append(f"left out {'/'.join(unit.names)}: {reason}")


def run_folder(out: Path) -> Path:
    """The one run directory under ``out``."""
    (folder,) = out.iterdir()
    return folder
