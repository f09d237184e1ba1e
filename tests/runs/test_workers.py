"""Units in processes of their own: the same results as without, and what dies takes nobody with it."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import lingbot_eval as lb
from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.methods.base import OpenMethod
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.runs import worker, workers
from lingbot_eval.runs.execute import Parallel
from lingbot_eval.runs.plan import make_plan
from lingbot_eval.runs.worker import present
from lingbot_eval.stored.lock import CLAIMS, Claims
from lingbot_eval.stored.records import HostRecord
from lingbot_eval.stored.store import RunStore
from tests.runs.fakes import Quiet, World
from tests.runs.fakes import experiment as fake_experiment
from tests.stored.store_records import make_run_record
from tests.support.processes import children, command, ended, environment, results, statuses, write_staged
from tests.support.tiny import run_folder, write_experiment


def test_two_workers_store_what_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in the folder where the user stands."""
    file = write_experiment(tmp_path)
    (tmp_path / "queue.py").write_text("raise ImportError('no library')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    serial = lb.run(file, out=tmp_path / "serial")
    parallel = lb.run(file, out=tmp_path / "parallel", parallel=Parallel(workers=2))
    assert results(tmp_path / "parallel") == results(tmp_path / "serial")
    outcome = parallel.outcome
    assert outcome is not None
    assert (outcome.done, outcome.skipped, outcome.failed, outcome.pending) == (2, 0, 0, 0)
    hosts = [unit.record.host for unit in parallel.results.units]
    assert [host.differs for host in hosts if host is not None] == [[], []]
    assert [unit.record.host for unit in serial.results.units] == [None, None]
    assert sorted(path.name for path in parallel.path.iterdir()) == [".lock", "run.json", "units"]


def test_a_unit_that_dies_is_a_failure_with_its_exit_code(tmp_path: Path) -> None:
    write_staged(tmp_path, methods=2, dies_in="corridor")
    ((code, said),) = ended(command(tmp_path, "runs", "--workers", "1"))
    assert code == 1, said
    found = statuses(tmp_path / "runs")
    assert {names[1:]: status for names, (status, _) in found.items()} == {
        ("room", "staged0"): "ok",
        ("corridor", "staged0"): "failed",
        ("room", "staged1"): "ok",
        ("corridor", "staged1"): "failed",
    }
    reason = found["synthetic", "corridor", "staged0"][1]
    assert reason is not None
    assert reason.startswith("its process ended with exit code 9 after 1 or more predictions, twice")
    run = run_folder(tmp_path / "runs")
    (log, _) = sorted((run / "logs").iterdir())
    assert f"see logs/{log.name}" in reason
    assert log.read_text() == "last words\n"
    assert not list(run.rglob(".partial-*"))
    assert not (run / CLAIMS).exists()
    assert "its process ended with exit code 9: once more, in a new one" in said


def test_shares_are_done_apart_and_whoever_ends_last_ends_the_run(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    whole = lb.run(file, out=tmp_path / "whole")
    first = lb.run(file, out=tmp_path / "shares", parallel=Parallel(shard=(2, 2))).outcome
    assert first is not None
    assert (first.done, first.failed, first.pending, first.record.status) == (1, 0, 1, "incomplete")
    assert [names[1] for names in statuses(tmp_path / "shares")] == ["corridor"]
    second = lb.run(file, out=tmp_path / "shares", parallel=Parallel(shard=(1, 2))).outcome
    assert second is not None
    assert (second.done, second.failed, second.pending, second.record.status) == (1, 0, 0, "complete")
    assert results(tmp_path / "shares") == results(tmp_path / "whole")
    assert whole.outcome is not None


def test_an_interruption_ends_the_children_and_gives_the_claims_back(tmp_path: Path) -> None:
    write_staged(tmp_path, methods=1, seconds=60)
    running = command(tmp_path, "runs", "--workers", "1")
    until = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/units/*/*/.partial-*")):  # it is at work
        assert time.monotonic() < until
        time.sleep(0.1)
    (child,) = children(running)
    running.send_signal(signal.SIGINT)
    ((code, said),) = ended(running)
    assert code == 130, said
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    run = run_folder(tmp_path / "runs")
    assert not (run / CLAIMS).exists()
    assert not list(run.rglob(".partial-*"))
    assert '"status": "incomplete"' in (run / "run.json").read_text()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"workers": 0}, "workers: expected at least 1, found 0"),
        ({"shard": (3, 2)}, "shard: expected i/n with i from 1 to n, found 3/2"),
        ({"shard": (0, 2)}, "shard: expected i/n with i from 1 to n, found 0/2"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "scheduler: its workers do the units"),
        ({"shard": (1, 2), "scheduler": "tcp://127.0.0.1:1"}, "give no workers or shard beside it"),
    ],
)
def test_what_cannot_be_spread_is_refused(changes: dict[str, object], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        Parallel(**changes)  # type: ignore[arg-type]


def test_a_worker_of_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "fingerprint", lambda: "0" * 64)
    with pytest.raises(ConfigError, match=r"has other code \([0-9a-f]{12}\) than the run \(000000000000\)"):
        lb.run(write_experiment(tmp_path), out=tmp_path / "runs", parallel=Parallel())
    assert statuses(tmp_path / "runs") == {}


