"""A unit that was cut off goes on from its saved state, to the same numbers as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lingbot_eval as lb
from lingbot_eval.errors import StoreError
from lingbot_eval.methods.model import LingbotMethod
from lingbot_eval.runs import attempt, scene
from lingbot_eval.runs.stream import SceneStream
from lingbot_eval.scaling.execute import execute as execute_study
from lingbot_eval.stored import saved
from lingbot_eval.stored.unit_files import UnitWriter
from tests.scaling.studies import Quiet, study
from tests.support.killing import exit_code

FRAMES, LAST = 14, 11
EXPERIMENT: dict[str, Any] = {
    "name": "cut",
    "datasets": [
        {
            "name": "synthetic",
            "scenes": ["room"],
            "options": {"frames": FRAMES, "width": 56, "height": 42},
            "size": {"mode": "exact", "width": 56, "height": 42},
        }
    ],
    "methods": [
        {
            "kind": "lingbot",
            "model": {"config": "ci", "checkpoint": "shipped"},
            "streaming": {"window": 4, "scale_frames": 3, "keyframe_interval": 2, "backend": "sdpa"},
            "device": "cpu",
        }
    ],
    "metrics": {"auc": None, "drift": None},
    "keep": {"depth": 5},
}


def run(out: Path) -> lb.Run:
    return lb.run(EXPERIMENT, out=out)


def study_of(out: Path, observer: Quiet | None = None) -> Any:
    return execute_study(study(defaults={"frames": FRAMES}), out, "test", observer or Quiet())


def cut(begin: Any, out: Path, last: int) -> None:
    """Save before every frame, and die as the row of frame ``last`` is written."""
    append = UnitWriter.append_row

    def dying(self: UnitWriter, row: Any) -> None:
        if row["index"] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, row)

    patch = pytest.MonkeyPatch()
    patch.setattr(saved, "SAVE_EVERY_S", 0.0)
    patch.setattr(UnitWriter, "append_row", dying)
    begin(out)


def numbers(unit: Any) -> dict[tuple[str, str, str], float | None]:
    """All that does not depend on time or on what a system books."""
    found = unit.record.measurements
    return {(m.family, m.name, m.variant): m.value for m in found if m.family not in ("throughput", "memory")}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run was killed in the middle of its unit."""
    out = tmp_path_factory.mktemp("killed")
    assert exit_code(cut, run, out, LAST) == -signal.SIGKILL
    assert len(list(out.glob("cut-*/states/*/*/*/state.json"))) == 1
    return out


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = run(tmp_path / "whole").results.units
    shutil.copytree(killed, tmp_path / "cut")
    (folder,) = (tmp_path / "cut").glob("cut-*")
    (state,) = folder.glob("states/*/*/*/state.json")
    streamed = json.loads(state.read_text())["seconds"]
    begun: list[Any] = []
    monkeypatch.setattr(attempt, "SceneStream", lambda *given: begun.append(given[4:]) or SceneStream(*given))
    (unit,) = run(tmp_path / "cut").results.units
    assert begun == [(LAST, streamed)], "its clock goes on, too"
    assert streamed > 0
    assert unit.record.went_on_at == [LAST]
    assert (unit.record.frames, unit.record.predictions) == (FRAMES, FRAMES)
    assert numbers(unit) == numbers(whole)
    for name in ("estimate.tum", "panels.npz", "cloud.npz", "cameras.npz", "depth-000005.npz", "depth-000010.npz"):
        mine, theirs = (each.folder / name for each in (unit, whole))
        if name.endswith(".tum"):
            assert mine.read_bytes() == theirs.read_bytes()
        else:
            with np.load(mine) as one, np.load(theirs) as other:
                assert all(np.array_equal(one[key], other[key], equal_nan=True) for key in other.files), name
    rows = [pd.read_csv(each.folder / "frames.csv").drop(columns=TIMED) for each in (unit, whole)]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    assert not list(folder.glob("states/*/*/*"))


TIMED = ["forward_ms", "interval_ms", "process_bytes"]


def test_a_killed_case_goes_on(tmp_path: Path) -> None:
    whole = study_of(tmp_path / "whole").records[0]
    for last in (LAST, LAST + 2):
        assert exit_code(cut, study_of, tmp_path / "cut", last) == -signal.SIGKILL
    observer = Quiet()
    found = study_of(tmp_path / "cut", observer).records[0]
    assert observer.frames == FRAMES, "those of before are shown as done"
    assert found.went_on_at == [LAST, LAST + 2]
    assert (found.frames, found.predictions, found.growth) == (FRAMES, FRAMES, found.growth)
    assert [c.kept for c in found.checkpoints] == [c.kept for c in whole.checkpoints]
    assert [c.cache_bytes for c in found.checkpoints] == [c.cache_bytes for c in whole.checkpoints]
    (table,) = (tmp_path / "cut").glob("*/cases/*/samples.csv")
    assert pd.read_csv(table)["index"].tolist() == list(range(FRAMES))


