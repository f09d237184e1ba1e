"""Execution: every unit becomes a result or a reason, what is done stays done, and nothing is stale."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import FRAMES, FakeAdapter, FakeMethod, FakeSequence, Quiet, World, experiment, pose_at, run_folder

from lingbot_eval.datasets.cards import load_card
from lingbot_eval.errors import CheckpointError, ConfigError, DataError, DependencyError, StoreError, StreamError
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.machine import wait as wait_module
from lingbot_eval.machine.wait import WAIT
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.runs import execute as execute_module
from lingbot_eval.runs.execute import execute
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.runs.plan import Unit, make_plan
from lingbot_eval.runs.scoring import SceneScorer
from lingbot_eval.runs.stream import Output
from lingbot_eval.stored import store as store_module
from lingbot_eval.stored.records import UnitRecord
from lingbot_eval.stored.store import Outcome, RunStore
from lingbot_eval.stored.unit_files import UnitWriter
from lingbot_eval.types import FloatArray, Frame, Measurement, Prediction


@pytest.fixture(params=["cores busy", "cores free"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    """Twice, unless the test says IN_LINE: scored in line, and in threads beside a method that computes elsewhere."""
    made = World()
    made.install(monkeypatch)
    free = request.param == "cores free"
    monkeypatch.setattr(LingbotConfig, "leaves_the_cpu_free", property(lambda settings: free))
    return made


# For what is decided before the stream, after it or by the frames alone: where scoring happens is no matter.
IN_LINE = pytest.mark.parametrize("world", ["cores busy"], indirect=True)


def run(out: Path, what: Experiment, observer: Quiet | None = None) -> Outcome:
    return execute(make_plan(what), out, "lingbot-eval run fake", observer or Quiet())


def units(outcome: Outcome) -> dict[tuple[str, str], UnitRecord]:
    stored = RunStore.open(outcome.path).read_units()
    assert not stored.left_out
    return {(unit.record.scene, unit.record.method): unit.record for unit in stored.units}


def value(record: UnitRecord, name: str, variant: str = "") -> float | str | None:
    (found,) = [m for m in record.measurements if (m.name, m.variant) == (name, variant)]
    return found.reason if found.value is None else found.value


def test_a_run_from_end_to_end(tmp_path: Path, world: World) -> None:
    observer = Quiet()
    begun = time.perf_counter()
    outcome = run(tmp_path, experiment(), observer)
    took = time.perf_counter() - begun
    assert (outcome.done, outcome.skipped, outcome.failed) == (2, 0, 0)
    assert outcome.record.status == "complete"
    assert observer.frames == 2 * FRAMES
    assert observer.lines[:2] == [f"started synthetic/one/good {FRAMES}", "ok synthetic/one/good"]
    # One method serves both scenes, so that its weights are loaded once.
    (method,) = world.made
    each = ["warm up on 0", "resources"]
    assert method.log == ["open one", *each, "open two", *each, "close"]

    store = RunStore.open(outcome.path)
    (first, second) = store.read_units().units
    assert (first.record.scene, second.record.scene) == ("one", "two")
    assert (first.record.frames, first.record.predictions) == (FRAMES, FRAMES)
    assert 0 < first.record.seconds < first.record.seconds + second.record.seconds <= took, "each has its own"
    # The method's world is twice as large and its depth three times: alignment takes out exactly that.
    assert value(first.record, "ate_rmse", "sim3") == pytest.approx(0, abs=1e-9)
    assert value(first.record, "scale", "sim3") == pytest.approx(0.5)
    assert value(first.record, "abs_rel", "scale_only") == pytest.approx(0, abs=1e-6)
    assert value(first.record, "abs_rel", "none") == pytest.approx(2, rel=1e-6)
    # By the scale of its trajectory, a half, depth of three times the truth becomes 1.5 times it.
    assert value(first.record, "abs_rel", "trajectory_scale") == pytest.approx(0.5, rel=1e-5)
    assert value(first.record, "warm_up") == pytest.approx(500)
    assert value(first.record, "forward_fps") == pytest.approx(1000)
    assert value(first.record, "weights") == 1.0

    table = store.read_table(first)
    assert table["index"].tolist() == list(range(FRAMES))
    assert table["frame_type"].tolist() == ["scale"] * 8 + ["kept"] * (FRAMES - 8)
    for kind, size in {"anchor": 10, "window": 20, "memory": range(FRAMES), "camera_head": 5}.items():
        expected = [size] * FRAMES if isinstance(size, int) else list(size)
        assert table[f"cache_{kind}_bytes"].tolist() == expected, kind
    assert table["timestamp"].tolist() == pytest.approx([index / 10 for index in range(FRAMES)])
    assert table["forward_ms"].tolist() == pytest.approx([1.0] * FRAMES)
    assert table["device_bytes"].isna().all()
    assert table["position_error_m"].max() < 1e-9
    assert table["rotation_error_deg"].max() < 1e-5
    assert (table["process_bytes"] > 1e6).all()
    total_ms = table["interval_ms"].sum()
    assert value(first.record, "end_to_end_fps") == pytest.approx(1e3 * FRAMES / total_ms)

    estimate, reference = (read_tum(first.folder / f"{name}.tum") for name in ("estimate", "reference"))
    np.testing.assert_allclose(reference.camera_to_world[5], pose_at(5), atol=1e-9)
    np.testing.assert_allclose(estimate.camera_to_world[5][:3, 3], 2 * pose_at(5)[:3, 3], atol=1e-9)

    panels = store.read_panels(first)
    assert panels is not None
    assert len(panels.index) == 4
    # First and last of those that were kept, every fourth, among them.
    assert panels.index.tolist() == [0, 8, 12, 20]
    np.testing.assert_allclose(panels.prediction, panels.truth, rtol=1e-5)
    assert (panels.image[:, 0, 0, 0] == panels.index).all()


@IN_LINE
def test_selection_reaches_the_stream(tmp_path: Path, world: World) -> None:
    outcome = run(tmp_path, experiment(dataset={"selection": {"start": 2, "stride": 3, "count": 5}}))
    record = units(outcome)["one", "good"]
    assert (record.frames, record.predictions) == (5, 5)
    assert record.sequence["selection"] == {"start": 2, "stride": 3, "count": 5}
    assert value(record, "ate_rmse", "sim3") == pytest.approx(0, abs=1e-9)


def test_a_method_that_stops_early_is_measured_on_all_frames(tmp_path: Path, world: World) -> None:
    world.methods = {"last": 6}
    record = units(run(tmp_path, experiment()))["one", "good"]
    assert (record.status, record.frames, record.predictions) == ("ok", FRAMES, 6)
    assert value(record, "coverage") == pytest.approx(100 * 6 / FRAMES)


@IN_LINE
def test_times_of_some_predictions_are_no_rate(tmp_path: Path, world: World) -> None:
    world.methods = {"lacks_cost": frozenset({3})}
    record = units(run(tmp_path, experiment()))["one", "good"]
    assert not isinstance(value(record, "forward_fps"), float)
    assert isinstance(value(record, "end_to_end_fps"), float)
    (unit, _) = RunStore.open(run_folder(tmp_path)).read_units().units
    times = RunStore.open(run_folder(tmp_path)).read_table(unit)["forward_ms"]
    assert times.isna().to_numpy().nonzero()[0].tolist() == [3]


@IN_LINE
def test_the_datasets_depth_range_decides_what_is_scored(tmp_path: Path, world: World) -> None:
    low, high = 1.5, 2.0
    record = units(run(tmp_path, experiment(dataset={"depth_range": [low, high]})))["one", "good"]
    # The fake scene's depth: 1 m, 5 cm a column, 2 cm a row and 10 cm a frame.
    depth = np.float32([[[1 + 0.05 * u + 0.02 * v + 0.1 * k for u in range(28)] for v in range(28)] for k in range(24)])
    inside = (depth > low) & (depth < high)
    scored = [k for k in range(24) if np.count_nonzero(inside[k]) >= 100]
    (found,) = [m for m in record.measurements if (m.name, m.variant) == ("abs_rel", "scale_only")]
    assert found.samples == np.count_nonzero(inside[scored])
    assert f"{low:g} < truth < {high:g} m" in found.convention
    assert value(record, "frames_scored") == len(scored) < FRAMES
    # The method's depth is three times the truth everywhere: scaled by what is scored, it is the truth there.
    store = RunStore.open(run_folder(tmp_path))
    panels = store.read_panels(store.read_unit(record.dataset, "one", "good"))
    assert panels is not None
    assert panels.truth == pytest.approx(np.where(inside, depth, 0)[panels.index])
    shown = panels.truth > 0
    assert panels.prediction[shown] == pytest.approx(panels.truth[shown])


WRONG_CLOCKS = [lambda _: math.nan, lambda t: t + 1.0, lambda t: t - 1.0, float.hex, lambda _: None]


@IN_LINE
@pytest.mark.parametrize("clock", WRONG_CLOCKS)
def test_a_time_that_is_not_the_frames_fails_the_unit(
    tmp_path: Path, world: World, clock: Callable[[float], object]
) -> None:
    """Poses are filed under these times: a foreign one would be scored against another frame's truth."""
    world.methods = {"clock": clock}
    outcome = run(tmp_path, experiment())
    record = units(outcome)["one", "good"]
    assert (outcome.failed, record.status, record.stage, record.failed_at_frame) == (2, "failed", "stream", 0)
    assert record.predictions == 0


