"""The field's datasets in their exact layouts: what is read, checked by reprojection, and what is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import field_trees as trees
import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Adapter, FileSequence, Selection
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.types import Frame

NAMES = sorted(trees.WRITERS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # A wrong root is told which folder one or two levels above looks right: not those that other tests have left.
    return tmp_path / "this" / "test" / "alone" / "data"


def adapter(name: str, root: Path, **options: object) -> Adapter:
    return open_adapter(name, root, options)


def opened(name: str, root: Path, **options: object) -> FileSequence:
    trees.WRITERS[name](root)
    sequence = adapter(name, root, **options).open(trees.SCENES[name], Selection())
    assert isinstance(sequence, FileSequence)
    return sequence


def refused(name: str, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(adapter(name, root).open(trees.SCENES[name], Selection()).frames())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_poses_are_camera_to_world_in_opencv_axes(name: str, root: Path) -> None:
    sequence = opened(name, root)
    assert adapter(name, root).scenes() == (trees.SCENES[name],)
    indices = {"eth3d": [0, 6]}.get(name, list(range(trees.FRAMES)))
    missing = {"neural_rgbd": [4], "vbr": [2], "droid_w": [5]}.get(name, [])
    reference = sequence.reference()
    assert reference is not None
    if name == "eth3d":  # 9288 and nothing but: 9289-9293 are left out
        assert sequence.length == 1
        indices = [0]
    present = [index for index in indices if index not in missing]
    np.testing.assert_array_equal(reference.indices, present)
    np.testing.assert_allclose(reference.camera_to_world, [trees.pose(k) for k in present], atol=1e-7)
    frames = list(sequence.frames())
    assert [frame.camera_to_world is None for frame in frames] == [index in missing for index in indices]
    times = sequence.timestamps()
    assert (np.diff(times) > 0).all()
    assert {"poses", "depth", "intrinsics", "timestamps", "licence"} <= set(sequence.facts())
    shape = (480, 640, 3) if name == "neural_rgbd" else (48, 64, 3)
    assert all(frame.image is not None and frame.image.shape == shape for frame in frames)


def carried(first: Frame, second: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Depths of the first frame's pixels in the second camera, and what the second frame has there."""
    assert first.depth is not None
    assert second.depth is not None
    assert first.intrinsics is not None
    assert first.camera_to_world is not None
    assert second.camera_to_world is not None
    v, u = np.nonzero(first.depth)
    camera = np.linalg.inv(first.intrinsics) @ np.stack([u, v, np.ones_like(u)]) * first.depth[v, u]
    moved = np.linalg.inv(second.camera_to_world) @ first.camera_to_world @ np.vstack([camera, np.ones_like(u)])
    pixel = second.intrinsics @ moved[:3]
    column, row = np.rint(pixel[:2] / pixel[2]).astype(int)
    height, width = second.depth.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    inside[inside] = second.depth[row[inside], column[inside]] > 0
    return moved[2, inside], second.depth[row[inside], column[inside]]


@pytest.mark.parametrize("name", ["neural_rgbd", "eth3d", "oxford_spires"])
def test_depth_of_one_frame_fits_another(name: str, root: Path) -> None:
    sequence = opened(name, root, **({"views": "all"} if name == "eth3d" else {}))
    frames = [sequence.frame(index) for index in (0, 3)]
    moved, measured = carried(*frames)
    assert len(moved) > 500
    assert np.ptp(moved) > 0.01
    np.testing.assert_allclose(moved, measured, rtol=0.01)


def test_kitti_calibration_times_and_sequences_without_truth(root: Path) -> None:
    sequence = opened("kitti", root)
    frame = sequence.frame(3)
    np.testing.assert_allclose(frame.intrinsics, trees.INTRINSICS)
    assert frame.timestamp == pytest.approx(3 * 0.1037)
    trees.write_kitti(root, "11")
    assert adapter("kitti", root).scenes() == ("00", "11")
    assert adapter("kitti", root).open("11", Selection()).reference() is None


