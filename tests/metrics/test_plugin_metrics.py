"""Metrics of plugins, without a run around them: what their functions are given, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lingbot_eval.declarations import headline_place, headlines, published_as, titles, with_declaration
from lingbot_eval.errors import ConfigError, UnscorableError
from lingbot_eval.metrics import base
from lingbot_eval.metrics.base import METRICS, DepthMetrics, Metric, because, metric, told_apart, trajectory_metrics
from lingbot_eval.metrics.depth_sample import least_absolute_scale
from lingbot_eval.metrics.matching import MatchedPoses
from lingbot_eval.metrics.scoring import score
from lingbot_eval.types import Measurement, Trajectory


def mine(function: Callable[..., Any], **changes: Any) -> Metric:
    given: dict[str, Any] = {
        "family": "trajectory",
        "name": "mine",
        "unit": "m",
        "better": "higher",
        "convention": "as I count",
        "align": "sim3",
        "headline": False,
    }
    return Metric(**{**given, **changes}, function=function)


@pytest.mark.parametrize("headline", [True, False])
@pytest.mark.parametrize(("align", "variant"), [("sim3", "sim3"), ("none", ""), ("scale_only", "scale_only")])
def test_a_result_has_all_that_was_declared(headline: bool, align: str, variant: str) -> None:
    found = mine(len, headline=headline, align=align).measured(lambda: np.float32(1.5), 7)
    assert found == Measurement(
        "trajectory", "mine", variant, 1.5, "m", "as I count", 7, None, better="higher", headline=headline
    )


def raising(error: BaseException) -> Callable[[], float]:
    def compute() -> float:
        raise error

    return compute


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (raising(UnscorableError("it stands still")), "it stands still"),
        (raising(ZeroDivisionError("by\nzero")), "the metric failed: "),
        (raising(SystemExit(3)), "the metric failed: "),
        (lambda: float("nan"), "the metric gave nan, which is no result"),
        (lambda: float("-inf"), "the metric gave -inf, which is no result"),
        (lambda: "text", "the metric failed: "),
    ],
)
def test_what_is_no_result_is_a_reason(compute: Callable[[], Any], reason: str) -> None:
    found = mine(len).measured(compute, 3)
    assert found.value is None
    assert found.samples == 3
    assert str(found.reason).startswith(reason)
    assert "\n" not in str(found.reason)


def test_a_metric_can_be_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        mine(len).measured(raising(KeyboardInterrupt()), 3)


def test_a_trajectory_metric_gets_frames_times_and_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0.0, 1.0, 3.0]
    seen: list[Any] = []

    def function(reference: Any, estimate: Any) -> float:
        seen.append((reference, estimate))
        return 4.0

    monkeypatch.setattr(
        base, "declared", lambda family: (mine(function), mine(function, align="none"))[: 2 * (family == "trajectory")]
    )
    matched = MatchedPoses(np.array([2, 5, 7]), poses, 2 * poses, 0, 0)
    aligned = {"sim3": poses + 1, "none": poses + 2}
    found = list(trajectory_metrics(matched, np.array([0.2, 0.5, 0.7]), lambda name: aligned[name]))
    assert [(m.variant, m.value, m.samples) for m in found] == [("sim3", 4.0, 3), ("", 4.0, 3)]
    for (reference, estimate), name in zip(seen, ("sim3", "none"), strict=True):
        for each in (reference, estimate):
            assert each.indices.tolist() == [2, 5, 7]
            assert each.timestamps.tolist() == [0.2, 0.5, 0.7]
        np.testing.assert_array_equal(reference.camera_to_world, poses)
        np.testing.assert_array_equal(estimate.camera_to_world, aligned[name])


def test_a_trajectory_metric_gets_the_times_of_the_frames_that_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate begins late and lacks frames on the way: a speed of 2 m/s stays one."""
    monkeypatch.setattr(METRICS, "_added", dict(METRICS._added))

    def top_speed(reference: Any, estimate: Any) -> float:
        del estimate
        steps = np.linalg.norm(np.diff(reference.camera_to_world[:, :3, 3], axis=0), axis=1)
        return float((steps / np.diff(reference.timestamps)).max())

    metric("trajectory", unit="m/s", better="lower", convention="of the reference", align="none")(top_speed)
    times = np.array([0.0, 1, 3, 4, 8, 9, 11, 12])
    poses = np.tile(np.eye(4), (8, 1, 1))
    poses[:, 0, 3] = 2 * times
    kept = np.array([1, 2, 4, 5, 7])
    found = score(
        Trajectory(np.arange(8), times, poses), Trajectory(kept, np.zeros(5), poses[kept]), without=("drift", "auc")
    )
    assert found["top_speed", ""].value == pytest.approx(2.0)


