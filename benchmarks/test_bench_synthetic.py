"""How fast frames come: rendering at 224x168, and decoding plus preparing a frame of a dataset on disk."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.datasets.synthetic.plans import PLANS
from lingbot_eval.prepare import SizeSettings, prepare


@pytest.mark.parametrize("scene", list(PLANS))
def test_render_224x168(benchmark: BenchmarkFixture, scene: str) -> None:
    """One frame, image and depth; the frames are spread over a whole lap. Wanted: at least 60 a second."""
    options = {"frames": 60, "width": 224, "height": 168, "laps": 1}
    sequence = open_adapter("synthetic", None, options).open(scene, Selection())
    frames = (frame for _ in cycle([0]) for frame in sequence.frames())
    next(frames)  # builds the scene
    benchmark.extra_info["unit"] = "one frame"
    benchmark.pedantic(next, args=(frames,), rounds=120, iterations=1)


def test_decode_and_prepare_640x480(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """One 640x480 PNG, read and resized to the width 518."""
    picture = next(open_adapter("synthetic", None, {"width": 640, "height": 480}).open("room", Selection()).frames())
    for number in range(20):
        Image.fromarray(picture.image).save(tmp_path / f"{number}.png")  # type: ignore[arg-type]
    opened = open_adapter("folder", tmp_path, {})
    sequence = opened.open(opened.scenes()[0], Selection())
    frames = (prepare(frame, SizeSettings()) for _ in cycle([0]) for frame in sequence.frames())
    benchmark.pedantic(next, args=(frames,), rounds=60, iterations=1, warmup_rounds=2)
