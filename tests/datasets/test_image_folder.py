"""Which files of a folder are frames, in what order, and what is said of the rest: folders as they come from the field.

Every test looks at what a user sees: the frames of the opened scene, its notes, and one line for what is refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import FileSequence, Selection
from lingbot_eval.errors import DataError


def touch(folder: Path, *names: str) -> Path:
    """Files with these names; opening a scene reads no image, so they need not be any."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def opened(root: Path, scene: str | None = None, **options: object) -> FileSequence:
    adapter = open_adapter("folder", root, options)
    sequence = adapter.open(scene or adapter.scenes()[0], Selection())
    assert isinstance(sequence, FileSequence)
    return sequence


def frames(sequence: FileSequence) -> list[str]:
    return [source.image.name for source in sequence.files]


def notes(sequence: FileSequence) -> list[str]:
    found: Any = sequence.facts()["notes"]
    return list(found)


@pytest.mark.parametrize(
    ("pictures", "companions", "role"),
    [
        (["000.png", "001.png"], ["000_mask.png", "001_mask.png"], "masks"),
        (["000.png", "001.png"], ["000.mask.png", "001.mask.png"], "masks"),
        (["000.png", "001.png"], ["000_MASK.png"], "masks"),
        (["000.png", "001.png"], ["000_mask_0.png", "000_mask_1.png"], "masks"),
        (["000.jpg", "001.jpg"], ["mask_000.png", "mask_001.png"], "masks"),
        (["a.jpg", "b.jpg"], ["a.jpg.png", "b.jpg.png"], "masks"),
        (["a.jpg", "b.jpg"], ["a_alpha.png", "b_alpha.png"], "masks"),
        (["IMG_1.jpg", "IMG_2.jpg"], ["IMG_1_matte.png", "IMG_2_matte.png"], "masks"),
        (["frame-000000.color.jpg"], ["frame-000000.depth.png"], "depth maps"),
        (["rgb_0.png", "rgb_1.png"], ["depth_0.png", "depth_1.png"], "depth maps"),
        (["left000.png", "left001.png"], ["depth000.png", "depth001.png"], "depth maps"),
        (["cam0_000.png", "cam0_001.png"], ["depth_000.png", "depth_001.png"], "depth maps"),
        (["1.jpg", "2.jpg"], ["1_normals.png"], "normal maps"),
        (["1.jpg", "2.jpg"], ["1_thumb.jpg", "thumb_2.jpg"], "thumbnails"),
        (["1.jpg", "2.jpg"], ["1_preview.jpg", "previews_2.jpg"], "thumbnails"),
        (["1.jpg", "2.jpg"], ["1_conf.png", "2_confidence.png"], "confidence maps"),
        # The mask of a photograph that is not there is no photograph either.
        (["000.png"], ["000_mask.png", "004_mask.png"], "masks"),
    ],
)
def test_companions_are_left_out_and_said(
    tmp_path: Path, pictures: list[str], companions: list[str], role: str
) -> None:
    sequence = opened(touch(tmp_path / "walk", *pictures, *companions))
    assert frames(sequence) == pictures
    (note,) = notes(sequence)
    assert note.startswith(f"{role} left out, {len(companions)} in all: ")
    assert all(name in note for name in companions[:4])


@pytest.mark.parametrize(
    "names",
    [
        ["mask_000.png", "mask_001.png"],  # masks alone are what was asked for
        ["depth0.png", "depth1.png"],
        ["label.png", "unmasked.png", "segment.png"],
        ["photo_1.jpg", "photo_2.jpg"],
    ],
)
def test_names_that_only_look_like_companions_are_frames(tmp_path: Path, names: list[str]) -> None:
    sequence = opened(touch(tmp_path / "walk", *names))
    assert sorted(frames(sequence)) == sorted(names)
    assert notes(sequence) == []


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["a.png", "a.jpg", "b.png", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["a.JPG", "a.dng", "b.JPG", "b.dng"], ["a.JPG", "b.JPG"]),
        (["a.HEIC", "a.JPG", "b.JPG"], ["a.JPG", "b.JPG"]),
        (["a.tif", "a.png"], ["a.png"]),
    ],
)
def test_of_two_files_of_one_photograph_one_is_taken(tmp_path: Path, names: list[str], kept: list[str]) -> None:
    sequence = opened(touch(tmp_path / "walk", *names))
    assert frames(sequence) == kept
    (note,) = notes(sequence)
    left = sorted(set(names) - set(kept))
    assert note.startswith(f"second files of one name left out, {len(left)} in all: ")
    assert f"({kept[0]} is taken)" in note


