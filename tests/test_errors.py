"""What is said of an error: by whom, of what length, and whether the machine was what was lacking."""

from __future__ import annotations

import errno
import re

import pytest

import lingbot_eval.errors as errors
from lingbot_eval.errors import DataError, LingbotEvalError, at, one_line, reason, shortage, shortened


def test_every_error_of_the_project_is_one_that_the_command_line_catches() -> None:
    own = [each for each in vars(errors).values() if isinstance(each, type) and each.__module__ == errors.__name__]
    assert len(own) > 8
    assert all(issubclass(each, LingbotEvalError) for each in own)
    assert issubclass(errors.UnknownSceneError, DataError)
    assert issubclass(errors.BusyError, errors.StoreError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DataError("poses.txt:3:  expected\n 8 numbers"), "poses.txt:3: expected 8 numbers"),
        (ValueError("no\tgood"), "ValueError: no good"),
        (KeyError(), "KeyError"),
        (SystemExit(3), "it ended the program: sys.exit(3)"),
        (MemoryError("5 GiB. Close something"), "out of memory: 5 GiB"),
        (MemoryError(), "MemoryError"),
        (
            RuntimeError("[enforce fail at alloc.cpp:1] . DefaultCPUAllocator: can't allocate 5 bytes. Error code 12"),
            "out of memory: can't allocate 5 bytes",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB"), "out of memory: CUDA out of memory"),
        (MemoryError("Unable to allocate 1.50 GiB. Why"), "out of memory: Unable to allocate 1.50 GiB"),
        (ValueError("out of memory"), "ValueError: out of memory"),
    ],
)
def test_a_record_says_of_an_error(error: BaseException, text: str) -> None:
    assert one_line(error) == text


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "no"), "memory"),
        (OSError(errno.EMFILE, "no"), "file descriptors (ulimit -n)"),
        (OSError(errno.ENFILE, "no"), "file descriptors (ulimit -n)"),
        (OSError(errno.ENOENT, "no"), None),
        (RuntimeError("can't start new thread"), "threads (ulimit -u)"),
        (RuntimeError("[x] DefaultCPUAllocator: can't allocate"), "memory"),
        (RuntimeError("std::bad_alloc"), "memory"),
        (RuntimeError("CUDA error"), None),
        (ImportError("libx.so: failed to map segment from shared object"), "memory"),
        (ImportError("libx.so: Cannot allocate memory in static TLS block"), "memory"),
        (ImportError("no module"), None),
        (ValueError("std::bad_alloc"), None),
    ],
)
def test_what_the_machine_ran_out_of(error: BaseException, what: str | None) -> None:
    assert shortage(error) == what


def test_what_a_foreign_error_says_is_short_and_in_one_line() -> None:
    assert reason(OSError(errno.EACCES, "Permission denied", "/a/file")) == "Permission denied"
    assert reason(OSError("a\nb")) == "a b"
    assert reason(ValueError("bell\x07")) == "bell?"
    assert reason(ValueError()) == "ValueError"
    assert reason(ValueError("x" * 200)) == "x" * 200
    assert reason(ValueError("x" * 201)) == "x" * 199 + "…"


def test_a_long_message_keeps_its_end_which_says_what_to_do() -> None:
    assert shortened("a" * 1000) == "a" * 1000
    text = shortened("a" * 5000 + "b" * 300)
    assert re.fullmatch("a{699}…b{300}", text)
    assert one_line(DataError("a" * 5000)) == shortened("a" * 5000)


def test_a_place() -> None:
    assert (at("poses.txt", 12), at("poses.txt")) == ("poses.txt:12", "poses.txt")
