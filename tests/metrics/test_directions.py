"""Every measurement that a run stores has a direction, or is named as having none."""

from __future__ import annotations

import pytest

from lingbot_eval.metrics.directions import direction, is_known
from lingbot_eval.metrics.points import PointSettings
from lingbot_eval.profiling.memory import device_memory_measurements
from lingbot_eval.runs.experiment import MetricsConfig
from lingbot_eval.runs.scoring import SceneScorer, Scoring


def test_every_stored_measurement_is_named() -> None:
    """Without a frame each measurement still comes out, with its reason: all names there are."""
    score = SceneScorer(Scoring(MetricsConfig(points=PointSettings()))).score(None, 0, None)
    measurements = (*score.measurements, *device_memory_measurements(None))
    assert {measurement.family for measurement in measurements} >= {"trajectory", "drift", "auc", "depth", "points"}
    unnamed = sorted({(m.family, m.name) for m in measurements if not is_known(m.family, m.name)})
    assert not unnamed, "say in lingbot_eval/metrics/directions.py which way is better, or that neither is"


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        ("trajectory", "ate_rmse", "lower"),
        ("trajectory", "coverage", "higher"),
        ("trajectory", "scale", None),
        ("auc", "auc_first_camera_30", "higher"),
        ("depth", "delta_1_25_2", "higher"),
        ("depth", "abs_rel_at_distance", "lower"),
        ("drift", "rpe_rotation_rmse", "lower"),
        ("drift", "rpe_rotation_high95", None),
        ("drift", "collapse_frame", "higher"),
        ("points", "f1", "higher"),
        ("points", "accuracy", "lower"),
        ("throughput", "end_to_end_fps", "higher"),
        ("throughput", "forward_latency", "lower"),
        ("memory", "cache_window", "lower"),
    ],
)
def test_directions(family: str, name: str, expected: str | None) -> None:
    assert direction(family, name) == expected
    assert is_known(family, name)


def test_what_nobody_named_has_none() -> None:
    assert direction("trajectory", "beauty") is None
    assert not is_known("trajectory", "beauty")
    assert not is_known("taste", "ate_rmse")
