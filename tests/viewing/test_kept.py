"""What a run keeps of a scene: written while frames go by, read back by others, refused where it is damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures
from scipy.spatial import KDTree

from lingbot_eval.errors import ConfigError, DataError, StoreError
from lingbot_eval.runs.experiment import load_experiment
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame, FrameType, Prediction
from lingbot_eval.viewing import kept as kept_module
from lingbot_eval.viewing.kept import (
    GREY,
    MAX_THUMBNAILS,
    Keeper,
    KeepSettings,
    Reconstruction,
    SmallPictures,
    Thumbnail,
    pixel_step,
    pixels_of,
    sky_cloud,
)

K = np.array([[40.0, 0, 15.5], [0, 42.0, 11.5], [0, 0, 1]])
WIDTH, HEIGHT = 32, 24


def pose_at(index: int) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 3] = 0.1 * index
    return pose


def one(index: int, **changes: object) -> tuple[Frame, Prediction]:
    """A slanted wall, its picture a ramp, every third frame kept."""
    rng = np.random.default_rng(index)
    image = np.broadcast_to(np.arange(WIDTH, dtype=np.uint8)[None, :, None], (HEIGHT, WIDTH, 3))
    depth = np.fromfunction(lambda v, u: 2 + 0.01 * u, (HEIGHT, WIDTH)).astype(np.float32)
    frame = Frame(index, index / 10, image, f"{index}.png")
    prediction = {
        "camera_to_world": pose_at(index),
        "depth": depth,
        "depth_confidence": rng.uniform(1, 5, depth.shape).astype(np.float32),
        "intrinsics": K,
        "frame_type": FrameType.KEPT if index % 3 == 0 else FrameType.UNKEPT,
    }
    return frame, Prediction(index, index / 10, **{**prediction, **changes})  # type: ignore[arg-type]


def stream(folder: Path, frames: int = 10, length: int | None = None, **settings: object) -> Reconstruction:
    keeper = Keeper(validated(KeepSettings, settings, "keep"), folder.joinpath, length or frames)
    for index in range(frames):
        keeper.add(*one(index))
    assert keeper.finish() == ()
    return Reconstruction(folder, [file.name for file in folder.iterdir()])


def test_the_cloud_is_what_the_depth_says(tmp_path: Path) -> None:
    cloud = stream(tmp_path, frames=1).cloud()
    assert cloud is not None
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1)
    z = 2 + 0.01 * columns
    expected = np.stack([(columns - 15.5) / 40 * z, (rows - 11.5) / 42 * z, z], axis=1)
    # One frame of so few pixels gives them all, and voxels of 1/512 of the wall keep them apart.
    assert len(cloud) == WIDTH * HEIGHT
    distance, pixel = KDTree(expected).query(cloud.positions)
    assert distance.max() < 1e-5
    assert sorted(pixel) == list(range(WIDTH * HEIGHT))
    np.testing.assert_array_equal(cloud.colours[:, 0], pixel % WIDTH)


@pytest.mark.parametrize(
    ("depth", "frames"),
    [("all", range(10)), ("kept", [0, 3, 6, 9]), (4, [0, 4, 8]), ("none", [])],
)
@pytest.mark.parametrize("precision", ["lossless", "half"])
def test_depth_of_the_frames_that_were_asked_for(
    tmp_path: Path, depth: object, frames: list[int], precision: str
) -> None:
    kept = stream(tmp_path, depth=depth, precision=precision)
    assert kept.depth_indices() == tuple(frames)
    found = list(kept.depth_frames())
    assert [frame.index for frame in found] == list(frames)
    for frame in found:
        given = one(frame.index)[1]
        assert frame.timestamp == frame.index / 10
        assert frame.depth.dtype == np.float32
        tolerance = 0 if precision == "lossless" else 2e-3
        np.testing.assert_allclose(frame.depth, given.depth, atol=tolerance)
        np.testing.assert_allclose(frame.confidence, given.depth_confidence, atol=2 * tolerance)
        np.testing.assert_array_equal(frame.intrinsics, K)
    # The dry run's size is that of the disk, but for headers.
    settings = KeepSettings(depth=depth, precision=precision)
    predicted = settings.predicted_bytes(WIDTH, HEIGHT, 10, 4)
    written = sum(file.stat().st_size for file in tmp_path.glob("depth-*"))
    assert written == pytest.approx(predicted["depth"], rel=0.15)
    assert (tmp_path / "cloud.npz").stat().st_size <= predicted["cloud"] + 4096


def test_cameras_and_thumbnails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MAX_THUMBNAILS", 8)
    kept = stream(tmp_path, frames=100)
    cameras = kept.cameras()
    assert cameras is not None
    assert cameras.index.tolist() == list(range(100))
    assert cameras.size.tolist() == [[WIDTH, HEIGHT]] * 100
    assert cameras.frame_type[:4].tolist() == [FrameType.KEPT, FrameType.UNKEPT, FrameType.UNKEPT, FrameType.KEPT]
    assert cameras.predicted.all()
    np.testing.assert_array_equal(cameras.intrinsics, np.broadcast_to(K, (100, 3, 3)))
    pictures = kept.thumbnails()
    # Of 34 kept frames every eighth, evenly.
    assert [picture.index for picture in pictures] == [0, 24, 48, 72, 96]
    assert pictures[0].image.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(pictures[0].image[:, :, 0].mean(axis=0), np.arange(WIDTH), atol=4)
    assert (MAX_THUMBNAILS, kept_module.THUMBNAIL_HEIGHT) == (200, 200)
    tall = np.zeros((400, 300, 3), np.uint8)
    few: SmallPictures[np.ndarray] = SmallPictures()
    few.offer(0, tall, np.copy)
    assert few[0].shape == (200, 150, 3)
    with pytest.raises(DataError, match="thumbnail of frame 3 cannot be read"):
        Thumbnail(3, b"GIF89a").image  # noqa: B018 - reading is what fails


def test_frames_of_no_kind_count_as_kept_and_odd_ones_are_taken_as_they_can_be(tmp_path: Path) -> None:
    keeper = Keeper(KeepSettings(depth="kept", precision="half"), tmp_path.joinpath, 3)
    far = np.full((HEIGHT, WIDTH), 1e6, np.float32)  # more than half precision has
    keeper.add(*one(0, frame_type=None))
    keeper.add(*one(1, frame_type=FrameType.UNKEPT))
    frame, prediction = one(2, frame_type=FrameType.SCALE, depth=far)
    keeper.add(replace(frame, image=np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8)), prediction)
    keeper.finish()
    kept = Reconstruction(tmp_path, [file.name for file in tmp_path.iterdir()])
    assert kept.depth_indices() == (0, 2)
    assert [picture.index for picture in kept.thumbnails()] == [0, 2]
    np.testing.assert_array_equal(kept.depth_frame(2).depth, 65504)
    cameras, cloud = kept.cameras(), kept.cloud()
    assert cameras is not None
    assert cloud is not None
    assert cameras.frame_type.tolist() == [255, FrameType.UNKEPT, FrameType.SCALE]
    assert (cloud.colours[cloud.first_frame == 2] == GREY).all()  # of a picture of other pixels


def test_intrinsics_are_the_methods_else_the_datasets(tmp_path: Path) -> None:
    keeper = Keeper(KeepSettings(depth="all"), tmp_path.joinpath, 3)
    for index, said in enumerate((K, None, None)):
        frame, prediction = one(index, intrinsics=said)
        keeper.add(replace(frame, intrinsics=2 * K if index < 2 else None), prediction)
    assert keeper.finish() == ("the cloud lacks 1 frames without intrinsics",)
    kept = Reconstruction(tmp_path, [file.name for file in tmp_path.iterdir()])
    cameras = kept.cameras()
    assert cameras is not None
    assert (cameras.index.tolist(), cameras.predicted.tolist()) == ([0, 1], [True, False])
    np.testing.assert_array_equal(cameras.intrinsics, [K, 2 * K])
    assert [frame.intrinsics[0, 0] for frame in kept.depth_frames()] == [40, 80]


def test_intrinsics_that_are_no_numbers_are_none(tmp_path: Path) -> None:
    keeper = Keeper(KeepSettings(), tmp_path.joinpath, 2)
    for index in range(2):
        keeper.add(*one(index, intrinsics=np.full((3, 3), np.nan) if index else K))
    assert keeper.finish() == ("the cloud lacks 1 frames without intrinsics",)
    cameras = Reconstruction(tmp_path, [file.name for file in tmp_path.iterdir()]).cameras()
    assert cameras is not None
    assert cameras.index.tolist() == [0]


def test_frames_that_lack_something_are_counted(tmp_path: Path) -> None:
    keeper = Keeper(KeepSettings(), tmp_path.joinpath, 10)
    keeper.add(*one(0, camera_to_world=None))
    keeper.add(*one(1, camera_to_world=np.full((4, 4), np.nan)))
    keeper.add(*one(2, has_orientation=False))
    keeper.add(*one(3, intrinsics=None))
    keeper.add(*one(4, depth=None))
    notes = keeper.finish()
    assert notes == ("the cloud lacks 3 frames without a pose", "the cloud lacks 1 frames without intrinsics")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cameras.npz", "thumbnails.npz"]


def test_a_stream_without_intrinsics_has_no_cloud_and_says_so_once(tmp_path: Path) -> None:
    for settings, said in (
        (KeepSettings(), ("no cloud: no frame has intrinsics",)),
        (KeepSettings(cloud=False, depth="all"), ("no kept depth: no frame has intrinsics",)),
        # Of every second frame's depth, which is all that was asked for.
        (KeepSettings(cloud=False, depth=2), ("no kept depth: no frame has intrinsics",)),
        (KeepSettings(cloud=False), ()),
    ):
        keeper = Keeper(settings, tmp_path.joinpath, 10)
        for index in range(3):
            keeper.add(*one(index, intrinsics=None))
        assert keeper.finish() == said


def test_nothing_is_kept_where_nothing_is_asked(tmp_path: Path) -> None:
    kept = stream(tmp_path, cloud=False)
    assert [file.name for file in tmp_path.iterdir()] == ["cameras.npz"]
    assert (kept.cloud(), kept.thumbnails(), kept.poses) == (None, (), None)
    with pytest.raises(StoreError, match="expected the depth of frame 2, found none"):
        kept.depth_frame(2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", "all"),
        ("depth", "kept"),
        ("depth", 2),
        ("precision", "half"),
        ("cloud", False),
        ("voxels", 1000),
        ("sky", "heuristic"),
        ("masks", "masks"),
    ],
)
def test_every_setting_changes_what_is_kept(tmp_path: Path, name: str, value: object) -> None:
    (tmp_path / "masks").mkdir()
    for index in range(6):
        pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
        pixels[:, : WIDTH // 2] = 255
        Pictures.fromarray(pixels).save(tmp_path / "masks" / f"{index}.png")
    base = {"depth": 4, "voxels": 2000}
    if name == "masks":
        value = str(tmp_path / "masks")

    def kept(folder: str, **settings: object) -> dict[str, bytes]:
        (tmp_path / folder).mkdir()
        keeper = Keeper(validated(KeepSettings, settings, "keep"), (tmp_path / folder).joinpath, 6)
        for index in range(6):
            keeper.add(*one(index))
        keeper.finish()
        return {file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()}

    plain, changed = kept("plain", **base), kept("changed", **{**base, name: value})
    assert plain == kept("again", **base)
    assert changed != plain
    # What is scored is not what is kept: test_masks.py.
    known = {"depth", "precision", "cloud", "voxels", "sky", "masks", "scored"}
    assert set(KeepSettings.model_fields) == known, "a setting is not asked for here"


def test_short_streams_give_more_points() -> None:
    assert pixel_step(518, 378, 1) == 1
    assert pixel_step(518, 378, 8) == 2
    assert pixel_step(518, 378, 60) == 5
    assert pixel_step(518, 378, 10_000) == pixel_step(518, 378, None) == 8
    # Over the frames every pixel has its turn.
    for step in (2, 5, 8):
        starts = [(rows.start, columns.start) for rows, columns in (pixels_of(frame, step) for frame in range(500))]
        assert set(starts) == {(row, column) for row in range(step) for column in range(step)}
        assert len(set(starts[:step])) == step


def test_what_is_predicted_knows_the_limits_of_both_clouds(tmp_path: Path) -> None:
    assert sky_cloud().limit == 100_000
    sizes = {
        sky: KeepSettings(voxels=1000, sky=sky).predicted_bytes(518, 378, 1000, 10)["cloud"]
        for sky in (None, "heuristic")
    }
    assert sizes == {None: 31 * 1000, "heuristic": 31 * 101_000}
    # Of eight photographs no more than every second pixel of them, and of a few frames of sky no more than they have.
    few = 8 * (518 * 378 // 4 + 1)
    assert KeepSettings().predicted_bytes(518, 378, 8, 8)["cloud"] == 31 * few
    assert KeepSettings(sky="heuristic").predicted_bytes(20, 10, 2, 2)["cloud"] == 31 * 2 * 2 * 201
    for frames, points in ((1, 150 * 200), (None, 50 * 67)):
        keeper = Keeper(KeepSettings(), tmp_path.joinpath, frames)
        depth = np.ones((150, 200), np.float32)
        keeper.add(*one(0, depth=depth, depth_confidence=None, intrinsics=K))
        assert keeper.cloud is not None
        assert keeper.cloud.counts.sum() == points


def test_poses_have_the_numbers_of_their_frames(tmp_path: Path) -> None:
    keeper = Keeper(KeepSettings(), tmp_path.joinpath, 6)
    for index in (0, 2, 3, 5):
        keeper.add(*one(index))
    keeper.finish()
    rows = [f"{index / 10!r} {index} 0 0 0 0 0 1" for index in (2, 3, 5)]  # the first frame was lost
    (tmp_path / "estimate.tum").write_text("\n".join(rows) + "\n")
    poses = Reconstruction(tmp_path, [file.name for file in tmp_path.iterdir()]).poses
    assert poses is not None
    assert (poses.indices.tolist(), poses.positions[:, 0].tolist()) == ([2, 3, 5], [2, 3, 5])
    # Times of other frames: the rows are counted.
    (tmp_path / "estimate.tum").write_text("\n".join([*rows, "0.7 7 0 0 0 0 0 1"]) + "\n")
    poses = Reconstruction(tmp_path, [file.name for file in tmp_path.iterdir()]).poses
    assert poses is not None
    assert poses.indices.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["cloud.npz", "cameras.npz", "thumbnails.npz", "depth-000004.npz"])
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    kept = stream(tmp_path, depth=4)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"found a damaged file .*run that scene again") as refused:
        _ = kept.cloud(), kept.cameras(), kept.thumbnails(), list(kept.depth_frames())
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("name", "array", "value"),
    [
        ("cameras.npz", "index", np.array([0, 2, 1])),
        ("cameras.npz", "index", np.array([0, 1, 1])),
        ("cameras.npz", "timestamps", np.array([0.0, 0.2, 0.1])),
        ("cameras.npz", "intrinsics", np.full((3, 3, 3), np.nan)),
        ("cameras.npz", "intrinsics", np.ones((3, 2, 2))),
        ("cameras.npz", "size", np.zeros((3, 2), np.int64)),
        ("cameras.npz", "frame_type", np.zeros(2, np.uint8)),
        ("thumbnails.npz", "index", np.array([0], np.int32)),
        ("thumbnails.npz", "length", np.array([0])),
        ("thumbnails.npz", "length", np.array([7])),
        ("depth-000000.npz", "depth", np.ones((2, 2))),
        ("depth-000000.npz", "depth", np.ones(4, np.float32)),
        ("depth-000000.npz", "depth", np.ones((0, 2), np.float32)),
        ("depth-000000.npz", "confidence", np.ones((2, 2), np.float32)),
        ("depth-000000.npz", "intrinsics", np.ones((4, 4))),
        ("depth-000000.npz", "timestamp", np.array([0.0])),
    ],
)
def test_numbers_that_no_scene_has_are_damage(tmp_path: Path, name: str, array: str, value: np.ndarray) -> None:
    kept = stream(tmp_path, frames=3, depth=4)
    read: dict[str, Callable[[], object]] = {
        "cameras.npz": kept.cameras,
        "thumbnails.npz": kept.thumbnails,
        "depth-000000.npz": lambda: kept.depth_frame(0),
    }
    arrays = dict(np.load(tmp_path / name))
    assert array in arrays
    np.savez(tmp_path / name, **(arrays | {array: value}))
    with pytest.raises(StoreError, match=name):
        read[name]()
    del arrays[array]
    np.savez(tmp_path / name, **arrays)
    if array != "confidence":  # which a method need not have
        with pytest.raises(StoreError, match=name):
            read[name]()


def test_what_is_kept_of_which_nothing_is_said() -> None:
    assert KeepSettings().model_dump() == {
        "depth": "none",
        "precision": "lossless",
        "cloud": True,
        "voxels": 2_000_000,
        "sky": None,
        "masks": None,
        "scored": "all",
    }


def test_depth_of_another_frame_is_damage(tmp_path: Path) -> None:
    kept = stream(tmp_path, depth=4)
    (tmp_path / "depth-000004.npz").write_bytes((tmp_path / "depth-000008.npz").read_bytes())
    with pytest.raises(StoreError, match=r"depth-000004\.npz is damaged: it holds frame 8"):
        list(kept.depth_frames())


def test_files_that_decide_what_is_kept(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        (tmp_path / name).touch()
    both = KeepSettings(sky="sky.onnx", masks=tmp_path)
    assert list(both.input_files()) == [Path("sky.onnx"), tmp_path / "a.png", tmp_path / "b.png"]
    assert list(KeepSettings(sky="heuristic").input_files()) == list(KeepSettings().input_files()) == []


def test_settings_of_an_experiment() -> None:
    keep = load_experiment("smoke", ["keep.depth=10", "keep.precision=half"]).keep
    assert keep == KeepSettings(depth=10, precision="half")
    assert load_experiment("smoke").keep == KeepSettings(depth="none", cloud=True)
    for wrong, words in (
        ("keep.depth=some", "keep.depth"),
        ("keep.depth=0", "keep.depth"),
        ("keep.clouds=true", "did you mean 'cloud'"),
        ("keep.voxels=3", "keep.voxels"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_experiment("smoke", [wrong])
