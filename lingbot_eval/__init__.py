"""Benchmark and evaluation harness for streaming 3D reconstruction, with the LingBot-Map model inside.

``import lingbot_eval as lb`` gives the public names below; each is loaded when it is first asked for, so that
importing the package costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module that defines it, and the name there where it is another.
_PUBLIC = {
    # What users stream.
    "load_model": ("lingbot_eval.methods.model", "load_model"),
    "stream": ("lingbot_eval.methods.model", "stream"),
    "fetch": ("lingbot_eval.model.weights", "fetch"),
    "Model": ("lingbot_eval.methods.model", "Model"),
    "Session": ("lingbot_eval.methods.model", "Session"),
    "open_dataset": ("lingbot_eval.datasets.cards", "open_dataset"),
    "Dataset": ("lingbot_eval.datasets.cards", "Dataset"),
    "Scene": ("lingbot_eval.datasets.cards", "Scene"),
    # What users score.
    "read_trajectory": ("lingbot_eval.files.trajectories", "read_trajectory"),
    "score": ("lingbot_eval.metrics.scoring", "score"),
    "PoseScore": ("lingbot_eval.metrics.scoring", "PoseScore"),
    "PoseReading": ("lingbot_eval.geometry.pose_reading", "PoseReading"),
    # What users run and read.
    **{
        name: ("lingbot_eval.api", name)
        for name in (
            *("plan_run", "fit", "run", "report", "gate", "update_baseline", "compare", "compare_backends", "verify"),
            "check_wrapper",
            "export",
            "fetch_dataset",
            "render",
            "view",
        )
    },
    "open_run": ("lingbot_eval.reports.reading", "open_run"),
    "open_runs": ("lingbot_eval.reports.reading", "open_runs"),
    "Run": ("lingbot_eval.reports.reading", "Run"),
    # What users add.
    "dataset": ("lingbot_eval.datasets.registry", "dataset"),
    "FileDataset": ("lingbot_eval.datasets.file_dataset", "FileDataset"),
    "FrameFiles": ("lingbot_eval.datasets.sequence", "FrameFiles"),
    "listed": ("lingbot_eval.datasets.file_dataset", "listed"),
    "method": ("lingbot_eval.methods.base", "method"),
    "Method": ("lingbot_eval.methods.base", "BaseMethod"),
    "Settings": ("lingbot_eval.methods.base", "Settings"),
    "metric": ("lingbot_eval.metrics.base", "metric"),
    "metric_family": ("lingbot_eval.metrics.base", "metric_family"),
    "MetricFamily": ("lingbot_eval.metrics.base", "MetricFamily"),
    "load_plugins": ("lingbot_eval.registry", "load_plugins"),
    # What travels.
    "Frame": ("lingbot_eval.types", "Frame"),
    "Prediction": ("lingbot_eval.types", "Prediction"),
    "Trajectory": ("lingbot_eval.types", "Trajectory"),
    "Measurement": ("lingbot_eval.types", "Measurement"),
    "Parallel": ("lingbot_eval.runs.execute", "Parallel"),
    "LingbotEvalError": ("lingbot_eval.errors", "LingbotEvalError"),
    "UnscorableError": ("lingbot_eval.errors", "UnscorableError"),
}

__all__ = [
    "Dataset",
    "FileDataset",
    "Frame",
    "FrameFiles",
    "LingbotEvalError",
    "Measurement",
    "Method",
    "MetricFamily",
    "Model",
    "Parallel",
    "PoseReading",
    "PoseScore",
    "Prediction",
    "Run",
    "Scene",
    "Session",
    "Settings",
    "Trajectory",
    "UnscorableError",
    "__version__",
    "check_wrapper",
    "compare",
    "compare_backends",
    "dataset",
    "export",
    "fetch",
    "fetch_dataset",
    "fit",
    "gate",
    "listed",
    "load_model",
    "load_plugins",
    "method",
    "metric",
    "metric_family",
    "open_dataset",
    "open_run",
    "open_runs",
    "plan_run",
    "read_trajectory",
    "render",
    "report",
    "run",
    "score",
    "stream",
    "update_baseline",
    "verify",
    "view",
]

if TYPE_CHECKING:
    from lingbot_eval.api import (
        check_wrapper,
        compare,
        compare_backends,
        export,
        fetch_dataset,
        fit,
        gate,
        plan_run,
        render,
        report,
        run,
        update_baseline,
        verify,
        view,
    )
    from lingbot_eval.datasets.cards import Dataset, Scene, open_dataset
    from lingbot_eval.datasets.file_dataset import FileDataset, listed
    from lingbot_eval.datasets.registry import dataset
    from lingbot_eval.datasets.sequence import FrameFiles
    from lingbot_eval.errors import LingbotEvalError, UnscorableError
    from lingbot_eval.files.trajectories import read_trajectory
    from lingbot_eval.geometry.pose_reading import PoseReading
    from lingbot_eval.methods.base import BaseMethod as Method
    from lingbot_eval.methods.base import Settings, method
    from lingbot_eval.methods.model import Model, Session, load_model, stream
    from lingbot_eval.metrics.base import MetricFamily, metric, metric_family
    from lingbot_eval.metrics.scoring import PoseScore, score
    from lingbot_eval.model.weights import fetch
    from lingbot_eval.registry import load_plugins
    from lingbot_eval.reports.reading import Run, open_run, open_runs
    from lingbot_eval.runs.execute import Parallel
    from lingbot_eval.types import Frame, Measurement, Prediction, Trajectory


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lingbot_eval' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = globals()[name] = getattr(importlib.import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