def test_other_plugins_are_other_code_in_whatever_order_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "code_digest", lambda *, of_study: "code")

    def found(*digests: str) -> str:
        monkeypatch.setattr(worker, "plugins", lambda: [SimpleNamespace(sha256=digest) for digest in digests])
        return worker.fingerprint()

    assert found("a", "b") == found("b", "a")
    assert len({found(), found("a"), found("b"), found("a", "b")}) == 4
    here = found("a")
    with monkeypatch.context() as other:
        other.setattr(lb, "__version__", "another")
        assert found("a") != here
    # Code that studies alone run is in it, too.
    monkeypatch.setattr(worker, "code_digest", lambda *, of_study: "other code" if of_study else "code")
    assert found("a") != here


def test_without_the_options_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    script = (
        "import sys; from lingbot_eval.cli.main import main\n"
        "code = main(['run', 'tiny.yaml', '--no-report', '--out', 'runs'])\n"
        "loaded = {'dask', 'distributed', 'lingbot_eval.runs.workers', 'lingbot_eval.runs.worker'} & set(sys.modules)\n"
        "sys.exit(code or len(loaded))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("event", "kind", "text"),
    [
        ({"kind": "StoreError", "text": "disk full"}, StoreError, "disk full"),
        ({"kind": "ConfigError", "text": "no such device"}, ConfigError, "no such device"),
        ({"kind": "", "text": "KeyError: 'x' in a worker process"}, RuntimeError, "KeyError: 'x' in a worker process"),
        ({"kind": "one_line", "text": "no class"}, RuntimeError, "no class"),
    ],
)
def test_what_a_child_cannot_do_is_what_its_parent_says(event: dict[str, str], kind: type, text: str) -> None:
    """Its kind decides the exit code: 2 for the user to mend, 3 for a fault."""
    found = workers.error_of(event)
    assert (type(found), str(found)) == (kind, text)


@pytest.mark.parametrize(
    ("error", "kind", "text", "code"),
    [
        (StoreError("disk full"), "StoreError", "disk full", 2),
        (ConfigError("no such device"), "ConfigError", "no such device", 2),
        (
            OSError(28, "No space left on device"),
            "StoreError",
            "cannot write: [Errno 28] No space left on device; free space, then run again",
            2,
        ),
        (KeyError("x"), "", "KeyError: 'x' in a worker process", 3),
        (KeyboardInterrupt(), None, None, 130),
    ],
    ids=repr,
)
def test_what_a_child_meets_outside_of_its_units_is_its_last_word(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    kind: str | None,
    text: str | None,
    code: int,
) -> None:
    def opened(job: worker.Job) -> Any:
        os.write(1, b"words of a library\n")
        raise error

    job = worker.Job("/runs/a", ("m", ""), (), "/", "code", 0, share_host=True)
    monkeypatch.setattr(worker, "fingerprint", lambda: "code")
    monkeypatch.setattr(worker.Job, "opened", opened)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asdict(job)) + "\n"))
    before, handler = os.dup(1), signal.getsignal(signal.SIGINT)
    try:
        assert worker.main() == code
    finally:
        os.dup2(before, 1)
        os.close(before)
        signal.signal(signal.SIGINT, handler)
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert answers == ([] if kind is None else [{"event": "error", "kind": kind, "text": text}])


