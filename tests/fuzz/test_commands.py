"""Commands over files of odd structure: a line, exit code 0, 1 or 2; never a fault of the program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from mutations import damaged, odd

from lingbot_eval.cli.main import main
from lingbot_eval.reports import report
from lingbot_eval.resources import shared_file
from lingbot_eval.stored.records import CHECKSUM, RunRecord, canonical_json
from lingbot_eval.stored.store import RunStore
from tests.gate.sides import write_run
from tests.reports import fake_run

FEW, MANY = 12, 150
COUNTS = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
EXPERIMENT: dict[str, Any] = {
    "name": "fuzzed",
    "datasets": [
        {
            "name": "synthetic",
            "scenes": ["room"],
            "options": {"frames": 9, "width": 28, "height": 28},
            "selection": {"start": 0, "stride": 1, "count": None},
            "size": {"mode": "exact", "width": 28, "height": 28},
            "depth_range": [0.1, 80.0],
        }
    ],
    "methods": [
        {
            "kind": "lingbot",
            "name": "model",
            "device": "cpu",
            "model": {"config": "ci", "camera_iterations": 1},
            "streaming": {"scale_frames": 3, "window": 4, "keyframe_interval": 1},
        }
    ],
    "metrics": {"trajectory": {"rpe_delta_frames": 1}, "auc": None, "points": {"voxel_m": 0.1, "icp_m": 0.1}},
}
STUDY: dict[str, Any] = {
    "kind": "scale",
    "name": "fuzzed",
    "model": {"config": "ci"},
    "device": "cpu",
    "streaming": {"scale_frames": 8},
    "input": {"kind": "noise", "pool": 5},
    "defaults": {"frames": 40, "size": [56, 42], "keyframe_interval": 1, "backend": "sdpa", "limit_s": 3.0},
    "cases": [{"frames": 20}, {"scenario": "camera", "camera_hz": 10}],
    "sweep": {"precision": ["float32", "bfloat16"], "window": [None, 4]},
    "checkpoints": [10, 30],
    "sample_every": 4,
}


def whole(document: Any) -> str:
    """A record as if it had been written so: its checksum is that of what somebody made of it."""
    if isinstance(document, dict) and CHECKSUM in document:
        document = {key: value for key, value in document.items() if key != CHECKSUM}
        document[CHECKSUM] = hashlib.sha256(canonical_json(document).encode()).hexdigest()
    return json.dumps(document)


def ends_in_a_line(words: Sequence[str], capsys: pytest.CaptureFixture[str], what: str) -> None:
    try:
        code = main(list(words))
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error
    said = capsys.readouterr().err
    assert code in (0, 1, 2), f"{what}: {said}"
    assert "\x1b" not in said, what
    if code == 2 and "error: " in said:
        assert len(said.splitlines()) < 40, what


@pytest.fixture(autouse=True)
def _traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults come out as they are, with their place."""
    monkeypatch.setenv("LINGBOT_EVAL_TRACEBACK", "1")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "draw_units", lambda *_: ((), (), {}))


def published(record: RunRecord) -> RunRecord:
    """With an experiment as real ones are: cards, published rows, settings of everything."""
    card = yaml.safe_load(shared_file("datasets", "seven_scenes").read_text(encoding="utf-8"))
    experiment = EXPERIMENT | {"cards": {"indoor": card | {"name": "indoor"}, "synthetic": card}}
    experiment["datasets"] = [experiment["datasets"][0], experiment["datasets"][0] | {"name": "indoor"}]
    environment = {"python": "3.11", "cpu_model": "x", "libraries": {"torch": "2"}, "git": "a"}
    environment |= {"torch": {"threads": 1, "gpus": [{"name": "g"}], "driver": "1"}, "variables": {"A": "b"}}
    return record.model_copy(update={"experiment": experiment, "environment": environment})


def mutants(files: Sequence[Path], count: int) -> Iterator[str]:
    """One record after the other made odd, restored after its turn."""
    for seed in range(count):
        path = files[seed % len(files)]
        sound = path.read_text(encoding="utf-8")
        path.write_text(whole(odd(json.loads(sound), seed)), encoding="utf-8")
        yield f"{path.name} seed {seed}"
        path.write_text(sound, encoding="utf-8")


@COUNTS
@pytest.mark.usefixtures("undrawn")
def test_reports_of_odd_records(tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int) -> None:
    store = fake_run.build_run(tmp_path / "runs", frames=12)
    store.write_run(published(store.read_run()))
    other = fake_run.build_failures(tmp_path / "other")
    files = [store.path / "run.json", *sorted(store.path.rglob("result.json"))]
    for what in mutants([path for result in files[1:] for path in (files[0], result)], count):
        ends_in_a_line(["report", str(store.path), str(other.path), "--out", str(tmp_path / "out")], capsys, what)
        ends_in_a_line(["report", str(store.path), "--out", str(tmp_path / "out"), "--json"], capsys, what)
        written = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert "<script>|" not in written, what  # of ODD_VALUES


@COUNTS
def test_comparisons_and_gates_of_odd_records(tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int) -> None:
    run, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    for path in (run, other):
        store = RunStore(path)
        store.write_run(published(store.read_run()))
    baseline = str(tmp_path / "baseline.yaml")
    assert main(["gate", str(other), "--baseline", baseline, "--update", "--reason", "test"]) == 0
    for what in mutants([run / "run.json", *sorted(run.rglob("result.json"))], count):
        ends_in_a_line(["gate", str(run), "--baseline", baseline], capsys, what)
        ends_in_a_line(["gate", str(run), str(other), "--baseline", baseline], capsys, what)
        ends_in_a_line(["compare", str(run), str(other), "--out", str(tmp_path / "out")], capsys, what)


@COUNTS
def test_gates_against_odd_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int) -> None:
    run = write_run(tmp_path / "a")
    baseline = tmp_path / "baseline.yaml"
    assert main(["gate", str(run), "--baseline", str(baseline), "--update", "--reason", "test"]) == 0
    sound = baseline.read_bytes()
    for seed in range(count):
        baseline.write_bytes(altered(sound, seed))
        ends_in_a_line(["gate", str(run), "--baseline", str(baseline)], capsys, f"seed {seed}")


@COUNTS
@pytest.mark.parametrize(("command", "document"), [("run", EXPERIMENT), ("scale", STUDY)])
def test_odd_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, document: dict[str, Any], count: int
) -> None:
    path = tmp_path / "settings.yaml"
    sound = json.dumps(document).encode()
    path.write_bytes(sound)
    assert main([command, str(path), "--dry-run"]) == 0
    for seed in range(count):
        path.write_bytes(altered(sound, seed))
        ends_in_a_line([command, str(path), "--dry-run", "--out", str(tmp_path / "out")], capsys, f"seed {seed}")
        assert not (tmp_path / "out").exists()


def altered(sound: bytes, seed: int) -> bytes:
    """YAML of odd structure; every fourth time damaged as bytes."""
    if seed % 4 == 0:
        return damaged(sound, seed)
    return json.dumps(odd(yaml.safe_load(sound), seed)).encode()
