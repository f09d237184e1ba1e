"""Lengths and strides of a dataset: rows of their own, one stream where the shorter is the beginning of the longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FRAMES, Quiet, World, experiment

from lingbot_eval.errors import ConfigError
from lingbot_eval.methods.base import BaseMethod, MethodSettings, _settings_type
from lingbot_eval.methods.baselines import MotionlessConfig
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.replay import ReplayConfig
from lingbot_eval.runs.attempt import Beginnings, Task
from lingbot_eval.runs.execute import execute
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.runs.plan import make_plan
from lingbot_eval.runs.scoring import SceneScorer
from lingbot_eval.settings import validated
from lingbot_eval.stored.records import UnitRecord
from lingbot_eval.stored.store import Outcome, RunStore

OF_THE_CLOCK = ("throughput", "memory")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    made.install(monkeypatch)
    return made


def run(out: Path, what: Experiment, observer: Quiet | None = None) -> Outcome:
    return execute(make_plan(what), out, "lingbot-eval run fake", observer or Quiet())


def records(outcome: Outcome) -> dict[tuple[str, str], UnitRecord]:
    found = RunStore.open(outcome.path).read_units()
    assert not found.left_out
    return {(unit.record.dataset, unit.record.scene): unit.record for unit in found.units}


def accuracy(record: UnitRecord) -> dict[tuple[str, str, str], object]:
    """All that does not hang on the clock."""
    return {
        (m.family, m.name, m.variant): (m.value, m.reason, m.samples)
        for m in record.measurements
        if m.family not in OF_THE_CLOCK
    }


def streams(world: World) -> int:
    return sum(line.startswith("open") for method in world.made for line in method.log)


@pytest.mark.parametrize("free", [False, True])
def test_one_stream_gives_what_streams_of_each_length_give(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, free: bool
) -> None:
    """Scored in line, and in a thread beside a method that computes elsewhere."""
    monkeypatch.setattr(LingbotConfig, "leaves_the_cpu_free", property(lambda settings: free))
    outcome = run(tmp_path / "all", experiment(dataset={"scenes": ["one"], "lengths": [9, 14, 50]}))
    assert streams(world) == 1
    found = records(outcome)
    assert list(found) == [(f"synthetic, {length} frames", "one") for length in (9, 14, 50)]
    for length in (9, 14, 50):
        alone = run(tmp_path / str(length), experiment(dataset={"scenes": ["one"], "selection": {"count": length}}))
        (expected,) = records(alone).values()
        record = found[f"synthetic, {length} frames", "one"]
        assert accuracy(record) == accuracy(expected), length
        measured = [{(m.family, m.name, m.variant) for m in each.measurements} for each in (record, expected)]
        assert measured[0] == measured[1], "also what the method says of its memory"
        same = ("frames", "predictions", "status", "input_fingerprint", "method_facts", "sequence", "notes")
        assert [getattr(record, name) for name in same] == [getattr(expected, name) for name in same]
        # The cloud to be looked at is kept of the whole stream.
        of_the_cloud = {"cloud.npz", "cameras.npz", "thumbnails.npz"} if length < FRAMES else set()
        assert set(record.files) == set(expected.files) - of_the_cloud
        tables = [
            RunStore.open(each.path).read_table(RunStore.open(each.path).read_units().units[position])
            for each, position in ((outcome, (9, 14, 50).index(length)), (alone, 0))
        ]
        for column in ("index", "timestamp", "position_error_m", "depth_abs_rel", "cache_memory_bytes"):
            np.testing.assert_array_equal(tables[0][column], tables[1][column])
    assert found["synthetic, 50 frames", "one"].frames == FRAMES
    assert [record.stream_frames for record in found.values()] == [FRAMES, FRAMES, None]


def test_the_pace_of_a_stream_that_waited_for_scores_is_none(tmp_path: Path, world: World) -> None:
    found = records(run(tmp_path, experiment(dataset={"scenes": ["one"], "lengths": [9, 24]})))
    pace = {
        dataset: {m.name: m for m in record.measurements if m.family == "throughput" and not m.variant}
        for (dataset, _), record in found.items()
    }
    assert pace["synthetic, 9 frames"]["end_to_end_fps"].value is not None
    for name in ("end_to_end_fps", "harness_overhead"):
        assert "shorter lengths were scored" in (pace["synthetic, 24 frames"][name].reason or "")
    assert pace["synthetic, 24 frames"]["forward_fps"].value == pytest.approx(1000)


def test_what_is_done_stays_done_when_the_stream_breaks(tmp_path: Path, world: World) -> None:
    def breaks(scene: str, index: int) -> None:
        if index == 20:
            raise RuntimeError("out of luck")

    world.misbehave = {"good": breaks}
    what = experiment(dataset={"scenes": ["one"], "lengths": [9, 14, 24]})
    first = Quiet()
    outcome = run(tmp_path, what, first)
    assert (outcome.done, outcome.failed) == (2, 1)
    assert {dataset: record.status for (dataset, _), record in records(outcome).items()} == {
        "synthetic, 9 frames": "ok",
        "synthetic, 14 frames": "ok",
        "synthetic, 24 frames": "failed",
    }
    world.misbehave = {}
    again = Quiet()
    outcome = run(tmp_path, what, again)
    assert (outcome.done, outcome.skipped, outcome.failed) == (1, 2, 0)
    assert [line for line in again.lines if line.startswith("skipped")] == [
        f"skipped synthetic, {length} frames/one/good" for length in (14, 9)
    ]
    assert outcome.record.status == "complete"


def test_a_beginning_that_cannot_be_scored_has_its_own_turn(tmp_path: Path, world: World) -> None:
    """Nothing usable in the first 9 frames: that length fails for its reason, the others do not."""
    world.methods = {"clock": lambda seconds: seconds}
    world.adapter.scenes_there = {"one": {"broken_at": 12}}
    outcome = run(tmp_path, experiment(dataset={"scenes": ["one"], "lengths": [9, 14, 24]}))
    found = records(outcome)
    assert found["synthetic, 9 frames", "one"].status == "ok"
    assert {found[f"synthetic, {length} frames", "one"].failed_at_frame for length in (14, 24)} == {12}
    assert streams(world) == 2, "14 and 24 frames each broke"


def test_a_beginning_whose_scores_fail_once_is_streamed_by_itself(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came of it on the longer one's way counts for nothing, and costs the longer ones nothing."""
    score, failed = SceneScorer.score, list[int]()

    def once(self: SceneScorer, reference: Any, total_frames: int, warm_up_s: float | None) -> Any:
        if total_frames == 9 and not failed:
            failed.append(total_frames)
            raise RuntimeError("no such alignment")
        return score(self, reference, total_frames, warm_up_s)

    monkeypatch.setattr(SceneScorer, "score", once)
    outcome = run(
        tmp_path,
        experiment(
            dataset={"scenes": ["one"], "lengths": [9, 14, 24]}, metrics=dict.fromkeys(("drift", "auc", "depth"))
        ),
    )
    found = records(outcome)
    assert failed == [9]
    assert [record.status for record in found.values()] == ["ok"] * 3
    assert [record.frames for record in found.values()] == [9, 14, 24]
    assert [record.stream_frames for record in found.values()] == [None, 24, None]
    assert streams(world) == 2
    assert (outcome.done, outcome.failed, outcome.record.status) == (3, 0, "complete")


