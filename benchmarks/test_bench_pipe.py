"""What the pipe of ``kind: external`` costs a frame, and that the measured latency is off by no more."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from pytest_benchmark.fixture import BenchmarkFixture

import lingbot_eval as lb

EXAMPLES = Path(__file__).parents[1] / "examples" / "external"
ROUNDS = 3

ECHO = """
import numpy as np
from lingbot_eval.external import Pose, Wrapper, serve
class Echo(Wrapper):
    def step(self, frame):
        map = np.full((frame.height, frame.width), 1.0, np.float32)
        pose = np.eye(4)
        pose[0, 3] = 0.01 * frame.index
        return Pose(frame.index, pose, map, map, "kept" if frame.index >= 8 else "scale")
serve(Echo())
"""


def test_latency_over_the_pipe(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Built-in, wrapped and an echo in turn; of each the least of the rounds' medians of step frames, in ms.

    Wanted: wrapped less built-in is at most the echo, whose whole latency is the pipe's.
    """
    wrap = {"kind": "external", "gpu": 0, "frame_timeout_s": 600}
    document = {
        "name": "pipe",
        "datasets": [
            {
                "name": "synthetic",
                "scenes": ["room"],
                "options": {"frames": 40, "width": 224, "height": 168},
                "size": {"mode": "exact", "width": 224, "height": 168},
            }
        ],
        "methods": [
            {"kind": "lingbot", "model": {"config": "ci", "checkpoint": "shipped"}, "device": "cpu"},
            {**wrap, "name": "wrapped", "command": [sys.executable, str(EXAMPLES / "wrap_lingbot.py")]},
            {**wrap, "name": "echo", "command": [sys.executable, "-c", ECHO]},
        ],
        "metrics": {"drift": None, "auc": None},
    }

    def medians() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"lingbot": [], "wrapped": [], "echo": []}
        for number in range(ROUNDS):
            run = lb.run(document, out=tmp_path / str(number), allow_commands=True)
            for name, values in found.items():
                frames = pd.read_csv(run.path / "units" / "synthetic" / "room" / name / "frames.csv")
                values.append(float(frames["forward_ms"][frames["frame_type"] != "scale"].median()))
        return found

    found = benchmark.pedantic(medians, rounds=1)
    benchmark.extra_info.update(found)
    assert min(found["wrapped"]) - min(found["lingbot"]) < min(found["echo"]), found
