"""Writing a file, or a report's folder, so that it is either the old one or the whole new one, never a part.

What is written meanwhile is a hidden neighbour, locked as long as its writer lives: whoever comes next can tell what a
killed process left, and removes that alone.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lingbot_eval.errors import StoreError, reason

_FOLDER = "lingbot-eval"  # of the names of temporary folders


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a StoreError that names ``path`` and says what to do."""
    try:
        yield
    except OSError as error:
        advice = "free space or choose another folder"
        if not path.parent.is_dir():
            advice = f"make the folder {path.parent} or choose another"
        raise StoreError(f"cannot write {path}: {reason(error)}; {advice}, then run again") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` to write to; it takes the place of ``path`` when the block ends well.

    Raises StoreError, with what the system said, when the disk is full or the folder cannot be written;
    the temporary file is gone then and ``path`` is what it was.
    """
    with writing(path):
        # The suffix stays last: writers such as matplotlib and numpy choose the format by it.
        temporary, lock = _claimed_new(path.parent, f".{path.stem}", path.suffix, folder=False)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            # On a read-only file system even removing what is not there is refused, and would hide the StoreError.
            with suppress(OSError):
                temporary.unlink()
            os.close(lock)


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


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A fresh hidden folder in ``parent`` for the block, gone afterwards unless it was moved away.

    Raises OSError when the system refuses.
    """
    folder, lock = _claimed_new(parent, f".{_FOLDER}", "", folder=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders that killed processes left in ``parent``; those of living ones stay."""
    for path in parent.glob(f".{_FOLDER}.*.tmp"):
        _remove_if_abandoned(path)


def _claimed_new(parent: Path, stem: str, suffix: str, *, folder: bool) -> tuple[Path, int]:
    """A new empty file or folder, and the descriptor whose lock says that its writer lives. Raises OSError."""
    for number in itertools.count():
        path = parent / f"{stem}.{number}.tmp{suffix}"
        try:
            if folder:
                path.mkdir()
            else:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            if not _remove_if_abandoned(path):
                continue
            return _claimed_new(parent, stem, suffix, folder=folder)
        if folder:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                # Taken for abandoned between the two calls.
                continue
        # Where the file system knows no locks nobody can tell what is abandoned, and nothing is removed.
        if _locked(descriptor) is not False and _is_at(descriptor, path):
            return path, descriptor
        os.close(descriptor)
    raise AssertionError("numbers do not end")


def _remove_if_abandoned(path: Path) -> bool:
    """Whether ``path`` was of a process that ended, and is gone now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not (_locked(descriptor) and _is_at(descriptor, path)):
            return False
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return not path.exists()
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool | None:
    """Whether the lock could be had; None where the file system knows none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    found = os.fstat(descriptor)
    try:
        now = path.lstat()
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


_WHOLE_PAGES = (".html", ".ipynb")  # hold their figures
_PAGES = (".md",)  # show files beside them

REPLACED = "The report in this folder was being replaced when its writer ended. Repeat the command that makes it.\n"
"""What stands in a page's place while what it shows is replaced; a reader sees it only after a kill."""


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A fresh folder whose files are moved to the same places in ``out`` at the end.

    Where there was no ``out``, it appears at once, whole. Where there was one its other files stay. Pages that hold
    all that they show are replaced first, in one rename each; in the place of one that shows files beside it a line
    says so until these are there (``REPLACED``): there is always a page, and never one beside another report's
    figures. When the block raises,
    or the disk refuses while it writes, ``out`` is as it was; moving takes no space. What killed processes left is
    removed. Raises StoreError when the disk refuses or a folder of ``out`` is a link.
    """
    with ExitStack() as stack:
        with writing(out):
            if out.exists() and not out.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            home = out if out.is_dir() else out.parent
            home.mkdir(parents=True, exist_ok=True)
            for folder in {home, out.parent}:
                remove_abandoned(folder)
            stage = stack.enter_context(temporary_folder(home))
        yield stage
        with writing(out):
            if home == out or not _appeared(stage, out):
                _move(stage, out)


def _appeared(stage: Path, out: Path) -> bool:
    try:
        stage.rename(out)
    except OSError as error:
        # Somebody else's report of this moment is there, with something in it.
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _move(stage: Path, out: Path) -> None:
    found = [path.relative_to(stage) for path in sorted(stage.rglob("*"))]
    folders = [name for name in found if (stage / name).is_dir()]
    files = [name for name in found if name not in folders]
    for name in folders:
        if (out / name).is_symlink():
            raise StoreError(f"{out / name}: expected a folder of the report, found a symbolic link; remove it")
        (out / name).mkdir(exist_ok=True)
    first = [name for name in files if name.suffix in _WHOLE_PAGES]
    last = [name for name in files if name.suffix in _PAGES]
    for name in first:
        (stage / name).replace(out / name)
    for name in last:
        if (out / name).exists():
            write_text(out / name, REPLACED)
    for name in (*(name for name in files if name not in (*first, *last)), *last):
        (stage / name).replace(out / name)
