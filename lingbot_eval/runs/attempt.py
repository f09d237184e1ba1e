"""One try at one unit: open, warm up, stream, score, store; a failure becomes a record that says where and why."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

from lingbot_eval.errors import (
    CheckpointError,
    DataError,
    DependencyError,
    LingbotEvalError,
    StoreError,
    is_out_of_memory,
    one_line,
)
from lingbot_eval.files.atomic import write_text, writing
from lingbot_eval.files.json_documents import parse_json
from lingbot_eval.machine.wait import WAIT
from lingbot_eval.methods.base import Method, MethodSettings, OpenMethod, SavesStreams
from lingbot_eval.prepare import refuse_faulty_images
from lingbot_eval.registry import place_in_plugin
from lingbot_eval.runs.scoring import KeptPanel
from lingbot_eval.runs.stream import BackgroundWorker, Output, Pace, SceneStream
from lingbot_eval.stored.records import HostRecord, Names, utc_now
from lingbot_eval.stored.saved import Contents, SavedState, put_back, taken
from lingbot_eval.stored.store import Store
from lingbot_eval.stored.unit_files import UnitWriter
from lingbot_eval.types import Frame, FrameSequence, Measurement, Prediction, Trajectory
from lingbot_eval.viewing.kept import Thumbnail

TRACEBACK_FILE = "traceback.txt"

KINDS = {"panel": KeptPanel, "thumbnail": Thumbnail}
"""Classes of objects in lists of what is gathered, by a name; see `lingbot_eval.stored.saved.taken`."""
WAITING = 8
"""Predictions that may wait for scoring where the method leaves the cores free."""

Stage = Literal["open", "warm-up", "stream", "score", "store"]
Row = Mapping[str, object]


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended. reason: one line. bad_input: the user's files or settings, rather than a crash."""

    stage: Stage
    reason: str
    at_frame: int | None
    bad_input: bool
    out_of_memory: bool
    traceback: str


class Task:
    """What is to be done for one unit: where its frames come from, what is scored and stored of them, its record."""

    unit: Any
    shorter: tuple[Any, ...] = ()
    """Tasks of the same stream with fewer frames, which come right after this one."""
    measures_limits: ClassVar[bool] = False
    """Whether what came before a failure is a result, too, and a lack of memory an answer that costs no loaded
    weights."""

    @property
    def names(self) -> Names:
        """Under which its result is filed."""
        found: Names = self.unit.names
        return found

    @property
    def method(self) -> MethodSettings:
        """The settings of what streams."""
        raise NotImplementedError

    @property
    def pace(self) -> Pace:
        """When frames are given."""
        return Pace()

    def is_done(self, record: Any) -> bool:
        """Whether a stored result that went well is of the input as it is now. Raises what opening it raises."""
        raise NotImplementedError

    def open(self) -> FrameSequence:
        """The frames. Raises DataError or ConfigError."""
        raise NotImplementedError

    def beginnings(self, sequence: FrameSequence) -> list[tuple[int, Any]]:
        """Tasks that this one's stream is through with on its way: after how many frames, rising, and which."""
        return []

    def facts(self, sequence: FrameSequence) -> dict[str, Any]:
        """What the record says of the input."""
        return dict(sequence.facts())

    def frames(self, sequence: FrameSequence, method: Method) -> Generator[Frame, None, None]:
        """The frames as the method and the scores need them, from the first on."""
        yield from sequence.frames()

    def scorer(self, method: Method, sequence: FrameSequence, writer: UnitWriter) -> Any:
        """For one pass, the method opened: its ``add`` takes the outputs one by one and returns each one's row of the
        unit's table."""
        raise NotImplementedError

    def keep(self, output: Output, row: Row, writer: UnitWriter) -> None:
        """Store what is stored of each frame."""
        writer.append_row(row)

    def score(self, attempt: Attempt) -> None:
        """After the stream: put into ``attempt.scores`` what is measured."""
        raise NotImplementedError

    @property
    def input_key(self) -> str:
        """Of the input as it was opened; a study's is in the key of the run."""
        return ""

    @property
    def saves(self) -> bool:
        """Whether the unit can be saved in its middle; then `gathered` is all that its scores rest on."""
        raise NotImplementedError

    def gathered(self, attempt: Attempt) -> Mapping[str, Any]:
        """The objects that gather along the stream, by a name."""
        raise NotImplementedError

    def store(self, attempt: Attempt, writer: UnitWriter) -> None:
        """Write files beside the table and the record."""

    def record(self, attempt: Attempt) -> Any:
        """The result as it stands."""
        raise NotImplementedError


