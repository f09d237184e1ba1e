"""Fetching a dataset from the official addresses on its card into the layout that its adapter reads.

Under the root one hidden folder, `WORK`, holds what is on its way and the record of what came: a part of the dataset
is unpacked there and moved into its place when it is whole.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.cards import PART, Card, DownloadFile
from lingbot_eval.errors import ConfigError, DataError, StoreError, reason
from lingbot_eval.files.archives import ARCHIVES, Place, unpack, unpacked_limit
from lingbot_eval.files.atomic import temporary_folder, write_text
from lingbot_eval.files.downloads import HUB, check_file, download, file_sha256, from_hub, stated_size
from lingbot_eval.files.json_documents import read_json
from lingbot_eval.settings import StrictModel, nearest, validated

WORK = ".lingbot-eval-fetch"
RECORD = "record.json"
_ASKING = 8  # sizes at a time: a dataset may have a hundred files

FetchProgress = Callable[[str, int, int | None], object]
"""Told what is being done, and the bytes that are done and to be done (None: not known)."""


@dataclass(frozen=True)
class Source:
    """One address. parts: those that need it. size: bytes, None where nobody says. part: the one that its name has."""

    file: DownloadFile = field(compare=False)
    url: str
    parts: tuple[str, ...]
    size: int | None
    checksum: str | None
    part: str | None

    @property
    def name(self) -> str:
        """What the file is called."""
        return PurePosixPath(urlsplit(self.url).path).name or "file"

    def place(self, wanted: Iterable[str]) -> Place:
        """Where under the root what is in it goes, of the parts that are wanted."""
        inside, into = (
            PurePosixPath((path or ".").replace(PART, self.part or "")) for path in (self.file.inside, self.file.into)
        )
        parts = tuple(wanted)

        def place(path: PurePosixPath) -> PurePosixPath | None:
            placed = into / (path.relative_to(inside) if path.is_relative_to(inside) else path)
            if self.file.without is not None and fnmatch.fnmatchcase(str(placed), self.file.without):
                return None
            return placed if any(placed.is_relative_to(part) for part in parts) else None

        return place


@dataclass(frozen=True)
class FetchPlan:
    """What is to be fetched. parts: folders under ``root`` that will appear; there: those that are there already."""

    card: Card
    root: Path
    parts: tuple[str, ...]
    there: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def size(self) -> int:
        """Bytes to be downloaded, without those whose size nobody says."""
        return sum(source.size or 0 for source in self.sources)

    @property
    def unknown(self) -> int:
        """How many files have no known size."""
        return sum(source.size is None for source in self.sources)


class _FetchedFile(StrictModel):
    size: int
    sha256: str
    when: str


class _FetchedPart(StrictModel):
    files: int
    bytes: int


class _Record(BaseModel):
    """What came, by address and by part."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    files: dict[str, _FetchedFile] = {}
    parts: dict[str, _FetchedPart] = {}


def plan_fetch(card: Card, root: Path, scenes: Iterable[str] = ()) -> FetchPlan:
    """Decide what is to be fetched; the server is asked only for sizes that the card does not have.

    Args:
        card: the dataset's.
        root: folder of the dataset; need not exist.
        scenes: scenes or parts; those of the protocol if none is named.

    Raises:
        ConfigError: the dataset cannot be fetched by a command, or has no such scene.
        DataError: what was fetched before is not whole any more.
    """
    if card.download is None:
        raise ConfigError(f"{card.name} is nothing that can be fetched; its layout: {card.layout}")
    if not card.download.files:
        raise ConfigError(
            f"{card.name} cannot be fetched by a command: follow the steps of 'lingbot-eval datasets show {card.name}' "
            f"at {card.download.page}"
        )
    if root.exists() and not root.is_dir():
        raise ConfigError(f"root {root} is a file, expected a folder")
    record = _read_record(root)
    asked = _parts(card, tuple(scenes))
    there = tuple(part for part in asked if (root / part).exists())
    for part in there:
        _compare(root, part, record.parts.get(part))
    missing = tuple(part for part in asked if part not in there)
    hosts = card.download.hosts
    with ThreadPoolExecutor(_ASKING) as pool:
        sources = tuple(pool.map(lambda source: _sized(source, hosts), _sources(card, missing)))
    return FetchPlan(card, root, missing, there, sources)


