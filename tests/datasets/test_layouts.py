"""Datasets in the exact layouts of their releases: read back, and carried from frame to frame."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.driving import oxts_poses
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import FileSequence, Selection
from lingbot_eval.errors import DataError
from lingbot_eval.prepare import SizeSettings, prepare
from lingbot_eval.types import Frame


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The root of a layout's tree, written once and not to be changed."""
    written: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp("tree") / "this" / "data"
            trees.LAYOUTS[name].write(written[name], trees.LAYOUTS[name].view)
        return written[name]

    return root


def opened(name: str, root: Path, **options: object) -> FileSequence:
    layout = trees.LAYOUTS[name]
    adapter = open_adapter(layout.dataset, root, {**layout.options, **options})
    assert layout.scene in adapter.scenes()
    sequence = adapter.open(layout.scene, Selection())
    assert isinstance(sequence, FileSequence)
    return sequence


def carried(first: Frame, second: Frame, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W) columns, rows and depths of the first frame's pixels in the second."""
    assert first.intrinsics is not None
    assert second.intrinsics is not None
    assert first.camera_to_world is not None
    assert second.camera_to_world is not None
    points = trees.rays(first.intrinsics, depth.shape[::-1]) * depth[..., None]
    motion = np.linalg.inv(second.camera_to_world) @ first.camera_to_world
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    pixels = moved @ second.intrinsics.T
    return pixels[..., 0] / moved[..., 2], pixels[..., 1] / moved[..., 2], moved[..., 2]


@pytest.mark.parametrize("name", trees.LAYOUTS)
def test_poses_depth_and_intrinsics_agree_by_reprojection(name: str, tree: Callable[[str], Path]) -> None:
    layout = trees.LAYOUTS[name]
    sequence = opened(name, tree(name))
    frames = list(sequence.frames())
    assert len(frames) == len(layout.frames)
    assert {"poses", "depth", "intrinsics", "timestamps", "licence"} <= set(sequence.facts())
    has_pose = [frame.camera_to_world is not None for frame in frames]
    assert has_pose == [k in layout.posed and k in layout.frames for k in layout.frames]
    # The room as the walk has it, whatever the world of the file: motion from the first frame.
    for k, frame in zip(layout.frames, frames, strict=True):
        assert frame.image is not None
        if frame.intrinsics is not None:  # undistorted pictures are those of a pinhole camera
            directions = trees.rays(frame.intrinsics, frame.image.shape[1::-1])
            expected = trees.paint(trees.hit(trees.pose(k), directions)[1]).astype(int)
            inner = np.s_[4:-4, 4:-4]
            channels = 1 if layout.view.grey else 3
            wrong = np.abs(frame.image[inner][..., :channels] - expected[inner][..., :channels])
            assert np.median(wrong) <= 3, (name, k)
            assert np.percentile(wrong, 95) <= 12, (name, k)
        if layout.has_depth:
            camera = frame.intrinsics if frame.depth_intrinsics is None else frame.depth_intrinsics
            assert frame.depth is not None
            assert camera is not None
            truth = trees.hit(trees.pose(k), trees.rays(camera, frame.depth.shape[::-1]))[0]
            measured = frame.depth > 0
            assert measured.mean() > 0.99
            np.testing.assert_allclose(frame.depth[measured], truth[measured], rtol=layout.depth_error)
        else:
            assert frame.depth is None
    posed = [k for k in layout.posed if k in layout.frames]
    for k in posed[1:]:
        first, second = frames[layout.frames.index(posed[0])], frames[layout.frames.index(k)]
        assert first.camera_to_world is not None
        assert second.camera_to_world is not None
        motion = np.linalg.inv(first.camera_to_world) @ second.camera_to_world
        np.testing.assert_allclose(motion, np.linalg.inv(trees.pose(posed[0])) @ trees.pose(k), atol=2e-5)
        if layout.dataset != "kitti_raw":  # whose world begins at the first packet of GPS
            np.testing.assert_allclose(second.camera_to_world, trees.pose(k), atol=2e-5)
    if len(posed) < 2:
        return
    first, second = frames[layout.frames.index(posed[0])], frames[layout.frames.index(posed[1])]
    size = first.image.shape[1::-1]  # type: ignore[union-attr]
    if layout.has_depth and first.depth_intrinsics is None:
        depth = np.asarray(first.depth, float)
    else:
        depth = trees.hit(trees.pose(posed[0]), trees.rays(first.intrinsics, size))[0]  # type: ignore[arg-type]
    columns, rows, far = carried(first, second, depth)
    column, row = np.rint(columns).astype(int), np.rint(rows).astype(int)
    inside = (column >= 2) & (column < size[0] - 2) & (row >= 2) & (row < size[1] - 2) & (depth > 0)
    assert inside.mean() > 0.4
    seen = second.image[row[inside], column[inside]].astype(int)  # type: ignore[index]
    assert np.median(np.abs(seen - first.image[inside])) < 6  # type: ignore[index]
    if layout.has_depth and second.depth_intrinsics is None:
        there = second.depth[row[inside], column[inside]]  # type: ignore[index]
        close = np.abs(far[inside] / np.maximum(there, 1e-6) - 1) < 0.03
        assert close.mean() > 0.9


@pytest.mark.parametrize("name", trees.LAYOUTS)
def test_roots_scenes_and_selections(name: str, tree: Callable[[str], Path], tmp_path: Path) -> None:
    root, layout = tree(name), trees.LAYOUTS[name]
    adapter = open_adapter(layout.dataset, root, layout.options)
    with pytest.raises(DataError, match=f"no scene 'nope'.*{layout.scene}"):
        adapter.open("nope", Selection())
    with pytest.raises(DataError, match="no frame is left"):
        adapter.open(layout.scene, Selection(start=60))
    every = adapter.open(layout.scene, Selection())
    second = adapter.open(layout.scene, Selection(start=1, stride=2))
    np.testing.assert_array_equal(second.timestamps(), every.timestamps()[1::2])
    assert len(every.fingerprint()) == 64
    # Copies lie a folder deeper.
    above = open_adapter(layout.dataset, root.parent, layout.options)
    if name == "kitti_depth":
        with pytest.raises(DataError, match=f"one level too high, use {root}$"):
            above.scenes()
    else:
        assert layout.scene in above.scenes()
    # Beside the test's own folder lie those of others, with scenes that may be taken for what was meant.
    packed = tmp_path / "downloads" / "packed"
    packed.mkdir(parents=True)
    (packed / "archive.zip").touch()
    with pytest.raises(
        DataError, match=r"expected .* under .*, found archives \(archive\.zip\): unpack them"
    ) as caught:
        open_adapter(layout.dataset, packed, layout.options).scenes()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", trees.LAYOUTS)
def test_opening_decodes_no_image(name: str, tree: Callable[[str], Path], tmp_path: Path) -> None:
    """All but the first of a folder, whose size some calibrations are held against, may be anything."""
    root = shutil.copytree(tree(name), tmp_path / "data")
    seen: set[tuple[Path, str]] = set()
    for path in sorted(root.rglob("*")):
        kind = path.parent, re.sub(r"\d", "", path.name)
        if path.suffix.lower() in (".png", ".jpg", ".npy", ".dpt") and kind in seen:
            path.write_bytes(b"not an image")
        seen.add(kind)
    assert opened(name, root).length == len(trees.LAYOUTS[name].frames)


Change = Callable[[Path], object]


