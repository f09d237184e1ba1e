"""The command line as a whole: one line for whatever goes wrong, whatever the terminal is."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lingbot_eval.cli import main as cli
from lingbot_eval.cli import output, score_command
from lingbot_eval.cli.main import main
from lingbot_eval.cli.progress import Progress
from lingbot_eval.errors import DataError

ROOT = Path(__file__).parents[2]
POSES = "".join(f"{i} {i} {i * i % 5} 0 0 0 0 1\n" for i in range(9))


@pytest.fixture
def score(tmp_path: Path) -> list[str]:
    """Words of a command that goes well."""
    (tmp_path / "poses.txt").write_text(POSES)
    return ["score", "--gt", f"{tmp_path}/poses.txt", "--est", f"{tmp_path}/poses.txt", "--format", "tum"]


def started(words: list[str], **streams: Any) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run([sys.executable, "-m", "lingbot_eval.cli.main", *words], check=False, text=True, **streams)


@pytest.mark.parametrize(
    "words", [[], ["scroe"], ["score", "--format", "foo"], ["run"], ["run", "smoke", "--sett", "x"]]
)
def test_wrong_words_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "--help" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scroe"], "unknown command 'scroe' (did you mean 'score'?); there are: run, report, "),
        (
            ["datasets", "lst"],
            "unknown action 'lst' (did you mean 'list'?); there are: list, show, fetch, ",
        ),
        (["run", "smoke", "--drry-run"], "unknown option '--drry-run' (did you mean '--dry-run'?)"),
        (["datasets", "list", "--markdwon"], "unknown option '--markdwon' (did you mean '--markdown'?)"),
        (["run", "smoke", "--quarks"], "unknown option '--quarks'; see "),
        (["run", "smoke", "twice"], "unknown argument 'twice'; see "),
        (["score", "--format", "tumm"], "expected auto or tum or kitti or "),
        (["score", "--format", "tumm"], "found 'tumm' (did you mean 'tum'?)"),
        (["verify", "--backend", "sdpaa"], "found 'sdpaa' (did you mean 'sdpa'?)"),
        (["compare", "sdpaa", "paged"], "sdpaa (neither) (did you mean 'sdpa'?)"),
        (["datasets", "show", "tumm"], "'tumm' is shipped (did you mean 'tum'?)"),
        (["datasets", "prepare", "oxford_spire", "a", "b"], "found 'oxford_spire' (did you mean 'oxford_spires'?)"),
        (["run", "smoke", "--set", "methods.0.kind=lingbt"], "found 'lingbt' (did you mean 'lingbot'?)"),
        (["run", "smoke", "--set", "methods.0.model.config=cii"], "found 'cii' (did you mean 'ci'?)"),
        (["scale", "--set", "input.kind=noize"], "found 'noize' (did you mean 'noise'?)"),
        (["run", "smoke", "--set", "methods.0.model.checkpoint=shiped"], "(did you mean 'shipped'?)"),
    ],
)
def test_a_word_nearly_right_is_answered_with_the_right_one(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_interrupted_is_one_line_and_130(
    score: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert main(score) == 130
    assert capsys.readouterr() == ("", "interrupted; run the same command again to continue\n")
    assert main([*score, "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["kind"] == "KeyboardInterrupt"


def test_wrong_words_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["kind"] == "ConfigError"


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The command raises it from now on, in the line that is returned."""

    def run(_args: object) -> int:
        raise error

    monkeypatch.setattr(score_command, "run", run)
    return run.__code__.co_firstlineno + 1


def test_a_fault_of_the_program_is_one_line_too(
    score: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = failing(monkeypatch, ZeroDivisionError("by\nzero"))
    assert main([*score, "--json"]) == 3
    captured = capsys.readouterr()
    # The place is where it was raised, not where it was caught.
    said = f"a fault of lingbot-eval itself, ZeroDivisionError in {__file__}:{line}: by\\nzero"
    said += f"; set {cli.TRACEBACK_VARIABLE}=1 to see all of it, and report it"
    assert captured.err == f"error: {said}\n"
    document = json.loads(captured.out)
    assert (document["error"].replace("\n", "\\n"), document["kind"]) == (said, "ZeroDivisionError")
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    with pytest.raises(ZeroDivisionError):
        main(score)


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (OSError(errno.EMFILE, "Too many open files"), "file descriptors"),
        (RuntimeError("can't start new thread"), "threads"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "memory"),
    ],
)
def test_what_the_machine_lacks_is_no_fault_of_the_program(
    score: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    lacking: str,
) -> None:
    failing(monkeypatch, error)
    assert main(score) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: the machine ran out of {lacking}")
    assert said.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux holds them")
