"""``reference: sfm`` of a folder: said before anything is computed, computed once, and never taken for the truth."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.datasets import folder
from lingbot_eval.errors import ConfigError, DependencyError, UnscorableError
from lingbot_eval.geometry.structure import Structure
from lingbot_eval.metrics.trajectory import score_trajectory
from lingbot_eval.types import Trajectory

UNREGISTERED = 2


def truth(count: int) -> np.ndarray:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3], poses[:, 1, 3] = np.arange(count), np.arange(count) ** 2 / 7
    return poses


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "walk"
    root.mkdir()
    for number in range(12):
        Image.fromarray(np.full((28, 42, 3), 20 * number, np.uint8)).save(root / f"{number:02d}.png")
    return root


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How often COLMAP was asked, and with what; its answer is made up: every image but one has a pose."""
    calls: list[dict[str, Any]] = []

    def structure(images: Any, intrinsics: Any, **settings: Any) -> Structure:
        count = len(list(images))
        calls.append({"images": count, "intrinsics": intrinsics, **settings})
        poses = {number: pose for number, pose in enumerate(truth(count)) if number != UNREGISTERED}
        return Structure(poses, {}, (count - 1,), 100, 0.5)

    monkeypatch.setattr(folder, "structure_of", structure)
    # Whether it is there or not.
    monkeypatch.setattr(folder, "pycolmap", lambda: SimpleNamespace(__version__="made up"))
    return calls


def scene(root: Path, **options: Any) -> lb.Scene:
    return lb.open_dataset("folder", root, reference="sfm", **options).scene()


def experiment(root: Path) -> dict[str, Any]:
    return {
        "name": "walk",
        "datasets": [
            {
                "name": "folder",
                "root": str(root),
                "options": {"reference": "sfm"},
                "size": {"mode": "exact", "width": 42, "height": 28},
            }
        ],
        "methods": [{"kind": "motionless"}, {"kind": "constant_velocity"}],
    }


def test_it_is_computed_once_and_kept_by_content(
    photos: Path, computed: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scene(photos).reference()
    assert first is not None
    assert first.has_orientation
    walk = scene(photos)
    walk.reference()
    counts = {"images_with_pose": 11, "models": [11], "points": 100, "reprojection_px": 0.5}
    assert walk.facts()["found"] == counts
    posed = [frame.index for frame in walk if frame.camera_to_world is not None]
    assert posed == first.indices.tolist()
    assert first.indices.tolist() == [n for n in range(12) if n != UNREGISTERED], "what is not registered has no pose"
    again = scene(photos).reference()
    assert again is not None
    np.testing.assert_array_equal(again.camera_to_world, first.camera_to_world)
    moved = shutil.copytree(photos, tmp_path / "elsewhere")
    assert scene(moved).reference() is not None
    assert len(computed) == 1, "the same images have the same poses, wherever they lie"
    Image.fromarray(np.full((28, 42, 3), 7, np.uint8)).save(photos / "03.png")
    scene(photos).reference()
    assert len(computed) == 2, "another image, another structure"
    scene(photos, intrinsics=(30.0, 30.0, 20.5, 13.5)).reference()
    assert computed[-1]["refine"] is False, "a camera that is known is held"
    scene(photos, intrinsics=(31.0, 30.0, 20.5, 13.5)).reference()
    assert len(computed) == 4, "another camera, another structure"
    scene(photos, intrinsics=(31.0, 30.0, 21.5, 13.5)).reference()
    scene(photos, intrinsics=(31.0, 30.0, 21.5, 14.5)).reference()
    assert len(computed) == 6, "another principal point, another structure"
    monkeypatch.setattr(folder, "pycolmap", lambda: SimpleNamespace(__version__="another"))
    scene(photos).reference()
    assert len(computed) == 7, "another COLMAP, another structure"
    monkeypatch.setattr(folder, "FEATURES", folder.FEATURES + 1)
    scene(photos).reference()
    monkeypatch.setattr(folder, "NEIGHBOURS", folder.NEIGHBOURS + 1)
    scene(photos).reference()
    assert len(computed) == 9, "another setting of COLMAP, another structure"
    assert computed[0]["intrinsics"] is None
    assert computed[0]["refine"] is True


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"poses": {"99": [0]}, "models": [], "points": 0, "reprojection_px": 0}',
        '{"poses": {}, "models": [], "points": 0, "reprojection_px": 0}',
        # Of a thirteenth image of twelve.
        '{"poses": {"12": [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]}, "models": [1], "points": 0, "reprojection_px": 0}',
    ],
)
def test_a_damaged_cache_is_computed_again(photos: Path, computed: list[dict[str, Any]], content: str) -> None:
    scene(photos).reference()
    (kept,) = (photos.parent / "cache").rglob("*.json")
    good = kept.read_text()
    kept.write_text(content)
    scene(photos).reference()
    assert len(computed) == 2
    assert kept.read_text() == good