def line(pattern: str, number: int, new: str) -> Change:
    """Puts ``new`` in place of a line; of no line where it is empty."""

    def change(root: Path) -> None:
        (path,) = root.glob(pattern)
        lines = path.read_text().splitlines()
        lines[number - 1 : number] = [new] if new else []
        path.write_text("\n".join(lines) + "\n")

    return change


def whole(pattern: str, content: bytes | None) -> Change:
    """Puts ``content`` in place of a file; None removes it."""

    def change(root: Path) -> None:
        (path,) = root.glob(pattern)
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return change


def swap(pattern: str, old: str, new: str) -> Change:
    def change(root: Path) -> None:
        (path,) = root.glob(pattern)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


POSE_FILE = "*/*/*/iphone/pose_intrinsic_imu.json"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("tum_dynamics", line("*/rgb.txt", 5, "1548266460.0 rgb/x.png"), r"rgb\.txt:5: expected increasing timestamps"),
        ("bonn", line("*/*/groundtruth.txt", 5, "1 2 3"), r"groundtruth\.txt:5: expected 8 numbers"),
        ("bonn", lambda root: shutil.rmtree(next(root.glob("*/*/rgb"))), r"rgb\.txt: none of its 5 images is there"),
        ("sintel", whole("training/camdata_left/*/frame_0002.cam", b"PIE"), r"frame_0002\.cam: expected a camera of S"),
        (
            "sintel",
            whole("training/camdata_left/*/frame_0002.cam", b"PIEH\0"),
            r"expected a camera of 172 bytes, found 5",
        ),
        (
            "sintel",
            whole("training/depth/*/frame_0001.dpt", b"PIEH" + b"\1\0\0\0" * 2),
            r"frame 0: .*expected 12 bytes",
        ),
        ("sintel", whole("training/depth/*/frame_0001.dpt", b"\x89PNG" + b"0" * 40), r"it begins with PIEH\), found"),
        (
            "sintel",
            whole("training/depth/*/frame_0001.dpt", b"PIEH" + b"\xff" * 8 + b"\0" * 4),
            r"frame_0001\.dpt: expected 12 bytes and 4 for each of -1x-1 pixels, found 16",
        ),
        (
            "sintel",
            whole("training/depth/*/frame_0001.dpt", b"PIEH" + b"\1\0\0\0" * 3),
            r"frame_0001\.dpt: expected 96x72 pixels as the image, found 1x1",
        ),
        ("scannet", line("*/intrinsic/intrinsic_color.txt", 1, "1 2"), r"intrinsic_color\.txt: expected 16 numbers"),
        ("scannet", line("*/pose/1.txt", 2, "1 2 3"), r"1\.txt:2: expected 4 numbers"),
        ("scannet", line("*/pose/1.txt", 1, "2 0 0 0"), r"1\.txt:1: expected a rigid pose"),
        ("scannetpp", whole("*/*/iphone/pose_intrinsic_imu.json", b"{"), r"imu\.json cannot be read as JSON"),
        ("scannetpp", whole("*/*/iphone/pose_intrinsic_imu.json", None), r"imu\.json does not exist"),
        (
            "scannetpp",
            swap("*/*/iphone/pose_intrinsic_imu.json", "80.0", '"x"'),
            "expected intrinsic as 9 finite numbers",
        ),
        ("scannetpp", lambda root: shutil.rmtree(next(root.glob("*/*/iphone/rgb"))), "extract them from the video"),
        (
            "scannetpp dslr",
            swap("*/*/dslr/colmap/cameras.txt", "OPENCV_FISHEYE", "FOV"),
            r"cameras\.txt:2: expected 'CAM",
        ),
        ("scannetpp dslr", swap("*/*/dslr/colmap/images.txt", " 1 DSC", " 7 DSC"), "camera 7 is not in cameras.txt"),
        (
            "euroc",
            line("*/mav0/cam0/data.csv", 4, "1403636579763555584,1403636579763555584.png"),
            r"data\.csv:4: expected increasing times",
        ),
        ("euroc", line("*/mav0/cam0/data.csv", 3, "now,x.png"), r"data\.csv:3: expected 'nanoseconds,filename'"),
        (
            "euroc",
            swap("*/mav0/cam0/sensor.yaml", "resolution: [", f"resolution: [1{9:0>400}, "),
            "resolution as 2 finite",
        ),
        ("euroc", swap("*/mav0/cam0/sensor.yaml", "radial-tangential", "omni"), "expected distortion_model radial"),
        ("euroc", swap("*/mav0/cam0/sensor.yaml", "resolution", "size"), "expected resolution as 2 finite numbers"),
        (
            "euroc",
            swap("*/mav0/cam0/sensor.yaml", "0.0148655429818", "5.0"),
            r"sensor\.yaml: T_BS: expected a rigid 4x4",
        ),
        ("euroc", whole("*/mav0/cam0/sensor.yaml", b"\0\1"), r"sensor\.yaml:1: not text"),
        (
            "euroc",
            whole("*/mav0/cam0/sensor.yaml", b"- 1"),
            r"sensor\.yaml: expected a YAML calibration, found other text",
        ),
        (
            "euroc",
            whole("*/mav0/cam0/sensor.yaml", b"T_BS: [1, 2"),
            r"sensor\.yaml: expected a YAML calibration, found text that ",
        ),
        (
            "kitti_raw",
            line("*/calib_cam_to_cam.txt", 3, "R_rect_00: 1 2"),
            r"cam\.txt:3: expected the 9 numbers of R_r",
        ),
        (
            "kitti_raw",
            swap("*/calib_cam_to_cam.txt", "P_rect_02", "P_rect_03"),
            r"expected a line 'P_rect_02: …', found none",
        ),
        ("kitti_raw", whole("*/calib_imu_to_velo.txt", None), r"calib_imu_to_velo\.txt does not exist"),
        (
            "kitti_raw",
            line("*/*/image_02/timestamps.txt", 5, ""),
            "expected a time for each image up to number 4, found 4",
        ),
        (
            "kitti_raw",
            line("*/*/image_02/timestamps.txt", 2, "yesterday"),
            r"timestamps\.txt:2: expected a finite number",
        ),
        (
            "kitti_raw",
            line("*/*/image_02/timestamps.txt", 1, "1317042145.0"),
            r"timestamps\.txt:2: expected dates alone or seconds alone, found '2011-09-26 13:02:25\.1",
        ),
        ("kitti_raw", whole("*/*/oxts/data/0000000001.txt", b"49 8 1\n"), r"0000000001\.txt:1: expected 30 numbers"),
        ("kitti_depth", whole("*/*/intrinsics/*0008_image_02.txt", b"1 2 3"), r"expected 9 numbers \(fx 0 cx 0 fy cy"),
        ("vkitti2", line("*/*/extrinsic.txt", 2, "0 0 1 2"), r"extrinsic\.txt:2: expected 18 numbers"),
        (
            "vkitti2",
            whole("*/*/extrinsic.txt", b"frame cameraID r1,1\n"),
            r"expected lines of 18 numbers .*, found none",
        ),
        ("vkitti2", line("*/*/intrinsic.txt", 2, "3 0 0 1 2 3"), r"intrinsic\.txt: frame 3: expected intrinsics"),
        ("vkitti2", line("*/*/intrinsic.txt", 2, ""), r"found none for rgb_00000.jpg \(1 in all\)"),
        ("replica", line("*/*/traj.txt", 5, ""), "expected a row for each image up to number 4, found 4 rows"),
        ("replica", whole("*/cam_params.json", None), "expected cam_params.json in"),
        (
            "replica",
            swap("*/cam_params.json", "80.0", "-80.0"),
            r"cam_params\.json: expected intrinsics .* with fx, fy > 0",
        ),
        (
            "replica",
            swap("*/cam_params.json", '"scale": ', '"scale": -'),
            "units of depth a metre, above 0, found -6553.5",
        ),
        ("replica", swap("*/cam_params.json", "6553.5", "0.0"), "units of depth a metre, above 0, found 0$"),
        (
            "tartanair v2",
            lambda root: Image.new("RGB", trees.SIZE).save(next(root.rglob("000000_lcam_front_depth.png"))),
            "expected RGBA, the bytes of float32, found RGB",
        ),
        (
            "tartanair v2",
            lambda root: Image.new("RGBA", (8, 6)).save(next(root.rglob("000000_lcam_front_depth.png"))),
            "depth.png: expected .* pixels as the image, found 8x6",
        ),
        ("tartanair", line("*/*/*/*/pose_left.txt", 3, "1 2 3"), r"pose_left\.txt:3: expected 7 numbers"),
        ("tartanair", line("*/*/*/*/pose_left.txt", 5, ""), "expected a row for each image up to number 4, found 4"),
        (
            "long3d",
            lambda root: next(root.glob("*/*/*/*.jpg")).rename(root / "Classroom/images/scan_images/a.jpg"),
            "time",
        ),
        ("waymo", whole("*/*/extrinsics/0.txt", b"1 0 0 0\n" * 4), r"0\.txt:1: expected a rigid pose"),
        ("waymo", whole("*/*/extrinsics/0.txt", b"nan 0 0 0\n" * 4), "front camera on the car, found one not finite"),
        ("waymo", whole("*/*/intrinsics/0.txt", b"1 2 3"), r"0\.txt: expected 9 numbers"),
        (
            "waymo",
            whole("*/*/extrinsics/0.txt", b"0 1 0 0\n0 0 1 0\n1 0 0 0\n0 0 0 1"),
            "expected a camera that looks ahead",
        ),
        ("vbr_full", swap("*/*/vbr_calib.yaml", "cam_l", "cam_x"), "expected the left camera as 'cam_l'"),
        ("vbr_full", whole("*/*/spagna_train0_gt.txt", None), r"expected spagna_train0_gt\.txt in .*; download it"),
        ("vbr_full", whole("*/*/spagna_train0_gt.txt", b"9.0 0 0 0 0 0 0 1\n"), "none of 1 poses of"),
        ("capture", whole("*/transforms.json", b"[]"), r"transforms\.json: expected a mapping, found list"),
        (
            "capture",
            whole("*/transforms.json", b'{"frames": []}'),
            "expected a list 'frames' of file_path and transform_matrix",
        ),
        ("capture", swap("*/transforms.json", "images/frame_00004.png", "/etc/passwd"), "expected a path inside"),
        ("capture", swap("*/transforms.json", '"OPENCV"', '"EQUIRECTANGULAR"'), "expected camera_model as one of"),
        (
            "capture",
            swap("*/transforms.json", '"w": 96', '"w": 960'),
            "expected 960x72 pixels as its camera, or a smaller",
        ),
        ("capture", swap("*/transforms.json", "images/", "pictures/"), "none of the 6 images of .* is there, such as"),
        (
            "capture colmap",
            whole("*/sparse/0/cameras.bin", b"\1"),
            r"cameras\.bin and images\.bin are damaged or of another",
        ),
        ("capture colmap", whole("*/sparse/0/images.bin", b"\xff" * 8), r"damaged or of another kind \(\d+ entries\)"),
    ],
)
def test_malformed_trees_are_refused_in_one_line(
    name: str, change: Change, says: str, tree: Callable[[str], Path], tmp_path: Path
) -> None:
    root = shutil.copytree(tree(name), tmp_path / "data")
    change(root)

    def read() -> None:
        sequence = opened(name, root)
        sequence.reference()
        sequence.frame(0)

    with pytest.raises(DataError) as caught:
        read()
    assert re.search(says, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def said(sequence: FileSequence) -> str:
    return "; ".join(sequence.facts()["notes"])


def test_scans_under_frames_and_of_smaller_images(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """As NICE-SLAM lays ScanNet out, and with colour made as small as depth while its calibration stayed."""
    root = tmp_path / "scans"
    shutil.copytree(tree("scannet") / "scene0000_00", root / "scene0000_00" / "frames")
    assert opened("scannet", root).frame(1).intrinsics == pytest.approx(trees.SCANNET_COLOUR)
    whole_size = np.diag([1296 / 130, 968 / 97, 1]) @ trees.SCANNET_COLOUR
    (file,) = root.rglob("intrinsic_color.txt")
    file.unlink()  # scannet_frames_25k has it in the scene's folder and calls it so
    (file.parents[1] / "intrinsics_color.txt").write_text(trees.rows(trees.four(whole_size)))
    sequence = opened("scannet", root)
    assert sequence.frame(1).intrinsics == pytest.approx(trees.SCANNET_COLOUR, abs=0.5)
    assert "intrinsics of 1296x968 pixels are scaled to the images'" in said(sequence)


_TUM = [1548266470.01, 1548266470.04333, 1548266470.07667, 1548266470.11, 1548266470.14333]
_KITTI_RAW = [1317042145.009643894 + k / 10 for k in range(trees.FRAMES)]  # 2011-09-26 13:02:25 UTC
TIMES: dict[str, list[float]] = {
    "tum_dynamics": _TUM,
    "bonn": _TUM,
    "sintel": [0, 1 / 24, 2 / 24, 3 / 24, 4 / 24],
    "scannet": [0, 1 / 30, 2 / 30, 3 / 30, 4 / 30],
    "scannetpp": [100.5, 100.5 + 1 / 6, 100.5 + 2 / 6, 101.0, 100.5 + 4 / 6],
    "scannetpp dslr": [0, 1, 2, 3, 4],
    "euroc": [1403636579.763555584 + k / 20 for k in range(trees.FRAMES)],
    "kitti_raw": _KITTI_RAW,
    "kitti_raw extract": _KITTI_RAW,
    "kitti_depth": [0.8, 1.6, 2.4, 3.2, 4.0],
    "vkitti2": [0, 0.1, 0.2, 0.3, 0.4],
    "replica": [0, 1 / 30, 2 / 30, 3 / 30, 4 / 30],
    "tartanair": [0, 0.1, 0.2, 0.3, 0.4],
    "tartanair v2": [0, 0.1, 0.2, 0.3, 0.4],
    "long3d": [1760000000.05 + k / 10 for k in range(trees.FRAMES)],
    "waymo": [0, 0.1, 0.2, 0.3, 0.4],
    "waymo opencv": [0, 0.1, 0.2, 0.3, 0.4],
    "vbr_full": [366.56045814 + k / 10 for k in range(trees.FRAMES)],
    "capture": [0, 1, 2, 3, 4],
    "capture colmap": [0, 1, 2, 3],
}


# How what the record says of a layout ends.
WORDS: dict[str, dict[str, str]] = {
    "kitti_raw": {"depth": "none", "intrinsics": "lens distortion is removed (rectified)"},
    "kitti_raw extract": {"poses": "nearest in time within 0.02 s, and the calibration; metres", "intrinsics": "here"},
    "kitti_depth": {"intrinsics": "of each image, in intrinsics/"},
    "waymo": {"poses": "in Waymo's axes; metres"},
    "waymo opencv": {"poses": "in OpenCV's axes; metres"},
    "scannet": {"depth": "of its own camera and size, looked up along the colour camera's rays"},
    "scannetpp dslr": {"intrinsics": "removed here, to a pinhole camera of the same focal length"},
    "capture": {"poses": "OpenGL axes in the file, columns y and z negated", "depth": "none", "masks": "none"},
    "capture colmap": {"poses": "world-to-camera in the model, inverted"},
    "tartanair": {"intrinsics": "320, 320, centre 320, 240"},
    "tartanair v2": {"intrinsics": "320, 320, centre 320, 320"},
}


@pytest.mark.parametrize("name", trees.LAYOUTS)
def test_times_cameras_and_depth_by_their_values(name: str, tree: Callable[[str], Path]) -> None:
    layout = trees.LAYOUTS[name]
    sequence = opened(name, tree(name))
    np.testing.assert_allclose(sequence.timestamps(), TIMES[name], rtol=0, atol=1e-6)
    for key, end in WORDS.get(name, {}).items():
        assert sequence.conventions[key].endswith(end)
    frame = sequence.frame(2)
    if layout.dataset != "long3d":  # which has none
        np.testing.assert_allclose(frame.intrinsics, layout.view.camera, atol=1e-6)
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        # The corner of the first pixel stays where it is: half a pixel before its centre.
        scale = np.array([168 / width, 112 / height])
        expected = np.diag([*scale, 1.0]) @ layout.view.camera
        expected[:2, 2] += (scale - 1) / 2
        prepared = prepare(frame, SizeSettings(mode="exact", width=168, height=112))
        np.testing.assert_allclose(prepared.intrinsics, expected, atol=1e-6)
    if layout.has_depth:
        own = frame.intrinsics if frame.depth_intrinsics is None else frame.depth_intrinsics
        assert own is not None
        if layout.view.depth_camera is not None:
            np.testing.assert_allclose(own, layout.view.depth_camera, atol=1e-6)
        assert frame.depth is not None
        truth = layout.view.depth(layout.frames[2])
        assert frame.depth[5, 7] == pytest.approx(truth[5, 7], rel=layout.depth_error)
        assert frame.depth[0, 0] == 0 or layout.depth_error == 1e-6  # 16-bit maps have 0 there: no measurement


@pytest.mark.parametrize("lost", [False, True])
def test_one_frame_without_an_aligned_pose_changes_no_other(
    lost: bool, tree: Callable[[str], Path], tmp_path: Path
) -> None:
    before = opened("scannetpp", tree("scannetpp")).reference()
    shutil.copytree(tree("scannetpp"), tmp_path / "data", dirs_exist_ok=True)
    (file,) = (tmp_path / "data").rglob("pose_intrinsic_imu.json")
    entries = json.loads(file.read_text())
    if lost:
        entries["frame_000010"]["aligned_pose"] = np.full((4, 4), np.nan).tolist()
    else:
        del entries["frame_000010"]["aligned_pose"]
    file.write_text(json.dumps(entries))
    after = opened("scannetpp", tmp_path / "data").reference()
    assert before is not None
    assert after is not None
    assert after.indices.tolist() == [index for index in before.indices.tolist() if index != 1]
    kept = np.isin(before.indices, after.indices)
    np.testing.assert_array_equal(after.camera_to_world, before.camera_to_world[kept])


def test_a_date_of_a_whole_second_may_have_no_fraction(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("kitti_raw"), tmp_path / "data")
    line("*/*/image_02/timestamps.txt", 1, "2011-09-26 13:02:25")(root)
    np.testing.assert_allclose(opened("kitti_raw", root).timestamps(), [1317042145, *_KITTI_RAW[1:]], atol=1e-6, rtol=0)


def test_a_calibration_that_opencv_wrote_is_read_alike(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("euroc"), tmp_path / "data")
    (file,) = root.rglob("cam0/sensor.yaml")
    file.write_text("%YAML:1.0\n---\n" + file.read_text().replace("T_BS:\n", "T_BS: !!opencv-matrix\n"))
    after, before = opened("euroc", root), opened("euroc", tree("euroc"))
    assert after.files[0].lens == before.files[0].lens
    np.testing.assert_array_equal(after.files[1].pose, before.files[1].pose)


@pytest.mark.parametrize("fifth", [0.0, 0.01])
def test_a_fifth_coefficient_of_a_lens_is_0_or_refused(
    tree: Callable[[str], Path], tmp_path: Path, fifth: float
) -> None:
    shutil.copytree(tree("euroc"), tmp_path / "data", dirs_exist_ok=True)
    for file in (tmp_path / "data").rglob("cam0/sensor.yaml"):
        text = file.read_text()
        listed = re.search(r"(distortion_coefficients: \[[^]]*)\]", text)
        assert listed is not None
        file.write_text(text.replace(listed[0], f"{listed[1]}, {fifth}]"))
    if fifth == 0:
        assert opened("euroc", tmp_path / "data").length
    else:
        with pytest.raises(DataError, match="distortion_coefficients"):
            opened("euroc", tmp_path / "data")


def test_a_scene_that_is_the_root_itself(tree: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scannet", "euroc", "capture", "bonn", "replica", "kitti_raw", "vkitti2", "tum_dynamics"):
        layout, root = trees.LAYOUTS[name], tree(name)
        (folder,) = (path for path in root.rglob(layout.scene.rpartition("/")[2]) if path.is_dir())
        monkeypatch.chdir(folder)
        sequence = open_adapter(layout.dataset, Path(), layout.options).open(layout.scene, Selection())
        assert sequence.length == trees.FRAMES


@pytest.mark.parametrize("rest", ["", ",", " , "])
def test_a_list_of_times_alone_stands_for_the_images_called_so(
    rest: str, tree: Callable[[str], Path], tmp_path: Path
) -> None:
    root = shutil.copytree(tree("euroc"), tmp_path / "data")
    (index,) = root.glob("*/mav0/cam0/data.csv")
    index.write_text("".join(f"{row.partition(',')[0]}{rest}\n" for row in index.read_text().splitlines()))
    sequence, before = opened("euroc", root), opened("euroc", tree("euroc"))
    assert [file.image.name for file in sequence.files] == [file.image.name for file in before.files]
    assert sequence.facts()["found"] == before.facts()["found"]


def test_entries_without_a_file_are_counted_and_said(tree: Callable[[str], Path], tmp_path: Path) -> None:
    euroc = opened("euroc", tree("euroc")).facts()
    assert (euroc["found"]["entries"], euroc["found"]["entries_without_file"]) == (6, 1)
    assert "1 entries of data.csv have no image: left out" in euroc["notes"]
    capture = opened("capture", tree("capture")).facts()
    assert (capture["found"]["entries"], capture["found"]["entries_without_file"]) == (6, 1)
    assert "1 of 6 entries have no file, such as images/frame_00099.png" in capture["notes"]
    root = shutil.copytree(tree("bonn"), tmp_path / "data")
    for name in ("rgb/1548266470.04333.png", "depth/1548266470.08367.png"):
        (root / "rgbd_bonn_dataset/rgbd_bonn_balloon2" / name).unlink()
    bonn = opened("bonn", root)
    assert "1 images of rgb.txt are not there: left out" in bonn.facts()["notes"]
    assert [file.depth is not None for file in bonn.files] == [True, False, True, True]
    assert [frame.camera_to_world is not None for frame in bonn.frames()] == [True] * 4
    dslr = opened("scannetpp dslr", tree("scannetpp dslr")).facts()["found"]
    assert (dslr["entries"], dslr["entries_without_file"], dslr["images_with_pose"]) == (6, 1, 5)


def test_smaller_copies_are_the_same_capture_with_their_own_pixels(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    view = trees.CAPTURE
    camera = np.diag([0.5, 0.5, 1]) @ view.camera
    camera[:2, 2] -= 0.25  # half of the half pixel between an image's corner and its first pixel's centre
    half = trees.View(camera, (48, 36), view.lens)
    for name, scene in (("capture", "garden"), ("capture colmap", "bicycle")):
        shutil.copytree(tree(name) / scene, root / scene)
        names = sorted(path.name for path in (root / scene / "images").iterdir())
        shutil.rmtree(root / scene / "images")
        for index, file in enumerate(names):
            trees.save(root / scene / "images_2" / file, half, index)
    assert open_adapter("capture", root, {}).scenes() == ("bicycle", "garden")
    for name in ("capture", "capture colmap"):
        frame = opened(name, root).frame(1)
        np.testing.assert_allclose(frame.intrinsics, half.camera)
        directions = trees.rays(half.camera, half.size)
        expected = trees.paint(trees.hit(trees.pose(1), directions)[1]).astype(int)
        assert frame.image is not None
        assert np.median(np.abs(frame.image - expected)) <= 4


def test_copies_of_several_sizes_in_one_capture_each_have_their_own_pixels(
    tree: Callable[[str], Path], tmp_path: Path
) -> None:
    """Some images are there as smaller copies alone, whose sides were rounded; others are held back for tests."""
    root = shutil.copytree(tree("capture"), tmp_path / "data")
    path = root / "garden/transforms.json"
    document = json.loads(path.read_text())
    name = Path(document["frames"][0]["file_path"]).name
    (root / "garden/images" / name).unlink()
    Image.new("RGB", (80, 59)).save(root / "garden/images_2" / name)
    document["test_frames"] = [document["frames"].pop() for _ in range(2)]
    before = opened("capture", root)
    path.write_text(json.dumps(document))
    sequence = opened("capture", root)
    assert {file.image for file in sequence.files} == {file.image for file in before.files}
    (k,) = [k for k, file in enumerate(sequence.files) if file.image.parent.name == "images_2"]
    (fx, _, cx), (_, fy, cy), _ = trees.CAPTURE.camera.tolist()
    along, across = 80 / 96, 59 / 72
    expected = [[along * fx, 0, along * (cx + 0.5) - 0.5], [0, across * fy, across * (cy + 0.5) - 0.5], [0, 0, 1]]
    np.testing.assert_allclose(sequence.files[k].intrinsics, expected)
    np.testing.assert_allclose(sequence.files[1 if k == 0 else 0].intrinsics, trees.CAPTURE.camera)


def test_what_lies_beside_a_scene_of_rendered_rooms(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("replica"), tmp_path / "replica")
    scene = trees.LAYOUTS["replica"].scene
    (shared,) = root.rglob("cam_params.json")
    camera = json.loads(shared.read_text())
    inner = camera.get("camera", camera)
    inner["fx"] = 77.0
    for written in (camera, inner):  # the numbers under "camera", or by themselves
        next(path for path in root.rglob(scene) if path.is_dir()).joinpath("cam_params.json").write_text(
            json.dumps(written)
        )
        assert opened("replica", root).frame(0).intrinsics[0, 0] == 77.0
    # Scenes of Sintel's test, whose depth and cameras nobody has, are none.
    assert any((tree("sintel") / "test/final").iterdir())
    assert open_adapter("sintel", tree("sintel"), {}).scenes() == ("alley_2",)


def test_models_as_text_and_of_folders_are_read_alike(tree: Callable[[str], Path], tmp_path: Path) -> None:
    trees.write_colmap(tmp_path, trees.CAPTURE, binary=False)
    text, binary = opened("capture colmap", tmp_path), opened("capture colmap", tree("capture colmap"))
    np.testing.assert_allclose([file.pose for file in text.files], [file.pose for file in binary.files], atol=1e-9)
    assert text.files[0].lens == binary.files[0].lens


def test_transforms_of_other_tools(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """Names without a suffix and a field of view (NeRF synthetic); cameras and depth of their own (Polycam)."""
    root = shutil.copytree(tree("capture"), tmp_path / "data")
    path = root / "garden/transforms.json"
    document = json.loads(path.read_text())
    frames = [{**frame, "file_path": "./" + frame["file_path"][:-4]} for frame in document["frames"][:5]]
    angle = 2 * np.arctan(0.5 * trees.SIZE[0] / 80)
    path.write_text(json.dumps({"camera_angle_x": angle, "w": 96, "h": 72, "frames": frames}))
    np.testing.assert_allclose(opened("capture", root).frame(0).intrinsics, [[80, 0, 47.5], [0, 80, 35.5], [0, 0, 1]])
    own = {"fl_x": 81.0, "fl_y": 82.0, "cx": 48.0, "cy": 36.0, "w": 96, "h": 72, "depth_file_path": "depth/d.png"}
    trees.save_depth(root / "garden/depth/d.png", np.full((72, 96), 2.5), 1000)
    path.write_text(json.dumps({"frames": [{**frame, **own} for frame in frames]}))
    frame = opened("capture", root).frame(0)
    np.testing.assert_allclose(frame.intrinsics, [[81, 0, 47.5], [0, 82, 35.5], [0, 0, 1]])
    assert frame.depth is not None
    assert frame.depth[10, 10] == 2.5


@pytest.mark.parametrize("before", ["vkitti_2.0.3_", ""])
def test_archives_of_virtual_kitti_in_folders_of_their_own(
    before: str, tree: Callable[[str], Path], tmp_path: Path
) -> None:
    for part, moved in (("rgb", "frames/rgb"), ("depth", "frames/depth"), ("textgt", None)):
        folder = tmp_path / f"{before}{part}" / "Scene01" / "15-deg-left"
        folder.mkdir(parents=True)
        source = tree("vkitti2") / "Scene01" / "15-deg-left"
        if moved:
            shutil.copytree(source / moved, folder / moved)
        else:
            shutil.copy(source / "extrinsic.txt", folder)
            shutil.copy(source / "intrinsic.txt", folder)
    frame = opened("vkitti2", tmp_path).frame(2)
    assert frame.depth is not None
    assert frame.camera_to_world is not None


def test_kitti_depth_gathered_and_annotated_beside_the_raw_data(tree: Callable[[str], Path], tmp_path: Path) -> None:
    view = trees.View()
    name = "2011_09_26_drive_0002_sync_02"
    for k in range(3):
        trees.save(tmp_path / f"val_selection_cropped/image_gathered/{name}/{k + 5:010d}.png", view, k)
        where = f"val_selection_cropped/groundtruth_depth_gathered/{name}/{k + 5:010d}.png"
        trees.save_depth(tmp_path / where, view.depth(k), 256)
    sequence = open_adapter("kitti_depth", tmp_path, {}).open(name, Selection())
    np.testing.assert_allclose(sequence.timestamps(), [0.5, 0.6, 0.7])
    assert all(frame.depth is not None for frame in sequence.frames())
    assert sequence.facts()["intrinsics"] == "none"
    raw = shutil.copytree(tree("kitti_raw"), tmp_path / "raw")
    (drive,) = raw.glob("*/*_sync")
    trees.save_depth(drive / "proj_depth/groundtruth/image_02/0000000002.png", view.depth(2), 256)
    with_depth = opened("kitti_raw", raw)
    assert [file.depth is not None for file in with_depth.files] == [False, False, True, False, False]
    assert with_depth.conventions["depth"] == "uint16 / 256 metres, accumulated lidar"


def test_undistorted_photographs_of_the_toolkit_are_preferred(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("scannetpp dslr"), tmp_path / "data")
    (folder,) = root.rglob("dslr")
    for k in range(trees.FRAMES):
        trees.save(folder / f"resized_undistorted_images/DSC{k + 1752:05d}.JPG", trees.View(), k)
    numbers = {"fl_x": 80.0, "fl_y": 82.0, "cx": 47.5, "cy": 37.0, "frames": []}
    trees.text(folder / "nerfstudio/transforms_undistorted.json", json.dumps(numbers))
    sequence = opened("scannetpp dslr", root)
    before = sequence.fingerprint()
    assert all(file.lens is None for file in sequence.files)
    assert sequence.conventions["intrinsics"].endswith("distortion is removed as the toolkit did")
    assert "resized_undistorted_images" in str(sequence.files[0].image)
    np.testing.assert_allclose(sequence.frame(0).intrinsics, trees.CAMERA)
    trees.text(folder / "nerfstudio/transforms_undistorted.json", json.dumps({**numbers, "cx": 47.25}))
    (folder / "resized_undistorted_images/._DSC01752.JPG").write_bytes(b"of macOS, and no second image of 1752")
    changed = opened("scannetpp dslr", root)
    assert changed.length == trees.FRAMES
    assert changed.fingerprint() != before


def test_long3d_without_a_cloud_and_with_its_images_one_folder_up(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("long3d"), tmp_path / "data")
    before = opened("long3d", root)
    assert before.facts()["cloud"] == "dense_cloud_map.pcd, by laser scanner"
    assert before.facts()["notes"] == ["the dataset has no poses: trajectories cannot be scored"]
    (root / "Classroom/images/scan_images").rename(root / "Classroom/scan_images")
    (root / "Classroom/dense_cloud_map.pcd").unlink()
    sequence = opened("long3d", root)
    assert sequence.facts()["cloud"] == "none"
    np.testing.assert_array_equal(sequence.timestamps(), before.timestamps())


@pytest.mark.parametrize("place", ["spagna/spagna_train0_kitti", "spagna", "spagna/spagna_train0"])
def test_calibration_and_truth_of_a_recording_lie_in_or_beside_its_images(
    place: str, tree: Callable[[str], Path], tmp_path: Path
) -> None:
    root = shutil.copytree(tree("vbr_full"), tmp_path / "data")
    for path in [*root.rglob("vbr_calib.yaml"), *root.rglob("*_gt.txt")]:
        path.rename(root / place / path.name)
    found = opened("vbr_full", root).reference()
    assert found is not None
    assert found.indices.tolist() == [0, 1, 2, 3, 4]


def test_clean_pictures_of_sintel_are_those_of_its_other_folder(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("sintel"), tmp_path / "data")
    shutil.copytree(root / "training/final/alley_2", root / "training/clean/alley_2", dirs_exist_ok=True)
    for render in ("final", "clean"):
        sequence = opened("sintel", root, render=render)
        assert {file.image.parent.parent.name for file in sequence.files} == {render}
        assert sequence.facts()["frames_with_pose"] == sequence.facts()["frames_with_depth"] == 5


def test_poses_of_scannetpp_that_are_not_aligned_are_taken_where_none_is(
    tree: Callable[[str], Path], tmp_path: Path
) -> None:
    root = shutil.copytree(tree("scannetpp"), tmp_path / "data")
    before = opened("scannetpp", root).reference()
    (path,) = root.rglob("pose_intrinsic_imu.json")
    entries = json.loads(path.read_text())
    for entry in entries.values():
        entry["pose"] = entry.pop("aligned_pose", entry.get("pose"))
    path.write_text(json.dumps(entries))
    after = opened("scannetpp", root).reference()
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after.camera_to_world, before.camera_to_world)


def test_scans_under_exported_are_the_same(tree: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tree("scannet") / "scene0000_00", tmp_path / "scans/scene0000_00/exported")
    sequence = opened("scannet", tmp_path / "scans")
    facts = sequence.facts()
    assert (facts["frames_with_pose"], facts["intrinsics"]) == (
        opened("scannet", tree("scannet")).facts()["frames_with_pose"],
        "intrinsic/intrinsic_color.txt",
    )
    for path in (tmp_path / "scans").rglob("intrinsic_*.txt"):
        path.unlink()
    facts = opened("scannet", tmp_path / "scans").facts()
    assert (facts["intrinsics"], facts["depth"]) == ("none", "uint16 millimetres")


def test_the_first_of_several_models_of_a_capture_is_read(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """Beside sparse/0 lie the smaller models of the same run, and others have the model in sparse itself."""
    root = shutil.copytree(tree("capture colmap"), tmp_path / "data")
    before = opened("capture colmap", root).reference()
    shutil.copytree(root / "bicycle/sparse/0", root / "bicycle/colmap")
    (root / "bicycle/colmap/images.bin").write_bytes(b"another")
    shutil.copytree(root / "bicycle/sparse/0", root / "bicycle/sparse/1")
    (root / "bicycle/sparse/1/images.bin").write_bytes(b"another")
    first = opened("capture colmap", root)
    assert [path.parent.name for path in first.index_files] == ["0"] * len(first.index_files)
    for path in (root / "bicycle/sparse/0").iterdir():
        path.rename(path.parents[1] / path.name)
    after = opened("capture colmap", root).reference()
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after.camera_to_world, before.camera_to_world)


def test_times_of_scannetpp_without_any_are_of_its_video(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("scannetpp"), tmp_path / "data")
    (path,) = root.rglob("pose_intrinsic_imu.json")
    entries = json.loads(path.read_text())
    for entry in entries.values():
        del entry["timestamp"]
    path.write_text(json.dumps(entries))
    # Every tenth frame of sixty a second.
    np.testing.assert_allclose(opened("scannetpp", root).timestamps(), np.arange(trees.FRAMES) / 6)


def test_scenes_of_one_name_are_told_apart_by_their_folders(tree: Callable[[str], Path], tmp_path: Path) -> None:
    for place in ("machine_hall/MH_01_easy", "again/MH_01_easy", "again/MH_02_easy"):
        shutil.copytree(tree("euroc") / "MH_01_easy", tmp_path / place)
    (tmp_path / "again/MH_01_easy/mav0/cam0/data.csv").write_text("#\n1403636579763555584,1403636579763555584.png\n")
    adapter = open_adapter("euroc", tmp_path, {})
    assert adapter.scenes() == ("again/MH_01_easy", "MH_02_easy", "machine_hall/MH_01_easy")
    lengths = [adapter.open(scene, Selection()).length for scene in adapter.scenes()]
    assert lengths == [1, trees.FRAMES, trees.FRAMES]


def test_truth_of_tum_vi_is_a_motion_capture(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("euroc"), tmp_path / "data")
    (truth,) = root.rglob("state_groundtruth_estimate0")
    before = opened("euroc", root).reference()
    truth.rename(truth.with_name("mocap0"))
    sequence = opened("euroc", root)
    found = sequence.reference()
    assert before is not None
    assert found is not None
    np.testing.assert_array_equal(found.camera_to_world, before.camera_to_world)
    assert sequence.facts()["poses"].startswith("of the camera: mocap0, body-to-world")


def test_a_cars_pose_at_the_moment_of_the_picture_is_preferred(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("waymo"), tmp_path / "data")
    (cars,) = root.rglob("ego_pose")
    before = opened("waymo", root).reference()
    (cars / "002_0.txt").write_bytes((cars / "003.txt").read_bytes())
    found = opened("waymo", root).reference()
    assert before is not None
    assert found is not None
    np.testing.assert_array_equal(found.camera_to_world, before.camera_to_world[[0, 1, 3, 3, 4]])


def _more_cars(root: Path) -> None:
    (cars,) = root.rglob("ego_pose")
    shutil.copy(cars / "003.txt", cars / "009.txt")


def _more_flight(root: Path) -> None:
    (path,) = root.rglob("pose_left.txt")
    first, second, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, "0 0 0 0 0 0 0", *others, second]) + "\n")


def _more_drive(root: Path) -> None:
    (path,) = root.rglob("extrinsic.txt")
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace("0 0 ", "7 0 ", 1) + "\n")


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("waymo", _more_cars, (6, 5)),
        ("kitti_raw", lambda root: next(root.rglob("oxts/data/0000000003.txt")).unlink(), (4, 4)),
        ("tartanair", _more_flight, (6, 4)),
        ("vkitti2", _more_drive, (6, 5)),
    ],
)
def test_poses_in_the_file_and_poses_of_images_are_counted_apart(
    name: str, change: Change, found: tuple[int, int], tree: Callable[[str], Path], tmp_path: Path
) -> None:
    root = shutil.copytree(tree(name), tmp_path / "data")
    change(root)
    facts = opened(name, root).facts()
    assert (facts["found"]["poses_in_file"], facts["found"]["images_with_pose"]) == found
    assert facts["frames_with_pose"] == found[1]


