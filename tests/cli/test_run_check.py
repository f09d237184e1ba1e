"""What ``lingbot-eval run`` predicts and warns about before it streams."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lingbot_eval.cli.main import main
from lingbot_eval.errors import DataError, DependencyError
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.runs import plan as plan_module
from lingbot_eval.runs.plan import Unit
from tests.comparison.fakes import experiment

FRAMES = 10


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment(FRAMES).model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    return str(path)


def test_a_dry_run_prints_what_it_would_take(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    assert main(["run", file, "--dry-run", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    header, first, second, kept, _ = captured.out.splitlines()[-5:]
    assert header.split()[:4] == ["frames", "size", "interval", "kept"]
    assert first.split()[:4] == [str(FRAMES), "28×28", "1", str(FRAMES)]
    assert (first.split()[-1], second.split()[-1]) == ("synthetic/room/model", "synthetic/corridor/model")
    # 31 bytes a voxel, one a pixel of these few frames at most.
    assert kept == f"  synthetic/room/model: kept on the disk, at most: cloud {FRAMES * 785 * 31 / 2**20:.1f} MiB"
    assert not out.exists()


def test_columns_are_what_json_calls_by_name(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every number of the table by its heading; a width is no height."""
    words = ["run", file, "--dry-run", "--set", "datasets.0.scenes=[room]"]
    words += ["--set", "datasets.0.size={mode: exact, width: 56, height: 28}"]
    words += ["--set", "methods.0.streaming.keyframe_interval=2"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    (header,) = [line for line in lines if line.split()[:2] == ["frames", "size"]]
    row = lines[lines.index(header) + 1].split()
    names = header.replace("camera head", "camera_head").split()
    assert main([*words, "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)["predicted"]
    estimate = predicted["estimate"]
    assert predicted["size"] == [56, 28]
    expected = {"frames": FRAMES, "size": "56×28", "interval": 2, "kept": estimate["kept"]}
    mebibytes = {name: estimate["cache_bytes"][name] for name in ("anchor", "window", "memory", "camera_head")}
    mebibytes |= {"allocated": estimate["cache_allocated"], "weights": estimate["weights_bytes"]}
    mebibytes["peak"] = estimate["peak_bytes"]
    expected |= {name: f"{size / 2**20:.1f}" for name, size in mebibytes.items()}
    found = dict(zip(names, row, strict=False))
    assert {name: found[name] for name in expected} == {name: str(value) for name, value in expected.items()}
    assert set(names) - set(expected) == {"unit"}


def test_json_has_the_predictions(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", "methods.0.precision=float16", "--set", "datasets.0.scenes=[room]", "--set", "keep.depth=5"]
    assert main(["run", file, "--dry-run", "--json", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    (predicted,) = document["predicted"]
    assert predicted["unit"] == ["synthetic", "room", "model"]
    assert predicted["size"] == [28, 28]
    assert predicted["kept_bytes"]["depth"] == 2 * (8 * 28 * 28 + 2048)  # frames 0 and 5, depth and confidence
    config = CONFIGS["ci"]
    token = 2 * config.groups * config.embed_dim * 2
    assert predicted["estimate"]["cache_bytes"]["anchor"] == 3 * (6 + 4) * token
    assert predicted["estimate"]["peak_bytes"] > predicted["estimate"]["weights_bytes"]
    (warning,) = document["warnings"]
    assert warning.startswith("warning: synthetic/room/model: precision float16 is slow on the CPU")


@pytest.mark.parametrize(
    ("interval", "size", "flow", "files", "kept"),
    [
        (2, None, False, 7, "2 7 0."),
        (4, 4, False, 8, "4 4 a window 0."),
        (2, 6, False, 10, "2 6 a window 0."),
        (1, 6, True, 10, "1 4–6 a window 0."),
    ],
)
def test_every_window_keeps_its_own_frames(
    file: str, capsys: pytest.CaptureFixture[str], interval: int, size: int | None, flow: bool, files: int, kept: str
) -> None:
    """Of 10 frames the 3 of scale and every second after them; two windows of 4; of two of 6 all 10, by flow, too."""
    settings = ["datasets.0.scenes=[room]", f"methods.0.streaming.keyframe_interval={interval}", "keep.depth=kept"]
    settings += [] if size is None else [f"methods.0.streaming.windowed={{size: {size}}}"]
    settings += ["methods.0.streaming.flow={threshold: 2.0}"] if flow else []
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", file, *words, "--dry-run", "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)["predicted"]
    assert predicted["kept_bytes"]["depth"] == files * (8 * 28 * 28 + 2048)
    assert main(["run", file, *words, "--dry-run"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    (row,) = [line for line in rows if line.endswith(" synthetic/room/model")]
    assert row.startswith(f"10 28×28 {kept}")


def test_a_run_warns_once_for_both_scenes(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", "methods.0.streaming.windowed={size: 64}", "--out", str(tmp_path / "runs"), "--no-report"]
    assert main(["run", file, *arguments]) == 0
    captured = capsys.readouterr()
    (warning,) = [line for line in captured.err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: synthetic/room/model and 1 more: windowed mode has no effect")
    assert "Predicted" not in captured.out


def test_each_method_has_its_warning_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = experiment(FRAMES).model_dump(mode="json", exclude_unset=True)
    (method,) = document["methods"]
    document["methods"] = [{**method, "name": name, "precision": "float16"} for name in ("a", "b")]
    (dataset,) = document["datasets"]
    document["datasets"] = [dataset, {**dataset, "label": "again", "scenes": ["room"]}]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert main(["run", str(path), "--dry-run"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    text = "precision float16 is slow on the CPU"
    said = [f"warning: synthetic/room/{name} and 2 more: {text}" for name in "ab"]
    assert [line[: len(start)] for line, start in zip(warnings, said, strict=True)] == said


def video(path: Path) -> None:
    """A few frames in a container that does not say how many (MPEG transport stream)."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 56, 42, "yuv420p"
        for index in range(6):
            image = np.full((42, 56, 3), 40 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_the_length_of_a_video_is_known_before(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video(tmp_path / "walk.ts")
    document = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    document["datasets"] = [{"name": "video", "root": str(tmp_path / "walk.ts"), "size": {"width": 56}}]
    path = tmp_path / "video.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert main(["run", str(path), "--dry-run"]) == 0
    row = capsys.readouterr().out.splitlines()[-2]
    assert row.split()[:4] == ["6", "56×42", "1", "6"]
    # What the dry run says is what the run does, the default interval included.
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "--no-report"]) == 0
    assert "walk.ts/model: 6 of 6 frames" in capsys.readouterr().err


def test_a_scene_that_cannot_be_read_fails_the_dry_run_as_the_run(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "0.png").write_bytes(b"not a picture")
    document = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    document["datasets"] = [{"name": "folder", "root": str(images)}]
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert main(["run", str(path), "--dry-run"]) == 2  # as the run itself
    assert "would fail: " in capsys.readouterr().out
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "--no-report"]) == 2


def test_a_replay_needs_no_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = experiment(FRAMES).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "x.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * FRAMES)
    saved = {"kind": "replay", "name": "saved", "trajectory": str(tmp_path / "x.txt"), "format": "kitti"}
    document["methods"] = [saved]
    path = tmp_path / "replay.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert main(["run", str(path), "--dry-run"]) == 0
    assert "Predicted" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--dry-run"], ["--no-report"]])
def test_a_checkpoint_of_another_network_is_refused_before_anything_is_written(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    import safetensors.torch
    import torch

    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"camera_head.token": torch.zeros(3)}, path)
    out = tmp_path / "runs"
    settings = ["--set", f"methods.0.model.checkpoint={path}", "--out", str(out)]
    assert main(["run", file, *words, *settings]) == 2
    assert f"{path}: not a checkpoint of this configuration" in capsys.readouterr().err
    assert not out.exists()


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["lingbot", "replay"])
@pytest.mark.parametrize(
    ("error", "what", "code"),
    [(DataError("cut off"), "would fail", 2), (DependencyError("no reader here"), "no prediction", 0)],
)
def test_what_stands_in_the_way_of_a_prediction(
    file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    error: Exception,
    what: str,
    code: int,
) -> None:
    """Data that cannot be read would end the unit, and one is enough; what this machine lacks says nothing of it."""
    whole = plan_module.open_scene

    def opened(unit: Unit) -> Any:
        if unit.scene == "corridor":
            raise error
        return whole(unit)

    monkeypatch.setattr(plan_module, "open_scene", opened)
    path = Path(file)
    document = yaml.safe_load(path.read_text())
    if kind == "replay":
        poses = path.with_name("poses.txt")
        poses.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * FRAMES)
        document["methods"] = [{"kind": "replay", "name": "model", "trajectory": str(poses), "format": "kitti"}]
        path.write_text(yaml.safe_dump(document))
    assert main(["run", file, "--dry-run"]) == code
    assert capsys.readouterr().out.splitlines()[-1] == f"  synthetic/corridor/model: {what}: {error}"
    assert main(["run", file, "--dry-run", "--json"]) == code
    found = {entry["unit"][1]: entry["reason"] for entry in json.loads(capsys.readouterr().out)["predicted"]}
    assert found == {"room": None, "corridor": str(error)} if kind == "lingbot" else {"corridor": str(error)}


def test_what_is_known_of_a_precision_is_said_once(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two scenes; each window keeps its own frames, of which the last may have fewer."""
    settings = ["methods.0.precision=bfloat16", "methods.0.streaming.windowed={size: 4}"]
    settings += ["methods.0.streaming.keyframe_interval=2"]
    words = ["run", file, "--dry-run", *(word for setting in settings for word in ("--set", setting))]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (distance,) = {entry["distance"] for entry in found["predicted"]}
    assert distance.startswith("bfloat16: ")
    assert [line for line in lines if "bfloat16: " in line] == [f"  {distance}"]
    # Three of scale and every second of the two after them.
    (first, _) = [line for line in lines if "28×28" in line]
    assert first.split()[2:6] == ["2", "4", "a", "window"]
    assert [line for line in lines if line.startswith("warning: ")] == found["warnings"]
    own = [f"warning: synthetic/room/model and 1 more: {text}" for text in found["predicted"][0]["warnings"]]
    assert len(own) == 2
    assert found["warnings"] == own


def test_fit_shows_its_choices_and_puts_the_chosen_settings_in(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A window that fills a small card by far: it is made smaller until the forecast fits."""
    arguments = ["run", file, "--dry-run", "--fit", "1.4GB", "--set", "methods.0.model.config=ci"]
    arguments += ["--set", "datasets.0.scenes=[room]"]
    arguments += ["--set", "datasets.0.size={mode: exact, width: 560, height: 420}"]
    arguments += ["--set", "methods.0.streaming={window: 64, keyframe_interval: 1, scale_frames: 2}"]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (fit,) = document["fit"].values()
    assert fit["usable_bytes"] == 700_000_000
    taken = [choice["reserved_bytes"] for choice in fit["choices"]]
    assert taken[-1] <= fit["usable_bytes"] < taken[-2]
    assert document["predicted"][0]["estimate"]["peak_bytes"] < taken[-1]
    assert fit["changes"]["streaming.cache_precision"] == 8
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Choices of methods.0 for 1.4 GB, of which 0.70 can be used" in shown
    cost = "cache_precision: AUC@30 ±0.1, ATE ±0.2 % (ci)"
    assert [(choice["changed"], choice["cost"]) for choice in fit["choices"]] == [
        ({}, "none: as asked for"),
        ({"cache_precision": 8}, cost),
    ]
    assert fit["memory_bytes"] == 1_400_000_000
    begin = shown.splitlines().index("Choices of methods.0 for 1.4 GB, of which 0.70 can be used") + 1
    header, *rows = [re.split("  +", line.strip()) for line in shown.splitlines()[begin : begin + 3]]
    assert header[:-1] == ["precision", "cache", "window", "interval", "cache, GB", "in all, GB", "fits"]
    in_all = [f"{size / 1e9:.2f}" for size in taken]
    # Of 64 frames and 2 of scale, in float32; in 8 bits a quarter of it, and a scale for each.
    assert [row[:4] + row[5:] for row in rows] == [
        ["float32", "as products", "64", "1", in_all[0], "no", "none: as asked for"],
        ["float32", "8", "64", "1", in_all[1], "yes", cost],
    ]
    assert float(rows[1][4]) == pytest.approx(float(rows[0][4]) / 4, abs=0.01)
    assert all(float(row[4]) < float(row[5]) for row in rows)
    # The run itself says the one that was chosen before it begins.
    monkeypatch.setattr("lingbot_eval.api.run", interrupted)
    words = [word for word in arguments if word != "--dry-run"]
    assert main(words) == 130
    predicted = f"predicted {in_all[1]} of 0.70 GB; accuracy: {cost}"
    assert capsys.readouterr().err.splitlines()[0] == f"fit: methods.0 into 1.4 GB: cache_precision 8 ({predicted})"
    words[words.index("1.4GB")] = "80GB"
    assert main(words) == 130
    predicted = f"predicted {in_all[0]} of 79.30 GB; accuracy: none: as asked for"
    assert capsys.readouterr().err.splitlines()[0] == f"fit: methods.0 into 80 GB: as asked for ({predicted})"
    assert main(["run", file, "--fit", "small"]) == 2
    assert "--fit small: expected the memory of a card, such as 8GB" in capsys.readouterr().err
