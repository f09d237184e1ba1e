"""The run store under a killed process, a second writer, a full disk and a read-only directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_records import NAMES, make_run_record, make_unit_record

from lingbot_eval.errors import StoreError
from lingbot_eval.stored.lock import LOCK_FILE, writer_of
from lingbot_eval.stored.store import RunStore

HERE = Path(__file__).parent

HOLD_AND_WRITE = """
import sys, time
from pathlib import Path
from store_records import NAMES
from lingbot_eval.stored.store import RunStore

store = RunStore.open(Path(sys.argv[1]))
with store.lock(), store.unit_writer(*NAMES) as writer:
    for index in range(1000):
        writer.append_row({"index": index, "timestamp": float(index)})
    print("writing", flush=True)
    time.sleep(60)
"""

# RLIMIT_FSIZE makes the kernel refuse every byte past the limit, as a full disk does.
WRITE_PAST_LIMIT = """
import resource, signal, sys
from pathlib import Path
from store_records import NAMES, make_unit_record
from lingbot_eval.errors import StoreError
from lingbot_eval.stored.store import RunStore

store = RunStore.open(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    with store.unit_writer(*NAMES) as writer:
        for index in range(int(sys.argv[3])):
            writer.append_row({"index": index, "timestamp": float(index)})
        writer.finish(make_unit_record())
except StoreError as error:
    print(error)
"""


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path, make_run_record())


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=HERE, stdout=subprocess.PIPE, text=True)


def partials(store: RunStore) -> list[Path]:
    return list(store.path.glob("units/*/*/.partial-*"))


def test_a_second_process_hears_who_holds_the_lock_and_a_kill_releases_it(store: RunStore) -> None:
    with start(HOLD_AND_WRITE, str(store.path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "writing\n"
        with pytest.raises(StoreError, match=f"process {holder.pid} on .* since ") as caught, store.lock():
            pass
        assert "\n" not in str(caught.value)
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
    assert len(partials(store)) == 1
    assert store.read_units().units == ()
    assert store.read_units().missing == (NAMES,)
    with store.lock():
        assert partials(store) == []


def test_the_lock_is_free_again_after_use_and_after_a_failure(store: RunStore) -> None:
    with pytest.raises(KeyError), store.lock():
        raise KeyError
    with store.lock(), pytest.raises(StoreError, match=f"process {os.getpid()} "), store.lock():
        pass
    with store.lock():
        pass


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where clocks are nine hours ahead."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "XST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_a_holder_whose_words_are_shorter_than_the_last_one_s_is_named_all_the_same(store: RunStore) -> None:
    """With the time as records state it, which is that of no place."""
    (store.path / LOCK_FILE).write_text(json.dumps({"pid": 1, "host": "h" * 300, "since": "then"}))
    with store.lock():
        words = f"process {os.getpid()} on {socket.gethostname()} since "
        assert re.fullmatch(re.escape(words) + r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", str(writer_of(store.path)))


def test_two_readers_are_no_writers(store: RunStore) -> None:
    with store.lock():
        pass
    held = [os.open(path, os.O_RDONLY) for path in (store.path, store.path / LOCK_FILE)]
    try:
        for descriptor in held:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # as another reader does for a moment
        assert writer_of(store.path) is None
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_a_writer_waits_for_a_reader_that_looks_who_writes(store: RunStore) -> None:
    looking = os.open(store.path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    gone = threading.Timer(0.05, os.close, [looking])
    gone.start()
    with store.lock():
        assert writer_of(store.path) is not None
    gone.join()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_stays_locked_when_its_lock_file_goes(store: RunStore, *, replaced: bool) -> None:
    """Somebody takes the file of a running command for a leftover, and starts another."""
    with store.lock():
        (store.path / LOCK_FILE).unlink()
        if replaced:
            (store.path / LOCK_FILE).touch()
        assert writer_of(store.path) is not None
        with pytest.raises(StoreError, match="being written by"), store.lock():
            pass
    with store.lock():
        pass


def test_a_lock_file_that_was_replaced_while_it_was_waited_for_is_not_the_lock(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where directories cannot be locked (NFS) the file is the lock: the one that has its name, not the one opened."""
    flock, open_, others = fcntl.flock, os.open, []

    def no_folders(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    def replaced_after(path: Path, *arguments: int) -> int:
        descriptor = open_(path, *arguments)
        if path == store.path / LOCK_FILE and not others:
            path.unlink()
            others.append(open_(path, os.O_RDWR | os.O_CREAT))
            flock(others[0], fcntl.LOCK_EX)
        return descriptor

    monkeypatch.setattr("lingbot_eval.stored.lock.fcntl.flock", no_folders)
    monkeypatch.setattr("lingbot_eval.stored.lock.os.open", replaced_after)
    with pytest.raises(StoreError, match="being written by another process"), store.lock():
        pass
    os.close(others[0])
    with store.lock():
        pass


@pytest.mark.parametrize(
    ("number", "lacks", "named", "words"),
    [
        (errno.ENOLCK, "folders and files", LOCK_FILE, "No locks available"),
        (errno.ENOLCK, "files", LOCK_FILE, "No locks available"),
        (errno.EIO, "folders and files", "", "Input/output error"),
    ],
)
def test_where_nothing_can_be_locked_nothing_is_written(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, number: int, lacks: str, named: str, words: str
) -> None:
    """A folder alone may be without: its file is the lock then."""
    flock = fcntl.flock

    def lacking(descriptor: int, operation: int) -> None:
        if "folders" in lacks or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flock(descriptor, operation)

    monkeypatch.setattr("lingbot_eval.stored.lock.fcntl.flock", lacking)
    with pytest.raises(StoreError) as refused, store.lock():
        pass
    place = store.path / named
    assert str(refused.value) == f"cannot lock {place}: {words}; choose a folder on a file system that supports locks"
    assert writer_of(store.path) is None


def test_a_unit_is_on_the_disk_before_it_is_in_its_place(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a unit is whole or not there: the system may write a rename before what was renamed."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def moved(source: Path, target: Path) -> None:
        done.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", moved)
    with store.unit_writer(*NAMES) as writer:
        writer.append_row({"index": 0})
        partial = writer.path("x").parent.name
        writer.finish(make_unit_record())
    before = done[: done.index("renamed")]
    assert {"frames.csv", "result.json", partial} <= set(before)
    assert done[-1] == "desk"  # the folder that the unit is in now


@pytest.mark.parametrize("fate", ["another process is replacing it, too", "the answer to the rename was lost"])
def test_a_unit_comes_to_its_place_whoever_else_is_at_it(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    rename, final = Path.rename, store.folder(*NAMES)

    def renamed(self: Path, target: Path) -> Path:
        if fate.startswith("another") and self == final:
            rename(self, self.with_name("gone"))  # a moment before us
        moved = rename(self, target)
        if fate.startswith("the answer") and target == final:
            rename(self, target)  # a network file system asks again
        return moved

    for _ in range(2):  # the second replaces the first
        with store.unit_writer(*NAMES) as writer:
            writer.finish(make_unit_record())
        monkeypatch.setattr(Path, "rename", renamed)
    assert store.read_unit(*NAMES).record == make_unit_record().model_copy(
        update={name: getattr(store.read_unit(*NAMES).record, name) for name in ("files", "run_key")}
    )


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EEXIST])
def test_where_another_process_was_first_its_unit_stays_and_ours_leaves_nothing(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    rename, final = Path.rename, store.folder(*NAMES)

    def renamed(self: Path, target: Path) -> Path:
        if target != final:
            return rename(self, target)
        monkeypatch.undo()
        with store.unit_writer(*NAMES) as other:
            other.finish(make_unit_record(input_fingerprint="theirs"))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rename", renamed)
    with store.unit_writer(*NAMES) as writer:
        writer.finish(make_unit_record(input_fingerprint="ours"))
    assert store.read_unit(*NAMES).record.input_fingerprint == "theirs"
    assert partials(store) == []


@pytest.mark.parametrize(("limit", "rows"), [("200", "3"), ("2000", "100"), ("20000", "5000")])
def test_a_full_disk_is_one_line_and_leaves_nothing(store: RunStore, limit: str, rows: str) -> None:
    with start(WRITE_PAST_LIMIT, str(store.path), limit, rows) as writer:
        text, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert text.count("\n") == 1
    assert text.startswith("cannot write")
    assert "File too large" in text
    assert partials(store) == []
    assert store.read_units().units == ()


def test_a_run_whose_first_record_the_disk_refuses_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match="No space left"):
        RunStore.create(tmp_path / "runs", make_run_record())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
def test_a_refusal_at_any_step_keeps_the_older_result(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with store.unit_writer(*NAMES) as writer:
        writer.finish(make_unit_record())

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with (
            pytest.raises(StoreError, match="No space left on device; free space"),
            store.unit_writer(*NAMES) as writer,
        ):
            writer.finish(make_unit_record(input_fingerprint="input-2"))
    assert partials(store) == []
    assert store.read_unit(*NAMES).record.input_fingerprint == "input-1"


def test_a_unit_whose_table_cannot_be_begun_leaves_nothing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(StoreError, match="No space left on device"), store.unit_writer(*NAMES):
            pass
    assert partials(store) == []


def test_a_failed_second_rename_puts_the_older_result_back(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.unit_writer(*NAMES) as writer:
        writer.finish(make_unit_record())
    real, calls = os.rename, []

    def refuse_the_second(source: Path, target: Path, **keywords: object) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse_the_second)
        with pytest.raises(StoreError), store.unit_writer(*NAMES) as writer:
            writer.finish(make_unit_record(input_fingerprint="input-2"))
    assert store.read_unit(*NAMES).record.input_fingerprint == "input-1"
    assert partials(store) == []


def test_a_read_only_file_system_is_one_line(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # Such a file system refuses every call that would change it, removing what is not there included.
    def refuse(*_args: object, **_keywords: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        for call in ("unlink", "mkdir", "rename", "replace"):
            patch.setattr(os, call, refuse)
        patch.setattr("io.open", refuse)
        with pytest.raises(StoreError, match="Read-only file system"):
            store.write_run(make_run_record())
    assert store.read_run() == make_run_record()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_is_one_line(store: RunStore) -> None:
    store.path.chmod(0o500)
    try:
        for attempt in (store.lock, lambda: store.unit_writer(*NAMES)):
            with pytest.raises(StoreError, match="Permission denied"), attempt():
                pass
    finally:
        store.path.chmod(0o700)


def test_a_file_where_the_run_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write"):
        RunStore.create(tmp_path / "runs", make_run_record())
