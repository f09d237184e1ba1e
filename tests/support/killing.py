"""Kills commands at random moments (SIGKILL: nothing is cleaned up), runs them again, and compares what is there then.

::

    python -m tests.support.killing 200          # so many moments over run, report, gate, compare and scale

A server that has everything imported forks a process a command, so that the moments fall into the command's own work,
not into the start of Python. Every other moment is a number of seconds; the others are changes of the file system (the
n-th rename, removal, new folder or opening for writing), which take the smallest part of the time.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import yaml

from lingbot_eval.files.atomic import REPLACED
from tests.support.tiny import run_folder, write_experiment

ROOT = Path(__file__).parents[2]

# Reads words, seconds and a number of changes; runs the command in a fork, kills it after so many seconds or before
# that change (never where null), and says how it ended, how long it took and how many changes it made.
SERVER = """
import importlib, json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from matplotlib.backends.backend_agg import FigureCanvasAgg
from lingbot_eval.cli.main import COMMANDS, main
import lingbot_eval.api, lingbot_eval.reports.report, lingbot_eval.gating.judge, lingbot_eval.comparison.page
import lingbot_eval.runs.execute, lingbot_eval.reports.figures, lingbot_eval.reports.scene_figures
import lingbot_eval.reports.agreement
import evo.core.metrics, evo.core.trajectory, pandas
if len(sys.argv) > 2:
    import lingbot_eval.scaling.execute, lingbot_eval.scaling.page
# Pixels take most of a report's time, and no part in what is stored how.
FigureCanvasAgg.draw = lambda canvas: None
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    words, seconds, change = json.loads(line)
    started = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        changes = 0
        def count(event, arguments):
            global changes
            if event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                if event != "open" or not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                    return
            changes += 1
            if changes == change:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        code = 99
        try:
            code = main(words)
        finally:
            os.write(writing, str(changes).encode())
            os._exit(code)
    os.close(writing)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    print(json.dumps([code, time.monotonic() - started, int(os.read(reading, 20) or 0)]), flush=True)
    os.close(reading)
