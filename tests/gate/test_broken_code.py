"""Code that is broken in one place is caught by the gate through the evaluation's own path; whole code is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lingbot_eval.cli.main import main
from lingbot_eval.declarations import declaration
from lingbot_eval.files.yaml_documents import load_mapping
from lingbot_eval.gating.sides import family_of, read_runs
from lingbot_eval.geometry.poses import decode_camera_to_world
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.model import LingbotMethod
from lingbot_eval.model.build import build_model
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.resources import shared_file
from lingbot_eval.types import Frame
from tests.gate.broken import FAULTS
from training.ablations import ABLATIONS, AS_TRAINED, held_out, run_ablation
from training.clips import Clips

SMALL = (
    "datasets.0.options.width=84",
    "datasets.0.options.height=56",
    "datasets.0.size.width=84",
    "datasets.0.size.height=56",
    "datasets.0.selection.count=16",
)
FRAMES = ("datasets.0.selection.count=60",)
"""Of the gate's own 150: 8 scale frames, a window of 16, 36 in the memory at the end."""
NOISES = 10
"""Beyond noise is worse by so many times what another order of summation changes."""
TOLERANCE = 1e-4
"""Between one masked pass and streaming in float32; of camera positions and of entries of rotations."""


@dataclass(frozen=True)
class Bench:
    """A shortened gate experiment and its baseline. noise: by metric, its change under another order of summation."""

    experiment: Path
    overrides: tuple[str, ...]
    baseline: Path
    values: Mapping[str, float]
    noise: Mapping[str, float]


def run(experiment: Path, out: Path, overrides: tuple[str, ...]) -> Path:
    settings = [word for override in overrides for word in ("--set", override)]
    assert main(["run", str(experiment), "--out", str(out), "--no-report", *settings]) == 0
    (found,) = out.iterdir()
    return found


def gated(bench: Bench, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Run the code as it is now; the gate's exit code and document."""
    path = run(bench.experiment, out, bench.overrides)
    capsys.readouterr()
    code = main(["gate", str(path), "--baseline", str(bench.baseline), "--require", "accuracy", "--json"])
    return code, json.loads(capsys.readouterr().out)


def accuracy(path: Path) -> dict[str, float]:
    (unit,) = read_runs([path]).units.values()
    return {metric: value for metric, value in unit.values.items() if family_of(metric) == "accuracy"}


def made(folder: Path, overrides: tuple[str, ...], *, noise: bool) -> Bench:
    """The gate's first method alone, run by the code as it is, and made a baseline by the gate."""
    document = load_mapping(shared_file("experiments", "ci_gate"))
    experiment = folder / "experiment.yaml"
    experiment.write_text(yaml.safe_dump(document | {"methods": document["methods"][:1]}))
    whole = run(experiment, folder / "whole", overrides)
    baseline = folder / "baseline.yaml"
    assert main(["gate", str(whole), "--baseline", str(baseline), "--update", "--reason", "a test"]) == 0
    values, spread = accuracy(whole), {}
    if noise:
        # The same mathematics from another cache.
        other = accuracy(run(experiment, folder / "other", (*overrides, "methods.0.streaming.backend=paged")))
        assert other.keys() == values.keys()
        spread = {metric: abs(other[metric] - values[metric]) for metric in values}
    return Bench(experiment, overrides, baseline, values, spread)


def worse(bench: Bench, values: Mapping[str, float]) -> dict[str, float | None]:
    """By how much metrics are worse than in the baseline, in their own unit, where that is more than noise; None for
    one that has no number any more."""
    found: dict[str, float | None] = dict.fromkeys(bench.noise.keys() - values.keys())
    for metric in bench.noise.keys() & values.keys():
        better = declaration(*metric.split("/", 2)).better
        amount = (values[metric] - bench.values[metric]) * (1 if better == "lower" else -1)
        if better is not None and amount > NOISES * bench.noise[metric]:
            found[metric] = amount
    return found


@pytest.fixture(scope="module")
def method() -> LingbotMethod:
    """With the shipped weights, which stay loaded; faults reach it through its classes."""
    model = {"config": "ci", "checkpoint": "shipped"}
    stream = {"keyframe_interval": 1, "backend": "sdpa"}
    return LingbotMethod(
        LingbotConfig.model_validate({"kind": "lingbot", "model": model, "streaming": stream, "device": "cpu"})
    )


@pytest.fixture(scope="module")
def clips() -> Clips:
    """So long that two frames and more leave the window."""
    ((_, clips),) = held_out(1, 28, (28, 42))
    return clips


@pytest.fixture(scope="module")
def model() -> GeometricContextTransformer:
    device = torch.device("cpu")
    return build_model("ci", checkpoint="shipped", seed=0, point_head=False, device=device, precision="float32")[0]


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_fault_is_the_ablation_of_its_name(
    name: str,
    method: LingbotMethod,
    model: GeometricContextTransformer,
    clips: Clips,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The method, broken, streams what the masked forward gives with the same part taken away."""
    whole, masked = (
        decode_camera_to_world(run_ablation(model, clips, ABLATIONS[each])[0].poses[-1][0].double().numpy())
        for each in (AS_TRAINED, name)
    )
    if name != AS_TRAINED:
        FAULTS[name](monkeypatch)
    images = (255 * clips.images[0]).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    streamed = method.predict(Frame(i, float(i), image, "made up") for i, image in enumerate(images))
    poses = np.stack([prediction.camera_to_world for prediction in streamed])
    np.testing.assert_allclose(poses, masked, atol=TOLERANCE)
    assert (np.abs(masked - whole).max() > 10 * TOLERANCE) == (name != AS_TRAINED)


def test_every_ablation_has_its_fault() -> None:
    assert [AS_TRAINED, *FAULTS] == list(ABLATIONS)


def test_a_frozen_clock_is_caught_and_whole_code_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = made(tmp_path, SMALL, noise=False)
    code, found = gated(bench, tmp_path / "again", capsys)
    assert code == 0, found
    FAULTS["frozen rotary clock"](monkeypatch)
    code, found = gated(bench, tmp_path / "broken", capsys)
    assert code == 1, found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return made(tmp_path_factory.mktemp("bench"), FRAMES, noise=True)


@pytest.mark.slow
def test_the_same_code_holds(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = gated(bench, tmp_path, capsys)
    assert code == 0, found["findings"]
    assert found["families"]["accuracy"] == "held"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_moves_a_metric_beyond_its_noise_and_is_caught(
    name: str,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every fault makes some metric worse by more than its noise: the model has a use for every part."""
    FAULTS[name](monkeypatch)
    code, found = gated(bench, tmp_path, capsys)
    (path,) = tmp_path.iterdir()
    moved = worse(bench, accuracy(path))
    findings = [finding for finding in found["findings"] if finding["family"] == "accuracy"]
    assert not [finding["reason"] for finding in findings if finding["status"] == "incomparable"]
    assert moved
    assert code == 1, moved
