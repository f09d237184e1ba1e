"""Units on the workers of a Dask cluster, which the user runs: only names travel, results go through the store.

A worker does one unit at a time, in a child process as every slot does: what dies there takes no worker along.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lingbot_eval.errors import ConfigError, DependencyError, LingbotEvalError, StoreError, one_line, reason
from lingbot_eval.registry import load_plugins
from lingbot_eval.runs.execute import Done, Observer
from lingbot_eval.runs.worker import Job, refuse_other_code
from lingbot_eval.runs.workers import Ended, Slot, Stream, error_of, show
from lingbot_eval.stored.lock import Claims
from lingbot_eval.stored.store import Store

RESOURCE = "GPU"
CONNECT_S = 20
_PAUSE_S = 1.0
_TRIES = 2

# Of a worker: its one slot, and whoever uses it.
_GUARD = threading.Lock()
_SLOTS: dict[Job, Slot] = {}


def run(store: Store[Any, Any], streams: Sequence[Stream], observer: Observer, scheduler: str, job: Job) -> list[Done]:
    """Have the cluster do the tasks, stream by stream.

    Raises DependencyError without the package, ConfigError for a cluster that cannot be used, StoreError where no
    worker can write the run directory, or the scheduler is gone.
    """
    try:
        import distributed
    except ImportError as error:
        raise DependencyError(
            "a scheduler needs the package distributed: pip install 'lingbot-eval[distributed]'"
        ) from error
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler at {scheduler}: {reason(error)}; start one with: dask scheduler --host 127.0.0.1"
        ) from error
    with client:
        try:
            return _Submitted(client, store, streams, observer, scheduler, job).run()
        finally:
            # Children end; units of this run that are being done are given up, as the run is.
            with suppress(OSError, ValueError):
                if client.status == "running":
                    client.run(stop_units, job.run)


class _Submitted:
    """Streams that wait at a scheduler."""

    def __init__(
        self,
        client: Any,
        store: Store[Any, Any],
        streams: Sequence[Stream],
        observer: Observer,
        scheduler: str,
        job: Job,
    ) -> None:
        self._client, self._store, self._observer, self._scheduler = client, store, observer, scheduler
        self._job = asdict(job)
        self._streams = list(streams)
        self._done: list[Done] = []
        self._refused: set[str] = set()
        self._deaths: dict[str, int] = {}
        self._running: dict[Any, Stream] = {}

    def run(self) -> list[Done]:
        from distributed import as_completed

        self._check_resources()
        self._running = {self._submit(stream): stream for stream in self._streams}
        elsewhere: list[Stream] = []
        left: Any = as_completed(list(self._running), loop=self._client.loop)  # type: ignore[no-untyped-call]
        while self._running or elsewhere:
            again = None
            if self._running:
                future = next(left)
                again = self._ended(self._running.pop(future), future, elsewhere)
            else:
                time.sleep(_PAUSE_S)
                again = elsewhere.pop(0)
            if again is not None:
                future = self._submit(again)
                self._running[future] = again
                left.add(future)
        return self._done

    def _submit(self, stream: Stream) -> Any:
        # What a worker cannot write, another may.
        others = [address for address in self._workers() if address not in self._refused] if self._refused else None
        return self._client.submit(
            do_units,
            self._job,
            [list(task.names) for task in stream],
            key=f"lingbot-eval {'/'.join(stream[0].names)} {uuid.uuid4().hex}",
            resources={RESOURCE: 1},
            retries=0,
            pure=False,
            workers=others,
        )

    def _ended(self, stream: Stream, future: Any, elsewhere: list[Stream]) -> Stream | None:
        """What became of one; the stream where it is to be submitted again."""
        from distributed import KilledWorker

        if future.status == "cancelled" or self._client.status != "running":
            raise StoreError(
                f"the Dask scheduler at {self._scheduler} is gone: what is done stays; start it again, then run the"
                " same command"
            )
        error = future.exception()
        if isinstance(error, KilledWorker):
            # Its workers died, and perhaps not for its sake: whoever has it now looks into the store first.
            name = "/".join(stream[0].names)
            self._deaths[name] = self._deaths.get(name, 1) + 1
            self._observer.left_out(stream[0].unit, f"workers of the cluster died: {one_line(error)}")
            if self._deaths[name] <= _TRIES:
                return stream
            self._done += [Done(failed=True)] * len(stream)
            return None
        if error is not None:
            raise ConfigError(
                f"a worker of {self._scheduler} cannot do units: {one_line(error)}; install this code there"
            )
        found = future.result()
        if found["error"] is not None:
            failure = error_of(found["error"])
            if not isinstance(failure, StoreError):
                raise failure
            self._refused.add(found["worker"])
            if self._refused.issuperset(self._workers()):
                raise failure
            self._observer.left_out(stream[0].unit, f"worker {found['worker']} is left out: {failure}")
            return stream
        if found["done"] is None:
            elsewhere.append(stream)
            return None
        for task in stream:
            for names, event in found["events"]:
                if tuple(names) == task.names:
                    show(self._store, task, event, self._observer)
        self._done += [Done(**each) for each in found["done"]]
        return None

    def _workers(self) -> list[str]:
        return list(self._client.scheduler_info(n_workers=-1)["workers"])

    def _check_resources(self) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        if workers and not any(worker["resources"].get(RESOURCE) for worker in workers.values()):
            raise ConfigError(
                f"no worker of {self._scheduler} has the resource {RESOURCE}: start them with --nthreads 1 --resources"
                f" {RESOURCE}=1, one a GPU"
            )


# What follows runs on a worker.


def do_units(job: dict[str, Any], stream: list[list[str]]) -> dict[str, Any]:
    """Do the units of a stream on this worker, and say how they ended in plain values."""
    from distributed import get_worker

    events: list[tuple[list[str], dict[str, Any]]] = []
    found: dict[str, Any] = {"worker": get_worker().address, "done": None, "error": None, "events": events}
    wanted = Job.of(job)
    with _GUARD:
        try:
            slot = _slot(wanted)
            with Claims(Path(wanted.run)) as claims:
                tasks = [slot.task(tuple(names)) for names in stream]
                done = slot.do(tasks, claims, lambda task, event: events.append((list(task.names), event)), time.sleep)
            found["done"] = None if done is None else [asdict(each) for each in done]
        except Ended:
            _SLOTS.pop(wanted, None)
        except LingbotEvalError as error:
            found["error"] = {"kind": type(error).__name__, "text": str(error)}
    return found


def stop_units(run: str) -> None:
    """End what this worker does of a run."""
    for job, slot in list(_SLOTS.items()):
        if job.run == run:
            slot.interrupt()
            _SLOTS.pop(job, None)


def _slot(job: Job) -> Slot:
    """This worker's slot; that of another run is given up, and the GPU with it."""
    if job not in _SLOTS:
        for other in list(_SLOTS):
            _SLOTS.pop(other).close()
        load_plugins(job.plugins)
        refuse_other_code(job)
        _SLOTS[job] = Slot(job)
    return _SLOTS[job]
