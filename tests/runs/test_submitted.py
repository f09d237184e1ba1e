"""What is made of units on a cluster, without one: who is asked again, which slot does them, what a worker says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Quiet

from lingbot_eval.errors import ConfigError, DataError, StoreError
from lingbot_eval.runs import cluster
from lingbot_eval.runs.execute import Done
from lingbot_eval.runs.worker import Job
from lingbot_eval.runs.workers import Ended

distributed = pytest.importorskip("distributed")

JOB = Job("/runs/a", ("m:f", ""), ("mine.py",), "/", "code", 0, share_host=False)
OTHER = replace(JOB, run="/runs/b")
GONE = distributed.KilledWorker("task", SimpleNamespace(address="tcp://one"), 0)
FULL = {"kind": "StoreError", "text": "disk full"}


def task(scene: str, method: str = "m") -> Any:
    names = ("d", scene, method)
    return SimpleNamespace(names=names, unit=SimpleNamespace(names=names))


def said(*done: Done, worker: str = "tcp://one", **changes: Any) -> dict[str, Any]:
    return {"worker": worker, "error": None, "done": [asdict(each) for each in done], "events": []} | changes


@dataclass(eq=False)
class Future:
    status: str
    error: BaseException | None
    answer: Any

    def exception(self) -> BaseException | None:
        return self.error

    def result(self) -> Any:
        return self.answer


class Client:
    """A cluster of two workers. answers: by scene, what comes of it each time that it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[Any]]) -> None:
        self.answers, self.loop, self.status = answers, None, "running"
        self.asked: list[tuple[str, Any]] = []
        self.keys: list[str] = []
        self.resources: list[dict[str, float]] = [{"GPU": 1}, {}]
        monkeypatch.setattr(distributed, "as_completed", lambda futures, loop: Queue(futures))
        monkeypatch.setattr(cluster, "_PAUSE_S", 0.001)

    def scheduler_info(self, n_workers: int) -> Any:
        assert n_workers == -1, "all of them"
        pairs = zip(("tcp://one", "tcp://two"), self.resources, strict=False)
        return {"workers": {address: {"resources": has} for address, has in pairs}}

    def submit(self, work: Any, job: Any, names: list[list[str]], *, key: str, workers: Any, **given: Any) -> Any:
        assert (work, job) == (cluster.do_units, asdict(JOB))
        assert given == {"resources": {"GPU": 1}, "retries": 0, "pure": False}
        self.asked.append(("+".join("/".join(each) for each in names), workers))
        self.keys.append(key)
        answer = self.answers[names[0][1]].pop(0)
        error = answer if isinstance(answer, BaseException) else None
        status = answer if isinstance(answer, str) else "finished"
        return Future(status, error, answer)

    def run(self, streams: Sequence[Sequence[Any]], observer: Quiet, store: Any = None) -> list[Done]:
        return cluster._Submitted(self, store, streams, observer, "tcp://here", JOB).run()


class Queue(list[Any]):
    """Futures in the order in which they were made."""

    def add(self, future: Any) -> None:
        self.append(future)

    def __next__(self) -> Any:
        return self.pop(0)


def test_units_are_asked_for_until_somebody_has_done_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has the first and the last; of the second a worker dies once; the third's worker cannot write."""
    events = [(["d", "two", "n"], {"event": "started", "frames": 4}), (["d", "two", "m"], {"event": "skipped"})]
    client = Client(
        monkeypatch,
        {
            "one": [said(done=None), said(Done(failed=True))],
            "two": [GONE, said(Done(skipped=True), Done(), events=events)],
            "three": [said(worker="tcp://two", done=None, error=FULL), said(Done(bad_input=True))],
            "four": [said(done=None), said(Done())],
        },
    )
    observer = Quiet()
    done = client.run([[task("one")], [task("two"), task("two", "n")], [task("three")], [task("four")]], observer)
    assert client.asked == [
        ("d/one/m", None),
        ("d/two/m+d/two/n", None),
        ("d/three/m", None),
        ("d/four/m", None),
        ("d/two/m+d/two/n", None),
        ("d/three/m", ["tcp://one"]),
        ("d/one/m", ["tcp://one"]),
        ("d/four/m", ["tcp://one"]),
    ]
    assert len(set(client.keys)) == 8, "an answer is of one request"
    assert done == [Done(skipped=True), Done(), Done(bad_input=True), Done(failed=True), Done()]
    killed, refused, *rest = observer.lines
    assert killed.startswith("left out d/two/m: workers of the cluster died: ")
    assert refused == "left out d/three/m: worker tcp://two is left out: disk full"
    # What is told of each unit comes together, in their order.
    assert rest == ["skipped d/two/m", "started d/two/n 4"]


