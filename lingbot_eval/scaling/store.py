"""Where a scaling run goes on the disk, case by case: what is finished is kept, what was cut is run again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lingbot_eval.errors import StoreError
from lingbot_eval.runs.disk import PARTIAL_PREFIX, component, discard, sync_folder, sync_tree, writing
from lingbot_eval.runs.lock import LOCK_FILE, directory_lock
from lingbot_eval.runs.serialisation import read_record, write_record
from lingbot_eval.scaling.records import CaseRecord, ScaleRecord
from lingbot_eval.scaling.samples import SAMPLES_FILE

SCALE_FILE, CASE_FILE, CASES = "scale.json", "case.json", "cases"


class ScaleStore:
    """One scaling run's directory (layout: scaling/records.py). Writers hold :meth:`lock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root_made = False

    @classmethod
    def create(cls, root: Path, record: ScaleRecord) -> ScaleStore:
        """``ROOT/NAME-KEY``, made or found again; an existing record stays as it is until ``write``.

        Raises StoreError when it cannot be made or holds another run.
        """
        store = cls(root / f"{component(record.name)}-{component(record.key[:12])}")
        store._root_made = not root.exists()
        with writing(store.path):
            (store.path / CASES).mkdir(parents=True, exist_ok=True)
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
        """Be the only writer for the block; what killed writers left is removed first. Raises StoreError."""
        with directory_lock(self.path):
            for folder in list((self.path / CASES).glob(f"{PARTIAL_PREFIX}*")):
                with writing(folder):
                    shutil.rmtree(folder)
            yield

    def discard(self) -> bool:
        """Remove the directory if it holds no result, and the folder of runs if it was made for it.

        Only for the holder of the lock. Returns whether it is gone.
        """
        gone = discard(self.path, CASES, SCALE_FILE, LOCK_FILE)
        if gone and self._root_made:
            with suppress(OSError):
                self.path.parent.rmdir()
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

    def finished(self, name: str) -> CaseRecord | None:
        """The result of a case that went well and whose samples are there; else None: it is to be run again."""
        try:
            record = self.read_case(name)
        except StoreError:
            return None
        return record if record.status == "ok" and (self.folder(name) / SAMPLES_FILE).is_file() else None

    def read_case(self, name: str) -> CaseRecord:
        """The result of a case. Raises StoreError when it is not there or damaged."""
        return read_record(self.folder(name) / CASE_FILE, CaseRecord)

    @contextmanager
    def writer(self, name: str) -> Iterator[Path]:
        """A folder for one case's files; it takes its final place when the block ends with ``case.json`` in it.

        An exception leaves the folder for whoever wants to see how far it came; the next start removes it.
        Raises StoreError when the disk refuses.
        """
        final = self.folder(name)
        partial = final.with_name(f"{PARTIAL_PREFIX}{final.name}")
        with writing(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        yield partial
        with writing(final):
            sync_tree(partial)
            # A result that is replaced is a failed one: between these two lines a kill loses nothing worth keeping.
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync_folder(final.parent)