def test_a_trajectory_metric_gets_the_estimate_aligned_on_as_many_frames_as_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the fifth frame on the estimate is 1 m aside: the first four hold, and the first eight do not."""
    monkeypatch.setattr(METRICS, "_added", dict(METRICS._added))

    def begins_off(reference: Any, estimate: Any) -> float:
        return float(np.abs(reference.camera_to_world[0] - estimate.camera_to_world[0]).max())

    metric("trajectory", unit="m", convention="of the first", align="anchor")(begins_off)
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, :3, 3] = np.random.default_rng(0).normal(size=(20, 3))
    aside = poses.copy()
    aside[4:, 0, 3] += 1.0
    whole, off = (Trajectory(np.arange(20), np.arange(20.0), each) for each in (poses, aside))
    four, eight = (score(whole, off, anchor_frames=count, without=("drift", "auc")) for count in (4, 8))
    assert four["begins_off", "anchor"].value == pytest.approx(0, abs=1e-9)
    assert eight["begins_off", "anchor"].value != pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"family": "sound"}, "metric family 'sound': expected one of trajectory, depth"),
        ({"align": "scale_only"}, "align 'scale_only': a trajectory metric takes sim3, se3, anchor, none"),
        ({"family": "depth", "align": "sim3"}, "align 'sim3': a depth metric takes scale_only, none"),
        ({"align": ""}, "align '': a trajectory metric takes sim3, se3, anchor, none"),
        ({"better": "more"}, "better 'more': expected 'lower', 'higher' or None"),
        ({"name": "ate_rmse"}, "metric 'ate_rmse' is taken by lingbot_eval itself; choose another name"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        metric(**{"family": "trajectory", "unit": "m", "convention": "as I count", **given})(len)
    assert str(refused.value) == words


@pytest.mark.parametrize(("family", "align"), [("trajectory", "sim3"), ("depth", "scale_only")])
def test_what_a_metric_is_unless_it_says_otherwise(monkeypatch: pytest.MonkeyPatch, family: Any, align: str) -> None:
    """Its name is the function's, or one that another family has."""
    monkeypatch.setattr(METRICS, "_added", dict(METRICS._added))

    def my_own(truth: Any, prediction: Any) -> float:
        return 0.0

    taken_elsewhere = {"trajectory": "abs_rel", "depth": "ate_rmse"}[family]
    for name in (None, taken_elsewhere):
        assert metric(family, unit="m", convention="as I count", name=name)(my_own) is my_own
    assert base.declared(family)[-2:] == tuple(
        Metric(family, name, "m", None, "as I count", align, True, my_own) for name in ("my_own", taken_elsewhere)
    )
    with pytest.raises(NotImplementedError, match=r"^MetricFamily.compute\(scene\) gives the family's measurements$"):
        base.MetricFamily(None, base.SceneContext()).compute(None)  # type: ignore[arg-type]


def depth_metrics(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], align: str = "scale_only"
) -> DepthMetrics:
    found = mine(function, family="depth", align=align)
    monkeypatch.setattr(base, "declared", lambda family: (found,) if family == "depth" else ())
    return DepthMetrics((1.0, 5.0))


