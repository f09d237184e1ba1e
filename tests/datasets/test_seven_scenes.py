"""7-Scenes: the real layout read, and every malformed variant refused with its file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import dataset_trees as trees
import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Adapter, Selection
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.prepare import SizeSettings, prepare
from lingbot_eval.settings import validated

SCENE = "redkitchen/seq-01"
REAL = Path(__file__).parents[3] / "shared" / "data" / "7scenes"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.write_seven_scenes(tmp_path / "7scenes")


def adapter(root: Path, **options: object) -> Adapter:
    return open_adapter("seven_scenes", root, options)


def stem(root: Path, number: int) -> str:
    return str(root / SCENE / f"frame-{number:06d}")


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("test", ("chess/seq-01", "redkitchen/seq-01", "redkitchen/seq-03")),
        ("train", ("redkitchen/seq-02",)),
        ("all", ("chess/seq-01", "redkitchen/seq-01", "redkitchen/seq-02", "redkitchen/seq-03")),
    ],
)
def test_scenes_of_a_split(root: Path, split: str, expected: tuple[str, ...]) -> None:
    assert adapter(root, split=split).scenes() == expected


def test_frames_have_what_was_written(root: Path) -> None:
    sequence = adapter(root).open(SCENE, Selection())
    frames = list(sequence.frames())
    assert (sequence.dataset, sequence.scene, sequence.length) == ("seven_scenes", SCENE, 4)
    for index, (frame, number) in enumerate(zip(frames, (0, 1, 2, 5), strict=True)):
        assert frame.index == index
        assert frame.timestamp == pytest.approx(number / 30)
        assert frame.source.endswith(f"frame-{number:06d}.color.png")
        np.testing.assert_array_equal(frame.image, trees.picture(number))
        raw = trees.millimetres(number)
        expected = np.where((raw == 0) | (raw == 65535), 0, raw / 1000.0)
        np.testing.assert_allclose(frame.depth, expected, rtol=1e-6)
        assert frame.depth is not None
        assert frame.depth[0, 0] == frame.depth[0, 1] == 0
        np.testing.assert_allclose(frame.camera_to_world, trees.pose(number), atol=1e-6)
        np.testing.assert_array_equal(frame.intrinsics, [[525, 0, 320], [0, 525, 240], [0, 0, 1]])
        np.testing.assert_array_equal(frame.depth_intrinsics, [[585, 0, 320], [0, 585, 240], [0, 0, 1]])
    times, reference = sequence.timestamps(), sequence.reference()
    assert times is not None
    assert reference is not None
    np.testing.assert_allclose(times, np.array([0, 1, 2, 5]) / 30)
    np.testing.assert_allclose(reference.positions, [trees.pose(n)[:3, 3] for n in (0, 1, 2, 5)], atol=1e-6)


def test_registered_depth_is_preferred(root: Path) -> None:
    Image.fromarray(trees.millimetres(77)).save(stem(root, 1) + ".depth.proj.png")
    Image.fromarray(trees.millimetres(77)).save(stem(root, 99) + ".depth.proj.png")  # of no image: not counted
    sequence = adapter(root).open(SCENE, Selection())
    first, second = list(sequence.frames())[:2]
    assert first.depth_intrinsics is not None
    assert second.depth_intrinsics is None
    assert second.depth is not None
    assert second.depth[5, 5] == pytest.approx(trees.millimetres(77)[5, 5] / 1000)
    assert sequence.facts()["depth_registered_frames"] == 1


def test_jpeg_colour_is_accepted(root: Path) -> None:
    for path in (root / SCENE).glob("*.color.png"):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    frame = next(adapter(root).open(SCENE, Selection()).frames())
    assert frame.image is not None
    assert frame.image.shape == (trees.HEIGHT, trees.WIDTH, 3)


def test_selection_and_skipped_decoding(root: Path) -> None:
    sequence = adapter(root).open(SCENE, Selection(start=1, stride=2))
    few = adapter(root).open(SCENE, Selection(start=0, stride=2, count=2))
    assert list(few.timestamps()) == list(adapter(root).open(SCENE, Selection()).timestamps()[:3:2])
    assert list(Selection(start=1, stride=3, count=3).indices(20)) == [1, 4, 7]
    assert list(Selection(start=1, stride=3, count=3).indices(7)) == [1, 4]
    without = next(sequence.frames(images=False, depth=False))
    assert (without.image, without.depth, without.depth_intrinsics) == (None, None, None)
    assert without.intrinsics is not None
    frames = list(sequence.frames(images=False, depth=False))
    assert [frame.source[-16:] for frame in frames] == ["000001.color.png", "000005.color.png"]
    assert [frame.index for frame in frames] == [0, 1]
    assert all(frame.image is None and frame.depth is None for frame in frames)
    assert all(frame.depth is not None for frame in sequence.frames(images=False))


def test_opening_and_reference_read_no_image(root: Path) -> None:
    for path in (root / SCENE).glob("*.png"):
        path.write_bytes(b"not an image")
    sequence = adapter(root).open(SCENE, Selection())
    reference = sequence.reference()
    assert reference is not None
    assert len(reference) == 4
    assert len(sequence.fingerprint()) == 64


def test_a_frame_without_pose_or_depth_has_none(root: Path) -> None:
    Path(stem(root, 1) + ".pose.txt").unlink()
    for index in (0, 2):
        Path(stem(root, index) + ".depth.png").unlink()
    sequence = adapter(root).open(SCENE, Selection())
    frames = list(sequence.frames())
    assert [frame.camera_to_world is None for frame in frames] == [False, True, False, False]
    assert [frame.depth is None for frame in frames] == [True, False, True, False]
    reference = sequence.reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.indices, [0, 2, 3])
    np.testing.assert_array_equal(reference.timestamps, sequence.timestamps()[[0, 2, 3]])
    assert (sequence.facts()["frames_with_pose"], sequence.facts()["frames_with_depth"]) == (3, 2)
    assert sequence.facts()["frames_without_image"] == 0
    Path(stem(root, 1) + ".color.png").unlink()
    pictured = adapter(root).open(SCENE, Selection())
    assert (pictured.length, pictured.facts()["frames_without_image"]) == (3, 1)


def test_a_pose_that_is_not_finite_is_a_lost_frame(root: Path) -> None:
    change = rewrite(1, "nan 0 0 0")
    change(stem(root, 2))
    sequence = adapter(root).open(SCENE, Selection())
    reference = sequence.reference()
    assert reference is not None
    assert 2 not in reference.indices.tolist()
    assert list(sequence.frames())[2].camera_to_world is None


def test_the_fingerprint_follows_the_files_that_are_read(root: Path) -> None:
    def mark(stride: int = 2) -> str:
        return adapter(root).open(SCENE, Selection(stride=stride)).fingerprint()

    before = mark()
    assert mark() == before
    assert mark(1) != before
    Path(stem(root, 1) + ".pose.txt").write_text("not selected")
    assert mark() == before
    Path(stem(root, 2) + ".pose.txt").write_text("selected")
    assert mark() != before


def rewrite(line: int, text: str) -> Callable[[str], None]:
    """Replaces one line (from 1) of frame 2's pose."""

    def change(stem: str) -> None:
        path = Path(stem + ".pose.txt")
        lines = path.read_text().splitlines()
        lines[line - 1] = text
        path.write_text("\n".join(lines))

    return change


