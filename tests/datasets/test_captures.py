"""Captures of other tools: their lenses, and their masks, by values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import layout_trees as trees
import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import FileSequence, Selection
from lingbot_eval.errors import DataError
from lingbot_eval.prepare import SizeSettings, prepare

WIDTH, HEIGHT = trees.SIZE


def opened(root: Path, scene: str = "garden") -> FileSequence:
    sequence = open_adapter("capture", root, {}).open(scene, Selection())
    assert isinstance(sequence, FileSequence)
    return sequence


def edited(root: Path, change: Callable[[dict[str, Any]], None], view: trees.View = trees.CAPTURE) -> FileSequence:
    """A capture of nerfstudio's whose transforms.json was changed."""
    trees.write_nerfstudio(root, view)
    path = root / "garden/transforms.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return opened(root)


def test_fisheye_lenses_by_the_words_of_two_tools(tmp_path: Path) -> None:
    view = trees.FISHEYE
    assert view.lens is not None
    numbers = dict(zip(("k1", "k2", "k3", "k4"), view.lens[1], strict=True)) | {"p1": 0.0, "p2": 0.0}

    def of_nerfstudio(document: dict[str, Any]) -> None:
        document.update(numbers, camera_model="OPENCV_FISHEYE")

    def of_instant_ngp(document: dict[str, Any]) -> None:
        del document["camera_model"]
        document.update(numbers, is_fisheye=True)

    for name, change in (("ns", of_nerfstudio), ("ngp", of_instant_ngp)):
        frame = edited(tmp_path / name, change, view).frame(2)
        assert frame.image is not None
        expected = trees.paint(trees.hit(trees.pose(2), trees.rays(trees.CAMERA, trees.SIZE))[1]).astype(int)
        inner = np.s_[8:-8, 8:-8]
        assert np.median(np.abs(frame.image[inner] - expected[inner])) <= 2


def test_a_third_radial_number_bends_the_picture(tmp_path: Path) -> None:
    """Metashape's and RealityCapture's cameras have it; OpenCV counts it behind the tangential ones."""
    k1, k2, p1, p2, k3 = 0.3, -0.9, 0.002, -0.003, 4.0
    found = edited(tmp_path, lambda document: document.update(k1=k1, k2=k2, p1=p1, p2=p2, k3=k3, k4=0.0))
    lens = found.files[0].lens
    assert lens is not None
    points = np.array([[0.3, -0.2, 1.0], [-0.45, 0.35, 1.0]])
    seen = cv2.projectPoints(points, np.zeros(3), np.zeros(3), trees.CAMERA, np.array([k1, k2, p1, p2, k3]))[0][:, 0]
    np.testing.assert_allclose(np.stack(lens.project(points[:, 0], points[:, 1]), axis=-1), seen, atol=1e-9)
    with pytest.raises(
        DataError, match=r"transforms\.json: expected a perspective camera of k1, .* found k4 0\.5, too"
    ):
        edited(tmp_path / "again", lambda document: document.update(k4=0.5))


def test_a_field_of_view_without_a_size_is_of_the_images(tmp_path: Path) -> None:
    angle = 2 * np.arctan(0.5 * WIDTH / 80)

    def only_the_angle(document: dict[str, Any]) -> None:
        frames = document.pop("frames")
        document.clear()
        document.update(camera_angle_x=angle, frames=frames)

    frame = edited(tmp_path, only_the_angle).frame(0)
    np.testing.assert_allclose(frame.intrinsics, [[80, 0, 47.5], [0, 80, 35.5], [0, 0, 1]])


@pytest.mark.parametrize("width", [97, 98])
def test_images_of_a_slightly_other_shape_are_copies_and_of_another_are_none(tmp_path: Path, width: int) -> None:
    """Rounding makes a copy's shape differ by up to 2 %; 96 px are announced."""

    def wider(document: dict[str, Any]) -> None:
        for path in (tmp_path / "garden/images").iterdir():
            Image.new("RGB", (width, HEIGHT)).save(path)

    if width == 97:
        lens = edited(tmp_path, wider).files[0].lens
        assert lens is not None
        assert lens.size == (97, HEIGHT)
        np.testing.assert_allclose(lens.intrinsics[0], [80 * 97 / 96, 0, (trees.CAMERA[0, 2] + 0.5) * 97 / 96 - 0.5])
        np.testing.assert_allclose(lens.intrinsics[1], trees.CAMERA[1])
    else:
        with pytest.raises(DataError, match="expected 96x72 pixels as its camera, or a smaller copy, found 98x72; is"):
            edited(tmp_path, wider)


@pytest.mark.parametrize("angle", [0.0, 3.2, -1.0])
def test_a_field_of_view_that_no_camera_has_is_refused(tmp_path: Path, angle: float) -> None:
    def wide(document: dict[str, Any]) -> None:
        del document["fl_x"]
        document["camera_angle_x"] = angle

    with pytest.raises(
        DataError, match=r"transforms\.json: expected a field of view between 0 and pi and a size, found"
    ):
        edited(tmp_path, wide)


