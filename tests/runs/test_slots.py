"""Slots and their children, the pool around them, and the end of a shared run; no process is started."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Quiet, World, experiment

from lingbot_eval.errors import CheckpointError, ConfigError, DependencyError, LingbotEvalError, StoreError
from lingbot_eval.runs import workers
from lingbot_eval.runs.execute import Done, Parallel, run_tasks
from lingbot_eval.runs.plan import make_plan
from lingbot_eval.runs.scene import SceneTask, scene_tasks
from lingbot_eval.runs.worker import Job
from lingbot_eval.stored.lock import Claims, read_claims
from lingbot_eval.stored.store import Outcome, RunStore
from tests.stored.store_records import make_run_record, make_unit_record

DONE = {"event": "done", "skipped": False, "failed": False, "bad_input": False}
SKIPPED = DONE | {"skipped": True}
BAD = DONE | {"failed": True, "bad_input": True}
STARTED = {"event": "started", "frames": 24}
REAL_CHILD = workers._Child
Events = list[dict[str, Any]]


def frames(count: int) -> dict[str, Any]:
    return {"event": "frames", "count": count}


@dataclass
class Shared:
    """A run of two scenes by two methods, the scene named first in two lengths, before any of it is done."""

    store: RunStore
    tasks: list[SceneTask]
    job: Job
    scripts: list[list[Events]] = field(default_factory=list)
    """Of each child, what it says of one unit after the other; where that ends without a last word it is dead."""
    log: list[str] = field(default_factory=list)

    @property
    def streams(self) -> list[Sequence[SceneTask]]:
        return [self.tasks[:2], self.tasks[2:]]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shared:
    World().install(monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(workers, "fingerprint", lambda: "code")
    plan = make_plan(experiment(dataset={"lengths": [9, 24]}))
    record = make_run_record(units=[list(unit.names) for unit in plan.units], experiment=plan.experiment.as_stored())
    store = RunStore.create(tmp_path / "runs", record)
    tasks = scene_tasks(plan.units, plan.experiment)
    job = Job(str(store.path), ("lingbot_eval.runs.scene:reopen", ""), (), str(tmp_path), "code", 0, share_host=True)
    made = Shared(store, tasks, job)
    numbers = iter(range(100))

    class Child:
        def __init__(self, job: Job, variables: dict[str, str]) -> None:
            self.number = next(numbers)
            self.units = iter(made.scripts[self.number])
            assert job is made.job
            made.log.append(f"{self.number} begins {variables}")

        def do(self, names: Any, token: str) -> Iterator[dict[str, Any]]:
            made.log.append(f"{self.number} {names[0].rpartition(', ')[2]} {names[1]}")
            partial = store.folder(*names).with_name(f".partial-{token}")
            partial.mkdir(parents=True)
            events = next(self.units)
            if events and events[-1]["event"] in ("done", "error"):
                partial.rmdir()
            yield from events

        def ending(self) -> str:
            return f"ended with exit code {self.number}"

        def interrupt(self) -> None:
            made.log.append(f"{self.number} is interrupted")

        def stop(self) -> None:
            made.log.append(f"{self.number} ends")

    monkeypatch.setattr(workers, "_Child", Child)
    return made


def test_a_unit_whose_process_dies_is_done_in_a_new_one(shared: Shared) -> None:
    """Which goes on with the shorter ones; nothing of the first try stays."""
    shared.scripts += [[[STARTED, frames(5)]], [[STARTED, frames(24), {"event": "finished"}, DONE], [SKIPPED]]]
    told: list[Any] = []
    slot = workers.Slot(shared.job, {"CUDA_VISIBLE_DEVICES": "7"})
    with Claims(shared.store.path) as claims:
        done = slot.do(shared.tasks[:2], claims, lambda task, event: told.append((task.names[0], event)), time.sleep)
        assert not any(holder.names for holder in read_claims(shared.store.path)), "the claim is given back"
    assert done == (Done(), Done(skipped=True))
    whole = "synthetic, 24 frames"
    again = {"event": "left_out", "reason": "its process ended with exit code 0: once more, in a new one"}
    events = [STARTED, frames(5), again, STARTED, frames(24), {"event": "finished"}]
    assert told == [(whole, event) for event in events]
    variables = "{'CUDA_VISIBLE_DEVICES': '7'}"
    assert shared.log == [
        f"0 begins {variables}",
        "0 24 frames one",
        "0 ends",
        f"1 begins {variables}",
        "1 24 frames one",
        "1 9 frames one",
    ]
    assert not list(shared.store.path.rglob(".partial-*"))
    slot.close()
    slot.close()
    assert shared.log[6:] == ["1 ends"]


@pytest.mark.parametrize(
    ("first", "second", "stage", "count", "words"),
    [
        ([STARTED, frames(5)], [STARTED, frames(2), frames(1)], "stream", 3, "3 or more predictions, twice"),
        ([STARTED, frames(5)], [], "open", 0, "0 predictions, twice"),
        ([], [STARTED], "stream", 0, "0 predictions, twice"),
    ],
)
def test_a_unit_whose_process_dies_twice_has_failed_where_the_second_did(
    shared: Shared, first: Events, second: Events, stage: str, count: int, words: str
) -> None:
    shared.scripts += [[first], [second], [[DONE]]]
    told: Events = []
    slot = workers.Slot(shared.job)
    with Claims(shared.store.path) as claims:
        done = slot.do(shared.tasks[:2], claims, lambda task, event: told.append(event), time.sleep)
    assert done == (Done(failed=True), Done()), "the next one is done in a third"
    unit = shared.store.read_unit(*shared.tasks[0].names)
    record = unit.record
    assert (record.status, record.stage, record.failed_at_frame) == ("failed", stage, None)
    assert (record.frames, record.predictions) == (count, count)
    assert str(record.reason).startswith(f"its process ended with exit code 1 after {words}; was it out of memory?")
    assert (unit.folder / "traceback.txt").read_text() == record.reason
    assert [event["event"] for event in told].count("left_out") == 1
    assert told[-1] == {"event": "finished"}
    assert told[-2] == ({"event": "started", "frames": None} if stage == "open" else second[-1])
    assert not list(shared.store.path.rglob(".partial-*"))


@pytest.mark.parametrize("kind", ["StoreError", "ConfigError"])
def test_what_every_unit_would_meet_is_not_tried_twice(shared: Shared, kind: str) -> None:
    shared.scripts += [[[{"event": "error", "kind": kind, "text": "no"}]]]
    slot = workers.Slot(shared.job)
    with Claims(shared.store.path) as claims:
        with pytest.raises(LingbotEvalError, match="no"):
            slot.do(shared.tasks[:1], claims, lambda *_: None, time.sleep)
        assert not any(holder.names for holder in read_claims(shared.store.path))
    assert shared.log == ["0 begins {}", "0 24 frames one"]
    assert not shared.store.has_result(*shared.tasks[0].names)


@pytest.mark.parametrize("events", [[], [STARTED]])
def test_an_interrupted_unit_is_no_failure(shared: Shared, events: Events) -> None:
    """Whether its process says something after that or not."""
    shared.scripts += [[events]]
    slot = workers.Slot(shared.job)
    slot.interrupt()
    told: Events = []
    with Claims(shared.store.path) as claims, pytest.raises(workers.Ended):
        slot.do(shared.tasks[:1], claims, lambda task, event: told.append(event), time.sleep)
    assert told == []
    assert not shared.store.has_result(*shared.tasks[0].names)


def test_a_unit_that_another_process_has_is_left_to_it(shared: Shared) -> None:
    with Claims(shared.store.path) as other, Claims(shared.store.path) as claims:
        other.take(shared.tasks[0].names)
        assert workers.Slot(shared.job).do(shared.tasks[:2], claims, lambda *_: None, time.sleep) is None
        assert any(holder.names for holder in read_claims(shared.store.path)), "it is still the other's"
    assert shared.log == []


def test_what_a_child_says_reaches_the_observer(shared: Shared) -> None:
    task = shared.tasks[0]
    observer = Quiet()
    for event in (STARTED, frames(3), {"event": "left_out", "reason": "torn"}, {"event": "skipped"}, DONE):
        workers.show(shared.store, task, event, observer)
    name = "synthetic, 24 frames/one/good"
    assert observer.lines == [f"started {name} 24", f"left out {name}: torn", f"skipped {name}"]
    assert observer.frames == 3
    with shared.store.unit_writer(*task.names) as writer:
        writer.finish(make_unit_record(task.names, status="failed", reason="crash"))
    workers.show(shared.store, task, {"event": "finished"}, observer)
    assert observer.lines[3:] == [f"failed {name}"], "the result is read, it does not travel"


class Slots:
    """Of a pool, each with what becomes of one stream after the other: its units' ends, None, or an error.

    A slot of ``patient`` does nothing before some other has met an error.
    """

    def __init__(self, *ends: list[Any], patient: int | None = None) -> None:
        self.ends, self.patient, self.log = iter(enumerate(ends)), patient, list[str]()
        self.broken = threading.Event()

    def __call__(self, job: Job, variables: dict[str, str]) -> Any:
        number, mine = next(self.ends)
        ends = iter(mine)

        def do(stream: Sequence[SceneTask], claims: Claims, tell: Any, wait: Any) -> Any:
            end = next(ends)
            if number == self.patient:
                assert self.broken.wait(5)
            self.log.append(stream[0].names[1])
            if isinstance(end, BaseException):
                self.broken.set()
                raise end
            return end

        return SimpleNamespace(do=do, interrupt=lambda: None, close=lambda: self.log.append(f"close {number}"))

    def run(self, shared: Shared, monkeypatch: pytest.MonkeyPatch, observer: Quiet, count: int = 1) -> list[Done]:
        monkeypatch.setattr(workers, "_LOOK_S", 0.01)
        monkeypatch.setattr(workers, "Slot", self)
        parallel, reopen = Parallel(workers=count), shared.job.reopen
        with Claims(shared.store.path) as claims:
            return workers.run(shared.store, shared.streams, observer, claims, parallel, reopen)


def test_what_another_process_has_is_looked_at_again_after_all_else(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots([None, (Done(failed=True), Done()), None, (Done(skipped=True), Done(skipped=True))])
    done = slots.run(shared, monkeypatch, Quiet())
    assert done == [Done(failed=True), Done(), Done(skipped=True), Done(skipped=True)]
    assert slots.log[:4] == ["one", "two", "one", "one"]
    assert set(slots.log[4:]) == {"close 0"}


def test_a_slot_that_cannot_write_leaves_its_units_to_another(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots([StoreError("disk full")], [(Done(), Done()), (Done(), Done(bad_input=True))], patient=1)
    observer = Quiet()
    done = slots.run(shared, monkeypatch, observer, 2)
    assert done == [Done(), Done(), Done(), Done(bad_input=True)]
    (line,) = observer.lines
    assert line in [f"left out synthetic, 24 frames/{scene}/good: disk full" for scene in ("one", "two")]
    assert {"close 0", "close 1"} <= set(slots.log)


@pytest.mark.parametrize(
    ("error", "told"), [(StoreError("disk full"), 1), (ConfigError("no device"), 0), (KeyError("fault"), 0)]
)
@pytest.mark.parametrize("before", [0, 1])
def test_what_no_slot_can_do_ends_the_pool(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, error: Exception, told: int, before: int
) -> None:
    slots, observer = Slots([*[(Done(), Done())] * before, error]), Quiet()
    with pytest.raises(type(error)) as raised:
        slots.run(shared, monkeypatch, observer)
    assert raised.value is error
    assert len(observer.lines) == told
    assert slots.log[: before + 1] == ["one", "two"][: before + 1]
    assert not (shared.store.path / workers.LOGS).exists()


def test_an_error_that_every_unit_would_meet_stops_the_other_slots(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots([CheckpointError("no weights")], [(Done(), Done())] * 2, patient=1)
    with pytest.raises(CheckpointError):
        slots.run(shared, monkeypatch, Quiet(), 2)
    begun = [line for line in slots.log if not line.startswith("close")]
    assert len(set(begun)) == len(begun), "nobody does the unit after that"


class Ends:
    """In place of `workers.run`: what it was given, what run.json said then, and what becomes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, done: list[Done], error: BaseException | None = None) -> None:
        self.done, self.error = done, error
        self.streams: list[list[tuple[str, ...]]] = []
        self.status = ""
        monkeypatch.setattr(workers, "run", self)

    def __call__(
        self, store: RunStore, streams: Any, observer: Any, claims: Claims, parallel: Parallel, reopen: Any
    ) -> list[Done]:
        self.streams = [[task.names for task in stream] for stream in streams]
        self.status = store.read_run().status
        self.given = parallel, reopen
        if self.error is not None:
            raise self.error
        return self.done


