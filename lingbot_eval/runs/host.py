"""Units of parallel runs that share this host: who else is at work, timed ones alone, kernels compiled once.

All of it is local: locks in a folder of this user's, which end with their process. Serial runs take no part.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lingbot_eval.errors import StoreError
from lingbot_eval.runs.disk import writing

_PAUSE_S = 0.05


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
