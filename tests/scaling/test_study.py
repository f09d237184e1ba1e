"""Studies from end to end on the small model, and on a session that fails on purpose."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from studies import SIZE, FakeSession, Quiet, study

from lingbot_eval import registry as plugins
from lingbot_eval.errors import CheckpointError, StoreError
from lingbot_eval.methods import base, stepper
from lingbot_eval.methods import model as model_module
from lingbot_eval.methods.base import METHODS, WeightFile
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.model.build import build_model
from lingbot_eval.model.config import CONFIGS, ConfigName
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import WeightSource
from lingbot_eval.resources import shared_file
from lingbot_eval.runs import plan, stream
from lingbot_eval.scaling import execute as execute_module
from lingbot_eval.scaling.execute import FIGURE, PAGE, execute, write_scaling
from lingbot_eval.scaling.records import SAMPLES_FILE, SCALE_LAYOUT, CaseRecord, ScaleRecord, scale_store
from lingbot_eval.scaling.settings import Study
from lingbot_eval.settings import validated
from lingbot_eval.stored import unit_files
from lingbot_eval.stored.store import Outcome
from lingbot_eval.stored.unit_files import read_table
from lingbot_eval.streaming.estimate import NetworkSize, estimate
from lingbot_eval.streaming.settings import StreamSettings
from tests.support.killing import exit_code


@pytest.fixture(autouse=True)
def one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of one test mean one code, also while somebody edits it."""
    monkeypatch.setattr(plan, "code_digest", lambda *, of_study=False: "code")


def run(out: Path, what: Study, observer: Quiet | None = None) -> Outcome[ScaleRecord, CaseRecord]:
    return execute(what, out, "lingbot-eval scale small", observer or Quiet())


def value(record: CaseRecord, name: str, variant: str = "") -> float | str | None:
    (found,) = [m for m in record.measurements if (m.name, m.variant) == (name, variant)]
    return found.reason if found.value is None else found.value


def plant(monkeypatch: pytest.MonkeyPatch, misbehave: Callable[[str, int], None]) -> list[str]:
    """Sessions that compute nothing; ``misbehave`` gets backend and frame of every step. Returns what was opened."""
    opened: list[str] = []

    def open_fake(model: Any, settings: Any, *, frames: int, camera_iterations: int, checks_late: bool) -> FakeSession:
        opened.append(settings.backend)
        # The first session of a case is its warm-up's.
        real = opened.count(settings.backend) % 2 == 0
        interval = settings.keyframe_interval
        return FakeSession(lambda i: misbehave(settings.backend, i) if real else None, interval=interval)

    monkeypatch.setattr(model_module, "open_session", open_fake)
    monkeypatch.setattr(model_module, "build_model", one_build)
    return opened


@functools.cache
def one_build(config: ConfigName, **settings: Any) -> tuple[GeometricContextTransformer, WeightSource]:
    """Networks that nobody computes with need not be drawn anew for every test."""
    return build_model(config, **settings)


