"""Unpacking archives from elsewhere: regular files and folders below one folder, and nothing that could do harm."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NoReturn

from lingbot_eval.errors import DataError, DependencyError, reason
from lingbot_eval.files.atomic import writing
from lingbot_eval.files.reading import DAMAGE

ArchiveKind = Literal["zip", "tar", "7z"]
ARCHIVES: dict[str, ArchiveKind] = {
    ".zip": "zip",
    **dict.fromkeys((".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz"), "tar"),
    ".7z": "7z",
}
"""Kinds of archives by the ends of their names."""

MAX_RATIO = 50
"""Unpacked over packed bytes. Images hardly shrink; raw depth maps that are mostly empty did by 11."""
_SLACK = 1 << 26  # bytes that any archive may unpack to
_MAX_ENTRIES = 2_000_000
_MAX_HEADERS = 1 << 21  # bytes between two files of a tar: names, not files
_CHUNK = 1 << 20
_JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini", ".DS_Store"}
"""What systems leave in archives. It is passed over: some of it is damaged in archives that are otherwise fine."""

Place = Callable[[PurePosixPath], PurePosixPath | None]
"""Where under the folder an entry goes; None for one that is left out."""


def inner_path(name: str) -> PurePosixPath:
    """``name`` as a path that stays below a folder; backslashes separate as well.

    Raises:
        ValueError: It is empty, absolute, climbs out, or has characters that a path should not have.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
    if parts and not parts[-1]:
        parts.pop()  # the slash that ends a folder's name
    if not parts or not all(parts) or ".." in parts or ":" in parts[0]:
        raise ValueError(f"{name!r}: expected a path below the folder")
    if not name.isprintable() or any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        raise ValueError(f"{name[:80]!r}: expected a name that every system can show and keep")
    return PurePosixPath(*parts)


def unpacked_limit(packed: int) -> int:
    """Bytes that an archive of ``packed`` bytes may unpack to before it counts as a bomb."""
    return MAX_RATIO * packed + _SLACK


def unpack(
    archive: Path,
    kind: ArchiveKind,
    folder: Path,
    place: Place,
    *,
    limit: int | None = None,
    each: Callable[[int], object] = lambda size: None,
) -> int:
    """Unpack an archive into a folder of our own, reading it to its end so that its checksums are compared.

    Files are written anew with the permissions of new files: owners, modes and times in the archive count for nothing.

    Args:
        archive: The file.
        kind: How it is packed; a tar may be compressed by gzip, bzip2 or xz.
        folder: An existing folder that nobody else writes to.
        place: Where each entry goes.
        limit: Bytes that it may unpack to; `unpacked_limit` of its size if None.
        each: Called with the bytes of each piece written.

    Returns:
        Bytes written.

    Raises:
        DataError: The archive is damaged, or refused: an entry that leads out of the folder, a link or device where a
            file is wanted, names that differ in case alone, more bytes than the limit, a password.
        StoreError: The disk refuses.
        DependencyError: py7zr is not installed.
    """
    try:
        most = unpacked_limit(archive.stat().st_size) if limit is None else limit
        target = _Target(archive, folder, place, most, each)
        {"zip": _unpack_zip, "tar": _unpack_tar, "7z": _unpack_7z}[kind](archive, target)
    except (*DAMAGE, tarfile.TarError) as error:
        raise DataError(f"{archive}: damaged {kind} archive ({reason(error)}); fetch it again") from error
    return target.written


class _Target:
    """The folder as it fills: what may still come, and under which names."""

    def __init__(self, archive: Path, folder: Path, place: Place, most: int, each: Callable[[int], object]) -> None:
        self.written = 0
        self._archive, self._folder, self._place, self._most, self._each = archive, folder, place, most, each
        self._announced = self._entries = 0
        self._names: dict[str, PurePosixPath] = {}
        self._files: set[PurePosixPath] = set()
        self._folders: set[PurePosixPath] = set()
        self._there: set[PurePosixPath] = set()  # those that have been made

    def refuse(self, why: str) -> NoReturn:
        raise DataError(f"{self._archive}: refused: {why}; it is not the archive that the card describes")

    def file(self, name: str, size: int, kind: str = "") -> Path | None:
        """Where the file ``name`` of ``size`` bytes is to be written; None when it is left out.

        kind: what it is instead of a file, in words.
        """
        path = self._placed(name)
        if path is None:
            return None
        if kind:
            self.refuse(f"{name!r} is {kind}, expected a file")
        self._announced += size
        if self._announced > self._most:
            self.refuse(f"it unpacks to more than {self._most:,} bytes")
        if path in self._files or path in self._folders:
            self.refuse(f"{name!r} is in it twice")
        self._claim(path)
        self._files.add(path)
        return self._made(path)

    def directory(self, name: str) -> None:
        """The same of a folder."""
        path = self._placed(name)
        if path is not None:
            self._claim(path / "*")  # the folders above an entry are what is claimed
            self._made(path / "*")

    def copy(self, source: IO[bytes], path: Path) -> None:
        """Write what ``source`` has to ``path``."""
        with _created(path) as stream:
            while piece := source.read(_CHUNK):
                self.write(stream, piece)

    def write(self, stream: IO[bytes], piece: bytes | bytearray) -> None:
        """Write on, within what was announced: a header may have told less."""
        self.written += len(piece)
        if self.written > self._most:
            self.refuse(f"it unpacks to more than {self._most:,} bytes")
        with writing(self._folder):
            stream.write(piece)
        self._each(len(piece))

    def _placed(self, name: str) -> PurePosixPath | None:
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            self.refuse(f"it has more than {_MAX_ENTRIES:,} entries")
        if name in (".", "./"):
            return None
        try:
            path = inner_path(name)
        except ValueError as error:
            self.refuse(str(error))
        return None if _JUNK & set(path.parts) else self._place(path)

    def _claim(self, path: PurePosixPath) -> None:
        """Hold the names of ``path``: on some file systems Readme and README are one file."""
        for each in (path, *path.parents[:-1]):
            known = self._names.setdefault(unicodedata.normalize("NFC", str(each)).casefold(), each)
            if known != each:
                self.refuse(f"{str(each)!r} and {str(known)!r} differ in case alone")
        for each in path.parents[:-1]:
            if each in self._files:
                self.refuse(f"{str(each)!r} is a file and a folder")
            self._folders.add(each)

    def _made(self, path: PurePosixPath) -> Path:
        full = self._folder / path
        if path.parent not in self._there:
            with writing(full.parent):
                full.parent.mkdir(parents=True, exist_ok=True)
            self._there.add(path.parent)
        return full


