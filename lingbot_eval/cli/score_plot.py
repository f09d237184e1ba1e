"""The pictures of ``lingbot-eval score``: estimates coloured by their error, and drift along the trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lingbot_eval.metrics.trajectory import TrajectoryScore
from lingbot_eval.plots import check_ending, save
from lingbot_eval.reports.reading import Paths
from lingbot_eval.reports.scene_figures import trajectory_figure
from lingbot_eval.types import DriftSeries, Trajectory

_ALIGNED = {"sim3": "Sim(3)-aligned", "se3": "SE(3)-aligned", "anchor": "aligned on its first poses", "none": ""}


def paths_of(score: TrajectoryScore, estimate: Trajectory, alignment: str) -> Paths:
    """Where a scored estimate went. alignment: a name in ``score.alignments``."""
    move = score.alignments[alignment]
    rows = np.searchsorted(estimate.indices, score.indices)
    moved = move.apply_points(estimate.positions)
    error = np.full(len(moved), np.nan)
    error[rows] = np.linalg.norm(moved[rows] - score.reference_positions, axis=1)
    return Paths(moved, score.reference_positions, _ALIGNED[alignment], error, move)


def draw(path: Path, estimates: Sequence[tuple[str, Paths]], title: str) -> None:
    """Write the picture of one or several estimates. Raises ConfigError for another file type, StoreError."""
    check_ending(path, "--plot")
    save(trajectory_figure(estimates, title, along=True), path)


def draw_drift(path: Path, series: DriftSeries, title: str) -> None:
    """Write the drift figure. Raises ConfigError for another file type, StoreError as atomic_path."""
    check_ending(path, "--drift-plot")
    from lingbot_eval.reports.figures import drift_figure

    figure = drift_figure(series, title)
    if figure is not None:
        save(figure, path)
