"""The model card holds the numbers of its sources and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Measurement
from tests.stored.store_records import make_run_record, make_unit_record
from training.ablations import ABLATIONS, METRICS
from training.card import TARGETS, main
from training.state import Origin, about_run, export_weights

SCENES = ("room-100", "loop-100", "office-100")


def measured(values: dict[str, float | None]) -> list[Measurement]:
    return [
        Measurement(
            family=target.family,
            name=target.name,
            variant=target.variant,
            value=values[target.name],
            unit="%",
            convention="as is",
            reason=None if values[target.name] is not None else "does not move",
        )
        for target in TARGETS
    ]


def sources(folder: Path, weights: str = "w.safetensors (sha256 00)") -> list[str]:
    """Weights, log, run and ablations as a training and an evaluation leave them; the options of the command."""
    about = about_run(
        Origin(2, 4321, 12.5, 987),
        licence="Apache-2.0",
        data="rooms | <b>",
        seed=7,
        recipe="gpu",
        config="ci",
        device="GPU X",
        torch=torch.__version__,
    )
    export_weights(folder / "w.safetensors", nn.Linear(3, 3), about)
    pd.DataFrame([{"loss": 2.0, "skipped": 1.0}, {"loss": 0.4567, "skipped": 2.0}]).to_csv(
        folder / "log.csv", index=False
    )
    names = [("synthetic", scene, "lingbot-ci") for scene in SCENES]
    store = RunStore.create(
        folder / "runs", make_run_record(units=[list(n) for n in names], weights={"lingbot-ci": weights})
    )
    for number, name in enumerate(names):
        values: dict[str, float | None] = {
            "ate_share_of_motionless": 20.0 + number,
            "ate_share_of_path": None if number == 1 else 7.0,
            "auc_30": 40.0 + number,
            "delta_1_25": 90.0 + number,
        }
        with store.unit_writer(*name) as writer:
            writer.finish(make_unit_record(name, measurements=measured(values)))
    scores = {name: {scene: dict.fromkeys(METRICS, 0.5) for scene in SCENES} for name in ABLATIONS}
    (folder / "found.json").write_text(json.dumps(scores))
    given = {"weights": folder / "w.safetensors", "log": folder / "log.csv", "run": store.path}
    given |= {"ablations": folder / "found.json", "out": folder / "card.md"}
    return [part for key, path in given.items() for part in (f"--{key}", str(path))]


def test_the_card_says_what_was_measured(tmp_path: Path) -> None:
    assert main(sources(tmp_path)) == 0
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "| steps | 4321 in 2 run(s), recipe gpu, seed 7 |" in text
    assert "| scenes | 987 |" in text
    assert "| minutes of training | 12.5 |" in text
    assert "| steps skipped for a gradient that is not finite | 3 |" in text
    assert "| loss at the end | 0.457 |" in text
    assert "| ATE / ATE of a motionless estimate | 21.0 % | 22.0 % | at most 25 % | met |" in text
    assert "| ATE / path length | 7.0 % | 7.0 % | at most 5 % | not met; no value for 1 of 3 scenes |" in text
    assert "| AUC@30 | 41.0 % | 40.0 % | at least 50 % | not met |" in text
    assert "| depth δ &lt; 1.25, one scale a sequence | 91.0 % | 90.0 % | at least 85 % | met |" in text
    assert all(f"| {name} |" in text for name in ABLATIONS)
    assert "| data | rooms / &lt;b> |" in text


def test_the_card_shows_what_the_gate_says_of_the_ablations(tmp_path: Path) -> None:
    given = sources(tmp_path)
    scores = json.loads((tmp_path / "found.json").read_text())
    scores["window of 1"]["loop-100"]["auc_30"] = 0.4
    (tmp_path / "found.json").write_text(json.dumps(scores))
    assert main(given) == 0
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "| 50.0 % (worse in 1 of 3) | 50.0 % (worse in 0 of 3) | in 1 of 3 scenes |" in text
    assert text.count("in 0 of 3 scenes") == len(ABLATIONS) - 2


def test_runs_elsewhere_and_pictures_are_shown_as_they_are(tmp_path: Path) -> None:
    given = sources(tmp_path)
    run = given[given.index("--run") + 1]
    images = tmp_path / "docs" / "images"
    images.mkdir(parents=True)
    (images / "ci_drift.png").write_bytes(b"")
    (tmp_path / "reports").mkdir()
    card = tmp_path / "reports" / "card.md"
    assert main([*given, "--other", run, "--out", str(card)]) == 0
    text = card.read_text(encoding="utf-8")
    elsewhere = text.partition("## Elsewhere, as it is")[2]
    assert re.search(
        r"\| synthetic/loop-100 \| lingbot-ci \| \d+ \| 21.0 % \| does not move \| 41.0 % \| 91.0 % \|", elsewhere
    )
    assert "](../docs/images/ci_drift.png)" in elsewhere
    assert "ci_training_curve" not in text
    assert "clips of at most 144 frames" in text


def test_commands_leave_out_what_is_of_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = sources(tmp_path)
    path = next((tmp_path / "runs").rglob("run.json"))
    command = (
        "TUM_ROOT=/home/me/tum lingbot-eval run tum --set 'a={b: 1}' --out /scratch/x"
        " --set datasets.0.root=/home/me/7 --out=/scratch/y --json"
    )
    store = RunStore.open(path.parent)
    store.write_run(store.read_run().model_copy(update={"command": command}))
    assert main(given) == 0
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "`TUM_ROOT=FOLDER lingbot-eval run tum --set 'a={b: 1}' --set datasets.0.root=FOLDER --json`" in text
    store.write_run(store.read_run().model_copy(update={"command": "lingbot-eval run 'x"}))
    assert main(given) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_card_of_scores_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = sources(tmp_path)
    (tmp_path / "found.json").write_text("[]")
    assert main(given) == 2
    assert "found.json" in capsys.readouterr().err
    assert not (tmp_path / "card.md").exists()


def test_no_card_of_untrained_weights_or_of_half_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    assert main(sources(tmp_path / "a", weights="untrained (seed 0)")) == 2
    assert "untrained" in capsys.readouterr().err
    assert not (tmp_path / "a" / "card.md").exists()
    (tmp_path / "b").mkdir()
    given = sources(tmp_path / "b")
    result = next((tmp_path / "b" / "runs").rglob("result.json"))
    result.unlink()
    assert main(given) == 2
    assert "1 scenes have no result" in capsys.readouterr().err