def spoil(suffix: str, content: bytes | None) -> Callable[[str], None]:
    """Overwrites a file of frame 2, or (None) cuts it in half."""

    def change(stem: str) -> None:
        path = Path(stem + suffix)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)

    return change


def image(suffix: str, array: np.ndarray) -> Callable[[str], None]:
    return lambda stem: Image.fromarray(array).save(stem + suffix)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rewrite(2, "1 2 3"), r"frame-000002\.pose\.txt:2: expected 4 numbers.*found 3"),
        (rewrite(3, "1 2 3 4 5"), r"pose\.txt:3: expected 4 numbers.*found 5"),
        (rewrite(1, "one 0 0 0"), r"pose\.txt:1: expected a number in column 1, found 'one'"),
        (rewrite(4, ""), r"pose\.txt:3: expected 4 lines.*found 3"),
        (rewrite(4, "0 0 0 1\n0 0 0 1"), r"pose\.txt:5: expected 4 lines.*found 5"),
        (rewrite(4, "0 0 0 2"), r"pose\.txt:1: expected a rigid"),
        (rewrite(1, "9 9 9 0"), r"pose\.txt:1: expected a rigid"),
        (rewrite(1, "1e300 0 0 0"), r"pose\.txt:1: expected a rigid"),
        (spoil(".pose.txt", b"\x89PNG\x00\xff"), r"pose\.txt:1: not text"),
        (spoil(".color.png", None), r"frame 2: image .*000002\.color\.png is cut off"),
        (spoil(".color.png", b""), r"frame 2: image .*000002\.color\.png"),
        (spoil(".color.png", b"hello"), r"no image in a known format"),
        (spoil(".depth.png", None), r"frame 2: depth map .*000002\.depth\.png is cut off"),
        (image(".color.png", trees.picture(1, 42, 30)), r"frame 2: .*expected 40x30 .*found 42x30"),
        (image(".color.png", trees.millimetres(1)), r"frame 2: .*expected 8-bit.*found 16-bit"),
        (image(".depth.png", trees.millimetres(1, 20, 15)), r"frame 2: depth map .*expected 40x30.*found 20x15"),
        (image(".depth.png", trees.picture(1)), r"frame 2: depth map .*expected a 16-bit grey PNG, found 8-bit"),
    ],
)
def test_a_broken_frame_is_named(root: Path, change: Callable[[str], None], says: str) -> None:
    change(stem(root, 2))
    with pytest.raises(DataError, match=says) as caught:
        list(adapter(root).open(SCENE, Selection()).frames())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (".", "one level too low"),
        ("seq-01", "two levels too low"),
        ("../..", "one level too high, use .*7scenes"),
    ],
)
def test_a_root_of_another_level_is_explained(root: Path, where: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        adapter((root / "redkitchen" / where).resolve()).scenes()


def test_roots_that_are_not_there_or_hold_something_else(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"7scene does not exist \(did you mean '7scenes'\?\); .* holds 7scenes"):
        adapter(tmp_path / "7scene").scenes()
    with pytest.raises(DataError, match="is a file"):
        adapter(root / "chess" / "TestSplit.txt").scenes()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="found nothing"):
        adapter(empty).scenes()
    (empty / "chess.zip").touch()
    with pytest.raises(DataError, match="unpack"):
        adapter(empty).scenes()