@pytest.mark.parametrize(
    ("suffix", "says"), [(".CR2", "camera raw files are not read: convert them"), (".jxl", r"\.jxl files are not read")]
)
def test_photographs_that_cannot_be_read_are_refused_by_name(tmp_path: Path, suffix: str, says: str) -> None:
    root = touch(tmp_path / "walk", "1.jpg", f"2{suffix}", "3.jpg", f"4{suffix}")
    with pytest.raises(DataError, match=rf"2 of 4 images cannot be read \(2{suffix}, 4{suffix}\): {says}") as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_every_kind_that_cannot_be_read_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        opened(touch(tmp_path / "walk", "1.CR2", "2.jxl", "3.dng", "4.png"))
    assert "3 of 4 images cannot be read (1.CR2, 2.jxl, 3.dng): camera raw files are not read: convert" in str(
        caught.value
    )
    assert str(caught.value).count("camera raw files") == str(caught.value).count(".jxl files are not read") == 1


def test_heic_is_read_where_its_library_is_and_refused_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    folder = tmp_path / "walk"
    folder.mkdir()
    for number, suffix in enumerate((".jpg", ".heic", ".jpg", ".HEIC")):
        grey = np.full((60, 80, 3), 60 * number, np.uint8)
        Image.fromarray(grey).save(folder / f"{number}{suffix}", format="HEIF" if "h" in suffix.lower() else None)
    read = [frame.image for frame in opened(folder).frames()]
    assert [round(float(image.mean()) / 60) for image in read if image is not None] == [0, 1, 2, 3]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"2 of 4 images cannot be read \(1\.heic, 3\.HEIC\): HEIC needs .*pip install"):
        opened(folder)


@pytest.mark.parametrize("beside", ["a.png", "a.tif"])
def test_a_copy_that_can_be_read_is_taken_where_heic_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    sequence = opened(touch(tmp_path / "walk", "a.heic", beside, "b.png"))
    assert frames(sequence) == [beside, "b.png"]
    assert notes(sequence) == [f"second files of one name left out, 1 in all: a.heic ({beside} is taken)"]


def test_what_is_no_file_and_what_is_hidden(tmp_path: Path) -> None:
    folder = touch(tmp_path / "walk", "1.jpg", "2.jpg", "._1.jpg", "._2.jpg")
    os.mkfifo(folder / "3.jpg")
    (folder / "4.png").mkdir()
    sequence = opened(folder)
    assert frames(sequence) == ["1.jpg", "2.jpg"]
    assert notes(sequence) == [
        "hidden files left out, 2 in all: ._1.jpg, ._2.jpg",
        "what is no file left out, 2 in all: 3.jpg (a named pipe), 4.png (a folder)",
    ]


def test_hidden_images_alone_are_none(tmp_path: Path) -> None:
    touch(tmp_path, "._a.jpg", "walk/._0.jpg", "walk/0.jpg", "rest/.1.jpg")
    adapter = open_adapter("folder", tmp_path, {})
    assert adapter.scenes() == ("walk",)
    assert notes(opened(tmp_path)) == ["hidden file left out, 1 in all: ._0.jpg"]


def test_a_folder_that_went_after_it_was_found_is_named(tmp_path: Path) -> None:
    folder = touch(tmp_path / "walk", "0.jpg")
    adapter = open_adapter("folder", tmp_path, {})
    adapter.open("walk", Selection())
    (folder / "0.jpg").unlink()
    folder.rmdir()
    with pytest.raises(DataError, match=r"^folder .*walk cannot be listed: No such file or directory$"):
        adapter.open("walk", Selection())


def test_a_link_that_leads_nowhere_is_a_frame_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30)).save(folder / f"{number}.png")
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to("../annex/1.png")
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png is a link to \.\./annex/1\.png, which does not exist; mend it"):
        opened(folder).fingerprint()  # the run's first look
    (fault,) = opened(folder).facts()["image_faults"]
    assert "walk frame 1" in fault
    assert "1.png is a link to ../annex/1.png, which does not exist; mend it (and 1 more like it)" in fault