def test_beginnings_that_a_saved_state_is_past_have_their_own_turn() -> None:
    store: Any = None
    way = Beginnings(store, {}, [(end, Task()) for end in (5, 9, 14, 20)])
    way.pass_over(9)
    assert [way.due(frames) for frames in (9, 13, 14, 15)] == [False, False, True, True]
    assert [end for end, _ in way.waiting] == [14, 20]


def test_which_streams_are_beginnings_of_others() -> None:
    def lingbot(**streaming: Any) -> LingbotConfig:
        return LingbotConfig.model_validate({"kind": "lingbot", "streaming": streaming})

    auto = lingbot()
    assert auto.stream_key(50) == auto.stream_key(320) != auto.stream_key(321)
    assert auto.stream_key(640) == auto.stream_key(400)
    assert auto.stream_key(5) != auto.stream_key(50), "fewer frames than enter together"
    fixed = lingbot(keyframe_interval=2)
    assert fixed.stream_key(50) == fixed.stream_key(10_000) is not None
    assert lingbot(windowed={"size": 32}).stream_key(50) is None
    replay = ReplayConfig(kind="replay", trajectory="x.txt")
    assert replay.stream_key(50) is None
    assert MotionlessConfig(kind="motionless").stream_key(50) == ()


@pytest.mark.parametrize("causal", [True, False])
def test_a_plugin_says_whether_it_is_causal(causal: bool) -> None:
    class Mine(BaseMethod):
        pass

    Mine.causal = causal
    settings: MethodSettings = _settings_type("mine_of_lengths", Mine)()
    assert (settings.stream_key(9) is not None) is causal


def test_lengths_that_auto_streams_otherwise_are_streamed_again(tmp_path: Path, world: World) -> None:
    methods = [{"kind": "lingbot", "name": "good", "device": "cpu", "streaming": {"windowed": {"size": 16}}}]
    run(tmp_path, experiment(dataset={"scenes": ["one"], "lengths": [9, 14]}, methods=methods))
    assert streams(world) == 2


def test_a_length_that_begins_otherwise_is_streamed_by_itself(tmp_path: Path, world: World) -> None:
    """Five frames enter together where the others have eight."""
    found = records(run(tmp_path, experiment(dataset={"scenes": ["one"], "lengths": [5, 9, 14]})))
    assert streams(world) == 2
    assert [record.frames for record in found.values()] == [5, 9, 14]


