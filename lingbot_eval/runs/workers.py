"""Units in processes of their own, several at a time: what dies takes nobody with it and is recorded as a failure.

A slot does one unit after the other in one child process, which keeps the method's weights; a child that dies is
replaced. A child runs `lingbot_eval.runs.worker`, which says how it is talked to.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lingbot_eval import errors
from lingbot_eval.errors import ConfigError, LingbotEvalError, StoreError, one_line, reason
from lingbot_eval.files.atomic import writing
from lingbot_eval.machine.environment import chosen_variables, device_count
from lingbot_eval.registry import plugins
from lingbot_eval.resources import python_child
from lingbot_eval.runs.attempt import TRACEBACK_FILE, Attempt, Failure, Stage, Task
from lingbot_eval.runs.execute import Done, Observer, Parallel
from lingbot_eval.runs.worker import GRACE_S, LOGS, Job, Tell, admitted, fingerprint, log_name
from lingbot_eval.stored.disk import PARTIAL_PREFIX
from lingbot_eval.stored.lock import Claims
from lingbot_eval.stored.records import Names
from lingbot_eval.stored.store import Store

_INSIDE = "LINGBOT_EVAL_WORKER"
_LOOK_S = 1.0  # between two looks at units that other processes have claimed
_TELL_S = 0.2  # between two words of a child on its frames
_TRIES = 2

Stream = Sequence[Task]
TellOf = Callable[[Task, dict[str, Any]], None]


def job_of(store: Store[Any, Any], reopen: tuple[str, str], claims: Claims, parallel: Parallel) -> Job:
    """The job that other processes are given. Raises ConfigError for a plugin that they cannot have."""
    if _INSIDE in os.environ:
        raise ConfigError(
            "a worker process came upon a run with workers: the script that began the run is read as a plugin; put its"
            ' runs under if __name__ == "__main__":'
        )
    nowhere = [plugin.name for plugin in plugins() if plugin.source == "__main__"]
    if nowhere:
        raise ConfigError(
            f"plugin {nowhere[0]} is of a notebook or a prompt, which other processes cannot read: write it to a file"
            " and load that"
        )
    sources = tuple(plugin.source for plugin in plugins())
    run = str(store.path.absolute())
    return Job(run, reopen, sources, str(Path.cwd()), fingerprint(), claims.begun_ns, parallel.share_host)


def run(
    store: Store[Any, Any],
    streams: Sequence[Stream],
    observer: Observer,
    claims: Claims,
    parallel: Parallel,
    reopen: tuple[str, str],
) -> list[Done]:
    """Do the tasks that nobody else does, stream by stream, and wait for those that somebody does.

    Raises StoreError where no slot can write any more, and what makes a run impossible for every unit.
    """
    logs = store.path / LOGS
    with writing(logs):
        logs.mkdir(exist_ok=True)
    try:
        job = job_of(store, reopen, claims, parallel)
        if parallel.scheduler is not None:
            from lingbot_eval.runs import cluster

            return cluster.run(store, streams, observer, parallel.scheduler, job)
        return _Pool(store, streams, observer, claims, parallel, job).run()
    finally:
        with suppress(OSError):
            logs.rmdir()  # nothing was printed


def gpus() -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES, one for each GPU that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [word.strip() for word in given.split(",") if word.strip()]
    return [str(number) for number in range(device_count())]


class Ended(Exception):  # noqa: N818 - no error: the pool ends
    """Whatever waits has to stop."""


class _Pool:
    """Slots, a thread each, that take from one list of streams."""

    def __init__(
        self,
        store: Store[Any, Any],
        streams: Sequence[Stream],
        observer: Observer,
        claims: Claims,
        parallel: Parallel,
        job: Job,
    ) -> None:
        self._store, self._observer, self._claims = store, observer, claims
        self._waiting: deque[Stream] = deque(streams)
        self._elsewhere: deque[Stream] = deque()
        self._left = len(streams)
        self._done: list[Done] = []
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()
        self._ending = False
        devices = gpus() if parallel.workers > 1 else []
        self._slots = []
        for number in range(parallel.workers):
            variables = {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else {}
            self._slots.append(Slot(job, variables))

    def run(self) -> list[Done]:
        threads = [threading.Thread(target=self._work, args=[slot], name="slot", daemon=True) for slot in self._slots]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)  # so that an interruption is heard
        finally:
            with self._changed:
                self._ending = True
                self._changed.notify_all()
            for slot in self._slots:
                slot.interrupt()
            until = time.monotonic() + GRACE_S
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            for slot in self._slots:
                slot.close()
            for thread in threads:
                thread.join()
        if self._errors and (self._left or not isinstance(self._errors[0], StoreError)):
            raise self._errors[0]
        return self._done

    def _work(self, slot: Slot) -> None:
        stream = None
        try:
            while (stream := self._next()) is not None:
                done = slot.do(stream, self._claims, self._tell, self._check)
                with self._changed:
                    if done is None:
                        self._elsewhere.append(stream)
                    else:
                        self._left -= 1
                        self._done += done
                    self._changed.notify_all()
        except Ended:
            pass
        except StoreError as error:
            # This slot's disk, perhaps, and not everybody's: others go on, with its units, too.
            self._give_back(stream, error, ending=False)
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            self._give_back(stream, error, ending=True)
        finally:
            slot.close()

    def _give_back(self, stream: Stream | None, error: BaseException, *, ending: bool) -> None:
        with self._changed:
            self._errors.append(error)
            self._ending = self._ending or ending
            if stream is not None:
                self._waiting.append(stream)
                if not ending:
                    self._observer.left_out(stream[0].unit, one_line(error))
            self._changed.notify_all()

    def _next(self) -> Stream | None:
        """The next stream; None when there is nothing left to do."""
        with self._changed:
            while self._left and not self._ending:
                if self._waiting:
                    return self._waiting.popleft()
                # One look a second, at one stream, however many wait: each costs the file system some calls.
                self._changed.wait(_LOOK_S)
                if self._elsewhere and not self._waiting:
                    return self._elsewhere.popleft()
        return None

    def _check(self, seconds: float) -> None:
        time.sleep(seconds)
        if self._ending:
            raise Ended

    def _tell(self, task: Task, event: dict[str, Any]) -> None:
        with self._changed:
            show(self._store, task, event, self._observer)


def show(store: Store[Any, Any], task: Task, event: dict[str, Any], observer: Observer) -> None:
    """Pass on what a child says of its unit."""
    kind = event["event"]
    if kind == "started":
        observer.started(task.unit, event["frames"])
    elif kind == "frames":
        for _ in range(event["count"]):
            observer.frame()
    elif kind == "left_out":
        observer.left_out(task.unit, event["reason"])
    elif kind == "skipped":
        observer.skipped(task.unit)
    elif kind == "finished":
        observer.finished(task.unit, store.read_result(*task.names))


class Slot:
    """Does one unit at a time, in a child process. task: gives a unit's task by its names."""

    def __init__(self, job: Job, variables: Mapping[str, str] | None = None) -> None:
        """variables: of the environment, beside those of this process. Raises as `Job.opened`."""
        self._job, self._variables = job, variables or {}
        self._store, self.task = job.opened()
        self._child: _Child | None = None
        self._interrupted = False

    def do(
        self, stream: Stream, claims: Claims, tell: TellOf, wait: Callable[[float], object]
    ) -> tuple[Done, ...] | None:
        """Do the units of a stream; None where another process does them now.

        claims: of this process. tell: called with what is to be shown of a task. wait: as of
        `lingbot_eval.runs.worker.admitted`. Raises StoreError where nothing can be written from here, and other errors
        that the next unit would meet, too.
        """
        first = stream[0]
        with admitted(alone=first.method.needs_images and not self._job.share_host, wait=wait):
            token = claims.take(first.names)
            if token is None:
                return None
            try:
                return tuple(self._in_child(task, token, partial(tell, task)) for task in stream)
            finally:
                claims.release(first.names)

    def interrupt(self) -> None:
        """Stop the unit that is being done, from another thread; nothing of it stays."""
        self._interrupted = True
        child = self._child
        if child is not None:
            child.interrupt()

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def _in_child(self, task: Task, token: str, tell: Tell) -> Done:
        frames = 0
        started = False
        for number in range(_TRIES):
            if self._child is None:
                self._child = _Child(self._job, self._variables)
            frames, started = 0, False
            for event in self._child.do(task.names, token):
                if self._interrupted:
                    raise Ended
                if event["event"] == "error":
                    raise error_of(event)
                if event["event"] == "done":
                    return Done(**{name: event[name] for name in ("skipped", "failed", "bad_input")})
                started = started or event["event"] == "started"
                frames += event.get("count", 0)
                tell(event)
            if self._interrupted:
                raise Ended
            ending = self._child.ending() if self._child is not None else "was ended"
            self.close()
            final = self._store.folder(*task.names)
            shutil.rmtree(final.with_name(PARTIAL_PREFIX + token), ignore_errors=True)
            if number + 1 < _TRIES:
                tell({"event": "left_out", "reason": f"its process {ending}: once more, in a new one"})
        seen = f"its process {ending} after {frames}{' or more' if frames else ''} predictions, twice"
        why = f"{seen}; was it out of memory? see {LOGS}/{log_name(task.names)}"
        stage: Stage = "stream" if started else "open"
        failure = Failure(stage, why, None, bad_input=False, out_of_memory=False, traceback=why)
        record = task.record(Attempt(failure=failure, predictions=frames, frames=frames))
        with self._store.unit_writer(*task.names, token=token) as writer:
            with writing(writer.path(TRACEBACK_FILE)):
                writer.path(TRACEBACK_FILE).write_text(why, encoding="utf-8")
            writer.finish(record)
        if not started:
            tell({"event": "started", "frames": None})
        tell({"event": "finished"})
        return Done(failed=True)


