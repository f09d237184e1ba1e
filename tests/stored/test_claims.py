"""Claims: one holder while it lives, another once it is gone, whichever way it went."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from store_records import make_run_record

from lingbot_eval.errors import BusyError, StoreError
from lingbot_eval.runs.worker import admitted, first_alone, present
from lingbot_eval.stored import lock as module
from lingbot_eval.stored.lock import CLAIMS, STALE_S, Claims, directory_lock, read_claims, writer_of
from lingbot_eval.stored.store import RunStore

UNIT = ("tum", "a/b", "method")


def file_of_unit(run: Path) -> Path:
    (found,) = (run / CLAIMS).glob("unit-*")
    return found


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        token = one.take(UNIT)
        assert token is not None
        assert other.take(UNIT) is None
        assert other.take(("tum", "a", "b/method")) is not None
        # Names that run into each other are other units.
        assert None not in [one.take(names) for names in (("a-b", "c", "d"), ("a", "b-c", "d"), ("a/b", "c", "d"))]
        one.release(UNIT)
        assert other.take(UNIT) not in (None, token)
        (unit,) = (holder for holder in read_claims(tmp_path) if holder.names == UNIT)
        assert (unit.pid, unit.ended) == (os.getpid(), False)
    assert not (tmp_path / CLAIMS).exists()


@pytest.fixture
def threads_that_switch_often() -> Iterator[None]:
    """So often that a race of a few microseconds is run into within a few rounds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_that_switch_often")