def test_strides_and_lengths_together(tmp_path: Path, world: World) -> None:
    outcome = run(tmp_path, experiment(dataset={"scenes": ["one"], "strides": [1, 2], "lengths": [9, 12]}))
    selections = {dataset: record.sequence["selection"] for (dataset, _), record in records(outcome).items()}
    assert selections == {
        f"synthetic, stride {stride}, {length} frames": {"start": 0, "stride": stride, "count": length}
        for stride in (1, 2)
        for length in (9, 12)
    }
    assert streams(world) == 2


@pytest.mark.parametrize(
    ("dataset", "selections"),
    [
        ({"lengths": [3, 5], "selection": {"start": 2, "stride": 4}}, [(2, 4, 3), (2, 4, 5)]),
        ({"strides": [2, 3], "selection": {"start": 1, "count": 6}}, [(1, 2, 6), (1, 3, 6)]),
    ],
)
def test_what_else_is_selected_holds_for_every_part(
    dataset: dict[str, Any], selections: list[tuple[int, int, int]]
) -> None:
    parts = experiment(dataset=dataset).in_parts().datasets
    assert [(part.selection.start, part.selection.stride, part.selection.count) for part in parts] == selections


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"lengths": [100, 50]}, "lengths: expected rising numbers, found 100, 50"),
        ({"strides": [2, 2]}, "strides: expected rising numbers, found 2, 2"),
        ({"lengths": [0]}, "lengths.0"),
        ({"lengths": [9], "selection": {"count": 5}}, "keep one"),
        ({"strides": [1, 2], "selection": {"stride": 5}}, "keep one"),
        ({"strides": [1, 2], "selection": {"stride": 1}}, "keep one"),
        ({"lengths": [9], "selection": {"count": None}}, "keep one"),
    ],
)
def test_bad_lengths_are_named(dataset: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        experiment(dataset=dataset)


def test_one_dataset_twice_under_labels(world: World) -> None:
    document = {
        "name": "two",
        "datasets": [{"name": "synthetic", "scenes": ["one"]}, {"name": "synthetic", "label": "b", "scenes": ["two"]}],
        "methods": [{"kind": "lingbot", "name": "good", "device": "cpu"}],
    }
    plan = make_plan(validated(Experiment, document, "test"))
    assert [unit.names[:2] for unit in plan.units] == [("synthetic", "one"), ("b", "two")]
    document["datasets"][0]["lengths"], document["datasets"][1]["label"] = [9], "synthetic, 9 frames"  # type: ignore[index]
    with pytest.raises(ConfigError, match="or a label, found 'synthetic, 9 frames' more than once"):
        validated(Experiment, document, "test")
    del document["datasets"][0]["lengths"]  # type: ignore[attr-defined]
    del document["datasets"][1]["label"]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="each needs a name of its own, or a label, found 'synthetic' more than once"):
        validated(Experiment, document, "test")


def test_variables_stay_names_in_every_part(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from lingbot_eval.runs.experiment import load_experiment

    monkeypatch.setenv("SECRET", "hidden")
    source = {
        "name": "two",
        "datasets": [
            {"name": "synthetic", "scenes": ["one"], "lengths": [9, 12]},
            {"name": "synthetic", "label": "b", "scenes": ["two"], "options": {"word": "${SECRET}"}},
        ],
        "methods": [{"kind": "lingbot", "name": "good", "device": "cpu"}],
    }
    stored = make_plan(load_experiment(source)).experiment.as_stored()
    assert [dataset["label"] for dataset in stored["datasets"]] == ["synthetic, 9 frames", "synthetic, 12 frames", "b"]
    assert stored["datasets"][2]["options"] == {"word": "${SECRET}"}
    assert "hidden" not in str(stored)


def test_the_model_itself(tmp_path: Path) -> None:
    """With the shipped weights: all numbers of a beginning are those of a stream that ended there."""

    def of(**dataset: Any) -> Experiment:
        size = {"mode": "exact", "width": 56, "height": 42}
        options = {"frames": 9, "width": 56, "height": 42}
        document = {
            "name": "model",
            "datasets": [{"name": "synthetic", "scenes": ["room"], "options": options, "size": size, **dataset}],
            "methods": [
                {
                    "kind": "lingbot",
                    "name": "model",
                    "device": "cpu",
                    "model": {"config": "ci", "checkpoint": "shipped"},
                    "streaming": {"scale_frames": 4, "window": 3, "backend": "sdpa"},
                }
            ],
            "keep": {"cloud": False},
        }
        return validated(Experiment, document, "test")

    found = records(run(tmp_path / "all", of(lengths=[6, 9])))
    (alone,) = records(run(tmp_path / "alone", of(selection={"count": 6}))).values()
    assert accuracy(found["synthetic, 6 frames", "room"]) == accuracy(alone)
