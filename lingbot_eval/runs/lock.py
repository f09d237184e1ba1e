"""One writer at a time in a run directory: an advisory lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lingbot_eval.errors import StoreError
from lingbot_eval.runs.disk import writing
from lingbot_eval.runs.records import utc_now

LOCK_FILE = ".lock"


@contextmanager
def directory_lock(run: Path) -> Iterator[None]:
    """Hold ``RUN/.lock`` for the block.

    The system drops the lock when the process ends, however it ends; the file stays (removing it would race).
    Raises StoreError naming the holder when another process (or another lock of this one) has it, when the
    directory cannot be written, and when its file system knows no locks.
    """
    path = run / LOCK_FILE
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, run)
        with writing(path):
            _replace_text(descriptor, json.dumps(_this_process()))
        yield
    finally:
        # The holder's name is left in the file: it is read only while somebody holds the lock.
        os.close(descriptor)


def writer_of(run: Path) -> str | None:
    """Who is writing in a run directory now, in words; None when nobody is. Changes nothing there.

    For a moment it holds a shared lock, so two readers never take each other for a writer.
    """
    try:
        descriptor = os.open(run / LOCK_FILE, os.O_RDONLY)
    except OSError:
        # Never locked, or not to be read: then nobody of this system writes there.
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks has no holder to tell of.
        return _holder(descriptor) if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    finally:
        os.close(descriptor)
    return None


def _acquire(descriptor: int, run: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise StoreError(
                f"run directory {run} is being written by {_holder(descriptor)}; "
                "wait until it ends, stop it, or choose another folder"
            ) from error
        raise StoreError(
            f"cannot lock {run / '.lock'}: {error.strerror or error}; "
            "choose a folder on a file system that supports locks"
        ) from error


def _this_process() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": utc_now(),
    }


def _replace_text(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(holder['pid'])} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        # It may hold the lock and not have written its name yet.
        return "another process"