def test_packets_of_one_time_do_not_shift_those_after_them(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("kitti_raw extract"), tmp_path / "data")
    before = opened("kitti_raw extract", root).reference()
    (folder,) = root.rglob("oxts")
    first, *others = sorted((folder / "data").iterdir())
    for path in reversed(others):
        path.rename(path.with_name(f"{int(path.stem) + 1:010d}.txt"))
    shutil.copy(first, first.with_name(f"{int(first.stem) + 1:010d}.txt"))
    lines = (folder / "timestamps.txt").read_text().splitlines(keepends=True)
    place = int(first.stem)
    (folder / "timestamps.txt").write_text("".join([*lines[: place + 1], lines[place], *lines[place + 1 :]]))
    found = opened("kitti_raw extract", root).reference()
    assert before is not None
    assert found is not None
    np.testing.assert_array_equal(found.indices, before.indices)
    np.testing.assert_array_equal(found.camera_to_world, before.camera_to_world)


def test_packets_that_were_written_late_are_taken_by_their_time(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("kitti_raw extract"), tmp_path / "data")
    before = opened("kitti_raw extract", root).reference()
    (folder,) = root.rglob("oxts")
    lines = (folder / "timestamps.txt").read_text().splitlines(keepends=True)
    early, late = (folder / f"data/{number:010d}.txt" for number in (13, 23))
    lines[13], lines[23] = lines[23], lines[13]
    (folder / "timestamps.txt").write_text("".join(lines))
    aside = early.rename(folder / "aside")
    late.rename(early)
    aside.rename(late)
    found = opened("kitti_raw extract", root).reference()
    assert before is not None
    assert found is not None
    np.testing.assert_array_equal(found.indices, before.indices)
    np.testing.assert_array_equal(found.camera_to_world, before.camera_to_world)


