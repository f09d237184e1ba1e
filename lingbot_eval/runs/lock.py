"""Who writes a run directory, one process or several that share it: advisory locks that end with their process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lingbot_eval.errors import BusyError, StoreError
from lingbot_eval.runs.claims import Holder, read_claims
from lingbot_eval.runs.disk import writing
from lingbot_eval.runs.records import utc_now

LOCK_FILE = ".lock"
_NAMED = 4  # processes that share a run, in a message

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_NO_FOLDER_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK)  # NFS locks what is open for writing
_PATIENCE_S, _PAUSE_S = 0.5, 0.02  # whoever asks who writes holds a shared lock for a moment


@contextmanager
def directory_lock(run: Path, *, shared: bool = False) -> Iterator[float]:
    """Hold the run directory, and ``RUN/.lock`` in it, for the block; gives the time by the file system's clock.

    shared: beside others that hold it so; they tell each other by claims (`lingbot_eval.runs.claims`) who does what.

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
                    _replace_text(descriptor, json.dumps(_this_process()))
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
                return _holder(run)
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
        f"run directory {run} is being written by {_holder(run)}; wait until it ends, stop it, or choose another folder"
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


def _this_process() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": utc_now(),
    }


def _replace_text(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _holder(run: Path) -> str:
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
