"""A process that does units of a shared run, one after the other: what it is told, what it does, who is beside it.

It reads a line of JSON for its job, then one for each unit, and answers in lines of JSON; results go through the run
directory. What it prints goes to the unit's log.

Who else is at work on this host, that timed units are alone, and that kernels are compiled once is told by locks in a
folder of this user's, which end with their process. Serial runs take no part.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import queue
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import lingbot_eval
from lingbot_eval.errors import ConfigError, LingbotEvalError, StoreError, one_line
from lingbot_eval.files.atomic import writing
from lingbot_eval.machine.environment import environment, hardware, threads_that_share
from lingbot_eval.methods.base import OpenMethod
from lingbot_eval.registry import load_plugins, plugins
from lingbot_eval.runs.attempt import Attempt, Task
from lingbot_eval.runs.execute import Done, Observer, attempt_stored
from lingbot_eval.runs.plan import code_digest
from lingbot_eval.settings import differing_in_both, short
from lingbot_eval.stored.disk import one_component
from lingbot_eval.stored.records import HostRecord, Names, ResultRecord
from lingbot_eval.stored.store import Store

LOGS = "logs"
GRACE_S = 10.0
"""What a process is given to put things away when it is interrupted, before SIGKILL."""
_TELL_S = 0.2  # between two words on frames
_PAUSE_S = 0.05

Reopened = tuple[Store[Any, Any], Callable[[Names], Task]]
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What a process must know to do units of a run; all else is in the run directory.

    run: that directory. reopen: ``module:function`` that opens it, and settings that are not in it. folder: current
    directory, of which relative paths are. code: fingerprint of what computes. begun_ns: when the run was asked for, by
    the file system's clock.
    """

    run: str
    reopen: tuple[str, str]
    plugins: tuple[str, ...]
    folder: str
    code: str
    begun_ns: int
    share_host: bool

    def opened(self) -> Reopened:
        """The store, and tasks by name. Raises StoreError, ConfigError."""
        where, settings = self.reopen
        module, _, function = where.partition(":")
        return cast(Reopened, getattr(importlib.import_module(module), function)(Path(self.run), settings))

    @classmethod
    def of(cls, values: dict[str, Any]) -> Job:
        """From plain values, as they travel."""
        return cls(**{**values, "plugins": tuple(values["plugins"]), "reopen": tuple(values["reopen"])})


