"""Reading text files from elsewhere: whole, decoded, or one clear line about what is wrong."""

from __future__ import annotations

from pathlib import Path

from lingbot_eval.errors import DataError, at, reason
from lingbot_eval.formats.opening import open_file

MAX_TEXT_BYTES = 1 << 30  # a pose every millisecond for a week is less; beyond it the file is not what it says


def folder_contents(folder: Path, limit: int = 8) -> str:
    """A short phrase for error messages: what lies in ``folder`` (or that it is not there)."""
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    except OSError as error:
        return f"its folder {folder} cannot be listed ({error.strerror or error})"
    if not names:
        return f"its folder {folder} is empty"
    # A file name may hold a line break; an error message is one line.
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names[:limit])
    rest = f" … ({len(names)} entries)" if len(names) > limit else ""
    return f"its folder {folder} holds: {shown}{rest}"


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file (with or without byte order mark).

    what: the file's role for messages, e.g. ``"TUM trajectory"``. Raises DataError when it is missing (saying what
    lies beside it), a folder, unreadable, larger than any such file can be, or not text.
    """
    try:
        with open_file(path) as stream:
            data = stream.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise DataError(f"{what} {path} has more than {MAX_TEXT_BYTES >> 20} MiB: expected a text file of poses")
    except FileNotFoundError:
        raise DataError(f"{what} {path} does not exist; {folder_contents(path.parent)}") from None
    except IsADirectoryError:
        raise DataError(f"{what} {path} is a folder, expected a file; name a file inside it") from None
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {reason(error)}") from error
    bad = data.find(b"\0")
    if bad < 0:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            bad = error.start
    line = data[:bad].count(b"\n") + 1
    raise DataError(f"{at(path, line)}: not text (binary data); expected a {what} as UTF-8 text")


def parse_number(word: str) -> float:
    """A number as files write it. Raises ValueError, also for what Python reads: ``1_0``, digits of other scripts."""
    if not word.isascii() or "_" in word:
        raise ValueError(f"expected a number, found {word[:40]!r}")
    return float(word)


def parse_whole(word: str) -> int:
    """A whole number as files write it. Raises ValueError as `parse_number`, and for digits beyond 64 bits."""
    if not word.isascii() or "_" in word or len(word) > 20:
        raise ValueError(f"expected a whole number, found {word[:40]!r}")
    return int(word)
