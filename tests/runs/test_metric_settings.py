"""Every setting of a family of metrics changes what is measured: none is accepted, stated and ignored."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.metrics.base import FAMILIES
from lingbot_eval.runs.experiment import MetricsConfig
from lingbot_eval.runs.scoring import SceneScorer
from lingbot_eval.runs.stream import Output
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame, Prediction, Trajectory

FRAMES, WITH_DEPTH, SIDE = 150, 6, 30
K = np.array([[20.0, 0, 11.5], [0, 20.0, 11.5], [0, 0, 1]])


@cache
def scene() -> tuple[Trajectory, list[Output]]:
    """A winding walk; an estimate with noise, a jump, a drift of scale, tracking lost in the end; rough depth."""
    rng = np.random.default_rng(0)
    yaw = np.cumsum(0.05 * np.sin(np.arange(FRAMES) / 9) + 0.01 * rng.normal(size=FRAMES))
    turns = Rotation.from_rotvec(yaw[:, None] * [0.1, 1, 0.2]).as_matrix()
    steps = turns @ [0.0, 0, 1.0] * (0.5 + 0.2 * np.sin(np.arange(FRAMES) / 5))[:, None]
    truth = pose_matrix(turns, np.cumsum(steps, axis=0))
    estimate = truth.copy()
    estimate[:, :3, 3] = np.cumsum(steps * np.linspace(0.8, 1.4, FRAMES)[:, None], axis=0)
    estimate[:, :3, 3] += 0.02 * rng.normal(size=(FRAMES, 3))
    estimate[:, :3, :3] = turns @ Rotation.from_rotvec(0.1 * rng.normal(size=(FRAMES, 3))).as_matrix()
    estimate[60:, :3, 3] += [0.0, 2.0, 0.0]
    estimate[110:] = estimate[109]
    indices = np.arange(FRAMES)
    outputs = []
    for index in range(FRAMES):
        depth = guess = None
        if index < WITH_DEPTH:
            depth = rng.uniform(1, 6, (SIDE, SIDE)).astype(np.float32)
            depth[rng.random(depth.shape) < 0.1 * index] = 0
            guess = (0.5 * depth * np.exp(0.1 * rng.normal(size=depth.shape)) + 0.1).astype(np.float32)
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        frame = Frame(index, index / 10, image, "", truth[index], depth, K)
        confidence = None if guess is None else rng.uniform(1, 5, guess.shape).astype(np.float32)
        outputs.append(
            Output(frame, Prediction(index, index / 10, estimate[index], guess, confidence, K), 0.1, 0.1, None)
        )
    return Trajectory(indices, indices / 10, truth), outputs


def measured(family: str, **settings: Any) -> list[tuple[str, str, float | None]]:
    """What a family measures, and the points of its curves."""
    off = {name: None for name in FAMILIES.names() if name != family}
    scorer = SceneScorer(validated(MetricsConfig, {**off, family: settings}, "test"))
    reference, outputs = scene()
    for output in outputs:
        scorer.add(output)
    score = scorer.score(reference, FRAMES, None)
    series = () if score.drift is None else vars(score.drift).items()
    curves = [(name, "", round(float(np.nansum(values)), 9)) for name, values in series]
    return [(m.name, m.variant, m.value) for m in score.measurements if m.family == family] + curves


SETTINGS: dict[str, dict[str, Any]] = {
    "trajectory": {"alignments": ("none",), "anchor_frames": 20, "rpe_delta_frames": 5},
    "drift": {
        "segment_lengths_m": (5.0,),
        "segment_every": 7,
        "rpe_frames": (2,),
        "rpe_metres": (3.0,),
        "anchor_frames": 30,
        "alignments": ("none",),
    },
    "auc": {"thresholds_deg": (7,)},
    "depth": {
        "alignments": ("none",),
        "sequence_alignments": ("sequence_scale",),
        "sample_pixels": 1000,
        "min_depth": 2.0,
        "max_depth": 4.0,
        "min_valid_pixels": 500,
    },
    "points": {"voxel_m": 0.5, "icp_m": None, "threshold_m": 0.3, "normal_neighbours": 5, "max_points": 1000},
}


@pytest.mark.parametrize(("family", "setting"), [(family, name) for family, each in SETTINGS.items() for name in each])
def test_every_setting_changes_what_is_measured(family: str, setting: str) -> None:
    assert measured(family, **{setting: SETTINGS[family][setting]}) != measured(family)


def test_every_setting_is_here() -> None:
    for family in FAMILIES.names():
        if family != "probes":  # of walks made for them, in tests of their own
            assert set(FAMILIES.get(family).Settings.model_fields) == set(SETTINGS[family]), family
