"""One try at one unit: open, warm up, stream, score, store; a failure becomes a record that says where and why."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

from lingbot_eval.datasets.prepare.input_notes import input_notes, refuse_faulty_images
from lingbot_eval.datasets.prepare.resize import prepare
from lingbot_eval.errors import CheckpointError, DataError, DependencyError, LingbotEvalError, StoreError, one_line
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.json_documents import parse_json
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.methods.base import Method
from lingbot_eval.methods.registry import OpenMethod
from lingbot_eval.metrics.matching import usable_poses
from lingbot_eval.runs.background import Behind
from lingbot_eval.runs.disk import writing
from lingbot_eval.runs.drift_file import DRIFT_FILE, save_drift
from lingbot_eval.runs.experiment import MetricsConfig
from lingbot_eval.runs.fingerprint import input_fingerprint
from lingbot_eval.runs.plan import Unit, open_scene
from lingbot_eval.runs.records import LARGEST_VALUE, MeasurementRecord, UnitRecord, utc_now
from lingbot_eval.runs.scoring import SceneScorer, Scoring
from lingbot_eval.runs.stream import Load, Output, SceneStream
from lingbot_eval.runs.unit_writer import ESTIMATE_FILE, REFERENCE_FILE, UnitWriter
from lingbot_eval.types import Frame, FrameSequence, Measurement, Trajectory
from lingbot_eval.viewing.kept import Keeper, KeepSettings

TRACEBACK_FILE = "traceback.txt"

LOADING, WAITING = 4, 8
"""Where the method leaves the cores free: threads that decode and prepare, predictions that may wait for scoring."""

Stage = Literal["open", "warm-up", "stream", "score", "store"]


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended. reason: one line. bad_input: the user's files or settings, rather than a crash."""

    stage: Stage
    reason: str
    at_frame: int | None
    bad_input: bool
    traceback: str


