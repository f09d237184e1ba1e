"""Depth of a few frames is kept for pictures whether or not there is truth; scored frames are preferred."""

from __future__ import annotations

import numpy as np

from lingbot_eval.metrics.depth import DepthSettings
from lingbot_eval.runs.scoring import PanelKeeper
from lingbot_eval.types import Frame, Prediction

IMAGE = np.zeros((2, 3, 3), np.uint8)


def offer(keeper: PanelKeeper, index: int, depth: float, truth: float | None) -> None:
    given = None if truth is None else np.full((2, 3), truth, np.float32)
    frame = Frame(index, float(index), IMAGE, "here", depth=given)
    prediction = Prediction(index, float(index), np.eye(4), depth=np.full((2, 3), depth, np.float32))
    keeper.offer(frame, prediction, scored=truth is not None)


def test_without_truth_predictions_keep_their_unit() -> None:
    keeper = PanelKeeper(None)
    assert keeper.panels() is None
    for index in range(20):
        offer(keeper, index, 1.0 + index, None)
    panels = keeper.panels()
    assert panels is not None
    assert len(panels.index) == 4
    assert panels.index[0] == 0
    assert not panels.truth.any()
    np.testing.assert_array_equal(panels.prediction[:, 0, 0], 1.0 + panels.index)


def test_scored_frames_drive_out_those_without_truth() -> None:
    keeper = PanelKeeper(DepthSettings())
    for index, truth in enumerate([None, None, 6.0, None, 8.0]):
        offer(keeper, index, 2.0, truth)
    panels = keeper.panels()
    assert panels is not None
    assert panels.index.tolist() == [2, 4]
    np.testing.assert_allclose(panels.prediction[:, 0, 0], [6.0, 8.0])  # at the scale of the truth


def test_scored_frames_are_spread_evenly_whatever_came_before_them() -> None:
    keeper = PanelKeeper(DepthSettings())
    for index in range(11 + 17):
        offer(keeper, index, 2.0, None if index < 11 else 6.0)
    panels = keeper.panels()
    assert panels is not None
    assert panels.index.tolist() == [11, 15, 23, 27]
