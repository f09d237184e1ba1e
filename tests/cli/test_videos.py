"""A folder of videos from the command line: sound, damaged and broken ones side by side."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from lingbot_eval.cli.main import main
from lingbot_eval.datasets.check.check import check_video
from lingbot_eval.prepare import SizeSettings
from lingbot_eval.stored.store import RunStore
from tests.comparison.fakes import experiment
from tests.datasets.videos import altered, noisy, opened, set_matrix, write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "videos"
    made.mkdir()
    write_video(made / "plain.mp4", 24, "libx264")
    set_matrix(write_video(made / "mirrored.mp4", 24, "libx264"), -1, 0, 0, 1)
    settings = {"g": "8", "bf": "0", "sc_threshold": "0"}
    altered(write_video(made / "damaged.mp4", 24, "libx264", draw=noisy, codec_options=settings), 9, 0.3)
    broken = bytearray((made / "plain.mp4").read_bytes())
    entry = broken.index(b"stsd") + 16  # the sample description's name of the format
    broken[entry : entry + 4] = b"zzzz"
    (made / "broken.mp4").write_bytes(broken)
    (made / "page.mp4").write_bytes(b"<!DOCTYPE html><html></html>")
    return made


def test_the_run_goes_on_beside_broken_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = experiment(4).model_dump(mode="json", exclude_unset=True)
    document["datasets"] = [{"name": "video", "root": str(folder), "size": {"width": 28}}]
    path = tmp_path / "videos.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "--no-report"]) == 2
    said = capsys.readouterr().err.splitlines()
    units = {
        unit.record.scene: unit.record for unit in RunStore.open(next((tmp_path / "runs").iterdir())).read_units().units
    }
    assert {scene: record.status for scene, record in units.items()} == {
        "broken.mp4": "failed",
        "damaged.mp4": "ok",
        "mirrored.mp4": "ok",
        "page.mp4": "failed",
        "plain.mp4": "ok",
    }
    for scene, words in (("broken.mp4", "in a format that FFmpeg does not know"), ("page.mp4", "is a web page")):
        assert words in (units[scene].reason or "")
        assert any(line.startswith(f"error: video/{scene}/") and words in line for line in said)
    assert units["plain.mp4"].predictions == units["plain.mp4"].frames == 24
    assert units["plain.mp4"].sequence["notes"] == []
    assert units["mirrored.mp4"].sequence["display_matrix"] == "mirrored left to right"
    (note,) = units["damaged.mp4"].sequence["notes"]
    assert f"note: video/damaged.mp4: {note}" in said
    assert units["damaged.mp4"].sequence["found"]["frames_after_damage"] >= 6
    notes = [line for line in said if line.startswith("note: ") and "no cloud: no frame has intrinsics" not in line]
    assert not [line for line in notes if "damaged.mp4" not in line]


def test_the_doctor_says_what_each_video_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "check", "video", "--root", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    scenes = [line.partition(".mp4:")[0] for line in lines if ".mp4: " in line and not line.startswith(" ")]
    assert scenes == ["broken", "damaged", "mirrored", "page", "plain"]
    of_plain = lines[lines.index(next(line for line in lines if line.startswith("plain.mp4: 24 frames"))) + 1 :]
    assert of_plain[0].strip() == (
        "video: 24 frames of 64x48, 30 frames a second, 0.77 s, h264 (yuv420p), bt601 (taken by size), range not"
        " stated, SDR"
    )
    assert of_plain[1].strip() == "picture: stored as 64x48, square pixels; display matrix: as stored"
    assert of_plain[2].strip() == "decode: 24 frames decoded"
    assert any("display matrix: mirrored left to right" in line for line in lines)
    problems = [line for line in lines if line.startswith("  PROBLEM")]
    assert len(problems) == 3
    assert any("PROBLEM decode: " in line and "up to the next key frame may be smeared" in line for line in problems)
    assert sum("may be smeared" in line for line in lines) == 1
    assert lines[-1] == "5 scenes, 3 problems"


def test_the_doctor_tells_stored_pixels_from_shown_ones_and_how_far_it_is(tmp_path: Path) -> None:
    def squeezed(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    ticks = [0, 1, 5, 6, 7, 20, 21, 22, 23, 60]
    path = write_video(tmp_path / "old.mp4", 10, setup=squeezed, times=ticks.__getitem__)
    heard: list[tuple[str, int, int | None]] = []
    found = check_video(opened(path), SizeSettings(), lambda *told: heard.append(told))
    assert found[0].text.startswith("10 frames of 85x48, 4.5 frames a second on average, 2.00 s, mpeg4 (yuv420p), ")
    assert found[1].text == "stored as 64x48, pixels 4:3, made square; display matrix: as stored"
    assert heard == [("old.mp4", count, 10) for count in range(1, 11)]
    (hole,) = [finding.text for finding in found if finding.check == "timestamps"]
    assert hole.endswith("is after frame 8: was the recording paused, or are frames missing?")
    assert found[-1].text == "10 frames decoded"


def test_the_doctor_decodes_the_first_minute_unless_asked_for_all(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lingbot_eval.datasets.check.check.FRAMES_TRIED", 10)
    command = ["datasets", "check", "video", "--root", str(folder / "plain.mp4")]
    assert main(command) == 0
    assert "decode: 10 frames decoded of 24; --decode reads them all" in capsys.readouterr().out
    assert main([*command, "--decode"]) == 0
    assert "decode: 24 frames decoded\n" in capsys.readouterr().out
