"""One case: frames, network, warm-up, stream, summary; whatever goes wrong becomes its record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from lingbot_eval.errors import CheckpointError, LingbotEvalError, StoreError, one_line
from lingbot_eval.files.atomic import write_text
from lingbot_eval.machine.gpu import is_out_of_memory
from lingbot_eval.methods.registry import free_device_memory
from lingbot_eval.methods.stepper import Stepper
from lingbot_eval.methods.transfer import transfer_for
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource
from lingbot_eval.profiling.memory import reset_peaks
from lingbot_eval.profiling.probe import MemoryProbe
from lingbot_eval.profiling.timing import timed
from lingbot_eval.runs.poses import PoseLog
from lingbot_eval.runs.records import MeasurementRecord, utc_now
from lingbot_eval.runs.unit_writer import UnitWriter
from lingbot_eval.scaling.inputs import FrameSource
from lingbot_eval.scaling.networks import Networks
from lingbot_eval.scaling.records import CaseRecord
from lingbot_eval.scaling.samples import SampleLog
from lingbot_eval.scaling.settings import Case, Study, case_name
from lingbot_eval.scaling.stream import POLICIES, Clock, PacedStream, Timed, WallClock
from lingbot_eval.scaling.summary import Setting, case_checkpoints, case_growth, case_measurements, error_curve
from lingbot_eval.streaming.estimate import NetworkSize
from lingbot_eval.streaming.open import Session, open_session
from lingbot_eval.streaming.settings import StreamSettings, stream_interval
from lingbot_eval.streaming.stores import attention_name, resolve_backend
from lingbot_eval.types import FrameType

WARM_UP_STEPS = 4
"""Frames after the scale phase: enough for kept and passing ones, and for the pass that a CUDA graph records."""
TRACEBACK_FILE = "traceback.txt"

Stage = Literal["input", "network", "warm-up", "stream", "summary"]


@dataclass(frozen=True)
class Failure:
    """Why a case has no whole result. reason: one line. at_frame: the frame that could not be taken."""

    stage: Stage
    reason: str
    at_frame: int | None
    out_of_memory: bool
    bad_input: bool
    traceback: str


@dataclass
class CaseAttempt:
    """The state of one case; what it has measured goes into the record even when it fails.

    source: gives the frames (made for the first case of a size, then shared). clock: for tests.
    """

    study: Study
    case: Case
    device: torch.device
    networks: Networks
    source: Callable[[], FrameSource]
    writer: UnitWriter
    clock: Clock = field(default_factory=WallClock)
    failure: Failure | None = None
    _stage: Stage = "input"
    _frames: FrameSource | None = None
    _given: int = 0
    _at_frame: int = 0
    _cut: bool = False
    _probe: MemoryProbe | None = None
    _log: SampleLog = field(default_factory=SampleLog)
    _poses: PoseLog = field(default_factory=PoseLog)
    _facts: dict[str, Any] = field(default_factory=dict)
    _setting: Setting | None = None
    _warm_up_s: float | None = None
    _summary: dict[str, Any] = field(default_factory=dict)
    _started: str = field(default_factory=utc_now)
    _begun: float = field(default_factory=time.perf_counter)

    def run(self, each_frame: Callable[[], None]) -> None:
        """Do it; a failure is kept, not raised. Raises StoreError and CheckpointError, which stop every case."""
        self._contained(lambda: self._run(each_frame))
        # The stream's caches are gone with its frames on the stack; the device gets them back before the next case.
        free_device_memory()
        self._contained(self._summarise)
        if self.failure is not None:
            write_text(self.writer.path(TRACEBACK_FILE), self.failure.traceback)
            if not self.failure.out_of_memory:
                # Whatever state it was left in, the next case starts afresh.
                self.networks.close()

    def record(self) -> CaseRecord:
        """The result as it stands."""
        failure, case = self.failure, self.case
        stopped = None
        if self._cut:
            stopped = f"its limit of {case.limit_s:g} s ended it after {self._given} of {case.frames} frames"
        return CaseRecord(
            name=case_name(case),
            case=case.model_dump(mode="json"),
            status="ok" if failure is None else "failed",
            stage=failure.stage if failure else None,
            reason=failure.reason if failure else None,
            failed_at_frame=failure.at_frame if failure else None,
            out_of_memory=failure.out_of_memory if failure else False,
            bad_input=failure.bad_input if failure else False,
            stopped=stopped,
            frames=self._given,
            predictions=len(self._log),
            facts=self._facts,
            input=dict(self._frames.facts) if self._frames is not None else {},
            sampling=self._sampling(),
            measurements=self._summary.get("measurements", []),
            growth=self._summary.get("growth", []),
            checkpoints=self._summary.get("checkpoints", []),
            error_curve=self._summary.get("error_curve", []),
            started=self._started,
            seconds=time.perf_counter() - self._begun,
        )

    def _contained(self, work: Callable[[], None]) -> None:
        """The boundary of the case: whatever goes wrong inside becomes its result, and the other cases run on."""
        try:
            work()
        except (StoreError, CheckpointError):
            # Not of this case: the run directory or the weights would fail the next one, too.
            raise
        except Exception as error:  # noqa: BLE001 - a case may fail in any way that its settings lead to
            if self.failure is not None:
                return
            self.failure = Failure(
                stage=self._stage,
                reason=_in_one_line(error),
                at_frame=self._at_frame if self._stage == "stream" else None,
                out_of_memory=is_out_of_memory(error),
                bad_input=isinstance(error, LingbotEvalError),
                traceback=traceback.format_exc(),
            )

    def _run(self, each_frame: Callable[[], None]) -> None:
        self._frames = source = self.source()
        self._stage = "network"
        streaming = self._streaming()
        self._stage = "warm-up"
        self._warm_up_s = self._warm_up(streaming, source)
        free_device_memory()
        self._stage = "stream"
        self._probe = MemoryProbe(str(self.device))
        reset_peaks(str(self.device))
        session = self._open(streaming)
        transfer = transfer_for(self.device, overlapped=self.case.scenario == "offline")
        stream = PacedStream(self.case, Stepper(session, self.device, transfer), self.clock)
        kept = 0
        try:
            with closing(source.frames(self.case.frames)) as frames, closing(stream.run(frames)) as outputs:
                for output in outputs:
                    kept += output.prediction.frame_type is not FrameType.UNKEPT
                    self._keep(output, kept, session)
                    each_frame()
        finally:
            # The numbers, not the stream: its caches are to go.
            self._given, self._at_frame, self._cut = stream.given, stream.at_frame, stream.stopped

    def _streaming(self) -> StreamSettings:
        """The case's stream, its interval and backend resolved; what the record and the formula need is noted."""
        case, settings = self.case, self.study.model
        model, weights = self._network()
        asked = self.study.streaming.model_copy(
            update={"backend": case.backend, "window": case.window, "keyframe_interval": case.keyframe_interval}
        )
        interval = stream_interval(asked, case.frames)
        backend = resolve_backend(case.backend, model.trunk_dtype, self.device)
        streaming = asked.model_copy(update={"keyframe_interval": interval, "backend": backend})
        network = NetworkSize(CONFIGS[settings.config], case.precision, settings.camera_iterations, settings.point_head)
        self._setting = Setting(case, network, streaming, on_cpu=self.device.type == "cpu")
        self._facts = {
            "config": settings.config,
            "weights": weights.name,
            "trained": weights.trained,
            "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
            "device": str(self.device),
            "backend": backend,
            "attention": attention_name(backend, model.trunk_dtype, self.device),
            "precision": case.precision,
            "keyframe_interval": interval,
            "window": self._setting.window,
            "scale_frames": streaming.scale_frames,
            "scenario": POLICIES[case.scenario],
        }
        return streaming

    def _network(self) -> tuple[GeometricContextTransformer, WeightSource]:
        return self.networks.get(self.case.precision)

    def _open(self, streaming: StreamSettings) -> Session:
        model, _ = self._network()
        iterations = self.study.model.camera_iterations
        return open_session(model, streaming, frames=self.case.frames, camera_iterations=iterations)

    def _warm_up(self, streaming: StreamSettings, source: FrameSource) -> float:
        """Compile and touch everything once, on a stream of its own; returns the seconds it took."""
        (first,) = source.frames(1)
        with timed(str(self.device)) as elapsed:
            stepper = Stepper(self._open(streaming), self.device, transfer_for(self.device))
            for _ in range(streaming.scale_frames + WARM_UP_STEPS):
                stepper.step(first)
        return elapsed.seconds

    def _keep(self, output: Timed, kept: int, session: Session) -> None:
        prediction = output.prediction
        cost, kind = prediction.cost, prediction.frame_type
        if cost is None or kind is None or prediction.camera_to_world is None:
            raise TypeError(f"frame {prediction.index}: the streaming model tells pose, type and cost of every frame")
        self._poses.append(prediction.index, prediction.timestamp, prediction.camera_to_world)
        row: dict[str, float | int | None] = {
            "index": prediction.index,
            "frame_type": kind,
            "kept": kept,
            "forward_ms": 1e3 * cost.forward_s,
            "interval_ms": 1e3 * output.interval_s,
            "latency_ms": None if output.latency_s is None else 1e3 * output.latency_s,
            "backlog": output.backlog,
            **{f"cache_{name}_bytes": size for name, size in cost.cache_bytes.items()},
            "cache_allocated_bytes": session.allocated_bytes(),
            "device_allocated_bytes": cost.device_bytes,
        }
        done = prediction.index + 1
        if self._probe is not None and (done % self.study.sample_every == 0 or done in self.study.checkpoints):
            sample = self._probe.sample()
            row |= {
                "device_reserved_bytes": sample.reserved,
                "driver_bytes": sample.driver,
                "process_bytes": sample.process,
            }
        self._log.append(row)
        self.writer.append_row(row)

    def _summarise(self) -> None:
        if self._setting is None:
            return
        if self.failure is None:
            self._stage = "summary"
        if self._frames is None or not len(self._log):
            return
        truth, guess = self._frames.reference(len(self._log)), self._poses.trajectory()
        setting, log = self._setting, self._log
        measured = case_measurements(self.case, log, self._warm_up_s)
        self._summary = {
            "measurements": [MeasurementRecord(**asdict(m)) for m in measured],
            "growth": list(case_growth(setting, log)),
            "checkpoints": list(case_checkpoints(setting, log, self.study.checkpoints, truth, guess)),
            "error_curve": list(error_curve(truth, guess)),
        }

    def _sampling(self) -> dict[str, str]:
        every = f"every {self.study.sample_every} frames and at checkpoints"
        return {
            "every frame": "forward and interval times, cache by kind and as allocated, allocated on the device",
            every: "reserved on the device, driver, process",
            "driver": self._probe.driver_source if self._probe is not None else "not asked",
        }


def _in_one_line(error: Exception) -> str:
    if is_out_of_memory(error):
        text = " ".join(str(error).split())
        # The first sentence; a CPU's begins with a place in torch's sources.
        text = text.rpartition("DefaultCPUAllocator: ")[2].partition(". ")[0]
        return f"out of memory: {text}" if text else "out of memory"
    return one_line(error)
