"""What the pipe of ``kind: external`` costs a frame, and that the measured latency is off by no more."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import lingbot_eval as lb
from lingbot_eval.methods.base import METHODS
from lingbot_eval.runs.stream import SceneStream
from lingbot_eval.settings import validated
from lingbot_eval.types import FloatArray, Prediction

WRAPPER = Path(__file__).parents[1] / "examples" / "external" / "wrap_lingbot.py"
FRAMES = 300
BLOCK = 10  # frames whose differences are drawn together: what befalls the machine befalls neighbours

ECHO = """
import time
import numpy as np
from lingbot_eval.external import Pose, Wrapper, serve
class Echo(Wrapper):
    def start(self, scene):
        self.pages = np.zeros(4 << 20, np.float32)  # more than a cache holds: it is as cold as beside a model
    def step(self, frame):
        image, begun = frame.image(), time.perf_counter()
        while time.perf_counter() - begun < {seconds}:
            self.pages += 1
        pose = np.eye(4)
        pose[0, 3] = time.perf_counter() - begun
        map = image[..., 0].astype(np.float32)
        return Pose(frame.index, pose, map, map, "kept")
serve(Echo())
"""
"""Gives what the model gives, after as long, and says in its pose how long that was: what is left is the pipe's."""


@pytest.mark.parametrize(("width", "height", "seconds"), [(84, 56, 0.025), (224, 168, 0.12)])
def test_latency_over_the_pipe(benchmark: BenchmarkFixture, width: int, height: int, seconds: float) -> None:
    """Built-in, wrapped and an echo frame by frame in turn in one process, from a frame given to its prediction there.

    Wanted: the median of wrapped less built-in is at most the echo's, by the intervals of both.
    """
    scene = lb.open_dataset("synthetic", frames=FRAMES, width=width, height=height).scene("room")
    outside = {"kind": "external", "gpu": 0, "frame_timeout_s": 600}
    settings: dict[str, dict[str, Any]] = {
        "built-in": {"kind": "lingbot", "model": {"config": "ci", "checkpoint": "shipped"}, "device": "cpu"},
        "wrapped": {**outside, "command": [sys.executable, str(WRAPPER)]},
        "echo": {**outside, "command": [sys.executable, "-c", ECHO.format(seconds=seconds)]},
    }
    frames = list(scene)

    def in_turn() -> tuple[FloatArray, dict[str, list[Prediction]]]:
        """(FRAMES, 3) milliseconds, and the predictions."""
        took: dict[str, list[float]] = {name: [] for name in settings}
        found: dict[str, list[Prediction]] = {name: [] for name in settings}
        with ExitStack() as stack:
            streams = {}
            for name, given in settings.items():
                method = validated(METHODS.get(given["kind"]), given, name).on_this_machine().create()
                stack.enter_context(closing(method))
                method.open(scene.sequence)
                method.warm_up(frames[0])
                streams[name] = SceneStream(method, lambda: (frame for frame in frames)).outputs()
            for number in range(FRAMES):
                for turn in range(len(streams)):
                    name = list(streams)[(number + turn) % len(streams)]
                    output = next(streams[name])
                    took[name].append(1e3 * output.latency_s)
                    found[name].append(output.prediction)
        return np.array(list(took.values())).T, found

    took, found = benchmark.pedantic(in_turn, rounds=1)
    for one, other in zip(found["built-in"], found["wrapped"], strict=True):
        np.testing.assert_array_equal(one.camera_to_world, other.camera_to_world)
    steps = slice(9, None)  # without the scale frames, which leave together
    worked = np.array([1e3 * p.camera_to_world[0, 3] for p in found["echo"] if p.camera_to_world is not None])
    forward = np.array([[1e3 * p.cost.forward_s for p in found[name] if p.cost is not None] for name in settings])
    differs, pipe = median(took[steps, 1] - took[steps, 0]), median((took[:, 2] - worked)[steps])
    benchmark.extra_info.update({"built-in": median(took[steps, 0]), "wrapped less built-in": differs, "pipe": pipe})
    # Of the session alone, whose clock leaves out what turns pixels into tensors and tensors into a prediction.
    benchmark.extra_info["forward, wrapped less built-in"] = median((forward[1] - forward[0])[steps])
    assert differs[1] <= pipe[2], benchmark.extra_info


def median(values: FloatArray) -> tuple[float, float, float]:
    """The median, and the ends of its 95 % interval by a bootstrap of blocks."""
    blocks = values[: len(values) // BLOCK * BLOCK].reshape(-1, BLOCK)
    drawn = np.random.default_rng(0).integers(0, len(blocks), (2000, len(blocks)))
    low, high = np.percentile(np.median(blocks[drawn].reshape(2000, -1), axis=1), (2.5, 97.5))
    return float(np.median(values)), float(low), float(high)