@pytest.mark.parametrize("interval", [1, 2])
def test_a_study_from_end_to_end(tmp_path: Path, interval: int) -> None:
    observer = Quiet()
    synthetic = {"kind": "synthetic", "pool": 5}
    frames = 40 + 45 * interval
    what = study(input=synthetic, defaults={"frames": frames, "keyframe_interval": interval, "window": 4})
    outcome = run(tmp_path, what, observer)
    (record,) = outcome.records
    assert (record.status, record.frames, record.predictions) == ("ok", frames, frames)
    assert outcome.record.status == "complete"
    assert observer.frames == 5 + frames
    assert record.facts["weights"] == "untrained (seed 0)"
    assert outcome.record.environment["libraries"]["torch"]

    table = read_table(scale_store(outcome.path).folder(record.name) / SAMPLES_FILE, SCALE_LAYOUT)
    assert table["index"].tolist() == list(range(frames))
    assert table["frame_type"].tolist()[:8] == ["scale"] * 8
    kept = 8 + -(-(frames - 8) // interval)
    assert table["kept"].iloc[-1] == kept
    assert (table["forward_ms"] > 0).all()
    # Every fourth frame and both checkpoints were looked at closely.
    looked = set(range(3, frames, 4)) | {9, 29}
    assert set(table.index[table["process_bytes"].notna()]) == looked

    # Measured bytes are those of model.md section 7, at every checkpoint and at the end.
    assert [point.frames for point in record.checkpoints] == [10, 30, frames]
    for point in record.checkpoints:
        assert point.cache_bytes == point.formula_bytes
        assert point.ate_m is not None
    growth = {entry.quantity: entry for entry in record.growth}
    assert growth["cache"].value == growth["cache"].low == growth["cache"].high == growth["cache"].expected
    assert growth["forward"].value is not None
    assert record.error_curve[-1][0] == frames

    assert 0 <= float(value(record, "harness_overhead") or 0) < 100
    assert "largest_process" in {m.name for m in record.measurements}

    files = write_scaling(outcome.path)
    assert [file.name for file in files] == [PAGE, FIGURE]
    page = files[0].read_text(encoding="utf-8")
    assert "a kept frame" in page
    assert "lingbot-eval scale small" in page
    assert "untrained" in page


def test_memory_that_runs_out_is_a_data_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(backend: str, frame: int) -> None:
        if (backend, frame) == ("sdpa", 25):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. And much more advice.")

    freed: list[None] = []
    opened = plant(monkeypatch, full)
    for module in (stepper, base):
        monkeypatch.setattr(module, "free_device_memory", lambda: freed.append(None))
    builds = count_builds(monkeypatch)
    outcome = run(tmp_path, study(sweep={"backend": ["sdpa", "paged"]}))
    first, second = outcome.records
    assert (first.status, first.stage, first.failed_at_frame) == ("failed", "stream", 25)
    assert first.out_of_memory
    assert first.reason == "out of memory: CUDA out of memory"
    assert not first.bad_input
    # What it measured until then is kept, and the next case goes on.
    assert first.predictions == 25
    assert [point.frames for point in first.checkpoints] == [10, 25]
    folder = scale_store(outcome.path).folder(first.name)
    assert len(read_table(folder / SAMPLES_FILE, SCALE_LAYOUT)) == 25
    assert "OutOfMemoryError" in (folder / "traceback.txt").read_text()
    assert (second.status, second.predictions) == ("ok", 40)
    assert opened == ["sdpa", "sdpa", "paged", "paged"]
    assert len(freed) >= 4  # after the warm-up and after the stream of both
    assert builds == ["float32"]  # the network survives what its caches did
    assert outcome.record.status == "incomplete"
    assert (outcome.failed, outcome.bad_input) == (1, False)
    page = write_scaling(outcome.path)[0].read_text()
    assert "failed (stream at frame 25)" in page


def test_host_memory_that_runs_out_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(backend: str, frame: int) -> None:
        if frame == 12:
            torch.empty(10**15)  # torch says so in a plain RuntimeError

    plant(monkeypatch, full)
    builds = count_builds(monkeypatch)
    (record,) = run(tmp_path, study()).records
    assert (record.out_of_memory, record.failed_at_frame, record.predictions) == (True, 12, 12)
    assert record.reason == "out of memory: can't allocate memory: you tried to allocate 4000000000000000 bytes"
    assert builds == ["float32"]


def test_another_machine_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    here = run(tmp_path, study())
    block = here.record.environment
    monkeypatch.setattr(execute_module, "environment", lambda: block | {"cpu_model": "another"})
    paths = {here.path}
    for change in (
        {"cpu_model": "another"},
        {"libraries": block["libraries"] | {"numpy": "0"}},
        {"torch": block["torch"] | {"threads": 77}},
    ):
        monkeypatch.setattr(execute_module, "environment", lambda change=change: block | change)
        paths.add(run(tmp_path, study()).path)
    assert len(paths) == 4
    assert scale_store(here.path).read_run().environment["cpu_model"] == block["cpu_model"]
    # What neither times nor memory rest on is no reason to measure anew.
    monkeypatch.setattr(execute_module, "environment", lambda: block | {"python": "another", "git": "dirty"})
    assert run(tmp_path, study()).path == here.path
    # Code of the study's own, which decides no run of an experiment.
    monkeypatch.setattr(plan, "code_digest", lambda *, of_study=False: "other" if of_study else "code")
    assert run(tmp_path, study()).path not in paths


def test_other_files_and_other_weights_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a dataset the files are in the key; what is generated is in the settings."""
    plant(monkeypatch, lambda backend, frame: None)
    scene = tmp_path / "scene"
    scene.mkdir()
    for number in range(9):
        Image.fromarray(np.full((42, 56, 3), number, np.uint8)).save(scene / f"{number}.png")
    given = {"kind": "dataset", "dataset": {"name": "folder", "root": str(scene), "scenes": ["scene"]}, "pool": 3}
    found = {run(tmp_path / "runs", study(input=given)).path}
    Image.fromarray(np.full((43, 57, 3), 7, np.uint8)).save(scene / "8.png")
    found.add(run(tmp_path / "runs", study(input=given)).path)
    found.add(run(tmp_path / "runs", study(input=given, model={"config": "ci", "seed": 1})).path)
    assert len(found) == 3
    for file in (WeightFile("w.pt", "a" * 64), WeightFile("w.pt", "b" * 64), WeightFile("v.pt", "b" * 64)):
        monkeypatch.setattr(LingbotConfig, "weights", lambda self, file=file: file)
        found.add(run(tmp_path / "runs", study(input=given)).path)
    assert len(found) == 6


def test_the_stride_is_the_cards_unless_one_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an experiment, also where what is given is 1; the record says which, and it is in the key."""
    plant(monkeypatch, lambda backend, frame: None)
    scene, card = tmp_path / "scene", tmp_path / "folder.yaml"
    scene.mkdir()
    for number in range(9):
        Image.fromarray(np.full((42, 56, 3), number, np.uint8)).save(scene / f"{number}.png")
    dataset = {"name": "folder", "root": str(scene), "scenes": ["scene"], "card": str(card)}
    paths = set()
    for of_card, selection, stride in ((3, {}, 3), (3, {"start": 0, "stride": 1}, 1), (4, {}, 4)):
        text = shared_file("datasets", "folder").read_text(encoding="utf-8")
        card.write_text(text.replace("stride: 1", f"stride: {of_card}"), encoding="utf-8")
        given = {"kind": "dataset", "dataset": {**dataset, "selection": selection}, "pool": 9}
        outcome = run(tmp_path / "runs", study(input=given, defaults={"frames": 9}))
        played = f"pool of {-(-9 // stride)} frames in memory, played forward and backward"
        assert outcome.records[0].input["played"] == played
        assert scale_store(outcome.path).read_run().study["input"]["dataset"]["selection"]["stride"] == stride
        paths.add(outcome.path)
    assert len(paths) == 3


def test_the_record_says_what_was_asked_and_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    what = study(
        sweep={"precision": ["bfloat16", "float32"], "frames": [30, 20]}, defaults={"scenario": "single_stream"}
    )
    outcome = run(tmp_path, what)
    record = scale_store(outcome.path).read_run()
    assert (record.name, record.command, record.weights) == ("small", "lingbot-eval scale small", "untrained (seed 0)")
    assert record.study == what.model_dump(mode="json")
    # Those of one precision together, each in the order of the sweep.
    assert [(case.case["precision"], case.case["frames"]) for case in outcome.records] == [
        ("bfloat16", 30),
        ("bfloat16", 20),
        ("float32", 30),
        ("float32", 20),
    ]
    assert record.cases == [case.name for case in outcome.records]
    first = outcome.records[0]
    assert first.facts == {
        "config": "ci",
        "weights_bytes": first.facts["weights_bytes"],
        "weights": "untrained (seed 0)",
        "trained": False,
        "device": "cpu",
        "backend": "sdpa",
        "attention": first.facts["attention"],
        "precision": "bfloat16",
        "keyframe_interval": 1,
        "window": first.facts["window"],
        "scale_frames": 8,
        "scenario": "the next frame is given when the outputs of the last are on the host",
    }
    assert first.sampling == {
        "every frame": "forward and interval times, cache by kind and as allocated, allocated on the device",
        "every 4 frames and at checkpoints": "reserved on the device, driver, process",
        "driver": "not asked: ran on the CPU",
    }
    assert first.input["source"] == "uniform random pixels, seed 0"
    assert (first.status, first.bad_input, first.out_of_memory, first.stopped) == ("ok", False, False, None)


def test_the_formula_is_that_of_the_study_s_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many refinements, whose caches the camera head holds, at the interval that was resolved."""
    plant(monkeypatch, lambda backend, frame: None)
    found = []
    for iterations in (1, 2):
        model = {"config": "ci", "camera_iterations": iterations}
        (record,) = run(tmp_path, study(model=model, defaults={"keyframe_interval": 2})).records
        for point in record.checkpoints:
            streaming = StreamSettings(keyframe_interval=2)
            network = NetworkSize(CONFIGS["ci"], "float32", iterations)
            assert point.formula_bytes == dict(estimate(network, streaming, 42, 56, point.frames).cache_bytes)
        found.append(record.checkpoints[-1].formula_bytes)
    assert found[0] is not None
    assert found[1] is not None
    assert 2 * found[0]["camera_head"] == found[1]["camera_head"]


def test_a_size_has_its_own_frames_made_once_for_cases_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    made: list[tuple[tuple[int, int], int]] = []
    whole = execute_module.open_source

    def opened(settings: Any, size: tuple[int, int], workers: int, each_frame: Callable[[], None]) -> Any:
        made.append((size, workers))
        return whole(settings, size, workers, each_frame)

    monkeypatch.setattr(execute_module, "open_source", opened)
    sizes = [[56, 42], [28, 42], [28, 28]]
    outcome = run(tmp_path, study(sweep={"frames": [12, 13], "size": sizes}))
    assert not outcome.failed
    # On a CPU, whose cores have the model to compute, nothing is decoded beside it.
    assert made == [((56, 42), 0), ((28, 42), 0), ((28, 28), 0)] * 2


def test_a_crash_costs_the_network_and_not_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(backend: str, frame: int) -> None:
        if (backend, frame) == ("sdpa", 3):
            raise RuntimeError("device-side\n assert")

    plant(monkeypatch, crash)
    builds = count_builds(monkeypatch)
    first, second = run(tmp_path, study(sweep={"backend": ["sdpa", "paged"]})).records
    assert (first.reason, first.failed_at_frame) == ("RuntimeError: device-side assert", 3)
    assert not first.out_of_memory
    assert first.measurements == []
    assert second.status == "ok"
    assert builds == ["float32", "float32"]


def test_a_study_of_which_no_frame_came_out_has_a_page_without_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(backend: str, frame: int) -> None:
        raise RuntimeError("device-side assert")

    plant(monkeypatch, crash)
    outcome = run(tmp_path, study())
    (record,) = outcome.records
    assert (record.predictions, record.checkpoints, record.failed_at_frame) == (0, [], 0)
    assert write_scaling(outcome.path) == (outcome.path / PAGE,)
    text = (outcome.path / PAGE).read_text(encoding="utf-8")
    assert f"{record.name}: failed (stream at frame 0): RuntimeError: device-side assert" in text.replace("\\", "")
    assert "![" not in text
    assert not (outcome.path / FIGURE).exists()


def test_what_failed_first_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a case that fails what came before is scored, which may fail in its turn."""

    def crash(backend: str, frame: int) -> None:
        if frame == 3:
            raise RuntimeError("device-side assert")

    def broken(self: execute_module.CaseTask, attempt: object) -> None:
        raise ValueError("no scores")

    plant(monkeypatch, crash)
    monkeypatch.setattr(execute_module.CaseTask, "score", broken)
    (record,) = run(tmp_path, study()).records
    assert (record.stage, record.reason, record.failed_at_frame) == ("stream", "RuntimeError: device-side assert", 3)


def test_cases_of_one_precision_share_a_network_and_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    builds = count_builds(monkeypatch)
    observer = Quiet()
    sweep = {"keyframe_interval": [1, 2], "precision": ["float32", "bfloat16"]}
    outcome = run(tmp_path, study(sweep=sweep), observer)
    assert len(outcome.records) == 4
    assert builds == ["float32", "bfloat16"]
    assert observer.lines.count("preparing 5") == 1


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    builds: list[str] = []
    build = model_module.build_model

    def counted(*args: Any, **settings: Any) -> Any:
        builds.append(settings["precision"])
        return build(*args, **settings)

    monkeypatch.setattr(model_module, "build_model", counted)
    return builds


def test_finished_cases_are_kept_and_failed_ones_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(backend: str, frame: int) -> None:
        if backend == "paged" and frame == 12:
            raise torch.OutOfMemoryError("full")

    what = study(sweep={"backend": ["sdpa", "paged"]})
    plant(monkeypatch, once)
    assert run(tmp_path, what).failed == 1
    opened = plant(monkeypatch, lambda backend, frame: None)
    observer = Quiet()
    outcome = run(tmp_path, what, observer)
    assert not outcome.failed
    assert opened == ["paged", "paged"]
    assert observer.lines[0].startswith("kept offline-40")
    assert not list(outcome.path.rglob("traceback.txt"))


def test_results_without_their_samples_are_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    outcome = run(tmp_path, study())
    (scale_store(outcome.path).folder(outcome.records[0].name) / SAMPLES_FILE).unlink()
    opened = plant(monkeypatch, lambda backend, frame: None)
    run(tmp_path, study())
    assert len(opened) == 2


def test_other_settings_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    paths = {run(tmp_path, study(**changes)).path for changes in ({}, {"sample_every": 5}, {"name": "other"})}
    assert len(paths) == 3


def test_a_percentile_of_too_few_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda backend, frame: None)
    cases = [{"frames": 40}, {"frames": 108}]
    short, long = run(tmp_path, study(cases=cases, defaults={"scenario": "single_stream"})).records
    assert isinstance(value(short, "latency", "p90"), float)
    assert value(short, "latency", "p99") == "a p99 needs 100 samples, there are 32"
    assert isinstance(value(long, "latency", "p99"), float)