@dataclass
class Attempt:
    """How far one try has come and what it has found out; of a failed one, too, the record tells it.

    facts: of the input; method_facts: of what ran. reference: true poses. scores: what `Task.score` put there.
    went_on_at: frames at which it went on from a saved state. warming: entered for the warm-up.
    """

    stage: Stage = "open"
    failure: Failure | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    method_facts: dict[str, Any] = field(default_factory=dict)
    reference: Trajectory | None = None
    warm_up_s: float | None = None
    wait_s: dict[str, float] = field(default_factory=dict)
    method: Method | None = None
    stream: SceneStream | None = None
    scorer: Any = None
    scores: Any = None
    frames: int = 0
    predictions: int = 0
    resources: tuple[Measurement, ...] = ()
    failed_behind: tuple[Stage, int] | None = None
    went_on_at: tuple[int, ...] = ()
    warming: AbstractContextManager[None] = field(default_factory=nullcontext)
    started: str = field(default_factory=utc_now)
    begun: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.begun

    def told(self) -> dict[str, Any]:
        """What the record of any unit says of its try."""
        failure = self.failure
        return {
            "status": "ok" if failure is None else "failed",
            "reason": None if failure is None else failure.reason,
            "stage": None if failure is None else failure.stage,
            "failed_at_frame": None if failure is None else failure.at_frame,
            "frames": self.frames,
            "predictions": self.predictions,
            "started": self.started,
            "seconds": self.seconds,
            "wait_s": self.wait_s,
            "went_on_at": list(self.went_on_at),
        }

    @contextmanager
    def contained(self) -> Iterator[None]:
        """The boundary of the unit: whatever goes wrong inside becomes its result, and the other units run on.

        Raises StoreError, and CheckpointError or DependencyError: the run directory, the weights or the installation
        would fail the next unit, too.
        """
        try:
            yield
        except (StoreError, CheckpointError, DependencyError):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a method is foreign code: it raises anything, and exits
            if self.failure is None:
                at_frame = self.stream.at_frame if self.stage == "stream" and self.stream is not None else None
                # What is behind the stream fails at a frame of its own.
                stage, at_frame = self.failed_behind or (self.stage, at_frame)
                self.failure = Failure(
                    stage=stage,
                    reason=f"{one_line(error)}{place_in_plugin(error)}",
                    at_frame=at_frame,
                    bad_input=isinstance(error, LingbotEvalError),
                    out_of_memory=is_out_of_memory(error),
                    traceback=traceback.format_exc(),
                )


@dataclass
class Beginnings:
    """Shorter units of the same stream: each is scored and stored as if it had ended there.

    One that cannot be is left to its own turn, where it is streamed by itself.
    waiting: after how many frames, rising, and which. frames: of the whole stream. done: takes the records by name.
    token, host: as of `lingbot_eval.runs.execute.attempt_stored`.
    """

    store: Store[Any, Any]
    done: dict[Names, Any]
    waiting: list[tuple[int, Task]] = field(default_factory=list)
    frames: int | None = None
    token: str | None = None
    host: Callable[[], HostRecord | None] = lambda: None

    def pass_over(self, frames: int) -> None:
        """So many frames had their predictions before: what was to be done by then is not done any more."""
        self.waiting = [(end, task) for end, task in self.waiting if end > frames]

    def due(self, frames: int) -> bool:
        """Whether something is to be done once so many frames have their predictions."""
        return bool(self.waiting) and self.waiting[0][0] <= frames

    def reach(self, frames: int, attempt: Attempt, writer: UnitWriter) -> None:
        """Do it. attempt, writer: of the longer unit, with the predictions of so many frames. Raises StoreError."""
        method = attempt.method
        while self.due(frames) and method is not None:
            end, task = self.waiting.pop(0)
            part = replace(attempt, stage="score", scores=None, frames=end, resources=method.resources())
            with part.contained():
                sequence = task.open()
                part.facts, part.reference = task.facts(sequence), sequence.reference()
                task.score(part)
                with self.store.unit_writer(*task.names, token=self.token) as own:
                    own.begin_as(writer)
                    task.store(part, own)
                    record = task.record(part).model_copy(update={"host": self.host(), "stream_frames": self.frames})
                    own.finish(record)
                self.done[task.names] = record
            attempt.scorer.paced = False


