"""From a run to files for others, through the function and the command that users call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import FRAMES, SIDE, Quiet, World, experiment, pose_at, run_folder

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError, DataError, StoreError
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.runs.execute import execute
from lingbot_eval.runs.plan import make_plan
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Trajectory
from lingbot_eval.viewing import export as export_module
from lingbot_eval.viewing.scaled import ScaledScene
from tests.stored.store_records import make_run_record, make_unit_record


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    World().install(monkeypatch)
    execute(make_plan(experiment(keep={"depth": 6})), tmp_path / "runs", "lingbot-eval run fake", Quiet())
    return run_folder(tmp_path / "runs")


def test_a_run_keeps_and_gives_back(run: Path) -> None:
    (first, second) = RunStore.open(run).read_units().units
    kept = first.reconstruction
    cloud, cameras, poses = kept.cloud(), kept.cameras(), kept.poses
    assert cloud is not None
    assert cameras is not None
    assert poses is not None
    assert len(cloud) > 1000
    assert cameras.index.tolist() == poses.indices.tolist() == list(range(FRAMES))
    assert not cameras.predicted.any()  # the dataset's: this method gives none
    assert kept.depth_indices() == (0, 6, 12, 18)
    assert len(kept.thumbnails()) == FRAMES
    # Every file has its checksum in the record, and damage sends the unit back to be run again.
    assert {"cloud.npz", "cameras.npz", "thumbnails.npz", "depth-000006.npz"} <= second.record.files.keys()
    file = second.folder / "cloud.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (left_out,) = RunStore.open(run).read_units().left_out
    assert "cloud.npz is damaged" in left_out.reason


def test_the_command_writes_each_scene(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert (
        main(["export", str(run), "-o", str(out), "--format", "ply", "tum", "colmap", "--scale", "truth", "--json"])
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    home = out / "synthetic" / "one" / "good"
    assert str(home / "cloud.ply") in document["files"]
    assert (home / "colmap" / "sparse" / "0" / "points3D.txt").is_file()
    assert document["notes"] == []
    # The method's world is twice as large as the truth.
    rows = np.loadtxt(home / "trajectory.tum")
    np.testing.assert_allclose(rows[:, 1:4], np.stack([pose_at(i)[:3, 3] for i in range(FRAMES)]), atol=1e-6)
    from PIL import Image

    with Image.open(home / "colmap" / "images" / "000003.png") as image:
        assert image.size == (SIDE, SIDE)
        assert np.asarray(image).max() == 3  # the fake frame's own grey


def test_the_share_that_is_asked_for_is_exported(run: Path, tmp_path: Path) -> None:
    """By the function and by the command; without one, seven tenths."""
    (unit, _) = RunStore.open(run).read_units().units
    cloud = unit.reconstruction.cloud()
    assert cloud is not None
    for share in (None, 0.2, 1.0):
        expected = np.count_nonzero(cloud.confident(0.7 if share is None else share))
        words = ["export", str(run), "-o", str(tmp_path / f"c{share}"), "--format", "ply", "--units", "*/one/*"]
        assert main(words if share is None else [*words, "--share", str(share)]) == 0
        lb.export(run, tmp_path / f"f{share}", ["ply"], units="*/one/*", share=share)
        for folder in (tmp_path / f"c{share}", tmp_path / f"f{share}"):
            header = (folder / "cloud.ply").read_bytes().partition(b"end_header")[0].decode()
            assert f"element vertex {expected}\n" in header


def test_one_scene_lies_in_the_folder_itself(run: Path, tmp_path: Path) -> None:
    done = lb.export(run, tmp_path / "out", ["tum"], units="*/two/*")
    assert done.files == (tmp_path / "out" / "trajectory.tum",)


def test_what_a_scene_lacks_is_said_and_the_rest_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By scene and by format; exit code 1, as something asked for is not there. Nothing at all is an error."""
    written = export_module.write_ply

    def lacking(scene: ScaledScene, folder: Path) -> None:
        written(scene, folder)
        if "/one/" in scene.title:
            raise DataError(f"{scene.title}: expected a kept cloud, found none")

    monkeypatch.setattr(export_module, "FORMATS", {**export_module.FORMATS, "ply": lacking})
    out = tmp_path / "out"
    one, two = (Path("synthetic") / scene / "good" for scene in ("one", "two"))
    assert main(["export", str(run), "-o", str(out), "--format", "ply", "tum"]) == 1
    assert "error: left out: ply: synthetic/one/good: expected a kept cloud, found none" in capsys.readouterr().err
    found = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    assert found == {one / "trajectory.tum", two / "trajectory.tum", two / "cloud.ply"}
    done = lb.export(run, tmp_path / "ply", ["ply"])
    assert done.files == (tmp_path / "ply" / two / "cloud.ply",)
    assert done.left_out == done.notes[-1:]
    assert not (tmp_path / "ply" / "synthetic" / "one").exists()
    with pytest.raises(DataError, match="one/good: expected a kept cloud"):
        lb.export(run, tmp_path / "none", ["ply"], units="*/one/*")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("format", "file"),
    [
        ("colmap", "colmap/sparse/0/images.txt"),
        ("nerfstudio", "nerfstudio/transforms.json"),
        ("kitti", "trajectory_kitti.txt"),
        ("euroc", "trajectory_euroc.csv"),
    ],
)
def test_poses_of_every_format_meet_their_frames(run: Path, tmp_path: Path, format: str, file: str) -> None:
    """What was exported, given back as another program would: those without times are no seconds."""
    out, back = tmp_path / "out", tmp_path / "back"
    lb.export(run, out, [format, "tum"], units="*/one/*")
    done = lb.export(run, back, ["tum"], units="*/one/*", poses=out / file)
    assert any(f"poses from a file: {FRAMES} of {FRAMES} frames" in note for note in done.notes)
    rows = [np.loadtxt(folder / "trajectory.tum") for folder in (out, back)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-9)


