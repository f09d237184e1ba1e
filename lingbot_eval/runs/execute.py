"""Runs units into their store: what is done is skipped, what fails is recorded, what stops can go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingbot_eval.errors import (
    BusyError,
    CheckpointError,
    ConfigError,
    DependencyError,
    StoreError,
    StreamError,
    shortened,
)
from lingbot_eval.machine.environment import environment
from lingbot_eval.machine.wait import WAIT
from lingbot_eval.methods.base import OpenMethod
from lingbot_eval.runs.attempt import Attempt, Beginnings, Task, attempt_unit
from lingbot_eval.runs.plan import Plan
from lingbot_eval.runs.scene import scene_tasks
from lingbot_eval.stored.lock import read_claims
from lingbot_eval.stored.records import HostRecord, Names, RunRecord, utc_now
from lingbot_eval.stored.saved import SavedState
from lingbot_eval.stored.store import LeftOutUnit, Outcome, ResultT, RunStore, RunT, Store, StoredUnit, StoredUnits


class Observer:
    """Watches a run or a study go by; this one does nothing at each step."""

    def planned(self, plan: Plan) -> None:
        """Everything of a run is decided, nothing is written yet."""

    def preparing(self, unit: Any, frames: int | None) -> None:
        """Frames of a study's case are made ready, so many where that is known; then `frame` for each."""

    def started(self, unit: Any, frames: int | None) -> None:
        """A unit begins; frames: how many it will have, None when nobody knows yet."""

    def frame(self) -> None:
        """One more prediction of the unit that began last is stored."""

    def finished(self, unit: Any, record: Any) -> None:
        """The unit that began last has its result, which may be a failure."""

    def skipped(self, unit: Any) -> None:
        """A unit was done before, from the same input."""

    def left_out(self, unit: Any, reason: str) -> None:
        """What is stored of a unit is not used, and the unit begins anew."""


@dataclass(frozen=True)
class Parallel:
    """How units are spread over processes, each doing one at a time.

    workers: processes on this machine, one a GPU where there are several. shard: (i, n), the i-th of n shares, from 1.
    scheduler: address of a Dask cluster whose workers do them instead. share_host: whether timed units run beside
    others on a host.
    """

    workers: int = 1
    shard: tuple[int, int] | None = None
    scheduler: str | None = None
    share_host: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers: expected at least 1, found {self.workers}")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise ConfigError(f"shard: expected i/n with i from 1 to n, found {self.shard[0]}/{self.shard[1]}")
        if self.scheduler is not None and (self.workers, self.shard) != (1, None):
            raise ConfigError("scheduler: its workers do the units; give no workers or shard beside it")


@dataclass(frozen=True)
class Done:
    """What became of a unit that this process had done. skipped: it was done before."""

    skipped: bool = False
    failed: bool = False
    bad_input: bool = False

    @classmethod
    def of(cls, attempt: Attempt | None) -> Done:
        """attempt: as of `attempt_stored`."""
        failure = None if attempt is None else attempt.failure
        return cls(attempt is None, failure is not None, failure is not None and failure.bad_input)


def execute(
    plan: Plan,
    out: Path,
    command: str,
    observer: Observer,
    *,
    allow_commands: bool = False,
    parallel: Parallel | None = None,
) -> Outcome:
    """Do what is not done yet of ``plan``, under ``out``; ``command`` repeats it.

    A unit that fails is stored with its reason and the others run on. Raises as `run_tasks`, CheckpointError or
    DependencyError when a method cannot be had at all. A run that is refused before its first unit leaves no directory.
    Raises ConfigError for a method that runs a command, unless allow_commands.
    """
    refuse_commands(plan.commands, allow_commands)
    given: Any = parallel
    if not isinstance(given, Parallel | None):
        raise ConfigError(f"parallel: expected Parallel(workers=N), found {given!r}")
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
    tasks = scene_tasks(plan.units, plan.experiment)
    return run_tasks(RunStore.create(out, record), record, tasks, observer, parallel)


