"""Who writes a run directory, one process or several that share it, and who does which unit of it.

Advisory locks on the directory end with their process. Several that share a run, on one host or on many, have claims:
``RUN/.claims/`` holds a small file for every process at work and one for every unit that it does. A claim is made
exclusively, is kept fresh by its holder's heartbeat, and is taken over once its holder is gone: at once where this very
system can tell, else when the heartbeat is old by the clock of the file system, the only one that all hosts share. A
claim spares work and is no lock: two holders of one unit are harmless, since a unit appears in one rename.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lingbot_eval.errors import BusyError, StoreError
from lingbot_eval.files.atomic import writing
from lingbot_eval.stored.disk import one_component
from lingbot_eval.stored.records import Names, utc_now

CLAIMS = ".claims"
BEAT_S = 15.0
STALE_S = 120.0
"""Without a heartbeat a claim is its holder's for so long: longer than a network file system stalls on a bad day."""

_PROCESS, _UNIT, _GONE = "process-", "unit-", "gone-"
_MOST_BYTES = 4096
_TRIES = 5


@dataclass(frozen=True)
class Holder:
    """Who holds a claim. names: of the unit; () for the process itself. system: where its process id means something:
    one boot of one machine, one world of process ids; "" where that is not known. born: when the process began, by the
    kernel's count."""

    names: Names
    host: str
    system: str
    pid: int
    born: str
    token: str
    since: str

    @property
    def words(self) -> str:
        """``process 12 on host since …``."""
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def ended(self) -> bool:
        """Whether this system can tell that the process is gone."""
        return self.system == _system() != "" and _born(self.pid) != self.born


class Claims:
    """This process among those that share a run; a context. begun_ns: by the file system's clock, when it came."""

    def __init__(self, run: Path) -> None:
        self._folder = run / CLAIMS
        self._held: dict[Names, tuple[Path, int]] = {}
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)
        self.begun_ns = 0

    def __enter__(self) -> Self:
        if self._folder.is_symlink():
            raise StoreError(f"{self._folder}: expected a folder of this run, found a symbolic link; remove it")
        self._join()
        self.begun_ns = self._held[()][0].stat().st_mtime_ns
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        for names in tuple(self._held):
            self.release(names)
        with suppress(OSError):
            self._folder.rmdir()  # the last one does

    def take(self, names: Names) -> str | None:
        """Claim a unit.

        Args:
            names: the unit's.

        Returns:
            The claim's token; None while another process holds it.

        Raises:
            StoreError: the directory cannot be written.
        """
        path = self._folder / (_UNIT + one_component(names))
        for _ in range(_TRIES):
            token = self._make(path, names)
            if token is not None:
                return token
            try:
                found, there = _read(path), path.stat()
            except FileNotFoundError:
                continue  # released meanwhile
            if not (found is not None and found.ended) and self._now() - there.st_mtime <= STALE_S:
                return None
            self._take_away(path, found, there)
        return None

    def release(self, names: Names) -> None:
        """Give a claim back; never raises, as what is left goes stale."""
        with self._guard:
            path, descriptor = self._held.pop(names, (None, -1))
        if path is None:
            return
        with suppress(OSError):
            try:
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    path.unlink()
            finally:
                os.close(descriptor)

    def _make(self, path: Path, names: Names) -> str | None:
        """The new claim's token; None where there is one."""
        with writing(path):
            try:
                descriptor = self._created(path)
            except FileExistsError:
                return None
            except FileNotFoundError:
                # The first to come, or whoever went last has just removed the folder.
                self._folder.mkdir(exist_ok=True)
                descriptor = self._created(path)
            token = uuid.uuid4().hex
            try:
                told: dict[str, Any] = {"names": names, "host": socket.gethostname(), "pid": os.getpid()}
                told |= {"system": _system(), "born": _born(os.getpid()), "token": token, "since": utc_now()}
                os.write(descriptor, json.dumps(told).encode())
            except OSError:
                path.unlink()
                raise
            finally:
                os.close(descriptor)  # so that a network file system shows the content to others
            with self._guard:
                self._held[names] = path, os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        return token

    @staticmethod
    def _created(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)

    def _take_away(self, path: Path, found: Holder | None, there: os.stat_result) -> None:
        """Remove a claim whose holder is gone, and no other that came in its place: of several that try, the one that
        made the mark may, and nobody else removes a claim that is not its own."""
        mark = self._folder / f"{_GONE}{path.name}"
        with suppress(OSError):
            try:
                os.close(self._created(mark))
            except FileExistsError:
                # Whoever made it may have died over it.
                if self._now() - mark.stat().st_mtime > STALE_S:
                    mark.unlink()
                return
            try:
                now, changed = _read(path), path.stat().st_mtime_ns
                # A holder that lives after all has touched it; a file of the same moment has another token.
                if now == found and changed == there.st_mtime_ns:
                    path.unlink()
            finally:
                mark.unlink()

    def _join(self) -> None:
        self._make(self._folder / f"{_PROCESS}{uuid.uuid4().hex}", ())

    def _now(self) -> float:
        """Seconds by the file system's clock."""
        with self._guard:
            path, descriptor = self._held[()]
        try:
            os.utime(descriptor)
            return path.stat().st_mtime
        except OSError:
            # Taken for gone, as after a long sleep of the whole machine.
            with self._guard:
                os.close(self._held.pop(())[1])
            self._join()
            return self._now()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with self._guard:
                # By descriptor: a claim that was taken over is another file under the same name.
                for _, descriptor in self._held.values():
                    with suppress(OSError):
                        os.utime(descriptor)