@pytest.mark.parametrize("how", ["content", "record", "stream", "input"])
def test_a_state_that_is_not_as_it_was_written_is_not_used(
    tmp_path: Path, killed: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Also where that is found when the scores are put back already: nothing of it stays, in scores and table."""
    out = tmp_path / "out"
    shutil.copytree(killed, out)
    (state,) = out.glob("cut-*/states/*/*/*")
    if how == "content":
        file = state / "content-0.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    elif how == "input":  # the scene's files are others by now; the run is the same
        monkeypatch.setattr(scene, "input_fingerprint", lambda unit, sequence: "other")
    elif how == "stream":
        load = saved.SavedState.load

        def without(self: saved.SavedState) -> saved.SavedRecord | None:
            record = load(self)
            assert record is not None
            return record.model_copy(update={"values": {**record.values, "stream": {"array": 10_000}}})

        monkeypatch.setattr(saved.SavedState, "load", without)
    else:
        text = (state / "state.json").read_text()
        assert '"frames": ' in text
        (state / "state.json").write_text(text.replace('"frames": ', '"frames": 1', 1))
    (unit,) = run(out).results.units
    assert unit.record.went_on_at == []
    assert unit.record.predictions == FRAMES
    assert pd.read_csv(unit.folder / "frames.csv")["index"].tolist() == list(range(FRAMES))
    assert len(pd.read_csv(unit.folder / "estimate.tum", sep=" ", comment="#", header=None)) == FRAMES


def test_a_short_unit_has_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved.SavedState, "save", lambda *_: pytest.fail("saved"))
    assert run(tmp_path).results.units[0].record.status == "ok"


def test_a_state_has_the_predictions_of_all_its_frames_and_a_full_disk_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_at: list[int] = []
    predict, lost = LingbotMethod.predict, 9

    def full(self: saved.SavedState, frames: int, *_: object) -> None:
        saved_at.append(frames)
        raise StoreError("disk full")

    def sparse(self: LingbotMethod, frames: Any) -> Iterator[lb.Prediction]:
        return (prediction for prediction in predict(self, frames) if prediction.index != lost)

    monkeypatch.setattr(saved, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(saved.SavedState, "save", full)
    monkeypatch.setattr(LingbotMethod, "predict", sparse)
    (unit,) = run(tmp_path).results.units
    assert (unit.record.status, unit.record.predictions) == ("ok", FRAMES - 1)
    assert saved_at == list(range(3, lost + 1)), "from the end of the scale phase on"


def test_it_is_time_again_ten_minutes_after_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr(saved, "time", SimpleNamespace(monotonic=lambda: clock.now))
    state = saved.SavedState(tmp_path / "states" / "unit", "key", ("a", "b", "c"), "input")
    due = []
    for now in (5.0, 604.9, 605.0):
        clock.now = now
        due.append(state.due())
    state.save(3, 1.5, {}, [], [])
    for now in (605.0, 1204.9, 1205.0):
        clock.now = now
        due.append(state.due())
    assert due == [False, False, True] * 2


@pytest.mark.parametrize(
    ("of", "used"),
    [
        (("key", ("a", "b", "c"), "input"), True),
        (("other", ("a", "b", "c"), "input"), False),
        (("key", ("a", "b", "d"), "input"), False),
        (("key", ("a", "b", "c"), "other"), False),
    ],
)
def test_a_state_is_of_its_run_its_unit_and_its_input(tmp_path: Path, of: tuple[Any, ...], used: bool) -> None:
    folder, table = tmp_path / "states" / "unit", tmp_path / "frames.csv"
    table.write_text("index\n0\n")
    contents = [partial(np.full, 2, number) for number in range(3)]
    saved.SavedState(folder, "key", ("a", "b", "c"), "input").save(7, 2.5, {"word": 1}, contents, [table])
    state = saved.SavedState(folder, *of)
    record = state.load()
    assert (record is not None) is used
    if record is not None:
        assert (record.frames, record.seconds, record.values) == (7, 2.5, {"word": 1})
        assert [state.content(number).tolist() for number in range(3)] == [[0, 0], [1, 1], [2, 2]]
        assert {name: path.read_text() for name, path in state.files(record).items()} == {"frames.csv": "index\n0\n"}
    state.remove()
    assert not folder.exists()