def refuse_commands(commands: Mapping[str, str], allowed: bool) -> None:
    """Raises ConfigError for commands, by the method that runs them, that the user has not allowed."""
    if commands and not allowed:
        name, line = next(iter(commands.items()))
        raise ConfigError(
            f"method '{name}' runs the command {shortened(line)!r}, which the user must allow: if you trust it, pass"
            " --allow-commands (in Python allow_commands=True)"
        )


def run_tasks(
    store: Store[RunT, ResultT],
    record: RunT,
    tasks: Sequence[Task],
    observer: Observer,
    parallel: Parallel | None = None,
    reopen: str = "lingbot_eval.runs.scene:reopen",
    settings: str = "",
) -> Outcome[RunT, ResultT]:
    """Do the ``tasks`` of a run that are not done yet. record: of the run, as it begins.

    reopen: ``module:function`` by which other processes find store and tasks again, given the run directory and these
    settings.

    Raises StoreError when the directory cannot be written or another process writes there, and what `attempt_unit`
    raises; then, and when interrupted or killed, finished units stay and the next call goes on after them.
    """
    if parallel is not None:
        return _run_shared(store, record, tasks, observer, parallel, (reopen, settings))
    with store.lock():
        record = record.model_copy(update={"started": store.read_run().started})
        store.write_run(record)
        ended: list[Done] = []
        along: dict[Names, ResultT] = {}
        outcome = None
        try:
            with closing(OpenMethod()) as methods:
                for task in tasks:
                    if task.names in along:
                        other = along[task.names]
                        observer.started(task.unit, other.frames)
                        observer.finished(task.unit, other)
                        continue
                    ended.append(Done.of(attempt_stored(task, methods, store, observer, along)))
                # Before the last method is closed: that it cannot be is told, and costs no result.
                outcome = _finished(store, record, tasks, ended)
        except BaseException as error:
            if outcome is None:
                _stopped(store, record, error)
            raise
        return outcome


def _run_shared(
    store: Store[RunT, ResultT],
    record: RunT,
    tasks: Sequence[Task],
    observer: Observer,
    parallel: Parallel,
    reopen: tuple[str, str],
) -> Outcome[RunT, ResultT]:
    """As `run_tasks`, beside other processes that do the same: whoever ends last writes what is of the whole run."""
    from lingbot_eval.runs import workers

    number, shares = parallel.shard or (1, 1)
    streams = _streams(tasks)[number - 1 :: shares]
    own = [task for stream in streams for task in stream]
    try:
        with store.share() as claims:
            stored = store.read_run()
            record = record.model_copy(update={"started": stored.started})
            if stored.status != "running":
                store.write_run(record)
            ended = workers.run(store, streams, observer, claims, parallel, reopen)
    except BaseException as error:
        with suppress(StoreError), store.lock():
            _stopped(store, record, error)
        raise
    try:
        with store.lock():
            pending = sum(not store.has_result(*task.names) for task in tasks)
            if not pending:
                return _finished(store, record, own, ended)
            store.write_run(_ended(record, complete=False))
    except BusyError:
        # Not counted by each of hundreds of processes: whoever ends last does.
        pending = max(1, sum(bool(holder.names) for holder in read_claims(store.path)))
    found = [store.find_unit(*task.names) for task in own]
    there = [unit for unit in found if isinstance(unit, StoredUnit)]
    left_out = [unit for unit in found if isinstance(unit, LeftOutUnit)]
    missing = tuple(task.names for task, unit in zip(own, found, strict=True) if not isinstance(unit, StoredUnit))
    units = StoredUnits(tuple(there), tuple(left_out), missing)
    return _outcome(store, store.read_run(), units, own, ended, pending)