def test_which_recordings_are_dynamic(tmp_path: Path) -> None:
    kept = ("rgbd_dataset_freiburg3_sitting_rpy", "rgbd_dataset_freiburg3_walking_halfsphere")
    others = (
        "rgbd_dataset_freiburg3_walking_rpy_validation",
        "rgbd_dataset_freiburg3_long_office_household",
        "rgbd_dataset_freiburg2_walking_xyz",
    )
    for name in (*kept, *others):
        trees.text(tmp_path / name / "rgb.txt", "1.0 rgb/1.png\n")
    assert open_adapter("tum_dynamics", tmp_path, {}).scenes() == kept


def test_grey_cameras_of_kitti(tmp_path: Path) -> None:
    for k in range(3):
        trees.save(tmp_path / f"sequences/00/image_0/{k:06d}.png", trees.View(grey=True), k)
    projection = [np.column_stack([np.diag([1 + n, 1 + n, 1]) @ trees.CAMERA, np.zeros(3)]) for n in range(4)]
    lines = "".join(f"P{n}: {trees.row(matrix)}\n" for n, matrix in enumerate(projection))
    trees.text(tmp_path / "sequences/00/calib.txt", lines)
    trees.text(tmp_path / "sequences/00/times.txt", "0.000000e+00\n1.036224e-01\n2.072245e-01\n")
    trees.text(tmp_path / "poses/00.txt", "".join(f"{trees.row(trees.pose(k)[:3])}\n" for k in range(3)))
    sequence = open_adapter("kitti", tmp_path, {}).open("00", Selection())
    assert sequence.facts()["intrinsics"] == "P0 of calib.txt (rectified)"
    assert "beside it" not in sequence.facts()["poses"]
    np.testing.assert_allclose(next(iter(sequence.frames())).intrinsics, trees.CAMERA)
    with pytest.raises(DataError, match="image_2"):
        open_adapter("kitti", tmp_path, {"camera": "image_2"}).open("00", Selection())
    for k in range(3):  # where both are there the colour camera is meant
        trees.save(tmp_path / f"sequences/00/image_2/{k:06d}.png", trees.View(), k)
    for options, projection_of in (({}, "P2"), ({"camera": "image_0"}, "P0")):
        facts = open_adapter("kitti", tmp_path, options).open("00", Selection()).facts()
        assert facts["intrinsics"] == f"{projection_of} of calib.txt (rectified)"
    assert "camera 2 beside it" in open_adapter("kitti", tmp_path, {}).open("00", Selection()).facts()["poses"]