def test_captures_of_several_scales_give_the_largest_once(tmp_path: Path) -> None:
    for scale in ("images", "images_2", "images_4", "images_8", "masks", "depths", "Normals_4"):
        touch(tmp_path / scale, "a.jpg", "b.jpg")
    adapter = open_adapter("folder", tmp_path, {})
    assert adapter.scenes() == ("images",)
    said = notes(opened(tmp_path, "images"))
    assert said == [
        "folders beside the images left out, 3 in all: depths, masks, Normals_4",
        "folders left out: images_2, images_4, images_8, smaller copies of images, which is taken",
    ]


def test_a_root_of_captures(tmp_path: Path) -> None:
    for scale in ("images_4", "images_8", "sparse"):
        touch(tmp_path / "garden" / scale, "a.jpg" if scale != "sparse" else "cameras.txt")
    touch(tmp_path / "room" / "Images", "a.jpg")
    touch(tmp_path / "walk", "a.jpg")
    (tmp_path / "garden" / "gt.txt").write_text("0 1 2 3 0 0 0 1\n")
    assert open_adapter("folder", tmp_path, {}).scenes() == ("garden", "room", "walk")
    garden = opened(tmp_path, "garden", trajectory="gt.txt")
    assert garden.files[0].image == tmp_path / "garden" / "images_4" / "a.jpg"
    assert garden.files[0].pose is not None
    assert notes(garden) == ["garden: folders left out: images_8, smaller copies of images_4, which is taken"]


def test_images_in_the_root_hide_the_folders_in_it_which_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "preview.jpg", "walk1/0.jpg", "walk2/0.jpg")
    assert notes(opened(tmp_path)) == ["images in 2 folders inside are not read: walk1, walk2"]


def test_a_missing_number_keeps_its_place_in_time(tmp_path: Path) -> None:
    sequence = opened(touch(tmp_path / "walk", *(f"img_{n:03d}.png" for n in (10, 11, 13, 14, 18))), fps=10)
    np.testing.assert_allclose(sequence.timestamps(), [0, 0.1, 0.3, 0.4, 0.8])
    assert notes(sequence) == [
        "4 of 9 numbers are missing among the images: 12, 15 to 17; times go by number, so that the others keep theirs"
    ]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0, 10, 20, 40, 50, 60), "1 of 7 numbers is missing among the images: 30"),
        ((5, 15, 45, 55, 65), "2 of 7 numbers are missing among the images: 25 to 35"),
        # Half of the steps are the usual one; or fewer are missing than there are.
        ((0, 1, 10, 11, 20), "16 of 21 numbers are missing among the images: 2 to 9, 12 to 19"),
        ((0, 1, 3, 7), "4 of 8 numbers are missing among the images: 2, 4 to 6"),
        (
            [n for n in range(29) if n % 3 < 2],
            "9 of 29 numbers are missing among the images: 2, 5, 8, 11, 14, 17, 20, 23 … (9 in all)",
        ),
    ],
)
def test_gaps_are_counted_in_steps_of_the_numbers(tmp_path: Path, numbers: tuple[int, ...], said: str) -> None:
    sequence = opened(touch(tmp_path / "walk", *(f"{n}.png" for n in numbers)), fps=10)
    step = 10 if numbers[1] - numbers[0] == 10 else 1
    np.testing.assert_allclose(sequence.timestamps(), [(n - numbers[0]) / step / 10 for n in numbers])
    (note,) = notes(sequence)
    assert note.startswith(f"{said}; times go by number")