def attempt_unit(
    task: Task,
    attempt: Attempt,
    sequence: FrameSequence | None,
    methods: OpenMethod,
    writer: UnitWriter,
    each_frame: Callable[[], None],
    way: Beginnings,
    saved: SavedState | None = None,
) -> None:
    """Stream the frames through the method and write everything but the record; a failure is kept, not raised.

    sequence: None where it could not be opened. each_frame: called after each prediction. saved: where the unit is
    saved on its way, and goes on from. Raises as `Attempt.contained`.
    """
    if sequence is not None:
        with attempt.contained():
            _stream(task, attempt, sequence, methods, writer, each_frame, way, saved)
    if attempt.failure is not None:
        if attempt.failure.out_of_memory:
            attempt.failure = replace(
                attempt.failure, reason=f"{attempt.failure.reason}{task.method.when_memory_lacks}"
            )
        if task.measures_limits and attempt.scorer is not None:
            with attempt.contained():
                task.score(attempt)
        write_text(writer.path(TRACEBACK_FILE), attempt.failure.traceback)
    for name, path in attempt.method.files().items() if attempt.method is not None else ():
        with writing(writer.path(name)):
            shutil.copyfile(path, writer.path(name))


def _stream(
    task: Task,
    attempt: Attempt,
    sequence: FrameSequence,
    methods: OpenMethod,
    writer: UnitWriter,
    each_frame: Callable[[], None],
    way: Beginnings,
    saved: SavedState | None,
) -> None:
    """All phases of a unit, one after the other; ``attempt.stage`` says which."""
    # Before the stream, although the scores need it after: a broken pose file should not cost a whole pass.
    attempt.reference = sequence.reference()
    attempt.method = method = methods.get(task.method)
    if method.needs_images:
        # Now, rather than at the last of many frames.
        refuse_faulty_images(attempt.facts)
    method.open(sequence)
    attempt.method_facts = plain(method.describe())
    attempt.scorer = task.scorer(method, sequence, writer)

    def keep(output: Output) -> None:
        stage: Stage = "score"
        try:
            row = attempt.scorer.add(output)
            stage = "store"
            task.keep(output, row, writer)
        except Exception:
            attempt.failed_behind = stage, output.prediction.index
            raise
        attempt.predictions += 1
        each_frame()

    try:
        if method.needs_images:
            attempt.stage = "warm-up"
            with WAIT.part("first frame"):
                first = _first(task, sequence, method)
            # Of a GPU: compiled kernels are found or made, the pass is captured.
            with WAIT.part("warm-up"), attempt.warming:
                attempt.warm_up_s = method.warm_up(first)
        attempt.stage = "stream"
        waiting = WAITING if task.method.leaves_the_cpu_free else 0
        behind = BackgroundWorker(keep, waiting)
        done_before, seconds_before = _go_on(task, attempt, sequence, writer, saved)
        for _ in range(done_before):
            each_frame()
        way.pass_over(done_before)
        rest = _Saving(cast(SavesStreams, method), task, attempt, writer, behind, saved) if saved else None
        attempt.stream = stream = SceneStream(
            method, lambda: task.frames(sequence, method), task.pace, rest, done_before, seconds_before
        )
        with closing(stream.outputs()) as outputs, behind:
            for output in outputs:
                attempt.wait_s = attempt.wait_s or WAIT.end("first prediction")
                attempt.frames = stream.given
                # A beginning ends with its last frame's prediction or, where that has none, before the next one's.
                for done, item in ((output.prediction.index, output), (output.prediction.index + 1, None)):
                    if way.due(done):
                        behind.wait()
                        way.reach(done, attempt, writer)
                    if item is not None:
                        behind.put(item)
    finally:
        # Again: what ran may be other than what was asked for, and how it ended is worth knowing most of a failure.
        attempt.method_facts = plain(method.describe())
    # A method may stop before the end, as a replay does after its last pose.
    ended = stream.exhausted or stream.stopped or sequence.length is None
    attempt.frames = stream.given if ended else sequence.length or 0
    attempt.facts = task.facts(sequence)  # again: only decoding shows what is damaged
    attempt.resources = method.resources()
    if way.due(attempt.frames):
        way.reach(attempt.frames, attempt, writer)
    attempt.stage = "score"
    task.score(attempt)
    attempt.stage = "store"
    task.store(attempt, writer)