def test_packets_of_gps_are_positions_about_the_first_one(tmp_path: Path) -> None:
    """Mercator's projection, its scale that of the first latitude; the heading counts from east, to the left."""
    rows = [(10.0, 20.0, 100.0, 0, 0, 0), (10.0, 20.01, 103.0, 0, 0, np.pi / 2), (11.0, 20.0, 90.0, 0, 0, 0)]
    for n, row in enumerate(rows):
        (tmp_path / f"{n}.txt").write_text(" ".join(map(repr, [*map(float, row), *[0.0] * 24])) + "\n")
    found = oxts_poses({n: tmp_path / f"{n}.txt" for n in range(3)})
    scale = np.cos(np.radians(10)) * 6378137.0
    north = np.diff(np.log(np.tan(np.pi / 4 + np.radians([10.0, 11.0]) / 2)))[0]
    positions = [[0, 0, 0], [scale * np.radians(0.01), 0, 3], [0, scale * north, -10]]
    np.testing.assert_allclose([found[n][:3, 3] for n in range(3)], positions, atol=1e-3)
    np.testing.assert_allclose(found[1][:3, 0], [0, 1, 0], atol=1e-12)  # ahead is north


def test_single_frames_of_kitti_may_have_sizes_of_their_own(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("kitti_depth"), tmp_path / "data")
    path = opened("kitti_depth", root).files[3].image
    with Image.open(path) as picture:
        smaller = picture.crop((0, 0, picture.width - 4, picture.height - 2))
    smaller.save(path)
    sequence = opened("kitti_depth", root)
    assert sequence.facts()["image_faults"] == []