@dataclass
class Attempt:
    """The state of one try; what it has found out so far goes into the record even when it fails."""

    unit: Unit
    metrics: MetricsConfig
    keep: KeepSettings
    methods: OpenMethod
    fingerprint: str = ""
    failure: Failure | None = None
    _stage: Stage = "open"
    _sequence: FrameSequence | None = None
    _method: Method | None = None
    _stream: SceneStream | None = None
    _failed_behind: tuple[Stage, int] | None = None
    _facts: dict[str, Any] = field(default_factory=dict)
    _method_facts: dict[str, Any] = field(default_factory=dict)
    _frames: int = 0
    _predictions: int = 0
    _measurements: tuple[Measurement, ...] = ()
    _notes: tuple[str, ...] = ()
    _started: str = field(default_factory=utc_now)
    _clock: float = field(default_factory=time.perf_counter)

    def open(self) -> None:
        """Open the scene and fingerprint its input; a failure is kept, not raised."""

        def work() -> None:
            self._sequence = sequence = open_scene(self.unit)
            self.fingerprint = input_fingerprint(self.unit, sequence)
            self._facts = self._described(sequence)

        self._contained(work)

    def _described(self, sequence: FrameSequence) -> dict[str, Any]:
        """What the record says of the input."""
        facts = _plain(sequence.facts())
        return {
            **facts,
            "notes": input_notes(facts, self.unit.size),
            "selection": self.unit.dataset.selection.model_dump(mode="json"),
            "preparation": self.unit.size.model_dump(mode="json"),
        }

    @property
    def length(self) -> int | None:
        """Frames that the scene promises; None where only decoding tells."""
        return self._sequence.length if self._sequence is not None else None

    def run(self, writer: UnitWriter, each_frame: Callable[[], None]) -> None:
        """Stream the scene through the method and write everything but the record; a failure is kept, not raised.

        each_frame: called after each prediction. Raises StoreError, and CheckpointError or DependencyError, which
        would meet every other unit of the method as well.
        """
        sequence = self._sequence
        if self.failure is None and sequence is not None:
            self._contained(lambda: self._run(sequence, writer, each_frame))
        if self.failure is not None:
            write_text(writer.path(TRACEBACK_FILE), self.failure.traceback)
        for name, path in self._method.files().items() if self._method is not None else ():
            with writing(writer.path(name)):
                shutil.copyfile(path, writer.path(name))

    def record(self) -> UnitRecord:
        """The result as it stands."""
        dataset, scene, method = self.unit.names
        failure = self.failure
        return UnitRecord(
            dataset=dataset,
            scene=scene,
            method=method,
            status="ok" if failure is None else "failed",
            reason=failure.reason if failure else None,
            stage=failure.stage if failure else None,
            failed_at_frame=failure.at_frame if failure else None,
            frames=self._frames,
            predictions=self._predictions,
            input_fingerprint=self.fingerprint,
            sequence=self._facts,
            method_facts=self._method_facts,
            measurements=[_stored(m) for m in self._measurements] if failure is None else [],
            notes=list(self._notes) if failure is None else [],
            started=self._started,
            seconds=time.perf_counter() - self._clock,
        )

    def _contained(self, work: Callable[[], None]) -> None:
        """The boundary of the unit: whatever goes wrong inside becomes its result, and the other units run on."""
        try:
            work()
        except (StoreError, CheckpointError, DependencyError):
            # Not of this unit: the run directory, the weights or the installation would fail the next one, too.
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a method is foreign code: it raises anything, and exits
            stage, at_frame = self._place()
            self.failure = Failure(
                stage=stage,
                reason=one_line(error),
                at_frame=at_frame,
                bad_input=isinstance(error, LingbotEvalError),
                traceback=traceback.format_exc(),
            )

    def _place(self) -> tuple[Stage, int | None]:
        """Where the unit is: what is behind the stream fails at a frame of its own."""
        if self._failed_behind is not None:
            return self._failed_behind
        streaming = self._stage == "stream" and self._stream is not None
        return self._stage, self._stream.at_frame if streaming and self._stream is not None else None

    def _run(self, sequence: FrameSequence, writer: UnitWriter, each_frame: Callable[[], None]) -> None:
        # Before the stream, although the scores need it after: a broken pose file should not cost a whole pass.
        reference = sequence.reference()
        self._method = method = self.methods.get(self.unit.method)
        if method.needs_images:
            # Now, rather than at the last of many frames.
            refuse_faulty_images(self._facts)
        method.open(sequence)
        self._method_facts = _plain(method.describe())
        try:
            warm_up_s = self._warm_up(method, sequence)
            scorer = SceneScorer(self._scoring(method))
            self._stage = "stream"
            workers = LOADING if self.unit.method.leaves_the_cpu_free else 0
            load, prepared = self._source(method, sequence)
            self._stream = SceneStream(method, load(), prepared, workers, again=load)
            keeper = Keeper(self.keep, writer.path, sequence.length)
            self._stream_through(self._stream, scorer, keeper, writer, each_frame)
        finally:
            # Again: what ran may be other than what was asked for, and how it ended is worth knowing most of a failure.
            self._method_facts = _plain(method.describe())
        self._facts = self._described(sequence)  # again: only decoding shows what is damaged
        # A method may stop before the end, as a replay does after its last pose.
        if not self._stream.exhausted and sequence.length is not None:
            self._frames = sequence.length
        resources = method.resources()
        self._stage = "score"
        score = scorer.score(reference, self._frames, warm_up_s)
        _check_usable(score.estimate, self._predictions)
        self._measurements = (*score.measurements, *resources)
        self._notes = score.notes
        self._stage = "store"
        self._notes += keeper.finish()
        writer.fill_columns(score.columns)
        if len(score.estimate):
            write_tum(writer.path(ESTIMATE_FILE), score.estimate)
        if reference is not None and len(reference):
            write_tum(writer.path(REFERENCE_FILE), reference)
        if score.drift is not None:
            save_drift(writer.path(DRIFT_FILE), score.drift)
        panels = scorer.panels()
        if panels is not None:
            writer.write_panels(panels)

    def _scoring(self, method: Method) -> Scoring:
        depth, limits = self.metrics.depth, self.unit.dataset.depth_range
        if depth is not None and limits is not None:
            depth = depth.model_copy(update={"min_depth": limits[0], "max_depth": limits[1]})
        metrics = self.metrics.model_copy(update={"depth": depth})
        return Scoring(
            metrics,
            depth_limits=limits or (0.0, 80.0),
            gives_depth=self.unit.method.gives_depth,
            is_timed=method.needs_images,
        )

    def _warm_up(self, method: Method, sequence: FrameSequence) -> float | None:
        """Seconds of warming up on the first frame, which the stream decodes again in its own time."""
        if not method.needs_images:
            return None
        self._stage = "warm-up"
        for frame in sequence.frames(depth=False):
            return method.warm_up(prepare(frame, self.unit.size))
        raise DataError(f"{sequence.dataset}/{sequence.scene}: expected frames, found none; check the selection")

    def _stream_through(
        self,
        stream: SceneStream,
        scorer: SceneScorer,
        keeper: Keeper,
        writer: UnitWriter,
        each_frame: Callable[[], None],
    ) -> None:
        def keep(output: Output) -> None:
            stage: Stage = "score"
            try:
                row = scorer.add(output)
                stage = "store"
                writer.append_row(row)
                keeper.add(output.frame, output.prediction)
            except Exception:
                self._failed_behind = stage, output.prediction.index
                raise
            self._predictions = scorer.predictions
            each_frame()

        free = self.unit.method.leaves_the_cpu_free
        with closing(stream.outputs()) as outputs, Behind(keep, WAITING if free else 0) as behind:
            for output in outputs:
                self._frames = stream.given
                behind.put(output)
        self._frames = stream.given

    def _source(
        self, method: Method, sequence: FrameSequence
    ) -> tuple[Callable[[], Iterator[Load]], Callable[[Frame], Frame]]:
        """What gives loaders of frames with what is needed of them, and how they are prepared."""
        scored = self.metrics.depth is not None or self.metrics.points is not None
        depth = scored and self.unit.method.gives_depth
        coloured = (self.keep.cloud or self.keep.sky is not None) and self.unit.method.gives_depth
        if not (method.needs_images or depth or coloured):
            return partial(sequence.loaders, images=False, depth=False), _as_it_is
        # Depth brings the image along: panels and clouds show it, and it tells the size to prepare to.
        return partial(sequence.loaders, images=True, depth=depth), lambda frame: prepare(frame, self.unit.size)


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


def _as_it_is(frame: Frame) -> Frame:
    return frame


def _stored(measurement: Measurement) -> MeasurementRecord:
    if measurement.value is not None and not abs(measurement.value) < LARGEST_VALUE:
        words = f"it is {measurement.value:g}, beyond the {LARGEST_VALUE:g} that can be averaged"
        measurement = replace(measurement, value=None, reason=words)
    return MeasurementRecord(**asdict(measurement))


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a foreign method or dataset as they will be read back. Raises TypeError or ValueError where JSON has no
    such value: that is the unit's failure, found before its frames are streamed."""
    plain: dict[str, Any] = parse_json(json.dumps(dict(facts), allow_nan=False).encode())
    return plain