def _streams(tasks: Sequence[Task]) -> list[Sequence[Task]]:
    """The tasks, those of one stream together: one process does them one after the other."""
    found: list[Sequence[Task]] = []
    start = 0
    while start < len(tasks):
        end = start + 1 + len(tasks[start].shorter)
        found.append(tasks[start:end])
        start = end
    return found


def _stopped(store: Store[RunT, ResultT], record: RunT, error: BaseException) -> None:
    """Say in the run's record that it ended before its time, or leave nothing of one that was refused."""
    refused = isinstance(error, CheckpointError | DependencyError)
    if not (refused and store.discard()):
        # Best effort: the same full disk may refuse this, too, and what stopped the run is what must be told.
        with suppress(StoreError):
            store.write_run(_ended(record, complete=False))


def _finished(
    store: Store[RunT, ResultT], record: RunT, own: Sequence[Task], ended: Sequence[Done]
) -> Outcome[RunT, ResultT]:
    """The end of a run, by the holder of its lock. What is on the disk and sound counts, not what was done here.

    own: the tasks of this process's share.
    """
    stored = store.read_units()
    record = _ended(record, complete=stored.good.issuperset(record.planned))
    store.write_run(record)
    return _outcome(store, record, stored, own, ended)


def _outcome(
    store: Store[RunT, ResultT],
    record: RunT,
    stored: StoredUnits[ResultT],
    own: Sequence[Task],
    ended: Sequence[Done],
    pending: int = 0,
) -> Outcome[RunT, ResultT]:
    return Outcome(
        path=store.path,
        record=record,
        units=stored,
        done=len(own) - sum(each.skipped or each.failed for each in ended),
        skipped=sum(each.skipped for each in ended),
        failed=sum(task.names not in stored.good for task in own),
        bad_input=any(each.bad_input for each in ended),
        lost_record=store.lost_record,
        pending=pending,
    )


def attempt_stored(
    task: Task,
    methods: OpenMethod,
    store: Store[Any, Any],
    observer: Observer,
    along: dict[Names, Any],
    attempt: Attempt | None = None,
    token: str | None = None,
    host: Callable[[], HostRecord | None] = lambda: None,
) -> Attempt | None:
    """Try one unit and store its result; None when it was done before.

    along: takes what its stream did besides. attempt: one that has not begun. token: of the claim, where the run is
    shared; host: what the record says of where it ran then, asked for at the end.
    """
    attempt = attempt or Attempt()
    sequence = None
    way = Beginnings(store, along, token=token, host=host)
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
        way.frames = sequence.length
        way.waiting = [(end, task) for end, task in beginnings if not _is_done(task, store.find_unit(*task.names))]
    observer.started(task.unit, None if sequence is None else sequence.length)
    with store.unit_writer(*task.names, token=token) as writer:
        saved = None
        if task.saves and task.method.saves_streams:
            saved = SavedState(store.state_folder(*task.names), store.read_run().key, task.names, task.input_key)
        attempt_unit(task, attempt, sequence, methods, writer, observer.frame, way, saved)
        WAIT.end("nothing")  # of a unit that gave no prediction
        failure = attempt.failure
        if failure is not None and not (task.measures_limits and failure.out_of_memory):
            # Whatever state it was left in, and whatever it left on the device, the next unit starts afresh. That it
            # cannot be closed either is no news after its failure.
            with suppress(StreamError):
                methods.close()
        record = task.record(attempt).model_copy(update={"host": host()})
        writer.finish(record)
        if saved is not None:
            saved.remove()
    observer.finished(task.unit, record)
    return attempt


def _is_done(task: Task, found: StoredUnit[Any] | LeftOutUnit | None) -> bool:
    return isinstance(found, StoredUnit) and found.record.status == "ok" and task.is_done(found.record)


def _ended(record: RunT, *, complete: bool) -> RunT:
    return record.model_copy(update={"finished": utc_now(), "status": "complete" if complete else "incomplete"})