"""


class Commands:
    """Runs commands of lingbot-eval one by one, whole or for a while; a context."""

    def __init__(self, *, with_torch: bool = False) -> None:
        words = [sys.executable, "-c", SERVER, str(ROOT), *(["torch"] if with_torch else [])]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self._server = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        self._read()

    def whole(self, words: Sequence[str]) -> tuple[int, float, int]:
        """Exit code, seconds and changes of the file system of a command."""
        return self._call(words, None, None)

    def killed(self, words: Sequence[str], *, after_s: float | None = None, before_change: int | None = None) -> bool:
        """Whether the command was still at work when it was killed."""
        return self._call(words, after_s, before_change)[0] == -signal.SIGKILL

    def close(self) -> None:
        """End the server."""
        self._pipe(self._server.stdin).close()
        self._server.wait(timeout=60)
        self._pipe(self._server.stdout).close()

    def _call(self, words: Sequence[str], seconds: float | None, change: int | None) -> tuple[int, float, int]:
        stream = self._pipe(self._server.stdin)
        stream.write(json.dumps([list(words), seconds, change]) + "\n")
        stream.flush()
        code, took, changes = self._read()
        return int(code), float(took), int(changes)

    def _read(self) -> list[float]:
        line = self._pipe(self._server.stdout).readline()
        if not line:
            raise RuntimeError("the server of commands ended")
        found: list[float] = json.loads(line)
        return found

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        if stream is None:
            raise TypeError("the server has pipes")
        return stream


# Functions of a test, each in a process that forks from one which has imported what takes seconds.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "lingbot_eval.runs.execute", "lingbot_eval.scaling.execute", "torch"])


def exit_code(target: Callable[..., object], *arguments: object) -> int | None:
    """How a function ends in a process of its own: 0, 1 after an exception, minus the signal that killed it."""
    process = _FORKS.Process(target=target, args=arguments)
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{target.__name__} did not end")
    return process.exitcode


@dataclass(frozen=True)
class Job:
    """A command under test. words: the command with its files in a folder. prepared: puts there what it starts from."""

    name: str
    words: Callable[[Path], list[str]]
    prepared: Callable[[Path], None] = lambda folder: None


@dataclass
class Found:
    """What came of it. killed, ended: by command, moments at work and those that came too late. wrong: a line each."""

    killed: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


SCALE = (
    "cases.0.frames=20",
    "defaults.size=[56, 42]",
    "defaults.backend=sdpa",
    "device=cpu",
    "input={kind: noise, pool: 4}",
)


def jobs(source: Path, *, with_scale: bool) -> list[Job]:
    """The commands, on an experiment in ``source`` and a run of it in ``source/runs``."""
    run = str(run_folder(source / "runs"))

    def old(folder: Path) -> None:
        """A report, comparison and baseline of before, of which nothing may be mixed with the new ones."""
        for name, page in (("report", "report.md"), ("compare", "compare.md")):
            (folder / name).mkdir(parents=True)
            (folder / name / page).write_text("old")
        shutil.copy(source / "baseline.yaml", folder / "baseline.yaml")

    made = [
        Job("run", lambda folder: ["run", f"{source}/tiny.yaml", "--out", f"{folder}/runs", "--no-report"]),
        Job("run and report", lambda folder: ["run", f"{source}/tiny.yaml", "--out", f"{folder}/runs"]),
        Job("report", lambda folder: ["report", run, "--out", f"{folder}/report"]),
        Job("report again", lambda folder: ["report", run, "--out", f"{folder}/report"], old),
        Job(
            "gate",
            lambda folder: [
                *("gate", run, "--baseline", f"{source}/baseline.yaml", "--require", "accuracy"),
                *("--junit", f"{folder}/junit.xml", "--markdown", f"{folder}/gate.md"),
            ],
        ),
        Job(
            "update",
            lambda folder: [
                *("gate", run, "--baseline", f"{folder}/baseline.yaml", "--update"),
                *("--reason", "test", "--who", "me"),
            ],
            old,
        ),
        Job("compare", lambda folder: ["compare", run, run, "--out", f"{folder}/compare"]),
        Job("compare again", lambda folder: ["compare", run, run, "--out", f"{folder}/compare"], old),
    ]
    if with_scale:
        settings = [word for setting in SCALE for word in ("--set", setting)]
        made.append(Job("scale", lambda folder: ["scale", *settings, "--out", f"{folder}/scales"]))
    return made


def kill(moments: int, place: Path, *, with_scale: bool, seed: int = 0) -> Found:
    """Kill commands at ``moments`` moments, one command after the other, in folders under ``place``."""
    draw, found = random.Random(seed), Found()
    source = place / "source"
    write_experiment(source)
    with closing(Commands(with_torch=with_scale)) as commands:
        baseline = ["--baseline", f"{source}/baseline.yaml", "--update", "--reason", "first", "--who", "me"]
        commands.whole(["run", f"{source}/tiny.yaml", "--out", f"{source}/runs", "--no-report"])
        commands.whole(["gate", str(run_folder(source / "runs")), *baseline])
        given = jobs(source, with_scale=with_scale)
        whole = {}
        for job in given:
            folder = place / f"whole {job.name}"
            folder.mkdir()
            job.prepared(folder)
            whole[job.name] = *commands.whole(job.words(folder)), content(folder)
        for number in range(moments):
            job = given[number % len(given)]
            folder = place / f"{number} {job.name}"
            folder.mkdir()
            job.prepared(folder)
            before = content(folder)
            code, seconds, changes, wanted = whole[job.name]
            if number // len(given) % 2:
                after = draw.uniform(0, seconds)
                killed = commands.killed(job.words(folder), after_s=after)
                where = f"{job.name} killed after {after:.4f} s"
            else:
                change = draw.randint(1, changes)
                killed = commands.killed(job.words(folder), before_change=change)
                where = f"{job.name} killed before change {change} of {changes}"
            (found.killed if killed else found.ended)[job.name] += 1
            found.wrong += [f"{where}: {line}" for line in torn(folder, before, wanted)]
            again = commands.whole(job.words(folder))[0]
            if again != code:
                found.wrong.append(f"{where}: then ends with {again}, not {code}")
            now = content(folder)
            if now != wanted:
                names = sorted(name for name in now.keys() | wanted.keys() if now.get(name) != wanted.get(name))
                found.wrong.append(f"{where}: then differs in {', '.join(names)}")
            found.wrong += [f"{where}: left {name}" for name in leftovers(folder)]
            shutil.rmtree(folder)
    return found


def torn(folder: Path, before: dict[str, object], whole: dict[str, object]) -> list[str]:
    """What a reader could take for a result, and is none: a file that is neither the old one nor the whole new one; a
    page beside which a part of its report is missing or old. Folders whose name begins with a dot are no results."""
    now = {
        name: held
        for name, held in content(folder).items()
        if not any(part.startswith(".") for part in Path(name).parts)
    }
    records = ("run.json", "scale.json")  # rewritten at the end with how it ended
    lines = [
        f"{name} is neither old nor new"
        for name, held in now.items()
        if held not in (before.get(name), whole.get(name), REPLACED.encode()) and Path(name).name not in records
    ]
    lines += [
        f"{folder} has no page any more"
        for folder in {str(Path(name).parent) for name in before if Path(name).suffix == ".md"}
        if not any(str(Path(name).parent) == folder and Path(name).suffix in (".md", ".html") for name in now)
    ]
    # report.html holds all that it shows.
    for page in ("report.md", "compare.md"):
        for name in now:
            if Path(name).name != page or now[name] in (before.get(name), REPLACED.encode()):
                continue
            beside = [other for other in whole if Path(other).parent.is_relative_to(Path(name).parent)]
            lines += [
                f"{name} without its {other}"
                for other in beside
                if now.get(other) != whole[other] and Path(other).suffix in (".png", ".csv", ".tex")
            ]
    return lines


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders but locks."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock")


_OF_THE_DAY = {"started", "finished", "seconds", "wait_s", "sha256", "environment", "command", "when"}
_OF_THE_CLOCK = ("throughput", "memory")
_COLUMNS_OF_THE_CLOCK = ("interval_ms", "forward_ms", "process_bytes", "end_to_end_ms", "time_s")


def content(folder: Path) -> dict[str, object]:
    """Every file below a folder as far as two runs of one command must agree: without times and memory."""
    return {str(path.relative_to(folder)): _held(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()}


def _held(path: Path, folder: Path) -> object:
    if path.name == ".lock":
        return None
    data = path.read_bytes().replace(os.fsencode(folder), b"FOLDER")
    try:
        if path.suffix == ".json":
            return _plain(json.loads(data))
        if path.suffix == ".yaml":
            baseline = yaml.safe_load(data)
            if not isinstance(baseline, dict):
                return data  # cut short
            # Killed once it was written, an update is made twice.
            return _plain(baseline | {"history": baseline.get("history", [])[-1:]})
        measured = path.name in ("frames.csv", "samples.csv")
        if measured:
            rows = list(csv.DictReader(io.StringIO(data.decode())))
            return [
                {k: v for k, v in row.items() if k not in _COLUMNS_OF_THE_CLOCK and "bytes" not in k} for row in rows
            ]
    except (ValueError, yaml.YAMLError):
        return data
    # Pages of a run of its own tell its times; of pages, then, that they are there and whole.
    own = any(part in ("runs", "scales") for part in path.relative_to(folder).parts)
    if own and path.suffix in (".md", ".html", ".csv", ".tex"):
        return len(data) > 0
    return data


def _plain(value: object) -> object:
    if isinstance(value, dict):
        if value.get("family") in _OF_THE_CLOCK:
            return value["name"]
        return {k: _plain(v) for k, v in value.items() if k not in _OF_THE_DAY and "ms" not in k and "bytes" not in k}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def main(words: Sequence[str]) -> int:
    """Print what was found; 1 when something was wrong."""
    moments = int(words[0]) if words else 200
    with tempfile.TemporaryDirectory(prefix="lingbot-eval-kills-") as place:
        found = kill(moments, Path(place), with_scale=True)
    for name in sorted(found.killed | found.ended):
        print(f"{name}: killed at work {found.killed[name]}, ended before {found.ended[name]}")  # noqa: T201 - a tool
    for line in found.wrong:
        print(f"WRONG: {line}")  # noqa: T201
    print(f"{found.killed.total()} killed, {len(found.wrong)} wrong")  # noqa: T201
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