def test_recordings_with_messages_of_one_time(tree: Callable[[str], Path], tmp_path: Path) -> None:
    root = shutil.copytree(tree("vbr_full"), tmp_path / "data")
    (stamps,) = root.rglob("timestamps.txt")
    times = stamps.read_text().splitlines()
    before = opened("vbr_full", root).reference()
    stamps.write_text("\n".join([*times[:2], times[1], *times[3:]]) + "\n")
    sequence = opened("vbr_full", root)
    after = sequence.reference()
    assert before is not None
    assert after is not None
    assert before.indices.tolist() == [0, 1, 2, 3, 4]
    assert after.indices.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(after.camera_to_world, before.camera_to_world[[0, 1, 3, 4]])
    assert [file.image.stem[-1] for file in sequence.files] == ["0", "1", "3", "4"]
    assert "1 images are no later than one before: left out" in said(sequence)


DAMAGED = {
    "capture colmap": ("*/sparse/0/images.bin", "*/sparse/0/cameras.bin"),
    "capture": ("*/transforms.json",),
    "sintel": ("training/camdata_left/*/frame_0001.cam", "training/depth/*/frame_0001.dpt"),
    "scannetpp": ("*/*/iphone/pose_intrinsic_imu.json",),
    "scannetpp dslr": ("*/*/dslr/colmap/images.txt", "*/*/dslr/colmap/cameras.txt"),
    "euroc": ("*/mav0/cam0/sensor.yaml", "*/mav0/cam0/data.csv"),
    "kitti_raw": ("*/calib_cam_to_cam.txt", "*/*/oxts/data/0000000002.txt", "*/*/image_02/timestamps.txt"),
    "vkitti2": ("*/*/extrinsic.txt",),
    "vbr_full": ("*/*/vbr_calib.yaml",),
}


