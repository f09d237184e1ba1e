"""Reading files that somebody named: a regular file or a refusal at once, whole and decoded, or one clear line."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import itertools
import lzma
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path

from lingbot_eval.errors import DataError, at, reason

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


def kind_of_entry(mode: int) -> str:
    """What an entry of a folder is, in words, from its ``st_mode``."""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


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
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {kind_of_entry(mode)}, expected a file", str(path))
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


MAX_TEXT_BYTES = 1 << 28  # a pose every 30 ms for a month is less; beyond it the file is not what it says
_LONGEST_NUMBER = 400  # characters: every float64 written out
_NAMES_SHOWN = 8

_GZIP = b"\x1f\x8b"
# First bytes -> what the file is.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"BM", "a BMP image"),
    (b"RIFF", "a WebP image or a RIFF recording"),
    (b"%PDF", "a PDF document"),
    (b"#ROSBAG", "a ROS bag"),
    (b"SQLite format 3", "an SQLite database (a ROS 2 bag?)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"PK\x03\x04", "a zip archive (.npz, .zip)"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"ply", "a PLY point cloud"),
    (b"# .PCD", "a PCD point cloud"),
    (b"version https://git-lfs", "a Git LFS pointer (run git lfs pull)"),
    (b"{\\rtf", "an RTF document"),
    (b"\xff\xfe", "UTF-16 text (save it as UTF-8)"),
    (b"\xfe\xff", "UTF-16 text (save it as UTF-8)"),
)
_BINARY_ONLY = (b"BM", b"BZh", b"RIFF", b"ply")  # short enough to begin a text as well


def folder_contents(folder: Path) -> str:
    """A short phrase for error messages: what lies in ``folder`` (or that it is not there)."""
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    except OSError as error:
        return f"its folder {folder} cannot be listed ({error.strerror or error})"
    if not names:
        return f"its folder {folder} is empty"
    # A file name may hold a line break; an error message is one line.
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names[:_NAMES_SHOWN])
    rest = f" … ({len(names)} entries)" if len(names) > _NAMES_SHOWN else ""
    return f"its folder {folder} holds: {shown}{rest}"


def read_bytes(path: Path, what: str) -> bytes:
    """The bytes of a file, unpacked where it is gzip (by its first bytes, whatever its name).

    what: the file's role for messages, e.g. ``"trajectory"``. Raises DataError when it is missing (saying what lies
    beside it), a folder, unreadable, damaged, or larger than any such file can be.
    """
    try:
        data = read_file(path, MAX_TEXT_BYTES)
        if data.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                # In pieces: one read would take the memory of the largest file first.
                pieces = list(itertools.islice(iter(partial(packed.read, 1 << 20), b""), (MAX_TEXT_BYTES >> 20) + 1))
            data = b"".join(pieces)
    except FileNotFoundError:
        raise DataError(f"{what} {path} does not exist; {folder_contents(path.parent)}") from None
    except IsADirectoryError:
        raise DataError(f"{what} {path} is a folder, expected a file; name a file inside it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{what} {path} cannot be unpacked: damaged gzip ({reason(error)}); copy it again") from error
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {reason(error)}") from error
    if len(data) > MAX_TEXT_BYTES:
        raise DataError(f"{what} {path} has more than {MAX_TEXT_BYTES >> 20} MiB: expected a file of poses")
    return data


def kind_of_bytes(data: bytes) -> str | None:
    """What a file evidently is, from its first bytes, such as ``"a PNG image"``; None for text or what is not known."""
    binary = b"\0" in data[:4096]
    for magic, kind in _MAGIC:
        if data.startswith(magic) and (binary or magic not in _BINARY_ONLY):
            return kind
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page (a download that asked for a login?)"
    if start.startswith(b"<"):
        return "an XML or HTML document"
    return None


def decoded(data: bytes, path: Path, what: str) -> str:
    """Bytes of a UTF-8 file (with or without byte order mark) as text. Raises DataError that says what they are."""
    bad = data.find(b"\0")
    kind = kind_of_bytes(data)
    if bad < 0 and kind is None:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            bad = error.start
    line = data[: max(bad, 0)].count(b"\n") + 1
    raise DataError(f"{at(path, line)}: not text ({kind or 'binary data'}); expected a {what} as UTF-8 text")


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file, unpacked where it is gzip. Raises DataError as `read_bytes` and `decoded`."""
    return decoded(read_bytes(path, what), path, what)


def numbered_lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and text without blanks around it of the lines of a file that are not blank.

    Raises DataError as `read_text`.
    """
    lines = enumerate(read_text(path, what).split("\n"), start=1)
    return ((number, stripped) for number, line in lines if (stripped := line.strip()))


def parse_number(word: str) -> float:
    """A number as files write it, ``nan`` and ``inf`` among them.

    Raises ValueError, also for what Python reads: ``1_0``, digits of other scripts, and for a word longer than any
    number.
    """
    if not word.isascii() or "_" in word or len(word) > _LONGEST_NUMBER:
        raise ValueError(f"expected a number, found {word[:40]!r}")
    return float(word)


def finite_number(word: str, place: str, expected: str = "a finite number") -> float:
    """A finite number as files write it. Raises DataError, which begins with ``place``, for what is none."""
    try:
        value = parse_number(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: expected {expected}, found {word[:40]!r}")
    return value


def parse_whole(word: str) -> int:
    """A whole number as files write it. Raises ValueError as `parse_number`, and for digits beyond 64 bits."""
    if not word.isascii() or "_" in word or len(word) > 20:
        raise ValueError(f"expected a whole number, found {word[:40]!r}")
    return int(word)