def test_a_camera_counts_what_was_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames come every 50 ms and take 30, but two take 125: each of them makes the next three late as well."""
    passed = [0.0]

    def sleep(seconds: float) -> None:
        passed[0] += seconds

    monkeypatch.setattr(stream, "time", SimpleNamespace(perf_counter=lambda: passed[0], sleep=sleep))
    plant(monkeypatch, lambda backend, frame: sleep(0.125 if frame in (18, 30) else 0.03))
    (record,) = run(tmp_path, study(defaults={"scenario": "camera", "camera_hz": 20})).records
    assert value(record, "latency", "p50") == pytest.approx(30)
    assert value(record, "deadline_misses") == 8
    assert value(record, "deadline_miss_rate") == 25
    assert value(record, "backlog", "largest") == 1
    assert value(record, "backlog", "last") == 0
    assert record.predictions == 40


def test_a_limit_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second a frame: five are given before 4.5 s are over."""
    passed = [0.0]

    def second(backend: str, frame: int) -> None:
        passed[0] += 1

    monkeypatch.setattr(stream, "time", SimpleNamespace(perf_counter=lambda: passed[0]))
    plant(monkeypatch, second)
    (record,) = run(tmp_path, study(defaults={"limit_s": 4.5})).records
    assert (record.status, record.frames, record.predictions) == ("ok", 5, 5)
    assert record.stopped == "its limit of 4.5 s ended it after 5 of 40 frames"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("disk full"), CheckpointError("no weights")])