@pytest.mark.parametrize(
    ("timed", "share_host", "alone"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_timed_units_have_the_host_for_themselves_unless_they_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: bool, share_host: bool, alone: bool
) -> None:
    asked: list[bool] = []

    @contextmanager
    def admitted(*, alone: bool, wait: object) -> Iterator[None]:
        asked.append(alone)
        yield

    monkeypatch.setattr(workers, "fingerprint", lambda: "code")
    monkeypatch.setattr(workers, "admitted", admitted)
    monkeypatch.setattr(workers.Job, "opened", lambda job: (None, None))
    nobody: Any = SimpleNamespace(take=lambda names: None)
    with Claims(tmp_path) as claims:
        store: Any = SimpleNamespace(path=tmp_path)
        job = workers.job_of(store, ("a", "b"), claims, Parallel(share_host=share_host))
        assert (job.run, job.reopen, job.folder, job.begun_ns) == (
            str(tmp_path),
            ("a", "b"),
            str(Path.cwd()),
            claims.begun_ns,
        )
    task: Any = SimpleNamespace(names=("a", "b", "c"), method=SimpleNamespace(needs_images=timed))
    assert workers.Slot(job).do([task], nobody, lambda *_: None, time.sleep) is None, "another process has it"
    assert asked == [alone]


@pytest.mark.parametrize(("count", "devices"), [(1, [{}]), (3, [{"CUDA_VISIBLE_DEVICES": name} for name in "353"])])
def test_each_worker_has_a_gpu_of_its_own_as_far_as_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, devices: list[dict[str, str]]
) -> None:
    given: list[dict[str, str]] = []

    class NoSlot:
        def __init__(self, job: object, variables: dict[str, str]) -> None:
            given.append(variables)

        def interrupt(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(workers, "fingerprint", lambda: "code")
    monkeypatch.setattr(workers, "Slot", NoSlot)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    store: Any = SimpleNamespace(path=tmp_path)
    with Claims(tmp_path) as claims:
        ended = workers.run(store, [], Quiet(), claims, Parallel(workers=count), ("a", "b"))
    assert given == devices
    assert ended == []
    assert not (tmp_path / workers.LOGS).exists()


def test_a_child_says_all_of_its_units_and_where_they_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is done, one that an earlier stream did along, two that fail; then a failure is not tried again.

    The log of a unit has what its last try printed, and none is left of a try that printed nothing."""
    words = ["first", "second", ""]

    def crash(scene: str, index: int) -> None:
        if scene == "three":
            raise RuntimeError("crash")
        if scene == "two" and index == 0:
            os.write(1, words.pop(0).encode())

    world = World(misbehave={"good": crash})
    world.install(monkeypatch)
    world.adapter.scenes_there = {"one": {}, "two": {"broken_at": 5}, "three": {}}
    for module in (worker, workers):
        monkeypatch.setattr(module, "fingerprint", lambda: "code")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    here = {"cpu_model": "mine", "torch": {"threads": 4, "gpus": [{"name": "B"}]}}
    monkeypatch.setattr(worker, "environment", lambda: here)
    plan = make_plan(fake_experiment(dataset={"lengths": [9, 24]}))
    record = make_run_record(
        units=[list(unit.names) for unit in plan.units],
        experiment=plan.experiment.as_stored(),
        environment={"cpu_model": "theirs", "torch": {"threads": 4, "gpus": [{"name": "A"}, {"name": "B"}]}},
    )
    store = RunStore.create(tmp_path / "runs", record)
    said: list[dict[str, Any]] = []
    with Claims(store.path) as claims:
        job = workers.job_of(store, ("lingbot_eval.runs.scene:reopen", ""), claims, Parallel())
    whole, part, broken = (
        ("synthetic, 24 frames", "one"),
        ("synthetic, 9 frames", "one"),
        ("synthetic, 24 frames", "two"),
    )

    def done(*names: tuple[str, str]) -> list[dict[str, Any]]:
        said.clear()
        for each in names:
            work.do((*each, "good"), "token")
        return [event for event in said if event["event"] not in ("frames", "left_out")]

    def logs() -> list[str]:
        return [path.read_text() for path in (store.path / worker.LOGS).iterdir()]

    with closing(OpenMethod()) as methods, present():
        work = worker._Work(job, methods, said.append)
        assert done(whole, part, broken) == [
            {"event": "started", "frames": 24},
            {"event": "finished"},
            {"event": "done", "skipped": False, "failed": False, "bad_input": False},
            {"event": "started", "frames": 9},
            {"event": "finished"},
            {"event": "done", "skipped": False, "failed": False, "bad_input": False},
            {"event": "started", "frames": 24},
            {"event": "finished"},
            {"event": "done", "skipped": False, "failed": True, "bad_input": True},
        ]
        counts = [event["count"] for event in said if event["event"] == "frames"]
        assert sum(counts) == 24 + 5
        assert logs() == ["first"]
        assert done(whole, broken) == [
            {"event": "skipped"},
            {"event": "done", "skipped": True, "failed": False, "bad_input": False},
            {"event": "started", "frames": 5},
            {"event": "finished"},
            {"event": "done", "skipped": False, "failed": True, "bad_input": False},
        ]
        assert logs() == ["first"], "its reason is there"
        assert done(("synthetic, 24 frames", "three"))[-1]["bad_input"] is False, "nothing for the user to mend"
        # A failure of an earlier run is tried again.
        work = worker._Work(replace(job, begun_ns=time.time_ns() + 10**10), methods, said.append)
        assert done(broken)[-1]["failed"]
        assert logs() == ["second"]
        world.adapter.scenes_there = {"one": {}, "two": {}}
        assert done(broken)[-1] == {"event": "done", "skipped": False, "failed": False, "bad_input": False}
        assert logs() == []
    for names in (whole, part, broken):
        host = store.read_result(*names, "good").host
        assert host == HostRecord(
            name=socket.gethostname(), gpu="5", beside=1, differs=['cpu_model: "theirs", here "mine"']
        ), names


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> worker._Work:
    """Of a run of one unit that was begun on two GPUs, before anything is done; here is one of another kind."""
    here = {"cpu_model": "mine", "torch": {"gpus": [{"name": "C"}]}}
    there = {"cpu_model": "mine", "torch": {"gpus": [{"name": "A"}, {"name": "B"}]}}
    store = RunStore.create(tmp_path / "runs", make_run_record(environment=there))
    monkeypatch.setattr(worker, "fingerprint", lambda: "code")
    monkeypatch.setattr(worker, "environment", lambda: here)
    monkeypatch.setattr(worker.Job, "opened", lambda job: (store, lambda names: SimpleNamespace(unit=None)))
    job = worker.Job(str(store.path), ("m", ""), (), "/", "code", 0, share_host=True)
    return worker._Work(job, OpenMethod(), lambda message: None)


def test_a_log_is_not_written_through_a_link(tmp_path: Path, work: worker._Work) -> None:
    mine, names = tmp_path / "mine", ("a", "b", "c")
    mine.write_text("words")
    (run,) = (tmp_path / "runs").iterdir()
    (run / worker.LOGS).mkdir()
    (run / worker.LOGS / worker.log_name(names)).symlink_to(mine)
    with pytest.raises(StoreError, match=r"cannot write .*logs.*symbolic link"):
        work.do(names, "token")
    assert mine.read_text() == "words"


def test_frames_are_told_a_few_times_a_second(work: worker._Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were not told yet, before anything else is."""
    said: list[dict[str, Any]] = []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(work, "_say", said.append)
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: clock.now))
    for now in (10.0, 10.05, 10.15, 10.25, 10.3, 10.4):
        clock.now = now
        work.frame()
    work.finished(None, None)
    assert said == [*({"event": "frames", "count": count} for count in (1, 3, 2)), {"event": "finished"}]


