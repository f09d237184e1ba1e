"""Runs a plan unit by unit into its store: what is done is skipped, what fails is recorded, what stops can go on."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lingbot_eval.errors import CheckpointError, ConfigError, DependencyError, StoreError, StreamError, shortened
from lingbot_eval.machine.environment import environment
from lingbot_eval.methods.registry import OpenMethod
from lingbot_eval.runs.attempt import Attempt
from lingbot_eval.runs.plan import Plan, Unit
from lingbot_eval.runs.records import RunRecord, UnitRecord, utc_now
from lingbot_eval.runs.store import LeftOutUnit, RunStore


class Observer(Protocol):
    """Watches a run go by; the command line shows progress through it."""

    def started(self, unit: Unit, frames: int | None) -> None:
        """A unit begins; frames: how many it will have, None when nobody knows yet."""
        ...

    def frame(self) -> None:
        """One more prediction of the unit that began last is stored."""
        ...

    def finished(self, unit: Unit, record: UnitRecord) -> None:
        """The unit that began last has its result."""
        ...

    def skipped(self, unit: Unit) -> None:
        """A unit was done before, from the same input."""
        ...

    def left_out(self, unit: Unit, reason: str) -> None:
        """What is stored of a unit is not used, and the unit begins anew."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended. failed: planned units without scores on the disk; bad_input: whether any is for the user to
    mend. lost_record: a line where the run's record was gone and is written anew."""

    path: Path
    record: RunRecord
    done: int
    skipped: int
    failed: int
    bad_input: bool
    lost_record: str | None = None


def execute(plan: Plan, out: Path, command: str, observer: Observer, *, allow_commands: bool = False) -> Outcome:
    """Do what is not done yet of ``plan``, under ``out``; ``command`` repeats it.

    A unit that fails is stored with its reason and the others run on. Raises StoreError when the directory cannot be
    written or another process writes there, CheckpointError or DependencyError when a method cannot be had at all;
    then, and when interrupted or killed, finished units stay and the next call goes on after them. A run that is
    refused before its first unit leaves no directory. Raises ConfigError for a method that runs a command, unless
    allow_commands.
    """
    if plan.commands and not allow_commands:
        name, line = next(iter(plan.commands.items()))
        raise ConfigError(
            f"method '{name}' runs the command {shortened(line)!r}, which the user must allow: if you trust it, pass"
            " --allow-commands (in Python allow_commands=True)"
        )
    record = _record(plan, command)
    store = RunStore.create(out, record)
    with store.lock():
        record = record.model_copy(update={"started": store.read_run().started})
        store.write_run(record)
        done = skipped = 0
        bad_input = False
        try:
            with closing(OpenMethod()) as methods:
                for unit in plan.units:
                    attempt = _attempt(
                        Attempt(unit, plan.experiment.metrics, plan.experiment.keep, methods), store, observer
                    )
                    if attempt is None:
                        skipped += 1
                    elif attempt.failure is None:
                        done += 1
                    else:
                        bad_input = bad_input or attempt.failure.bad_input
        except BaseException as error:
            refused = isinstance(error, CheckpointError | DependencyError)
            if not (refused and store.discard()):
                # Best effort: the same full disk may refuse this, too, and what stopped the run is what must be told.
                with suppress(StoreError):
                    store.write_run(_ended(record, complete=False))
            raise
        # What is on the disk and sound counts, not what was done here.
        stored = store.read_units()
        failed = len(plan.units) - sum(unit.record.status == "ok" for unit in stored.units)
        record = _ended(record, complete=not failed)
        store.write_run(record)
    return Outcome(store.path, record, done, skipped, failed, bad_input, store.lost_record)


def _attempt(attempt: Attempt, store: RunStore, observer: Observer) -> Attempt | None:
    """Try one unit and store its result; None when it was done before."""
    unit = attempt.unit
    attempt.open()
    found = store.find_unit(*unit.names)
    if isinstance(found, LeftOutUnit):
        observer.left_out(unit, found.reason)
    elif found is not None and attempt.failure is None and found.is_result_of(attempt.fingerprint):
        observer.skipped(unit)
        return None
    observer.started(unit, attempt.length)
    with store.unit_writer(*unit.names) as writer:
        attempt.run(writer, observer.frame)
        if attempt.failure is not None:
            # Whatever state it was left in, and whatever it left on the device, the next unit starts afresh. That it
            # cannot be closed either is no news after its failure.
            with suppress(StreamError):
                attempt.methods.close()
        record = attempt.record()
        writer.finish(record)
    observer.finished(unit, record)
    return attempt


def _record(plan: Plan, command: str) -> RunRecord:
    return RunRecord(
        key=plan.key,
        name=plan.experiment.name,
        command=command,
        # The cards travel with the results: reports compare with the published numbers as they were then.
        experiment={
            **plan.experiment.as_stored(),
            "cards": {card.name: card.model_dump(mode="json") for card in plan.cards},
        },
        units=[list(unit.names) for unit in plan.units],
        weights=plan.weights,
        environment=environment(),
        started=utc_now(),
    )


def _ended(record: RunRecord, *, complete: bool) -> RunRecord:
    return record.model_copy(update={"finished": utc_now(), "status": "complete" if complete else "incomplete"})
