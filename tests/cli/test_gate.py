"""``lingbot-eval gate`` and ``env`` as a user meets them: exit codes, files, updates, one line for bad input."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
import yaml

from lingbot_eval.cli.main import main
from lingbot_eval.gating.baseline import load_baseline
from lingbot_eval.stored.lock import directory_lock
from lingbot_eval.stored.store import RunStore
from tests.gate.sides import ATE, AUC, LATENCY, VALUES, rounds, write_run
from tests.stored.store_records import make_unit_record

REASON = ["--reason", "a first one"]


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """Of three repeats."""
    paths = [str(write_run(tmp_path / f"old{number}", step_ms=times)) for number, times in enumerate(rounds(3, 0))]
    path = tmp_path / "baseline.yaml"
    assert main(["gate", *paths, "--baseline", str(path), "--update", *REASON, "--who", "tester"]) == 0
    return path


def gate(run: Path, baseline: Path, *options: str) -> int:
    return main(["gate", str(run), "--baseline", str(baseline), *options])


def test_held_regression_and_not_judged(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = write_run(tmp_path / "same", step_ms=rounds(1, 1)[0])
    assert gate(same, baseline) == 0
    assert "## Gate: held" in capsys.readouterr().out
    worse = write_run(tmp_path / "worse", VALUES | {ATE: 1.02 * VALUES[ATE]}, step_ms=rounds(1, 1)[0])
    assert gate(worse, baseline) == 1
    out = capsys.readouterr().out
    assert out.startswith("## Gate: regression")
    assert ATE in out
    slower = write_run(tmp_path / "slower", step_ms=rounds(1, 1, factor=1.2)[0])
    assert gate(slower, baseline) == 1
    assert gate(slower, baseline, "--require", "accuracy", "memory") == 0
    less = write_run(tmp_path / "less", {LATENCY: 50.0}, step_ms=rounds(1, 1)[0])
    assert gate(less, baseline) == 2


def test_one_run_makes_a_baseline_that_the_next_is_held_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A baseline of one round promises no verdict on speed: what it has numbers for decides, and the rest is said."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        write_run(tmp_path / "runs" / f"mine-{name}", step_ms=rounds(1, 1)[0])
    first = ["gate", "runs/mine-first", "--baseline", "mine_baseline.yaml"]
    second = ["gate", "runs/mine-second", "--baseline", "mine_baseline.yaml"]
    assert main([*first, "--update", "--reason", "first"]) == 0
    capsys.readouterr()
    assert main([*second, "--junit", "gate.xml", "--markdown", "gate.md"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("## Gate: held")
    assert "speed is not judged: the baseline has 1 round of timings, 3 are needed" in out
    assert Path("gate.xml").is_file()
    assert Path("gate.md").is_file()
    # Whoever asks for speed is told that it could not be judged.
    assert main([*second, "--require", "speed"]) == 2


def test_an_experiment_is_no_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "mine.yaml").write_text("name: mine\ndatasets: []\nmethods: []\n")
    assert gate(run, tmp_path / "mine.yaml", "--update", *REASON) == 2
    assert "mine.yaml: expected a baseline, found an experiment" in capsys.readouterr().err


def test_files_and_json(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = write_run(tmp_path / "worse", VALUES | {ATE: 0.6})
    capsys.readouterr()
    junit, page = tmp_path / "j.xml", tmp_path / "p.md"
    assert gate(worse, baseline, "--junit", str(junit), "--markdown", str(page), "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["families"]["accuracy"] == "regression"
    assert page.read_text(encoding="utf-8").startswith("## Gate: regression")
    assert Xml.parse(junit).getroot().tag == "testsuites"


def test_an_update_keeps_what_was_edited(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = baseline.read_text(encoding="utf-8")
    loose = text.replace("tolerances:\n", "tolerances:\n- {match: trajectory/*, kind: absolute, worse_by: 5.0}\n")
    baseline.write_text(loose, encoding="utf-8")
    worse = write_run(tmp_path / "worse", VALUES | {ATE: 0.6}, step_ms=rounds(1, 1)[0])
    assert gate(worse, baseline) == 0
    capsys.readouterr()
    assert gate(worse, baseline, "--update", "--reason", "accepted", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["replaced"] == {"tum/desk/lingbot": {ATE: 0.5}}
    assert (document["updates"], document["rounds"]) == (2, 1)
    read = load_baseline(baseline)
    assert (read.history[0].who, read.history[0].reason) == ("tester", "a first one")
    assert read.history[-1].reason == "accepted"
    assert read.tolerances[0].match == "trajectory/*"


def test_an_update_says_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whom, of how many rounds, what was left out, and what speed still lacks."""
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    path = tmp_path / "b.yaml"
    runs = [write_run(tmp_path / name, scenes=("desk", "floor"), step_ms=rounds(1, 1)[0]) for name in "abcd"]
    store = RunStore.open(runs[0])
    failed = make_unit_record(("tum", "floor", "lingbot"), status="failed", reason="crash", measurements=[])
    with store.lock(), store.unit_writer("tum", "floor", "lingbot") as writer:
        writer.finish(failed)
    update = ["--baseline", str(path), "--update", "--reason", " why "]
    assert main(["gate", str(runs[0]), *update]) == 0
    said = capsys.readouterr()
    assert said.out == f"{path}: written; 2 scenes, rounds of timings: 1\n"
    assert said.err.splitlines() == [
        "note: tum/floor/lingbot is in the baseline as it is: failed: crash",
        "note: speed needs 3 rounds to be judged, better 10: give repeats of the run",
    ]
    change = load_baseline(path).history[0]
    assert (change.who, change.reason, change.rounds, change.code["run"]) == ("somebody", "why", 1, "smoke")

    worse = [write_run(tmp_path / f"w{n}", VALUES | {ATE: 0.6, AUC: 50.0}, ("desk", "floor")) for n in range(3)]
    stranger = worse[0] / "units" / "tum" / "attic" / "lingbot"
    stranger.mkdir(parents=True)
    (stranger / "result.json").write_text("{")
    assert main(["gate", *map(str, worse), *update, "--who", "me"]) == 0
    said = capsys.readouterr()
    words = "updated, 2 values replaced (the old ones are in its history); 2 scenes, rounds of timings: 3"
    assert said.out == f"{path}: {words}\n"
    (note,) = said.err.splitlines()
    assert note.startswith(f"note: left out: {stranger / 'result.json'} ")
    assert load_baseline(path).history[1].who == "me"
    # Where nothing is judged by rounds, nobody is asked for any.
    path.write_text(path.read_text().replace("kind: statistical, min_effect: 0.08, alpha: 0.01", "kind: shown"))
    assert main(["gate", str(runs[1]), *update]) == 0
    assert capsys.readouterr().err == ""

    def nobody() -> str:
        raise KeyError("no such user")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert main(["gate", str(runs[1]), *update]) == 0
    assert load_baseline(path).history[-1].who == "unknown"