@pytest.mark.parametrize(("align", "scale"), [("scale_only", 2.0), ("none", 1.0)])
def test_a_depth_metric_gets_the_valid_pixels_in_metres(
    monkeypatch: pytest.MonkeyPatch, align: str, scale: float
) -> None:
    seen: list[Any] = []

    def function(truth: Any, prediction: Any) -> float:
        seen.append((truth, prediction))
        return float(len(seen))

    metrics = depth_metrics(monkeypatch, function, align)
    truth = np.full((10, 12), 3.0, np.float32)
    guess = np.full((10, 12), 1.5, np.float32)
    truth[0, :5] = [1.0, 5.0, 0.5, 9.0, np.nan]
    guess[1, :4] = [0.0, -1.0, np.nan, np.inf]
    metrics.add(truth, guess)
    metrics.add(truth, guess)
    assert len(seen) == 2
    for right, found in seen:
        assert {right.dtype, found.dtype} == {np.dtype(np.float64)}
        np.testing.assert_array_equal(right, np.full(120 - 9, 3.0))
        np.testing.assert_array_equal(found, np.full(120 - 9, 1.5 * scale))
    (measured,) = metrics.measurements(None)
    assert (measured.value, measured.samples) == (1.5, 2)
    # Nothing to compare, or of another size, or too few pixels.
    metrics.add(None, guess)
    metrics.add(truth, None)
    metrics.add(truth[:5], guess)
    metrics.add(np.full((9, 11), 3.0, np.float32), np.full((9, 11), 1.5, np.float32))
    assert len(seen) == 2
    metrics.add(np.full((10, 10), 3.0, np.float32), np.full((10, 10), 1.5, np.float32))
    assert len(seen) == 3


def test_a_depth_metric_without_a_frame_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(truth: Any, prediction: Any) -> float:
        raise UnscorableError(f"reason {truth[0]:g}")

    metrics = depth_metrics(monkeypatch, function)
    assert [m.reason for m in metrics.measurements(None)] == ["no frame has true and predicted depth"]
    for value in (2.0, 3.0):
        metrics.add(np.full((10, 12), value, np.float32), np.ones((10, 12), np.float32))
    assert [m.reason for m in metrics.measurements(None)] == ["reason 2"]  # the first
    assert [m.reason for m in metrics.measurements("the method gives none")] == ["the method gives none"]


@pytest.mark.parametrize(("variant", "name"), [("", "hops/long"), ("10 m", "hops/long/10 m")])
def test_what_is_measured_twice_is_named(variant: str, name: str) -> None:
    one = Measurement("hops", "long", variant, 1.0, "frames", "words")
    others = [replace(one, name="short"), replace(one, family="skips"), replace(one, variant="5 m")]
    assert told_apart([one, *others]) == [one, *others]
    with pytest.raises(ConfigError, match=f"^{name} is measured twice; give the plugin's measurement another name$"):
        told_apart([one, *others, replace(one, value=2.0)])


def test_one_reason_stands_for_those_that_follow_from_it() -> None:
    fine = mine(len).measured(lambda: 1.0, 1)
    failed = mine(len).measured(raising(UnscorableError("its own")), 1)
    assert because([fine, failed], "no reference") == [fine, because([failed], "no reference")[0]]
    assert because([failed], "no reference")[0].reason == "no reference"


def test_headlines_come_in_their_order_and_plugins_behind() -> None:
    places = [declared.headline for declared in headlines()]
    assert places == sorted(places)
    assert len(set(places)) == len(places)
    assert places[0] == 1
    assert headline_place("trajectory", "ate_rmse", "sim3") == 1
    assert headline_place("trajectory", "mine", "sim3") > max(places)
    assert headline_place("of a plugin", "mine", "") == headline_place("trajectory", "ate_max", "none")
    named = list(titles())
    assert named[:2] == [("trajectory", "ate_rmse", "sim3"), ("trajectory", "coverage", "")]