def test_split_files_that_are_wrong(root: Path) -> None:
    split = root / "redkitchen" / "TestSplit.txt"
    split.write_text("sequence1\nseq two\n")
    with pytest.raises(DataError, match=r"TestSplit\.txt:2: expected 'sequenceN', found 'seq two'"):
        adapter(root).scenes()
    split.write_text("sequence1\nsequence12\n")
    with pytest.raises(DataError, match=r"TestSplit\.txt:2: seq-12 is listed but"):
        adapter(root).scenes()
    split.write_text("sequence1\nsequence1\n")
    with pytest.raises(DataError, match=r"TestSplit\.txt:2: seq-01 is in line 1 already"):
        adapter(root).scenes()
    split.write_text(f"sequence{'9' * 5000}\n")
    with pytest.raises(DataError, match=r"TestSplit\.txt:1: expected 'sequenceN'"):
        adapter(root).scenes()
    split.unlink()
    with pytest.raises(DataError, match=r"TestSplit\.txt does not exist"):
        adapter(root).scenes()
    assert len(adapter(root, split="all").scenes()) == 4


def test_two_files_for_one_frame_are_refused(root: Path) -> None:
    shutil.copy(root / SCENE / "frame-000001.color.png", root / SCENE / "frame-1.color.png")
    with pytest.raises(DataError, match=r"two files for number 1: frame-000001\.color\.png, frame-1\.color\.png"):
        adapter(root).open(SCENE, Selection())


