"""Images that a user must hear of: the same words in run, dry run, record and doctor, and the exit code of each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lingbot_eval.cli.main import main
from lingbot_eval.stored.store import RunStore
from tests.comparison.fakes import experiment


def save(path: Path, width: int = 28, height: int = 28) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)


def experiment_over(folder: Path) -> Path:
    document = experiment(3).model_dump(mode="json", exclude_unset=True)
    document["datasets"] = [{"name": "folder", "root": str(folder), "size": {"width": 28}}]
    path = folder.parent / "walk.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def masked(folder: Path) -> None:
    for number in range(3):
        save(folder / f"{number}.png")
        save(folder / f"{number}_mask.png")


def tall(folder: Path) -> None:
    for number in range(3):
        save(folder / f"{number}.png", 28, 74)


def with_a_gap(folder: Path) -> None:
    for number in (0, 1, 3):
        save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (masked, "masks left out, 3 in all: 0_mask.png, 1_mask.png, 2_mask.png"),
        (
            tall,
            "3 of 3 images lose 60% of the picture: 28x74 is resized to 28x70 and cut around its centre to 28x28; to"
            " keep all of it, set size.max_height: 70",
        ),
        (
            with_a_gap,
            "1 of 4 numbers is missing among the images: 2; times go by number, so that the others keep theirs",
        ),
    ],
)
def test_what_run_dry_run_record_and_doctor_say(
    make: Callable[[Path], None], note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "walk"
    make(folder)
    file = experiment_over(folder)
    assert main(["run", str(file), "--dry-run"]) == 0
    assert f"note: folder/walk: {note}" in capsys.readouterr().out.splitlines()
    assert main(["run", str(file), "--out", str(tmp_path / "runs"), "--no-report"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said.count(f"note: folder/walk: {note}") == 1
    (unit,) = RunStore.open(next((tmp_path / "runs").iterdir())).read_units().units
    assert unit.record.sequence["notes"] == [note]
    assert unit.record.predictions == 3
    assert main(["datasets", "check", "folder", "--root", str(folder)]) == 0
    # The doctor asks the card's size, 518 pixels wide.
    expected = note.replace("28x70", "518x1372").replace("28x28;", "518x518;").replace("60%", "62%")
    expected = expected.replace("max_height: 70", "max_height: 1372")
    assert f"  warning scene: {expected}" in capsys.readouterr().out.splitlines()


def mixed(folder: Path) -> None:
    for number in range(3):
        save(folder / f"{number}.png", *((28, 42) if number == 2 else (42, 28)))


def one_empty(folder: Path) -> None:
    masked(folder)
    (folder / "2.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (
            mixed,
            "folder: walk: expected images of one size, found 2 of 42x28, 1 of 28x42, portrait and landscape mixed"
            " (give each size a folder of its own): {folder}/2.png has 28x42 pixels, the first image 42x28",
        ),
        (
            one_empty,
            "folder: walk frame 2: image {folder}/2.png is empty (0 bytes), damaged or cut off; copy or"
            " download it again",
        ),
    ],
)
def test_images_that_would_end_a_run_end_it_before_it_streams(
    make: Callable[[Path], None], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "walk"
    make(folder)
    fault = fault.format(folder=folder)
    file = experiment_over(folder)
    assert main(["run", str(file), "--dry-run"]) == 2
    assert f": would fail: {fault}" in capsys.readouterr().out
    assert main(["run", str(file), "--out", str(tmp_path / "runs"), "--no-report", "--json"]) == 2
    (unit,) = json.loads(capsys.readouterr().out)["units"]
    assert (unit["status"], unit["stage"], unit["failed_at_frame"], unit["predictions"]) == ("failed", "open", None, 0)
    assert unit["reason"] == fault
    assert main(["datasets", "check", "folder", "--root", str(folder)]) == 1
    assert f"  PROBLEM images: {fault}" in capsys.readouterr().out.splitlines()


def test_photographs_that_cannot_be_read_leave_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "walk"
    masked(folder)
    (folder / "3.CR2").write_bytes(b"x")
    assert main(["run", str(experiment_over(folder)), "--out", str(tmp_path / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 4 images cannot be read (3.CR2): camera raw files are not read" in line
    assert not (tmp_path / "runs").exists()


def test_a_damaged_tiff_is_one_line_on_a_terminal(tmp_path: Path) -> None:
    """In a process of its own: Pillow logs a second line where nobody listens."""
    folder = tmp_path / "walk"
    folder.mkdir()
    Image.fromarray(np.zeros((28, 28, 3), np.uint8)).save(folder / "0.tif")
    content = bytearray((folder / "0.tif").read_bytes())
    place = content.index(bytes([0x15, 0x01, 3, 0]))  # the tag of samples per pixel
    content[place + 8 : place + 10] = b"\xff\x00"
    (folder / "0.tif").write_bytes(content)
    words = [sys.executable, "-m", "lingbot_eval.cli.main", "run", str(experiment_over(folder)), "--no-report"]
    done = subprocess.run([*words, "--out", str(tmp_path / "runs")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"image {folder}/0.tif" in line
