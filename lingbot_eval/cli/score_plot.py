"""The pictures of ``lingbot-eval score``: both paths with the position error, and drift along the trajectory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lingbot_eval.errors import ConfigError
from lingbot_eval.files.atomic import atomic_path
from lingbot_eval.metrics.trajectory import TrajectoryScore
from lingbot_eval.types import DriftSeries, Trajectory

_SUFFIXES = (".png", ".pdf", ".svg")


def draw(path: Path, score: TrajectoryScore, estimate: Trajectory, alignment: str) -> None:
    """Write the picture. The paths are seen along the axis in which the reference moves least.

    alignment: a name in ``score.alignments``. Raises ConfigError for another file type, StoreError as atomic_path.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--plot {path}: expected a file name ending in {', '.join(_SUFFIXES)}")
    # The object interface, not pyplot: no window system is looked for and no global state is left behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = np.searchsorted(estimate.indices, score.indices)
    reference = score.reference_positions
    aligned = score.alignments[alignment].apply_points(estimate.positions[rows])
    error = np.linalg.norm(aligned - reference, axis=1)
    flat = int(np.argmin(np.ptp(reference, axis=0)))
    across, up = (axis for axis in range(3) if axis != flat)

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    plan, along = figure.subplots(1, 2)
    plan.plot(reference[:, across], reference[:, up], color="0.4", linestyle="--", label="reference")
    plan.plot(aligned[:, across], aligned[:, up], color="C0", label=f"estimate ({alignment})")
    plan.set(xlabel=f"{'xyz'[across]} (m)", ylabel=f"{'xyz'[up]} (m)", title="path")
    plan.set_aspect("equal", adjustable="datalim")
    plan.legend()
    along.plot(score.indices, error, color="C3", linewidth=1)
    along.set(xlabel="pose of the estimate", ylabel="position error (m)", title=f"error after {alignment} alignment")
    along.set_ylim(bottom=0)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_drift(path: Path, series: DriftSeries, title: str) -> None:
    """Write the drift figure. Raises ConfigError for another file type, StoreError as atomic_path."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--drift-plot {path}: expected a file name ending in .png")
    from lingbot_eval.reports.drift_figure import drift_figure
    from lingbot_eval.reports.figure_style import save

    figure = drift_figure(series, title)
    if figure is not None:
        save(figure, path)