def fetch(plan: FetchPlan, progress: FetchProgress = lambda what, done, total: None) -> None:
    """Fetch what the plan names; a part appears whole or not at all, and what is done stays done.

    Raises:
        DataError: a server refuses, or has another file than the card or an earlier fetch; an archive is damaged or
            refused.
        StoreError: the disk is full or refuses, or another process fetches into the same folder.
        DependencyError: a library of the extras ``fetch`` or ``hub`` is not installed.
    """
    if not plan.parts:
        return
    work = plan.root / WORK
    with _writing(work), _only_one(work):
        _refuse_too_little_space(plan)
        for left in work.glob("tmp*"):
            left.unlink()  # of a download that was killed while pooch compared hashes
        record = _read_record(plan.root)
        for parts, sources in _batches(plan):
            files = {source: _bring(plan, source, record, progress) for source in sources}
            with temporary_folder(work) as stage:
                for source, path in files.items():
                    try:
                        _lay_out(source, path, stage, parts, progress)
                    except DataError:
                        if not source.url.startswith(HUB):
                            path.unlink()  # what is wrong stays wrong
                        raise
                for part in parts:
                    _move(stage, plan.root, part, record)
            for source, path in files.items():
                if not source.url.startswith(HUB):
                    path.unlink()


def _parts(card: Card, scenes: tuple[str, ...]) -> tuple[str, ...]:
    """The parts that hold those scenes, or the scenes of the protocol, in the card's order."""
    assert card.download is not None
    known = tuple(dict.fromkeys(part for file in card.download.files for part in file.parts))

    def holding(scene: str) -> str | None:
        found = next((part for part in known if scene == part or scene.startswith(f"{part}/")), None)
        return known[0] if found is None and len(known) == 1 else found

    for scene in scenes:
        if holding(scene) is None:
            raise ConfigError(
                f"{card.name} has no scene {scene!r} to fetch{nearest(scene, known)}; there are: {', '.join(known)}"
            )
    wanted = {holding(scene) for scene in scenes or card.expected_scenes} - {None}
    return tuple(part for part in known if part in wanted) or known


def _sources(card: Card, parts: tuple[str, ...]) -> Iterator[Source]:
    assert card.download is not None
    for file in card.download.files:
        needed = tuple(part for part in file.parts if part in parts)
        for mine in [(part,) for part in needed] if PART in file.url else [needed] if needed else []:
            part = mine[0] if PART in file.url else None
            url = file.url.replace(PART, part or "")
            size = file.size.get(part or "") if isinstance(file.size, dict) else file.size
            checksum = file.checksum.get(part or "") if isinstance(file.checksum, dict) else file.checksum
            yield Source(file, url, mine, size, checksum, part)


def _sized(source: Source, hosts: Iterable[str]) -> Source:
    """With the size that the server says where the card has none."""
    if source.size is not None or source.url.startswith(HUB):
        return source
    return replace(source, size=stated_size(source.url, hosts))


def _batches(plan: FetchPlan) -> Iterator[tuple[tuple[str, ...], tuple[Source, ...]]]:
    """Parts that come from the same files, with these."""
    batches: dict[tuple[Source, ...], list[str]] = {}
    for part in plan.parts:
        batches.setdefault(tuple(source for source in plan.sources if part in source.parts), []).append(part)
    for sources, parts in batches.items():
        yield tuple(parts), sources


def _bring(plan: FetchPlan, source: Source, record: _Record, progress: FetchProgress) -> Path:
    """The file of an address, compared with what came from there before."""
    assert plan.card.download is not None
    if source.url.startswith(HUB):
        path = from_hub(source.url)
        check_file(path, source.url, source.size, source.checksum)
    else:
        # By address: two of them may end in the same name.
        digest = hashlib.sha256(source.url.encode()).hexdigest()[:8]
        path = plan.root / WORK / f"{digest}-{source.name}"
        download(
            source.url,
            path,
            size=source.size,
            checksum=source.checksum,
            hosts=plan.card.download.hosts,
            progress=lambda done, total: progress(source.name, done, total),
        )
    size = path.stat().st_size
    progress(f"hashing {source.name}", 0, size)
    now = _FetchedFile(size=size, sha256=file_sha256(path), when=datetime.now(UTC).isoformat(timespec="seconds"))
    before = record.files.setdefault(source.url, now)
    if before.sha256 != now.sha256:
        raise DataError(
            f"{source.url}: expected the file of {before.when} (SHA-256 {before.sha256}), found {now.sha256}: the "
            f"publisher changed it; to take the new one remove {plan.root / WORK} and what was fetched before"
        )
    return path


