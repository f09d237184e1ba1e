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

from lingbot_eval import __version__
from lingbot_eval.cli import main as cli
from lingbot_eval.cli import output, score_command
from lingbot_eval.cli.main import main
from lingbot_eval.cli.progress import Progress
from lingbot_eval.errors import DataError
from lingbot_eval.machine.environment import SPIN_COUNT
from lingbot_eval.machine.wait import Wait

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
        (["run", "smoke", "--quarks"], "unknown option '--quarks'; see lingbot-eval run --help"),
        (["run", "smoke", "--quarks=3"], "unknown option '--quarks'; see lingbot-eval run --help"),
        (["run", "smoke", "twice"], "unknown argument 'twice'; see lingbot-eval run --help"),
        (["datasets", "list", "--quarks"], "unknown option '--quarks'; see lingbot-eval datasets list --help"),
        (["--verson", "datasets", "list"], "unknown option '--verson' (did you mean '--version'?)"),
        # There is such an option, and no sense in proposing it: it stands elsewhere.
        (["external", "check", "it", "--plugin", "p"], "unknown option '--plugin'; see lingbot-eval external check"),
        (["run", "smoke", "--version"], "unknown option '--version'; see lingbot-eval run --help"),
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
    text = "interrupted; run the same command again to continue"
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "error": text, "kind": "KeyboardInterrupt"}


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
    assert said.endswith("; give the command more, or less to do\n")
    assert main([*score, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert (f"error: {document['error']}\n", document["kind"]) == (said, type(error).__name__)


@pytest.mark.parametrize(
    ("name", "place"),
    [("pictures/a.png", "pictures/a.png"), (None, "the system"), ("x" * 2000, f"{'x' * 699}…{'x' * 300}")],
    ids=["a file", "no file", "a long name"],
)
def test_what_the_system_refuses_is_no_fault_of_the_program(
    score: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, place: str
) -> None:
    failing(monkeypatch, OSError(errno.EIO, "Input/output error", name))
    assert main(score) == 2
    said = f"{place}: Input/output error; check the path and the disk"
    assert capsys.readouterr() == ("", f"error: {said}\n")
    assert main([*score, "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "error": said, "kind": "OSError"}


@pytest.mark.parametrize(
    ("fault", "said", "kind"),
    [
        ("raise ValueError('by\\nmine')", "ValueError: by mine (mine.py:2); mend it there", "ValueError"),
        ("sys.exit(0)", "it ended the program: sys.exit(0) (mine.py:2)", "ConfigError"),
    ],
)
def test_a_fault_of_a_plugin_is_said_to_be_its_own(
    score: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    said: str,
    kind: str,
) -> None:
    """Wherever it runs, and whatever it ends with: an exit of its own is no success."""
    plugin, names = tmp_path / "mine.py", {"sys": sys}
    plugin.write_text(f"def run(args):\n    {fault}\n")
    exec(compile(plugin.read_text(), str(plugin), "exec"), names)
    monkeypatch.setattr("lingbot_eval.registry._PLUGINS", {})
    monkeypatch.setattr(score_command, "run", names["run"])
    assert main([*score, "--plugin", str(plugin), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: code of a plugin failed: {said}\n"
    document = {"schema_version": 1, "error": f"code of a plugin failed: {said}", "kind": kind}
    assert json.loads(captured.out) == document


def test_threads_that_wait_sleep_soon_in_a_command(score: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is not there yet and the user has said nothing else: OpenMP reads the variable when it loads."""
    seen: list[str | None] = []
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(score_command, "run", lambda _: seen.append(os.environ.get("GOMP_SPINCOUNT")) or 0)
    assert main(score) == 0
    assert seen == [str(SPIN_COUNT)]
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_wait_for_a_command_began_with_its_process(score: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Wait()
    monkeypatch.setattr(cli, "WAIT", wait)
    monkeypatch.setattr(cli, "process_age_s", lambda: 5.0)
    monkeypatch.setattr(sys, "argv", ["lingbot-eval", *score])
    monkeypatch.setattr(score_command, "run", lambda _: 0)
    assert main() == 0
    waited = wait.end("first prediction")
    assert waited["start"] == 5.0
    assert waited["total"] >= 5.0
    # Words that are given are of a program that has run for long.
    assert main(score) == 0
    assert wait.end("first prediction") == {}


def test_help_says_what_each_command_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"lingbot-eval {__version__}\n")
    for name, (_, about) in cli.COMMANDS.items():
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert ended.value.code == 0
        assert f"{about[0].upper()}{about[1:]}." in text


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


def test_a_terminal_that_refuses_a_note_ends_nothing(
    score: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard error on a full disk: the result is on standard output all the same."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def noted(_: object) -> int:
        output.note("a word")
        output.line("a\tresult")
        return 0

    monkeypatch.setattr(score_command, "run", noted)
    monkeypatch.setattr(sys, "stderr", Full())
    assert main(score) == 0
    assert capsys.readouterr().out == "a\tresult\n", "a tab stays one"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), OSError("gone")])
def test_a_result_that_cannot_be_written_is_one_line(
    score: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError
) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    monkeypatch.setattr(sys, "stdout", Broken())
    assert main(score) == 2
    why = error.strerror or "gone"
    said = f"error: cannot write to standard output: {why}; free space or send it elsewhere\n"
    assert capsys.readouterr().err == said


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
