"""``lingbot-eval datasets``: listing, cards, checks, and the table in the documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from lingbot_eval.cli.main import main
from lingbot_eval.datasets import cards as cards_module
from lingbot_eval.datasets.cards import Card, card_names, load_card, markdown_table
from lingbot_eval.datasets.fetch import FetchPlan, Source
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
    assert [entry["name"] for entry in json.loads(_run_json_first(capsys))["items"]] == list(card_names())
    entries = {entry["name"]: entry for entry in json.loads(said(capsys, "list", "--json"))["items"]}
    assert list(entries) == list(card_names())
    kitti = {"name": "kitti", "title": load_card("kitti").title, "licence": load_card("kitti").source.licence}
    assert entries["kitti"] == {**kitti, "download": "by hand"}
    assert (entries["tum"]["download"], entries["synthetic"]["download"]) == ("fetch", None)
    rows = {line.split()[0]: line for line in text.splitlines()}
    title = load_card("seven_scenes").title
    assert rows["seven_scenes"] == f"{'seven_scenes':18} {title:44} {'fetch':8} stride 5, width 518"
    assert rows["synthetic"].split(" – ")[1].strip().startswith("stride 1, ")
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


MADE_UP = {
    "name": "halls",
    "title": "Halls",
    "description": "Long halls.",
    "source": {"url": "https://example.org/halls", "licence": "CC0", "citation": "A. Body, 2020"},
    "layout": "one folder a scene",
    "download": {"page": "https://example.org/get", "steps": ["Ask for it.", "Unpack it."]},
    "scenes": "those with a roof",
    "expected_scenes": {"east": 40, "west": None},
    "scenes_left_out": {"north": "no poses"},
    "views_left_out": {"south": "dark"},
    "protocol": {
        "split": "test",
        "stride": 3,
        "size": {"mode": "exact", "width": 56, "height": 42, "filter": "lanczos"},
        "min_depth": 0.25,
        "max_depth": 12.0,
        "metrics": ["trajectory", "depth"],
        "thresholds": {"f1_m": 0.25, "racc_deg": 5.0},
        "notes": ["Indoors.", "At night."],
    },
    "published": [
        {"method": "ours", "source": "the paper", "scenes": 2, "values": {"ate_m": 0.0625, "auc_30_percent": 91.5}},
        {"method": "theirs", "source": "the page", "values": {"ate_m": 0.5}},
    ],
}


def test_a_card_line_by_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All that a card can say, and what stands for all that it may leave out."""
    card = Card.model_validate(MADE_UP)
    monkeypatch.setattr(cards_module, "load_card", lambda name: card)
    shown = said(capsys, "show", "halls").splitlines()
    assert shown == [
        "halls: Halls",
        "  what: Long halls.",
        "  from: https://example.org/halls",
        "  licence: CC0",
        "  cite: A. Body, 2020",
        "  layout: one folder a scene",
        "  page: https://example.org/get",
        "  step 1: Ask for it.",
        "  step 2: Unpack it.",
        "  scenes: those with a roof",
        "  frames: east 40, west ?",
        "  without north: no poses",
        "  without views of south: dark",
        "  protocol: test, stride 3, exact 56×42, Lanczos, depth 0.25 to 12 m",
        "  metrics: trajectory, depth",
        "  thresholds: f1_m 0.25, racc_deg 5",
        "  note: Indoors.",
        "  note: At night.",
        "  published, ours (the paper, 2 scenes): ate_m 0.0625, auc_30_percent 91.5",
        "  published, theirs (the page): ate_m 0.5",
    ]
    least = {**MADE_UP, "source": {"licence": "CC0"}, "protocol": {}, "download": None}
    for name in ("expected_scenes", "scenes_left_out", "views_left_out", "published"):
        del least[name]
    card = Card.model_validate(least)
    assert said(capsys, "show", "halls").splitlines() == [
        *shown[:2],
        "  from: –",
        "  licence: CC0",
        "  cite: –",
        "  layout: one folder a scene",
        "  scenes: those with a roof",
        "  frames: any",
        "  protocol: stride 1, width 518, depth 0 to 80 m",
        "  metrics: none",
        "  thresholds: none",
    ]


def fetch_plan(root: Path, parts: tuple[str, ...], sizes: tuple[int | None, ...], there: tuple[str, ...]) -> FetchPlan:
    """Of one file of each size: file N is of part N and all after it."""
    card = Card.model_validate(MADE_UP | {"download": {"page": "https://example.org/get", "files": [FILE]}})
    sources = tuple(
        Source(card.download.files[0], f"https://example.org/{number}.zip", parts[number:], size, None, None)  # type: ignore[union-attr]
        for number, size in enumerate(sizes)
    )
    return FetchPlan(card, root, parts, there, sources)


