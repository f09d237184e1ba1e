"""What is scored of a scene while it streams: rows, times, panels and limits, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import FRAMES, FakeSequence, experiment

from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError
from lingbot_eval.metrics.base import FAMILIES
from lingbot_eval.metrics.depth import DepthSettings
from lingbot_eval.runs import scene as scene_module
from lingbot_eval.runs import scoring as scoring_module
from lingbot_eval.runs.experiment import MetricsConfig
from lingbot_eval.runs.plan import Unit
from lingbot_eval.runs.scene import SceneTask
from lingbot_eval.runs.scoring import MOTIONLESS, PanelKeeper, PoseLog, SceneScorer
from lingbot_eval.runs.stream import Output
from lingbot_eval.types import Frame, FrameType, Measurement, Prediction, StepCost, Trajectory
from lingbot_eval.viewing.kept import KeepSettings

POSES = ("trajectory", "drift", "auc", "probes")
NOTHING = MetricsConfig(trajectory=None, drift=None, auc=None, depth=None)
IMAGE = np.zeros((10, 20, 3), np.uint8)


def pose(index: int) -> np.ndarray:
    found = np.eye(4)
    found[:3, 3] = [index, index**2, 0.5]
    return found


def output(
    index: int,
    kind: FrameType | None = FrameType.KEPT,
    cost: StepCost | None = None,
    interval_s: float = 0.5,
    depth: tuple[float, float] | None = None,
    **prediction: Any,
) -> Output:
    """depth: true and predicted, of all pixels."""
    maps = [None, None] if depth is None else [np.full(IMAGE.shape[:2], value, np.float32) for value in depth]
    frame = Frame(index, index / 10, IMAGE, "here", pose(index), maps[0])
    given = {"camera_to_world": pose(index), "depth": maps[1], "frame_type": kind, "cost": cost} | prediction
    return Output(frame, Prediction(index, index / 10, **given), interval_s, 0.0, None)


def by_name(measurements: tuple[Measurement, ...]) -> dict[tuple[str, str], Measurement]:
    return {(m.name, m.variant): m for m in measurements}


def test_a_row_says_what_the_frame_was_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring_module, "process_resident_bytes", lambda: 12345)
    scorer = SceneScorer(MetricsConfig())
    caches = {"anchor": 1, "window": 2, "memory": 3, "camera_head": 4}
    cost = StepCost(0.25, caches, device_bytes=99, cache_allocated=77)
    assert scorer.add(output(6, FrameType.SCALE, cost, 0.5, (2.0, 2.0))) == {
        "index": 6,
        "timestamp": 0.6,
        "frame_type": "scale",
        "forward_ms": 250.0,
        "interval_ms": 500.0,
        "depth_abs_rel": 0.0,
        "cache_anchor_bytes": 1,
        "cache_window_bytes": 2,
        "cache_memory_bytes": 3,
        "cache_camera_head_bytes": 4,
        "device_bytes": 99,
        "process_bytes": 12345,
    }
    row = scorer.add(output(7, None))
    assert {key for key, value in row.items() if value is None} == set(row) - {
        "index",
        "timestamp",
        "interval_ms",
        "process_bytes",
    }
    assert scorer.predictions == 2
    assert SceneScorer(NOTHING, is_timed=False).add(output(0))["interval_ms"] is None


@pytest.mark.parametrize(
    ("mask", "abs_rel"),
    [
        (None, 0.5),
        (np.zeros((10, 20), bool), 0.5),
        (np.arange(200).reshape(10, 20) < 50, 0.0),
        (np.ones((5, 10), bool), 0.5),  # of another size: of other pixels
    ],
    ids=["none", "nothing", "what is wrong", "another size"],
)
def test_pixels_that_are_left_out_are_of_no_score(mask: np.ndarray | None, abs_rel: float) -> None:
    """A quarter is three times as far as the rest, which has the truth."""
    guess = np.full(IMAGE.shape[:2], 2.0, np.float32)
    guess.flat[:50] = 6.0
    left_out: Any = SimpleNamespace(found=lambda frame, prediction: mask, words=lambda: "masks")
    each = output(0, depth=(2.0, 2.0))
    each = replace(each, prediction=replace(each.prediction, depth=guess))
    assert SceneScorer(MetricsConfig(), left_out=left_out).add(each)["depth_abs_rel"] == pytest.approx(abs_rel)


def test_times_are_those_of_the_stream_or_none() -> None:
    def scored(without: int | None = None, paced: bool = True, **scoring: Any) -> dict[tuple[str, str], Measurement]:
        scorer = SceneScorer(NOTHING, **scoring)
        for index in range(12):
            kind = FrameType.SCALE if index < 2 else None if index == 5 else FrameType.UNKEPT
            scorer.add(output(index, kind, None if index == without else StepCost(0.001 * (index + 1)), 0.25))
        scorer.paced = paced
        return by_name(scorer.score(None, 12, 1.5).measurements)

    found = scored()
    assert found["end_to_end_fps", ""].value == pytest.approx(4.0)
    # Ten steps that are no scale frames: 3 to 12 ms.
    assert found["forward_latency", "p50"].value == pytest.approx(7.5)
    assert found["forward_latency", "p50"].samples == 10
    assert found["warm_up", ""].value == pytest.approx(1500)
    # One that says nothing of its time would shift all that follow.
    assert scored(without=4)["forward_latency", "p50"].value is None
    untimed = scored(is_timed=False)
    assert untimed["end_to_end_fps", ""].reason == "no image is read: nothing is timed"
    assert untimed["end_to_end_fps", ""].samples is None
    shared = scored(paced=False)
    for name in ("end_to_end_fps", "harness_overhead"):
        assert shared[name, ""].value is None, name
        assert str(shared[name, ""].reason).startswith("shorter lengths were scored along this stream")
    assert shared["end_to_end_interval", "p50"].value is None
    assert shared["forward_latency", "p50"].value == pytest.approx(7.5)


def test_scores_of_poses_have_their_columns_drift_and_notes() -> None:
    scorer = SceneScorer(MetricsConfig(depth=None), motionless=True)
    for index in range(12):
        scorer.add(output(index, camera_to_world=None if index == 3 else pose(index)))
    reference = Trajectory(np.arange(12), np.arange(12) / 10, np.stack([pose(index) for index in range(12)]))
    score = scorer.score(reference, 24, None)
    assert score.notes[-1] == MOTIONLESS
    assert score.estimate.indices.tolist() == [index for index in range(12) if index != 3]
    assert list(score.columns["position_error_m"]) == score.estimate.indices.tolist()
    assert max(score.columns["position_error_m"].values()) < 1e-9
    assert list(score.columns["rotation_error_deg"]) == score.estimate.indices.tolist()
    assert score.drift is not None
    assert by_name(score.measurements)["coverage", ""].value == pytest.approx(100 * 11 / 24)
    turned = SceneScorer(MetricsConfig(depth=None))
    for index in range(12):
        turned.add(output(index, has_orientation=index != 7))
    assert list(turned.score(reference, 24, None).columns) == ["position_error_m"], "one pose does not say how it turns"
    # Nobody asked for poses: no columns, no drift.
    nothing = SceneScorer(NOTHING).score(reference, 24, None)
    assert (nothing.columns, nothing.drift) == ({}, None)
    assert MOTIONLESS not in nothing.notes


def test_a_reference_without_poses_is_none() -> None:
    scorer = SceneScorer(MetricsConfig(auc={}, probes={}))
    for index in range(5):
        scorer.add(output(index))
    none = Trajectory(np.empty(0, np.int64), np.empty(0), np.empty((0, 4, 4)))
    said = [
        [(m.family, m.name, m.reason) for m in scorer.score(reference, 5, None).measurements if m.family in POSES]
        for reference in (None, none)
    ]
    assert said[0] == said[1]
    assert {family for family, _, reason in said[1] if reason == "no reference poses"} == set(POSES)


def test_poses_are_kept_with_their_frames_times_and_whether_they_turn() -> None:
    log = PoseLog()
    assert log.trajectory().camera_to_world.shape == (0, 4, 4)
    assert log.trajectory().has_orientation
    log.append(3, 0.25, pose(3).astype(np.float32))
    log.append(5, 0.5, pose(5).T.copy().T, has_orientation=False)
    log.append(6, 0.75, pose(6))
    found = log.trajectory()
    assert (found.indices.tolist(), found.timestamps.tolist()) == ([3, 5, 6], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(found.camera_to_world, [pose(3), pose(5), pose(6)])
    assert not found.has_orientation, "one that has none leaves the whole without"
    with pytest.raises(ValueError, match=r"expected a \(4, 4\) pose of frame 9, found shape \(3, 4\)"):
        log.append(9, 1.0, np.eye(4)[:3])


def offered(settings: DepthSettings | None, count: int) -> list[int]:
    keeper = PanelKeeper(settings)
    for index in range(count):
        each = output(10 * index, depth=(2.0, 1.0))
        keeper.offer(each.frame, each.prediction, scored=settings is not None)
    panels = keeper.panels()
    assert panels is not None
    return [index // 10 for index in panels.index.tolist()]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8, 9, 10, 16, 17, 33])
def test_panels_are_spread_from_first_to_last(count: int) -> None:
    """At most eight are held: from the ninth on every second one, from the seventeenth every fourth."""
    found = offered(DepthSettings(), count)
    assert (found[0], len(found)) == (0, min(4, count))
    spacing = next(spacing for spacing in (1, 2, 4, 8) if count <= 8 * spacing)
    assert all(index % spacing == 0 for index in found)
    assert found[-1] == (count - 1) // spacing * spacing
    assert found == offered(None, count)


@pytest.mark.parametrize("before", [0, 3, 20])
def test_panels_of_scored_frames_begin_anew_with_the_first_of_them(before: int) -> None:
    """However many came before it, which had no truth; those that come after without any change nothing."""
    keeper = PanelKeeper(DepthSettings())
    for index in range(before + 11):
        each = output(index, depth=(2.0, 1.0))
        keeper.offer(each.frame, each.prediction, scored=before <= index < before + 9)
    panels = keeper.panels()
    assert panels is not None
    assert panels.index.tolist() == [before, before + 2, before + 6, before + 8]


def test_a_frame_that_is_not_scored_shows_no_truth() -> None:
    keeper = PanelKeeper(DepthSettings())
    each = output(0, depth=(2.0, 1.0))
    assert each.frame.depth is not None
    keeper.offer(each.frame, each.prediction, scored=False)
    panels = keeper.panels()
    assert panels is not None
    assert not panels.truth.any()
    np.testing.assert_array_equal(panels.prediction[0], each.prediction.depth)


def test_panels_show_depth_in_metres_and_nothing_where_there_is_none() -> None:
    truth = np.full((10, 20), 4.0, np.float32)
    truth[0, :5] = 0.5, 9.0, 0.0, 1.0, 8.0  # too near, too far, none; each limit itself is out of it
    guess = np.full((10, 20), 2.0, np.float32)
    guess[1, :4] = np.nan, -1.0, 5.0, np.inf
    keeper = PanelKeeper(DepthSettings(min_depth=1.0, max_depth=8.0))
    each = output(3, depth=(1.0, 1.0))
    image = np.arange(600, dtype=np.uint8).reshape(10, 20, 3)
    frame = replace(each.frame, depth=truth, image=image)
    keeper.offer(frame, replace(each.prediction, depth=guess), scored=True)
    # Of another size, without depth, without an image: nothing to show.
    keeper.offer(replace(frame, image=image[:5]), replace(each.prediction, depth=guess), scored=True)
    keeper.offer(frame, replace(each.prediction, depth=None), scored=True)
    keeper.offer(replace(frame, image=None), replace(each.prediction, depth=guess), scored=True)
    panels = keeper.panels()
    assert panels is not None
    assert panels.index.tolist() == [3]
    np.testing.assert_array_equal(panels.image[0], image)
    assert panels.truth[0, 0, :6].tolist() == [0, 0, 0, 0, 0, 4]
    assert panels.prediction[0, 1, :5].tolist() == [0, 0, 10, 0, 4]  # twice as large, as the medians say
    assert {panels.truth.dtype, panels.prediction.dtype} == {np.dtype(np.float32)}


def task(metrics: MetricsConfig | None = None, keep: dict[str, Any] | None = None, **dataset: Any) -> SceneTask:
    settings = experiment(dataset=dataset)
    return SceneTask(
        Unit(settings.datasets[0], "one", settings.methods[0]), metrics or MetricsConfig(), KeepSettings(**(keep or {}))
    )


class Asked(FakeSequence):
    """What is to be decoded?"""

    def loaders(self, *, images: bool = True, depth: bool = True) -> Any:
        self.asked = images, depth
        return super().loaders(images=images, depth=depth)


@pytest.mark.parametrize(
    ("metrics", "keep", "gives_depth", "needs_images", "asked"),
    [
        ({}, {"cloud": False}, True, True, (True, True)),
        ({"depth": None}, {"cloud": False}, True, True, (True, False)),
        ({"depth": None, "points": {}}, {"cloud": False}, True, True, (True, True)),
        ({}, {"cloud": False}, False, True, (True, False)),
        ({}, {"cloud": False}, True, False, (True, True)),  # panels show the image, and it tells the size
        ({}, {"cloud": True}, False, False, (False, False)),
        ({"depth": None}, {"cloud": False}, True, False, (False, False)),
        ({"depth": None}, {"cloud": True}, True, False, (True, False)),
        ({"depth": None}, {"cloud": False, "sky": "heuristic"}, True, False, (True, False)),
    ],
)
def test_no_more_is_decoded_than_somebody_looks_at(
    monkeypatch: pytest.MonkeyPatch,
    metrics: dict[str, Any],
    keep: dict[str, Any],
    gives_depth: bool,
    needs_images: bool,
    asked: tuple[bool, bool],
) -> None:
    found = task(MetricsConfig(**metrics), keep)
    monkeypatch.setattr(type(found.method), "gives_depth", gives_depth)
    prepared: list[int] = []

    def prepare(frame: Frame, size: object) -> Frame:
        assert size is found.unit.size
        prepared.append(frame.index)
        return frame

    monkeypatch.setattr(scene_module, "prepare", prepare)
    sequence = Asked("one", Selection())
    frames = list(found.frames(sequence, SimpleNamespace(needs_images=needs_images)))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert sequence.asked == asked
    assert sorted(prepared) == (list(range(FRAMES)) if asked[0] else [])


@pytest.mark.parametrize("limits", [None, (0.5, 3.0)])
def test_what_the_scorer_is_told_of_a_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: tuple[float, float] | None
) -> None:
    found = task(MetricsConfig(depth={"max_depth": 7.0}), {"scored": "kept"}, depth_range=limits)  # type: ignore[arg-type]
    told: list[SimpleNamespace] = []
    kept = lambda metrics, **given: told.append(SimpleNamespace(metrics=metrics, **given))  # noqa: E731
    monkeypatch.setattr(scene_module, "SceneScorer", kept)
    writer: Any = SimpleNamespace(path=lambda name: tmp_path / name)
    for needs_images in (True, False):
        found.scorer(SimpleNamespace(needs_images=needs_images), FakeSequence("one", Selection()), writer)
    assert [each.is_timed for each in told] == [True, False]
    assert told[0].metrics.depth is not None
    depth = told[0].metrics.depth
    assert (depth.min_depth, depth.max_depth) == (limits or (0.0, 7.0))
    assert told[0].depth_limits == (limits or (0.0, 80.0))
    assert (told[0].gives_depth, told[0].motionless) == (True, False)
    assert told[0].left_out is not None
    everything = task(keep={"scored": "all"})
    everything.scorer(SimpleNamespace(needs_images=True), FakeSequence("one", Selection()), writer)
    assert told[-1].left_out is None


@pytest.mark.parametrize(
    ("estimate", "predictions", "found"),
    [
        ([], 0, "found no prediction;"),
        ([], 5, "found 5 predictions without a pose;"),
        ([np.nan, 2.0], 5, "found 2 poses that are not finite or no rigid motion;"),
        ([np.nan, 1.0], 5, None),
    ],
)
def test_a_scene_without_a_usable_pose_is_no_success(
    estimate: list[float], predictions: int, found: str | None
) -> None:
    """Each pose is the identity's multiple."""
    poses = np.array([np.diag([scale, scale, scale, 1.0]) for scale in estimate]).reshape(-1, 4, 4)
    whole = Trajectory(np.arange(len(poses)), np.arange(len(poses)) / 10, poses)
    attempt: Any = SimpleNamespace(
        scorer=SimpleNamespace(score=lambda *given: SimpleNamespace(estimate=whole, given=given)),
        reference="the reference",
        frames=9,
        predictions=predictions,
        warm_up_s=0.5,
        scores=None,
    )
    if found is None:
        task().score(attempt)
        assert attempt.scores.given == ("the reference", 9, 0.5)
        return
    with pytest.raises(DataError, match="no usable pose: expected one at least, ") as refusal:
        task().score(attempt)
    assert found in str(refusal.value)
    assert attempt.scores is None