def test_neural_rgbd_depth_outside_its_range_is_dropped(root: Path) -> None:
    opened("neural_rgbd", root)
    metres = np.full((480, 640), 2.0)
    metres[0, :4] = (0.0, 10.5, 65.535, 9.5)
    metres[0, 5] = 0.002
    trees.save_millimetres(root / "kitchen" / "depth" / "depth0.png", metres)
    frame = next(iter(adapter("neural_rgbd", root).open("kitchen", Selection()).frames()))
    depth = frame.depth
    np.testing.assert_array_equal(frame.intrinsics, [[600, 0, 320], [0, 600, 240], [0, 0, 1]])
    assert depth is not None
    np.testing.assert_allclose(depth[0, :6], [0, 0, 0, 9.5, 2.0, 0.002])


@pytest.mark.parametrize("name", ["vbr", "kitti", "neural_rgbd"])
def test_poses_of_no_image_are_in_the_file_and_of_none(name: str, root: Path) -> None:
    file = {"vbr": "processed_gt/spagna_train0_gt.txt", "kitti": "poses/00.txt", "neural_rgbd": "kitchen/poses.txt"}[
        name
    ]
    before = opened(name, root).facts()["found"]
    more = "99 0 0 0 0 0 0 1\n" if name == "vbr" else "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    with (root / file).open("a") as stream:
        stream.write(more if name != "kitti" else " ".join(more.split()[:12]) + "\n")
    found = adapter(name, root).open(trees.SCENES[name], Selection()).facts()["found"]
    assert found["poses_in_file"] == before["poses_in_file"] + 1
    assert found["images_with_pose"] == before["images_with_pose"]


def test_eth3d_leaves_out_the_protocols_views_and_reads_raw_floats(root: Path) -> None:
    sequence = opened("eth3d", root, views="all")
    assert sequence.length == trees.FRAMES
    depth = sequence.frame(2).depth
    assert depth is not None
    assert depth[0, 0] == 0  # infinite in the file
    np.testing.assert_allclose(depth[1:], trees.depth(2)[1:], rtol=1e-6)
    left_out = adapter("eth3d", root).open("electro", Selection()).facts()["views_left_out"]
    assert left_out == "9289, 9290, 9291, 9292, 9293"  # 9298 is none of this scene's
    assert sequence.facts()["intrinsics"] == "of each view, in its npz file"
    # Images of one scene may differ in size; their depth must then differ with them.
    name = "DSC_9290.JPG"
    Image.fromarray(np.zeros((50, 66, 3), np.uint8)).save(root / "electro/images/custom_undistorted" / name)
    np.ones((50, 66), "<f4").tofile(root / "electro/ground_truth_depth/custom_undistorted" / name)
    shapes = [frame.depth.shape for frame in adapter("eth3d", root, views="all").open("electro", Selection()).frames()]
    assert shapes[2] == (50, 66)
    assert shapes[3] == (48, 64)


def test_eth3d_views_are_a_second_apart_whatever_their_numbers(root: Path) -> None:
    """The photographs have no times; poses of an estimate are paired by position, not by 9288."""
    trees.write_eth3d(root)
    sequence = adapter("eth3d", root, views="all").open("electro", Selection(start=1, stride=2))
    np.testing.assert_array_equal(sequence.timestamps(), [1, 3, 5])
    trees.write_eth3d(root, "office", 200)  # no views of this scene are left out
    (root / "office" / "images" / "custom_undistorted" / "DSC_0203.JPG").unlink()
    np.testing.assert_array_equal(adapter("eth3d", root).open("office", Selection()).timestamps(), [0, 1, 2, 3, 4])


def test_single_frames_of_several_sizes_are_checked_against_their_own(root: Path) -> None:
    trees.write_eth3d(root)
    name = "DSC_9290.JPG"
    Image.fromarray(np.zeros((50, 66, 3), np.uint8)).save(root / "electro/images/custom_undistorted" / name)
    np.ones((50, 66), "<f4").tofile(root / "electro/ground_truth_depth/custom_undistorted" / name)
    sequence = adapter("eth3d", root, views="all").open("electro", Selection())
    assert isinstance(sequence, FileSequence)
    frames = [sequence.frame(index) for index in range(trees.FRAMES)]
    shapes = [(frame.image.shape, frame.depth.shape) for frame in frames]  # type: ignore[union-attr]
    usual = ((48, 64, 3), (48, 64))
    assert shapes == [usual, usual, ((50, 66, 3), (50, 66)), usual, usual, usual]