def error_of(event: dict[str, Any]) -> Exception:
    kind = getattr(errors, event["kind"], None)
    if isinstance(kind, type) and issubclass(kind, LingbotEvalError):
        return kind(event["text"])
    return RuntimeError(event["text"])


class _Child:
    """A process that does units, as its parent sees it."""

    def __init__(self, job: Job, variables: Mapping[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the child
        # What this process chose in the user's place, the child chooses for itself.
        inherited = {name: value for name, value in os.environ.items() if name not in chosen_variables()}
        try:
            self._process = subprocess.Popen(
                python_child("lingbot_eval.runs.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env={**inherited, **variables, _INSIDE: "1"},
                cwd=job.folder,
                start_new_session=True,  # a key that interrupts is for the parent, who tells its children
            )
        except OSError as error:
            self._said.close()
            raise ConfigError(f"cannot start a worker process in {job.folder}: {reason(error)}") from error
        self._ready = False
        self._send(asdict(job))

    def do(self, names: Names, token: str) -> Iterator[dict[str, Any]]:
        """What the child says of the unit, one by one; it ends without ``done`` or ``error`` where the child died."""
        self._send({"names": names, "token": token})
        stream = self._process.stdout
        if stream is None:
            raise TypeError("a child has pipes")
        for line in stream:
            event = json.loads(line)
            if event["event"] == "ready":
                self._ready = True
                continue
            yield event
            if event["event"] in ("done", "error"):
                return
        self._process.wait()
        if not self._ready and self._process.returncode >= 0:
            # It did not come as far as a unit, and will not the next time.
            self._said.seek(0)
            last = self._said.read()[-2000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ConfigError(f"a worker process cannot start: it {self.ending()}: {last}")

    def ending(self) -> str:
        """How it ended, in words that follow "it"."""
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        names = {number.value: number.name for number in signal.Signals}
        return f"was ended by {names.get(-code, f'signal {-code}')}"

    def interrupt(self) -> None:
        """Tell it that nobody wants anything any more."""
        with suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def stop(self) -> None:
        """End it and what it started."""
        self.interrupt()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._said.close()

    def _send(self, message: dict[str, Any]) -> None:
        stream = self._process.stdin
        # One that has ended takes nothing; what it says next, which is nothing, tells.
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.write(json.dumps(message) + "\n")
                stream.flush()