def test_what_stops_a_study_leaves_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(backend: str, frame: int) -> None:
        if backend == "paged":
            raise error

    what = study(sweep={"backend": ["sdpa", "paged"]})
    plant(monkeypatch, stop)
    with pytest.raises(type(error)):
        run(tmp_path, what)
    (folder,) = tmp_path.iterdir()
    assert scale_store(folder).read_run().status == "incomplete"
    opened = plant(monkeypatch, lambda backend, frame: None)
    assert not run(tmp_path, what).failed
    assert opened == ["paged", "paged"]


def die_in_the_second_case(out: Path) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(plan, "code_digest", lambda *, of_study=False: "code")
    patch.setattr(unit_files, "ROWS_BETWEEN_FLUSHES", 10)

    def die(backend: str, frame: int) -> None:
        if (backend, frame) == ("paged", 33):
            os.kill(os.getpid(), signal.SIGKILL)

    plant(patch, die)
    run(out, study(sweep={"backend": ["sdpa", "paged"]}))


def test_a_killed_study_goes_on_with_the_case_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code(die_in_the_second_case, tmp_path) == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    (partial,) = folder.glob("cases/.partial-*")
    # How far the cut stream came is there to see, and no result.
    assert len((partial / SAMPLES_FILE).read_text().splitlines()) == 1 + 30
    assert not list(partial.glob("case.json"))

    opened = plant(monkeypatch, lambda backend, frame: None)
    observer = Quiet()
    outcome = run(tmp_path, study(sweep={"backend": ["sdpa", "paged"]}), observer)
    assert outcome.path == folder
    assert opened == ["paged", "paged"]
    assert observer.lines[0].startswith("kept")
    assert observer.frames == 40  # from its first frame: a stream's caches do not outlive it
    assert [record.predictions for record in outcome.records] == [40, 40]
    assert not list(folder.glob("cases/.partial-*"))