def _go_on(
    task: Task, attempt: Attempt, sequence: FrameSequence, writer: UnitWriter, saved: SavedState | None
) -> tuple[int, float]:
    """Put what a saved state has into the attempt, the writer and the method; a state that is damaged is none.

    Returns how many frames have their predictions, and the stream's seconds so far.
    """
    if saved is None or attempt.method is None:
        return 0, 0.0
    try:
        record = saved.load()
        if record is None:
            return 0, 0.0
        for name, gathered in task.gathered(attempt).items():
            put_back(record.values["gathered"][name], gathered, saved.content, KINDS)
        stream = put_back(record.values["stream"], None, saved.content, {})
        # Once all of it could be read: the rows of a state that is none would stay in the table.
        writer.go_on_with(saved.files(record))
        cast(SavesStreams, attempt.method).go_on_from(stream)
    except (StoreError, KeyError, TypeError, ValueError):
        saved.remove()
        attempt.scorer = task.scorer(attempt.method, sequence, writer)
        return 0, 0.0
    attempt.predictions = record.frames
    attempt.went_on_at = (*record.values["went_on_at"], record.frames)
    return record.frames, record.seconds


@dataclass
class _Saving:
    """Saves a unit between two of its frames (a `lingbot_eval.runs.stream.Rest`)."""

    method: SavesStreams
    task: Task
    attempt: Attempt
    writer: UnitWriter
    behind: BackgroundWorker[Output]
    saved: SavedState

    def predict(self, frames: Iterable[Frame | None]) -> Iterator[Prediction]:
        return self.method.predict(frames)

    def due(self) -> bool:
        return self.saved.due()

    def at_rest(self, given: int, seconds: float) -> None:
        self.behind.wait()
        state = self.method.stream_state()
        if state is None or self.attempt.predictions != given:
            return
        contents: Contents = []
        gathered = self.task.gathered(self.attempt)
        values = {
            "gathered": {name: taken(each, contents, KINDS) for name, each in gathered.items()},
            "stream": taken(state, contents, {}),
            "went_on_at": list(self.attempt.went_on_at),
        }
        # A disk that is full stops no stream: it ends as it would have without a state.
        with suppress(StoreError):
            self.saved.save(given, seconds, values, contents, self.writer.files_so_far())


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a foreign method or dataset as they will be read back. Raises TypeError or ValueError where JSON has no
    such value: that is the unit's failure, found before its frames are streamed."""
    found: dict[str, Any] = parse_json(json.dumps(dict(facts), allow_nan=False).encode())
    return found


def _first(task: Task, sequence: FrameSequence, method: Method) -> Frame:
    """The first frame, for the warm-up; the stream decodes it again in its own time."""
    with closing(task.frames(sequence, method)) as frames:
        for frame in frames:
            return frame
    raise DataError(f"{sequence.dataset}/{sequence.scene}: expected frames, found none; check the selection")