@pytest.mark.parametrize("round", range(20))
def test_of_many_that_try_at_once_one_has_it(tmp_path: Path, round: int) -> None:
    with Claims(tmp_path) as dead:
        dead.take(UNIT)
        change(file_of_unit(tmp_path), born="of another process")
        with Claims(tmp_path) as living:
            tokens: list[str | None] = []
            threads = [threading.Thread(target=lambda: tokens.append(living.take(UNIT))) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len([token for token in tokens if token]) == 1


def test_whoever_died_while_taking_over_stops_nobody(tmp_path: Path) -> None:
    with Claims(tmp_path) as dead:
        dead.take(UNIT)
        path = file_of_unit(tmp_path)
        change(path, born="of another process")
        mark = path.with_name(f"gone-{path.name}")
        mark.touch()
        with Claims(tmp_path) as living:
            assert living.take(UNIT) is None, "somebody may be at it"
            os.utime(mark, (1, time.time() - STALE_S - 10))
            assert living.take(UNIT) is not None
        assert not mark.exists()


def test_a_process_that_was_killed_is_known_to_be_gone(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from lingbot_eval.stored.lock import Claims\n"
        f"Claims(Path(sys.argv[1])).__enter__().take({UNIT}); os.kill(os.getpid(), 9)"
    )
    with Claims(tmp_path) as mine:
        killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
        assert killed.returncode == -9
        assert len(list((tmp_path / CLAIMS).iterdir())) == 3
        assert [holder.pid for holder in read_claims(tmp_path)] == [os.getpid()]
        assert mine.take(UNIT) is not None


def test_a_process_that_nobody_has_reaped_is_gone_as_well(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as other:
        other.take(UNIT)
        with subprocess.Popen(["/bin/sleep", "600"]) as ended:
            born = module._born(ended.pid)
            ended.kill()
            os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
            change(file_of_unit(tmp_path), pid=ended.pid, born=born)
            assert mine.take(UNIT) is not None


def test_a_holder_that_lives_after_all_keeps_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heartbeat comes between the look at its age and the removal."""
    with Claims(tmp_path) as far, Claims(tmp_path) as near:
        far.take(UNIT)
        path = file_of_unit(tmp_path)
        change(path, system="another boot")
        os.utime(path, (1, 1))
        read, looks = module._read, []

        def read_late(path: Path) -> object:
            looks.append(path)
            if len(looks) == 2:
                os.utime(path)
            return read(path)

        monkeypatch.setattr(module, "_read", read_late)
        assert near.take(UNIT) is None
        assert path.exists()


def test_a_run_begins_by_the_clock_of_its_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    with Claims(tmp_path) as mine:
        (own,) = (tmp_path / CLAIMS).iterdir()
        assert mine.begun_ns == own.stat().st_mtime_ns


@pytest.mark.parametrize("elsewhere", [{"system": "another boot"}, {"system": "", "born": "", "host": "far"}])
def test_another_host_has_its_time(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    with Claims(tmp_path) as far, Claims(tmp_path) as near:
        far.take(UNIT)
        path = file_of_unit(tmp_path)
        change(path, **elsewhere)
        fresh = time.time() - STALE_S + 20
        os.utime(path, (fresh, fresh))
        assert UNIT in [holder.names for holder in read_claims(tmp_path)]
        assert near.take(UNIT) is None
        old = time.time() - STALE_S - 20
        os.utime(path, (old, old))
        assert UNIT not in [holder.names for holder in read_claims(tmp_path)]
        assert near.take(UNIT) is not None
        # The one that was taken for gone gives back what is no longer its own, and the other keeps it.
        far.release(UNIT)
        assert far.take(UNIT) is None


def test_the_heartbeat_keeps_what_is_held_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    with Claims(tmp_path) as mine:
        mine.take(UNIT)
        path = file_of_unit(tmp_path)
        os.utime(path, (1, 1))
        until = time.monotonic() + 10
        while path.stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.02)
        assert path.stat().st_mtime > 2
        path.rename(path.with_name("gone"))
        path.write_text("another's")
        os.utime(path, (1, 1))
        time.sleep(0.2)
        assert path.stat().st_mtime == 1
        mine.release(UNIT)
        assert path.read_text() == "another's"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"names": 3}', "9" * 5000, '{"names": [], "pid": "x"}'])
def test_a_claim_that_says_nothing_is_held_until_it_is_old(tmp_path: Path, text: str) -> None:
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        one.take(UNIT)
        path = file_of_unit(tmp_path)
        path.write_text(text)
        assert other.take(UNIT) is None
        assert UNIT not in [holder.names for holder in read_claims(tmp_path)]
        os.utime(path, (1, 1))
        assert other.take(UNIT) is not None


def test_one_alone_or_several_together(tmp_path: Path) -> None:
    with directory_lock(tmp_path, shared=True), directory_lock(tmp_path, shared=True), Claims(tmp_path):
        assert str(writer_of(tmp_path)).startswith(f"process {os.getpid()} on ")
        with pytest.raises(BusyError, match=f"being written by process {os.getpid()} on"), directory_lock(tmp_path):
            pass
    with directory_lock(tmp_path), pytest.raises(BusyError), directory_lock(tmp_path, shared=True):
        pass
    # Where locks do not reach another host, its claims do.
    with Claims(tmp_path), pytest.raises(BusyError), directory_lock(tmp_path):
        pass
    assert writer_of(tmp_path) is None


@pytest.mark.parametrize(("count", "more"), [(4, ""), (5, " and 1 more"), (6, " and 2 more")])
def test_of_many_that_share_a_run_four_are_named(tmp_path: Path, count: int, more: str) -> None:
    with ExitStack() as stack:
        for _ in range(count):
            # What it is at is a unit, and no process more.
            stack.enter_context(Claims(tmp_path)).take((f"unit {_}",))
        words = str(writer_of(tmp_path))
        here = re.escape(f"process {os.getpid()} on {socket.gethostname()} since ") + r"\d{4}-[-:\dT]{14}\+00:00"
        assert re.fullmatch(f"{here}(, {here}){{3}}{more}", words)


def test_a_claim_outlives_several_beats_and_dies_within_minutes() -> None:
    assert 4 * module.BEAT_S <= STALE_S <= 300


@pytest.mark.parametrize("ahead_s", [-1000.0, 1000.0])
def test_hosts_need_not_have_one_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """What a host of another time takes for dead, or for alive, the file system knows better."""
    with Claims(tmp_path) as far:
        far.take(UNIT)
        for path in (tmp_path / CLAIMS).iterdir():
            change(path, system="another boot")
        here = time.time
        monkeypatch.setattr(time, "time", lambda: here() + ahead_s)
        with pytest.raises(BusyError), directory_lock(tmp_path):
            pass
        for path in (tmp_path / CLAIMS).iterdir():
            os.utime(path, (1, here() - STALE_S - 10))
        with directory_lock(tmp_path):
            pass


def test_a_folder_of_claims_that_somebody_removes_is_made_again(tmp_path: Path) -> None:
    with Claims(tmp_path) as one:
        shutil.rmtree(tmp_path / CLAIMS)  # as the last to go does while another comes
        assert one.take(UNIT) is not None
        with Claims(tmp_path) as other:
            assert other.take(UNIT) is None
    assert not (tmp_path / CLAIMS).exists()


def test_who_was_taken_for_gone_joins_again(tmp_path: Path) -> None:
    """As after a long sleep of its whole machine."""
    with Claims(tmp_path) as slept:
        (own,) = (tmp_path / CLAIMS).iterdir()
        with Claims(tmp_path) as other:
            other.take(UNIT)
            own.unlink()
            assert len([holder for holder in read_claims(tmp_path) if not holder.names]) == 1
            assert slept.take(UNIT) is None
            assert len([holder for holder in read_claims(tmp_path) if not holder.names]) == 2
            assert not own.exists()
        assert slept.take(UNIT) is not None
    assert not (tmp_path / CLAIMS).exists()


def test_the_next_to_lock_removes_what_the_dead_left(tmp_path: Path) -> None:
    RunStore.create(tmp_path, make_run_record())
    (run,) = tmp_path.iterdir()
    (run / CLAIMS).mkdir()
    dead = {"host": "here", "system": "", "born": "", "token": "t", "since": "then", "pid": 1, "names": []}
    for name, text in (("process-dead", json.dumps(dead)), ("unit-torn", "{"), ("gone-x", "")):
        path = run / CLAIMS / name
        path.write_text(text)
        os.utime(path, (1, 1))
    with RunStore(run).lock():
        assert not (run / CLAIMS).exists()


def test_claims_are_not_made_through_a_link(tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    run.mkdir()
    mine.mkdir()
    (run / CLAIMS).symlink_to(mine)
    with pytest.raises(StoreError) as refused, Claims(run):
        pass
    assert str(refused.value) == f"{run}/.claims: expected a folder of this run, found a symbolic link; remove it"
    assert list(mine.iterdir()) == []


def test_a_claim_that_the_disk_refuses_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StoreError, match="No space left on device"):
                one.take(UNIT)
        assert other.take(UNIT) is not None


def test_the_next_to_lock_leaves_what_a_living_process_writes(tmp_path: Path) -> None:
    """Where locks do not reach its host."""
    store = RunStore.create(tmp_path, make_run_record(units=[list(UNIT)]))
    with Claims(store.path) as far:
        (process,) = (store.path / CLAIMS).iterdir()
        token = far.take(UNIT)
        process.unlink()
        folders = [store.folder(*UNIT).with_name(f".partial-{name}") for name in (token, "dead")]
        for folder in folders:
            folder.mkdir(parents=True)
        with store.lock():
            assert [folder.exists() for folder in folders] == [True, False]
            assert [holder.names for holder in read_claims(store.path)] == [UNIT], "and what it has claimed"


class ShutError(Exception):
    pass


def test_timed_units_are_alone_on_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def refuse(seconds: float) -> None:
        raise ShutError

    both = admitted(alone=False, wait=refuse), admitted(alone=False, wait=refuse)
    with both[0], both[1], pytest.raises(ShutError), admitted(alone=True, wait=refuse):
        pass
    with admitted(alone=True, wait=refuse):
        for alone in (True, False):
            with pytest.raises(ShutError), admitted(alone=alone, wait=refuse):
                pass


def test_who_else_was_there_is_counted_whenever_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with present() as before:
        with present() as mine:
            assert (before(), mine()) == (1, 1)
            for _ in range(2):
                with present():
                    pass
            assert mine() == 3
        assert before() == 3
    with present() as later:
        assert later() == 0
    (folder,) = tmp_path.iterdir()
    assert (folder.stat().st_mode & 0o777, list((folder / "units").iterdir())) == (0o700, [])


def test_who_was_killed_at_a_unit_is_not_beside_those_that_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with present():
        pass
    (folder,) = tmp_path.iterdir()
    left = folder / "units" / "0123456789abcdef"
    left.touch()  # nobody has it locked
    with present() as mine:
        assert mine() == 0
        assert not left.exists()


@pytest.mark.parametrize("there", ["a link", "another's"])
def test_a_shared_folder_that_somebody_else_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """Where temporary files lie, everybody may write."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = tmp_path / "mine"
    mine.mkdir()
    if there == "a link":
        (tmp_path / f"lingbot-eval-{os.getuid()}").symlink_to(mine)
    else:
        user = os.getuid() + 1
        (tmp_path / f"lingbot-eval-{user}").mkdir()
        monkeypatch.setattr(os, "getuid", lambda: user)
    words = "expected a folder of this user, found another's; set TMPDIR to a folder of yours"
    for used in (present(), admitted(alone=True, wait=time.sleep), first_alone("kernels")):
        with pytest.raises(StoreError, match=words), used:
            pass
    assert not list(mine.iterdir())


def test_the_first_is_alone_and_later_ones_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    order: list[str] = []

    def second() -> None:
        with first_alone("kernels"):
            order.append("second")

    with pytest.raises(ShutError), first_alone("kernels"):
        raise ShutError  # what failed was not done
    with first_alone("kernels"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    with first_alone("kernels"), first_alone("kernels"):
        pass