def test_oxford_spires_depth_goes_by_number_and_poses_by_row(tmp_path: Path) -> None:
    root = trees.write_oxford_spires(tmp_path)
    (folder,) = root.iterdir()
    for path in [*folder.glob("images/*"), *folder.glob("depth/*")]:
        path.rename(path.with_name(f"{3 * int(path.stem) + 10:06d}{path.suffix}.new"))
    for path in folder.glob("*/*.new"):
        path.rename(path.with_suffix(""))
    (folder / "depth/000013.npy").unlink()
    sequence = open_adapter("oxford_spires", root, {}).open(folder.name, Selection())
    frames = list(sequence.frames())
    assert [frame.depth is None for frame in frames] == [False, True, *[False] * (trees.FRAMES - 2)]
    for k, frame in enumerate(frames):
        np.testing.assert_allclose(frame.camera_to_world, trees.pose(k), atol=1e-6)
        if k != 1:
            np.testing.assert_allclose(frame.depth, trees.depth(k), rtol=1e-6)


def test_numbers_of_a_calibration_may_have_commas_between_them(root: Path) -> None:
    opened("oxford_spires", root)
    (root / "keble-college-02/intrinsics.txt").write_text("60, 61.5,32,24 64,48\n")
    sequence = adapter("oxford_spires", root).open("keble-college-02", Selection())
    np.testing.assert_array_equal(sequence.frame(0).intrinsics, [[60, 0, 32], [0, 61.5, 24], [0, 0, 1]])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("kitti", "sequences/00/calib.txt"),
        ("kitti", "sequences/00/times.txt"),
        ("neural_rgbd", "kitchen/focal.txt"),
        ("oxford_spires", "keble-college-02/intrinsics.txt"),
        ("vbr", "spagna_train0_processed_aligned/intrinsics.txt"),
    ],
)
def test_another_calibration_is_another_dataset(name: str, file: str, root: Path) -> None:
    before = opened(name, root).fingerprint()
    with (root / file).open("a") as stream:
        stream.write("\n")
    assert adapter(name, root).open(trees.SCENES[name], Selection()).fingerprint() != before


def test_droid_w_images_go_by_time_not_by_name(root: Path) -> None:
    """Times of different lengths: 9.5 s comes before 10.05 s and that before 10.1 s; so do their poses."""
    folder = root / "downtown1"
    names = ["10.1.jpg", "9.5.jpg", "10.05.jpg", "100.png", "1e1.jpg"]
    for index, name in enumerate(names):
        trees.save(folder / "images_anonymized" / name, index)
    times = (9.5, 10.0, 10.05, 10.1, 100.0)
    (folder / "traj_gt.txt").write_text("".join(f"{time} {time} 0 0 0 0 0 1\n" for time in times))
    sequence = adapter("droid_w", root).open("downtown1", Selection())
    np.testing.assert_array_equal(sequence.timestamps(), times)
    assert [Path(frame.source).name for frame in sequence.frames()] == [names[k] for k in (1, 4, 2, 0, 3)]
    reference = sequence.reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.positions[:, 0], times)


def test_droid_w_takes_the_truth_that_is_there_and_of_two_the_first(root: Path) -> None:
    trees.write_droid_w(root)
    folder = root / "downtown1"
    (folder / "traj_gt.txt").rename(folder / "traj_gt_fastlivo.txt")
    sequence = adapter("droid_w", root).open("downtown1", Selection())
    facts = sequence.facts()
    assert facts["poses"] == (
        "traj_gt_fastlivo.txt, camera-to-world, metres; nearest in time to the image, one to one, within 0.05 s"
    )
    assert facts["found"] == {"poses_in_file": 5, "images_with_pose": 5}
    (folder / "traj_gt.txt").write_text("1700000000.1 9 0 0 0 0 0 1\n")
    again = adapter("droid_w", root).open("downtown1", Selection())
    assert again.facts()["poses"].startswith("traj_gt.txt, ")
    reference = again.reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.positions, [[9, 0, 0]])


def replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return change


