"""The pictures of ``lingbot-eval score``: both paths with the position error, and drift along the trajectory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lingbot_eval.metrics.trajectory import TrajectoryScore
from lingbot_eval.plots import BLACK, BLUE, VERMILION, check_ending, new_figure, save, style
from lingbot_eval.types import DriftSeries, Trajectory


def draw(path: Path, score: TrajectoryScore, estimate: Trajectory, alignment: str) -> None:
    """Write the picture. The paths are seen along the axis in which the reference moves least.

    alignment: a name in ``score.alignments``. Raises ConfigError for another file type, StoreError as atomic_path.
    """
    check_ending(path, "--plot")
    rows = np.searchsorted(estimate.indices, score.indices)
    reference = score.reference_positions
    aligned = score.alignments[alignment].apply_points(estimate.positions[rows])
    error = np.linalg.norm(aligned - reference, axis=1)
    flat = int(np.argmin(np.ptp(reference, axis=0)))
    across, up = (axis for axis in range(3) if axis != flat)

    figure = new_figure(11, 4.5, "")
    plan, along = figure.subplots(1, 2)
    plan.plot(reference[:, across], reference[:, up], color=BLACK, linestyle="--", label="reference")
    plan.plot(aligned[:, across], aligned[:, up], color=BLUE, label=f"estimate ({alignment})")
    style(plan, f"{'xyz'[across]} (m)", f"{'xyz'[up]} (m)", "path")
    plan.set_aspect("equal", adjustable="datalim")
    plan.legend(frameon=False)
    along.plot(score.indices, error, color=VERMILION, linewidth=1)
    style(along, "pose of the estimate", "position error (m)", f"error after {alignment} alignment")
    along.set_ylim(bottom=0)
    save(figure, path)


def draw_drift(path: Path, series: DriftSeries, title: str) -> None:
    """Write the drift figure. Raises ConfigError for another file type, StoreError as atomic_path."""
    check_ending(path, "--drift-plot")
    from lingbot_eval.reports.drift_figure import drift_figure

    figure = drift_figure(series, title)
    if figure is not None:
        save(figure, path)
