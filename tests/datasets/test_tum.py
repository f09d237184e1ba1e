"""TUM RGB-D: lists, association by time, calibration by folder name, and what is refused."""

from __future__ import annotations

from pathlib import Path

import dataset_trees as trees
import numpy as np
import pytest

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Adapter, Selection
from lingbot_eval.errors import DataError

SCENE = trees.TUM_SCENE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.write_tum(tmp_path / "tum")


def adapter(root: Path, **options: object) -> Adapter:
    return open_adapter("tum", root, options)


def test_frames_have_what_was_written(root: Path) -> None:
    sequence = adapter(root).open(SCENE, Selection())
    frames = list(sequence.frames())
    assert sequence.length == 4
    for number, frame in enumerate(frames):
        assert frame.timestamp == pytest.approx(1305031453.359684 + number / 30, abs=1e-6)
        np.testing.assert_array_equal(frame.image, trees.picture(number))
        raw = trees.millimetres(number)
        np.testing.assert_allclose(frame.depth, np.where((raw == 0) | (raw == 65535), 0, raw / 5000), rtol=1e-6)
        assert frame.depth_intrinsics is None
        assert frame.intrinsics is not None
        assert frame.intrinsics[0, 0] == 517.306408
        assert frame.intrinsics[1, 2] == 255.313989


def test_depth_is_read_in_the_units_of_the_option(root: Path) -> None:
    frame = next(adapter(root, depth_scale=1000).open(SCENE, Selection()).frames())
    raw = trees.millimetres(0)
    np.testing.assert_allclose(frame.depth, np.where((raw == 0) | (raw == 65535), 0, raw / 1000), rtol=1e-6)


def test_poses_belong_to_the_nearest_time_within_twenty_milliseconds(root: Path) -> None:
    """Poses are at 25, 35 … 95 ms; images at 0, 33.3, 66.7, 100 ms: none, 35 ms, 65 ms, 95 ms."""
    sequence = adapter(root).open(SCENE, Selection())
    frames = list(sequence.frames(images=False, depth=False))
    assert frames[0].camera_to_world is None
    found = [frame.camera_to_world for frame in frames[1:]]
    assert [None if pose is None else pose[0, 3] for pose in found] == [1.0, 4.0, 7.0]
    reference = sequence.reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.indices, [1, 2, 3])
    # The quaternion (0, sin h, 0, cos h) turns about y by 2h; h = 0.05 a step.
    angle = 0.1 * 4
    expected = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    np.testing.assert_allclose(reference.camera_to_world[1, :3, :3], expected, atol=1e-5)
    assert sequence.facts()["found"]["images_with_pose"] == 3


def test_association_looks_at_all_images_whatever_is_selected(root: Path) -> None:
    sequence = adapter(root).open(SCENE, Selection(start=1, stride=2))
    reference = sequence.reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.indices, [0, 1])
    np.testing.assert_array_equal(reference.positions[:, 0], [1.0, 7.0])


@pytest.mark.parametrize(("camera", "focal"), [("freiburg2", 520.908620), ("freiburg3", 535.4)])
def test_the_folder_name_decides_the_calibration(tmp_path: Path, camera: str, focal: float) -> None:
    scene = f"rgbd_dataset_{camera}_long_office"
    root = trees.write_tum(tmp_path, scene)
    frame = next(adapter(root, camera=camera).open(scene, Selection()).frames())
    assert frame.intrinsics is not None
    assert frame.intrinsics[0, 0] == focal


def test_scenes_of_a_camera(root: Path) -> None:
    trees.write_tum(root, "rgbd_dataset_freiburg2_xyz")
    trees.write_tum(root, "rgbd_dataset_freiburg1_room_validation")
    assert adapter(root).scenes() == (SCENE,)
    assert adapter(root, camera="all").scenes() == (SCENE, "rgbd_dataset_freiburg2_xyz")
    # Whoever gives a calibration has recordings of his own, whatever they are called.
    trees.write_tum(root, "kitchen")
    own = adapter(root, intrinsics=(525.0, 520.0, 319.5, 239.5))
    assert own.scenes() == ("kitchen", SCENE, "rgbd_dataset_freiburg2_xyz")
    frame = next(own.open("kitchen", Selection()).frames(images=False, depth=False))
    np.testing.assert_array_equal(frame.intrinsics, [[525, 0, 319.5], [0, 520, 239.5], [0, 0, 1]])
    with pytest.raises(DataError, match=r"no sequence of camera 'freiburg3'.*freiburg2_xyz"):
        adapter(root, camera="freiburg3").scenes()


def test_the_record_says_whose_calibration_and_which_unit(root: Path) -> None:
    facts = adapter(root).open(SCENE, Selection()).facts()
    assert facts["intrinsics"] == "calibrated, freiburg1; lens distortion is not removed"
    assert facts["depth"] == "uint16 / 5000 metres, registered to colour; associated like the poses"
    own = adapter(root, intrinsics=(525.0, 520.0, 319.5, 239.5), depth_scale=1000).open(SCENE, Selection()).facts()
    assert own["intrinsics"] == "given in the options"
    assert own["depth"] == "uint16 / 1000 metres, registered to colour; associated like the poses"
    (root / SCENE / "groundtruth.txt").unlink()
    (root / SCENE / "depth.txt").unlink()
    assert adapter(root).open(SCENE, Selection()).facts()["found"] == {
        "poses_in_file": 0,
        "images_with_pose": 0,
        "depth_maps_in_list": 0,
        "images_with_depth": 0,
    }