def line(path: str, number: int, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        lines = (root / path).read_text().splitlines()
        lines[number - 1 : number] = [text] if text else []
        (root / path).write_text("\n".join(lines) + "\n")

    return change


def write(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / path).write_bytes(content) and None


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def calibration(**arrays: object) -> Callable[[Path], None]:
    return lambda root: np.savez(root / "electro/custom_undistorted_cam/DSC_9288.npz", **arrays)  # type: ignore[arg-type]


POSE12 = " ".join(["1 0 0 0", "0 1 0 0", "0 0 1 0"])
ETH_DEPTH = "electro/ground_truth_depth/custom_undistorted/DSC_9288.JPG"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("kitti", line("poses/00.txt", 3, "1 0 0"), r"00\.txt:3: expected 12 numbers"),
        ("kitti", line("poses/00.txt", 3, POSE12.replace("1 0 0 0", "9 0 0 0", 1)), r"00\.txt:3: expected a rigid"),
        ("kitti", line("poses/00.txt", 6, ""), "expected a row for each image up to number 5, found 5"),
        ("kitti", remove("poses/00.txt"), r"00\.txt does not exist"),
        ("kitti", line("sequences/00/times.txt", 3, "0.05"), r"times\.txt:3: expected one time in seconds, later"),
        (
            "kitti",
            write("sequences/00/times.txt", b"0\n1\n1\n3\n2\n5"),
            r"times\.txt:3: .* later than before, found '1'",
        ),
        ("kitti", line("sequences/00/times.txt", 6, ""), "expected a time for each image up to number 5"),
        ("kitti", line("sequences/00/calib.txt", 3, "P2: 1 2 3"), r"calib\.txt:3: expected the 12 numbers of P2"),
        ("kitti", line("sequences/00/calib.txt", 3, "P9: 1"), "expected a line 'P2: …'"),
        ("kitti", replace("sequences/00/calib.txt", "6.0", "-6.0"), r"calib\.txt:3: expected intrinsics"),
        ("kitti", write("sequences/00/image_2/0000001.PNG", b"x"), r"two files for number 1: 0000001\.PNG"),
        ("neural_rgbd", line("kitchen/poses.txt", 6, "1 2 3"), r"poses\.txt:6: expected 4 numbers .* found 3"),
        ("neural_rgbd", line("kitchen/poses.txt", 6, "5 5 5 5"), r"poses\.txt:5: expected a rigid"),
        ("neural_rgbd", line("kitchen/poses.txt", 6, ""), r"poses\.txt:23: .* four does not divide"),
        ("neural_rgbd", write("kitchen/focal.txt", b"-3"), r"focal\.txt: expected a focal length"),
        ("neural_rgbd", write("kitchen/focal.txt", b"inf"), r"focal\.txt:1: expected a finite number, found 'inf'"),
        ("kitti", line("sequences/00/times.txt", 6, "1e999"), r"times\.txt:6: expected a finite number, found '1e999'"),
        ("neural_rgbd", write("kitchen/focal.txt", b"f"), r"focal\.txt:1: expected a finite number, found 'f'"),
        ("neural_rgbd", write("kitchen/depth/depth1.png", b""), r"frame 1: depth map .*depth1\.png"),
        ("eth3d", write(ETH_DEPTH, b"\0" * 100), r"frame 0: .*9288\.JPG: expected 12288 bytes .*found 100"),
        ("eth3d", write(ETH_DEPTH, b"\xff\xd8\xff" + b"\0" * 100), "of a JPEG image"),
        ("eth3d", remove("electro/custom_undistorted_cam/DSC_9288.npz"), r"DSC_9288\.npz does not exist"),
        (
            "eth3d",
            write("electro/custom_undistorted_cam/DSC_9288.npz", b"PK\3\4 cut"),
            "found a damaged or another file",
        ),
        ("eth3d", calibration(intrinsics=np.eye(3)), r"intrinsics and extrinsics, found .*\(no array extrinsics\)"),
        ("eth3d", calibration(intrinsics=np.eye(3), extrinsics=np.eye(3)), "expected extrinsics as 4x4"),
        (
            "eth3d",
            calibration(intrinsics=np.array([object()] * 9), extrinsics=np.eye(4)),
            r"damaged or another file \(objects",
        ),
        ("eth3d", calibration(intrinsics=np.eye(3) > 0, extrinsics=np.eye(4)), "3x3 numbers, found bool of shape"),
        ("eth3d", calibration(intrinsics=np.zeros((3, 3)), extrinsics=np.eye(4)), "intrinsics: expected intrinsics"),
        ("eth3d", calibration(intrinsics=np.eye(3), extrinsics=2 * np.eye(4)), "extrinsics: expected a rigid"),
        ("oxford_spires", line("keble-college-02/poses_c2w.txt", 2, "1 0 0 0"), r"c2w\.txt:2: expected 16 numbers"),
        ("oxford_spires", line("keble-college-02/poses_c2w.txt", 2, ""), "one line for each of the 6 .* found 5"),
        ("oxford_spires", write("keble-college-02/intrinsics.txt", b"60 60 32 24 640 480"), "images of 64x48 pixels"),
        ("oxford_spires", write("keble-college-02/intrinsics.txt", b"60 60 32"), "expected 6 numbers"),
        ("oxford_spires", write("keble-college-02/intrinsics.txt", b"60 60 32 24 64 48 1"), "expected 6 .* found 7"),
        ("oxford_spires", write("keble-college-02/intrinsics.txt", b"60 -60 32 24 64 48"), "with fx, fy > 0, found"),
        ("oxford_spires", write("keble-college-02/depth/000001.npy", b"no"), "cannot be read as a NumPy array"),
        ("tanks_and_temples", line("Ignatius/Ignatius_COLMAP_SfM.log", 6, "1 1"), r"log:6: expected three whole"),
        ("tanks_and_temples", line("Ignatius/Ignatius_COLMAP_SfM.log", 6, "0 0 0"), r"log:6: frame 0 is in line 1"),
        ("tanks_and_temples", line("Ignatius/Ignatius_COLMAP_SfM.log", 30, ""), r"log:29: expected 4 lines .* found 3"),
        ("tanks_and_temples", remove("Ignatius/000003.jpg"), r"log:11: a pose for image 000003, which is not in"),
        ("vbr", line("processed_gt/spagna_train0_gt.txt", 2, "1.5 0 0 0 0 0 0 1"), r"gt\.txt:2: expected the number"),
        ("vbr", remove("processed_gt/spagna_train0_gt.txt"), "does not exist"),
        ("vbr", write("processed_gt/spagna_train0_gt.txt", b"99 0 0 0 0 0 0 1"), "no pose is of a frame in"),
        ("vbr", write("spagna_train0_processed_aligned/intrinsics.txt", b"60 .5 32\n0 60 24\n0 0 1"), "x, 0, cx.* 0.5"),
        ("vbr", write("spagna_train0_processed_aligned/intrinsics.txt", b"1 2 3\n4 5 6\n7 8 9"), "expected intrinsics"),
        ("droid_w", write("downtown1/images_anonymized/now.jpg", b""), "expected a time in seconds as the name"),
        ("droid_w", write("downtown1/images_anonymized/1700000000.1.png", b""), "two images of one time"),
        ("droid_w", write("downtown1/traj_gt.txt", b"1.0 0 0 0 0 0 0 1"), r"none of 1 poses of .* within 0\.05 s"),
        ("droid_w", remove("downtown1/traj_gt.txt"), r"expected traj_gt\.txt or traj_gt_fastlivo\.txt"),
    ],
)
def test_malformed_files_are_refused(name: str, change: Callable[[Path], None], says: str, root: Path) -> None:
    trees.WRITERS[name](root)
    change(root)
    assert re.search(says, refused(name, root)), refused(name, root)


