"""Real processes that share a run: commands, their children, a Dask cluster; and what each of them leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil

from lingbot_eval.stored.store import RunStore
from tests.support.killing import ROOT, content
from tests.support.tiny import write_experiment

PLUGIN = '''
import os, sys, time
import numpy as np
import lingbot_eval as lb
from lingbot_eval.types import Prediction

class Settings(lb.Settings):
    seconds: float = 0.0
    dies_in: str = ""
    mark: str = ""

@lb.method("staged")
class Staged(lb.Method):
    """On a circle; may take its time, and die."""
    Settings = Settings
    needs_images = False
    gives_depth = False

    def predict(self, frames):
        for frame in frames:
            time.sleep(self.settings.seconds)
            if self.sequence.scene == self.settings.dies_in and frame.index == 3:
                print("last words", flush=True)
                os._exit(9)
            pose = np.eye(4)
            pose[:3, 3] = [np.cos(frame.index / 3), np.sin(frame.index / 5), frame.index / 7]
            yield Prediction(frame.index, frame.timestamp, pose)
'''


def write_staged(folder: Path, methods: int = 1, **settings: object) -> Path:
    """An experiment of two scenes with so many methods of the plugin beside it, ``plugin.py``; returns its file."""
    entries = [{"kind": "staged", "name": f"staged{number}", **settings} for number in range(methods)]
    path = write_experiment(folder, methods=entries)
    (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    return path


def command(folder: Path, out: str, *words: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """``lingbot-eval run`` of what is in ``folder``, started. before: words that start it, such as a limit."""
    line = [*before, sys.executable, "-m", "lingbot_eval.cli.main", "run", "tiny.yaml", "--no-report"]
    if (folder / "plugin.py").exists():
        line += ["--plugin", "plugin.py"]
    return subprocess.Popen(
        [*line, "--out", out, *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Where the suite runs in the background of a shell, what it starts would ignore an interruption.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def ended(*processes: subprocess.Popen[str], within_s: float = 120) -> list[tuple[int, str]]:
    """Exit code and what was printed, of each."""
    found = []
    for process in processes:
        said, _ = process.communicate(timeout=within_s)
        found.append((process.returncode, said))
    return found


def environment() -> dict[str, str]:
    """Of a process that finds this checkout and does not fight for cores."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that do units below it."""
    found = []
    with suppress(psutil.Error):
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "lingbot_eval.runs.worker" in each.cmdline():
                    found.append(each)
    return found


def results(folder: Path) -> dict[str, object]:
    """Every file of the run directories in a folder, without times, memory, and who was there."""
    found = content(folder)
    return {
        name: {key: value for key, value in held.items() if key != "host"} if isinstance(held, dict) else held
        for name, held in found.items()
        if "/logs/" not in name
    }


def statuses(out: Path) -> dict[tuple[str, ...], tuple[str, str | None]]:
    """Status and reason of every stored unit of the one run there."""
    (run,) = (path for path in out.iterdir() if (path / "run.json").exists())
    stored = RunStore.open(run).read_units()
    assert not stored.left_out, stored.left_out
    return {unit.record.names: (unit.record.status, unit.record.reason) for unit in stored.units}


class Cluster:
    """A scheduler and its workers on 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "scheduler.json"
        self.scheduler = self._start_scheduler()
        self.workers = [self.start_worker(), self.start_worker()]

    @property
    def address(self) -> str:
        """As ``--scheduler`` takes it."""
        found: str = json.loads(self.file.read_text(encoding="utf-8"))["address"]
        return found

    def start_worker(self, *before: str) -> subprocess.Popen[str]:
        """One worker, one thread, one GPU by its word."""
        words = ["worker", "--scheduler-file", str(self.file), "--host", "127.0.0.1", "--nthreads", "1"]
        words += ["--resources", "GPU=1", "--memory-limit", "0", "--no-dashboard", "--local-directory"]
        return self._dask(*words, str(self.folder), before=before)

    def restart_dead(self) -> None:
        """Start again what was killed."""
        if self.scheduler.poll() is not None:
            for worker in self.workers:
                stop(worker)
            self.scheduler = self._start_scheduler()
        self.workers = [worker if worker.poll() is None else self.start_worker() for worker in self.workers]

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            stop(process)

    def _start_scheduler(self) -> subprocess.Popen[str]:
        self.file.unlink(missing_ok=True)
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file"]
        process = self._dask(*words, str(self.file))
        until = time.monotonic() + 60
        # Dask writes it in place: who looks too early finds it empty.
        while not (self.file.exists() and self.file.read_text(encoding="utf-8").endswith("}")):
            assert process.poll() is None, "the scheduler ended"
            assert time.monotonic() < until
            time.sleep(0.1)
        return process

    def _dask(self, *words: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        with (self.folder / "dask.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                [*before, sys.executable, "-m", "dask", *words],
                env=environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )


def stop(process: subprocess.Popen[str]) -> None:
    """End a process and what it started."""
    with suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        for each in below:
            with suppress(psutil.Error):
                each.kill()
    with suppress(OSError):
        process.kill()
    process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster for the block."""
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.close()
