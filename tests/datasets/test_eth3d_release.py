"""ETH3D as it is downloaded: COLMAP's text files, undistorted photographs, depth of the photographs with distortion."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import field_trees as trees
import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import FileSequence, Selection
from lingbot_eval.errors import DataError
from lingbot_eval.geometry.poses import quaternion_from_rotation

SCENE = "courtyard"
# fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1, COLMAP's pixels (the first one's centre is at 0.5).
LENS = (55.0, 54.0, 36.5, 25.5, -0.05, 0.02, 1e-2, -2e-2, 3e-3, -1e-3, 2e-3, -1e-3)


def write_release(root: Path) -> Path:
    """The wall of field_trees, photographed six times; numbers 286, 287, 289, … of which none is left out."""
    folder = root / SCENE
    calibration = folder / "dslr_calibration_undistorted"
    calibration.mkdir(parents=True)
    (calibration / "points3D.txt").write_text("# 3D point list\n")
    (calibration / "cameras.txt").write_text(
        "# Camera list with one line of data per camera:\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
        f"0 PINHOLE {trees.WIDTH} {trees.HEIGHT} {trees.FOCAL} {trees.FOCAL} 32.5 24.5\n"
    )
    lines = ["# Image list with two lines of data per image:\n"]
    for index in reversed(range(trees.FRAMES)):  # COLMAP's own order is none
        world_to_camera = np.linalg.inv(trees.pose(index))
        x, y, z, w = quaternion_from_rotation(world_to_camera[:3, :3])
        position = " ".join(f"{value:.12f}" for value in world_to_camera[:3, 3])
        name = f"dslr_images_undistorted/DSC_{286 + index + (index > 1):04d}.JPG"
        lines += [f"{index} {w:.12f} {x:.12f} {y:.12f} {z:.12f} {position} 0 {name}\n", "10.5 20.25 -1 30 40 7 1 2 3\n"]
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(trees.picture(index)).save(path, format="JPEG")
        depth = folder / "ground_truth_depth" / "dslr_images" / path.name
        depth.parent.mkdir(parents=True, exist_ok=True)
        metres = trees.depth(index).astype("<f4")
        metres[0, 0] = np.inf
        metres.tofile(depth)
    (calibration / "images.txt").write_text("".join(lines))
    return folder


def with_lens(folder: Path, size: tuple[int, int]) -> None:
    """Depth of ``size`` that says where it is, in the pixels of a lens with distortion."""
    calibration = folder / "dslr_calibration_jpg"
    shutil.copytree(folder / "dslr_calibration_undistorted", calibration)
    images = (calibration / "images.txt").read_text()
    (calibration / "images.txt").write_text(images.replace("dslr_images_undistorted/", "dslr_images/"))
    numbers = " ".join(str(value) for value in LENS)
    (calibration / "cameras.txt").write_text(f"0 THIN_PRISM_FISHEYE {size[0]} {size[1]} {numbers}\n")
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    for path in (folder / "ground_truth_depth" / "dslr_images").iterdir():
        (1 + columns + 0.01 * rows).astype("<f4").tofile(path)


def opened(root: Path) -> FileSequence:
    adapter = open_adapter("eth3d", root, {})
    assert adapter.scenes() == (SCENE,)
    sequence = adapter.open(SCENE, Selection())
    assert isinstance(sequence, FileSequence)
    return sequence


def test_views_in_order_of_their_numbers_with_pose_camera_and_time(tmp_path: Path) -> None:
    write_release(tmp_path)
    sequence = opened(tmp_path)
    assert [file.image.name for file in sequence.files][:3] == ["DSC_0286.JPG", "DSC_0287.JPG", "DSC_0289.JPG"]
    # Photographs have no times: the position, not the number in the name.
    np.testing.assert_array_equal(sequence.timestamps(), np.arange(trees.FRAMES))
    reference = sequence.reference()
    assert reference is not None
    expected = [trees.pose(index) for index in range(trees.FRAMES)]
    np.testing.assert_allclose(reference.camera_to_world, expected, atol=1e-9)
    np.testing.assert_allclose(sequence.frame(2).intrinsics, trees.INTRINSICS)
    assert "DSC_0287.JPG" in str(sequence.frame(1).source)
    assert len(sequence.fingerprint()) == 64


def test_depth_in_the_images_own_pixels_is_taken_as_it_is(tmp_path: Path) -> None:
    write_release(tmp_path)
    depth = opened(tmp_path).frame(3).depth
    assert depth is not None
    assert depth[0, 0] == 0  # infinite in the file
    np.testing.assert_allclose(depth[1:], trees.depth(3)[1:], rtol=1e-6)


def through_the_lens(u: float, v: float) -> tuple[float, float]:
    """Where the ray of a pixel of the undistorted image meets the distorted one, by COLMAP's definition, by hand."""
    fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, sx, sy = LENS
    x, y = (u - 32.0) / trees.FOCAL, (v - 24.0) / trees.FOCAL
    r = math.sqrt(x * x + y * y)
    if r > 0:
        x, y = x * math.atan(r) / r, y * math.atan(r) / r
    q = x * x + y * y
    radial = k1 * q + k2 * q**2 + k3 * q**3 + k4 * q**4
    dx = x * radial + 2 * p1 * x * y + p2 * (q + 2 * x * x) + sx * q
    dy = y * radial + 2 * p2 * x * y + p1 * (q + 2 * y * y) + sy * q
    return fx * (x + dx) + cx - 0.5, fy * (y + dy) + cy - 0.5


