"""A folder of images: order, times, trajectories in three formats, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dataset_trees as trees
import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.listing import natural_key
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Adapter, Selection
from lingbot_eval.errors import ConfigError, DataError


def write_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(trees.picture(number)).save(folder / name)
    return folder


def adapter(root: Path, **options: object) -> Adapter:
    return open_adapter("folder", root, options)


def test_images_in_natural_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "walk", ["img10.png", "img9.PNG", "img1.png", "b.bmp", "img02.tif"])
    (folder / "notes.txt").touch()
    (folder / "._img1.png").touch()
    opened = adapter(folder, fps=10)
    assert opened.scenes() == ("walk",)
    sequence = opened.open("walk", Selection())
    frames = list(sequence.frames())
    assert [Path(f.source).name for f in frames] == ["b.bmp", "img1.png", "img02.tif", "img9.PNG", "img10.png"]
    np.testing.assert_array_equal(frames[4].image, trees.picture(0))
    np.testing.assert_allclose([frame.timestamp for frame in frames], [0, 0.1, 0.2, 0.3, 0.4])
    assert frames[0].intrinsics is None
    assert sequence.reference() is None


def test_loaders_decode_in_any_order_and_thread(tmp_path: Path) -> None:
    sequence = adapter(write_images(tmp_path / "walk", [f"{i}.png" for i in range(8)])).open("walk", Selection())
    loaders = list(sequence.loaders())
    with ThreadPoolExecutor(4) as threads:
        backwards = list(threads.map(lambda load: load(), reversed(loaders)))
    for frame, other in zip(sequence.frames(), reversed(backwards), strict=True):
        assert (frame.index, frame.source, frame.timestamp) == (other.index, other.source, other.timestamp)
        np.testing.assert_array_equal(frame.image, other.image)
    (without, *_) = sequence.loaders(images=False)
    assert without().image is None


def test_natural_order_by_hand() -> None:
    names = ["a10", "a9", "a1b2", "a1b10", "10", "9", "b", "A2", "a01", "a1"]
    expected = ["9", "10", "a01", "a1", "a1b2", "a1b10", "A2", "a9", "a10", "b"]
    assert sorted(names, key=natural_key) == expected
    times = ["1700000000.1", "1700000000.05", "1700000000.25", "1700000000.100000001"]  # fractions, and no numbers
    assert sorted(times, key=natural_key) == [times[k] for k in (1, 0, 3, 2)]


def test_subfolders_are_scenes(tmp_path: Path) -> None:
    for name in ("seq10", "seq2"):
        write_images(tmp_path / name, ["0.png"])
    (tmp_path / "empty").mkdir()
    opened = adapter(tmp_path)
    assert opened.scenes() == ("seq2", "seq10")
    with pytest.raises(DataError, match=r"no scene 'seq3'.*seq2, seq10"):
        opened.open("seq3", Selection())


def test_selection_keeps_the_original_times(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "walk", [f"{n}.png" for n in range(10)])
    sequence = adapter(folder, fps=5).open("walk", Selection(start=1, stride=4))
    times = sequence.timestamps()
    assert times is not None
    np.testing.assert_allclose(times, [0.2, 1.0, 1.8])


def test_kitti_rows_go_with_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "walk", ["0.png", "1.png", "2.png"])
    rows = [" ".join(str(value) for value in trees.pose(n)[:3].ravel()) for n in range(3)]
    (folder / "poses.txt").write_text("\n".join(rows))
    options = {"trajectory": "poses.txt", "trajectory_format": "kitti", "intrinsics": [500, 501, 20, 15]}
    sequence = adapter(folder, **options).open("walk", Selection(start=1))
    reference = sequence.reference()
    assert reference is not None
    np.testing.assert_allclose(reference.camera_to_world, [trees.pose(1), trees.pose(2)])
    frame = next(sequence.frames())
    np.testing.assert_array_equal(frame.intrinsics, [[500, 0, 20], [0, 501, 15], [0, 0, 1]])
    facts = sequence.facts()
    assert facts["intrinsics"] == "given in the options"
    assert facts["poses"] == "kitti file, row by row; taken as camera-to-world, metres"
    (folder / "poses.txt").write_text("\n".join(rows[:2]))
    with pytest.raises(DataError, match=r"poses\.txt: expected one row for each of the 3 images.*found 2"):
        adapter(folder, **options).open("walk", Selection())


def test_rows_that_begin_before_the_first_image_go_by_the_numbers_in_the_names(tmp_path: Path) -> None:
    """Seven rows for images 3, 4 and 6: row n for number n."""
    folder = write_images(tmp_path / "walk", ["3.png", "4.png", "6.png"])
    rows = [" ".join(str(value) for value in trees.pose(n)[:3].ravel()) for n in range(7)]
    (folder / "poses.txt").write_text("\n".join(rows))
    sequence = adapter(folder, trajectory="poses.txt").open("walk", Selection())
    reference = sequence.reference()
    assert reference is not None
    np.testing.assert_allclose(reference.camera_to_world, [trees.pose(n) for n in (3, 4, 6)])
    facts = sequence.facts()
    assert "rows by the numbers in the names" in facts["poses"]
    assert facts["notes"] == [
        "1 of 4 numbers is missing among the images: 5; times go by number, and so do poses unless their file has one"
        " row for each image that is there"
    ]


def test_rows_of_every_other_number_are_not_guessed(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "walk", ["2.png", "4.png", "6.png"])
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 5)
    with pytest.raises(DataError, match=r"each of the 3 images \(whose numbers run over 3\) in .*walk, found 5"):
        adapter(folder, trajectory="poses.txt", trajectory_format="kitti").open("walk", Selection())


def test_tum_poses_by_the_times_in_the_names(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "walk", ["100.00.png", "100.10.png", "100.20.png"])
    (folder / "gt.txt").write_text("100.008 1 0 0 0 0 0 1\n100.15 2 0 0 0 0 0 1\n100.215 3 0 0 0 0 0 1\n")
    options = {"trajectory": "gt.txt", "timestamps": "seconds_in_names"}
    sequence = adapter(folder, **options).open("walk", Selection())
    reference = sequence.reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.indices, [0, 2])
    np.testing.assert_array_equal(reference.positions[:, 0], [1, 3])
    with pytest.raises(DataError, match=r"none of 3 poses.*0\.000 to 0\.067.*from 100\.008 to 100\.215.*options\.fps"):
        adapter(folder, trajectory="gt.txt").open("walk", Selection())


def test_euroc_times_are_nanoseconds(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "cam0", ["1403636579763555584.png", "1403636579813555456.png"])
    (folder / "data.csv").write_text(
        "#timestamp,x,y,z,qw,qx,qy,qz\n1403636579763555584,1,2,3,1,0,0,0\n1403636579813555456,4,5,6,1,0,0,0\n"
    )
    options = {"trajectory": "data.csv", "trajectory_format": "euroc", "timestamps": "nanoseconds_in_names"}
    sequence = adapter(folder, **options).open("cam0", Selection())
    reference = sequence.reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.positions, [[1, 2, 3], [4, 5, 6]])
    # In seconds, whatever the trajectory's own are.
    for times in (sequence.timestamps(), reference.timestamps):
        np.testing.assert_allclose(times, [1403636579.763555584, 1403636579.813555456], rtol=0, atol=1e-6)


def test_roots_that_hold_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing"):
        adapter(tmp_path).scenes()
    write_images(tmp_path / "a" / "b", ["0.png"])
    with pytest.raises(DataError, match=r"one level too high, use .*a$"):
        adapter(tmp_path).scenes()
    with pytest.raises(DataError, match=r"nowhere does not exist; .* holds a"):
        adapter(tmp_path / "nowhere").scenes()


def test_names_and_options_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "walk", ["0.png", "first.png"])
    with pytest.raises(DataError, match=r"first\.png: expected a timestamp as the image's name"):
        adapter(folder, timestamps="seconds_in_names").open("walk", Selection())
    with pytest.raises(DataError, match=r"trajectory .*gt\.txt does not exist"):
        adapter(folder, trajectory="gt.txt").open("walk", Selection())
    with pytest.raises(ConfigError, match="trajectory_format"):
        adapter(folder, trajectory_format="kitti")
    with pytest.raises(ConfigError, match="fps"):
        adapter(folder, fps=0)
    with pytest.raises(ConfigError, match="did you mean 'timestamps'"):
        adapter(folder, timestamp="fps")


def test_times_in_names_must_increase(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "walk", ["1.png", "01.png"])
    with pytest.raises(DataError, match=r"/1\.png: expected .* to increase, found that of 01\.png again"):
        adapter(folder, timestamps="seconds_in_names").open("walk", Selection())


def test_a_changed_size_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "walk", ["0.png", "1.png"])
    Image.fromarray(trees.picture(5, 20, 20)).save(folder / "1.png")
    with pytest.raises(DataError, match=r"walk frame 1: image .*1\.png: expected 40x30 .*found 20x20"):
        list(adapter(folder).open("walk", Selection()).frames())


def test_of_many_sizes_the_usual_ones_are_counted_and_the_first_other_named(tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    sizes = [(40, 30), (50, 40), (50, 40), (60, 40), (60, 40), (60, 40), (70, 40), (80, 40), (70, 40)]
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(folder / f"{number}.png")
    facts = adapter(folder).open("walk", Selection()).facts()
    assert facts["image_sizes"] == [[60, 40, 3], [50, 40, 2], [70, 40, 2], [40, 30, 1], [80, 40, 1]]
    assert facts["image_faults"] == [
        "folder: walk: expected images of one size, found 3 of 60x40, 2 of 50x40, 2 of 70x40, 1 of 40x30 … (give each"
        f" size a folder of its own): {folder}/1.png has 50x40 pixels, the first image 40x30"
    ]


def test_poses_by_the_names_of_images_and_positions_alone(tmp_path: Path) -> None:
    """COLMAP's images.txt in any order, world-to-camera; `time x y z` is a reference without orientation."""
    folder = write_images(tmp_path / "walk", ["0.png", "1.png", "2.png"])
    (folder / "images.txt").write_text("1 1 0 0 0 -5 0 0 1 2.jpg\n\n2 1 0 0 0 -4 0 0 1 left/0.jpg\n\n")
    sequence = adapter(folder, trajectory="images.txt").open("walk", Selection())
    reference = sequence.reference()
    assert reference is not None
    assert reference.has_orientation
    assert reference.indices.tolist() == [0, 2]
    assert reference.positions[:, 0].tolist() == [4, 5]
    assert sequence.facts()["found"] == {"poses_in_file": 2, "images_with_pose": 2}
    assert sequence.facts()["poses"].startswith("colmap file, by the images' names;")
    (folder / "other.txt").write_text("1 1 0 0 0 -5 0 0 1 7.jpg\n\n2 1 0 0 0 -4 0 0 1 8.jpg\n\n")
    with pytest.raises(
        DataError, match=r"other\.txt: none of its 2 poses is of an image in .*walk; is it of this scene"
    ):
        adapter(folder, trajectory="other.txt").open("walk", Selection())
    (folder / "gt.txt").write_text("0 1 2 3\n0.0333 4 5 6\n0.0667 7 8 9\n")
    reference = adapter(folder, trajectory="gt.txt").open("walk", Selection()).reference()
    assert reference is not None
    assert not reference.has_orientation
    assert reference.positions[:, 2].tolist() == [3, 6, 9]