def _lay_out(source: Source, path: Path, stage: Path, parts: tuple[str, ...], progress: FetchProgress) -> None:
    """Unpack a file into the stage, archives inside it where they lie."""
    place = source.place(parts)
    what, done = f"unpacking {source.name}", 0

    def each(size: int) -> None:
        nonlocal done
        done += size
        progress(what, done, None)

    if source.file.kind is None:
        placed = place(PurePosixPath(source.name))
        if placed is not None:
            (stage / placed).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, stage / placed)
        return
    left = unpacked_limit(path.stat().st_size)
    left -= unpack(path, source.file.kind, stage, place, limit=left, each=each)
    if source.file.inner is None:
        return
    for inner in sorted(stage.rglob("*")):
        kind = ARCHIVES.get(inner.suffix.lower())
        if kind and inner.is_file() and fnmatch.fnmatchcase(str(inner.relative_to(stage)), source.file.inner):
            left -= unpack(inner, kind, inner.parent, lambda path: path, limit=left, each=each)
            inner.unlink()


def _move(stage: Path, root: Path, part: str, record: _Record) -> None:
    """Put a part in its place, recorded before it is there: one that is there is then known to be whole."""
    if not (stage / part).is_dir():
        found = ", ".join(sorted(path.name for path in stage.iterdir())[:8]) or "nothing of the parts that it should"
        raise DataError(f"{part}: expected this folder in the files of the card, found {found}; was it published anew?")
    record.parts[part] = _measured(stage / part)
    write_text(root / WORK / RECORD, record.model_dump_json(indent=1))
    (root / part).parent.mkdir(parents=True, exist_ok=True)
    (stage / part).rename(root / part)


def _measured(folder: Path) -> _FetchedPart:
    sizes = [os.lstat(Path(at, name)).st_size for at, _, names in os.walk(folder) for name in names]
    return _FetchedPart(files=len(sizes), bytes=sum(sizes))


def _compare(root: Path, part: str, before: _FetchedPart | None) -> None:
    """Raises DataError for a part of which something is gone; one that came by another way is nobody's business."""
    if before is None:
        return
    now = _measured(root / part)
    if now.files < before.files or now.bytes < before.bytes:
        raise DataError(
            f"{root / part}: expected the {before.files:,} files ({before.bytes:,} bytes) that were fetched, found "
            f"{now.files:,} ({now.bytes:,} bytes); remove it and fetch it again"
        )


def _read_record(root: Path) -> _Record:
    path = root / WORK / RECORD
    if not path.is_file():
        return _Record()
    try:
        return validated(_Record, read_json(path), str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected the record of what was fetched ({reason(error)}); remove it") from error


def _refuse_too_little_space(plan: FetchPlan) -> None:
    """Packed images hardly grow: room for all parts, and for the largest batch of archives beside them."""
    largest = max(sum(source.size or 0 for source in sources) for _, sources in _batches(plan))
    here = sum(path.stat().st_size for path in (plan.root / WORK).iterdir() if path.is_file())
    needed, free = plan.size + largest - here, shutil.disk_usage(plan.root).free
    if free < needed:
        raise StoreError(
            f"{plan.root}: expected {needed:,} bytes of room for archives and what is in them, found {free:,}; "
            "free space or name fewer scenes"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {error.filename or folder}: {reason(error)}; free space or choose another folder, "
            "then run again"
        ) from error


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """Raises StoreError while another process fetches into the same root."""
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems know no locks
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"{work.parent}: another process fetches into it; wait for its end") from error
        yield
    finally:
        os.close(folder)
