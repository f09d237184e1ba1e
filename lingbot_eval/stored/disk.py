"""What is safe in a run directory: names as paths, files that are files, no links out of it, refusals as one line."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.reading import open_file
from lingbot_eval.stored.records import StoredFile

PARTIAL_PREFIX = ".partial-"
UNITS = "units"
_LONGEST_COMPONENT = 180  # file systems allow 255 bytes; the rest is room for prefixes and suffixes


def component(name: str) -> str:
    """One path component for any name; two names never give the same one.

    Letters, digits and ``_ . - ~`` stay, everything else is percent-encoded (its bytes: UTF-8, or those of a file
    name that is not UTF-8). A leading dot is encoded too,
    so that ``..`` cannot climb and no name can look like one of the store's own hidden files. A name too long for
    a file system keeps its beginning and ends in a digest. Raises StoreError for an empty name or one that is not text.
    """
    if not name:
        raise StoreError("expected a name for a dataset, scene, method or run, found an empty one; give it a name")
    try:
        encoded = quote(name, safe="", errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise StoreError(f"expected a name in UTF-8, found {name!r}; rename the folder or the scene") from error
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) > _LONGEST_COMPONENT:
        # "%~" cannot come out of percent-encoding, so a shortened name never meets a whole one.
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:24]
        encoded = encoded[: _LONGEST_COMPONENT - 26] + "%~" + digest
    return encoded


def one_component(names: Iterable[str]) -> str:
    """One path component for the names of a unit; two units never have the same one."""
    return component("/".join(map(component, names)))


def missing_folders(folder: Path) -> tuple[Path, ...]:
    """A folder that is to be made and those above it that are not there either, innermost first."""
    return tuple(each for each in (folder, *folder.parents) if not each.exists())


def remove_empty(folders: Iterable[Path]) -> None:
    """Take back folders that were made for a result that never came; one with anything in it stays."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def file_digest(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 (hex) of a stored file. Raises OSError, also for a link or what is no file."""
    with open_file(path, links=False) as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return stream.tell(), digest.hexdigest()


def written_files(folder: Path) -> dict[str, StoredFile]:
    """Size and content of every file of a flat folder, by name. Raises OSError, also for what is no file."""
    # Read back from the system's memory at a gigabyte a second: a unit has a few megabytes.
    found = {name: file_digest(folder / name) for name in sorted(file.name for file in folder.iterdir())}
    return {name: StoredFile(bytes=size, sha256=digest) for name, (size, digest) in found.items()}


def damage(folder: Path, files: Mapping[str, StoredFile]) -> tuple[str, ...]:
    """What is wrong with those files of a folder, a line each that names the file; none when all are as written."""
    return tuple(line for name, written in files.items() if (line := _damage(folder / name, written)) is not None)


def _damage(path: Path, written: StoredFile) -> str | None:
    try:
        size, digest = file_digest(path)
    except OSError as error:
        return f"{path} cannot be read: {reason(error)}"
    if size != written.bytes:
        return f"{path} is damaged: it has {size} bytes, not {written.bytes}"
    if written.sha256 not in (None, digest):
        return f"{path} is damaged: its content is not what was written (SHA-256)"
    return None


def move_into_place(partial: Path, final: Path) -> None:
    """Put a finished folder in its place in one rename; an older one there is replaced. Raises OSError.

    A kill leaves the one or the other, and at most one more partial folder for the next start to remove. Where another
    process has put the same unit there meanwhile, that one stays.
    """
    sync_tree(partial)
    replaced = final.with_name(f"{PARTIAL_PREFIX}{uuid.uuid4().hex}")
    had_older = False
    if final.is_dir():
        with suppress(FileNotFoundError):  # another process is just replacing it, too
            final.rename(replaced)
            had_older = True
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            shutil.rmtree(partial, ignore_errors=True)
        # A network file system that asks twice, as the first answer was lost, finds that nothing is left to rename.
        elif error.errno != errno.ENOENT or partial.exists() or not final.is_dir():
            if had_older:
                replaced.rename(final)
            raise
    sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def refuse_links(root: Path, path: Path) -> None:
    """Raises StoreError when ``path``, or a folder between it and ``root`` above it, is a symbolic link.

    ``root`` itself may be one: whoever names it says where it is.
    """
    here = root
    for part in path.relative_to(root).parts:
        here /= part
        if here.is_symlink():
            raise StoreError(
                f"{here}: expected a folder or file of {root} itself, found a symbolic link to "
                f"{os.readlink(here)}; nothing is written through links: remove it, then run again"  # noqa: PTH115 - str
            )


def folders_below(root: Path, depth: int) -> Iterator[Path]:
    """Every folder ``depth`` levels below ``root``, by name, and every link on the way in a folder's place.

    Links are not followed; files are passed over. Nothing when there is no ``root``. Raises StoreError.
    """
    if depth == 0 or root.is_symlink():
        yield root
        return
    try:
        with os.scandir(root) as entries:
            inner = sorted(e.name for e in entries if e.is_symlink() or e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read {root}: {error.strerror or error}") from error
    for name in inner:
        yield from folders_below(root / name, depth - 1)


def sync_tree(folder: Path) -> None:
    """Force a flat folder's files, then the folder itself, to the disk."""
    for file in folder.iterdir():
        _sync(file, os.O_RDONLY)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk, so that a rename inside it survives a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
