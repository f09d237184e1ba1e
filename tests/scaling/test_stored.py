"""Results of a study that somebody or something changed: named and made again; a kill at any moment costs one case."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import Quiet, study
from test_study import plant, run

from lingbot_eval.errors import StoreError
from lingbot_eval.runs import plan
from lingbot_eval.scaling.execute import execute, write_scaling
from lingbot_eval.scaling.records import SAMPLES_FILE, SCALE_LAYOUT, CaseRecord, ScaleRecord, scale_store
from lingbot_eval.stored import unit_files
from lingbot_eval.stored.lock import directory_lock
from lingbot_eval.stored.store import Outcome
from tests.support.killing import exit_code

CASE_FILE = SCALE_LAYOUT.unit_file
TWO = {"sweep": {"backend": ["sdpa", "paged"]}}


@pytest.fixture(autouse=True)
def one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of one test mean one code, also while somebody edits it."""
    monkeypatch.setattr(plan, "code_digest", lambda *, of_study=False: "code")


def flipped(path: Path) -> None:
    """One digit of a number is another: the size stays."""
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    while not chr(content[place]).isdigit():
        place += 1
    content[place] = ord("7") if content[place] != ord("7") else ord("3")
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def linked(path: Path) -> None:
    """The file as it was, but behind a link."""
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a digit of the samples": (SAMPLES_FILE, flipped),
    "the end of the samples": (SAMPLES_FILE, cut),
    "no samples": (SAMPLES_FILE, Path.unlink),
    "samples behind a link": (SAMPLES_FILE, linked),
    "a digit of the record": (CASE_FILE, flipped),
    "the end of the record": (CASE_FILE, cut),
    "no record": (CASE_FILE, Path.unlink),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_its_case_alone_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    before = run(tmp_path, study(**TWO))
    store = scale_store(before.path)
    file, change = DAMAGE[what]
    change(store.folder(before.records[0].name) / file)
    opened, observer = plant(monkeypatch, lambda backend, frame: None), Quiet()
    after = run(tmp_path, study(**TWO), observer)
    assert opened == ["sdpa", "sdpa"]
    (said,) = [line for line in observer.lines if line.startswith("left out")]
    assert str(store.folder(before.records[0].name) / file) in said
    assert "\n" not in said
    assert after.record.status == "complete"
    assert told(after) == told(before)
    assert not [file for file in before.path.rglob("*") if file.name.startswith(".") and file.name != ".lock"]


def told(outcome: Outcome[ScaleRecord, CaseRecord]) -> list[tuple[object, ...]]:
    """What cannot differ between two passes of the same case."""
    return [(r.name, r.status, r.frames, r.predictions, len(r.growth), len(r.checkpoints)) for r in outcome.records]


def test_a_case_of_another_study_is_not_taken_for_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    mine, other = run(tmp_path, study(**TWO)), run(tmp_path, study(**TWO, sample_every=5))
    name = mine.records[0].name
    assert name == other.records[0].name
    shutil.rmtree(scale_store(mine.path).folder(name))
    shutil.copytree(scale_store(other.path).folder(name), scale_store(mine.path).folder(name))
    opened, observer = plant(monkeypatch, lambda backend, frame: None), Quiet()
    run(tmp_path, study(**TWO), observer)
    assert opened == ["sdpa", "sdpa"]
    assert any(f"found one of run {other.record.key[:12]}" in line for line in observer.lines)


def test_what_is_not_planned_is_named_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    outcome = run(tmp_path, study(**TWO))
    folder = scale_store(outcome.path).folder(outcome.records[0].name)
    stranger = folder.with_name("a copy")
    shutil.copytree(folder, stranger)
    opened, observer = plant(monkeypatch, lambda backend, frame: None), Quiet()
    again = run(tmp_path, study(**TWO), observer)
    assert opened == []
    assert [unit.reason for unit in again.units.left_out] == [
        f"{stranger / CASE_FILE}: expected the record of this unit, found that of {folder.name}; "
        "remove the folder and run again"
    ]
    assert (stranger / SAMPLES_FILE).is_file()
    assert "a copy" not in write_scaling(again.path)[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["cases", "a case", ".lock", "a partial case"])
def test_nothing_is_written_or_removed_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    outcome = run(tmp_path / "runs", study(**TWO))
    store = scale_store(outcome.path)
    case = store.folder(outcome.records[0].name)
    here = {
        "cases": case.parent,
        "a case": case,
        ".lock": outcome.path / ".lock",
        "a partial case": case.parent / ".partial-x",
    }[place]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    if here.is_dir():
        shutil.rmtree(here)
    here.unlink(missing_ok=True)
    here.symlink_to(outside / "precious" if place == ".lock" else outside)
    with pytest.raises(StoreError, match="symbolic link"):
        run(tmp_path / "runs", study(**TWO))
    assert [(file.name, file.read_text()) for file in outside.iterdir()] == [("precious", "mine")]


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    outcome = run(tmp_path, study(**TWO))
    with directory_lock(outcome.path), pytest.raises(StoreError, match="is being written by process"):
        run(tmp_path, study(**TWO))


def write_until(call: int, out: Path) -> None:
    """A whole study, killed at the call-th call of the system that changes a file; ``calls`` says of how many."""
    patch, calls = pytest.MonkeyPatch(), 0

    def killing(name: str) -> None:
        real = getattr(os, name)

        def counted(*args: Any, **settings: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **settings)

        patch.setattr(os, name, counted)

    patch.setattr(plan, "code_digest", lambda *, of_study=False: "code")
    patch.setattr(unit_files, "ROWS_BETWEEN_FLUSHES", 10)
    plant(patch, lambda backend, frame: None)
    for name in ("rename", "replace", "unlink", "mkdir", "rmdir", "fsync", "ftruncate"):
        killing(name)
    done = execute(study(sweep={"backend": ["sdpa", "paged"]}), out, "test", Quiet())
    write_scaling(done.path)
    (out / "calls").write_text(str(calls))


@pytest.mark.parametrize("moments", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_change_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: int) -> None:
    assert exit_code(write_until, 0, tmp_path / "whole") == 0
    calls = int((tmp_path / "whole" / "calls").read_text())
    assert calls > 30
    for moment in sorted(random.Random(0).sample(range(1, calls + 1), min(moments, calls))):
        out = tmp_path / str(moment)
        assert exit_code(write_until, moment, out) == -signal.SIGKILL
        plant(monkeypatch, lambda backend, frame: None)
        observer = Quiet()
        outcome = run(out, study(**TWO), observer)
        write_scaling(outcome.path)
        assert outcome.record.status == "complete", moment
        # A kill damages nothing: what is there counts.
        assert not [line for line in observer.lines if line.startswith("left out")], moment
        files = {str(file.relative_to(outcome.path)) for file in outcome.path.rglob("*") if file.is_file()}
        assert files == FILES, moment
        assert [path.name for path in out.iterdir()] == [outcome.path.name], moment
        assert len(scale_store(outcome.path).read_units().units) == 2, moment


FILES = {".lock", "scale.json", "scale.md", "scale.png"} | {
    f"cases/offline-40-interval-1-{backend}-float32-56x42/{file}"
    for backend in ("sdpa", "paged")
    for file in (CASE_FILE, SAMPLES_FILE)
}