@pytest.mark.parametrize(
    ("name", "key", "average"),
    [
        ("ate_m", ("trajectory", "ate_rmse", "sim3"), "mean"),
        ("ate_m_macro", ("trajectory", "ate_rmse", "sim3"), "mean"),
        ("ate_m_micro", ("trajectory", "ate_rmse", "sim3"), "micro"),
        ("auc_5", ("auc", "auc_5", ""), "mean"),
        ("auc_5_macro_micro", ("auc", "auc_5", ""), "micro"),
        ("accuracy_m", ("points", "accuracy", ""), "mean"),
        ("completeness_m", ("points", "completeness", ""), "mean"),
        ("normal_consistency", ("points", "normal_consistency", ""), "mean"),
        ("f1_percent", ("points", "f1", ""), "mean"),
        ("accuracy_median_m", ("points", "accuracy", "median"), "mean"),
        ("completeness_median_m", ("points", "completeness", "median"), "mean"),
        ("normal_consistency_median", ("points", "normal_consistency", "median"), "mean"),
        ("chamfer_m", ("points", "chamfer", ""), "mean"),
        ("precision_percent", ("points", "precision", ""), "mean"),
        ("recall_percent", ("points", "recall", ""), "mean"),
        ("video_abs_rel_metric", ("depth", "abs_rel", "video_metric"), "mean"),
        ("video_abs_rel_scale", ("depth", "abs_rel", "video_scale"), "mean"),
        ("video_abs_rel_scale_shift", ("depth", "abs_rel", "video_scale_shift"), "mean"),
        ("video_delta_1_25_metric_percent", ("depth", "delta_1_25", "video_metric"), "mean"),
        ("video_delta_1_25_scale_percent", ("depth", "delta_1_25", "video_scale"), "mean"),
        ("video_delta_1_25_scale_shift_percent", ("depth", "delta_1_25", "video_scale_shift"), "mean"),
    ],
)
def test_names_on_cards_are_found(name: str, key: tuple[str, str, str], average: str) -> None:
    assert published_as(name) == (key, average)
    assert published_as(f"x{name}") is None


def test_columns_of_depth_points_and_probes_have_the_names_that_papers_and_readers_use() -> None:
    found = {key: title for key, title in titles().items() if key[0] in ("auc", "depth", "points", "probes")}
    assert found == {
        ("auc", "auc_30", ""): "AUC@30 (%)",
        ("auc", "auc_first_camera_30", ""): "AUC@30 of the first camera (%)",
        ("depth", "abs_rel", "scale_only"): "AbsRel",
        ("depth", "delta_1_25", "scale_only"): "δ<1.25 (%)",
        ("depth", "abs_rel", "video_metric"): "AbsRel, metric",
        ("depth", "delta_1_25", "video_metric"): "δ<1.25, metric (%)",
        ("depth", "abs_rel", "video_scale"): "AbsRel, one scale",
        ("depth", "delta_1_25", "video_scale"): "δ<1.25, one scale (%)",
        ("depth", "abs_rel", "video_scale_shift"): "AbsRel, scale and shift",
        ("depth", "delta_1_25", "video_scale_shift"): "δ<1.25, scale and shift (%)",
        ("points", "accuracy", ""): "Acc (m)",
        ("points", "completeness", ""): "Comp (m)",
        ("points", "normal_consistency", ""): "NC",
        ("points", "f1", ""): "F1 (%)",
        ("probes", "standstill_translation", "sim3"): "moves at standstill (m/frame)",
        ("probes", "rotation_translation", "sim3"): "moves while turning (m/frame)",
        ("probes", "revisit_translation", "sim3"): "error on return (m)",
    }


def test_what_a_measurement_says_of_itself_goes_before_its_family() -> None:
    plain = Measurement("trajectory", "ate_rmse", "sim3", 1.0, "m", "words")
    assert (with_declaration(plain).better, with_declaration(plain).headline) == ("lower", True)
    own = Measurement("trajectory", "ate_rmse", "none", 1.0, "m", "words", better="higher", headline=True)
    assert (with_declaration(own).better, with_declaration(own).headline) == ("higher", True)
    aside = Measurement("trajectory", "ate_max", "none", 1.0, "m", "words")
    assert with_declaration(aside).headline is False


def test_a_scale_that_papers_find_is_positive() -> None:
    truth = np.array([1.0, 2.0, 3.0, 40.0])
    assert least_absolute_scale(truth, truth / 2) == pytest.approx(2)
    # Half of the pixels and more say 2: what one of them says counts for nothing.
    assert least_absolute_scale(np.array([2.0, 2, 2, 2, 90]), np.ones(5)) == pytest.approx(2, rel=0.01)
    assert least_absolute_scale(np.full(3, 1e-5), np.ones(3)) == 1e-3