def test_an_update_says_what_it_gives_up(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    less = write_run(tmp_path / "less", {LATENCY: 50.0}, step_ms=rounds(1, 1)[0])
    capsys.readouterr()
    assert gate(less, baseline, "--update", "--reason", "fewer metrics") == 0
    assert f"note: tum/desk/lingbot has no number of {ATE} and 3 more" in capsys.readouterr().err


def test_two_sides_measured_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        write_run(tmp_path / "a" / str(number), step_ms=rounds(1, number)[0])
        write_run(tmp_path / "b" / str(number), step_ms=rounds(1, 50 + number, factor=1.15)[0])
    sides = [[str(tmp_path / side / str(number)) for number in range(5)] for side in "ab"]
    assert main(["gate", *sides[1], "--against", *sides[0]]) == 1
    assert "5 rounds before, 5 now" in capsys.readouterr().out
    assert main(["gate", *sides[0], "--against", *sides[1]]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "one of the arguments --baseline --against is required"),
        (["--baseline", "{b}", "--against", "{r}"], "not allowed with"),
        (["--against", "{r}", "--update", "--reason", "x"], "--update writes a baseline"),
        (
            ["--baseline", "{b}", "--update"],
            '--update needs --reason "…": the history says why the numbers changed\n',
        ),
        (["--baseline", "{b}", "--update", "--reason", "  "], 'needs --reason "…"'),
        (["--baseline", "{b}", "--reason", "x"], "--reason has no meaning without --update"),
        (["--baseline", "{b}", "--update", "--reason", "x", "--junit", "j"], "--junit has no meaning with"),
        (["--baseline", "{b}", "--update", "--reason", "x", "--markdown", "m"], "--markdown has no meaning with --upd"),
        (["--baseline", "{b}", "--update", "--reason", "x", "--require", "speed"], "--require has no meaning with --u"),
        (["--baseline", "{b}", "--who", "me"], "--who has no meaning without --update"),
        (["--baseline", "none.yaml"], "none.yaml: no such baseline; write it from a run that is as it should be: "),
        (["--baseline", "{b}", "--require", "acuracy"], "found 'acuracy' (did you mean 'accuracy'?)"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, baseline: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    before = baseline.read_bytes()
    capsys.readouterr()
    assert main(["gate", str(run), *(option.format(b=baseline, r=run) for option in options)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert baseline.read_bytes() == before


def test_bad_input_is_one_line(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", step_ms=rounds(1, 1)[0])
    with directory_lock(run):
        assert gate(run, baseline) == 2
    error = capsys.readouterr().err
    assert "still being written" in error.splitlines()[-1]
    old = tmp_path / "old.yaml"
    old.write_text(baseline.read_text(encoding="utf-8").replace("schema_version: 1", "schema_version: 0"))
    assert gate(run, old) == 2
    assert "schema version 1, found 0" in capsys.readouterr().err
    record = run / "units" / "tum" / "desk" / "lingbot" / "result.json"
    record.write_text("not json")
    assert gate(run, baseline) == 2
    out = capsys.readouterr().out
    assert "damaged" in out
    assert "result.json" in out
    (run / "run.json").write_text("{")
    assert gate(run, baseline) == 2
    assert "run.json" in capsys.readouterr().err


def test_a_damaged_extra_scene_is_named_and_the_rest_is_judged(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", scenes=("desk", "extra"), step_ms=rounds(1, 1)[0])
    (run / "units" / "tum" / "extra" / "lingbot" / "result.json").write_text("{")
    assert gate(run, baseline) == 0
    assert "result.json is damaged" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", step_ms=rounds(1, 1)[0])
    assert gate(run, baseline, "--junit", str(tmp_path / "none" / "j.xml")) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_project_s_own_baseline_can_be_read() -> None:
    baseline = load_baseline(Path(__file__).parents[2] / "reports" / "baselines" / "ci_gate.yaml")
    assert baseline.name == "ci_gate"
    assert {unit.method for unit in baseline.units} == {"lingbot-ci", "lingbot-ci-paged"}


def test_env_is_the_block_of_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    from lingbot_eval.machine.environment import environment

    assert main(["env", "--json"]) == 0
    block = json.loads(capsys.readouterr().out)
    assert block == {"schema_version": 1, **json.loads(json.dumps(environment()))}
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert "torch.threads  " in text
    assert str(block["cpu_model"]) in text


def test_benchmark_results_carry_the_same_block(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    conftest = Path(__file__).parents[2] / "benchmarks" / "conftest.py"
    (folder / "conftest.py").write_text(conftest.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_one.py").write_text("def test_one(benchmark):\n    benchmark.pedantic(int, rounds=1)\n")
    result = tmp_path / "result.json"
    words = ["-m", "pytest", "-q", str(folder), f"--benchmark-json={result}", "-p", "no:cacheprovider"]
    # Benchmarks are off in a worker of xdist, and a process that inherits its variables takes itself for one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, cwd=tmp_path, timeout=120, env=environment
    )
    block = json.loads(result.read_text(encoding="utf-8"))["machine_info"]["lingbot_eval"]
    assert set(block) >= {"cpu_model", "libraries", "torch", "git"}


def test_the_baseline_is_yaml_that_people_can_read(baseline: Path) -> None:
    document = yaml.safe_load(baseline.read_text(encoding="utf-8"))
    assert list(document)[:4] == ["schema_version", "name", "tolerances", "history"]
    assert len(document["units"][0]["samples"][LATENCY]) == 3