@pytest.mark.parametrize("field", ["start", "stride", "count"])
def test_a_selection_stays_within_the_integers_of_the_machine(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        validated(Selection, {field: 10**30}, "selection")


def test_an_image_may_have_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    Image.fromarray(trees.picture(0)).save(tmp_path / name)
    sequence = open_adapter("folder", tmp_path, {}).open(tmp_path.name, Selection())
    assert len(sequence.fingerprint()) == 64


def test_a_root_may_begin_with_the_users_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    opened = adapter(Path("~") / root.name)
    assert opened.scenes() == adapter(root).scenes()
    assert opened.open("chess/seq-01", Selection()).length == adapter(root).open("chess/seq-01", Selection()).length


def test_the_home_of_an_unknown_user_is_a_folder_that_does_not_exist() -> None:
    with pytest.raises(DataError, match="does not exist"):
        adapter(Path("~nobody-of-this-name/7scenes")).scenes()


def test_a_split_without_sequences(root: Path) -> None:
    shutil.rmtree(root / "redkitchen")
    with pytest.raises(DataError, match="no sequence in split 'train'"):
        adapter(root, split="train").scenes()


@pytest.mark.parametrize("scene", ["redkitchen/seq-04", "redkitchen", "../7scenes/redkitchen/seq-01", "kitchen/seq-01"])
def test_unknown_scenes_list_those_there(root: Path, scene: str) -> None:
    with pytest.raises(DataError, match="chess/seq-01, redkitchen/seq-01"):
        adapter(root).open(scene, Selection())


def test_scenes_without_frames(root: Path) -> None:
    for path in (root / SCENE).glob("*.color.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"has no frames .*it holds frame-000000\.depth\.png"):
        adapter(root).open(SCENE, Selection())
    with pytest.raises(DataError, match="has 4 frames and the selection starts at 4"):
        adapter(root).open("chess/seq-01", Selection(start=4))


def test_options_and_root_are_checked(root: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'split'"):
        adapter(root, spilt="test")
    with pytest.raises(ConfigError, match="expected a root"):
        open_adapter("seven_scenes", None, {})
    with pytest.raises(
        ConfigError, match=r"unknown dataset '7scenes' .*did you mean 'seven_scenes'.*tum, kitti.*--plugin FILE"
    ):
        open_adapter("7scenes", root, {})


@pytest.mark.skipif(not REAL.is_dir(), reason="the real sample of 7-Scenes is not beside the checkout")
def test_real_frames_agree_when_projected_into_each_other() -> None:
    sequence = adapter(REAL).open(SCENE, Selection(start=10, stride=1, count=3))
    first, _, third = (prepare(frame, SizeSettings()) for frame in sequence.frames())
    assert first.depth is not None
    assert third.depth is not None
    assert first.camera_to_world is not None
    assert third.camera_to_world is not None
    assert first.intrinsics is not None
    v, u = np.nonzero(first.depth)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(first.intrinsics).T
    points = rays * first.depth[v, u][:, None]
    motion = np.linalg.inv(third.camera_to_world) @ first.camera_to_world
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    pixel = np.rint(moved @ first.intrinsics.T / moved[:, 2:])[:, :2].astype(int)
    height, width = third.depth.shape
    inside = (moved[:, 2] > 0) & (pixel >= 0).all(axis=1) & (pixel < [width, height]).all(axis=1)
    seen = third.depth[pixel[inside, 1], pixel[inside, 0]]
    measured = seen > 0
    relative = np.abs(moved[inside, 2] - seen)[measured] / seen[measured]
    assert measured.sum() > 50_000
    assert np.median(relative) < 0.02