def test_a_damaged_image_is_said_and_does_not_close_a_capture_whose_images_have_cameras_of_their_own(
    tmp_path: Path,
) -> None:
    def own(document: dict[str, Any]) -> None:
        shared = {key: document[key] for key in document.keys() - {"frames"}}
        for number, frame in enumerate(document["frames"]):
            frame.update(shared, fl_x=100.0 + number)
        (tmp_path / "garden/images/frame_00003.png").write_bytes(b"cut")

    sequence = edited(tmp_path, own)
    (fault,) = sequence.facts()["image_faults"]
    assert "frame_00003.png" in fault
    assert len({frame.intrinsics[0, 0] for frame in (sequence.frame(0), sequence.frame(1))}) == 2


def test_one_image_by_several_spellings_is_one_frame(tmp_path: Path) -> None:
    def spelt(document: dict[str, Any]) -> None:
        first = document["frames"][0]
        ways = ("./images/{}", "images/./{}", "images//{}", "images\\{}")
        name = first["file_path"].rpartition("/")[2]
        document["frames"] += [{**first, "file_path": way.format(name)} for way in ways]

    sequence = edited(tmp_path, spelt)
    assert sequence.length == 5
    assert "4 entries have the image of another one: left out" in sequence.notes


def mask(path: Path, size: tuple[int, int] = trees.SIZE) -> None:
    """Black in the left quarter, where nothing is to be kept, and as dark as can be elsewhere."""
    picture = np.full(size[::-1], 1, np.uint8)
    picture[:, : size[0] // 4] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


PINHOLE = trees.View(trees.CAMERA, trees.SIZE, ("radtan", (0.0, 0.0, 0.0, 0.0)))
LEFT = np.arange(WIDTH) < WIDTH // 4


def test_masks_of_nerfstudio_leave_out_what_is_black(tmp_path: Path) -> None:
    def masked(document: dict[str, Any]) -> None:
        for frame in document["frames"][:3]:  # images 4, 1 and 5
            frame["mask_path"] = frame["file_path"].replace("images", "masks")

    for k in (3, 0, 4):
        mask(tmp_path / f"garden/masks/frame_{k + 1:05d}.png", (WIDTH // 2, HEIGHT // 2) if k == 4 else trees.SIZE)
    sequence = edited(tmp_path, masked, PINHOLE)
    frames = list(sequence.frames())
    assert [frame.left_out is not None for frame in frames] == [True, False, False, True, True]
    for index in (0, 3, 4):
        np.testing.assert_array_equal(frames[index].left_out, np.tile(LEFT, (HEIGHT, 1)))
    assert "2 of 5 images have no mask; all of them is kept" in sequence.notes
    assert sequence.facts()["masks"] == "0 = left out of what is kept"
    prepared = prepare(frames[0], SizeSettings(mode="exact", width=56, height=42))
    np.testing.assert_array_equal(prepared.left_out, np.tile(np.arange(56) < 14, (42, 1)))
    (tmp_path / "garden/masks").rename(tmp_path / "garden/elsewhere")
    assert "5 of 5 images have no mask; all of them is kept" in opened(tmp_path).notes
    (tmp_path / "garden/elsewhere").rename(tmp_path / "garden/masks")
    # Another mask makes what was kept stale.
    before = sequence.fingerprint()
    Image.new("L", trees.SIZE, 255).save(tmp_path / "garden/masks/frame_00001.png")
    assert opened(tmp_path).fingerprint() != before
    mask(tmp_path / "garden/masks/frame_00001.png", (HEIGHT, WIDTH))
    with pytest.raises(DataError, match=r"garden frame 0: mask .*frame_00001\.png: expected the shape of the image"):
        opened(tmp_path).frame(0)


def test_masks_of_colmap_lie_beside_the_images_and_follow_the_lens(tmp_path: Path) -> None:
    trees.write_colmap(tmp_path, trees.CAPTURE)
    mask(tmp_path / "bicycle/masks/_DSC8680.JPG.png")
    sequence = opened(tmp_path, "bicycle")
    assert [file.mask is not None for file in sequence.files] == [False, True, False, False]
    frame = sequence.frame(1)
    assert frame.left_out is not None
    # Undistorted as the image: what is left out is what a ray's pixel in the mask says.
    assert trees.CAPTURE.lens is not None
    rays = trees.rays(trees.CAMERA, trees.SIZE).reshape(-1, 3)
    seen = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), trees.CAMERA, np.array(trees.CAPTURE.lens[1]))[0][:, 0]
    columns = seen[:, 0].reshape(HEIGHT, WIDTH)
    inside = (np.abs(seen[:, 0] - (WIDTH - 1) / 2) < WIDTH / 2 - 1) & (
        np.abs(seen[:, 1] - (HEIGHT - 1) / 2) < HEIGHT / 2 - 1
    )
    sure = inside.reshape(HEIGHT, WIDTH) & (np.abs(columns - (WIDTH // 4 - 0.5)) > 0.6)
    np.testing.assert_array_equal(frame.left_out[sure], (columns < WIDTH // 4 - 0.5)[sure])


def test_a_mask_that_leads_out_of_the_capture_is_refused(tmp_path: Path) -> None:
    def elsewhere(document: dict[str, Any]) -> None:
        document["frames"][0]["mask_path"] = "../other/mask.png"

    with pytest.raises(DataError, match=r"expected a path inside .*found '\.\./other'"):
        edited(tmp_path, elsewhere)
    shutil.rmtree(tmp_path / "garden")
