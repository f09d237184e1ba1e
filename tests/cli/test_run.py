"""``lingbot-eval run``: what it prints, what it returns, and what it leaves on disk."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from PIL import Image

from lingbot_eval.cli.main import main
from lingbot_eval.cli.run_command import headline
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.reports.reading import open_run
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Measurement
from tests.support.tiny import FRAMES, run_folder, write_experiment


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """The experiment, with estimates that are the reference at three times its size."""
    return write_experiment(tmp_path)


def measurement(unit: dict[str, object], name: str, variant: str) -> float:
    found = unit["measurements"]
    assert isinstance(found, list)
    (one,) = [m for m in found if (m["name"], m["variant"]) == (name, variant)]
    return float(one["value"])


def test_the_main_job(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = experiment.parent / "runs"
    assert main(["run", str(experiment), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    printed = captured.out
    folder = run_folder(out)
    assert "synthetic/room with saved" in printed
    for number, scene in enumerate(("room", "corridor"), start=1):
        assert f"[{number}/2] synthetic/{scene}/saved: {FRAMES} of {FRAMES} frames in " in captured.err
    assert "complete: 2 done, 0 done before, 0 failed" in printed
    assert str(folder) in printed
    assert (folder / "report" / "report.md").is_file()
    estimate = read_tum(folder / "units" / "synthetic" / "room" / "saved" / "estimate.tum")
    assert len(estimate) == FRAMES
    frames = open_run(folder).frames("synthetic", "room", "saved")
    assert frames[["forward_ms", "interval_ms"]].isna().all(axis=None), "saved poses take no time"

    assert main(["run", str(experiment), "--out", str(out), "--no-report"]) == 0
    assert "complete: 0 done, 2 done before, 0 failed" in capsys.readouterr().out


def test_a_unit_in_a_line() -> None:
    """The few numbers that are asked for, in the order of their families, or the reason where there is none."""
    told = {
        ("memory", "process_peak_rss", ""): (1234.5, "MiB"),
        ("throughput", "forward_fps", ""): (None, "fps"),
        ("throughput", "end_to_end_fps", ""): (12.3456, "fps"),
        ("depth", "abs_rel", "scale_only"): (0.04321, "1"),
        ("depth", "abs_rel", "lstsq"): (9.0, "1"),
        ("trajectory", "coverage", ""): (0.0, "%"),
        ("trajectory", "ate_rmse", "sim3"): (0.123456, "m"),
        ("trajectory", "ate_rmse", "se3"): (9.0, "m"),
    }
    measurements = [
        Measurement(*key, value, unit, "c", reason="not told" if value is None else None)
        for key, (value, unit) in told.items()
    ]
    assert headline(measurements) == (
        "ATE 0.1235 m, coverage 0 %, abs rel 0.04321, end to end 12.35 fps, forward: not told, "
        "peak process memory 1234 MiB"
    )


def test_json(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = experiment.parent / "runs"
    assert main(["run", str(experiment), "--out", str(out), "--no-report", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == str(run_folder(out))
    assert document["status"] == "complete"
    (room, _) = document["units"]
    assert room["scene"] == "room"
    assert measurement(room, "ate_rmse", "sim3") == pytest.approx(0, abs=1e-6)
    assert measurement(room, "scale", "sim3") == pytest.approx(1 / 3)
    assert measurement(room, "coverage", "") == 100


def test_the_command_repeats_the_run(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = experiment.parent / "my runs"
    assert main(["run", str(experiment), "--set", "datasets.0.scenes=[room]", "--out", str(out), "--no-report"]) == 0
    command = json.loads((run_folder(out) / "run.json").read_text())["command"]
    program, *arguments = shlex.split(command)
    assert program == "lingbot-eval"
    assert main([*arguments, "--no-report"]) == 0
    assert run_folder(out), "the command made another run"


def test_dry_run_writes_nothing(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = experiment.parent / "runs"
    assert main(["run", str(experiment), "--out", str(out), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["units"] == [["synthetic", "room", "saved"], ["synthetic", "corridor", "saved"]]
    assert not out.exists()
    assert main(["run", str(experiment), "--out", str(out)]) == 0
    assert run_folder(out).name == f"tiny-{document['key'][:12]}"


def test_a_dry_run_says_what_the_run_would_fail_with(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A saved trajectory that is not there, or is none, is known before anything runs."""
    (experiment.parent / "estimates" / "room.txt").write_text("0 1 2 3 4\n", encoding="utf-8")
    (experiment.parent / "estimates" / "corridor.txt").unlink()
    assert main(["run", str(experiment), "--dry-run"]) == 2
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "would fail" in line]
    assert [line.partition(":")[0] for line in lines] == ["synthetic/room/saved", "synthetic/corridor/saved"]
    assert "room.txt:1: expected" in lines[0]
    assert "corridor.txt does not exist" in lines[1]