def of_run(shared: Shared, parallel: Parallel, **changes: Any) -> Outcome:
    record = shared.store.read_run().model_copy(update={"started": "2026-02-02T00:00:00+00:00", **changes})
    return run_tasks(shared.store, record, shared.tasks, Quiet(), parallel, "module:function", "settings")


@pytest.mark.parametrize(
    ("shard", "scenes"), [(None, ["one", "two"]), ((1, 2), ["one"]), ((2, 2), ["two"]), ((3, 3), [])]
)
def test_a_share_is_whole_streams_and_what_it_leaves_is_pending(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, shard: tuple[int, int] | None, scenes: list[str]
) -> None:
    """The run's record says that somebody is at it, then that not all is done, and since when."""
    shared.store.write_run(shared.store.read_run().model_copy(update={"status": "incomplete", "finished": "then"}))
    ends = Ends(monkeypatch, [Done(skipped=True), Done(failed=True, bad_input=True)] if scenes else [])
    outcome = of_run(shared, Parallel(shard=shard), status="running", finished=None)
    assert ends.streams == [[(f"synthetic, {count} frames", scene, "good") for count in (24, 9)] for scene in scenes]
    assert ends.given == (Parallel(shard=shard), ("module:function", "settings"))
    assert ends.status == "running"
    own = 2 * len(scenes)
    counts = (outcome.done, outcome.skipped, outcome.failed, outcome.bad_input, outcome.pending)
    assert counts == ((own - 2, 1, own, True, 4) if scenes else (0, 0, 0, False, 4))
    assert set(outcome.units.missing) == {names for stream in ends.streams for names in stream}
    record = shared.store.read_run()
    assert (record.status, record.started) == ("incomplete", "2026-01-01T00:00:00+00:00")
    assert record.finished not in (None, "then")
    assert outcome.record == record