@IN_LINE
def test_a_time_lost_in_single_precision_is_said(tmp_path: Path, world: World) -> None:
    world.methods = {"clock": lambda seconds: float(np.float32(seconds + 1e5)) - 1e5}
    record = units(run(tmp_path, experiment()))["one", "good"]
    assert "method 'good': expected frame 1 with its own time 0.1 s, found 0.1" in str(record.reason)


@IN_LINE
def test_without_a_reference_there_are_reasons(tmp_path: Path, world: World) -> None:
    world.adapter.scenes_there = {"bare": {"with_reference": False}}
    record = units(run(tmp_path, experiment()))["bare", "good"]
    assert record.status == "ok"
    assert {"estimate.tum", "reference.tum", "drift.npz"} & set(record.files) == {"estimate.tum"}
    assert value(record, "ate_rmse", "sim3") == "no reference poses"
    assert value(record, "rpe_rotation_rmse", "sim3") == "no reference poses"
    assert value(record, "coverage") == 100.0
    assert "without true depth" in str(value(record, "abs_rel", "scale_only"))
    assert isinstance(value(record, "end_to_end_fps"), float)


@IN_LINE
def test_clouds_alone_are_scored_within_the_datasets_depth_range(tmp_path: Path, world: World) -> None:
    """Depth is read for them, too; points beyond the limits are of no cloud."""
    off = dict.fromkeys(("trajectory", "drift", "auc", "depth"))
    pixels = {}
    for limits in ([0.1, 80], [1.5, 2.0]):
        found = experiment(metrics={**off, "points": {}}, dataset={"depth_range": limits})
        record = units(run(tmp_path / str(limits[1]), found))["one", "good"]
        (measured, *_) = [m for m in record.measurements if m.name == "accuracy" and m.family == "points"]
        assert measured.value is not None, measured.reason
        pixels[limits[1]] = measured.samples
    assert pixels[2.0] < pixels[80] / 3


