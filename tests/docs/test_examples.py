"""The files of ``examples/`` run as they are, on the small files of conftest.py."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lingbot_eval.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.usefixtures("own_registry")


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_example(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_score_two_files(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(monkeypatch, "score_two_files.py", "gt.txt", "mine.txt")
    assert "ATE under none" in capsys.readouterr().out
    assert {"name", "variant", "value", "unit", "convention"} <= set(pd.read_csv("score.csv").columns)


def test_stream_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_example(monkeypatch, "stream_by_hand.py", "my_photos")
    assert np.load("poses.npy").shape == (10, 4, 4)


def test_a_plugin_runs_and_its_run_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arc = ["run", str(EXAMPLES / "arc.yaml"), "--plugin", str(EXAMPLES / "plugin_arc.py"), "--no-report"]
    assert main(arc) == 0
    (run,) = Path("runs").iterdir()
    capsys.readouterr()
    run_example(monkeypatch, "read_a_run.py", str(run))
    said = capsys.readouterr().out
    assert "room wide median ms" in said
    assert "ate_rmse" in said
    assert main([*arc, "--set", "datasets.0={name: recordings, root: recordings}"]) == 0


def test_gate_in_a_script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        run_example(monkeypatch, "gate_in_a_script.py")
    assert ended.value.code == 0
    assert Path("baseline.yaml").is_file()


@pytest.mark.parametrize("name", ["score_two_files.py", "stream_by_hand.py", "read_a_run.py"])
def test_without_arguments_one_line_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_example(monkeypatch, name)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.removeprefix("usage: python ") in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_every_example_is_in_the_table() -> None:
    said = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    # Compiled files of a test that loads an example may lie beside them.
    names = {file.name for file in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    assert not [name for name in names if name not in said]