def outcome(name: str, root: Path) -> str:
    said = ""
    try:
        with np.errstate(all="ignore"):
            opened(name, root).frame(0)
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    return "refused" if said else "read"


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_data_errors_or_read(name: str, tree: Callable[[str], Path], tmp_path: Path) -> None:
    """Whatever bytes: one line or a scene, and no other exception."""
    root = shutil.copytree(tree(name), tmp_path / "data")
    random = np.random.default_rng(5)
    outcomes = set()
    for pattern in DAMAGED[name]:
        (path,) = root.glob(pattern)
        sound = path.read_bytes()
        for trial in range(12):
            data = bytearray(sound)
            if trial % 3:
                for place in random.integers(0, len(data), 1 + trial // 6):
                    data[place] = random.choice(
                        [0, 0xFF, 0x7F, ord("9"), ord("-"), ord("e"), int(random.integers(256))]
                    )
            else:
                data = data[: int(random.integers(len(data)))]
            path.write_bytes(bytes(data))
            outcomes.add(outcome(name, root))
        path.write_bytes(sound)
    assert "refused" in outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bonn", "euroc", "capture"])
def test_thirty_thousand_frames_open_in_a_second_and_little_memory(
    name: str, tree: Callable[[str], Path], tmp_path: Path
) -> None:
    """Lists, poses and files of a scene made as long; the limit is three times that, of this process's time alone."""
    root = shutil.copytree(tree(name), tmp_path / "data")
    count = 30_000
    (images,) = {path.parent for path in root.rglob("*") if path.parent.name in ("rgb", "data", "images")} - {root}
    first = min(images.iterdir())
    numbers = tum_times = [f"{1548266470.01 + k / 30:.5f}" for k in range(count)]
    if name == "bonn":
        pose = trees.tum(trees.pose(1))
        trees.text(images.parent / "rgb.txt", "".join(f"{time} rgb/{time}.png\n" for time in tum_times))
        trees.text(images.parent / "groundtruth.txt", "".join(f"{time} {pose}\n" for time in tum_times))
    elif name == "euroc":
        numbers = [f"{1403636579763555584 + k * 50_000_000}" for k in range(count)]
        trees.text(images.parent / "data.csv", "".join(f"{time},{time}.png\r\n" for time in numbers))
        truth = root / "MH_01_easy/mav0/state_groundtruth_estimate0/data.csv"
        header, row, *_ = truth.read_text().splitlines()
        values = row.partition(",")[2]
        trees.text(truth, f"{header}\n" + "".join(f"{time},{values}\n" for time in numbers))
    else:
        numbers = [f"frame_{k:06d}" for k in range(count)]
        document = json.loads((root / "garden/transforms.json").read_text())
        matrices = [trees.pose(k % 7).tolist() for k in range(count)]
        document["frames"] = [
            {"file_path": f"images/{number}.png", "transform_matrix": matrix}
            for number, matrix in zip(numbers, matrices, strict=True)
        ]
        trees.text(root / "garden/transforms.json", json.dumps(document))
    for number in numbers:
        path = images / f"{number}.png"
        if not path.exists():
            path.hardlink_to(first)
    started = time.process_time()
    sequence = opened(name, root)
    assert time.process_time() - started < 3.0
    assert sequence.length == count
    tracemalloc.start()
    sequence = opened(name, root)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 50 << 20
    assert peak < 150 << 20


SOURCES = [
    ("tum_dynamics", "*/groundtruth.txt"),
    ("sintel", "training/camdata_left/*/frame_0002.cam"),
    ("scannet", "*/pose/1.txt"),
    ("scannetpp", "*/*/iphone/pose_intrinsic_imu.json"),
    ("scannetpp dslr", "*/*/dslr/colmap/images.txt"),
    ("euroc", "*/mav0/state_groundtruth_estimate0/data.csv"),
    ("kitti_raw", "*/*/oxts/data/0000000002.txt"),
    ("kitti_depth", "*/*/intrinsics/*0008_image_02.txt"),
    ("vkitti2", "*/*/extrinsic.txt"),
    ("replica", "*/*/traj.txt"),
    ("tartanair", "*/*/*/*/pose_left.txt"),
    ("waymo", "*/*/ego_pose/001.txt"),
    ("vbr_full", "*/*/vbr_calib.yaml"),
    ("capture", "*/transforms.json"),
    ("capture colmap", "*/sparse/0/images.bin"),
    ("tum_dynamics", "*/depth.txt"),
    ("euroc", "*/mav0/cam0/data.csv"),
    ("euroc", "*/mav0/cam0/sensor.yaml"),
    ("kitti_raw", "*/*/image_02/timestamps.txt"),
    ("kitti_raw extract", "*/*/oxts/timestamps.txt"),
    ("vkitti2", "*/*/intrinsic.txt"),
    ("replica", "*/cam_params.json"),
    ("waymo", "*/*/intrinsics/0.txt"),
    ("vbr_full", "*/*/camera_left/timestamps.txt"),
]


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_a_change_of_what_frames_are_from_is_another_dataset(
    name: str, source: str, tree: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same bytes in another order of the last digits, with the times of the file as they were."""
    root = shutil.copytree(tree(name), tmp_path / "data")
    before = opened(name, root).fingerprint()
    (path,) = root.glob(source)
    status, content = path.stat(), path.read_bytes()
    # From the end on, until one is changed that leaves a file that can be read.
    for place in [match.start() for match in re.finditer(rb"[1-4]", content)][:-400:-1]:
        path.write_bytes(content[:place] + b"5" + content[place + 1 :])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        changed = open_adapter(trees.LAYOUTS[name].dataset, root, trees.LAYOUTS[name].options)
        try:
            after = changed.open(trees.LAYOUTS[name].scene, Selection()).fingerprint()
            break
        except DataError:
            continue  # seen, too
    else:
        pytest.fail("no change can be read")
    assert after != before