@pytest.mark.parametrize(
    ("name", "change", "frame"),
    [
        ("kitti", line("poses/00.txt", 3, POSE12.replace("1", "nan", 1)), 2),
        ("neural_rgbd", line("kitchen/poses.txt", 6, "nan 0 0 0"), 1),
        ("oxford_spires", line("keble-college-02/poses_c2w.txt", 2, " ".join(["nan"] * 16)), 1),
    ],
)
def test_a_lost_pose_is_a_frame_without_one(name: str, change: Callable[[Path], None], frame: int, root: Path) -> None:
    trees.WRITERS[name](root)
    before = {f.index for f in adapter(name, root).open(trees.SCENES[name], Selection()).frames() if has_pose(f)}
    change(root)
    sequence = adapter(name, root).open(trees.SCENES[name], Selection())
    assert {f.index for f in sequence.frames() if has_pose(f)} == before - {frame}
    assert any("lost" in note for note in sequence.facts()["notes"])


def has_pose(frame: Frame) -> bool:
    return frame.camera_to_world is not None


@pytest.mark.parametrize("name", NAMES)
def test_roots_of_another_level_archives_and_empty_scenes(name: str, root: Path) -> None:
    trees.WRITERS[name](root)
    low = {"kitti": root / "sequences", "vbr": root / "spagna_train0_processed_aligned"}.get(
        name, root / trees.SCENES[name]
    )
    if name in ("kitti", "vbr"):  # which have files beside the scenes
        with pytest.raises(DataError, match=f"one level too low, use {root}$"):
            adapter(name, low).scenes()
        with pytest.raises(DataError, match=f"one level too high, use {root}$"):
            adapter(name, root.parent).scenes()
    else:
        for other in (low, root.parent):
            sequence = adapter(name, other).open(trees.SCENES[name], Selection())
            assert sequence.length == adapter(name, root).open(trees.SCENES[name], Selection()).length
    with pytest.raises(DataError, match=f"two levels too high, use {root}$"):
        adapter(name, root.parent.parent).scenes()
    for path in [*root.rglob("*.png"), *root.rglob("images*/**/*.[jJ][pP][gG]"), *root.glob("*/*.jpg")]:
        path.unlink()
    with pytest.raises(DataError, match="has no frames: expected images, found none"):
        adapter(name, root).open(trees.SCENES[name], Selection())
    shutil.rmtree(root)
    root.mkdir()
    (root / "data.ZIP").touch()
    with pytest.raises(DataError, match=r"found archives \(data\.ZIP\): unpack them"):
        adapter(name, root).scenes()
    with pytest.raises(DataError, match="does not exist"):
        adapter(name, root / "nowhere").scenes()


