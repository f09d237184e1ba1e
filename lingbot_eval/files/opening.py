"""Opening a file that somebody named, a regular file or a refusal at once; what tells its content from another."""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from io import BufferedReader
from pathlib import Path

DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    SyntaxError,
    RuntimeError,  # NotImplementedError, RecursionError and a file under a password among it
    MemoryError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What libraries raise on damaged files: zipfile, its decoders, NumPy's reader of headers (Python's tokenizer among it)
and Pillow. None of it tells more than that the file is damaged."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: Path, *, links: bool = True) -> BufferedReader:
    """``path`` opened for reading bytes.

    Waits for nobody: a named pipe without a writer would make ``open`` wait for ever, a device may never end.

    Args:
        path: The file.
        links: Whether it may be a symbolic link, which may lead anywhere.

    Raises:
        OSError: As ``open`` does (a folder: IsADirectoryError), also for what is no regular file; a path with a NUL
            in it, or too long for the system, included. ``strerror`` is the reason in words.
    """
    try:
        follow = 0 if links else os.O_NOFOLLOW
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | follow)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is a socket, expected a file", str(path)) from error
        if error.errno == errno.ELOOP and not links:
            raise OSError(errno.ELOOP, "it is a symbolic link, expected a file", str(path)) from error
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


def read_file(path: Path, most: int, *, links: bool = True) -> bytes:
    """All of a file of at most ``most`` bytes. Raises OSError as :func:`open_file`, also for a larger one."""
    with open_file(path, links=links) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size} bytes, expected at most {most}", str(path))
        return stream.read()


WHOLE_BYTES = 8 << 20
"""Files up to this size are read whole; of larger ones both ends are, and their time of change counts."""

_END_BYTES = 1 << 20


def file_state(path: Path) -> str:
    """Size and SHA-256 of a file's content; what a missing one means is for its reader to judge.

    Size and time of change alone do not tell a file from another that was copied over it with its times.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "no file"
        with open_file(path) as stream:
            if found.st_size <= WHOLE_BYTES:
                digest = hashlib.sha256(stream.read(WHOLE_BYTES))
                return f"{found.st_size} bytes, {digest.hexdigest()}"
            digest = hashlib.sha256(stream.read(_END_BYTES))
            stream.seek(-_END_BYTES, 2)
            digest.update(stream.read(_END_BYTES))
    except (OSError, ValueError):  # ValueError: a path with a NUL in it
        return "none"
    return f"{found.st_size} bytes, {found.st_mtime_ns}, {digest.hexdigest()}"