@pytest.mark.parametrize(
    "numbers",
    # Every tenth; one; two; photographs that somebody chose, many and few.
    [(0, 10, 20, 30), (7,), (1, 2), (3, 17, 21, 90, 1000), (0, 1, 4, 8)],
)
def test_other_numbers_are_no_gaps(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    sequence = opened(touch(tmp_path / "walk", *(f"{n}.png" for n in numbers)), fps=10)
    np.testing.assert_allclose(sequence.timestamps(), np.arange(len(numbers)) / 10)
    assert notes(sequence) == []


def test_times_of_day_are_no_numbering(tmp_path: Path) -> None:
    """Shots of every second: after 120059 comes 120100, and nothing is missing."""
    names = [f"IMG_20240501_{time}.jpg" for time in (120057, 120058, 120059, 120100, 120101)]
    sequence = opened(touch(tmp_path / "walk", *names), fps=1)
    np.testing.assert_allclose(sequence.timestamps(), np.arange(5))
    assert notes(sequence) == []


@pytest.mark.parametrize(
    ("names", "unit", "option"),
    [
        (["1305031453.359684.png", "1305031453.391690.png"], "seconds", "seconds_in_names"),
        (["1403636579763555584.png", "1403636579813555456.png"], "nanoseconds", "nanoseconds_in_names"),
    ],
)
def test_names_that_are_times_are_said_where_they_are_not_read(
    tmp_path: Path, names: list[str], unit: str, option: str
) -> None:
    folder = touch(tmp_path / "walk", *names)
    (note,) = notes(opened(folder))
    assert note == (
        f"the images' names look like times in {unit}, and are not read as such: set options.timestamps to {option}"
    )
    assert notes(opened(folder, timestamps=option)) == []


def test_a_far_number_is_one_gap_and_takes_no_memory(tmp_path: Path) -> None:
    sequence = opened(touch(tmp_path / "walk", "1.png", "2.png", "3.png", f"{10**18}.png"))
    assert notes(sequence)[0].startswith(f"{10**18 - 4} of {10**18} numbers are missing among the images: 4 to 9999")


def rows(*positions: int) -> str:
    return "".join(f"1 0 0 {x} 0 1 0 0 0 0 1 0\n" for x in positions)


@pytest.mark.parametrize(
    ("first", "lines", "expected"),
    [
        (0, (0, 1, 2, 3, 4, 5), [0, 1, 3, 5]),  # a row for each number, counted from 0
        (1, (0, 1, 2, 3, 4, 5), [0, 1, 3, 5]),  # counted from 1
        (5, tuple(range(11)), [5, 6, 8, 10]),  # rows of the whole drive, images of its end
        (0, (0, 10, 20, 30), [0, 10, 20, 30]),  # a row for each image that is there
    ],
)
def test_kitti_rows_go_by_number(tmp_path: Path, first: int, lines: tuple[int, ...], expected: list[int]) -> None:
    folder = touch(tmp_path / "walk", *(f"{first + k:04d}.png" for k in (0, 1, 3, 5)))
    (folder / "poses.txt").write_text(rows(*lines))
    reference = opened(folder, trajectory="poses.txt", trajectory_format="kitti").reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.positions[:, 0], expected)


def test_rows_that_fit_neither_images_nor_numbers_are_refused(tmp_path: Path) -> None:
    folder = touch(tmp_path / "walk", "0.png", "1.png", "3.png")
    (folder / "poses.txt").write_text(rows(0, 1, 2, 3, 4, 5, 6))
    with pytest.raises(DataError, match=r"each of the 3 images \(whose numbers run over 4\) in .*walk, found 7"):
        opened(folder, trajectory="poses.txt", trajectory_format="kitti")


def test_poses_of_a_tum_file_stay_with_their_frames_where_one_is_missing(tmp_path: Path) -> None:
    folder = touch(tmp_path / "walk", "0.png", "1.png", "3.png", "4.png")
    (folder / "gt.txt").write_text("".join(f"{n / 10:.3f} {n} 0 0 0 0 0 1\n" for n in range(5)))
    reference = opened(folder, trajectory="gt.txt", trajectory_format="tum", fps=10).reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.positions[:, 0], [0, 1, 3, 4])


def test_times_in_names_decide_the_order(tmp_path: Path) -> None:
    names = ["1700000000.9.png", "1700000001.05.png", "1700000001.1.png", "1700000010.0.png"]
    folder = touch(tmp_path / "walk", *names)
    assert frames(opened(folder)) == names
    assert frames(opened(folder, timestamps="seconds_in_names")) == names
    short = ["0.9.png", "1.05.png", "1.1.png", "1.10001.png", "10.0.png"]
    sequence = opened(touch(tmp_path / "short", *short), timestamps="seconds_in_names")
    assert frames(sequence) == short
    np.testing.assert_allclose(sequence.timestamps(), [0.9, 1.05, 1.1, 1.10001, 10.0])


