"""Compiled dense heads as an axis: the setting reaches every command, and so does the word that they ran otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lingbot_eval.cli.main import main
from lingbot_eval.cli.stages_command import heads_text
from lingbot_eval.methods.stepper import Stepper
from lingbot_eval.model.compilation import Compilation
from lingbot_eval.runs.records import UnitRecord
from lingbot_eval.runs.store import RunStore
from tests.model.compilers import broken, use
from tests.scaling.studies import SIZE, study

FRAMES = 14
STUDY = study(name="heads", defaults={"frames": FRAMES}, sweep={"compile_heads": [False, True]}).model_dump(
    mode="json", exclude_unset=True
)
EXPERIMENT = {
    "name": "heads",
    "datasets": [
        {
            "name": "synthetic",
            "scenes": ["room", "corridor"],
            "options": {"frames": FRAMES, "width": SIZE[0], "height": SIZE[1]},
            "size": {"mode": "exact", "width": SIZE[0], "height": SIZE[1]},
        }
    ],
    "methods": [
        {"kind": "lingbot", "name": "model", "model": {"config": "ci"}, "device": "cpu", "compile_heads": True}
    ],
}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def file_of(folder: Path, document: dict[str, Any]) -> str:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def compiling(measurements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m for m in measurements if m["name"] == "head_compilation"]


def run_units(folder: Path) -> dict[str, UnitRecord]:
    assert main(["run", file_of(folder, EXPERIMENT), "--out", str(folder / "runs"), "--no-report"]) == 0
    (path,) = (folder / "runs").iterdir()
    return {unit.record.scene: unit.record for unit in RunStore.open(path).read_units().units}


def test_a_run_compiles_once_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "eager")
    records = run_units(tmp_path)
    found = {scene: compiling([m.model_dump() for m in record.measurements]) for scene, record in records.items()}
    assert {scene: [m["samples"] for m in each] for scene, each in found.items()} == {"room": [1], "corridor": [0]}
    assert found["room"][0]["value"] > 0
    assert found["corridor"][0]["value"] == 0
    assert all(record.method_facts["dense_heads"] == "compiled" for record in records.values())


def test_a_run_whose_heads_could_not_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, broken)
    for record in run_units(tmp_path).values():
        (found,) = compiling([m.model_dump() for m in record.measurements])
        assert (record.status, found["value"]) == ("ok", None)
        assert "the depth head ran as it was at 56×42: " in found["reason"]
        assert record.method_facts["dense_heads"] == "plain"
    assert "compiling the heads: the depth head ran as it was at 56×42: " in capsys.readouterr().out


def scaled(folder: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> list[dict[str, Any]]:
    assert main(["scale", file_of(folder, STUDY | changes), "--out", str(folder), "--json"]) == 0
    cases: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["cases"]
    return cases


def figure(case: dict[str, Any], name: str) -> Any:
    (found,) = [m for m in case["measurements"] if m["name"] == name]
    return found["value"]


def test_heads_are_an_axis_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, "eager")
    plain, compiled = scaled(tmp_path, capsys)
    assert [case["facts"]["dense_heads"] for case in (plain, compiled)] == ["plain", "compiled"]
    assert plain["name"] != compiled["name"]
    assert compiling(plain["measurements"]) == []
    # Its seconds are in the warm-up, and in no frame's time.
    assert figure(compiled, "warm_up") > figure(compiled, "head_compilation") > 0
    assert figure(compiled, "first_output_latency") < figure(compiled, "head_compilation")
    page = next(tmp_path.glob("*/scale.md")).read_text(encoding="utf-8")
    assert "plain heads" in page
    assert "compiled heads" in page
    assert "| compiling |" in page
    assert "head compilation: calls in which torch.compile made a program" in page


def test_a_program_is_counted_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, "eager")
    sweep = {"compile_heads": [True], "precision": ["float32", "bfloat16"], "keyframe_interval": [1, 2]}
    cases = scaled(tmp_path, capsys, sweep=sweep)
    assert [case["case"]["precision"] for case in cases] == ["float32"] * 2 + ["bfloat16"] * 2
    assert [compiling(case["measurements"])[0]["samples"] for case in cases] == [1, 0, 1, 0]
    assert [figure(case, "head_compilation") > 0 for case in cases] == [True, False, True, False]
    # Nothing differs in them, and they would be misread without it.
    assert "compiled heads" in next(tmp_path.glob("*/scale.md")).read_text(encoding="utf-8")


def test_a_case_that_fails_after_compiling_keeps_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next case is served by what was compiled there."""
    use(monkeypatch, "eager")
    step, seen = Stepper.step, []

    def full(self: Stepper, frame: Any) -> Any:
        seen.append(frame)
        if len(seen) == 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, frame)

    monkeypatch.setattr(Stepper, "step", full)
    sweep = {"compile_heads": [True], "backend": ["sdpa", "paged"]}
    assert main(["scale", file_of(tmp_path, STUDY | {"sweep": sweep}), "--out", str(tmp_path), "--json"]) == 1
    failed, other = json.loads(capsys.readouterr().out)["cases"]
    assert (failed["stage"], failed["out_of_memory"]) == ("warm-up", True)
    assert figure(failed, "head_compilation") > 0
    assert figure(other, "head_compilation") == 0


def test_a_study_whose_heads_could_not_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, broken)
    assert main(["scale", file_of(tmp_path, STUDY), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "heads not (all) compiled" in said.out
    assert "the depth head ran as it was at 56×42: " in said.err


def compared(folder: Path, *sides: str) -> int:
    given = ["--experiment", file_of(folder, EXPERIMENT), "--frames", str(FRAMES), "--rounds", "1", "--no-reference"]
    return main(["compare", *sides, *given, "--out", str(folder / "out"), "--json"])


def test_heads_are_an_axis_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, "eager")
    assert compared(tmp_path, "sdpa:plain", "sdpa") == 0
    document = json.loads(capsys.readouterr().out)
    plain, compiled = document["sides"]
    assert (plain["compile_heads"], plain["compile_s"]) == (False, None)
    assert (compiled["compile_heads"], compiled["not_compiled"]) == (True, None)
    assert 0 < compiled["compile_s"] < compiled["warm_up_s"]
    assert "A sdpa float32 against B sdpa float32 compiled" in document["title"]
    page = next((tmp_path / "out").glob("*.md")).read_text(encoding="utf-8")
    assert "| compiling" in page


def test_sides_that_share_a_network_compile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, "eager")
    assert compared(tmp_path, "sdpa", "paged") == 0
    first, second = json.loads(capsys.readouterr().out)["sides"]
    assert first["compile_s"] > 0
    assert second["compile_s"] == 0


def test_a_comparison_with_heads_that_are_not_compiled_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, broken)
    assert compared(tmp_path, "sdpa:plain", "sdpa:compiled") == 1
    said = capsys.readouterr()
    assert "error: B sdpa float32 compiled: the depth head ran as it was at 56×42: " in said.err
    assert json.loads(said.out)["time_ratio"]["value"] is None


def test_stages_with_compiled_heads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, "eager")
    command = ["stages", "--config", "mini", "--size", "56x42", "--frame", "12", "--device", "cpu", "--compile-heads"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["head_compilation"]
    assert (found["programs"], found["reason"]) == (1, None)
    assert heads_text(Compilation(**found)) == f", compiled heads ({found['seconds']:.1f} s)"
    assert heads_text(Compilation(0, 1.0, 2, 2, "why")) == ", heads not (all) compiled (why)"
    assert heads_text(None) == ""
