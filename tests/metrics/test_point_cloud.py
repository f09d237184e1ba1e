"""Clouds from depth maps: a scene of which every point is known, thinning, and frames that lack something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import DataError
from lingbot_eval.geometry.cameras import project
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.metrics.base import SceneContext, ScoredScene
from lingbot_eval.metrics.points import PointFamily, PointSettings, score_points, world_points
from lingbot_eval.types import Frame, Prediction, Trajectory

K = np.array([[30.0, 0, 16], [0, 32.0, 12], [0, 0, 1]])


def family(points: int, limits: tuple[float, float]) -> PointFamily:
    """One that keeps at most so many points, of depth between the limits."""
    return PointFamily(PointSettings().model_copy(update={"max_points": points}), SceneContext(limits))


def frame_pair(index: int) -> tuple[Frame, Prediction]:
    """A prediction that is right, at half the scale and in its own world."""
    rng = np.random.default_rng(index)
    depth = rng.uniform(1, 4, (24, 32)).astype(np.float32)
    depth[:3] = 0
    pose = pose_matrix(Rotation.random(random_state=index).as_matrix(), rng.normal(size=3))
    own = pose.copy()
    own[:3, 3] *= 0.5
    frame = Frame(index, 0.0, None, "made", pose, depth, K)
    return frame, Prediction(index, 0.0, own, (0.5 * depth + (depth == 0)).astype(np.float32), intrinsics=K)


def test_pixels_become_the_points_they_show() -> None:
    collector = family(10_000, (0.0, 80.0))
    frame, prediction = frame_pair(0)
    collector.add(frame, prediction)
    truth, points = collector.clouds()
    assert frame.depth is not None
    assert frame.camera_to_world is not None
    rows, columns = np.nonzero(frame.depth > 0)
    z = frame.depth[rows, columns].astype(np.float64)
    camera = np.stack([(columns - K[0, 2]) * z / K[0, 0], (rows - K[1, 2]) * z / K[1, 1], z], axis=1)
    expected = camera @ frame.camera_to_world[:3, :3].T + frame.camera_to_world[:3, 3]
    np.testing.assert_allclose(truth, expected, atol=1e-5)
    np.testing.assert_allclose(points, 0.5 * expected, atol=1e-5)
    found = score_points(truth, points, len(truth), PointSettings(voxel_m=None))
    assert max(m.value or 0 for m in found if m.unit == "m") < 1e-5


def test_projection_leads_back_to_the_pixel() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 10, (7, 9)).astype(np.float32)
    points = world_points(depth, np.arange(depth.size), K, np.eye(4))
    np.testing.assert_allclose(points[:, 2], depth.ravel(), rtol=1e-6)
    rows, columns = np.indices(depth.shape)
    np.testing.assert_allclose(project(points, K), np.stack([columns.ravel(), rows.ravel()], axis=1), atol=1e-3)


def test_true_depth_of_another_camera_is_seen_through_that_camera() -> None:
    collector = family(10_000, (0.0, 80.0))
    frame, prediction = frame_pair(0)
    assert frame.depth is not None
    own = np.array([[60.0, 0, 15], [0, 64.0, 11], [0, 0, 1]])
    seen = replace(frame, camera_to_world=np.eye(4), depth_intrinsics=own)
    collector.add(seen, prediction)
    rows, columns = np.nonzero(frame.depth)
    z = frame.depth[rows, columns]
    expected = np.stack([(columns - 15) / 60 * z, (rows - 11) / 64 * z, z], axis=1)
    np.testing.assert_allclose(collector.clouds()[0], expected, atol=1e-5)
    # The prediction is of the image: through its camera, where the method tells of none of its own.
    untold, of_its_own = family(10_000, (0.0, 80.0)), family(10_000, (0.0, 80.0))
    untold.add(seen, replace(prediction, intrinsics=None))
    np.testing.assert_array_equal(untold.clouds()[1], collector.clouds()[1])
    of_its_own.add(
        replace(frame, depth_intrinsics=None), replace(prediction, camera_to_world=np.eye(4), intrinsics=own)
    )
    np.testing.assert_allclose(of_its_own.clouds()[1], 0.5 * expected, atol=1e-5)


def test_memory_is_bounded_and_said() -> None:
    collector = family(1000, (0.0, 80.0))
    for index in range(12):
        collector.add(*frame_pair(index))
    truth, points = collector.clouds()
    assert 400 <= len(truth) <= 1000
    assert collector.sampled == "every 16th valid pixel"
    np.testing.assert_allclose(points, 0.5 * truth, atol=1e-5)


def test_one_frame_of_many_times_the_points_is_thinned_at_once() -> None:
    collector = family(100, (0.0, 80.0))
    collector.add(*frame_pair(0))
    # 21 of 24 rows of 32 pixels have depth: 672, of which every eighth is the first share that fits.
    assert len(collector.clouds()[0]) == 84
    assert collector.sampled == "every 8th valid pixel"
    halved = family(671, (0.0, 80.0))
    halved.add(*frame_pair(0))
    assert (len(halved.clouds()[0]), halved.sampled) == (336, "every 2th valid pixel")
    whole = family(672, (0.0, 80.0))
    whole.add(*frame_pair(0))
    assert (len(whole.clouds()[0]), whole.sampled) == (672, "")


def test_clouds_are_compared_by_the_families_own_settings() -> None:
    settings = PointSettings(voxel_m=None, icp_m=None, threshold_m=0.2, normal_neighbours=None, max_points=1000)
    for gives_depth in (True, False):
        collector = PointFamily(settings, SceneContext(gives_depth=gives_depth))
        for index in range(12):
            frame, prediction = frame_pair(index)
            collector.add(frame if index < 10 else replace(frame, depth=None), prediction)
        nothing = Trajectory(np.empty(0, np.int64), np.empty(0), np.empty((0, 4, 4)))
        found = collector.compute(ScoredScene(nothing, nothing, 12))
        assert len(found) == 8
        if gives_depth:
            assert found[0].value == pytest.approx(0, abs=1e-5)
            words = "Umeyama on corresponding points; every 8th valid pixel, 2 frames without true depth left out"
            assert {m.convention.partition("; ")[2] for m in found} == {words}
            assert "closer than 0.2 m" in {m.name: m.convention for m in found}["precision"]
        else:
            assert {(m.value, m.reason) for m in found} == {(None, "the method gives no depth")}


def test_frames_that_lack_something_are_counted() -> None:
    collector = family(1000, (0.0, 80.0))
    frame, prediction = frame_pair(0)
    collector.add(Frame(0, 0.0, None, "made", None, frame.depth, K), prediction)
    collector.add(frame, Prediction(1, 0.0, prediction.camera_to_world, None))
    assert collector.sampled == "1 frames without reference pose left out, 1 frames without predicted depth left out"
    assert "only 0 points" in (score_points(*collector.clouds(), 0)[0].reason or "")
    words = r"frame 0: predicted depth of shape \(2, 2\) does not match the true depth of shape \(24, 32\)"
    with pytest.raises(DataError, match=words):
        collector.add(frame, Prediction(0, 0.0, prediction.camera_to_world, np.ones((2, 2), np.float32)))


def test_each_side_is_seen_through_its_own_camera() -> None:
    """Without a camera of its own a method is taken to have used the frame's."""
    frame, prediction = frame_pair(0)
    own = np.array([[15.0, 0, 10], [0, 16.0, 9], [0, 0, 1]])
    assert frame.depth is not None
    rows, columns = np.nonzero(frame.depth)
    z = 0.5 * frame.depth[rows, columns]
    for given, camera in ((own, own), (None, K)):
        collector = family(10_000, (0.0, 80.0))
        collector.add(frame, replace(prediction, camera_to_world=np.eye(4), intrinsics=given))
        expected = [(columns - camera[0, 2]) / camera[0, 0] * z, (rows - camera[1, 2]) / camera[1, 1] * z, z]
        np.testing.assert_allclose(collector.clouds()[1], np.stack(expected, axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("lacks", "word"),
    [
        ({"has_orientation": False}, "estimated pose"),
        ({"camera_to_world": None}, "estimated pose"),
        ({"depth": None}, "predicted depth"),
    ],
)
def test_a_prediction_that_cannot_be_placed_is_counted(lacks: dict[str, object], word: str) -> None:
    collector = family(1000, (0.0, 80.0))
    frame, prediction = frame_pair(0)
    collector.add(frame, replace(prediction, **lacks))  # type: ignore[arg-type]
    collector.add(replace(frame, intrinsics=None), prediction)
    assert collector.sampled == (f"1 frames without {word} left out, 1 frames without reference intrinsics left out")
    assert len(collector.clouds()[0]) == 0


def test_thinned_frames_do_not_all_begin_at_the_same_pixel() -> None:
    """Every pixel of a frame would otherwise be of the same columns."""
    collector = family(100, (0.0, 80.0))
    pixels = []
    for index in range(40):
        frame, prediction = frame_pair(0)
        depth = np.arange(1, 24 * 32 + 1, dtype=np.float32).reshape(24, 32) / 100
        before = len(collector._clouds)
        collector.add(replace(frame, camera_to_world=np.eye(4), depth=depth), replace(prediction, depth=depth))
        if index > 20:
            first = collector._clouds[before][0]
            pixels.append(round(float(first[0, 2]) * 100) - 1)
    every = collector._every
    assert len(set(pixels)) > 10
    assert max(pixels) < every
    assert 24 * 32 * 40 / every <= 100


def test_depth_out_of_the_limits_is_no_point() -> None:
    frame, prediction = frame_pair(0)
    depth = np.full((24, 32), 3.0, np.float32)
    depth[0, :6] = [1.0, 1.5, 5.0, 6.0, np.nan, 0.0]
    guess = np.full((24, 32), 3.0, np.float32)
    guess[1, :4] = [0.0, -1.0, np.nan, np.inf]
    collector = family(10_000, (1.0, 5.0))
    collector.add(replace(frame, depth=depth), replace(prediction, depth=guess))
    assert len(collector.clouds()[0]) == 24 * 32 - 5 - 4
