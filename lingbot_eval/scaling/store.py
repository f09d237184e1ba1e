"""Where a scaling run goes on the disk, case by case: what is finished and sound is kept, the rest is run again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lingbot_eval.errors import StoreError
from lingbot_eval.runs.disk import (
    PARTIAL_PREFIX,
    component,
    damage,
    discard,
    folders_below,
    lost_record,
    missing_folders,
    move_into_place,
    refuse_links,
    remove_empty,
    remove_partials,
    writing,
    written_files,
)
from lingbot_eval.runs.lock import LOCK_FILE, directory_lock
from lingbot_eval.runs.serialisation import read_record, write_record
from lingbot_eval.scaling.records import CaseRecord, ScaleRecord
from lingbot_eval.scaling.samples import SAMPLES_FILE

SCALE_FILE, CASE_FILE, CASES = "scale.json", "case.json", "cases"


class ScaleStore:
    """One scaling run's directory (layout: scaling/records.py). Writers hold :meth:`lock`.

    lost_record: a line where the record was gone though cases were there when it was made or found again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: tuple[Path, ...] = ()
        self.lost_record: str | None = None

    @classmethod
    def create(cls, root: Path, record: ScaleRecord) -> ScaleStore:
        """``ROOT/NAME-KEY``, made or found again; an existing record stays as it is until ``write``.

        Raises StoreError when it cannot be made or holds another run.
        """
        store = cls(root / f"{component(record.name)}-{component(record.key[:12])}")
        store._made = missing_folders(store.path.parent)
        with writing(store.path):
            (store.path / CASES).mkdir(parents=True, exist_ok=True)
        store.lost_record = lost_record(store.path / SCALE_FILE, CASES)
        if not (store.path / SCALE_FILE).exists():
            with directory_lock(store.path):
                # Another process may have been first.
                if not (store.path / SCALE_FILE).exists():
                    store.write(record)
        found = store.read()
        if found.key != record.key:
            raise StoreError(
                f"{store.path}: expected run {record.key}, found run {found.key}; choose another folder for the runs"
            )
        return store

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer for the block; what killed writers left is removed first.

        Raises StoreError, also when a link stands where cases go.
        """
        with directory_lock(self.path):
            remove_partials(self.path, CASES, 1)
            yield

    def discard(self) -> bool:
        """Remove the directory if it holds no result, and the folders above that were made for it.

        Only for the holder of the lock. Returns whether it is gone.
        """
        gone = discard(self.path, CASES, SCALE_FILE, LOCK_FILE)
        if gone:
            remove_empty(self._made)
        return gone

    def write(self, record: ScaleRecord) -> None:
        """Write or replace ``scale.json``. Raises StoreError."""
        write_record(self.path / SCALE_FILE, record)

    def read(self) -> ScaleRecord:
        """The run's record. Raises StoreError naming the file when it is damaged."""
        return read_record(self.path / SCALE_FILE, ScaleRecord)

    def folder(self, name: str) -> Path:
        """Where a case's files are when it is finished."""
        return self.path / CASES / component(name)

    def find_case(self, name: str) -> CaseRecord | str | None:
        """The result of a case; why it is left out and to be run again; or None when there is nothing of it."""
        folder = self.folder(name)
        if not (folder.exists() or folder.is_symlink()):
            return None
        try:
            return self.read_case(name)
        except StoreError as error:
            return str(error)

    def read_case(self, name: str) -> CaseRecord:
        """The result of a case. Raises StoreError when it is not there, damaged, or of another study or case."""
        folder = self.folder(name)
        refuse_links(self.path, folder)
        file = folder / CASE_FILE
        record, key = read_record(file, CaseRecord), self.read().key
        if record.run_key != key or record.name != name:
            whose = f"case {record.name} of study {record.run_key[:12] or 'unknown'}"
            raise StoreError(f"{file}: expected case {name} of study {key[:12]}, found {whose}; run the case again")
        damaged = damage(folder, record.files)
        if damaged or SAMPLES_FILE not in record.files:
            what = "; ".join(damaged) or f"{file} is damaged: it does not list {SAMPLES_FILE}"
            raise StoreError(f"{what}; run the case again")
        return record

    def unplanned(self) -> tuple[str, ...]:
        """A line for everything among the cases that the study does not have. Raises StoreError."""
        planned = {self.folder(name) for name in self.read().cases}
        found = [folder for folder in folders_below(self.path / CASES, 1) if folder not in planned]
        return tuple(f"{folder} is no case of this study and is left out; remove it" for folder in found)

    @contextmanager
    def writer(self, name: str) -> Iterator[CaseWriter]:
        """Writes one case; only its ``finish`` makes anything visible, an older result is replaced.

        An exception leaves the partial folder for whoever wants to see how far it came; the next start removes it.
        Raises StoreError when the disk refuses or a link stands in a folder's place.
        """
        final = self.folder(name)
        refuse_links(self.path, final)
        partial = final.with_name(f"{PARTIAL_PREFIX}{final.name}")
        with writing(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        yield CaseWriter(partial, final, self.read().key)


class CaseWriter:
    """One case in the making; made by ``ScaleStore.writer``. folder: for its files."""

    def __init__(self, folder: Path, final: Path, run_key: str) -> None:
        self.folder = folder
        self._final = final
        self._run_key = run_key

    def finish(self, record: CaseRecord) -> None:
        """Write ``case.json`` and put the case in its final place in one rename. Raises StoreError."""
        with writing(self._final):
            files = written_files(self.folder)
        write_record(self.folder / CASE_FILE, record.model_copy(update={"files": files, "run_key": self._run_key}))
        with writing(self._final):
            move_into_place(self.folder, self._final)
