"""A unit of a study, done: one stream, sampled frame by frame as far as it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from lingbot_eval.methods.base import Method, MethodSettings
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.model import LingbotMethod
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.profiling.memory import MemoryProbe
from lingbot_eval.runs.attempt import Attempt, Row
from lingbot_eval.runs.poses import PoseLog
from lingbot_eval.runs.records import Names
from lingbot_eval.runs.stream import Output, Pace
from lingbot_eval.runs.unit_writer import UnitWriter
from lingbot_eval.scaling.inputs import CaseFrames
from lingbot_eval.scaling.records import CaseRecord
from lingbot_eval.scaling.settings import SCENARIOS, Case, Scenario, Study
from lingbot_eval.scaling.summary import (
    SampleLog,
    Setting,
    case_checkpoints,
    case_growth,
    case_measurements,
    error_curve,
)
from lingbot_eval.streaming.estimate import NetworkSize
from lingbot_eval.types import Frame, FrameSequence, FrameType


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


def case_method(study: Study, case: Case) -> MethodSettings:
    """The method of a case: the study's own, else the streaming model."""
    return model_of(study, case) if study.method is None else study.method


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
class CaseTask:
    """A `lingbot_eval.runs.attempt.Task`. opened: gives the frames (made for the first case of a size, then shared)."""

    study: Study
    unit: Case
    opened: Callable[[Case], CaseFrames]
    shorter: ClassVar[tuple[()]] = ()
    measures_limits: ClassVar[bool] = True

    @property
    def names(self) -> Names:
        return (self.unit.name,)

    @property
    def method(self) -> MethodSettings:
        return case_method(self.study, self.unit)

    @property
    def pace(self) -> Pace:
        case = self.unit
        return Pace(case.camera_hz if case.scenario == "camera" else None, case.frames, case.limit_s)

    def is_done(self, record: CaseRecord) -> bool:
        return self.method.repeatable

    def beginnings(self, sequence: FrameSequence) -> list[tuple[int, CaseTask]]:
        return []

    def open(self) -> FrameSequence:
        return self.opened(self.unit)

    def facts(self, sequence: FrameSequence) -> dict[str, Any]:
        return dict(sequence.facts())

    def frames(self, sequence: FrameSequence, method: Method) -> Generator[Frame, None, None]:
        yield from sequence.frames()

    def scorer(self, method: Method, sequence: FrameSequence, writer: UnitWriter) -> CaseScorer:
        return CaseScorer(self.study, self.unit, method)

    @property
    def input_key(self) -> str:
        return ""

    @property
    def saves(self) -> bool:
        return self.unit.scenario != "camera"  # which does not wait

    @property
    def kinds(self) -> Mapping[str, type]:
        return {}

    def gathered(self, attempt: Attempt) -> Mapping[str, Any]:
        return {"log": attempt.scorer.log, "poses": attempt.scorer.poses}

    def keep(self, output: Output, row: Row, writer: UnitWriter) -> None:
        writer.append_row(row)

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

    def store(self, attempt: Attempt, writer: UnitWriter) -> None:
        """The table has everything."""

    def record(self, attempt: Attempt) -> CaseRecord:
        failure, case, scorer = attempt.failure, self.unit, attempt.scorer
        stopped = None
        if attempt.stream is not None and attempt.stream.stopped:
            stopped = f"its limit of {case.limit_s:g} s ended it after {attempt.frames} of {case.frames} frames"
        nothing: dict[str, Any] = {"measurements": [], "growth": [], "checkpoints": [], "error_curve": []}
        return CaseRecord(
            name=case.name,
            case=case.model_dump(mode="json"),
            status="ok" if failure is None else "failed",
            stage=failure.stage if failure else None,
            reason=failure.reason if failure else None,
            failed_at_frame=failure.at_frame if failure else None,
            out_of_memory=failure.out_of_memory if failure else False,
            bad_input=failure.bad_input if failure else False,
            stopped=stopped,
            frames=attempt.frames,
            predictions=attempt.predictions,
            facts={} if scorer is None else scorer.facts(attempt.method_facts),
            input=attempt.facts,
            sampling=self._sampling(scorer),
            started=attempt.started,
            seconds=attempt.seconds,
            wait_s=attempt.wait_s,
            went_on_at=list(attempt.went_on_at),
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
