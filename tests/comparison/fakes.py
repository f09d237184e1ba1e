"""A scene and a model small enough to be compared in a second."""

from __future__ import annotations

from typing import Any

from lingbot_eval.comparison.backends import BackendComparison, compare_backends
from lingbot_eval.comparison.contenders import PreparedFrames, Selected, select
from lingbot_eval.runs.experiment import Experiment

FRAMES = 14


def experiment(frames: int = FRAMES, width: int = 28, **streaming: Any) -> Experiment:
    """``ci`` with a small window at width×28 over a made-up room."""
    return Experiment.model_validate(
        {
            "name": "tiny",
            "datasets": [
                {
                    "name": "synthetic",
                    "scenes": ["room", "corridor"],
                    "options": {"frames": frames, "width": width, "height": 28},
                    "size": {"mode": "exact", "width": width, "height": 28},
                }
            ],
            "methods": [
                {
                    "kind": "lingbot",
                    "name": "model",
                    "device": "cpu",
                    "model": {"config": "ci", "camera_iterations": 1},
                    "streaming": {"scale_frames": 3, "window": 4, "keyframe_interval": 1, **streaming},
                }
            ],
        }
    )


def selected(frames: int = FRAMES, **streaming: Any) -> Selected:
    """The room."""
    return select(experiment(frames, **streaming), None, None)


def compared(
    a: str, b: str, *, rounds: int = 1, with_reference: bool = True, frames: int = FRAMES, **streaming: Any
) -> BackendComparison:
    """Two backends on the room."""
    chosen = selected(frames, **streaming)
    return compare_backends(
        a, b, chosen, PreparedFrames(chosen.unit), lambda: None, rounds=rounds, with_reference=with_reference
    )