@pytest.mark.parametrize("held", [0, 1, 3])
def test_whoever_does_not_end_last_counts_what_others_are_at(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """What is damaged is missing, too."""
    Ends(monkeypatch, [Done()] * 4)
    damaged = shared.store.folder(*shared.tasks[2].names)
    damaged.mkdir(parents=True)
    (damaged / shared.store.layout.unit_file).write_text("{")
    with shared.store.share() as others:
        for number in range(held):
            others.take((f"unit {number}",))
        outcome = of_run(shared, Parallel())
    assert (outcome.pending, outcome.done, outcome.failed) == (max(1, held), 4, 4)
    assert outcome.units.missing == tuple(task.names for task in shared.tasks)
    (left_out,) = outcome.units.left_out
    assert left_out.folder == damaged
    assert shared.store.read_run().status == "running", "others are at it"


@pytest.mark.parametrize("shared_by_others", [False, True])
@pytest.mark.parametrize(
    ("error", "left"),
    [(KeyboardInterrupt(), "incomplete"), (StoreError("disk full"), "incomplete"), (CheckpointError("none"), None)],
)
def test_what_stops_a_shared_run_is_said_once_nobody_is_at_it(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, error: BaseException, left: str | None, shared_by_others: bool
) -> None:
    """One that was refused leaves nothing, unless others are at it."""
    Ends(monkeypatch, [], error)
    with shared.store.share() if shared_by_others else nullcontext(), pytest.raises(type(error)):
        of_run(shared, Parallel())
    file = shared.store.path / "run.json"
    if shared_by_others:
        left = "running"
    assert (json.loads(file.read_text())["status"] if file.exists() else None) == left
    assert shared.store.path.exists() == (left is not None)


class Process:
    """In place of a child's process. said: lines on its standard output, then it has ended with ``code``."""

    pid = 0

    def __init__(self, said: list[dict[str, Any]], code: int) -> None:
        self.stdin, self.stdout = io.StringIO(), iter([json.dumps(event) + "\n" for event in said])
        self.code, self.returncode = code, None if said and said[-1]["event"] == "done" else code

    def wait(self, timeout: float | None = None) -> int:
        self.returncode = self.code
        return self.code


def child_of(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, said: list[dict[str, Any]], code: int = 0, words: bytes = b""
) -> tuple[Any, Process, dict[str, Any]]:
    process, given = Process(said, code), dict[str, Any]()

    def begun(line: list[str], **options: Any) -> Process:
        given.update(options, line=line)
        options["stderr"].write(words)
        return process

    monkeypatch.setattr(workers.subprocess, "Popen", begun)
    return REAL_CHILD(shared.job, {"CUDA_VISIBLE_DEVICES": "7"}), process, given


READY = {"event": "ready"}


def test_a_child_has_the_users_environment_and_is_told_its_job_and_units(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process chose in the user's place is not handed on; a job that comes back is the same."""
    monkeypatch.setenv("MINE", "here")
    monkeypatch.setenv("CHOSEN", "here")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    monkeypatch.setattr(workers, "chosen_variables", lambda: {"CHOSEN": "here"})
    child, process, given = child_of(shared, monkeypatch, [READY, STARTED, DONE, STARTED, BAD])
    assert list(child.do(("a", "b", "c"), "t1")) == [STARTED, DONE]
    assert list(child.do(("a", "b", "d"), "t2")) == [STARTED, BAD]
    job, *units = map(json.loads, process.stdin.getvalue().splitlines())
    assert Job.of(job) == shared.job
    assert units == [{"names": ["a", "b", "c"], "token": "t1"}, {"names": ["a", "b", "d"], "token": "t2"}]
    environment = given["env"]
    assert (environment["MINE"], environment["CUDA_VISIBLE_DEVICES"], environment["PATH"]) == (
        "here",
        "7",
        os.environ["PATH"],
    )
    assert "CHOSEN" not in environment
    assert (given["cwd"], given["start_new_session"]) == (shared.job.folder, True)
    child.interrupt()
    assert process.stdin.closed
    assert list(child.do(("a", "b", "e"), "t3")) == [], "one that takes nothing says nothing"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Claims(shared.store.path) as claims, pytest.raises(ConfigError, match="a worker process came upon a run"):
        workers.job_of(shared.store, shared.job.reopen, claims, Parallel())


@pytest.mark.parametrize(
    ("said", "code", "refused"), [([], 1, True), ([], 0, True), ([], -9, False), ([READY], 1, False)], ids=str
)
def test_a_child_that_cannot_start_will_not_the_next_time(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, said: list[dict[str, Any]], code: int, refused: bool
) -> None:
    child, *_ = child_of(shared, monkeypatch, said, code, b"Traceback\nImportError: no torch\n")
    if refused:
        words = f"a worker process cannot start: it ended with exit code {code}: ImportError: no torch$"
        with pytest.raises(ConfigError, match=words):
            list(child.do(("a", "b", "c"), "t"))
    else:
        assert list(child.do(("a", "b", "c"), "t")) == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [(b"\xff no torch\n", "\N{REPLACEMENT CHARACTER} no torch"), (3000 * b"a" + b"b", 1999 * "a" + "b")],
    ids=["no UTF-8", "long"],
)
def test_of_what_a_child_that_cannot_start_says_the_end_is_told(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, said: bytes, shown: str
) -> None:
    child, *_ = child_of(shared, monkeypatch, [], 1, said)
    with pytest.raises(ConfigError) as refused:
        list(child.do(("a", "b", "c"), "t"))
    assert str(refused.value) == f"a worker process cannot start: it ended with exit code 1: {shown}"


def test_without_the_package_a_scheduler_is_refused(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    parallel = Parallel(scheduler="tcp://127.0.0.1:1")
    words = r"a scheduler needs the package distributed: pip install 'lingbot-eval\[distributed\]'$"
    with Claims(shared.store.path) as claims, pytest.raises(DependencyError, match=words):
        workers.run(shared.store, shared.streams, Quiet(), claims, parallel, shared.job.reopen)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (137, "ended with exit code 137"),
        (-9, "was ended by SIGKILL"),
        (-11, "was ended by SIGSEGV"),
        (-99, "was ended by signal 99"),
    ],
)
def test_how_a_child_ended_is_in_words(shared: Shared, monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    child, *_ = child_of(shared, monkeypatch, [READY], code)
    assert child.ending() == words


def test_a_child_that_is_stopped_takes_all_that_it_started_along(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it ends by itself, and where it does not within its time."""
    killed: list[Any] = []
    monkeypatch.setattr(workers.os, "killpg", lambda group, signal: killed.append((group, signal)))
    for stuck in (False, True):
        child, process, given = child_of(shared, monkeypatch, [READY])
        process.pid = 40 + stuck

        def wait(timeout: float | None = None, stuck: bool = stuck) -> int:
            if stuck and timeout is not None:
                assert timeout == workers.GRACE_S
                raise subprocess.TimeoutExpired("child", timeout)
            return 0

        process.wait = wait  # type: ignore[method-assign]
        child.stop()
        assert process.stdin.closed
        assert given["stderr"].closed
    assert killed == [(40, signal.SIGKILL), (41, signal.SIGKILL)]


def test_a_child_without_its_folder_is_refused(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(line: list[str], **options: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(workers.subprocess, "Popen", nowhere)
    with pytest.raises(ConfigError, match="cannot start a worker process in "):
        REAL_CHILD(shared.job, {})
