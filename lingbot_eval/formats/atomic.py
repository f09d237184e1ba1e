"""Writing a file so that it is either the old one or the whole new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lingbot_eval.errors import StoreError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` to write to; it takes the place of ``path`` when the block ends well.

    Raises StoreError, with what the system said, when the disk is full or the folder cannot be written;
    the temporary file is gone then and ``path`` is what it was.
    """
    # The suffix stays last: writers such as matplotlib and numpy choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder, then run again"
        ) from error
    finally:
        # On a read-only file system even removing what is not there is refused, and would hide the StoreError.
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_open(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """As :func:`atomic_path`, with the temporary file opened; ``mode`` is ``"w"`` (UTF-8 text) or ``"wb"``.

    A file name that is not UTF-8 (to Python, with lone surrogates) is written with their codes, as JSON escapes them.
    """
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    with atomic_path(path) as temporary, temporary.open(mode, encoding=encoding, errors=errors) as stream:
        yield stream
        stream.flush()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all. Raises StoreError."""
    with atomic_open(path) as stream:
        stream.write(text)
