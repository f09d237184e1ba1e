"""A run killed at any point: what is done stays, nothing half-done counts, and the next run finishes the rest."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from fakes import FRAMES, Quiet, World, experiment, run_folder

from lingbot_eval.runs.execute import execute
from lingbot_eval.runs.plan import Unit, make_plan
from lingbot_eval.stored.records import UnitRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.stored.unit_files import UnitWriter
from tests.support.killing import exit_code


def die_at(point: str, out: Path) -> None:
    """Run the fake experiment until ``point``."""
    patch = pytest.MonkeyPatch()

    def die(here: str, scene: str) -> None:
        if (here, scene) == (point, "two"):
            os.kill(os.getpid(), signal.SIGKILL)

    class Watching(Quiet):
        def finished(self, unit: Unit, record: UnitRecord) -> None:
            die("after", unit.scene)

    finish = UnitWriter.finish

    def finishing(self: UnitWriter, record: UnitRecord) -> None:
        die("record", record.scene)
        finish(self, record)

    patch.setattr(UnitWriter, "finish", finishing)
    World(misbehave={"good": lambda scene, index: die(f"frame {index}", scene)}).install(patch)
    execute(make_plan(experiment()), out, "test", Watching())


@pytest.mark.parametrize(
    ("point", "done"), [("frame 0", 1), ("frame 15", 1), ("record", 1), ("after", 2)], ids=lambda value: str(value)
)
def test_killed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, done: int) -> None:
    assert exit_code(die_at, point, tmp_path) == -signal.SIGKILL
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