@IN_LINE
def test_a_family_can_be_switched_off(tmp_path: Path, world: World) -> None:
    nothing = dict.fromkeys(("trajectory", "drift", "auc", "depth"))
    record = units(run(tmp_path, experiment(metrics=nothing)))["one", "good"]
    assert {m.family for m in record.measurements} == {"throughput", "memory"}


def at(scene: str, index: int, error: BaseException) -> Callable[[str, int], None]:
    def misbehave(now: str, frame: int) -> None:
        if (now, frame) == (scene, index):
            raise error

    return misbehave


@pytest.mark.parametrize(
    ("error", "reason", "bad_input"),
    [
        (RuntimeError("bad\n  things"), "RuntimeError: bad things", False),
        (MemoryError(), "MemoryError", False),
        (KeyError("x"), "KeyError: 'x'", False),
        (SystemExit(3), "it ended the program: sys.exit(3)", False),
        (SystemExit(), "it ended the program: sys.exit(None)", False),
        (ConfigError("window: expected less"), "window: expected less", True),
    ],
)
def test_a_failing_unit_is_a_result(
    tmp_path: Path, world: World, error: BaseException, reason: str, bad_input: bool
) -> None:
    world.misbehave = {"bad": at("one", 9, error)}
    outcome = run(tmp_path, experiment("bad", "good"))
    assert (outcome.done, outcome.failed, outcome.bad_input) == (3, 1, bad_input)
    assert outcome.record.status == "incomplete"
    record = units(outcome)["one", "bad"]
    assert (record.status, record.stage, record.failed_at_frame, record.reason) == ("failed", "stream", 9, reason)
    assert record.predictions == 9
    assert record.measurements == []
    assert units(outcome)["two", "bad"].status == "ok"
    # The one that failed is not trusted with the next scene.
    assert [method.log[0] for method in world.made] == ["open one", "open two", "open one"]
    assert [method.log[-1] for method in world.made] == ["close"] * 3
    folder = outcome.path / "units" / "synthetic" / "one" / "bad"
    assert "Traceback" in (folder / "traceback.txt").read_text()
    assert len((folder / "frames.csv").read_text().splitlines()) == 10


