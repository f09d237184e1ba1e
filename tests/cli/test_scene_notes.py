"""What a scene says of itself that a reader must know: the dry run, the run, its record and the doctor print it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lingbot_eval.cli.main import main
from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.stored.store import RunStore
from tests.comparison.fakes import experiment

BEFORE, AFTER = "1 of 4 images is left out", "frame 2 is damaged"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three images, which notes one thing at once and another after its images were read."""
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((28, 28, 3), 50 * number, np.uint8)).save(folder / f"{number}.png")
    known: list[str] = [BEFORE]
    facts, frames = FileSequence.facts, FileSequence.loaders

    def noted(self: FileSequence) -> Mapping[str, Any]:
        return {**facts(self), "notes": list(known)}

    def decoded(self: FileSequence, **wanted: bool) -> Any:
        yield from frames(self, **wanted)
        known[1:] = [AFTER]

    monkeypatch.setattr(FileSequence, "facts", noted)
    monkeypatch.setattr(FileSequence, "loaders", decoded)
    document = experiment(3).model_dump(mode="json", exclude_unset=True)
    document["datasets"] = [{"name": "folder", "root": str(folder), "size": {"width": 28}}]
    path = tmp_path / "walk.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_the_dry_run_says_what_is_known_before(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"note: folder/walk: {BEFORE}"
    assert main(["run", str(file), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [f"folder/walk: {BEFORE}"]


def test_a_run_says_and_records_what_decoding_shows_too(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(file), "--out", str(tmp_path / "runs"), "--no-report"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert said == [
        f"note: folder/walk: {BEFORE}",
        f"note: folder/walk: {AFTER}",
        # Untrained weights see no field of view.
        "note: folder/walk with model: no cloud: no frame has intrinsics",
    ]
    (unit,) = RunStore.open(next((tmp_path / "runs").iterdir())).read_units().units
    assert unit.record.sequence["notes"] == [BEFORE, AFTER]


def test_the_doctor_warns(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "check", "folder", "--root", str(file.parent / "walk")]) == 0
    assert f"  warning scene: {BEFORE}" in capsys.readouterr().out.splitlines()