@pytest.mark.parametrize("name", NAMES)
def test_scenes_options_and_selections(name: str, root: Path) -> None:
    trees.WRITERS[name](root)
    with pytest.raises(DataError, match=f"no scene 'nope'.*{trees.SCENES[name]}"):
        adapter(name, root).open("nope", Selection())
    with pytest.raises(DataError, match="no frame is left"):
        adapter(name, root).open(trees.SCENES[name], Selection(start=60))
    with pytest.raises(ConfigError, match="unknown key"):
        adapter(name, root, colour="blue")
    with pytest.raises(ConfigError, match="expected a root"):
        open_adapter(name, None, {})


@pytest.mark.parametrize("name", ["neural_rgbd", "folder"])
def test_a_scene_that_went_meanwhile_is_unknown(name: str, root: Path) -> None:
    for scene in ("kitchen", "attic"):
        trees.write_neural_rgbd(root, scene)
        if name == "folder":
            (root / scene / "images").rename(root / f"{scene} pictures")
            shutil.rmtree(root / scene)
    dataset = adapter(name, root)
    gone, other = sorted(dataset.scenes())
    dataset.open(gone, Selection())
    shutil.rmtree(root / gone)
    assert list(dataset.scenes()) == [other]
    with pytest.raises(DataError, match=rf"'?{gone}'?.*{other}"):
        dataset.open(gone, Selection())


@pytest.mark.parametrize("name", NAMES)
def test_opening_reads_no_image(name: str, root: Path) -> None:
    trees.WRITERS[name](root)
    first = True
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix.lower() in (".png", ".jpg") and "depth" not in str(path):
            if not (name == "oxford_spires" and first):  # whose size its intrinsics are checked against
                path.write_bytes(b"not an image")
            first = False
    sequence = adapter(name, root).open(trees.SCENES[name], Selection())
    assert sequence.reference() is not None
    assert len(sequence.fingerprint()) == 64


@pytest.mark.parametrize("name", ["kitti", "tanks_and_temples", "vbr"])
def test_letter_case_and_kinds_of_images_are_accepted(name: str, root: Path) -> None:
    sequence = opened(name, root)
    image = sequence.files[1].image
    image.rename(image.with_suffix(image.suffix.upper()))
    frames = list(adapter(name, root).open(trees.SCENES[name], Selection()).frames(depth=False))
    assert len(frames) == trees.FRAMES


def test_opening_thousands_of_frames_reads_none(root: Path) -> None:
    trees.write_kitti(root)
    folder = root / "sequences" / "00"
    for index in range(8_000):
        (folder / "image_2" / f"{index:06d}.png").touch()
    (folder / "times.txt").write_text("".join(f"{0.1 * k:.6e}\n" for k in range(8_000)))
    row = trees.numbers(trees.pose(0)[:3])
    (root / "poses" / "00.txt").write_text(f"{row}\n" * 8_000)
    sequence = adapter("kitti", root).open("00", Selection())
    assert sequence.length == 8_000
