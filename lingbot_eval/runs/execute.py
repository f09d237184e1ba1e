"""Runs units one by one into their store: what is done is skipped, what fails is recorded, what stops can go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from lingbot_eval.errors import CheckpointError, ConfigError, DependencyError, StoreError, StreamError, shortened
from lingbot_eval.machine.environment import environment
from lingbot_eval.machine.wait import WAIT
from lingbot_eval.methods.registry import OpenMethod
from lingbot_eval.runs.attempt import Attempt, Failure, Task, attempt_unit
from lingbot_eval.runs.plan import Plan
from lingbot_eval.runs.records import Names, RunRecord, utc_now
from lingbot_eval.runs.scene import scene_tasks
from lingbot_eval.runs.store import LeftOutUnit, ResultT, RunStore, RunT, Store, StoredUnit, StoredUnits
from lingbot_eval.runs.unit_writer import UnitWriter

UnitT = TypeVar("UnitT", contravariant=True)
RecordT = TypeVar("RecordT", contravariant=True)


class Observer(Protocol[UnitT, RecordT]):
    """Watches units go by; the command line shows progress through it."""

    def started(self, unit: UnitT, frames: int | None) -> None:
        """A unit begins; frames: how many it will have, None when nobody knows yet."""
        ...

    def frame(self) -> None:
        """One more prediction of the unit that began last is stored."""
        ...

    def finished(self, unit: UnitT, record: RecordT) -> None:
        """The unit that began last has its result."""
        ...

    def skipped(self, unit: UnitT) -> None:
        """A unit was done before, from the same input."""
        ...

    def left_out(self, unit: UnitT, reason: str) -> None:
        """What is stored of a unit is not used, and the unit begins anew."""
        ...


@dataclass(frozen=True)
class Outcome(Generic[RunT, ResultT]):
    """How a run ended. units: what is on the disk now. failed: planned units without scores there; bad_input: whether
    any is for the user to mend. lost_record: a line where the run's record was gone and is written anew."""

    path: Path
    record: RunT
    units: StoredUnits[ResultT]
    done: int
    skipped: int
    failed: int
    bad_input: bool
    lost_record: str | None = None

    @property
    def records(self) -> tuple[ResultT, ...]:
        """Of the units that are there, in the order of the plan."""
        return tuple(unit.record for unit in self.units.units)


def execute(
    plan: Plan, out: Path, command: str, observer: Observer[Any, Any], *, allow_commands: bool = False
) -> Outcome:
    """Do what is not done yet of ``plan``, under ``out``; ``command`` repeats it.

    A unit that fails is stored with its reason and the others run on. Raises as `run_tasks`, CheckpointError or
    DependencyError when a method cannot be had at all. A run that is refused before its first unit leaves no directory.
    Raises ConfigError for a method that runs a command, unless allow_commands.
    """
    if plan.commands and not allow_commands:
        name, line = next(iter(plan.commands.items()))
        raise ConfigError(
            f"method '{name}' runs the command {shortened(line)!r}, which the user must allow: if you trust it, pass"
            " --allow-commands (in Python allow_commands=True)"
        )
    record = RunRecord(
        key=plan.key,
        name=plan.experiment.name,
        command=command,
        # The cards travel with the results: reports compare with the published numbers as they were then.
        experiment={
            **plan.experiment.as_stored(),
            "cards": {card.name: card.model_dump(mode="json", exclude={"download"}) for card in plan.cards},
        },
        units=[list(unit.names) for unit in plan.units],
        weights=plan.weights,
        environment=environment(),
        started=utc_now(),
    )
    return run_tasks(RunStore.create(out, record), record, scene_tasks(plan), observer)


