"""The raw release of Oxford Spires becomes the prepared layout: pose chain, undistortion, resumption, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lingbot_eval.cli.main import main
from lingbot_eval.datasets.convert import read_front_camera
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError

SCENE = "2024-03-12-keble-college-02"
SENSOR = """
sensor:
  camera_model: OPENCV_FISHEYE
  T_base_lidar_t_xyz_q_xyzw: [0.0, 0.0, 0.124, 0.0, 0.0, 1.0, 0.0]
  cameras:
    - label: cam_front
      image_width: 80
      image_height: 60
      intrinsics: [40.0, 41.0, 39.5, 29.5]
      extra_params: [0.05, -0.01, 0.002, 0.0]
      T_cam_lidar_t_xyz_q_xyzw: [0.1, 0.2, 0.3, 0.5, -0.5, 0.5, 0.5]
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    folder = root / SCENE
    (folder / "raw" / "cam0").mkdir(parents=True)
    (folder / "processed" / "trajectory").mkdir(parents=True)
    (root / "sensor.yaml").write_text(SENSOR)
    rows, columns = np.mgrid[0:60, 0:80]
    image = np.stack([3 * columns, 4 * rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    lines = [f"{1710338090 - 0.03:.6f} 9 0 0 0 0 0 1\n"]  # of no image: the nearest is 30 ms away
    for number in range(4):
        image[..., 2] = 60 * number
        Image.fromarray(image).save(folder / "raw/cam0" / f"{1710338090 + number / 20:.9f}.png")
        if number != 0:
            lines.append(f"{1710338090 + number / 20 + 0.004:.6f} {number} 0 0 0 0 0 1\n")
    (folder / "processed/trajectory/gt-tum.txt").write_text("".join(lines))
    return root


def prepare(raw: Path, out: Path) -> int:
    return main(["datasets", "prepare", "oxford_spires", str(raw), str(out)])


def test_the_prepared_scene_reads_and_has_the_pose_of_the_camera(raw: Path, tmp_path: Path) -> None:
    assert prepare(raw, tmp_path / "out") == 0
    sequence = open_adapter("oxford_spires", tmp_path / "out", {}).open(SCENE, Selection())
    reference = sequence.reference()
    assert reference is not None
    assert sequence.length == 3  # one image has no pose
    assert [frame.image[30, 40, 2] for frame in sequence.frames() if frame.image is not None] == [60, 120, 180]
    # By hand: q = (0, 0, 1, 0) turns by 180 degrees about z; (0.5, -0.5, 0.5, 0.5) as a matrix is
    turn = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    lidar_from_camera = turn.T, -turn.T @ [0.1, 0.2, 0.3]
    half = np.diag([-1.0, -1, 1])
    np.testing.assert_allclose(reference.camera_to_world[0, :3, :3], half @ lidar_from_camera[0], atol=1e-12)
    centre = half @ lidar_from_camera[1] + [0, 0, 0.124]
    np.testing.assert_allclose(reference.positions - centre, [[1, 0, 0], [2, 0, 0], [3, 0, 0]], atol=1e-12)


def test_how_many_images_a_scene_has_and_where_is_said(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert prepare(raw, out) == 0
    assert capsys.readouterr().out == f"{SCENE}: 3 images in {out / SCENE}\n"
    shutil.rmtree(raw / SCENE / "raw/cam0")
    (raw / SCENE / "raw/cam0").mkdir()
    assert main(["datasets", "prepare", "oxford_spires", str(raw), str(out), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["prepared"], said["out"]) == ({}, str(out))
    assert said["failed"] == {
        SCENE: f"oxford_spires: expected images called by their time (TIME.jpg) in {raw / SCENE}, found none"
    }


def test_a_calibration_may_lack_the_outermost_key_and_have_several_front_cameras(raw: Path) -> None:
    lens, on_base = read_front_camera(raw / "sensor.yaml")
    flat = "\n".join(line[2:] for line in SENSOR.splitlines()[2:])
    camera = flat[flat.index("  - label") :]
    others = camera.replace("cam_front", "cam_left"), camera, camera.replace("40.0", "50.0")
    (raw / "sensor.yaml").write_text(flat.replace(camera, "\n".join(others)))
    again, same = read_front_camera(raw / "sensor.yaml")
    assert again == lens
    np.testing.assert_array_equal(same, on_base)


def test_undistortion_follows_the_fisheye_model(raw: Path, tmp_path: Path) -> None:
    """The colours of the source are its own coordinates, so the target shows where each pixel came from."""
    assert prepare(raw, tmp_path / "out") == 0
    shown = np.asarray(Image.open(tmp_path / "out" / SCENE / "images" / "000000.png")).astype(float)
    for u, v in ((39, 29), (60, 20), (10, 50)):
        x, y = (u - 39.5) / 40, (v - 29.5) / 41
        angle = np.arctan(np.hypot(x, y))
        bent = angle * (1 + 0.05 * angle**2 - 0.01 * angle**4 + 0.002 * angle**6)
        expected = np.array([40 * bent * x / np.hypot(x, y) + 39.5, 41 * bent * y / np.hypot(x, y) + 29.5])
        np.testing.assert_allclose(shown[v, u, :2] / [3, 4], expected, atol=0.2)


def test_it_goes_on_where_it_was_broken_off(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(raw, out) == 0
    first = out / SCENE / "images" / "000000.png"
    before = first.stat().st_mtime_ns
    (out / SCENE / "images" / "000002.png").unlink()
    (out / SCENE / "poses_c2w.txt").unlink()
    assert prepare(raw, out) == 0
    assert first.stat().st_mtime_ns == before
    assert open_adapter("oxford_spires", out, {}).open(SCENE, Selection()).length == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("OPENCV_FISHEYE", "PINHOLE", "expected OPENCV_FISHEYE"),
        ("cam_front", "cam_left", "expected one labelled cam_front, found cam_left"),
        ("[0.05, -0.01, 0.002, 0.0]", "[0.05]", "extra_params"),
        ("0.5, -0.5, 0.5, 0.5]", "0, 0, 0, 0]", "unit quaternion"),
        ("image_width: 80", "image_width: 8193", "images of 16 to 8192 pixels a side, found 8193x"),
        ("image_width: 80", "image_width: 15", "images of 16 to 8192 pixels a side, found 15x"),
        ("intrinsics: [", "intrinsics: [-", "expected positive focal lengths, found .-"),
    ],
)
def test_wrong_calibrations_are_named(raw: Path, old: str, new: str, says: str) -> None:
    (raw / "sensor.yaml").write_text(SENSOR.replace(old, new))
    with pytest.raises(DataError, match=says):
        read_front_camera(raw / "sensor.yaml")


def test_incomplete_releases_are_refused(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "sensor.yaml").unlink()
    assert prepare(raw, tmp_path / "out") == 1
    assert "expected sensor.yaml" in capsys.readouterr().err
    assert prepare(raw / SCENE, tmp_path / "out") == 2
    assert main(["datasets", "prepare", "kitti", str(raw), str(tmp_path)]) == 2


def test_one_scene_that_cannot_be_prepared_decides_the_exit_code_and_the_others_are_made(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(raw / SCENE, raw / "torn")
    (raw / "torn" / "processed/trajectory/gt-tum.txt").unlink()
    assert prepare(raw, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert [line.partition(":")[0] for line in said.out.splitlines()] == [SCENE]
    assert said.err.startswith("error: torn: ")
    assert (tmp_path / "out" / SCENE / "poses_c2w.txt").is_file()


def test_the_intrinsics_are_the_cameras_and_a_scenes_own_sensor_goes_first(raw: Path, tmp_path: Path) -> None:
    for out, expected in (("common", [40.0, 41.0, 39.5, 29.5]), ("own", [50.0, 41.0, 39.5, 29.5])):
        if out == "own":
            (raw / SCENE / "sensor.yaml").write_text(SENSOR.replace("[40.0, 41.0", "[50.0, 41.0"))
        assert prepare(raw, tmp_path / out) == 0
        frame = next(open_adapter("oxford_spires", tmp_path / out, {}).open(SCENE, Selection()).frames())
        assert frame.intrinsics is not None
        assert frame.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]].tolist() == expected


@pytest.mark.parametrize("term", range(4))
def test_each_distortion_coefficient_has_its_power_of_the_angle(raw: Path, term: int) -> None:
    factors = [0.0] * 4
    factors[term] = 0.3
    (raw / "sensor.yaml").write_text(SENSOR.replace("[0.05, -0.01, 0.002, 0.0]", str(factors)))
    lens, _ = read_front_camera(raw / "sensor.yaml")
    x, y = (70 - 39.5) / 40, (10 - 29.5) / 41
    column, row = lens.project(np.array(x), np.array(y))
    radius = np.hypot(x, y)
    angle = np.arctan(radius)
    bent = angle + 0.3 * angle ** (3 + 2 * term)
    assert column == pytest.approx(40 * bent * x / radius + 39.5, rel=1e-12)
    assert row == pytest.approx(41 * bent * y / radius + 29.5, rel=1e-12)