def test_without_ground_truth_or_depth(root: Path) -> None:
    (root / SCENE / "groundtruth.txt").unlink()
    (root / SCENE / "depth.txt").unlink()
    sequence = adapter(root).open(SCENE, Selection())
    assert sequence.reference() is None
    frame = next(sequence.frames())
    assert frame.camera_to_world is None
    assert frame.depth is None


def test_a_ground_truth_of_another_time_is_refused(root: Path) -> None:
    (root / SCENE / "groundtruth.txt").write_text("1.0 0 0 0 0 0 0 1\n")
    with pytest.raises(DataError, match=r"none of 1 poses of .*groundtruth\.txt lies within 0\.02 s"):
        adapter(root).open(SCENE, Selection())


def test_repeated_times_and_lost_poses_are_outcomes(root: Path) -> None:
    """As in fr2/desk: of each time the first row counts; a row without a pose leaves its image without one."""
    path = root / SCENE / "groundtruth.txt"
    plain = adapter(root).open(SCENE, Selection()).reference()
    rows = [row for row in path.read_text().splitlines() if not row.startswith("#")]
    time = rows[1].split()[0]
    path.write_text("\n".join([*rows[:2], f"{time} 9 9 9 0 0 0 1", *rows[2:]]) + "\n")
    sequence = adapter(root).open(SCENE, Selection())
    reference = sequence.reference()
    assert plain is not None
    assert reference is not None
    np.testing.assert_array_equal(reference.camera_to_world, plain.camera_to_world)
    assert sequence.facts()["found"]["repeated_stamps"] == 1
    assert "of each time the first row is kept" in sequence.facts()["notes"][0]
    path.write_text("\n".join([*rows[:-1], rows[-1].split()[0] + " nan nan nan 0 0 0 0"]) + "\n")
    sequence = adapter(root).open(SCENE, Selection())
    assert sequence.facts()["found"]["lost_poses"] == 1


def test_the_fingerprint_follows_the_lists(root: Path) -> None:
    before = adapter(root).open(SCENE, Selection()).fingerprint()
    with (root / SCENE / "groundtruth.txt").open("a") as stream:
        stream.write("1305031460.0 0 0 0 0 0 0 1\n")
    assert adapter(root).open(SCENE, Selection()).fingerprint() != before


@pytest.mark.parametrize(
    ("name", "line", "text", "says"),
    [
        ("rgb.txt", 5, "1305031453.0 rgb/x.png", r"rgb\.txt:5: expected increasing timestamps"),
        ("rgb.txt", 5, "1305031453.359684 rgb/x.png", r"rgb\.txt:5: expected increasing timestamps"),
        ("rgb.txt", 5, "rgb/x.png", r"rgb\.txt:5: expected 'timestamp filename', found 'rgb/x.png'"),
        ("rgb.txt", 5, "soon rgb/x.png", r"rgb\.txt:5: expected a timestamp"),
        ("rgb.txt", 5, "nan rgb/x.png", r"rgb\.txt:5: expected a timestamp"),
        ("rgb.txt", 5, "1305031453.4 ../../../secret.png", r"rgb\.txt:5: expected a path inside"),
        ("rgb.txt", 5, "1305031453.4 rgb/../../secret.png", r"rgb\.txt:5: expected a path inside .*, found 'rgb/\.\./"),
        ("rgb.txt", 5, r"1305031453.4 rgb\x.png", r"rgb\.txt:5: expected a path inside"),
        ("rgb.txt", 5, "1305031453.4 /etc/passwd", r"rgb\.txt:5: expected a path inside"),
        ("depth.txt", 4, "now depth/x.png", r"depth\.txt:4: expected a timestamp"),
        ("groundtruth.txt", 3, "1305031453.39 1 2 3", r"groundtruth\.txt:3: .*found 4"),
        ("groundtruth.txt", 3, "nan 1 2 3 0 0 0 1", r"groundtruth\.txt:3"),
        ("groundtruth.txt", 4, "1305031453.1 1 2 3 0 0 0 1", r"groundtruth\.txt:4"),
    ],
)
def test_wrong_lines_are_named(root: Path, name: str, line: int, text: str, says: str) -> None:
    path = root / SCENE / name
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=says) as caught:
        adapter(root).open(SCENE, Selection())
    assert "\n" not in str(caught.value)


def test_listed_images_that_are_missing(root: Path) -> None:
    sequence = adapter(root).open(SCENE, Selection())
    sorted((root / SCENE / "rgb").iterdir())[2].unlink()
    with pytest.raises(DataError, match=r"frame 2: image .* does not exist"):
        list(sequence.frames())
    with pytest.raises(DataError, match=r"does not exist; is the dataset complete\?"):
        sequence.fingerprint()


def test_roots_of_another_level_and_unknown_scenes(root: Path, tmp_path: Path) -> None:
    assert adapter(root / SCENE).scenes() == adapter(tmp_path).scenes() == (SCENE,)
    with pytest.raises(DataError, match=f"did you mean '{SCENE}'"):
        adapter(root).open("rgbd_dataset_freiburg1_dsk", Selection())
    (root / "my_own" / "rgb").mkdir(parents=True)
    (root / "my_own" / "rgb.txt").write_text("1 rgb/a.png\n")
    with pytest.raises(DataError, match="name decides the calibration"):
        adapter(root).open("my_own", Selection())


def test_empty_lists(root: Path) -> None:
    (root / SCENE / "rgb.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="the scene has no frames"):
        adapter(root).open(SCENE, Selection())