def _created(path: Path) -> IO[bytes]:
    with writing(path):
        return path.open("wb")  # over what another archive of the same dataset brought: a licence, say


def _unpack_zip(archive: Path, target: _Target) -> None:
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            mode = entry.external_attr >> 16
            if entry.is_dir() or entry.filename.endswith("\\"):
                target.directory(entry.filename)
                continue
            odd = bool(stat.S_IFMT(mode)) and not stat.S_ISREG(mode)
            path = target.file(entry.filename, entry.file_size, "a link or device" if odd else "")
            if path is None:
                continue
            if entry.flag_bits & 1:
                target.refuse(f"{entry.filename!r} is under a password")
            with opened.open(entry) as source:
                target.copy(source, path)


class _Unzipped:
    """A compressed stream that is read on only as far as it is allowed to."""

    def __init__(self, stream: IO[bytes], target: _Target) -> None:
        self.allowed = 0
        self._stream, self._target = stream, target

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(size)
        self.allowed -= len(piece)
        if self.allowed < 0:
            self._target.refuse("its headers are larger than any archive's")
        return piece


_DECODERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


def _unpack_tar(archive: Path, target: _Target) -> None:
    with archive.open("rb") as packed:
        head = packed.read(6)
        packed.seek(0)
        opener = next((opener for magic, opener in _DECODERS.items() if head.startswith(magic)), None)
        with packed if opener is None else opener(packed) as stream:
            counted = _Unzipped(stream, target)
            counted.allowed = _MAX_HEADERS
            with tarfile.open(fileobj=counted, mode="r|") as opened:  # type: ignore[call-overload]
                while (entry := opened.next()) is not None:
                    # A member that is left out is read over; the next header comes after that.
                    counted.allowed = entry.size + _MAX_HEADERS
                    if entry.isdir():
                        target.directory(entry.name)
                        continue
                    kind = "" if entry.isreg() else "a link" if entry.issym() or entry.islnk() else "a device"
                    path = target.file(entry.name, entry.size, kind)
                    source = None if path is None else opened.extractfile(entry)
                    if path is not None and source is not None:
                        target.copy(source, path)
                    opened.members.clear()  # nothing comes back to a member; a list of them would grow
            # To the end, where gzip and xz have their checksums. Only zeros come there: at a header that it cannot read
            # tarfile stops as at the end.
            counted.allowed = _MAX_HEADERS
            while piece := counted.read(_CHUNK):
                if piece.count(0) != len(piece):
                    raise tarfile.ReadError("a header in it cannot be read")


def _unpack_7z(archive: Path, target: _Target) -> None:
    try:
        import py7zr
        from py7zr.io import Py7zIO, WriterFactory
    except ImportError as error:
        raise DependencyError(f"{archive}: needs py7zr; pip install 'lingbot-eval[fetch]'") from error

    class Written(Py7zIO):
        """One file, as py7zr writes it."""

        def __init__(self, path: Path) -> None:
            self._stream, self._size = _created(path), 0

        def write(self, s: bytes | bytearray) -> int:
            target.write(self._stream, s)
            self._size += len(s)
            return len(s)

        def read(self, size: int | None = None) -> bytes:
            return b""

        def seek(self, offset: int, whence: int = 0) -> int:
            return offset

        def flush(self) -> None:
            self._stream.flush()

        def size(self) -> int:
            return self._size

        def close(self) -> None:
            self._stream.close()

    class Factory(WriterFactory):
        def create(self, filename: str) -> Written:
            return Written(paths[filename])

    paths: dict[str, Path] = {}
    try:
        with py7zr.SevenZipFile(archive) as opened:
            if opened.needs_password():
                target.refuse("it is under a password")
            for entry in opened.list():
                if entry.is_directory:
                    target.directory(entry.filename)
                    continue
                kind = "" if entry.is_file else "a link or device"
                path = target.file(entry.filename, entry.uncompressed, kind)
                if path is not None:
                    paths[entry.filename] = path
            opened.extract(targets=list(paths), factory=Factory())
    except py7zr.exceptions.ArchiveError as error:
        raise DataError(f"{archive}: damaged 7z archive ({reason(error)}); fetch it again") from error