def test_lengths_of_one_scene_share_a_stream_the_longest_first() -> None:
    lengths: list[dict[str, Any]] = [
        {"name": "synthetic", "label": f"first {count}", "selection": {"count": count}} for count in (9, 3)
    ]
    lengths[1]["scenes"] = ["y", "x"]  # which scenes there are besides is nothing of a stream
    lengths.append({"name": "synthetic", "label": "all"})
    lengths.append({"name": "synthetic", "label": "every second", "selection": {"stride": 2, "count": 5}})
    lengths.append({"name": "synthetic", "label": "other rooms", "selection": {"count": 4}, "options": {"seed": 1}})
    settings = experiment("a", "b").model_copy()
    document = settings.model_dump(mode="json") | {"datasets": lengths}
    whole = type(settings).model_validate(document)
    units = [Unit(dataset, scene, method) for dataset in whole.datasets for scene in "xy" for method in whole.methods]
    found = scene_module.scene_tasks(units, whole)
    assert len(found) == len(units) == 20
    order = [each.names for each in found if each.names[1:] == ("x", "a")]
    assert [name for name, *_ in order] == ["all", "first 9", "first 3", "every second", "other rooms"]
    shorter = {each.names: [inner.names for inner in each.shorter] for each in found}
    assert shorter["all", "y", "b"] == [("first 3", "y", "b"), ("first 9", "y", "b")]
    assert shorter["first 9", "y", "b"] == [("first 3", "y", "b")]
    assert shorter["every second", "y", "b"] == shorter["first 3", "y", "b"] == shorter["other rooms", "y", "b"] == []
    assert len({id(each.adapters) for each in found}) == 1


@pytest.mark.parametrize(
    ("keep", "saves"), [({}, True), ({"cloud": False}, True), ({"sky": "heuristic"}, False), ({"masks": "."}, False)]
)
def test_what_counts_what_it_left_out_is_not_saved_on_its_way(keep: dict[str, Any], saves: bool) -> None:
    assert task(keep=keep).saves is saves


def test_what_a_plugins_family_gathers_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it, without = task(MetricsConfig()), task(MetricsConfig(auc=None))
    monkeypatch.setattr(type(FAMILIES), "added", lambda registry: (("auc", object()),))
    assert (with_it.saves, without.saves) == (False, True)
