"""Opening a file that somebody named: a regular file, or a refusal at once."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: Path) -> BinaryIO:
    """``path`` opened for reading bytes.

    Waits for nobody: a named pipe without a writer would make ``open`` wait for ever, a device may never end.

    Raises:
        OSError: As ``open`` does (a folder: IsADirectoryError), also for what is no regular file; a path with a NUL
            in it, or too long for the system, included. ``strerror`` is the reason in words.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is a socket, expected a file", str(path)) from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), None)
        if kind is not None:
            raise OSError(errno.EINVAL, f"it is {kind}, expected a file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