def test_notes_of_saved_poses_are_not_of_weights(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = experiment.parent / "estimates" / "room.txt"
    first, *others = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    path.write_text("\n".join([first, first, *others]) + "\n")
    assert main(["run", str(experiment), "--out", str(experiment.parent / "runs"), "--no-report"]) == 0
    captured = capsys.readouterr()
    assert "have the time of the row before" in captured.out + captured.err
    assert "weights of saved" not in captured.out + captured.err


def test_a_changed_setting_makes_another_run(experiment: Path) -> None:
    out = experiment.parent / "runs"
    for override in ("name=tiny", "metrics.depth=null"):
        assert main(["run", str(experiment), "--set", override, "--out", str(out), "--no-report"]) == 0
    assert len(list(out.iterdir())) == 2


def test_bad_input_of_one_scene(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (experiment.parent / "estimates" / "room.txt").write_text("0 1 2 3 4\n", encoding="utf-8")
    out = experiment.parent / "runs"
    assert main(["run", str(experiment), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: synthetic/room/saved: ")
    assert "room.txt:1" in line
    assert "incomplete: 1 done, 0 done before, 1 failed" in captured.out
    assert "FAILED (open)" in captured.out
    assert (run_folder(out) / "report" / "report.md").is_file()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("datasets.0.scenes=[lobby]", "lobby"),
        ("datasets.0.nam=x", "did you mean 'name'?"),
        ("datasets.0.options={frame: 3}", "frames"),
        ("datasets.0.name=sinthetic", "synthetic"),
    ],
)
def test_bad_input_before_anything_runs(
    experiment: Path, capsys: pytest.CaptureFixture[str], override: str, says: str
) -> None:
    out = experiment.parent / "runs"
    assert main(["run", str(experiment), "--set", override, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = experiment.parent / "runs"
    out.mkdir(mode=0o500)
    assert main(["run", str(experiment), "--out", str(out)]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_an_output_directory_that_is_a_file(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(experiment), "--out", str(experiment)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write" in line


def test_the_model_streams_through_the_whole_job(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = experiment.parent / "runs"
    model = "{kind: lingbot, name: model, device: cpu, model: {config: ci}, streaming: {scale_frames: 4, window: 3}}"
    arguments = ["--set", f"methods=[{model}]", "--set", "datasets.0.scenes=[room]", "--out", str(out), "--json"]
    assert main(["run", str(experiment), *arguments]) == 0
    (unit,) = json.loads(capsys.readouterr().out)["units"]
    assert (unit["frames"], unit["predictions"]) == (FRAMES, FRAMES)
    assert unit["method_facts"]["weights"] == "untrained (seed 0)"
    families = {(m["family"], m["value"] is not None) for m in unit["measurements"]}
    assert {(family, True) for family in ("trajectory", "depth", "throughput", "memory")} <= families
    assert measurement(unit, "forward_fps", "") >= measurement(unit, "end_to_end_fps", "")
    # What is held has headroom over what is in view, as a dry run forecasts both.
    assert main(["run", str(experiment), *arguments, "--dry-run"]) == 0
    (forecast,) = json.loads(capsys.readouterr().out)["predicted"]
    assert measurement(unit, "cache_allocated", "") == forecast["estimate"]["cache_allocated"] / 2**20
    for kind, size in forecast["estimate"]["cache_bytes"].items():
        assert measurement(unit, f"cache_{kind}", "") == size / 2**20
    report = (run_folder(out) / "report" / "report.md").read_text(encoding="utf-8")
    assert "untrained weights" in report
    assert len(list((run_folder(out) / "report" / "figures").glob("*.png"))) == 6


def test_the_command_names_its_variables(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE_ESTIMATES_ARE", f"{experiment.parent}/estimates")
    text = experiment.read_text(encoding="utf-8").replace(f"{experiment.parent}/estimates", "${WHERE_ESTIMATES_ARE}")
    experiment.write_text(text, encoding="utf-8")
    out = experiment.parent / "runs"
    assert main(["run", str(experiment), "--out", str(out), "--no-report"]) == 0
    record = json.loads((run_folder(out) / "run.json").read_text())
    assert record["command"].startswith('WHERE_ESTIMATES_ARE="$WHERE_ESTIMATES_ARE" lingbot-eval run ')
    assert record["experiment"]["methods"][0]["trajectory"].startswith(f"{experiment.parent}/estimates/")


def test_names_that_are_not_utf8(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files from an old camera or archive: the scene runs, and its report is written."""
    folder = experiment.parent / "images" / os.fsdecode(b"sc\xff")
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (56, 42), (number, 0, 0)).save(folder / os.fsdecode(b"\xff%d.png" % number))
    (experiment.parent / "poses.txt").write_text("0 0 0 0 0 0 0 1\n0.0333 1 0 0 0 0 0 1\n", encoding="utf-8")
    dataset = f"{{name: folder, root: {experiment.parent}/images}}"
    method = f"{{kind: replay, trajectory: {experiment.parent}/poses.txt, format: tum}}"
    out = experiment.parent / os.fsdecode(b"out\xff")
    words = [
        "run",
        str(experiment),
        "--set",
        f"datasets=[{dataset}]",
        "--set",
        f"methods=[{method}]",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    assert "sc\\udcff" in capsys.readouterr().out
    (unit,) = RunStore.open(run_folder(out)).read_units().units
    assert unit.record.scene == os.fsdecode(b"sc\xff")
    assert (run_folder(out) / "report" / "report.md").is_file()
    assert main([*words, "--no-report"]) == 0
    assert "1 done before" in capsys.readouterr().out


def test_a_replayed_file_of_the_same_size_and_time_is_another(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied over with its times kept: what it holds counts."""
    out = ["--out", str(experiment.parent / "runs"), "--no-report"]
    assert main(["run", str(experiment), *out]) == 0
    path = sorted((experiment.parent / "estimates").iterdir())[0]
    before = path.stat()
    text = path.read_text()
    at = next(i for i in range(len(text) - 1, 0, -1) if text[i].isdecimal())
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    capsys.readouterr()
    assert main(["run", str(experiment), *out]) == 0
    assert "complete: 1 done, 1 done before, 0 failed" in capsys.readouterr().out


def test_a_replay_whose_clock_differs_fails_with_score_s_words(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nanoseconds of another clock for seconds: the reason names scale and offset, which together then help."""
    for path in (experiment.parent / "estimates").iterdir():
        rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
        rows = [[str(round((1e9 + float(row[0])) * 1e9)), *row[1:]] for row in rows]
        path.write_text("".join(" ".join(row) + "\n" for row in rows))
    out = ["--out", str(experiment.parent / "runs"), "--no-report"]
    assert main(["run", str(experiment), *out]) == 2
    said = capsys.readouterr().out
    assert "time_scale: 1e-09" in said
    assert "time_offset: -1000000000" in said
    more = ["--set", "methods.0.time_scale=1e-09", "--set", "methods.0.time_offset=-1000000000"]
    assert main(["run", str(experiment), *out, *more]) == 0
