"""Models of COLMAP by hand: every camera model, binary and text alike, and which of two is read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from lingbot_eval.errors import DataError
from lingbot_eval.files.pose_documents import has_model, read_cameras, read_model
from lingbot_eval.geometry.cameras import MODELS, LensCamera

# src/colmap/sensor/models.h
NUMBERS = {
    "SIMPLE_PINHOLE": 0,
    "PINHOLE": 1,
    "SIMPLE_RADIAL": 2,
    "RADIAL": 3,
    "OPENCV": 4,
    "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6,
    "SIMPLE_RADIAL_FISHEYE": 8,
    "RADIAL_FISHEYE": 9,
    "THIN_PRISM_FISHEYE": 10,
}
TURN = (0.5**0.5, 0.0, 0.0, 0.5**0.5)
"""Scalar first: a quarter turn about z, which takes the world's x to the camera's y."""
PLACES = {"left/a.jpg": (1.0, 2.0, 3.0), "b.jpg": (4.0, 5.0, 6.0)}


def parameters(model: str) -> list[float]:
    return [10.0 + place for place in range(len(MODELS[model]))]


def write_text(folder: Path, model: str = "PINHOLE") -> None:
    numbers = " ".join(map(str, parameters(model)))
    (folder / "cameras.txt").write_text(f"# comment\n7 {model} 640 480 {numbers}\n")
    lines = [
        f"{row} {' '.join(map(str, (*TURN, *place)))} 7 {name}\n1.5 2.5 -1 3.5 4.5 12\n"
        for row, (name, place) in enumerate(PLACES.items())
    ]
    (folder / "images.txt").write_text("# comment\n" + "".join(lines))


def write_binary(folder: Path, model: str = "PINHOLE", camera: int = 7) -> None:
    numbers = parameters(model)
    head = struct.pack("<QiiQQ", 1, 7, NUMBERS[model], 640, 480)
    (folder / "cameras.bin").write_bytes(head + struct.pack(f"<{len(numbers)}d", *numbers))
    content = struct.pack("<Q", len(PLACES))
    for row, (name, place) in enumerate(PLACES.items()):
        content += struct.pack("<i7di", row, *TURN, *place, camera) + name.encode() + b"\0"
        # Points that look like anything: (x, y, number of the point in space).
        content += struct.pack("<Q", row + 1) + struct.pack("<ddq", 1.5, 2.5, -1) * (row + 1)
    (folder / "images.bin").write_bytes(content)


@pytest.mark.parametrize("write", [write_text, write_binary])
@pytest.mark.parametrize("model", NUMBERS)
def test_every_model_of_cameras(tmp_path: Path, write: object, model: str) -> None:
    write(tmp_path, model)  # type: ignore[operator]
    found = read_model(tmp_path)
    # COLMAP's centre counts from the corner of the first pixel, ours from its centre.
    numbers = tuple(
        value - 0.5 if name in ("cx", "cy") else value
        for name, value in zip(MODELS[model], parameters(model), strict=True)
    )
    assert found.cameras == {7: LensCamera(model, (640, 480), numbers)}
    assert found.camera_of == {"left/a.jpg": 7, "b.jpg": 7}
    assert set(NUMBERS) == set(MODELS)


@pytest.mark.parametrize(("write", "kind"), [(write_text, "txt"), (write_binary, "bin")])
def test_poses_are_of_the_camera_in_the_world(tmp_path: Path, write: object, kind: str) -> None:
    """World to camera, x → R x + t: the camera stands at −Rᵀ t."""
    assert not has_model(tmp_path)
    write(tmp_path)  # type: ignore[operator]
    assert has_model(tmp_path)
    found = read_model(tmp_path)
    assert found.files == (tmp_path / f"cameras.{kind}", tmp_path / f"images.{kind}")
    assert list(found.poses) == list(PLACES)
    to_world = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    for name, (x, y, z) in PLACES.items():
        np.testing.assert_allclose(found.poses[name][:3, :3], to_world, atol=1e-15)
        np.testing.assert_allclose(found.poses[name][:, 3], [-y, x, -z, 1], atol=1e-15)
    poses, cameras = found.by_stem()
    assert list(poses) == list(cameras) == ["a", "b"]
    assert cameras["a"] == found.cameras[7]
    np.testing.assert_array_equal(poses["b"], found.poses["b.jpg"])


def test_of_both_kinds_the_text_is_read(tmp_path: Path) -> None:
    write_binary(tmp_path, "OPENCV")
    write_text(tmp_path, "RADIAL")
    assert read_model(tmp_path).cameras[7].model == "RADIAL"
    (tmp_path / "images.txt").unlink()
    assert read_model(tmp_path).cameras[7].model == "OPENCV"
    (tmp_path / "cameras.bin").unlink()
    assert not has_model(tmp_path)  # cameras.txt and images.bin are no model
    with pytest.raises(DataError, match=r"cameras\.bin does not exist; is the model complete"):
        read_model(tmp_path)


def test_what_does_not_belong_together_is_one_line(tmp_path: Path) -> None:
    write_binary(tmp_path, camera=8)
    with pytest.raises(DataError, match=r"images\.bin: image 'left/a\.jpg': camera 8 is not in cameras\.bin beside it"):
        read_model(tmp_path)
    content = (tmp_path / "cameras.bin").read_bytes()
    (tmp_path / "cameras.bin").write_bytes(content[:12] + struct.pack("<i", 7) + content[16:])
    with pytest.raises(DataError, match=r"camera 7 is of model number 7, which is not read; undistort the images"):
        read_model(tmp_path)
    write_text(tmp_path)
    lines = (tmp_path / "images.txt").read_text().replace("b.jpg", "left/a.jpg")
    (tmp_path / "images.txt").write_text(lines)
    with pytest.raises(DataError, match=r"images\.txt:4: image 'left/a\.jpg' is there already; keep one of the two"):
        read_model(tmp_path)


@pytest.mark.parametrize("size", [(0, 480), (640, 0), (1 << 30, 1 << 30)])
def test_a_binary_camera_of_no_size_is_damage(tmp_path: Path, size: tuple[int, int]) -> None:
    write_binary(tmp_path)
    content = (tmp_path / "cameras.bin").read_bytes()
    (tmp_path / "cameras.bin").write_bytes(content[:16] + struct.pack("<QQ", *size) + content[32:])
    with pytest.raises(DataError, match=r"are damaged or of another kind \(camera 7 has impossible numbers\)"):
        read_model(tmp_path)


def test_a_binary_image_without_a_rotation_has_no_pose(tmp_path: Path) -> None:
    write_binary(tmp_path)
    content = (tmp_path / "images.bin").read_bytes()
    (tmp_path / "images.bin").write_bytes(content[:12] + bytes(32) + content[44:])
    found = read_model(tmp_path)
    lost, *others = PLACES
    assert list(found.poses) == others
    assert lost in found.camera_of


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1 PINHOLE 640 0 1 1 1 1", "PINHOLE: 4"),
        ("1 PINHOLE 0 480 1 1 1 1", "CAMERA_ID MODEL WIDTH HEIGHT"),
        ("1 PINHOLE 640 480 1 1 1", "found '1 PINHOLE 640 480 1 1 1'"),
        ("1 PINHOLE 640 480 1 0 1 1", "found"),
        ("1 PINHOLE 640 480 1 1 inf 1", "found"),
        ("x PINHOLE 640 480 1 1 1 1", "found"),
        ("1 FOV 640 480 1 1 1 1", "found"),
    ],
)
def test_cameras_that_are_none_are_refused_with_their_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "cameras.txt"
    path.write_text(f"# comment\n3 SIMPLE_PINHOLE 640 480 1 1 1\n{line}\n")
    with pytest.raises(DataError, match=r"cameras\.txt:3: expected") as refusal:
        read_cameras(path)
    assert says in str(refusal.value)
    path.write_text("# comment\n3 SIMPLE_PINHOLE 640 480 1 1 1\n")
    assert list(read_cameras(path)) == [3]
    path.write_text("# comment\n")
    with pytest.raises(DataError, match="expected cameras, found none"):
        read_cameras(path)
