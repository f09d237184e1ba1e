"""A run killed at any point: what is done stays, nothing half-done counts, and the next run finishes the rest."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FRAMES, Quiet, World, experiment, run_folder

from lingbot_eval.runs.execute import execute
from lingbot_eval.runs.plan import make_plan
from lingbot_eval.runs.store import RunStore

# Runs the fake experiment in a process of its own, which kills itself (SIGKILL: nothing is cleaned up) at one point.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import pytest
from fakes import Quiet, World, experiment
from lingbot_eval.runs import unit_writer
from lingbot_eval.runs.execute import execute
from lingbot_eval.runs.plan import make_plan

point, out = sys.argv[1], Path(sys.argv[2])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at_frame(scene, index):
    if scene == "two" and point == f"frame {index}":
        die()

world = World(misbehave={"good": at_frame})
world.install(pytest.MonkeyPatch())

class Watching(Quiet):
    def finished(self, unit, record):
        if point == "after" and unit.scene == "two":
            die()

def writing(record):
    if point == "record" and record.scene == "two":
        die()

finish = unit_writer.UnitWriter.finish
unit_writer.UnitWriter.finish = lambda self, record: (writing(record), finish(self, record))[1]
execute(make_plan(experiment()), out, "test", Watching())
"""


@pytest.mark.parametrize(
    ("point", "done"), [("frame 0", 1), ("frame 15", 1), ("record", 1), ("after", 2)], ids=lambda value: str(value)
)
def test_killed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, done: int) -> None:
    folder = str(Path(__file__).parent)
    script = f"import sys; sys.path.insert(0, {folder!r})\n{SCRIPT}"
    killed = subprocess.run(
        [sys.executable, "-c", script, point, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    path = run_folder(tmp_path)
    left = RunStore.open(path).read_units()
    assert len(left.units) == done
    assert not left.left_out
    before = {unit.folder: (unit.folder / "result.json").stat().st_mtime_ns for unit in left.units}

    World().install(monkeypatch)
    observer = Quiet()
    outcome = execute(make_plan(experiment()), tmp_path, "test", observer)
    assert outcome.path == path
    assert (outcome.skipped, outcome.done, outcome.failed) == (done, 2 - done, 0)
    assert outcome.record.status == "complete"
    assert observer.frames == (2 - done) * FRAMES
    assert not list(path.rglob(".partial-*"))
    for unit, modified in before.items():
        assert (unit / "result.json").stat().st_mtime_ns == modified, "done, yet done again"