def test_depth_of_the_distorted_photographs_is_carried_along_the_rays(tmp_path: Path) -> None:
    with_lens(write_release(tmp_path), (70, 50))
    sequence = opened(tmp_path)
    assert sequence.facts()["intrinsics"] == "of each view, in cameras.txt"
    depth = sequence.frame(0).depth
    assert depth is not None
    assert depth.shape == (48, 64)
    for v, u in ((0, 0), (3, 60), (24, 32), (24, 33), (40, 10), (47, 63)):
        column, row = through_the_lens(u, v)
        inside = -0.5 < column < 69.5 and -0.5 < row < 49.5
        expected = 1 + round(column) + 0.01 * round(row) if inside else 0.0
        assert depth[v, u] == pytest.approx(expected, abs=1e-4), (u, v)
    column, row = through_the_lens(0, 0)
    assert abs(column - 0) > 1.5  # the lens matters
    before = sequence.fingerprint()
    with (tmp_path / SCENE / "dslr_calibration_jpg" / "cameras.txt").open("a") as stream:
        stream.write("# of another day\n")
    assert opened(tmp_path).fingerprint() != before


def test_depth_that_cannot_be_carried_over_is_left_out_and_said(tmp_path: Path) -> None:
    folder = write_release(tmp_path)
    with_lens(folder, (70, 50))
    shutil.rmtree(folder / "dslr_calibration_jpg")
    sequence = opened(tmp_path)
    assert sequence.frame(0).depth is None
    (note,) = sequence.facts()["notes"]
    assert note.startswith(
        "depth of 6 images is left out: its pixels are those of the photographs with lens distortion"
    )
    assert note.endswith("unpack courtyard_dslr_jpg.7z")


def test_the_photographs_with_distortion_alone_say_what_to_download(tmp_path: Path) -> None:
    folder = write_release(tmp_path)
    shutil.rmtree(folder / "dslr_calibration_undistorted")
    (folder / "images" / "dslr_images_undistorted").rename(folder / "images" / "dslr_images")
    with pytest.raises(DataError, match=r"with lens distortion; expected .*: unpack courtyard_dslr_undistorted\.7z"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("cameras.txt", "PINHOLE", "FISHEYE", r"cameras\.txt:3: expected 'CAMERA_ID MODEL WIDTH HEIGHT'"),
        (
            "cameras.txt",
            "PINHOLE 64 48 60.0 60.0 32.5 24.5",
            "SIMPLE_RADIAL 64 48 60 32.5 24.5 .1",
            r"cameras\.txt: expected undistorted cameras \(PINHOLE\), found SIMPLE_RADIAL",
        ),
        ("cameras.txt", "32.5", "x", r"cameras\.txt:3: expected 'CAMERA_ID MODEL WIDTH HEIGHT'"),
        ("cameras.txt", "0 PINHOLE", "7 PINHOLE", r"images\.txt:2: camera 0 is not in cameras\.txt"),
        (
            "images.txt",
            "DSC_0289",
            "DSC_0288",
            r"images\.txt: expected a line for each .* found none for DSC_0289\.JPG",
        ),
    ],
)
def test_calibration_of_another_kind_or_scene_is_refused(
    tmp_path: Path, name: str, old: str, new: str, says: str
) -> None:
    path = write_release(tmp_path) / "dslr_calibration_undistorted" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=says) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
