"""A run goes on from what another exported: with its log, its scenes and its counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from lingbot_eval.errors import CheckpointError
from lingbot_eval.model.build import empty_model
from lingbot_eval.model.weights import load_checkpoint
from tests.streaming.networks import TINY
from training.__main__ import main
from training.learner import Learner
from training.recipe import RECIPES
from training.state import CSV, CURVE, EXPORTED, WEIGHTS, Origin, about_run, export, read_start
from training.trainer import TrainingSettings, train

CPU = torch.device("cpu")


def ignore(row: dict[str, float]) -> None:
    """Nobody listens."""


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is set up and stepped in a part of the time; what is asked is of the run and not of it."""
    monkeypatch.setattr("training.trainer.CONFIGS", {"ci": TINY})


@pytest.mark.usefixtures("_small")
def test_a_second_run_goes_on_from_the_first(tmp_path: Path) -> None:
    first = TrainingSettings(out=tmp_path / "a", recipe="tiny", steps=3, log_seconds=0.0, export=tmp_path / "out")
    train(first, CPU, ignore)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == sorted([CSV, CURVE, EXPORTED])

    more = replace(first, out=tmp_path / "b", steps=2, start_from=tmp_path / "out", export=tmp_path / "out2")
    weights = train(more, CPU, ignore)
    table = pd.read_csv(tmp_path / "b" / CSV)
    assert table["step"].tolist() == [1, 2, 3, 4, 5]
    assert table["run"].tolist() == [0, 0, 0, 1, 1]
    assert table["minutes"].is_monotonic_increasing
    assert table["sequences_seen"].is_monotonic_increasing
    assert read_start(tmp_path / "out2").origin.runs == 2
    assert read_start(tmp_path / "out2").origin.steps == 5
    assert read_start(weights).origin == read_start(tmp_path / "out2").origin

    # As the evaluation loads it.
    assert load_checkpoint(empty_model(TINY, point_head=False), str(weights)).trained


def test_a_start_is_the_average_of_the_run_before_to_half_precision(tmp_path: Path) -> None:
    one = Learner(TINY, RECIPES["tiny"], 0, CPU)
    export(tmp_path, tmp_path / "out", one.exported(), about_run(Origin(1, 2, 3.0, 4)))
    other = Learner(TINY, RECIPES["tiny"], 5, CPU)
    other.begin_with(read_start(tmp_path / "out"))
    for name, value in one.averaged.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(other.model.state_dict()[name], other.averaged.state_dict()[name])
    for name, value in one.exported().items():
        torch.testing.assert_close(other.exported()[name], value, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_started_from_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_start(tmp_path)
    (tmp_path / EXPORTED).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not weights of an earlier run"):
        read_start(tmp_path)


def test_weights_of_another_size_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Learner(TINY, RECIPES["tiny"], 0, CPU)
    export(tmp_path, tmp_path / "out", one.exported(), about_run(Origin()))
    given = ["--out", str(tmp_path / "b"), "--recipe", "tiny", "--device", "cpu", "--steps", "1"]
    assert main([*given, "--start-from", str(tmp_path / "out")]) == 2
    found = capsys.readouterr().err
    assert "do not fit" in found
    assert found.count("\n") == 1
    assert not (tmp_path / "b" / WEIGHTS).exists()


@pytest.mark.usefixtures("_small")
def test_a_run_within_minutes_ends_in_time(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    settings = TrainingSettings(out=tmp_path, recipe="tiny", within_minutes=0.01)
    train(settings, CPU, rows.append)
    assert rows[-1]["share"] >= 1