def run_tasks(
    store: Store[RunT, ResultT], record: RunT, tasks: Sequence[Task[Any, Any]], observer: Observer[Any, Any]
) -> Outcome[RunT, ResultT]:
    """Do the ``tasks`` of a run that are not done yet. record: of the run, as it begins.

    Raises StoreError when the directory cannot be written or another process writes there, and what `attempt_unit`
    raises; then, and when interrupted or killed, finished units stay and the next call goes on after them.
    """
    with store.lock():
        record = record.model_copy(update={"started": store.read_run().started})
        store.write_run(record)
        skipped = 0
        failures: list[Failure] = []
        along: dict[Names, ResultT] = {}
        try:
            with closing(OpenMethod()) as methods:
                for task in tasks:
                    if task.names in along:
                        other = along[task.names]
                        observer.started(task.unit, other.frames)
                        observer.finished(task.unit, other)
                        continue
                    attempt = _attempt(task, methods, store, observer, along)
                    skipped += attempt is None
                    if attempt is not None and attempt.failure is not None:
                        failures.append(attempt.failure)
        except BaseException as error:
            refused = isinstance(error, CheckpointError | DependencyError)
            if not (refused and store.discard()):
                # Best effort: the same full disk may refuse this, too, and what stopped the run is what must be told.
                with suppress(StoreError):
                    store.write_run(_ended(record, complete=False))
            raise
        # What is on the disk and sound counts, not what was done here.
        stored = store.read_units()
        failed = len(tasks) - sum(unit.record.status == "ok" for unit in stored.units)
        record = _ended(record, complete=not failed)
        store.write_run(record)
    return Outcome(
        path=store.path,
        record=record,
        units=stored,
        done=len(tasks) - skipped - len(failures),
        skipped=skipped,
        failed=failed,
        bad_input=any(failure.bad_input for failure in failures),
        lost_record=store.lost_record,
    )


def _attempt(
    task: Task[Any, Any],
    methods: OpenMethod,
    store: Store[Any, Any],
    observer: Observer[Any, Any],
    along: dict[Names, Any],
) -> Attempt | None:
    """Try one unit and store its result; None when it was done before. along: takes what its stream did besides."""
    attempt = Attempt()
    sequence = None
    way = _Beginnings(store, along)
    found = store.find_unit(*task.names)
    if isinstance(found, LeftOutUnit):
        observer.left_out(task.unit, found.reason)
    with attempt.contained():
        if _is_done(task, found):
            observer.skipped(task.unit)
            return None
        with WAIT.part("open scene"):
            sequence = task.open()
        attempt.facts = task.facts(sequence)
        beginnings = task.beginnings(sequence)
        way.waiting = [(end, task) for end, task in beginnings if not _is_done(task, store.find_unit(*task.names))]
    observer.started(task.unit, None if sequence is None else sequence.length)
    with store.unit_writer(*task.names) as writer:
        attempt_unit(task, attempt, sequence, methods, writer, observer.frame, way)
        WAIT.end("nothing")  # of a unit that gave no prediction
        failure = attempt.failure
        if failure is not None and not (task.measures_limits and failure.out_of_memory):
            # Whatever state it was left in, and whatever it left on the device, the next unit starts afresh. That it
            # cannot be closed either is no news after its failure.
            with suppress(StreamError):
                methods.close()
        record = task.record(attempt)
        writer.finish(record)
    observer.finished(task.unit, record)
    return attempt


def _is_done(task: Task[Any, Any], found: StoredUnit[Any] | LeftOutUnit | None) -> bool:
    return isinstance(found, StoredUnit) and found.record.status == "ok" and task.is_done(found.record)


@dataclass
class _Beginnings:
    """Shorter units of the same stream: each is scored and stored as if it had ended there.

    One that cannot be is left to its own turn, where it is streamed by itself.
    waiting: after how many frames, rising, and which. done: takes the records by name.
    """

    store: Store[Any, Any]
    done: dict[Names, Any]
    waiting: list[tuple[int, Task[Any, Any]]] = field(default_factory=list)

    def due(self, frames: int) -> bool:
        return bool(self.waiting) and self.waiting[0][0] <= frames

    def reach(self, frames: int, attempt: Attempt, writer: UnitWriter) -> None:
        method = attempt.method
        while self.due(frames) and method is not None:
            end, task = self.waiting.pop(0)
            part = replace(attempt, stage="score", scores=None, frames=end, resources=method.resources())
            with part.contained():
                sequence = task.open()
                part.facts, part.reference = task.facts(sequence), sequence.reference()
                task.score(part)
                with self.store.unit_writer(*task.names) as own:
                    own.begin_as(writer)
                    task.store(part, own)
                    record = task.record(part)
                    own.finish(record)
                self.done[task.names] = record
            attempt.scorer.paced = False


def _ended(record: RunT, *, complete: bool) -> RunT:
    return record.model_copy(update={"finished": utc_now(), "status": "complete" if complete else "incomplete"})