def fingerprint() -> str:
    """Of the code that computes, plugins among it: processes that share a run have the same."""
    parts = [lingbot_eval.__version__, code_digest(of_study=True), *sorted(plugin.sha256 for plugin in plugins())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def refuse_other_code(job: Job) -> None:
    """Raises ConfigError where this process would compute something else than the run's."""
    own = fingerprint()
    if own != job.code:
        raise ConfigError(
            f"the worker on {socket.gethostname()} has other code ({own[:12]}) than the run ({job.code[:12]}): install"
            " the same lingbot_eval and plugins there, or begin the run again"
        )


def log_name(names: Names) -> str:
    """Of what a unit's process prints, in the folder of logs."""
    return f"{one_component(names)}.log"


def main() -> int:
    """Do units as the parent says, until it says nothing any more."""
    # A shell that starts a run in the background lets it, and whatever it starts, ignore this signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what methods print is no answer

    def say(message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    try:
        job = Job.of(json.loads(sys.stdin.readline()))
        with threads_that_share(), closing(OpenMethod()) as methods:
            work = _Work(job, methods, say)
            say({"event": "ready"})
            units = _units(work)
            while (unit := units.get()) is not None:
                work.do(tuple(unit["names"]), unit["token"])
    except LingbotEvalError as error:
        say({"event": "error", "kind": type(error).__name__, "text": str(error)})
        return 2
    except OSError as error:
        # Outside of any unit's own work: a disk that refuses, and no unit is to blame.
        say({"event": "error", "kind": "StoreError", "text": f"cannot write: {error}; free space, then run again"})
        return 2
    except Exception as error:  # noqa: BLE001 - told to the parent, who ends the run with it
        say({"event": "error", "kind": "", "text": f"{one_line(error)} in a worker process"})
        return 3
    except KeyboardInterrupt:
        return 130
    return 0


def _units(work: _Work) -> queue.SimpleQueue[dict[str, Any] | None]:
    """Lines of the parent as they come; when it is gone whatever runs is interrupted."""
    found: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            found.put(json.loads(line))
        found.put(None)
        if work.busy:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=read, name="parent", daemon=True).start()
    return found


class _Work(Observer):
    """A run's units in this process. busy: whether one is being done."""

    def __init__(self, job: Job, methods: OpenMethod, say: Tell) -> None:
        load_plugins(source for source in job.plugins)
        refuse_other_code(job)
        self._job, self._methods, self._say = job, methods, say
        self._store, self._task = job.opened()
        self._frames, self._told = 0, 0.0
        self._differs: list[str] | None = None
        self._along: dict[Names, ResultRecord] = {}
        self.busy = False

    def do(self, names: Names, token: str) -> None:
        """Do a unit, and say how it ended."""
        self.busy = True
        task = self._task(names)
        along = self._along.pop(names, None)
        elsewhere = None if along else self._settled_meanwhile(names)
        settled = along or elsewhere
        # What another process printed before it failed stays: its record refers to it.
        with nullcontext() if elsewhere else self._logged(names):
            if settled is not None:
                self.started(task.unit, settled.frames)
                self.finished(task.unit, settled)
                done = Done(failed=settled.status == "failed")
            else:
                done = Done.of(self._attempt(task, token))
        self.busy = False
        self._say({"event": "done", **asdict(done)})

    def _attempt(self, task: Task, token: str) -> Attempt | None:
        warming = first_alone(self._digest(task)) if task.method.leaves_the_cpu_free else nullcontext()
        with present() as others:
            return attempt_stored(
                task,
                self._methods,
                self._store,
                self,
                self._along,
                Attempt(warming=warming),
                token,
                lambda: self._host(task, others()),
            )

    # An observer.

    def started(self, unit: Any, frames: int | None) -> None:
        self._say({"event": "started", "frames": frames})

    def frame(self) -> None:
        self._frames += 1
        if time.monotonic() - self._told > _TELL_S:
            self._flush()

    def finished(self, unit: Any, record: Any) -> None:
        self._flush()
        self._say({"event": "finished"})

    def skipped(self, unit: Any) -> None:
        self._say({"event": "skipped"})

    def left_out(self, unit: Any, reason: str) -> None:
        self._say({"event": "left_out", "reason": reason})

    def _flush(self) -> None:
        self._say({"event": "frames", "count": self._frames})
        self._frames, self._told = 0, time.monotonic()

    def _settled_meanwhile(self, names: Names) -> ResultRecord | None:
        """A failure that another process of this run has found since it was begun: it is not tried by each of them."""
        path = self._store.folder(*names) / self._store.layout.unit_file
        with suppress(OSError, StoreError):
            if path.stat().st_mtime_ns >= self._job.begun_ns:
                record: ResultRecord = self._store.read_unit(*names).record
                return record if record.status == "failed" else None
        return None

    def _host(self, task: Task, beside: int) -> HostRecord:
        if self._differs is None and task.method.needs_images:
            mine, stated = hardware(environment()), hardware(self._store.read_run().environment)
            # A child sees one GPU of those that the run's record lists.
            if set(map(str, mine["gpus"])) <= set(map(str, stated["gpus"])):
                mine.pop("gpus")
            self._differs = [
                f"{name}: {short(there)}, here {short(here)}"
                for name, (there, here) in differing_in_both(stated, mine).items()
            ]
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        return HostRecord(name=socket.gethostname(), gpu=gpu, beside=beside, differs=self._differs or [])

    def _digest(self, task: Task) -> str:
        text = f"{self._job.code} {task.method.model_dump_json(exclude={'name'})}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @contextmanager
    def _logged(self, names: Names) -> Iterator[None]:
        """What is printed meanwhile, also by libraries and at death, is in the unit's log."""
        path = self._store.path / LOGS / log_name(names)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        kept = os.dup(2)
        try:
            for descriptor in (1, 2):
                os.dup2(log, descriptor)
            yield
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            for descriptor in (1, 2):
                os.dup2(kept, descriptor)
            os.close(kept)
            if os.fstat(log).st_size == 0:
                path.unlink(missing_ok=True)
            os.close(log)


# Units that share this host


@contextmanager
def admitted(*, alone: bool, wait: Callable[[float], object]) -> Iterator[None]:
    """Be on this host for the block.

    Args:
        alone: whether nobody else may be, as for what is timed; others wait outside meanwhile.
        wait: called with seconds as long as the door is shut; ends the waiting by what it raises.
    """
    descriptor = _opened("door")
    try:
        while not _locked(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
            wait(_PAUSE_S)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def present() -> Iterator[Callable[[], int]]:
    """Be seen as a unit at work; gives a function that counts the other units at work since the block began."""
    folder, token = _folder(), uuid.uuid4().hex
    units, log = folder / "units", folder / "begun"
    with writing(units):
        units.mkdir(exist_ok=True)
        hidden, own = units / f".{token}", units / token
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _locked(descriptor, fcntl.LOCK_EX)
        with writing(log):
            hidden.rename(own)  # locked before it is seen
            begun = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            with writing(log):
                os.write(begun, f"{token}\n".encode())
            place = os.lseek(begun, 0, os.SEEK_CUR)
            others = {path.name for path in units.iterdir() if path.name[0] != "." and path.name != token}
            living = {name for name in others if _lives(units / name)}

            def count() -> int:
                later = os.pread(begun, 1 << 24, place).decode("ascii", "replace").split()
                return len(living | set(later))

            yield count
        finally:
            os.close(begun)
    finally:
        with suppress(OSError):
            own.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def first_alone(what: str) -> Iterator[None]:
    """For the block the only one on this host that does ``what`` for the first time; later ones do not wait.

    What is compiled within lies in a cache then, from which the others take it.
    """
    descriptor = _opened(f"first-{what}")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        done = os.fstat(descriptor).st_size > 0
        if done:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        yield
        if not done:
            os.write(descriptor, b"done")
    finally:
        os.close(descriptor)


def _folder() -> Path:
    """This user's own, whoever else may write beside it."""
    path = Path(tempfile.gettempdir()) / f"lingbot-eval-{os.getuid()}"
    with writing(path):
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StoreError(f"{path}: expected a folder of this user, found another's; set TMPDIR to a folder of yours")
    return path


def _opened(name: str) -> int:
    path = _folder() / name
    with writing(path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _lives(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        ended = _locked(descriptor, fcntl.LOCK_EX)
        if ended:
            with suppress(OSError):
                path.unlink()
        return not ended
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