def read_claims(run: Path, now: float | None = None) -> tuple[Holder, ...]:
    """Claims whose holders live as far as can be told from here; changes nothing.

    now: seconds by the file system's clock, which heartbeats are held against; this host's clock for whoever may not
    write there.
    """
    return tuple(holder for _, holder in _claims(run, now) if holder is not None)


def remove_dead_claims(run: Path, now: float) -> None:
    """Remove what killed processes left, and the folder where nobody is at work. now: by the file system's clock."""
    with suppress(OSError):
        for path, holder in _claims(run, now):
            if holder is None:
                path.unlink(missing_ok=True)
        (run / CLAIMS).rmdir()


def _claims(run: Path, now: float | None) -> Iterator[tuple[Path, Holder | None]]:
    """Every claim, with its holder where that one lives; not those that are just being written."""
    now = time.time() if now is None else now
    for path in sorted((run / CLAIMS).glob("*-*")):
        with suppress(OSError):
            holder = None if path.name.startswith(_GONE) else _read(path)
            fresh = now - path.stat().st_mtime <= STALE_S
            if holder is None and fresh:
                continue
            yield path, holder if holder is not None and fresh and not holder.ended else None


def _read(path: Path) -> Holder | None:
    """None for a claim that is being written, or damaged. Raises FileNotFoundError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        values: Any = json.loads(os.read(descriptor, _MOST_BYTES))
        texts = {name: str(values[name])[:200] for name in ("host", "system", "born", "token", "since")}
        return Holder(names=tuple(str(name) for name in values["names"]), pid=int(values["pid"]), **texts)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    finally:
        os.close(descriptor)


@functools.cache
def _system() -> str:
    # Containers of one machine share its boot, and have process ids of their own.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - a string that is no path
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When a process began; "" where there is none, or one that ended and is not reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


LOCK_FILE = ".lock"
_NAMED = 4  # processes that share a run, in a message

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_NO_FOLDER_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK)  # NFS locks what is open for writing
_PATIENCE_S, _PAUSE_S = 0.5, 0.02  # whoever asks who writes holds a shared lock for a moment


@contextmanager
def directory_lock(run: Path, *, shared: bool = False) -> Iterator[float]:
    """Hold the run directory, and ``RUN/.lock`` in it, for the block; gives the time by the file system's clock.

    shared: beside others that hold it so; they tell each other by claims (`lingbot_eval.stored.lock`) who does what.

    Locked is the directory itself, so that it stays locked when somebody removes the file; the file says who holds
    it, and is the lock where a file system locks no directories. The system drops both when the process ends, however
    it ends; the file stays (removing it would race). Raises BusyError naming the holder when another process (or
    another lock of this one) has it, StoreError when ``.lock`` is no plain file of this directory, when the directory
    cannot be written, and when its file system knows no locks.
    """
    with writing(run):
        folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _acquire(folder, run, run, may_lack=True, shared=shared)
        descriptor = _locked_file(run, shared=shared)
        try:
            with writing(run / LOCK_FILE):
                os.utime(descriptor)
                now = os.fstat(descriptor).st_mtime
            if not shared:
                # A file system's locks need not reach other hosts; claims do. Nor do hosts have one clock.
                if _sharers(run, now):
                    raise _busy(run)
                with writing(run / LOCK_FILE):
                    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            yield now
        finally:
            # The holder's name is left in the file: it is read only while somebody holds the lock.
            os.close(descriptor)
    finally:
        os.close(folder)


def writer_of(run: Path) -> str | None:
    """Who is writing in a run directory now, in words; None when nobody is. Changes nothing there.

    For a moment it holds shared locks, so two readers never take each other for a writer.
    """
    for path in (run, run / LOCK_FILE):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK if path != run else os.O_RDONLY)
        except OSError:
            # Never locked, or not to be read: then nobody of this system writes there.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            # A file system without locks has no holder to tell of.
            if error.errno in _TAKEN:
                return _writer(run)
        finally:
            os.close(descriptor)
    return _words(_sharers(run)) or None


def _sharers(run: Path, now: float | None = None) -> list[Holder]:
    return [holder for holder in read_claims(run, now) if not holder.names]


def _words(holders: list[Holder]) -> str:
    more = f" and {len(holders) - _NAMED} more" if len(holders) > _NAMED else ""
    return ", ".join(holder.words for holder in holders[:_NAMED]) + more


def _busy(run: Path) -> BusyError:
    return BusyError(
        f"run directory {run} is being written by {_writer(run)}; wait until it ends, stop it, or choose another folder"
    )


def _locked_file(run: Path, *, shared: bool) -> int:
    """A descriptor of ``RUN/.lock``, locked, and still the file of that name when it is."""
    path = run / LOCK_FILE
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StoreError(
                    f"{path}: expected the lock of this run, found a symbolic link; remove it, then run again"
                ) from error
            with writing(path):
                raise
        try:
            _acquire(descriptor, path, run, shared=shared)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise StoreError(
                    f"{path}: expected a file of this run alone, found one that has "
                    "other names or is no file; remove it, then run again"
                )
            if _is_at(found, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Replaced while it was waited for: another process may have locked the new one.
        os.close(descriptor)


def _is_at(found: os.stat_result, path: Path) -> bool:
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


def _acquire(descriptor: int, path: Path, run: Path, *, shared: bool, may_lack: bool = False) -> None:
    """may_lack: go on where the file system locks nothing of this kind."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                if time.monotonic() < until:
                    time.sleep(_PAUSE_S)
                    continue
                raise _busy(run) from error
            if not (may_lack and error.errno in _NO_FOLDER_LOCKS):
                raise StoreError(
                    f"cannot lock {path}: {error.strerror or error}; "
                    "choose a folder on a file system that supports locks"
                ) from error
        return


def _writer(run: Path) -> str:
    sharers = _sharers(run)
    if sharers:
        return _words(sharers)
    try:
        descriptor = os.open(run / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            holder = json.loads(os.pread(descriptor, 4096, 0))
        finally:
            os.close(descriptor)
        return f"process {int(holder['pid'])} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        # It may hold the lock and not have written its name yet.
        return "another process"