@pytest.mark.parametrize("limit", ["-v 400000", "-v 900000", "-n 20"])
def test_a_run_with_too_little_of_the_machine_is_one_line(tmp_path: Path, limit: str) -> None:
    """400 MB do not hold torch; with 900 MB a command may well work: then it may not break either."""
    small = ["datasets.0.options.frames=9", "datasets.0.size={mode: exact, width: 56, height: 42}"]
    words = ["run", "smoke", "--out", str(tmp_path), *(word for setting in small for word in ("--set", setting))]
    command = f'ulimit {limit}; exec "{sys.executable}" -m lingbot_eval.cli.main "$@"'
    done = subprocess.run(["sh", "-c", command, "sh", *words], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr
    if limit == "-v 400000":
        assert "the machine ran out of memory" in done.stderr


NAMED = (
    ["score", "--gt", "NAME", "--est", "NAME"],
    ["report", "NAME"],
    ["compare", "NAME", "NAME"],
    ["gate", "NAME", "--baseline", "NAME"],
    ["run", "NAME"],
    ["run", "smoke", "--out", "NAME"],
    ["run", "smoke", "--dry-run", "--set", "datasets.0={name: folder, root: NAME}"],
    ["run", "smoke", "--dry-run", "--set", "methods.0.model.checkpoint=NAME.pt"],
    ["run", "smoke", "--dry-run", "--plugin", "NAME"],
    ["scale", "NAME"],
    ["scale", "--out", "NAME"],
    ["datasets", "show", "NAME"],
    ["verify", "NAME"],
)
"""Commands, and every place where a path is named."""


@pytest.mark.parametrize("name", ["x" * 5000, "/".join(["x" * 200] * 25), "no\x1b[31m\n\u202esuch", "pipe.yaml"])
@pytest.mark.parametrize("words", NAMED, ids=lambda words: " ".join(words)[:60])
def test_a_path_that_nobody_can_read_is_one_line(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Endless, coloured, or a named pipe that nobody writes to."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.yaml")
    if "--out" in words and len(name) < 100:
        return
    assert main([word.replace("NAME", name) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said
    assert len(said) < 1200
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.yaml"]


def test_a_label_of_a_bar_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(quiet=False, announce=lambda _progress, _plan: None)
    progress.started(SimpleNamespace(names=("data", "a\x1b[31m\u202eb", "method")), 3)  # type: ignore[arg-type]
    progress.frame()
    assert "a\\x1b[31m\\u202eb" in terminal.getvalue()
    assert "\x1b[31m" not in terminal.getvalue()


def test_an_error_is_one_line_whatever_a_file_name_holds(
    score: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, DataError("no scene a\nb \x1b[31m \udcff"))
    assert main(score) == 2
    assert capsys.readouterr().err == "error: no scene a\\nb \\x1b[31m \\udcff\n"


def test_warnings_of_libraries_stay_off_the_terminal(score: list[str]) -> None:
    """In a process of its own: pytest collects warnings before they reach the terminal."""
    program = (
        f"import sys, warnings; sys.path.insert(0, {str(ROOT)!r});"  # -I looks neither there nor at PYTHONPATH
        "from lingbot_eval.cli import main, score_command;"
        "score_command.run = lambda _: warnings.warn('Corrupt EXIF data') or 0; sys.exit(main.main(sys.argv[1:]))"
    )
    for option, lines in (("-I", 0), ("-Wdefault", 1)):
        words = [sys.executable, option, "-c", program, *score]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (0, lines)


def test_a_terminal_with_few_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.line("δ < 1.25²")
    output.finish()
    assert raw.getvalue() == b"\\u03b4 < 1.25\\xb2\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_standard_output_on_a_full_disk(score: list[str], more: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = started([*score, *more], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_reader_that_goes_away_is_no_error(score: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = started(score, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_streams(score: list[str]) -> None:
    command = f'exec "{sys.executable}" -m lingbot_eval.cli.main "$@"'
    for closed in (">&-", "2>&-"):
        done = subprocess.run(["sh", "-c", f"{command} {closed}", "sh", *score], check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
