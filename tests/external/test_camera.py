"""Other methods in the scenarios of ``scale``: at a camera's pace, by the same driver and clock as ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError
from lingbot_eval.scaling.settings import Study
from lingbot_eval.settings import validated

FRAMES = 24
SLOW = """
import time, numpy as np
from lingbot_eval.external import Pose, Wrapper, serve
class Slow(Wrapper):
    name, version = "slow", "1"
    def step(self, frame):
        time.sleep(0.06)
        pose = np.eye(4)
        pose[:3, 3] = frame.index, frame.index % 3, frame.index % 4
        return None if frame.index == 5 else Pose(frame.index, pose)
serve(Slow())
"""


def study(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "scale",
        "name": "guests",
        "method": {
            "kind": "external",
            "name": "slow one",
            "command": [sys.executable, "-c", SLOW],
            "env": {"PYTHONPATH": str(Path(lb.__file__).parents[1])},
            "gpu": 0,
            "version": "1",
        },
        "input": {"kind": "synthetic", "pool": 4},
        "defaults": {"frames": FRAMES, "size": [56, 42], "camera_hz": 25},
        "sweep": {"scenario": ["camera", "single_stream"]},
        "checkpoints": [10],
        **changes,
    }


def written(tmp_path: Path, **changes: Any) -> list[str]:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study(**changes)))
    return ["scale", str(file), "--out", str(tmp_path / "runs")]


def test_an_outside_program_at_a_cameras_pace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = written(tmp_path)
    assert main([*words, "--dry-run"]) == 0
    assert f"command of slow one (runs with --allow-commands): {sys.executable}" in capsys.readouterr().out
    assert main(words) == 2
    assert "method 'slow one' runs the command" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()
    assert main([*words, "--allow-commands", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    camera, single = told["cases"]
    assert [case["name"] for case in (camera, single)] == [
        "camera25hz-24-slow one-56x42",
        "single-stream-24-slow one-56x42",
    ]
    values = {(m["name"], m["variant"]): m["value"] for m in camera["measurements"]}
    # It takes 60 ms a frame of which one comes each 40 ms: all but the first wait, and more and more of them.
    assert values["deadline_misses", ""] == FRAMES - 1
    assert values["backlog", "largest"] >= 6
    assert values["latency", "p50"] > 200
    alone = {(m["name"], m["variant"]): m["value"] for m in single["measurements"]}
    assert 60 <= alone["latency", "p50"] < values["latency", "p50"]
    assert alone["command_peak_rss", ""] > 5
    assert ("largest_process", "") not in alone, "that is the harness's memory, not the program's"
    assert (single["frames"], single["predictions"]) == (FRAMES, FRAMES - 1)
    assert single["sampling"] == {"every frame": "forward and interval times"}, "its memory is not the harness's"
    assert [point["frames"] for point in single["checkpoints"]] == [10, FRAMES]
    assert single["checkpoints"][0]["ate_m"] is not None
    assert single["facts"]["program"] == {"name": "slow", "version": "1"}
    page = (Path(told["run"]) / "scale.md").read_text()
    assert "weights of slow one: version 1" in page
    assert "Growth a kept frame" not in page
    assert list(Path(told["run"]).glob("cases/*/log.txt"))


def test_a_floor_needs_no_time(tmp_path: Path) -> None:
    words = written(tmp_path, method={"kind": "constant_velocity"}, sweep={}, defaults={"frames": 5, "size": [56, 42]})
    assert main(words) == 0
    (record,) = tmp_path.glob("runs/*/cases/*/case.json")
    case = json.loads(record.read_text())
    assert (case["status"], case["predictions"], case["growth"]) == ("ok", 5, [])
    assert set(case["sampling"]) == {"every frame", "every 20 frames and at checkpoints"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"config": "ci"}}, "model: is the streaming model's"),
        ({"streaming": {"scale_frames": 3}}, "streaming: is the streaming model's"),
        ({"defaults": {"precision": "bfloat16"}}, "defaults.precision: is the streaming model's"),
        ({"device": "cpu"}, "device: is the streaming model's, and the study streams 'slow one': leave it out"),
        ({"sweep": {"backend": ["sdpa"]}}, "sweep.backend: is the streaming model's"),
        ({"cases": [{"window": 3}]}, "cases.0.window: is the streaming model's"),
        ({"method": {"kind": "lingbot"}}, "give model and device"),
        ({"method": {"kind": "vo2"}}, "vo2"),
    ],
)
def test_what_is_the_models_is_not_anothers(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]+$") as refused:
        validated(Study, study(**changes), "test")
    assert words in str(refused.value)