def test_what_is_done_for_the_first_time_is_of_code_and_settings_and_of_no_name(
    tmp_path: Path, work: worker._Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first unit that compiles something is alone with it on its host."""
    asked: list[str] = []

    def first_alone(what: str) -> Any:
        asked.append(what)
        return nullcontext()

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(worker, "first_alone", first_alone)
    monkeypatch.setattr(worker, "attempt_stored", lambda *given: given[5])
    for name, window, code in (("a", 3, "code"), ("b", 3, "code"), ("a", 4, "code"), ("a", 3, "other")):
        method = LingbotConfig.model_validate({"kind": "lingbot", "name": name, "streaming": {"window": window}})
        work._job = replace(work._job, code=code)
        for free in (True, False):
            monkeypatch.setattr(LingbotConfig, "leaves_the_cpu_free", property(lambda settings, free=free: free))
            work._attempt(SimpleNamespace(method=method), "token")  # type: ignore[arg-type]
    assert len(asked) == 4, "what computes on the cores has nothing to compile"
    assert [asked.index(what) for what in asked] == [0, 0, 2, 3]


@pytest.mark.parametrize(("timed", "differs"), [(True, ['gpus: ["A", "B"], here ["C"]']), (False, [])])
def test_other_hardware_is_said_where_something_is_timed(work: worker._Work, timed: bool, differs: list[str]) -> None:
    task: Any = SimpleNamespace(method=SimpleNamespace(needs_images=timed))
    assert work._host(task, 3) == HostRecord(
        name=socket.gethostname(), gpu=os.environ.get("CUDA_VISIBLE_DEVICES"), beside=3, differs=differs
    )


def test_gpus_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    assert workers.gpus() == ["3", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert workers.gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(workers, "device_count", lambda: 2)
    assert workers.gpus() == ["0", "1"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