def test_doctor_dry_run_and_facts_say_it_and_compute_nothing(
    photos: Path, computed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = "structure from motion (pycolmap"
    facts = scene(photos).facts()
    assert words in facts["poses"]
    assert "not ground truth" in facts["poses"]
    file = tmp_path / "walk.yaml"
    file.write_text(json.dumps(experiment(photos)))
    assert main(["run", str(file), "--dry-run", "--out", str(tmp_path / "runs")]) == 0
    assert words in capsys.readouterr().out
    main(["datasets", "check", "folder", "--root", str(photos), "--option", "reference=sfm"])
    said = capsys.readouterr().out
    assert words in said
    assert "no reference poses" not in said
    assert next(iter(scene(photos))).camera_to_world is None, "looking at a frame computes nothing"
    assert not computed
    assert not list((tmp_path / "cache").rglob("structure"))


def test_a_run_is_scored_and_every_convention_says_against_what(
    photos: Path, computed: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = lb.run(experiment(photos), out=tmp_path / "runs")
    assert len(computed) == 1, "one structure for all methods"
    table = run.measurements()
    of = table[(table["method"] == "motionless") & (table["family"] == "trajectory")].set_index(["name", "variant"])
    expected = truth(12)[[n for n in range(12) if n != UNREGISTERED], :3, 3]
    spread = np.sqrt(np.mean(np.sum((expected - expected.mean(axis=0)) ** 2, axis=1)))
    assert of.loc[("ate_rmse", "sim3"), "value"] == pytest.approx(spread)
    for variant in ("se3", "none"):
        assert np.isnan(of.loc[("ate_rmse", variant), "value"])
        assert "its unit of length is its own, not the metre" in of.loc[("ate_rmse", variant), "reason"]
    assert of["convention"].str.contains("structure from motion .*scale free, not ground truth").all()
    record = json.loads(next((tmp_path / "runs").rglob("result.json")).read_text())
    assert record["sequence"]["found"]["images_with_pose"] == 11
    assert record["sequence"]["frames_with_pose"] == 11
    assert any("not ground truth" in note for note in record["sequence"]["notes"])


def test_no_model_fails_the_scene_with_the_reason(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nothing(images: Any, *_: Any, **__: Any) -> Structure:
        raise UnscorableError("structure from motion: no model of the 12 images; they share too little")

    monkeypatch.setattr(folder, "structure_of", nothing)
    run = lb.run(experiment(photos), out=tmp_path / "runs")
    assert (run.planned, run.scored) == (2, 0)
    for file in (tmp_path / "runs").rglob("result.json"):
        assert "reference sfm: structure from motion: no model" in json.loads(file.read_text())["reason"]
    assert not list((tmp_path / "cache").rglob("structure/*.json"))


def test_a_missing_extra_is_one_line_before_anything_runs(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(DependencyError, match=r"pip install 'lingbot-eval\[sfm\]'"):
        scene(photos)
    file = tmp_path / "walk.yaml"
    file.write_text(json.dumps(experiment(photos)))
    for command in (["--dry-run"], []):
        assert main(["run", str(file), *command, "--out", str(tmp_path / "runs")]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_trajectory_and_a_structure_are_refused(photos: Path) -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        scene(photos, trajectory="poses.txt")


def test_without_metres_nothing_is_scored_that_needs_them() -> None:
    indices = np.arange(12)
    poses = truth(12)
    poses[:, 2, 3] = np.sin(indices)
    reference = Trajectory(indices, indices.astype(float), poses, computed_by="structure from motion (test)")
    found = score_trajectory(reference, Trajectory(indices, indices.astype(float), poses), 12).measurements
    values = {(m.name, m.variant): m.value for m in found}
    assert values["ate_rmse", "sim3"] == pytest.approx(0, abs=1e-9)
    assert values["ate_rmse", "anchor"] == pytest.approx(0, abs=1e-9)
    assert values["ate_rmse", "se3"] is None
    assert values["rpe_translation_rmse", "none"] is None


def test_rendered_frames_give_poses_near_the_true_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rendered = list(lb.open_dataset("synthetic", frames=8, width=336, height=252, step=0.15).scene("room"))
    (tmp_path / "room").mkdir()
    for frame in rendered:
        Image.fromarray(frame.image).save(tmp_path / "room" / f"{frame.index}.png")
    reference = scene(tmp_path / "room").reference()
    assert reference is not None
    assert len(reference) == 8
    true = Trajectory(
        np.arange(8),
        reference.timestamps,
        np.stack([f.camera_to_world for f in rendered if f.camera_to_world is not None]),
    )
    found = score_trajectory(reference, true, 8).measurements
    share = next(m.value for m in found if (m.name, m.variant) == ("ate_share_of_motionless", "sim3"))
    assert share is not None
    assert share < 3
