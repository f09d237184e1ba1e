"""A unit of an experiment, done: one method on one scene, scored and stored."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lingbot_eval.datasets.sequence import Adapter
from lingbot_eval.errors import DataError
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.methods.base import Method, MethodSettings
from lingbot_eval.metrics.base import FAMILIES
from lingbot_eval.metrics.matching import usable_poses
from lingbot_eval.prepare import input_notes, prefetch_mapped, prepare
from lingbot_eval.runs.attempt import Attempt, Row, Task, plain
from lingbot_eval.runs.experiment import DatasetConfig, Experiment, MetricsConfig, load_experiment
from lingbot_eval.runs.plan import Unit, input_fingerprint, open_scene
from lingbot_eval.runs.scoring import SceneScore, SceneScorer
from lingbot_eval.runs.stream import Output
from lingbot_eval.stored.records import Names, UnitRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.stored.unit_files import (
    DRIFT_FILE,
    ESTIMATE_FILE,
    PANELS_FILE,
    REFERENCE_FILE,
    UnitWriter,
    save_drift,
    save_panels,
)
from lingbot_eval.types import LARGEST_VALUE, Frame, FrameSequence, Measurement, Trajectory
from lingbot_eval.viewing.kept import Keeper, KeepSettings

AHEAD, LOADING = 4, 4
"""Frames decoded and prepared before the method asks for them; threads that do so where the method leaves the cores
free, each with one frame more."""


@dataclass
class SceneTask(Task):
    """shorter: those of the same stream with fewer frames, shortest first. adapters: as of
    `lingbot_eval.runs.plan.open_scene`, shared by all tasks of a run."""

    unit: Unit
    metrics: MetricsConfig
    kept: KeepSettings
    shorter: tuple[SceneTask, ...] = ()
    adapters: dict[int, Adapter] = field(default_factory=dict)
    _fingerprint: str = ""
    _keeper: Keeper | None = None

    @property
    def method(self) -> MethodSettings:
        return self.unit.method

    def is_done(self, record: UnitRecord) -> bool:
        return record.input_fingerprint == input_fingerprint(self.unit, open_scene(self.unit, self.adapters))

    def beginnings(self, sequence: FrameSequence) -> list[tuple[int, SceneTask]]:
        whole = sequence.length
        key = None if whole is None else self.method.stream_key(whole)
        if whole is None or key is None:
            return []
        ends = ((min(shorter.unit.dataset.selection.count or whole, whole), shorter) for shorter in self.shorter)
        return [(end, shorter) for end, shorter in ends if self.method.stream_key(end) == key]

    def open(self) -> FrameSequence:
        sequence = open_scene(self.unit, self.adapters)
        self._fingerprint = input_fingerprint(self.unit, sequence)
        return sequence

    def facts(self, sequence: FrameSequence) -> dict[str, Any]:
        facts = plain(sequence.facts())
        return {
            **facts,
            "notes": input_notes(facts, self.unit.size),
            "selection": self.unit.dataset.selection.model_dump(mode="json"),
            "preparation": self.unit.size.model_dump(mode="json"),
        }

    def frames(self, sequence: FrameSequence, method: Method) -> Generator[Frame, None, None]:
        workers = LOADING if self.method.leaves_the_cpu_free else 0
        scored = self.metrics.depth is not None or self.metrics.points is not None
        depth = scored and self.method.gives_depth
        # Depth brings the image along: panels and clouds show it, and it tells the size to prepare to.
        coloured = (self.kept.cloud or self.kept.sky is not None) and self.method.gives_depth
        images = method.needs_images or depth or coloured
        return prefetch_mapped(
            lambda load: prepare(load(), self.unit.size) if images else load(),
            sequence.loaders(images=images, depth=depth),
            AHEAD + workers,
            workers,
        )

    def scorer(self, method: Method, sequence: FrameSequence, writer: UnitWriter) -> SceneScorer:
        self._keeper = Keeper(self.kept, writer.path, sequence.length)
        depth, limits = self.metrics.depth, self.unit.dataset.depth_range
        if depth is not None and limits is not None:
            depth = depth.model_copy(update={"min_depth": limits[0], "max_depth": limits[1]})
        return SceneScorer(
            self.metrics.model_copy(update={"depth": depth}),
            depth_limits=limits or (0.0, 80.0),
            gives_depth=self.method.gives_depth,
            is_timed=method.needs_images,
            motionless=self.method.motionless,
            left_out=self._keeper.left_out if self.kept.scored == "kept" else None,
        )

    @property
    def input_key(self) -> str:
        return self._fingerprint

    @property
    def saves(self) -> bool:
        # What a plugin's family gathers is its own; masks count what they left out.
        foreign = any(self.metrics.of(name) is not None for name, _ in FAMILIES.added())
        return not foreign and self.kept.sky is None and self.kept.masks is None

    def gathered(self, attempt: Attempt) -> Mapping[str, Any]:
        return {"scorer": attempt.scorer, "keeper": self._keeper}

    def keep(self, output: Output, row: Row, writer: UnitWriter) -> None:
        super().keep(output, row, writer)
        if self._keeper is not None:
            self._keeper.add(output.frame, output.prediction)

    def score(self, attempt: Attempt) -> None:
        score = attempt.scorer.score(attempt.reference, attempt.frames, attempt.warm_up_s)
        _check_usable(score.estimate, attempt.predictions)
        attempt.scores = score

    def store(self, attempt: Attempt, writer: UnitWriter) -> None:
        score: SceneScore = attempt.scores
        if self._keeper is not None:
            attempt.scores = replace(score, notes=(*score.notes, *self._keeper.finish()))
        writer.fill_columns(score.columns)
        if len(score.estimate):
            write_tum(writer.path(ESTIMATE_FILE), score.estimate)
        if attempt.reference is not None and len(attempt.reference):
            write_tum(writer.path(REFERENCE_FILE), attempt.reference)
        if score.drift is not None:
            save_drift(writer.path(DRIFT_FILE), score.drift)
        panels = attempt.scorer.panels()
        if panels is not None:
            save_panels(writer.path(PANELS_FILE), panels)

    def record(self, attempt: Attempt) -> UnitRecord:
        dataset, scene, method = self.unit.names
        failure, score = attempt.failure, attempt.scores
        found = (*score.measurements, *attempt.resources) if failure is None else ()
        return UnitRecord(
            dataset=dataset,
            scene=scene,
            method=method,
            input_fingerprint=self._fingerprint,
            sequence=attempt.facts,
            method_facts=attempt.method_facts,
            measurements=[_storable(measurement) for measurement in found],
            notes=list(score.notes) if failure is None else [],
            **attempt.told(),
        )


def scene_tasks(units: Iterable[Unit], experiment: Experiment) -> list[SceneTask]:
    """The units in the order in which they are done: of the same stream the longest first."""
    same: dict[int, str] = {}
    streams: dict[tuple[str, str, str], list[Unit]] = {}
    for unit in units:
        if id(unit.dataset) not in same:
            same[id(unit.dataset)] = _beside_length(unit.dataset)
        streams.setdefault((same[id(unit.dataset)], unit.scene, unit.method.name), []).append(unit)
    found: list[SceneTask] = []
    adapters: dict[int, Adapter] = {}
    for each in streams.values():
        tasks: list[SceneTask] = []
        for unit in sorted(each, key=lambda unit: unit.dataset.selection.count or math.inf):
            tasks.append(SceneTask(unit, experiment.metrics, experiment.keep, tuple(tasks), adapters))
        found += reversed(tasks)
    return found


def _beside_length(dataset: DatasetConfig) -> str:
    """What a dataset shares with those that take more or fewer frames of the same scenes."""
    settings = dataset.model_dump(mode="json", exclude={"label": True, "scenes": True, "selection": {"count"}})
    return json.dumps(settings, sort_keys=True)


def reopen(path: Path, settings: str) -> tuple[RunStore, Callable[[Names], SceneTask]]:
    """What another process of a shared run needs: the store, and the task of a unit by its names. The record has all
    settings.

    Raises StoreError for what is no run directory, ConfigError for settings that mean nothing here: a plugin that is
    not there, an environment variable that is not set.
    """
    store = RunStore.open(path)
    record = store.read_run()
    experiment = load_experiment({name: value for name, value in record.experiment.items() if name != "cards"})
    datasets = {dataset.filed_as: dataset for dataset in experiment.datasets}
    methods = {method.name: method for method in experiment.methods}
    units = [Unit(datasets[dataset], scene, methods[method]) for dataset, scene, method in record.units]
    tasks = {task.names: task for task in scene_tasks(units, experiment)}
    return store, lambda names: tasks[names]


def _check_usable(estimate: Trajectory, predictions: int) -> None:
    """Raises DataError for a scene without one pose that anything can be computed from: that is no success."""
    if usable_poses(estimate.camera_to_world).any():
        return
    if not predictions:
        found = "no prediction"
    elif not len(estimate):
        found = f"{predictions} predictions without a pose"
    else:
        found = f"{len(estimate)} poses that are not finite or no rigid motion"
    raise DataError(
        f"no usable pose: expected one at least, found {found}; check the weights, or the predictions' files"
    )


def _storable(measurement: Measurement) -> Measurement:
    if measurement.value is None or abs(measurement.value) < LARGEST_VALUE:
        return measurement
    words = f"it is {measurement.value:g}, beyond the {LARGEST_VALUE:g} that can be averaged"
    return replace(measurement, value=None, reason=words)
