"""``lingbot-eval datasets``: listing, cards, checks, and the table in the documents."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lingbot_eval.cli.main import main
from lingbot_eval.datasets.cards import card_names, load_card, markdown_table
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.resources import shared_names
from lingbot_eval.runs.experiment import load_experiment
from lingbot_eval.runs.plan import make_plan

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
import dataset_trees
import field_trees

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
BEGIN, END = "<!-- datasets:begin -->", "<!-- datasets:end -->"
PRESETS = [name for name in shared_names("experiments") if name.startswith(("readme_", "paper_"))]


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["datasets", *words]) == code
    return capsys.readouterr().out


def test_list_names_every_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "list")
    assert [line.split()[0] for line in text.splitlines()] == list(card_names())
    assert [entry["name"] for entry in json.loads(said(capsys, "list", "--json"))["items"]] == list(card_names())
    assert [entry["name"] for entry in json.loads(_run_json_first(capsys))["items"]] == list(card_names())
    table = said(capsys, "list", "--markdown").splitlines()
    assert len(table) == 2 + len(card_names())
    assert len({row.replace("\\|", "").count("|") for row in table}) == 1
    assert "| `kitti` | 11 |" in "\n".join(table)


def _run_json_first(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["datasets", "list", "--json"]) == 0
    return capsys.readouterr().out


def test_the_documents_have_the_table_of_the_cards() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == markdown_table().strip()


def test_show_says_what_the_card_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", "eth3d")
    for words in ("CC BY-NC-SA", "without meadow", "9289-9293", "second-hand transcription", "f1_percent 86.8"):
        assert words in text
    assert json.loads(said(capsys, "show", "eth3d", "--json"))["name"] == "eth3d"
    for name in ("eth3d", "seven_scenes", "oxford_spires"):
        card = load_card(name)
        text, protocol = said(capsys, "show", name), card.protocol
        lines = dict(line.strip().partition(": ")[::2] for line in text.splitlines())
        assert lines["protocol"].endswith(f"depth {protocol.min_depth:g} to {protocol.max_depth:g} m")
        assert f"stride {protocol.stride}, " in lines["protocol"]
        assert (lines["licence"], lines["from"]) == (card.source.licence, card.source.url)
        assert {each for each in lines if each.startswith("without ")} >= {f"without {s}" for s in card.scenes_left_out}
        assert sum("published, " in line for line in text.splitlines()) == len(card.published)
        (listed,) = [line for line in said(capsys, "list").splitlines() if line.split()[0] == name]
        assert f"stride {protocol.stride}, " in listed
    assert main(["datasets", "show", "eth4d"]) == 2
    assert "did you mean 'eth3d'" in capsys.readouterr().err


def test_check_prints_findings_and_fails_on_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = field_trees.write_kitti(tmp_path / "kitti")
    text = said(capsys, "check", "kitti", "--root", str(root), "--decode")
    assert "00: 6 frames, metadata checked at" in text
    assert "6 frames, the release has 4541" in text
    assert "not tested: needs frames that have both a pose and a depth map" in text
    assert "1 scene, no problems" in text
    (root / "sequences/00/image_2/000003.png").write_bytes(b"x")
    document = json.loads(said(capsys, "check", "kitti", "--root", str(root), "--json", code=1))
    assert document["problems"] == 1
    text = said(capsys, "check", "kitti", "--root", str(root / "poses"), code=1)
    assert f"the root is one level too low, use {root}" in text
    assert main(["datasets", "check", "kitti", "--root", str(root), "--option", "split"]) == 2
    assert "expected KEY=VALUE" in capsys.readouterr().err


def test_check_writes_a_figure_of_the_convention(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = field_trees.write_oxford_spires(tmp_path / "spires")
    figures = tmp_path / "figures"
    text = said(capsys, "check", "oxford_spires", "--root", str(root), "--figures", str(figures))
    (figure,) = figures.iterdir()
    assert str(figure) in text
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every dataset of the presets in small, with the variables that the presets ask for."""
    monkeypatch.setenv("SEVEN_SCENES_ROOT", str(dataset_trees.write_seven_scenes(tmp_path / "7scenes")))
    monkeypatch.setenv("TUM_ROOT", str(dataset_trees.write_tum(tmp_path / "tum")))
    for name, write in field_trees.WRITERS.items():
        monkeypatch.setenv(f"{name.upper()}_ROOT", str(write(tmp_path / name)))
    checkpoint = tmp_path / "lingbot-map.pt"
    # Stands for 4.6 GB of weights, which a plan holds against the network.
    monkeypatch.setattr("lingbot_eval.model.build.check_checkpoint", lambda *_, **__: None)
    checkpoint.write_bytes(safetensors.numpy.save({"weight": np.zeros(1)}))
    monkeypatch.setattr("lingbot_eval.model.weights.resolve_checkpoint", lambda name: checkpoint)
    return tmp_path


def test_there_is_a_preset_for_every_published_row() -> None:
    assert {name.removeprefix("readme_") for name in PRESETS if name.startswith("readme_")} == {
        *field_trees.WRITERS,
        "seven_scenes",
        "tum",
    }
    assert {"paper_oxford_sparse", "paper_oxford_long"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_plan(name: str, trees: Path) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name.replace("_", "-")
    (method,) = experiment.methods
    assert isinstance(method, LingbotConfig)
    assert method.model.config == "full"
    assert method.model.checkpoint == "lingbot-map"
    (dataset,) = make_plan(experiment).experiment.datasets
    strides = {"readme_seven_scenes": 5, "readme_neural_rgbd": 5, "readme_oxford_spires": 12, "paper_oxford_sparse": 12}
    assert dataset.selection.stride == strides.get(name, 1)
    assert dataset.selection.count == {"paper_oxford_sparse": 320, "paper_oxford_long": 3840}.get(name)


def test_a_broken_scene_does_not_stop_the_others(trees: Path) -> None:
    field_trees.write_kitti(trees / "kitti", "01")
    (trees / "kitti" / "poses" / "01.txt").write_text("broken\n")
    plan = make_plan(load_experiment("readme_kitti"))
    assert [unit.scene for unit in plan.units] == ["00", "01"]
