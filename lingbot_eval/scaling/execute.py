"""Runs a study: an experiment whose units are cases, each one stream, sampled frame by frame as far as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from lingbot_eval.datasets.registry import DATASETS
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.reading import file_state
from lingbot_eval.machine.environment import environment
from lingbot_eval.methods.base import METHODS, Method, MethodSettings
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.model import LingbotMethod
from lingbot_eval.model.build import choose_device
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.plots import save
from lingbot_eval.profiling.memory import MemoryProbe
from lingbot_eval.registry import Plugin
from lingbot_eval.runs.attempt import Attempt, Task
from lingbot_eval.runs.execute import Observer, Parallel, refuse_commands, run_tasks
from lingbot_eval.runs.plan import adapter_of, content_key
from lingbot_eval.runs.scoring import PoseLog
from lingbot_eval.runs.stream import Output, Pace
from lingbot_eval.scaling.inputs import DATASET, SCENE, CaseFrames, Size, open_source, selected
from lingbot_eval.scaling.page import case_labels, page, title
from lingbot_eval.scaling.records import (
    CaseRecord,
    SampleLog,
    ScaleRecord,
    Setting,
    case_checkpoints,
    case_growth,
    case_measurements,
    error_curve,
    scale_store,
)
from lingbot_eval.scaling.settings import SCENARIOS, Case, DatasetInput, Scenario, Study
from lingbot_eval.settings import validated
from lingbot_eval.stored.records import Names, utc_now
from lingbot_eval.stored.store import Outcome, Store, StoredUnit, run_directory
from lingbot_eval.stored.unit_files import UnitWriter
from lingbot_eval.streaming.estimate import NetworkSize
from lingbot_eval.types import FrameSequence, FrameType


class CaseMethod(LingbotConfig):
    """The streaming model in a scenario."""

    scenario: Scenario

    @property
    def overlapped(self) -> bool:
        return self.scenario == "offline"

    @property
    def leaves_the_cpu_free(self) -> bool:
        # Every frame is looked at before the next one: memory and latency are those of its moment.
        return False


def model_of(study: Study, case: Case) -> CaseMethod:
    """The streaming model of a case."""
    taken = ("backend", "window", "keyframe_interval", "cache_precision")
    changes = {name: getattr(case, name) for name in taken}
    return CaseMethod(
        kind="lingbot",
        model=study.model,
        streaming=study.streaming.model_copy(update=changes),
        device=study.device,
        precision=case.precision,
        heads="float32",
        scenario=case.scenario,
    )


@dataclass
class CaseTask(Task):
    """opened: gives the frames (made for the first case of a size, then shared)."""

    study: Study
    unit: Case
    opened: Callable[[Case], CaseFrames]
    measures_limits: ClassVar[bool] = True

    @property
    def method(self) -> MethodSettings:
        return model_of(self.study, self.unit) if self.study.method is None else self.study.method

    @property
    def pace(self) -> Pace:
        case = self.unit
        return Pace(case.camera_hz if case.scenario == "camera" else None, case.frames, case.limit_s)

    def is_done(self, record: CaseRecord) -> bool:
        return self.method.repeatable

    def open(self) -> FrameSequence:
        return self.opened(self.unit)

    def scorer(self, method: Method, sequence: FrameSequence, writer: UnitWriter) -> CaseScorer:
        return CaseScorer(self.study, self.unit, method)

    @property
    def saves(self) -> bool:
        return self.unit.scenario != "camera"  # which does not wait

    def gathered(self, attempt: Attempt) -> Mapping[str, Any]:
        return {"log": attempt.scorer.log, "poses": attempt.scorer.poses}

    def score(self, attempt: Attempt) -> None:
        scorer: CaseScorer = attempt.scorer
        setting, log = scorer.setting, scorer.log
        if not len(log):
            return
        truth, guess = attempt.reference, scorer.poses.trajectory()
        measured = case_measurements(self.unit, log, attempt.warm_up_s)
        attempt.scores = {
            "measurements": [*measured, *(() if setting is not None else attempt.resources)],
            "growth": [] if setting is None else list(case_growth(setting, log)),
            "checkpoints": list(case_checkpoints(setting, log, self.study.checkpoints, truth, guess)),
            "error_curve": list(error_curve(truth, guess)),
        }

    def record(self, attempt: Attempt) -> CaseRecord:
        failure, case, scorer = attempt.failure, self.unit, attempt.scorer
        stopped = None
        if attempt.stream is not None and attempt.stream.stopped:
            stopped = f"its limit of {case.limit_s:g} s ended it after {attempt.frames} of {case.frames} frames"
        nothing: dict[str, Any] = {"measurements": [], "growth": [], "checkpoints": [], "error_curve": []}
        return CaseRecord(
            name=case.name,
            case=case.model_dump(mode="json"),
            out_of_memory=failure.out_of_memory if failure else False,
            bad_input=failure.bad_input if failure else False,
            stopped=stopped,
            facts={} if scorer is None else scorer.facts(attempt.method_facts),
            input=attempt.facts,
            sampling=self._sampling(scorer),
            **attempt.told(),
            **(attempt.scores or nothing),
        )

    def _sampling(self, scorer: CaseScorer | None) -> dict[str, str]:
        every, now_and_then = "forward and interval times", f"every {self.study.sample_every} frames and at checkpoints"
        if self.study.method is not None:
            return {"every frame": every, **({} if self.method.runs_command else {now_and_then: "process"})}
        return {
            "every frame": f"{every}, cache by kind and as allocated, allocated on the device",
            now_and_then: "reserved on the device, driver, process",
            "driver": "not asked" if scorer is None else scorer.probe.driver_source,
        }


@dataclass
class CaseScorer:
    """What is kept of every frame of a case: its sample and its pose. setting: None for another method than ours."""

    study: Study
    case: Case
    method: Method
    log: SampleLog = field(default_factory=SampleLog)
    poses: PoseLog = field(default_factory=PoseLog)

    def __post_init__(self) -> None:
        self.setting: Setting | None = None
        # What runs elsewhere has a memory of its own.
        self.here = self.study.method is None or self.study.method.runs_command is None
        self.probe = MemoryProbe("cpu")
        if not isinstance(self.method, LingbotMethod):
            return
        described = self.method.describe()
        device = torch.device(described["device"])
        model = self.study.model
        asked = model_of(self.study, self.case).streaming
        resolved = {name: described[name] for name in ("keyframe_interval", "backend")}
        network = NetworkSize(CONFIGS[model.config], self.case.precision, model.camera_iterations, model.point_head)
        self.setting = Setting(self.case, network, asked.model_copy(update=resolved), on_cpu=device.type == "cpu")
        self.probe = MemoryProbe(str(device))
        self.weights_bytes = self.method.weights_bytes

    def facts(self, described: dict[str, Any]) -> dict[str, Any]:
        """What the record says of what ran."""
        if self.setting is None:
            return {**described, "scenario": SCENARIOS[self.case.scenario]}
        told = ("weights", "trained", "device", "backend", "attention", "precision", "keyframe_interval", "window")
        return {
            "config": self.study.model.config,
            "weights_bytes": self.weights_bytes,
            **{name: described[name] for name in told},
            "scale_frames": self.setting.streaming.scale_frames,
            "scenario": SCENARIOS[self.case.scenario],
        }

    def add(self, output: Output) -> dict[str, float | int | None]:
        """Keep one frame; returns its row of the samples."""
        prediction = output.prediction
        cost, kind = prediction.cost, prediction.frame_type
        if prediction.camera_to_world is not None:
            self.poses.append(prediction.index, prediction.timestamp, prediction.camera_to_world)
        row: dict[str, float | int | None] = {
            "index": prediction.index,
            "frame_type": kind,
            "kept": None if kind is None else self.log.latest("kept") + (kind is not FrameType.UNKEPT),
            "forward_ms": None if cost is None else 1e3 * cost.forward_s,
            "interval_ms": 1e3 * output.interval_s,
            # As fast as they are taken only the pace means something.
            "latency_ms": None if self.case.scenario == "offline" else 1e3 * output.latency_s,
            "backlog": output.backlog,
        }
        if cost is not None:
            row |= {f"cache_{name}_bytes": size for name, size in cost.cache_bytes.items()}
            row |= {"cache_allocated_bytes": cost.cache_allocated, "device_allocated_bytes": cost.device_bytes}
        done = prediction.index + 1
        if self.here and (done % self.study.sample_every == 0 or done in self.study.checkpoints):
            row |= self.probe.sample()
        self.log.append(row)
        return row


LOADING = 4
"""Threads that decode while a GPU computes."""
PAGE, FIGURE = "scale.md", "scale.png"


def in_order(study: Study) -> tuple[Case, ...]:
    """All cases, those of one precision together: they share a network."""
    cases = tuple(study.all_cases())
    seen = list(dict.fromkeys(case.precision for case in cases))
    return tuple(sorted(cases, key=lambda case: seen.index(case.precision)))


def execute(
    study: Study,
    out: Path,
    command: str,
    observer: Observer,
    parallel: Parallel | None = None,
    *,
    allow_commands: bool = False,
) -> Outcome[ScaleRecord, CaseRecord]:
    """Do what is not done yet of ``study``, under ``out``; ``command`` repeats it.

    parallel, allow_commands: as of `lingbot_eval.runs.execute.execute`.

    A case that was cut by a kill goes on from its last saved state. Raises StoreError, CheckpointError, ConfigError and
    DataError for what no case could survive.
    """
    # As in the plan of an experiment: the record and its key say which frames were streamed, whoever chose them.
    study = study.model_copy(update={"input": selected(study.input)})
    method = study.method
    if method is None:
        study = study.model_copy(update={"device": str(choose_device(study.device))})
    else:
        refuse_commands({} if method.runs_command is None else {method.name: method.runs_command}, allow_commands)
        study = study.model_copy(update={"method": method.on_this_machine()})
    record = _record(study, command)
    store = scale_store(run_directory(out, record))
    store.begin(record)
    tasks = tuple(_tasks(study, observer).values())
    # As it was given: what was left out is what sweeps and defaults fill in.
    settings = study.model_dump_json(exclude_unset=True)
    return run_tasks(store, record, tasks, observer, parallel, f"{__name__}:reopen", settings)


def reopen(path: Path, settings: str) -> tuple[Store[ScaleRecord, CaseRecord], Callable[[Names], CaseTask]]:
    """As `lingbot_eval.runs.scene.reopen`, of a study."""
    tasks = _tasks(validated(Study, json.loads(settings), str(path)), Observer())
    return scale_store(path), lambda names: tasks[names]


def _tasks(study: Study, observer: Observer) -> dict[Names, CaseTask]:
    free = study.device.startswith("cuda") if study.method is None else study.method.leaves_the_cpu_free
    sources = _Sources(study, observer, workers=LOADING if free else 0)
    return {case.names: CaseTask(study, case, sources.open) for case in in_order(study)}


def write_scaling(path: Path) -> tuple[Path, ...]:
    """Write the page of a study that was run, and the figure where any case has samples; returns them, page first.

    Raises StoreError.
    """
    from lingbot_eval.scaling.page import Curve, scaling_figure

    store = scale_store(path)
    with store.lock():
        record, cases = store.read_run(), [unit.record for unit in store.read_units().units]
        curves = [
            Curve(label, case, store.read_table(StoredUnit(store.folder(case.name), case)))
            for label, case in zip(case_labels(cases), cases, strict=True)
            if case.predictions
        ]
        # The page comes last: what it shows is there.
        files = [store.path / PAGE]
        if curves:
            save(scaling_figure(title(record), curves), store.path / FIGURE)
            files.append(store.path / FIGURE)
        write_text(store.path / PAGE, page(record, cases, FIGURE if curves else None))
    return tuple(files)


class _Sources:
    """The frames of the size used last: cases of one size share their pool."""

    def __init__(self, study: Study, observer: Observer, workers: int) -> None:
        self._study = study
        self._workers = workers
        self._observer = observer
        self._held: tuple[Size, CaseFrames] | None = None

    def open(self, case: Case) -> CaseFrames:
        """The frames of a case."""
        if self._held is None or self._held[0] != case.size:
            self._held = None
            settings = self._study.input
            self._observer.preparing(case, settings.pool)
            self._held = case.size, open_source(settings, case.size, self._workers, self._observer.frame)
        return self._held[1].first(case.frames)


def _record(study: Study, command: str) -> ScaleRecord:
    method = study.method
    found = (method or LingbotConfig(kind="lingbot", model=study.model)).weights()
    weights = "none" if found is None else found.label
    if method is not None:
        weights = f"of {method.name}: {weights}"
    files = () if method is None else method.input_files(DATASET, SCENE)
    resolved = study.model_dump(mode="json")
    block = environment()
    # Times and memory of another machine, or of another torch, are another run's: one record states one environment.
    machine = {name: block[name] for name in ("cpu_model", "libraries", "torch")}
    content = {
        "scale": resolved,
        "weights": [weights, None if found is None else found.sha256],
        "input": _input_fingerprint(study),
        "plugins": [[plugin.name, plugin.sha256] for plugin in _plugins_of(study)],
        "files": [[str(path), file_state(path)] for path in files],
        "machine": machine,
    }
    return ScaleRecord(
        key=content_key(content, of_study=True),
        name=study.name,
        command=command,
        study=resolved,
        cases=[case.name for case in in_order(study)],
        weights=weights,
        environment=block,
        started=utc_now(),
    )


def _plugins_of(study: Study) -> list[Plugin]:
    """Those that bring its dataset or its method."""
    found = [DATASETS.plugin(study.input.dataset.name)] if isinstance(study.input, DatasetInput) else []
    found += [] if study.method is None else [METHODS.plugin(study.method.kind)]
    return [plugin for plugin in found if plugin is not None]


def _input_fingerprint(study: Study) -> str | None:
    """Of the files that are read; what is generated is in the settings."""
    if not isinstance(study.input, DatasetInput):
        return None
    dataset = study.input.dataset
    return adapter_of(dataset).open(dataset.scenes[0], Selection()).fingerprint()
