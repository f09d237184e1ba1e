"""``lingbot-eval compare``: backends and runs through the command line, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import lingbot_eval.api as api
from lingbot_eval.cli.main import main
from lingbot_eval.comparison.contenders import Bench, Contender
from lingbot_eval.errors import ConfigError, DataError, StoreError
from lingbot_eval.methods.stepper import Stepper
from tests.comparison.fakes import experiment
from tests.reports.fake_run import walk
from tests.reports.test_two_runs import moved, write_run


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment(10).model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    return str(path)


def test_two_backends(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--experiment", file, "--frames", "8", "--rounds", "1", "--out", str(out)]
    assert main(["compare", "sdpa:bfloat16", "paged", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("A sdpa bfloat16 against B paged float32 (untrained weights)\n")
    for heading in ("Agreement", "Speed", "Memory"):
        assert f"### {heading} (untrained weights)" in captured.out
    assert re.search(r"\| B–reference +\| depth ", captured.out)
    assert sorted(path.name for path in out.iterdir()) == ["compare.json", "compare.md", "compare.png"]
    page = (out / "compare.md").read_text(encoding="utf-8")
    assert "8 frames at 28×28" in page
    assert "![Agreement and time along the sequence](compare.png)" in page


def test_a_comparison_refused_for_its_weights_leaves_no_folder(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.pt").write_text("<html>")
    words = ["--experiment", file, "--set", f"methods.0.model.checkpoint={tmp_path}/w.pt"]
    assert main(["compare", "sdpa", "paged", *words, "--out", str(tmp_path / "a" / "b")]) == 2
    assert "w.pt: not a checkpoint but a web page" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("refusal", [ConfigError, DataError, StoreError])
def test_a_comparison_that_comes_to_nothing_takes_its_folders_back(
    refusal: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that it made and nothing is in: not one that was there."""
    (tmp_path / "there").mkdir()

    def compare(*given: object, prepared: Callable[[], None], **settings: object) -> None:
        prepared()
        assert (tmp_path / "there" / "a" / "b").is_dir()
        raise refusal("no frames")

    monkeypatch.setattr(api, "compare_backends", compare)
    assert main(["compare", "sdpa", "paged", "--out", str(tmp_path / "there" / "a" / "b")]) == 2
    assert capsys.readouterr().err == "error: no frames\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_json_is_one_document(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--experiment", file, "--rounds", "3", "--no-reference", "--scene", "corridor", "--json"]
    arguments += ["--set", "methods.0.streaming.window=3", "--out", str(tmp_path / "out")]
    assert main(["compare", "paged", "sdpa", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["scene"], document["frames"], document["untrained_weights"]) == ("corridor", 10, True)
    assert document["streaming"]["window"] == 3
    assert [side["backend"] for side in document["sides"]] == ["paged", "sdpa"]
    assert [len(side["step_ms_by_round"]) for side in document["sides"]] == [3, 3]
    (pair,) = document["pairs"]
    assert [entry["name"] for entry in pair["differences"]] == ["rotation", "position", "depth"]
    assert document["time_ratio"].pop("value") > 0
    reason = "7 timed frames a round, at least 32 are needed"
    assert document["time_ratio"] == {"low": None, "high": None, "verdict": None, "reason": reason}


def test_out_of_memory_ends_with_one(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_stream = Bench.open

    def opened(self: Bench, contender: Contender) -> Stepper:
        if contender.backend == "paged":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return open_stream(self, contender)

    monkeypatch.setattr(Bench, "open", opened)
    arguments = ["--experiment", file, "--rounds", "1", "--out", str(tmp_path / "out")]
    assert main(["compare", "sdpa", "paged", *arguments]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors[0] == "error: B paged float32: out of device memory at frame 0, in the warm-up: CUDA out of memory"
    assert (tmp_path / "out" / "compare.md").is_file()


def test_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "runs", walk(120, 1), key="a" * 16)
    b = write_run(tmp_path / "runs", moved(walk(120, 1), 3.0, 0.05), key="b" * 16)
    assert main(["compare", str(a), str(b), "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Run B (smoke) against run A (smoke) (untrained weights)\n")
    assert "ate_rmse sim3" in captured.out
    assert "note: times were taken in two runs" in captured.err
    assert main(["compare", str(a), str(b), "--out", str(tmp_path / "out"), "--json"]) == 0
    (unit,) = json.loads(capsys.readouterr().out)["units"]
    assert unit["differences"][0]["largest"] == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sdpa", "nowhere"], "found sdpa (a backend) and nowhere (neither)"),
        (["page", "sdpa"], "found page (neither) (did you mean 'paged'?) and sdpa (a backend)"),
        # The folder of runs instead of one, and a file.
        ([".", "nowhere"], "found a folder without it: ."),
        ([__file__, "nowhere"], "found a file: "),
        (["sdpa", "paged:int8"], "behind paged, found 'int8'"),
        (["sdpa", "flashinfer:bfloat16"], "backend sdpa works meanwhile"),
        (["sdpa", "paged", "--scene", "kitchen"], "no scene 'kitchen'; there are: room, corridor"),
        (["sdpa", "paged", "--frames", "0"], "expected a whole number of at least 1, found '0'"),
        (["sdpa", "paged", "--set", "methods.0.kind=replay"], "methods.0"),
    ],
)
def test_refusals(
    arguments: list[str], says: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--experiment", file, "--out", str(tmp_path / "out")]
    assert main(["compare", *arguments, *extra]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_options_without_a_meaning_for_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "runs", None, key="a" * 16)
    for words in ("--set a=1", "--no-reference", "--experiment smoke", "--scene s", "--frames 3", "--rounds 2"):
        assert main(["compare", str(a), str(a), *words.split()]) == 2
        said = f"{words.split()[0]} has a meaning for backends only; two runs are compared as they are stored"
        assert capsys.readouterr().err == f"error: {said}\n"
    for words in ([str(a), "sdpa"], ["sdpa", str(a)]):
        assert main(["compare", *words]) == 2
        found = " and ".join(f"{word} ({'a backend' if word == 'sdpa' else 'a run'})" for word in words)
        assert f", found {found}\n" in capsys.readouterr().err


def test_the_default_folder_is_named_after_both(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--experiment", file, "--frames", "4", "--rounds", "1", "--no-reference"]
    assert main(["compare", "sdpa:bfloat16", "paged", *arguments]) == 0
    assert (tmp_path / "compare-sdpa-bfloat16-paged" / "compare.md").is_file()
