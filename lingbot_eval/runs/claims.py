"""Who does which unit of a run that several processes share, on one host or on many: a small file for each.

``RUN/.claims/`` holds a file for every process at work and one for every unit that it does. A claim is made
exclusively, is kept fresh by its holder's heartbeat, and is taken over once its holder is gone: at once where this very
system can tell, else when the heartbeat is old by the clock of the file system, the only one that all hosts share. A
claim spares work and is no lock: two holders of one unit are harmless, since a unit appears in one rename.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lingbot_eval.errors import StoreError
from lingbot_eval.runs.disk import one_component, writing
from lingbot_eval.runs.records import Names, utc_now

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
        return _holder(values)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    finally:
        os.close(descriptor)


def _holder(values: Mapping[str, Any]) -> Holder:
    texts = {name: str(values[name])[:200] for name in ("host", "system", "born", "token", "since")}
    return Holder(names=tuple(str(name) for name in values["names"]), pid=int(values["pid"]), **texts)


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
