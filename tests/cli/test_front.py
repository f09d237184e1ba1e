"""Photographs and videos by name, weights by one option, the schema for editors, completion, versions of documents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lingbot_eval.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_photographs_in_one_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "photos", "--root", str(photos), "--out", str(tmp_path), "--no-report", "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    (unit,) = document["units"]
    assert (unit["status"], unit["predictions"]) == ("ok", 10)
    record = json.loads((Path(document["run"]) / "run.json").read_text())
    assert record["command"] == f"lingbot-eval run photos --root {photos} --out {tmp_path}"


def test_without_a_root_the_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photos", "video"):
        assert main(["run", name]) == 2
        assert "--root PATH" in capsys.readouterr().err


def test_other_weights_are_of_the_public_models_configuration(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "public.safetensors"
    words = ["run", "photos", "--root", str(photos), "--checkpoint", str(weights), "--dry-run"]
    assert main(words) == 2
    assert "public.safetensors" in capsys.readouterr().err
    assert main([*words[:4], "--set", "methods.0.model.seed=3", "--checkpoint", "shipped", "--dry-run", "--json"]) == 0
    assert "ci.safetensors" in json.loads(capsys.readouterr().out)["weights"]["lingbot"]


def test_checkpoint_changes_configuration_and_size(photos: Path) -> None:
    from argparse import Namespace

    from lingbot_eval.cli.run_command import _overrides
    from lingbot_eval.runs.experiment import load_experiment

    given = Namespace(experiment="photos", root=str(photos), checkpoint="lingbot-map", overrides=[])
    experiment = load_experiment("photos", _overrides(given))
    (method,), (dataset,) = experiment.methods, experiment.datasets
    assert (method.model.config, method.model.checkpoint) == ("full", "lingbot-map")
    assert (dataset.root, dataset.size) == (str(photos), None)
    given.overrides = ["methods.0.model.checkpoint=lingbot-map-long"]
    assert load_experiment("photos", _overrides(given)).methods[0].model.checkpoint == "lingbot-map-long"


@pytest.mark.parametrize("what", ["experiment", "study", "card"])
def test_the_schema_knows_the_settings(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", what]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"experiment": "datasets", "study": "sweep", "card": "protocol"}[what] in schema["properties"]
    if what == "experiment":
        kinds = schema["properties"]["methods"]["items"]["discriminator"]["mapping"]
        assert {"lingbot", "replay"} <= set(kinds)


def test_an_experiments_schema_is_printed_unless_another_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert {"datasets", "methods"} <= set(json.loads(capsys.readouterr().out)["properties"])


def test_the_machine_row_by_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is inside has the names of all that it is in; of what there is nothing, none."""
    block = {
        "cpu": {"name": "x", "cores": 4},
        "gpus": [{"name": "a", "units": None}, {"name": "b", "units": {"sm": 7}}],
        "disks": [],
        "flags": {},
        "threads": [1, 2],
        "free": 0,
    }
    monkeypatch.setattr("lingbot_eval.machine.environment.environment", lambda: block)
    assert main(["env"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cpu.name         x",
        "cpu.cores        4",
        "gpus.0.name      a",
        "gpus.0.units     none",
        "gpus.1.name      b",
        "gpus.1.units.sm  7",
        "disks            none",
        "flags            none",
        "threads          [1, 2]",
        "free             0",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "dry-run" in script
    assert script.startswith("#compdef lingbot-eval") == (shell == "zsh")


def test_every_document_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["env"], ["datasets", "list"], ["datasets", "show", "kitti"], ["run", "nothing_like_it"]):
        main([*words, "--json"])
        assert json.loads(capsys.readouterr().out)["schema_version"] == 1