FILE = {"url": "https://example.org/0.zip", "parts": ["east", "west"]}


@pytest.mark.parametrize(
    ("parts", "sizes", "there", "words", "code", "agreed", "total"),
    [
        (("east", "west"), (2_500_000, None), (), ["--yes"], 0, True, "2.50MB in 1 file, and 1 of a size"),
        (("east", "west"), (1000, 250), ("north", "south"), ["--yes"], 0, True, "1.25kB in 2 files"),
        (("east",), (1000,), ("west",), ["--dry-run"], 0, False, "1.00kB in 1 file"),
        (("east",), (1000,), (), ["--dry-run", "--yes"], 0, False, "1.00kB in 1 file"),
        ((), (), ("east", "west"), [], 0, False, "0.00B in 0 files"),
    ],
)
def test_a_fetch_line_by_line(
    parts: tuple[str, ...],
    sizes: tuple[int | None, ...],
    there: tuple[str, ...],
    words: list[str],
    code: int,
    agreed: bool,
    total: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What will be fetched, how much that is, what is there before and what after it."""
    plan = fetch_plan(tmp_path, parts, sizes, there)
    answers: list[bool] = []

    def fetch(*given: object, agree: Callable[[FetchPlan], bool], **more: object) -> FetchPlan:
        answers.append(agree(plan))
        return plan

    monkeypatch.setattr(cards_module, "load_card", lambda name, file=None: plan.card)
    monkeypatch.setattr("lingbot_eval.api.fetch_dataset", fetch)
    words = ["datasets", "fetch", "halls", "--root", str(tmp_path), *words]
    assert main(words) == code
    lines = capsys.readouterr().out.splitlines()
    planned = [
        "halls: Halls",
        "  licence: CC0",
        "  cite: A. Body, 2020",
        "  page: https://example.org/get",
        *(f"  {size:>10}  https://example.org/{n}.zip" for n, size in enumerate(map(in_words, sizes))),
        *([f"  already in {tmp_path}: {', '.join(there)}"] if there else []),
    ]
    assert lines[: len(planned)] == planned
    assert lines[len(planned)].startswith(f"  to download: {total}")
    done = [
        f"{tmp_path} has {', '.join((*there, *parts))}",
        f"next: lingbot-eval datasets check halls --root {tmp_path}",
    ]
    assert lines[len(planned) + 1 :] == (done if agreed or not parts else [])
    assert main([*words, "--json"]) == code
    assert answers == [agreed, agreed]
    found = capsys.readouterr()
    assert found.err.splitlines() == lines[: len(planned) + 1]
    assert json.loads(found.out) == {
        "schema_version": 1,
        "dataset": "halls",
        "licence": "CC0",
        "root": str(tmp_path),
        "files": [
            {"url": f"https://example.org/{number}.zip", "bytes": size, "parts": list(parts[number:])}
            for number, size in enumerate(sizes)
        ],
        "parts": list(parts),
        "there": list(there),
        "fetched": agreed,
    }


def in_words(size: int | None) -> str:
    return {None: "?", 250: "250B", 1000: "1.00kB", 2_500_000: "2.50MB"}[size]


@pytest.mark.parametrize("answer", ["y", "yes", "Y", " Yes "])
def test_a_person_agrees(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fetch_plan(tmp_path, ("east",), (1000,), ())
    told: list[bool] = []
    monkeypatch.setattr(cards_module, "load_card", lambda name, file=None: plan.card)
    monkeypatch.setattr("lingbot_eval.api.fetch_dataset", lambda *_, agree, **__: told.append(agree(plan)) or plan)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: f"{answer}\n"))
    assert main(["datasets", "fetch", "halls", "--root", str(tmp_path)]) == 0
    assert told == [True]


def test_where_nobody_can_be_asked_the_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = fetch_plan(tmp_path, ("east", "west"), (1000, None), ())
    monkeypatch.setattr(cards_module, "load_card", lambda name, file=None: plan.card)
    monkeypatch.setattr("lingbot_eval.api.fetch_dataset", lambda *_, agree, **__: agree(plan))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    assert main(["datasets", "fetch", "halls", "--root", str(tmp_path)]) == 2
    total = "1.00kB in 1 file, and 1 of a size that nobody says"
    said = f"halls: expected a terminal to ask whether to download {total}; give --yes to agree"
    assert capsys.readouterr().err == f"error: {said}\n"


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
    for wrong in ("split", "=all"):
        assert main(["datasets", "check", "kitti", "--root", str(root), "--option", wrong]) == 2
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