PLUGIN = """
import numpy as np
import lingbot_eval as lb
@lb.method("stands")
class Stands(lb.Method):
    def predict(self, frames):
        for frame in frames:
            yield lb.Prediction(frame.index, frame.timestamp, np.eye(4))
"""
GUEST = {"kind": "scale", "name": "guest", "input": {"kind": "noise", "pool": 4}, "checkpoints": [9]}
GUEST |= {"defaults": {"frames": 9, "size": SIZE}}


@pytest.mark.parametrize("kind", ["plugin", "trajectory"])
def test_another_plugin_or_trajectory_is_another_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The same settings once more: what they name has changed, and a case of before is no result of it."""
    file = tmp_path / "changes"
    method: dict[str, Any] = {"kind": "stands", "name": "guest"}
    texts = [PLUGIN, f"{PLUGIN}# changed", PLUGIN]
    if kind == "trajectory":
        method = {"kind": "replay", "name": "guest", "trajectory": str(file), "format": "kitti"}
        texts = ["".join(f"1 0 0 {i * step} 0 1 0 0 0 0 1 0\n" for i in range(9)) for step in (1, 2, 1)]
    found = []
    for text in texts:
        source = file.with_suffix(".py") if kind == "plugin" else file
        source.write_text(text)
        with monkeypatch.context() as registries:
            registries.setattr(plugins, "_PLUGINS", dict(plugins._PLUGINS))
            registries.setattr(METHODS, "_added", dict(METHODS._added))
            if kind == "plugin":
                plugins.load_plugins([str(source)])
            outcome = run(tmp_path / "runs", validated(Study, GUEST | {"method": method}, "test"))
        assert [(record.status, record.predictions) for record in outcome.records] == [("ok", 9)]
        found.append((outcome.path, outcome.done))
    assert [done for _, done in found] == [1, 1, 0]
    assert found[0][0] == found[2][0] != found[1][0]


def test_a_guest_may_tell_the_type_of_some_frames_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "np.eye(4), frame_type=FrameType.KEPT if frame.index % 2 else None"
    source = tmp_path / "guest.py"
    source.write_text("from lingbot_eval.types import FrameType" + PLUGIN.replace("np.eye(4)", told))
    monkeypatch.setattr(plugins, "_PLUGINS", dict(plugins._PLUGINS))
    monkeypatch.setattr(METHODS, "_added", dict(METHODS._added))
    plugins.load_plugins([str(source)])
    outcome = run(tmp_path / "runs", validated(Study, GUEST | {"method": {"kind": "stands", "name": "guest"}}, "test"))
    assert [(record.status, record.reason) for record in outcome.records] == [("ok", None)]
    samples = read_table(next(outcome.path.rglob(SAMPLES_FILE)), SCALE_LAYOUT)
    assert samples["kept"].dropna().tolist() == [1, 2, 3, 4]


def test_another_process_finds_the_study_of_a_guest_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings go there as they were given: what is the model's is not among them."""
    sent: list[str] = []
    before = execute_module.run_tasks

    def noted(*given: Any) -> Outcome[ScaleRecord, CaseRecord]:
        sent.append(given[-1])
        return before(*given)

    monkeypatch.setattr(execute_module, "run_tasks", noted)
    method = {"kind": "constant_velocity", "name": "floor"}
    outcome = run(tmp_path, validated(Study, GUEST | {"method": method}, "test"))
    assert (outcome.record.weights, outcome.record.cases) == ("of floor: none", ["offline-9-floor-56x42"])
    store, task_of = execute_module.reopen(outcome.path, *sent)
    (case,) = store.read_units().units
    assert task_of((case.record.name,)).method.name == "floor"
