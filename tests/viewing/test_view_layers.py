"""What the viewer shows before anything is drawn: blocks, alignment, directions, colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.types import Frame, FrameType, Prediction, Trajectory
from lingbot_eval.viewing.cloud import VoxelCloud
from lingbot_eval.viewing.kept import Keeper, KeepSettings, Reconstruction
from lingbot_eval.viewing.layers import (
    METHOD_COLOURS,
    RANGES,
    SURENESS,
    Cutter,
    Layer,
    LayeredScene,
    Placed,
    coarser,
    colours_of,
    depth_picture,
    ramp,
    surroundings,
    worst_of,
)

K = np.array([[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]])


def pose(index: int) -> np.ndarray:
    """On a curve that fills space, so that an alignment is determined."""
    made = np.eye(4)
    made[:3, 3] = 0.1 * index, np.sin(0.3 * index), 0.02 * index**1.5
    return made


def layer_of(frames: int, label: str = "a", move: Sim3 | None = None, limit: int = 100_000) -> Layer:
    layer = Layer(label, VoxelCloud(limit), length=frames)
    for index in range(frames):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        depth = rng.uniform(1, 3, (30, 40)).astype(np.float32)
        sure = rng.uniform(1, 5, (30, 40)).astype(np.float32)
        at = pose(index) if move is None else move.apply_poses(pose(index))
        layer.add(Frame(index, index / 10, image, ""), Prediction(index, index / 10, at, depth, sure, K))
    return layer


def truth_of(frames: int) -> Trajectory:
    return Trajectory(np.arange(frames), np.arange(frames) / 10, np.stack([pose(index) for index in range(frames)]))


@settings(max_examples=20)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=12), st.integers(0, 3))
def test_each_voxel_is_in_one_block_of_its_class(new: list[int], every: int) -> None:
    layer, cutter, blocks = Layer("a", VoxelCloud(50_000, 0.01)), Cutter(), []
    rng = np.random.default_rng(0)
    for frame, count in enumerate(new):
        points = rng.uniform(0, 50, (count, 3)).astype(np.float32)
        layer.cloud.add(points, np.zeros((count, 3), np.uint8), rng.uniform(1, 5, count).astype(np.float32), frame)
        if every and frame % every == 0:
            blocks += cutter.cut(layer, layer.cloud, whole=False)
    blocks += cutter.cut(layer, layer.cloud, whole=True)
    voxels = np.concatenate([block.voxels for block in blocks] or [np.empty(0, np.int64)])
    assert sorted(voxels) == list(range(len(layer.cloud)))
    assert not list(cutter.cut(layer, layer.cloud, whole=True))
    for block in blocks:
        frames = layer.cloud.first_frame[block.voxels]
        assert block.first <= frames.min()
        assert frames.max() <= block.last
        assert cutter.edges is not None
        sure = layer.cloud.confidence[block.voxels]
        assert (sure >= cutter.edges[0][block.sureness]).all() or block.sureness == 0
        if block.sureness + 1 < len(SURENESS):
            assert (sure < cutter.edges[0][block.sureness + 1]).all()
        assert 0 <= block.range < len(RANGES)


def test_the_shares_of_confidence_are_those_of_the_cloud() -> None:
    layer = layer_of(5)
    counts = np.zeros(len(SURENESS))
    for block in Cutter().cut(layer, layer.cloud, whole=True):
        counts[block.sureness] += len(block.voxels)
    np.testing.assert_allclose(counts / counts.sum(), np.diff([*SURENESS, 1.0]), atol=0.01)


def test_blocks_stay_few_however_long_the_stream_is() -> None:
    layer, cutter = Layer("a", VoxelCloud(2_000_000, 0.001)), Cutter()
    rng, numbers = np.random.default_rng(0), set()
    for frame in range(2000):
        points = rng.uniform(0, 50, (100, 3)).astype(np.float32)
        layer.cloud.add(points, np.zeros((100, 3), np.uint8), rng.uniform(1, 5, 100).astype(np.float32), frame)
        numbers |= {block.number for block in cutter.cut(layer, layer.cloud, whole=False)}
    # Growth by a sixteenth each: 16 · ln(2000), and the first frames alone.
    assert 60 < len(numbers) < 150


def test_doubled_voxels_begin_anew() -> None:
    layer, cutter = layer_of(8), Cutter()
    before = sum(len(block.voxels) for block in cutter.cut(layer, layer.cloud, whole=True))
    layer.cloud._double()
    after = list(cutter.cut(layer, layer.cloud, whole=True))
    assert before > sum(len(block.voxels) for block in after) == len(layer.cloud)
    # Classes, too: as of somebody who looks for the first time.
    fresh = list(Cutter().cut(layer, layer.cloud, whole=True))
    assert [(block.sureness, block.range, block.voxels.tolist()) for block in after] == [
        (block.sureness, block.range, block.voxels.tolist()) for block in fresh
    ]


def test_layers_come_onto_the_truth_and_say_their_error() -> None:
    rotation = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    layers = [layer_of(12), layer_of(12, "b", Sim3(0.2, rotation, np.array([5.0, 6, 7])))]
    placed, truth = LayeredScene("s", layers, truth_of(12)).placed()
    assert truth is not None
    for each in placed:
        np.testing.assert_allclose(each.positions, truth[:, :3, 3], atol=1e-9)
        assert each.error.max() < 1e-9
    # Without a truth the second comes onto the first.
    alone, none = LayeredScene("s", layers).placed()
    assert none is None
    np.testing.assert_allclose(alone[1].positions, alone[0].positions, atol=1e-9)
    # While it grows nothing that was sent may move: the truth comes to the estimate.
    assert LayeredScene("s", layers, truth_of(12)).unit == "m"
    for truth_or_none, live in ((None, False), (truth_of(12), True)):
        assert LayeredScene("s", layers, truth_or_none, live).unit == "units of the model"
    growing, moved = LayeredScene("s", layers[1:], truth_of(12), live=True).placed()
    assert moved is not None
    assert growing[0].move.scale == 1
    np.testing.assert_allclose(moved[:, :3, 3], growing[0].positions, atol=1e-9)
    assert growing[0].error.max() < 1e-9
    assert LayeredScene("s", [layer_of(3)], truth_of(12), live=True).placed()[1] is not None
    assert LayeredScene("s", [layer_of(2)], truth_of(12), live=True).placed()[1] is None


def test_a_scene_is_whole_and_shows_its_sky_where_all_of_its_layers_do() -> None:
    class Network:
        def mask(self, image: np.ndarray, depth: np.ndarray, confidence: object) -> np.ndarray:
            return np.zeros(depth.shape, bool)

        def words(self) -> str:
            return "none"

    for others, every in (((True, False), False), ((True, True), True)):
        layers = [Layer("a", complete=each, network=None if each else Network()) for each in others]
        assert LayeredScene("s", layers).complete is every
        assert LayeredScene("s", layers, live=True).shows_sky is every
        assert not LayeredScene("s", layers).shows_sky


def test_what_cannot_be_aligned_says_why() -> None:
    placed, _ = LayeredScene("s", [layer_of(2)], truth_of(12)).placed()
    assert placed[0].why == "only 2 frames have both poses"
    assert np.isnan(placed[0].error).all()
    assert worst_of(placed) == 1
    late = truth_of(12)
    late = replace(late, timestamps=late.timestamps + 0.04)
    (placed,), _ = LayeredScene("s", [layer_of(12)], late).placed()
    assert placed.why == "only 0 frames have both poses"
    (placed,), _ = LayeredScene("s", [layer_of(3)], truth_of(12)).placed()
    assert placed.why is None
    assert np.isfinite(placed.error).all()


def test_of_positions_alone_there_is_a_path_and_nothing_that_looks(tmp_path: Path) -> None:
    layer = Layer("a", VoxelCloud(1000, 0.01))
    image, depth = np.zeros((30, 40, 3), np.uint8), np.ones((30, 40), np.float32)
    matrix = np.array([[30.0, 0, 19.5], [0, 0.0, 14.5], [0, 0, 1]])  # of no camera
    for index, (kind, turned) in enumerate(((FrameType.KEPT, True), (FrameType.UNKEPT, False), (None, True))):
        seen = (depth, None, K) if index < 2 else (None, None, matrix)
        prediction = Prediction(index, index / 10, pose(index), *seen, frame_type=kind, has_orientation=turned)
        layer.add(Frame(index, index / 10, image, ""), prediction)
    assert (layer.index.tolist(), layer.oriented) == ([0, 1, 2], False)
    assert set(layer.cloud.first_frame) == {0}
    assert list(layer.pictures) == [0, 2]
    assert layer.views == [(pytest.approx(2 * np.arctan(15 / 30)), 4 / 3)] * 2 + [(np.radians(60), 4 / 3)]
    bare = replace(truth_of(4), has_orientation=False)
    write_tum(tmp_path / "estimate.tum", bare)
    assert not Layer.stored("a", Reconstruction(tmp_path, ["estimate.tum"])).oriented


def test_up_is_against_the_cameras_y_axes() -> None:
    layer = layer_of(6)
    placed, truth = LayeredScene("s", [layer]).placed()
    around = surroundings(placed, truth)
    np.testing.assert_allclose(around.up, [0, -1, 0])
    np.testing.assert_allclose(around.forward, [0, 0, 1])
    np.testing.assert_allclose(around.right, [1, 0, 0])
    assert 3 < around.extent < 10
    # Where there is a truth its cameras decide.
    turned = truth_of(6).camera_to_world.copy()
    turned[:, :3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(surroundings(placed, turned).up, [1, 0, 0])


def test_depth_of_a_frame_without_a_pose_is_not_that_of_the_next_one() -> None:
    layer = Layer("a", VoxelCloud(1000, 0.01))
    for index in (0, 2):
        layer.add(Frame(index, index / 10, None, ""), Prediction(index, index / 10, pose(index)))
    points = np.array([[0, 0, 5], [0, 1, 5], [0, 2, 5], [0, 3, 5]], np.float32)
    for frame, point in zip((0, 1, 2, 3), points, strict=True):
        layer.cloud.add(point[None], np.zeros((1, 3), np.uint8), np.ones(1, np.float32), frame)
    expected = [np.linalg.norm(points[n] - pose(n)[:3, 3]) if n in (0, 2) else 0 for n in range(4)]
    np.testing.assert_allclose(layer.depths(layer.cloud, np.arange(4)), expected, rtol=1e-6)


def test_what_runs_kept_is_shown_with_its_sky_and_whoevers_truth(tmp_path: Path) -> None:
    kept = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        keeper = Keeper(KeepSettings(sky="heuristic" if name == "a" else None), folder.joinpath, 4)
        for index in range(4):
            depth = np.full((30, 40), 2.0, np.float32)
            depth[0, :15] = 90.0
            image = np.zeros((30, 40, 3), np.uint8)
            keeper.add(Frame(index, index / 10, image, ""), Prediction(index, index / 10, pose(index), depth, None, K))
        keeper.finish()
        write_tum(folder / "estimate.tum", truth_of(4))
        if name == "b":
            write_tum(folder / "reference.tum", truth_of(4))
        kept.append((name, Reconstruction(folder, [file.name for file in folder.iterdir()])))
    scene = LayeredScene.stored("s", kept)
    assert scene.truth is not None
    assert [len(layer.sky) > 0 for layer in scene.layers] == [True, False]
    assert all(len(layer.cloud) > 0 and layer.complete for layer in scene.layers)
    for layer in scene.layers:
        assert (layer.index.tolist(), layer.timestamps.tolist()) == ([0, 1, 2, 3], [0, 0.1, 0.2, 0.3])
        assert layer.views == [(pytest.approx(2 * np.arctan(15 / 30)), pytest.approx(4 / 3))] * 4
        assert (list(layer.pictures), layer.oriented) == ([0, 1, 2, 3], True)


def test_the_extent_is_of_all_cameras_and_the_middle_of_the_points_where_they_are_shown() -> None:
    layer = layer_of(6)
    layer.cloud = VoxelCloud(1000, 1e-4)
    points = np.stack([np.arange(101.0), np.zeros(101), np.arange(101.0) / 10 - 40], axis=1).astype(np.float32)
    layer.cloud.add(points, np.zeros((101, 3), np.uint8), np.ones(101, np.float32), 0)
    (placed,), _ = LayeredScene("s", [layer]).placed()
    placed = replace(placed, move=Sim3(2.0, np.eye(3), np.array([0.0, 0, 1])))
    way = placed.positions
    far = way[-1:] + np.array([0, 0, 500])  # the truth's cameras are in it, too
    truth = np.eye(4)[None].copy()
    truth[:, :3, 3] = far
    around = surroundings([placed], truth)
    low, high = way.min(axis=0), np.maximum(way.max(axis=0), far[0])
    low, high = np.minimum(low, [2 * 2, 0, 2 * -39.8 + 1]), np.maximum(high, [2 * 98, 0, 2 * -30.2 + 1])
    assert around.centre == pytest.approx((low + high) / 2)
    assert around.extent == pytest.approx(np.linalg.norm(high - low))
    assert surroundings([], None).extent == 1


def test_up_is_the_median_of_what_cameras_say() -> None:
    truth = truth_of(5).camera_to_world.copy()
    truth[0, :3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # one that looks at the sky
    assert surroundings([], truth).up == pytest.approx([0, -1, 0])
    # Heading of the first that looks up: its right hand tells.
    assert surroundings([], truth).right == pytest.approx([1, 0, 0])


def test_a_coarser_cloud_keeps_the_order_of_frames() -> None:
    cloud = layer_of(8).cloud
    fewer = coarser(cloud, 2000)
    assert 500 < len(fewer) <= 2000
    assert (np.diff(fewer.first_frame) >= 0).all()
    assert fewer.first_frame[-1] == cloud.first_frame[-1]
    assert fewer.counts.sum() == len(cloud)
    assert coarser(cloud, len(cloud)) is cloud
    fine = VoxelCloud(100_000, 0.03125)
    fine.add(cloud.positions, cloud.colours, cloud.confidence, 0)
    fewer = coarser(fine, 2000)
    assert fewer.generation > 0
    assert fewer.voxel_size == 0.03125 * 2**fewer.generation


BLUE, RED, VIOLET, YELLOW = (48, 18, 59), (122, 4, 3), (13, 8, 135), (240, 249, 33)
"""The ends of turbo (dark blue to dark red) and of plasma (violet to yellow)."""


@pytest.mark.parametrize(
    ("how", "least", "most"),
    [
        ("error", BLUE, RED),
        ("confidence", (68, 1, 84), (253, 231, 37)),
        ("height", BLUE, RED),
        ("frame", VIOLET, YELLOW),
    ],
)
def test_colours_go_from_least_to_most_as_the_legend_says(
    how: str, least: tuple[int, int, int], most: tuple[int, int, int]
) -> None:
    """Points whose frame, confidence, height and error all rise together."""
    layer = Layer("a", VoxelCloud(1000, 0.01), length=49)
    truth = truth_of(50)
    for index in range(50):
        layer.add(Frame(index, index / 10, None, ""), Prediction(index, index / 10, pose(index)))
        point = np.array([[0, -float(index), 0]], np.float32)  # up is -y
        layer.cloud.add(point, np.full((1, 3), index, np.uint8), np.float32([1 + index]), index)
    (placed,), _ = LayeredScene("s", [layer], truth).placed()
    placed = replace(placed, error=np.arange(50) / 10)
    worse = replace(placed, error=placed.error * 2)
    blocks = list(Cutter(classes=False).cut(layer, layer.cloud, whole=True))

    def coloured(*every: Placed) -> np.ndarray:
        up = np.array([0.0, -1, 0])
        return np.concatenate([colours_of(how, every, 0, block, up) for block in blocks])  # type: ignore[arg-type]

    colours = coloured(placed)
    np.testing.assert_allclose(colours[0], least, atol=6)
    np.testing.assert_allclose(colours[-1], most, atol=6)
    assert len(np.unique(colours, axis=0)) > 40
    layer.length = 98  # of frames that are still to come
    np.testing.assert_allclose(coloured(placed)[-1], (204, 71, 120) if how == "frame" else most, atol=6)
    layer.length = 49
    # Errors of several methods have one scale, as the legend says it: half the worst is its middle.
    np.testing.assert_allclose(coloured(placed, worse)[-1], (164, 252, 60) if how == "error" else most, atol=6)


def test_points_have_the_colours_of_pictures_or_of_their_method() -> None:
    layer = layer_of(8)
    placed, _ = LayeredScene("s", [layer], truth_of(8)).placed()
    block, up = next(Cutter().cut(layer, layer.cloud, whole=True)), np.array([0.0, -1, 0])
    np.testing.assert_array_equal(colours_of("picture", placed, 0, block, up), layer.cloud.colours[block.voxels])
    for number, colour in enumerate(METHOD_COLOURS):
        assert (colours_of("method", placed * 6, number, block, up) == colour).all()


def test_heights_are_along_up_where_the_layer_is_shown() -> None:
    """Of a method whose world lies on its side, and of a sky that is coloured by the heights of the cloud."""
    turn = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    layer = layer_of(12, move=Sim3(0.5, turn, np.array([5.0, 6, 7])))
    (placed,), _ = LayeredScene("s", [layer], truth_of(12)).placed()
    heights = -placed.move.apply_points(layer.cloud.positions)[:, 1]
    block, up = next(Cutter(classes=False).cut(layer, layer.cloud, whole=True)), np.array([0.0, -1, 0])
    low, high = np.percentile(heights, (1, 99))
    expected = ramp((heights[block.voxels] - low) / (high - low), "turbo")
    found = colours_of("height", [placed], 0, block, up)
    assert (np.abs(found.astype(int) - expected).max(axis=1) <= 6).mean() > 0.99
    layer.sky.add(layer.cloud.positions[:50] - [0, 0, 0.001], np.zeros((50, 3), np.uint8), np.ones(50, np.float32), 11)
    sky = next(Cutter(classes=False).cut(layer, layer.sky, whole=True))
    above = -placed.move.apply_points(layer.sky.positions)[:, 1]
    expected = ramp((above[sky.voxels] - low) / (high - low), "turbo")
    found = colours_of("height", [placed], 0, sky, up)
    assert (np.abs(found.astype(int) - expected).max(axis=1) <= 6).mean() > 0.95


def test_a_view_is_upright_and_stays_where_a_frame_says_none() -> None:
    layer = Layer("a")
    matrix = np.array([[30.0, 0, 19.5], [0, 20.0, 14.5], [0, 0, 1]])
    image = np.zeros((30, 40, 3), np.uint8)
    for index, intrinsics in enumerate((None, matrix, None)):
        prediction = Prediction(index, index / 10, pose(index), intrinsics=intrinsics)
        layer.add(Frame(index, index / 10, image, ""), prediction)
    assert layer.newest is not None
    assert layer.newest.index == 2
    layer.add(Frame(3, 0.3, image, ""), Prediction(3, 0.3, pose(3)), pictured=False)
    assert (layer.newest.index, list(layer.pictures), list(layer.index)) == (2, [0, 1, 2], [0, 1, 2, 3])
    seen = (2 * np.arctan(15 / 20), 40 / 30)
    assert layer.views == [(np.radians(60), 4 / 3), *[pytest.approx(seen)] * 3]


def test_near_is_red_and_far_is_blue_in_a_picture_of_depth() -> None:
    depth = np.linspace(1, 9, 100, dtype=np.float32).reshape(10, 10)
    depth[5, 5] = 0
    picture = depth_picture(depth)
    np.testing.assert_allclose(picture[0, 0], RED, atol=3)
    np.testing.assert_allclose(picture[-1, -1], BLUE, atol=3)
    assert picture[5, 5].tolist() == [128, 128, 128]
    depth[0, 0] = 1e4  # a single far point leaves the others their colours
    low, high = np.percentile(depth[depth > 0], (2, 98))
    expected = ramp(1 - (depth - low) / (high - low), "turbo")
    assert np.abs(depth_picture(depth)[depth > 0].astype(int) - expected[depth > 0]).max() <= 6
    assert (depth_picture(np.zeros((2, 2), np.float32)) == 128).all()
