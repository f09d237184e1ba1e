"""Scaling and overlapped streaming on a CUDA device: same numbers as without overlap, and little time around them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lingbot_eval.cli.main import main
from lingbot_eval.methods.stepper import DeviceTransfer, Stepper
from lingbot_eval.model.build import build_model
from lingbot_eval.profiling.memory import MemoryProbe
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.types import Frame, Prediction

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
FRAMES = 60
HARNESS_FRAMES = 300


def device() -> torch.device:
    return torch.device("cuda", 0)


def test_overlapped_steps_give_what_waiting_ones_give() -> None:
    model, _ = build_model("mini", checkpoint=None, seed=0, point_head=True, device=device(), precision="float32")
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (56, 70, 3), dtype=np.uint8) for _ in range(FRAMES)]

    def stream(in_flight: int) -> list[Prediction]:
        settings = StreamSettings(scale_frames=3, window=4, keyframe_interval=2, backend="sdpa")
        transfer = DeviceTransfer(device(), in_flight)
        stepper = Stepper(StreamingSession(model, settings), device(), transfer)
        found = [p for i, image in enumerate(images) for p in stepper.step(Frame(i, i / 30, image, f"{i}"))]
        return found + list(stepper.finish())

    for overlapped, waited in zip(stream(1), stream(0), strict=True):
        assert overlapped.index == waited.index
        for name in ("camera_to_world", "depth", "depth_confidence", "points"):
            np.testing.assert_array_equal(getattr(overlapped, name), getattr(waited, name))
        assert overlapped.cost is not None
        assert 0 < overlapped.cost.forward_s < 1


def test_pixels_arrive_as_they_are() -> None:
    transfer = DeviceTransfer(device())
    image = np.random.default_rng(0).integers(0, 256, (14, 28, 3), dtype=np.uint8)
    pixels = transfer.upload(image)
    np.testing.assert_allclose(pixels.cpu().numpy(), image.transpose(2, 0, 1) / np.float32(255), atol=1e-7)


def test_memory_is_seen_from_three_sides() -> None:
    held = torch.empty(2**28, dtype=torch.uint8, device=device())
    sample = MemoryProbe("cuda:0").sample()
    reserved, driver = sample["device_reserved_bytes"], sample["driver_bytes"]
    assert reserved is not None
    assert driver is not None
    assert held.nbytes <= reserved <= driver


def files(root: Path) -> str:
    """The input setting of a folder of photographs' size: 640×480 JPEG, textured, each another."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for number in range(HARNESS_FRAMES):
        image = np.kron(np.roll(texture, number, axis=1), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(image).save(root / f"{number}.jpg", quality=90)
    return f"input={{kind: dataset, dataset: {{name: folder, root: '{root}', scenes: ['{root.name}']}}}}"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["memory", "files"])
def test_the_harness_costs_little_beside_the_model(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Configuration full at 518×378, offline: all but the model is overlapped, decoding and resizing included."""
    images = tmp_path / "images"
    images.mkdir()
    overrides = (
        "model.config=full",
        "defaults.precision=bfloat16",
        "defaults.size=[518, 378]",
        f"cases=[{{frames: {HARNESS_FRAMES}, keyframe_interval: 1}}]",
        files(images) if source == "files" else "input={kind: noise, pool: 32}",
    )
    words = [word for override in overrides for word in ("--set", override)]
    assert main(["scale", *words, "--out", str(tmp_path / "out"), "--json"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    (overhead,) = [m["value"] for m in case["measurements"] if m["name"] == "harness_overhead"]
    assert overhead <= 5
    growth = {entry["quantity"]: entry for entry in case["growth"]}
    assert growth["cache"]["value"] == pytest.approx(growth["cache"]["expected"])
    assert all(point["cache_bytes"] == point["formula_bytes"] for point in case["checkpoints"])
