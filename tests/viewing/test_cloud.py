"""The cloud against a dictionary of voxels, and what it promises: order, bound, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.errors import StoreError
from lingbot_eval.viewing.cloud import LEAST_VOXELS, VoxelCloud, confidence_words


def frame_of(rng: np.random.Generator, count: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = rng.normal(0, spread, (count, 3)).astype(np.float32)
    return points, rng.integers(0, 256, (count, 3)).astype(np.uint8), rng.uniform(1, 9, count).astype(np.float32)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.floats(0.05, 2.0), st.lists(st.integers(0, 400), min_size=1, max_size=6))
def test_every_voxel_holds_the_means_of_its_points(seed: int, size: float, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    cloud = VoxelCloud(100_000, size)
    voxels: dict[tuple[int, ...], list[tuple[np.ndarray, int]]] = {}
    for frame, count in enumerate(counts):
        points, colours, confidence = frame_of(rng, count)
        before = len(cloud)
        new = cloud.add(points, colours, confidence, frame)
        for row in np.concatenate([points, colours, confidence[:, None]], axis=1):
            cell = tuple(np.floor(row[:3].astype(np.float32) / np.float64(size)).astype(int))
            voxels.setdefault(cell, []).append((row, frame))
        assert new.tolist() == list(range(before, len(voxels)))
    assert len(cloud) == len(voxels)
    rows = {
        tuple(np.floor(position / np.float64(size) + 0.0).astype(int)): number
        for number, position in enumerate(cloud.positions)
    }
    for cell, entries in voxels.items():
        mean = np.mean([row for row, _ in entries], axis=0)
        # A mean on a voxel's face may be rounded into its neighbour.
        number = rows.get(cell, int(np.argmin(np.linalg.norm(cloud.positions - mean[:3], axis=1))))
        np.testing.assert_allclose(cloud.positions[number], mean[:3], atol=2e-5)
        np.testing.assert_allclose(cloud.colours[number], mean[3:6], atol=0.51)
        np.testing.assert_allclose(cloud.confidence[number], mean[6], atol=1e-4)
        assert cloud.counts[number] == len(entries)
        assert cloud.first_frame[number] == min(frame for _, frame in entries)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from([1e-4, 0.01, None]))
def test_a_full_cloud_doubles_and_loses_no_point(seed: int, size: float | None) -> None:
    rng = np.random.default_rng(seed)
    cloud = VoxelCloud(LEAST_VOXELS, size)
    given_points = []
    for frame in range(12):
        points, colours, confidence = frame_of(rng, 700, 1 + frame)
        given_points.append(points)
        generation = cloud.generation
        new = cloud.add(points, colours, confidence, 3 * frame)
        assert len(cloud) <= LEAST_VOXELS
        assert (np.diff(cloud.first_frame) >= 0).all()
        assert (cloud.first_frame[new] == 3 * frame).all()
        assert (cloud.first_frame < 3 * frame).sum() + len(new) == len(cloud)
        if size is not None:
            assert cloud.voxel_size == size * 2**cloud.generation
        assert generation <= cloud.generation
    assert cloud.generation > 0
    everything = np.concatenate(given_points)
    assert cloud.counts.sum() == len(everything)
    centre = np.average(cloud.positions, axis=0, weights=cloud.counts)
    np.testing.assert_allclose(centre, everything.mean(axis=0, dtype=np.float64), atol=1e-4)
    # What doubled is the grid of the larger edge: the same points at once give the same voxels.
    again = VoxelCloud(100_000, cloud.voxel_size)
    again.add(everything, np.zeros((len(everything), 3), np.uint8), np.ones(len(everything), np.float32), 0)
    assert len(again) == len(cloud)
    np.testing.assert_array_equal(np.sort(again.counts), np.sort(cloud.counts))


def test_a_cloud_that_doubled_is_one_that_had_that_edge_from_the_start() -> None:
    """Voxels of one cell become one: its means are of all points, its first frame is the earliest."""
    rng = np.random.default_rng(3)
    frames = [frame_of(rng, count) for count in (900, 300, 700, 5)]
    small = VoxelCloud(LEAST_VOXELS, 0.02)
    for frame, given_points in enumerate(frames):
        small.add(*given_points, frame)
    assert small.generation >= 2
    assert small.voxel_size is not None
    whole = VoxelCloud(100_000, small.voxel_size)
    for frame, given_points in enumerate(frames):
        whole.add(*given_points, frame)
    np.testing.assert_array_equal(small.first_frame, whole.first_frame)
    one, other = (np.lexsort(cloud.positions.round(4).T) for cloud in (small, whole))
    np.testing.assert_array_equal(small.first_frame[one], whole.first_frame[other])
    np.testing.assert_array_equal(small.counts[one], whole.counts[other])
    np.testing.assert_allclose(small.positions[one], whole.positions[other], atol=1e-4)
    np.testing.assert_allclose(small.colours[one].astype(int), whole.colours[other].astype(int), atol=1)
    np.testing.assert_allclose(small.confidence[one], whole.confidence[other], rtol=1e-4)


def test_the_first_frame_chooses_the_edge_and_outliers_do_not() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (20_000, 3)).astype(np.float32)
    points[0] = 1e6
    cloud = VoxelCloud()
    assert (cloud.voxel_size, cloud.limit) == (None, 2_000_000)
    cloud.add(points, np.zeros((20_000, 3), np.uint8), np.ones(20_000, np.float32), 0)
    assert cloud.voxel_size == pytest.approx(0.9 * 2 * np.sqrt(3) / 512, rel=0.02)


def test_points_that_are_none_or_outside_are_left_out_and_a_stream_that_leaves_doubles() -> None:
    cloud = VoxelCloud(voxel_size=1e-3)
    points = np.array([[0, 0, 1], [np.nan, 0, 1], [0, np.inf, 1], [0, 0, 1e30], [0, 1, 1]], np.float32)
    colours, confidence = np.zeros((5, 3), np.uint8), np.array([1, 1, 1, 1, np.nan], np.float32)
    assert cloud.add(points, colours, confidence, 0).tolist() == [0]
    assert cloud.voxel_size == 1e-3
    far = np.array([[0, 0, 5000], [0, 1, 5000]], np.float32)
    cloud.add(far, colours[:2], np.ones(2, np.float32), 1)
    assert cloud.voxel_size == pytest.approx(8e-3)
    assert cloud.first_frame.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="frame 0 after frame 1"):
        cloud.add(far, colours[:2], np.ones(2, np.float32), 0)


def test_the_confident_share_is_a_quantile_of_the_run() -> None:
    cloud = VoxelCloud(voxel_size=1.0)
    points = np.arange(10, dtype=np.float32)[:, None] * np.ones(3, np.float32) + 0.5
    cloud.add(points, np.zeros((10, 3), np.uint8), np.arange(10, dtype=np.float32), 0)
    assert np.flatnonzero(cloud.confident(0.5)).tolist() == [4, 5, 6, 7, 8, 9]
    assert cloud.confident(1.0).all()
    same = VoxelCloud(voxel_size=1.0)
    same.add(points, np.zeros((10, 3), np.uint8), np.ones(10, np.float32), 0)
    assert same.confident(0.1).all()
    assert np.flatnonzero(cloud.confident()).tolist() == [2, 3, 4, 5, 6, 7, 8, 9]  # seven tenths, and the last of them
    assert confidence_words(1.0) == "all voxels, whatever their confidence"
    assert confidence_words(0.995).startswith("the 99.5 % of")
    assert confidence_words(0.7) == "the 70 % of the run's voxels with the highest mean confidence"


def test_a_cloud_comes_back_from_its_file_and_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cloud, file = VoxelCloud(LEAST_VOXELS, 0.05), tmp_path / "cloud.npz"
    for frame in range(3):
        cloud.add(*frame_of(rng, 900), frame)
    cloud.save(file)
    loaded = VoxelCloud.load(file)
    for name in ("positions", "colours", "confidence", "counts", "first_frame"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(cloud, name))
    assert (loaded.voxel_size, loaded.generation, loaded.limit) == (cloud.voxel_size, cloud.generation, LEAST_VOXELS)
    loaded.add(cloud.positions, cloud.colours, cloud.confidence, 3)
    assert len(loaded) == len(cloud)
    empty = tmp_path / "empty.npz"
    VoxelCloud().save(empty)
    assert len(VoxelCloud.load(empty)) == 0
    assert np.isnan(np.load(empty)["voxel_size"])
    points, colours, confidence = frame_of(rng, 1500)
    more = VoxelCloud(5000, 1e-4)
    more.add(points, colours, confidence, 0)
    more.save(file)
    np.savez(file, **(dict(np.load(file)) | {"limit": np.int64(1400)}))
    with pytest.raises(StoreError, match="values of limit that no cloud has"):
        VoxelCloud.load(file)
    assert VoxelCloud.load(empty).confident().shape == (0,)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("positions", np.zeros((2, 2), np.float32), "positions of float32, shape \\(2, 2\\)"),
        ("positions", np.full((2, 3), np.nan, np.float32), "positions"),
        ("colours", np.zeros((3, 3), np.uint8), "colours of uint8"),
        ("first_frame", np.array([3, 1], np.int32), "first_frame"),
        ("counts", np.array([0, 1]), "counts"),
        ("voxel_size", np.float64(-1), "voxel_size"),
        ("limit", np.int64(1), "limit"),
        ("limit", np.int64(2**31), "limit"),
        ("first_frame", np.array([-1, 1], np.int32), "first_frame"),
        ("voxel_size", np.float64(np.nan), "voxel_size"),
        ("voxel_size", np.float64(0), "voxel_size"),
        ("confidence", np.array([1, np.inf], np.float32), "confidence"),
        ("generation", np.int64(-1), "generation"),
        ("generation", np.array([1, 2]), "generation"),
    ],
)
def test_a_file_that_is_no_cloud_is_named(tmp_path: Path, name: str, value: np.ndarray, words: str) -> None:
    cloud = VoxelCloud(voxel_size=1.0)
    cloud.add(np.array([[0, 0, 1], [0, 5, 1]], np.float32), np.zeros((2, 3), np.uint8), np.ones(2, np.float32), 0)
    file = tmp_path / "cloud.npz"
    cloud.save(file)
    arrays = dict(np.load(file))
    np.savez(file, **(arrays | {name: value}))
    with pytest.raises(StoreError, match=f"cloud.npz.*{words}"):
        VoxelCloud.load(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(StoreError, match=r"expected the cloud of voxels .*cloud\.npz, found a damaged"):
        VoxelCloud.load(file)


@pytest.mark.parametrize(
    ("limit", "size", "words"),
    [
        (LEAST_VOXELS - 1, None, "a limit of at least 1000 voxels, found 999"),
        (LEAST_VOXELS, 0.0, "a voxel size above 0, found 0.0"),
        (LEAST_VOXELS, np.inf, "a voxel size above 0, found inf"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(limit: int, size: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VoxelCloud(limit, size)


def test_a_full_disk_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", refuse)
    with pytest.raises(StoreError, match=r"cannot write .*cloud\.npz: No space left on device"):
        VoxelCloud().save(tmp_path / "cloud.npz")
    assert list(tmp_path.iterdir()) == []