def test_what_a_method_keeps_beside_its_result_is_kept_of_a_failed_unit_too(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "words"

    def files(self: FakeMethod) -> dict[str, Path]:
        log.write_text(f"words on {self.scene}")
        return {"log.txt": log}

    monkeypatch.setattr(FakeMethod, "files", files)
    world.misbehave = {"good": at("two", 3, RuntimeError("crash"))}
    outcome = run(tmp_path / "runs", experiment())
    stored = RunStore.open(outcome.path).read_units()
    assert [unit.record.status for unit in stored.units] == ["ok", "failed"]
    for unit in stored.units:
        assert (unit.folder / "log.txt").read_text() == f"words on {unit.record.scene}"
        assert "log.txt" in unit.record.files


def test_a_lack_of_memory_says_what_to_do_and_nothing_else_does(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        LingbotConfig, "when_memory_lacks", property(lambda settings: f"; {settings.name} is too large")
    )
    world.misbehave = {
        "big": at("one", 3, RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")),
        "bad": at("one", 3, RuntimeError("crash")),
    }
    found = units(run(tmp_path, experiment("big", "bad", dataset={"scenes": ["one"]})))
    assert found["one", "big"].reason == "out of memory: CUDA out of memory; big is too large"
    assert found["one", "bad"].reason == "RuntimeError: crash"


def test_the_record_says_how_long_the_first_prediction_took(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By part, of each unit its own; what comes after the first prediction is of no wait."""
    clock = SimpleNamespace(now=100.0)
    warm_up, predict, opened = FakeMethod.warm_up, FakeMethod.predict, FakeAdapter.open

    def slow_open(self: FakeAdapter, *given: Any) -> Any:
        clock.now += 2
        return opened(self, *given)

    def slow_warm_up(self: FakeMethod, frame: Frame) -> float:
        clock.now += 6
        return warm_up(self, frame)

    def slow_predict(self: FakeMethod, frames: Iterable[Frame]) -> Iterator[Prediction]:
        for prediction in predict(self, frames):
            clock.now += {0: 3, 1: 50}.get(prediction.index, 0)
            yield prediction

    world.misbehave = {"bad": at("two", 0, RuntimeError("crash"))}
    world.adapter.scenes_there = {"one": {}, "two": {}, "three": {}}
    plan = make_plan(experiment("bad"))
    WAIT.end("what went before")
    monkeypatch.setattr(wait_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(FakeAdapter, "open", slow_open)
    monkeypatch.setattr(FakeMethod, "warm_up", slow_warm_up)
    monkeypatch.setattr(FakeMethod, "predict", slow_predict)
    found = units(execute(plan, tmp_path, "lingbot-eval run fake", Quiet()))
    parts = {"open scene": 2.0, "first frame": 0.0, "warm-up": 6.0, "first prediction": 3.0, "other": 0.0}
    # The third does not go on with what the second waited for in vain.
    for scene in ("one", "three"):
        assert found[scene, "bad"].wait_s == {**parts, "total": 11.0}
    assert found["two", "bad"].wait_s == {}


@pytest.mark.parametrize("fails", [False, True])
def test_the_record_has_what_method_and_scene_say_after_the_stream(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """What ran may be other than what was asked for; and only decoding shows what is damaged."""
    decoded: list[int] = []
    decode = FakeSequence._frame

    def counted(self: FakeSequence, index: int, *rest: Any) -> Frame:
        decoded.append(index)
        return decode(self, index, *rest)

    monkeypatch.setattr(FakeSequence, "_frame", counted)
    monkeypatch.setattr(FakeSequence, "facts", lambda self: {"last": max(decoded, default=None)})
    monkeypatch.setattr(FakeMethod, "describe", lambda self: {"log": list(self.log)})
    world.misbehave = {"good": at("one", 3, RuntimeError("crash"))} if fails else {}
    record = units(run(tmp_path, experiment(dataset={"scenes": ["one"]})))["one", "good"]
    assert record.method_facts["log"] == ["open one", "warm up on 0"]
    if not fails:
        assert record.sequence["last"] == FRAMES - 1


def test_of_a_scene_of_unknown_length_the_frames_that_were_given_count(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSequence, "length", None)
    world.methods = {"last": 6}  # it looks at one more
    record = units(run(tmp_path, experiment(dataset={"scenes": ["one"]})))["one", "good"]
    assert (record.status, record.frames, record.predictions) == ("ok", 7, 6)
    assert value(record, "coverage") == pytest.approx(100 * 6 / 7)


@pytest.mark.parametrize("error", [RuntimeError("stuck"), SystemExit(1)])
def test_a_method_that_cannot_be_closed_costs_no_result(tmp_path: Path, world: World, error: BaseException) -> None:
    world.methods = {"close_fails": error}
    world.misbehave = {"bad": at("one", 9, RuntimeError("crash"))}
    with pytest.raises(StreamError, match="method 'good' failed to close: "):
        run(tmp_path, experiment("bad", "good"))
    stored = RunStore.open(run_folder(tmp_path)).read_units()
    found = {(unit.record.scene, unit.record.method): unit.record for unit in stored.units}
    assert found["one", "bad"].reason == "RuntimeError: crash"
    assert found["two", "bad"].status == "ok"
    # The method before it, not this one, is to blame; the next unit has a fresh one.
    assert "method 'bad' failed to close" in str(found["one", "good"].reason)
    assert found["two", "good"].status == "ok"
    world.misbehave = {}
    with pytest.raises(StreamError, match="method 'good' failed to close: "):
        run(tmp_path / "again", experiment("good"))
    assert RunStore.open(run_folder(tmp_path / "again")).read_run().status == "complete"


@pytest.mark.parametrize("left_out", [0, 2])
def test_a_fault_in_scoring_belongs_to_its_frame(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, left_out: int
) -> None:
    """Also where the method gave no prediction of frames before it."""
    add, predict = SceneScorer.add, FakeMethod.predict

    def sparse(self: FakeMethod, frames: Iterable[Frame]) -> Iterator[Prediction]:
        return (prediction for prediction in predict(self, frames) if not 3 <= prediction.index < 3 + left_out)

    def broken(self: SceneScorer, output: Output) -> object:
        if output.prediction.index == 11:
            raise RuntimeError("no such metric")
        return add(self, output)

    monkeypatch.setattr(SceneScorer, "add", broken)
    monkeypatch.setattr(FakeMethod, "predict", sparse)
    record = units(run(tmp_path, experiment(dataset={"scenes": ["one"]})))["one", "good"]
    assert (record.stage, record.failed_at_frame, record.predictions) == ("score", 11, 11 - left_out)
    assert record.reason == "RuntimeError: no such metric"


def test_a_fault_in_scoring_after_the_stream_belongs_to_no_frame(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: SceneScorer, *_: object) -> object:
        raise RuntimeError("no such alignment")

    monkeypatch.setattr(SceneScorer, "score", broken)
    record = units(run(tmp_path, experiment()))["one", "good"]
    assert (record.stage, record.failed_at_frame, record.frames, record.predictions) == ("score", None, FRAMES, FRAMES)


@IN_LINE
@pytest.mark.parametrize(
    ("where", "stage", "frames", "reason"),
    [
        ("scene", "open", None, "torn"),
        ("method", "open", FRAMES, "torn"),
        ("warm-up", "warm-up", FRAMES, "torn"),
        ("no frames", "warm-up", FRAMES, "synthetic/one: expected frames, found none; check the selection"),
    ],
)
def test_what_fails_before_the_stream_belongs_to_no_frame(
    tmp_path: Path,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    stage: str,
    frames: int | None,
    reason: str,
) -> None:
    plan = make_plan(experiment(dataset={"scenes": ["one"]}))

    def torn(*_: object) -> None:
        raise DataError("torn")

    owner, name = {
        "scene": (FakeAdapter, "open"),
        "method": (FakeMethod, "open"),
        "warm-up": (FakeMethod, "warm_up"),
        "no frames": (FakeSequence, "loaders"),
    }[where]
    monkeypatch.setattr(owner, name, (lambda self, **_: iter(())) if where == "no frames" else torn)
    observer = Quiet()
    outcome = execute(plan, tmp_path, "lingbot-eval run fake", observer)
    assert observer.lines == [f"started synthetic/one/good {frames}", "failed synthetic/one/good"]
    assert (outcome.failed, outcome.bad_input) == (1, True)
    record = units(outcome)["one", "good"]
    assert (record.status, record.stage, record.failed_at_frame, record.reason) == ("failed", stage, None, reason)
    assert (record.frames, record.predictions) == (0, 0)


@IN_LINE
@pytest.mark.parametrize("facts", [{"threshold": math.nan}, {"array": np.zeros(3)}, {"big": 10**30}, [1]], ids=str)
def test_facts_that_no_record_can_hold_fail_the_unit(tmp_path: Path, world: World, facts: Any) -> None:
    world.methods = {"facts": facts}
    outcome = run(tmp_path, experiment())
    assert outcome.failed == 2
    assert {record.stage for record in units(outcome).values()} == {"open"}


@IN_LINE
@pytest.mark.parametrize(("number", "words"), [(1e305, "1e+305"), (-1e300, "-1e+300")])
def test_a_number_beyond_what_can_be_averaged_is_a_reason(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, number: float, words: str
) -> None:
    huge = Measurement("memory", "weights", "", number, "MiB", "parameters")
    monkeypatch.setattr(FakeMethod, "resources", lambda self: (huge,))
    record = units(run(tmp_path, experiment()))["one", "good"]
    assert value(record, "weights") == f"it is {words}, beyond the 1e+300 that can be averaged"


@IN_LINE
@pytest.mark.parametrize("first_is_bad_input", [True, False])
def test_one_bad_input_is_for_the_user_to_mend_whatever_fails_after_it(
    tmp_path: Path, world: World, *, first_is_bad_input: bool
) -> None:
    world.adapter.scenes_there["one" if first_is_bad_input else "two"] = {"broken_at": 5}
    world.misbehave = {"good": at("two" if first_is_bad_input else "one", 3, RuntimeError("crash"))}
    outcome = run(tmp_path, experiment())
    assert (outcome.failed, outcome.bad_input) == (2, True)


@IN_LINE
def test_a_resumed_run_keeps_the_time_it_started(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute_module, "utc_now", lambda: "2026-01-01T00:00:00+00:00")
    world.misbehave = {"good": at("two", 3, KeyboardInterrupt())}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, experiment())
    monkeypatch.setattr(execute_module, "utc_now", lambda: "2026-01-02T00:00:00+00:00")
    world.misbehave = {}
    record = run(tmp_path, experiment()).record
    assert (record.started, record.finished) == ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00")
    assert RunStore.open(run_folder(tmp_path)).read_run() == record


@IN_LINE
def test_what_is_on_the_disk_decides_whether_a_run_is_complete(tmp_path: Path, world: World) -> None:
    class Tidying(Quiet):
        """Somebody removes a result, and damages one, while the run goes on."""

        def finished(self, unit: Unit, record: UnitRecord) -> None:
            folder = run_folder(tmp_path) / "units" / "synthetic" / "one" / unit.method.name
            if unit.names[1:] == ("two", "a"):
                shutil.rmtree(folder)
            if unit.names[1:] == ("two", "b"):
                (folder / "frames.csv").write_text("")

    outcome = run(tmp_path, experiment("a", "b"), Tidying())
    assert (outcome.done, outcome.failed, outcome.record.status) == (4, 2, "incomplete")
    observer = Quiet()
    outcome = run(tmp_path, experiment("a", "b"), observer)
    assert (outcome.done, outcome.skipped, outcome.failed, outcome.record.status) == (2, 2, 0, "complete")
    (told,) = [line for line in observer.lines if line.startswith("left out")]
    assert told.startswith("left out synthetic/one/b: ")
    assert "frames.csv is damaged: it has 0 bytes, not" in told


@IN_LINE
def test_a_damaged_image_fails_its_unit_and_says_which(tmp_path: Path, world: World) -> None:
    world.adapter.scenes_there["one"] = {"broken_at": 5}
    outcome = run(tmp_path, experiment())
    assert outcome.bad_input
    record = units(outcome)["one", "good"]
    assert (record.stage, record.failed_at_frame) == ("stream", 5)
    assert record.reason == "one/000005.png: expected an image, found a truncated file"
    assert units(outcome)["two", "good"].status == "ok"


@IN_LINE
@pytest.mark.parametrize(
    ("pose", "found"),
    [
        (np.full((4, 4), np.nan), "24 poses that are not finite or no rigid motion"),
        (np.diag([2.0, 2.0, 2.0, 1.0]), "24 poses that are not finite or no rigid motion"),
        (None, "24 predictions without a pose"),
    ],
)
def test_a_unit_without_one_usable_pose_has_failed(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, pose: FloatArray | None, found: str
) -> None:
    predict, spared = FakeMethod.predict, 5

    def lost(self: FakeMethod, frames: Iterable[Frame]) -> Iterator[Prediction]:
        for prediction in predict(self, frames):
            usable = self.scene == "two" and prediction.index == spared
            yield prediction if usable else replace(prediction, camera_to_world=pose)

    monkeypatch.setattr(FakeMethod, "predict", lost)
    outcome = run(tmp_path, experiment())
    record = units(outcome)["one", "good"]
    assert (record.status, record.stage) == ("failed", "score")
    assert str(record.reason).startswith(f"no usable pose: expected one at least, found {found}; ")
    assert units(outcome)["two", "good"].status == "ok"  # one is enough
    assert (outcome.failed, outcome.bad_input) == (1, True)


@IN_LINE
@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("error", [CheckpointError("no weights"), DependencyError("no device")])
def test_a_run_refused_before_its_first_unit_leaves_no_directory(
    tmp_path: Path, world: World, error: Exception, there_before: bool
) -> None:
    out = tmp_path / "deep" / "runs"
    if there_before:
        out.mkdir(parents=True)
    world.misbehave = {"good": at("one", 0, error)}
    with pytest.raises(type(error)):
        run(out, experiment())
    assert list(tmp_path.rglob("*")) == ([out.parent, out] if there_before else [])


@IN_LINE
def test_what_is_done_is_skipped_and_what_failed_is_tried_again(tmp_path: Path, world: World) -> None:
    world.misbehave = {"good": at("two", 3, RuntimeError("once"))}
    assert run(tmp_path, experiment()).failed == 1
    world.misbehave = {}
    observer = Quiet()
    outcome = run(tmp_path, experiment(), observer)
    assert (outcome.done, outcome.skipped, outcome.failed) == (1, 1, 0)
    assert observer.lines[0] == "skipped synthetic/one/good"
    assert outcome.record.status == "complete"
    assert units(outcome)["two", "good"].status == "ok"
    assert not (outcome.path / "units" / "synthetic" / "two" / "good" / "traceback.txt").exists()


@IN_LINE
def test_changed_input_is_never_a_stale_hit(tmp_path: Path, world: World) -> None:
    run(tmp_path, experiment())
    world.adapter.scenes_there["two"] = {"version": "2"}
    outcome = run(tmp_path, experiment())
    assert (outcome.done, outcome.skipped) == (1, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("disk full"), CheckpointError("no weights")])
def test_what_stops_a_run_leaves_what_is_done(tmp_path: Path, world: World, error: BaseException) -> None:
    world.misbehave = {"good": at("two", 3, error)}
    with pytest.raises(type(error)):
        run(tmp_path, experiment())
    (folder,) = tmp_path.iterdir()
    stored = RunStore.open(folder).read_units()
    assert [unit.record.scene for unit in stored.units] == ["one"]
    assert stored.missing == (("synthetic", "two", "good"),)
    assert RunStore.open(folder).read_run().status == "incomplete"
    assert world.made[-1].log[-1] == "close"
    world.misbehave = {}
    assert run(tmp_path, experiment()).skipped == 1


def test_a_full_disk_stops_the_run_with_one_line(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: UnitWriter, row: object) -> None:
        raise StoreError("cannot write frames.csv: No space left on device; free space, then run again")

    monkeypatch.setattr(UnitWriter, "append_row", full)
    with pytest.raises(StoreError, match="No space left"):
        run(tmp_path, experiment())
    (folder,) = tmp_path.iterdir()
    assert not RunStore.open(folder).read_units().units


@IN_LINE
def test_two_runs_in_one_directory(tmp_path: Path, world: World) -> None:
    outcome = run(tmp_path, experiment())
    with RunStore.open(outcome.path).lock(), pytest.raises(StoreError, match="being written by"):
        run(tmp_path, experiment())


@IN_LINE
def test_the_record_states_itself(tmp_path: Path, world: World) -> None:
    outcome = run(tmp_path, experiment("a", "b"))
    record = json.loads((outcome.path / store_module.RUN_FILE).read_text())
    assert record["command"] == "lingbot-eval run fake"
    assert record["weights"] == {"a": "untrained (seed 0)", "b": "untrained (seed 0)"}
    assert record["units"] == [["synthetic", scene, method] for method in ("a", "b") for scene in ("one", "two")]
    assert record["experiment"]["datasets"][0]["scenes"] == ["one", "two"]
    card = load_card("synthetic").model_dump(mode="json")
    del card["download"]  # how the data are had is no protocol
    assert record["experiment"]["cards"] == {"synthetic": card}
    assert record["environment"]["libraries"]["numpy"] == np.__version__
    assert outcome.path.name == f"fake-{record['key'][:12]}"


def test_a_fault_in_storing_a_frame_belongs_to_the_frame_and_to_the_store(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = UnitWriter.append_row

    def broken(self: UnitWriter, row: Any) -> None:
        if row["index"] == 11:
            raise RuntimeError("no such column")
        append(self, row)

    monkeypatch.setattr(UnitWriter, "append_row", broken)
    record = units(run(tmp_path, experiment(dataset={"scenes": ["one"]})))["one", "good"]
    assert (record.stage, record.failed_at_frame, record.predictions) == ("store", 11, 11)
    assert record.reason == "RuntimeError: no such column"


@pytest.mark.parametrize(("last", "frames"), [(FRAMES, FRAMES), (6, FRAMES + 5)])
def test_of_a_scene_that_gives_fewer_frames_than_it_says_those_that_came_count(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, last: int, frames: int
) -> None:
    """All that came were taken, or the method stopped before: then nobody knows better than the scene."""
    monkeypatch.setattr(FakeSequence, "length", FRAMES + 5)
    world.methods = {"last": last}
    record = units(run(tmp_path, experiment(dataset={"scenes": ["one"]})))["one", "good"]
    assert (record.status, record.frames, record.predictions) == ("ok", frames, last)
    assert value(record, "coverage") == pytest.approx(100 * last / frames)
