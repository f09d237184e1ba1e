"""One program as a method runs it: what its log, its end and its memory are said to be, and how long it is awaited."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from lingbot_eval.errors import ConfigError, DependencyError
from lingbot_eval.external import ProtocolError
from lingbot_eval.methods import child as module
from lingbot_eval.methods.child import Child

WAITS = "import time; time.sleep(60)"


class Start(Protocol):
    def __call__(self, code: str, *, pipe: bool = False, with_gpu: bool = False) -> Child: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python programs; they are ended with the test."""
    begun: list[Child] = []

    def started(code: str, *, pipe: bool = False, with_gpu: bool = False) -> Child:
        command = [sys.executable, "-S", "-c", code]
        begun.append(Child(command, {}, tmp_path / "log.txt", pipe=pipe, with_gpu=with_gpu))
        return begun[-1]

    yield started
    for child in begun:
        child.stop()


def soon() -> float:
    return time.monotonic() + 20


SAYS = r"""
import os
lines = [b"line %d" % number for number in range(45)] + [b"x" * 300, b"y" * 301, b"1 %\r2 %", b"odd \xff"]
os.write(1, b"\n".join(lines) + b"\n")
os.write(2, b"  the end \n\n \n")
"""


def test_the_last_lines_of_a_log_are_readable(start: Start, tmp_path: Path) -> None:
    """Of both outputs, forty at most, long ones cut, a progress bar's states apart, and what is no text marked."""
    child = start(SAYS)
    assert child.wait(20)
    child.stop()
    facts = child.facts()
    said = ["x" * 300, "y" * 299 + "…", "1 %", "2 %", "odd \ufffd", "  the end ", "", " "]
    assert facts["log_tail"] == [*(f"line {number}" for number in range(13, 45)), *said]
    assert facts["log_bytes"] == (tmp_path / "log.txt").stat().st_size
    assert child.last_line() == "the end"


def test_a_program_that_says_nothing_has_no_last_line(start: Start) -> None:
    child = start("print()")
    assert child.wait(20)
    child.stop()
    assert (child.last_line(), child.facts()["log_tail"]) == ("", [""])


@pytest.mark.parametrize(
    ("code", "words", "exit_code", "signal"),
    [
        ("", "it ended with exit code 0", 0, None),
        ("raise SystemExit(3)", "it ended with exit code 3", 3, None),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by SIGKILL", None, 9),
        ("import os; os.kill(os.getpid(), 40)", "it was ended by signal 40", None, 40),
    ],
)
def test_how_a_program_ended_is_said(
    start: Start, code: str, words: str, exit_code: int | None, signal: int | None
) -> None:
    child = start(code)
    assert child.wait(20)
    child.stop()
    assert child.ending() == words
    facts = child.facts()
    assert (facts["exit_code"], facts["signal"], facts["left_running"]) == (exit_code, signal, 0)


def test_a_program_that_we_end_has_left_nothing_running(start: Start) -> None:
    child = start(WAITS)
    assert not child.wait(0)
    assert child.ending() == "it runs still"
    assert (child.facts()["exit_code"], child.facts()["signal"]) == (None, None)
    child.stop()
    assert child.ending() == "it was ended by SIGTERM"
    assert child.facts()["left_running"] == 0


def test_a_program_that_takes_no_message_is_not_waited_for_for_ever(start: Start) -> None:
    child = start(WAITS, pipe=True)
    with pytest.raises(TimeoutError, match=r"^: it took [1-9]\d* of 8388612 bytes of the message$") as late:
        child.send(bytes(8 << 20), time.monotonic() + 0.2)
    assert int(str(late.value).split()[3]) <= 1 << 20, "no more than a pipe holds"
    with pytest.raises(TimeoutError, match=r"^$"):
        child.receive(100, time.monotonic() + 0.01)


def test_nobody_reads_what_is_sent_to_a_program_that_ended(start: Start) -> None:
    child = start("", pipe=True)
    assert child.wait(20)
    with pytest.raises(BrokenPipeError):
        child.send(b"message", soon())


@pytest.mark.parametrize(
    ("written", "most", "says"),
    [
        (b"\0\0\0\x0a0123456789", 10, None),
        (b"\0\0\0\x0a0123456789", 9, r"at most 9 bytes, found the beginning of one of 10; nothing but messages may"),
        (b"", 10, "the program's output ended$"),
        (b"\0\0", 10, "the program's output ended in the middle of a message, after 2 of 4 bytes$"),
        (b"\0\0\0\x0a", 10, "the program's output ended in the middle of a message, after 0 of 10 bytes$"),
    ],
)
def test_a_message_comes_whole_or_it_is_said_how_much_of_it(
    start: Start, written: bytes, most: int, says: str | None
) -> None:
    child = start(f"import os; os.write(1, {written!r})", pipe=True)
    assert child.wait(20)
    assert child.has_said_more() is bool(written)
    if says is None:
        assert child.receive(most, soon()) == b"0123456789"
        assert not child.has_said_more()
    else:
        with pytest.raises((EOFError, ProtocolError), match=says):
            child.receive(most, soon())


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(("program", "why"), [("no such", "No such file or directory"), ("", "Permission denied")])
def test_what_cannot_be_started_is_named_and_leaves_nothing_open(tmp_path: Path, program: str, why: str) -> None:
    before = open_files()
    with pytest.raises(ConfigError) as refused:
        Child([f"{tmp_path}/{program}", "word"], {}, tmp_path / "log.txt", pipe=False)
    name = f"'{tmp_path}/no such'" if program else f"{tmp_path}/"
    assert str(refused.value) == f"cannot start {name}: {why}; check the command's first word, and PATH"
    assert open_files() == before


PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {WAITS!r}])"


@pytest.mark.parametrize("listed", [True, False])
def test_memory_of_gpus_is_the_largest_of_the_program_with_its_children(
    start: Start, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    """Of children as well where the kernel keeps no list of them."""
    asked: list[set[int]] = []
    booked = iter([100, 300, 200])

    def processes_bytes(pids: Collection[int]) -> int:
        if len(pids) < 2:
            return 0  # the child is on its way
        asked.append(set(pids))
        return next(booked, 200) << 20

    monkeypatch.setattr(module, "processes_bytes", processes_bytes)
    monkeypatch.setattr(module, "_SAMPLES_S", 0.002)
    if not listed:
        monkeypatch.setattr(Path, "iterdir", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    child = start(PARENT, with_gpu=True)
    until = soon()
    while len(asked) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    child.stop()
    resident, gpu = child.memory()
    assert (gpu.name, gpu.value, gpu.unit, gpu.reason) == ("command_peak_gpu", 300.0, "MiB", None)
    assert all(len(pids) == 2 for pids in asked)
    assert (resident.name, resident.unit, resident.reason) == ("command_peak_rss", "MiB", None)
    assert "every 0.1 s" in resident.convention
    assert "every second" in gpu.convention


def test_where_the_driver_tells_nothing_it_is_asked_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def processes_bytes(pids: Collection[int]) -> int:
        asked.append(len(pids))
        raise DependencyError("no driver here")

    monkeypatch.setattr(module, "processes_bytes", processes_bytes)
    monkeypatch.setattr(module, "_SAMPLES_S", 0.002)
    for with_gpu, reason in ((True, "no driver here"), (False, "gpu: 0, no GPU is shown to it")):
        child = start(WAITS, with_gpu=with_gpu)
        child.wait(0.15)
        child.stop()
        assert (child.memory()[1].value, child.memory()[1].reason) == (None, reason)
    assert asked == [1]