@pytest.mark.parametrize("name", ["folder", "seven_scenes", "tum", "kitti", "eth3d", "droid_w", "video"])
@pytest.mark.parametrize("root", ["x" * 5000, "/".join(["y" * 200] * 25), "a\0b"])
def test_roots_that_no_system_takes_are_one_line(name: str, root: str) -> None:
    with pytest.raises(DataError) as caught:
        open_adapter(name, Path(root), {}).scenes()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_two_cameras_in_one_folder_are_said(tmp_path: Path) -> None:
    names = [f"{side}_{number:03d}.png" for side in ("left", "right") for number in range(4)]
    sequence = opened(touch(tmp_path / "walk", *names))
    assert frames(sequence) == names
    (note,) = notes(sequence)
    assert note.startswith("the same numbers come under 2 names (left_0 (4), right_0 (4)), one behind the other")


def test_three_numbers_under_two_names_are_two_cameras_whatever_else_is_there(tmp_path: Path) -> None:
    names = ["left_0.png", "left_1.png", "left_2.png", "map_7.png", "right_1.png", "right_2.png", "right_5.png"]
    (note,) = notes(opened(touch(tmp_path / "walk", *names)))
    assert note.startswith("the same numbers come under 2 names (")


@pytest.mark.parametrize("copy", ["IMG_1 (1).jpg", "IMG_1 copy.jpg", "IMG_1 - Copy.jpg", "IMG_1_copy 2.jpg"])
def test_copies_of_photographs_are_said(tmp_path: Path, copy: str) -> None:
    sequence = opened(touch(tmp_path / "walk", "IMG_0.jpg", "IMG_1.jpg", copy, "IMG_2.jpg"))
    assert len(frames(sequence)) == 4
    assert notes(sequence)[-1] == f"1 images look like copies of others and are frames, too: {copy}"


@pytest.mark.parametrize(
    "names",
    [
        [f"2024-05-01-12-{minute:02d}-{second:02d}.jpg" for minute in range(2) for second in range(0, 60, 5)],
        [f"img ({number}).jpg" for number in range(1, 6)],
        [f"run{part}_{number}.png" for part in range(2) for number in range(4)],
        ["kitchen_0.png", "kitchen_1.png", "kitchen_2.png", "door_0.png"],
        [*(f"go_{number}.png" for number in range(4)), *(f"on_{number}.png" for number in range(2, 6))],  # half alike
    ],
)
def test_other_names_are_one_sequence(tmp_path: Path, names: list[str]) -> None:
    said = notes(opened(touch(tmp_path / "walk", *names)))
    assert not [note for note in said if "two cameras" in note or "copies" in note]


@pytest.mark.parametrize(
    ("originals", "edited"),
    [
        (["IMG_0001.JPG", "IMG_0002.JPG"], ["IMG_E0001.JPG"]),
        (["IMG_0001.jpg", "IMG_0002.jpg"], ["img_e0002.jpg"]),
        (["PXL_1.jpg", "PXL_2.jpg"], ["PXL_1~2.jpg"]),
        (["a1.jpg", "a2.jpg"], ["a1-edited.jpg"]),
        (["a1.jpg", "a2.jpg"], ["a2-EDITADA.jpg"]),
        (["a1.jpg", "a2.jpg"], ["a1_bearbeitet(1).jpg"]),
        (["a1.jpg", "a2.jpg"], ["a1-modifié.jpg"]),
    ],
)
def test_edited_copies_of_phones_are_no_frames(tmp_path: Path, originals: list[str], edited: list[str]) -> None:
    sequence = opened(touch(tmp_path, *originals, *edited))
    assert frames(sequence) == originals
    assert any("edited copies of other images left out, 1 in all" in note for note in notes(sequence))


def test_photographs_that_are_only_there_edited_are_frames(tmp_path: Path) -> None:
    names = ["IMG_E0001.JPG", "IMG_E0002.JPG", "IMG_E0003.JPG"]
    sequence = opened(touch(tmp_path, *names))
    assert frames(sequence) == names
    assert not any("edited" in note for note in notes(sequence))


def test_several_pictures_in_one_heic_are_said(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    grey = np.full((64, 80, 3), 90, np.uint8)
    for number, pictures in enumerate((1, 3)):
        file = pillow_heif.HeifFile()
        for _ in range(pictures):
            file.add_from_pillow(Image.fromarray(grey))
        file.save(tmp_path / f"{number}.heic")
    assert notes(opened(tmp_path)) == [
        "1 of 2 image files hold several pictures, such as 1.heic: of each the main one is read, the others are not"
    ]