def test_poses_that_meet_no_frame_are_refused(run: Path, tmp_path: Path) -> None:
    lb.export(run, tmp_path / "out", ["colmap", "kitti"], units="*/one/*")
    model, rows = tmp_path / "out" / "colmap/sparse/0/images.txt", tmp_path / "out" / "trajectory_kitti.txt"
    text = model.read_text()
    for wrong, words in (
        (text.replace(".png", "x.png"), r"expected images named as they are exported \(000012\.png\), found '000000x'"),
        (text.replace(" 0000", " 9000"), "expected poses of its frames"),
    ):
        model.write_text(wrong)
        with pytest.raises(DataError, match=words):
            lb.export(run, tmp_path / "back", ["tum"], units="*/one/*", poses=model)
    rows.write_text("".join(f"{line}\n" for line in rows.read_text().splitlines()[1:]))
    with pytest.raises(DataError, match=f"a pose for each of its {FRAMES} frames, .*, found {FRAMES - 1};"):
        lb.export(run, tmp_path / "back", ["tum"], units="*/one/*", poses=rows)
    assert not (tmp_path / "back").exists()


def test_a_source_that_changed_gives_no_images(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.adapter.scenes_there = {"one": {"version": "2"}}
    world.install(monkeypatch)
    for form in ("nerfstudio", "colmap", "colmap-binary"):
        done = lb.export(run, tmp_path / form, [form], units="*/one/*")
        assert any("without images: synthetic/one: the files are not those that were streamed" in n for n in done.notes)
        assert not list((tmp_path / form).rglob("images"))
    assert lb.export(run, tmp_path / "tum", ["tum"], units="*/one/*").notes == ()  # which has none


def test_scenes_without_results_are_noted_and_where_there_is_none_at_all_that_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    store = RunStore.create(tmp_path / "runs", make_run_record(units=[["d", scene, "m"] for scene in "abc"]))
    with pytest.raises(ConfigError, match=r"with results like '\*'; it has none \(nothing is stored\)$"):
        lb.export(store.path, out)
    for scene, facts in (("a", {}), ("b", {"status": "failed", "stage": "stream", "reason": "it broke"})):
        with store.lock(), store.unit_writer("d", scene, "m") as writer:
            poses = np.stack([pose_at(index) for index in range(4)])
            write_tum(writer.path("estimate.tum"), Trajectory(np.arange(4), np.arange(4.0), poses))
            writer.finish(make_unit_record(("d", scene, "m"), **facts))
    done = lb.export(store.path, out, ["tum"])
    assert (done.files, done.notes[0]) == ((out / "trajectory.tum",), "left out: d/b/m: it broke")
    with pytest.raises(ConfigError, match=r"with results like '\*/b/\*'; there are: d/a/m, d/b/m$"):
        lb.export(store.path, out, units="*/b/*")
    (store.folder("d", "a", "m") / "result.json").write_text("{")
    (store.folder("d", "b", "m") / "result.json").unlink()
    with pytest.raises(ConfigError, match=r"it has none \(left out: .*a.*result\.json"):
        lb.export(store.path, out)


def test_bad_input_is_one_line_and_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"expected a scene with results like 'x'; there are: synthetic/one/good"):
        lb.export(run, out, units="x")
    with pytest.raises(ConfigError, match="poses of one scene, found 2"):
        lb.export(run, out, poses=run / "units/synthetic/one/good/estimate.tum")
    with pytest.raises(StoreError, match="expected a run directory"):
        lb.export(tmp_path, out)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "FORMATS", {**export_module.FORMATS, "euroc": refuse})
    with pytest.raises(StoreError, match="No space left on device"):
        lb.export(run, out, ["ply", "euroc"])
    with pytest.raises(DataError, match="expected poses with orientation, found positions alone"):
        lb.export(run, out, ["ply"], units="*/one/*", poses=_positions(tmp_path))
    assert not out.exists()
    assert main(["export", str(run), "-o", str(out), "--scale", "two"]) == 2
    assert main(["export", str(run), "-o", str(out), "--scale", "0,0,0:0,0,2=0"]) == 2
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(StoreError, match="schema version"):
        lb.export(run, out)
    assert not out.exists()


def _positions(folder: Path) -> Path:
    file = folder / "positions.txt"
    file.write_text("".join(f"{i / 10} {i} 0 0\n" for i in range(5)))
    return file
