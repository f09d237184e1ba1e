"""What metrics declare: every stored measurement has a direction or is named as having none; which come first."""

from __future__ import annotations

from typing import Any

import pytest

from lingbot_eval.declarations import declaration, headline_place, headlines
from lingbot_eval.metrics.base import FAMILIES
from lingbot_eval.metrics.points import PointSettings
from lingbot_eval.metrics.probes import ProbeSettings
from lingbot_eval.profiling.memory import device_memory_measurements
from lingbot_eval.runs.experiment import MetricsConfig
from lingbot_eval.runs.scoring import SceneScorer
from lingbot_eval.stored.records import UnitRecord
from tests.stored.store_records import make_unit_record

LOWER = {
    "trajectory": "ate_rmse ate_mean ate_median ate_max rpe_translation_rmse rpe_rotation_rmse ate_share_of_motionless"
    " ate_share_of_path dropped_frames unmatched_frames",
    "drift": "segment_translation segment_rotation anchored_final_error loop_gap loop_gap_share jumps"
    " largest_step_error collapsed rpe_translation_rmse rpe_rotation_rmse",
    # The rank correlation of confidence and error is best at −1.
    "depth": "abs_rel sq_rel rmse log_rmse abs_rel_at_distance abs_rel_by_confidence confidence_rank_correlation"
    " frames_skipped unpredicted_pixels",
    "points": "accuracy completeness chamfer",
    "probes": "standstill_translation standstill_rotation standstill_drift rotation_translation rotation_drift"
    " rotation_error revisit_translation revisit_rotation",
    "throughput": "forward_latency end_to_end_interval harness_overhead first_output_latency warm_up",
    "memory": "process_rss process_peak_rss device_peak_allocated device_peak_reserved driver_process",
}
HIGHER = {
    "trajectory": "coverage matched_frames",
    "drift": "collapse_frame",
    "auc": " ".join(
        f"{kind}{definition}_{threshold}"
        for kind in ("auc", "racc", "tacc")
        for definition in ("", "_first_camera")
        for threshold in (3, 5, 15, 30)
    ),
    "depth": "delta_1_25 delta_1_25_2 delta_1_25_3 frames_scored",
    "points": "precision recall f1 normal_consistency",
    "throughput": "forward_fps end_to_end_fps",
}
NEITHER = {
    "trajectory": "scale path_length",
    "drift": "scale_drift largest_step_error_frame rpe_translation_low95 rpe_translation_high95 rpe_rotation_low95"
    " rpe_rotation_high95",
    "depth": "sampling_error",
}
REQUIRED = ("family", "name", "variant", "value", "unit", "convention")
EXPECTED = {
    (family, name): better
    for better, families in (("lower", LOWER), ("higher", HIGHER), (None, NEITHER))
    for family, names in families.items()
    for name in names.split()
}


DEFAULTS: dict[str, dict[str, Any]] = {
    "trajectory": {"alignments": ("sim3", "se3", "anchor", "none"), "anchor_frames": 8, "rpe_delta_frames": 1},
    "drift": {
        "segment_lengths_m": None,
        "segment_every": 10,
        "rpe_frames": (1, 10, 100),
        "rpe_metres": (1.0, 10.0),
        "anchor_frames": 8,
        "alignments": ("sim3", "se3", "anchor", "none"),
    },
    "auc": {"thresholds_deg": (3, 5, 15, 30)},
    "depth": {
        "alignments": ("scale_only", "lstsq", "none"),
        "sequence_alignments": ("sequence_scale", "sequence_lstsq", "trajectory_scale"),
        "sample_pixels": 2_000_000,
        "min_depth": 0.0,
        "max_depth": 80.0,
        "min_valid_pixels": 100,
    },
    "points": {
        "voxel_m": 0.0078125,
        "icp_m": 0.1,
        "threshold_m": 0.05,
        "normal_neighbours": 30,
        "max_points": 10_000_000,
    },
    "probes": {"frames": 10},
}


def test_what_is_measured_unless_an_experiment_says_otherwise() -> None:
    """A number is only as good as its settings: no default moves unnoticed."""
    assert {name: FAMILIES.get(name).Settings().model_dump() for name in DEFAULTS} == DEFAULTS
    assert [name for name in DEFAULTS if not FAMILIES.get(name).on] == ["points", "probes"]


def test_every_stored_measurement_has_its_direction() -> None:
    """Without a frame each measurement still comes out, with its reason: all names there are, each as listed above."""
    metrics = MetricsConfig(points=PointSettings(), probes=ProbeSettings())
    score = SceneScorer(metrics).score(None, 0, None)
    measurements = (*score.measurements, *device_memory_measurements("cpu"))
    # Of every variant, since some are declared by themselves.
    found = {(m.family, m.name, declaration(m.family, m.name, m.variant).better) for m in measurements}
    assert found == {(*name, better) for name, better in EXPECTED.items()}


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        *(("memory", "cache_window", "lower"), ("memory", "weights", "lower")),
        *(("throughput", "head_compilation", "lower"), ("throughput", "camera_head_fps", "higher")),
    ],
)
def test_directions_of_what_a_method_adds(family: str, name: str, expected: str) -> None:
    assert declaration(family, name).better == expected


def test_what_nobody_named_has_none() -> None:
    assert declaration("trajectory", "beauty").better is None
    assert declaration("taste", "ate_rmse").better is None


def test_headlines_come_in_the_order_of_their_places() -> None:
    """Places are given in several files: none is given twice."""
    places = [declared.headline for declared in headlines()]
    assert places == sorted(set(places))
    assert [declared.name for declared in headlines()][:3] == ["ate_rmse", "coverage", "rpe_translation_rmse"]
    assert headline_place("trajectory", "ate_rmse", "sim3") == 1
    assert headline_place("trajectory", "ate_rmse", "se3") > max(places)


def stored(**changes: Any) -> dict[str, Any]:
    """A measurement as it comes back from a record, where this is given in the file."""
    record = make_unit_record().model_dump()
    record["measurements"] = [
        {key: each for key, each in record["measurements"][0].items() if key in REQUIRED} | changes
    ]
    (found,) = UnitRecord.model_validate(record, strict=True).model_dump()["measurements"]
    return dict(found)


def test_records_older_than_declarations_read_as_new_ones() -> None:
    assert (stored()["better"], stored()["headline"]) == ("lower", True)
    assert (stored(variant="se3")["better"], stored(variant="se3")["headline"]) == ("lower", False)
    assert stored(name="coverage", variant="")["better"] == "higher"
    assert (stored(name="scale")["better"], stored(name="scale")["headline"]) == (None, False)


def test_what_a_plugin_said_stays() -> None:
    mine = stored(family="taste", name="beauty", better="higher", headline=True)
    assert (mine["better"], mine["headline"]) == ("higher", True)
    assert stored(name="ate_mine", better="higher")["better"] == "higher"


@pytest.mark.parametrize("right", [{"value": 9.9e299}, {"value": -9.9e299}, {"samples": 0}, {"samples": 2**53 - 1}])
def test_a_measurement_may_be_as_large_as_a_sum_can_bear(right: dict[str, Any]) -> None:
    assert stored(**right).items() >= right.items()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"value": value} for value in ("0.25", 1e300, -1e300, None)),
        *({"samples": samples} for samples in (2.0, -1, 2**53)),
        {"headline": 1},
        {"mean": 0.25},
    ],
)
def test_a_measurement_is_read_strictly(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="measurements"):
        stored(**wrong)