@pytest.mark.parametrize("deaths", [1, 2])
def test_whose_workers_die_each_time_is_given_up_and_the_others_are_done(
    monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    """Each unit of a stream counts."""
    client = Client(monkeypatch, {"one": [GONE] * deaths + [said(Done(), Done())], "two": [said(Done())]})
    observer = Quiet()
    done = client.run([[task("one"), task("one", "n")], [task("two")]], observer)
    assert done == [Done(), *([Done(failed=True)] if deaths == 2 else [Done()]) * 2]
    assert [name for name, _ in client.asked] == ["d/one/m+d/one/n", "d/two/m", "d/one/m+d/one/n"]
    assert [line.partition(":")[0] for line in observer.lines] == ["left out d/one/m"] * deaths


@pytest.mark.parametrize(
    ("answers", "kind", "words"),
    [
        ([said(worker="tcp://one", error=FULL), said(worker="tcp://two", error=FULL)], StoreError, "disk full"),
        ([said(error={"kind": "ConfigError", "text": "other code"})], ConfigError, "other code"),
        (["cancelled"], StoreError, "scheduler at tcp://here is gone"),
        ([ImportError("no module")], ConfigError, "worker of tcp://here cannot do units: ImportError: no module"),
    ],
)
def test_what_no_worker_can_do_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        Client(monkeypatch, {"one": answers}).run([[task("one")]], Quiet())


def test_a_scheduler_that_is_gone_is_told_whatever_its_answers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, {"one": [GONE]})
    client.status = "closed"
    with pytest.raises(StoreError, match="is gone"):
        client.run([[task("one")]], Quiet())


@pytest.mark.parametrize("resources", [[], [{}, {"GPU": 1}], [{}, {"GPU": 0}]], ids=str)
def test_a_cluster_without_the_resource_would_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, resources: list[dict[str, float]]
) -> None:
    """One without workers may get some yet."""
    client = Client(monkeypatch, {"one": [said(Done())]})
    client.resources = resources
    if resources and not resources[1]["GPU"]:
        with pytest.raises(ConfigError, match="no worker of tcp://here has the resource GPU"):
            client.run([[task("one")]], Quiet())
        assert client.asked == []
    else:
        assert client.run([[task("one")]], Quiet()) == [Done()]


class FakeSlot:
    """Of a worker; what it does at each unit is ``end``."""

    made: list[FakeSlot]
    end: Any = (Done(failed=True), Done())

    def __init__(self, job: Job) -> None:
        self.job, self.closed = job, 0
        self.made.append(self)

    def task(self, names: tuple[str, ...]) -> Any:
        return task(*names[1:])

    def do(self, tasks: list[Any], claims: Any, tell: Any, wait: Any) -> Any:
        assert wait is time.sleep
        self.claims = claims._folder
        for each in tasks:
            tell(each, {"event": "skipped"})
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> dict[Job, Any]:
    found: dict[Job, Any] = {}
    monkeypatch.setattr(cluster, "_SLOTS", found)
    monkeypatch.setattr(cluster, "Slot", FakeSlot)
    monkeypatch.setattr(FakeSlot, "made", [], raising=False)
    monkeypatch.setattr(cluster, "load_plugins", lambda sources: None)
    monkeypatch.setattr(cluster, "refuse_other_code", lambda job: None)
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(address="tcp://me"))
    return found


@pytest.mark.parametrize(
    ("end", "changes", "kept"),
    [
        ((Done(failed=True), Done(skipped=True)), {}, True),
        (None, {"done": None}, True),
        (Ended(), {"done": None}, False),
        (DataError("torn"), {"done": None, "error": {"kind": "DataError", "text": "torn"}}, True),
    ],
)
def test_a_worker_says_in_plain_values_how_units_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: dict[Job, Any], end: Any, changes: Any, kept: bool
) -> None:
    monkeypatch.setattr(FakeSlot, "end", end)
    job = replace(JOB, run=str(tmp_path))
    names = [["d", "one", "m"], ["d", "one", "n"]]
    found = cluster.do_units(asdict(job), names)
    events = [(each, {"event": "skipped"}) for each in names]
    done = (Done(failed=True), Done(skipped=True))
    assert found == said(*done, worker="tcp://me", events=events) | changes
    assert (list(slots), FakeSlot.made[0].claims.parent) == ([job] if kept else [], tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is claimed any more"


def test_a_worker_keeps_one_slot_and_gives_up_that_of_another_run(
    monkeypatch: pytest.MonkeyPatch, slots: dict[Job, Any]
) -> None:
    """Its plugins are read and its code is compared before there is one."""
    begun: list[Any] = []
    monkeypatch.setattr(cluster, "load_plugins", begun.append)
    monkeypatch.setattr(cluster, "refuse_other_code", lambda job: begun.append((job.run, len(FakeSlot.made))))
    first = cluster._slot(JOB)
    assert cluster._slot(JOB) is first
    second = cluster._slot(OTHER)
    assert (first.closed, second.closed, list(slots)) == (1, 0, [OTHER])  # type: ignore[attr-defined]
    assert begun == [("mine.py",), ("/runs/a", 0), ("mine.py",), ("/runs/b", 1)]
    assert cluster._slot(JOB) is not first, "that one is closed"
