"""Bundle adjustment against scenes that are known, SciPy's rotations and differences in place of derivatives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import StreamError
from lingbot_eval.geometry.poses import rotation_angle
from lingbot_eval.methods.base import OpenMethod
from lingbot_eval.methods.bundle import (
    Observations,
    TwoViews,
    View,
    _cost,
    _linearised,
    _robust,
    adjust,
    adjust_view,
    explained,
    exponential,
    matched,
    reprojection_errors,
    triangulated,
    two_views,
)
from lingbot_eval.methods.odometry import FEWEST, SOUGHT, Odometry
from lingbot_eval.types import FloatArray


def directions(*degrees: float) -> NDArray[np.float32]:
    """Descriptors of length 1 in a plane, so that one number says how alike two are."""
    angles = np.radians(np.array(degrees))
    return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


@pytest.mark.parametrize(
    ("mine", "its", "pairs"),
    [
        # In any order, and what is alone on either side matches nothing.
        ((0, 90, 180), (181, 1, 300), [(0, 1), (2, 0)]),
        # Two features that look alike have one nearest: the nearer of them is matched, whichever comes first.
        ((0, 10, 180), (4, 180), [(0, 0), (2, 1)]),
        ((10, 0, 180), (4, 180), [(1, 0), (2, 1)]),
        # The next must be 1/0.8 times as far, in distances: 4° and 4.8° are as good as alike, 4° and 5.5° are not.
        ((0, 180), (4, -4.8), []),
        ((0, 180), (4, -5.5), [(0, 0)]),
        # The nearest of all is still none where it is far, the next being farther.
        ((0, 180), (50, 200), [(0, 0), (1, 1)]),
        ((0, 180), (55, 200), [(1, 1)]),
        # Of one feature there is no next.
        ((0,), (0, 90), []),
        ((0, 90), (0,), []),
    ],
)
def test_features_match_that_are_each_others_nearest_by_far(
    mine: tuple[float, ...], its: tuple[float, ...], pairs: list[tuple[int, int]]
) -> None:
    assert [each.tolist() for each in matched(directions(*mine), directions(*its))] == (
        [list(rows) for rows in zip(*pairs, strict=True)] if pairs else [[], []]
    )


def scene(views: int = 5, points: int = 60, seed: int = 0) -> tuple[FloatArray, FloatArray, Observations]:
    """Cameras beside each other that look at a cloud four to eight units away; every point is seen by all."""
    rng = np.random.default_rng(seed)
    cloud = np.column_stack([rng.uniform(-2, 2, (points, 2)), rng.uniform(4, 8, points)])
    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(0.05 * rng.normal(size=(views, 3))).as_matrix()
    poses[:, :3, 3] = np.column_stack([-0.4 * np.arange(views), 0.1 * rng.normal(size=(views, 2))])
    poses[0] = np.eye(4)
    view, point = (each.ravel() for each in np.meshgrid(np.arange(views), np.arange(points), indexing="ij"))
    local = np.einsum("kij,kj->ki", poses[view, :3, :3], cloud[point]) + poses[view, :3, 3]
    return poses, cloud, Observations(view, point, local[:, :2] / local[:, 2:], np.full(len(view), 500.0))


def test_a_twist_turns_and_then_moves() -> None:
    twists = np.random.default_rng(0).normal(size=(20, 6))
    twists[0] = 0.0
    twists[1, 3:] = [1e-9, 0, 0]
    found = exponential(twists)
    np.testing.assert_allclose(found[:, :3, :3], Rotation.from_rotvec(twists[:, 3:]).as_matrix(), atol=1e-12)
    np.testing.assert_array_equal(found[:, :3, 3], twists[:, :3])
    np.testing.assert_array_equal(found[:, 3], np.tile([0, 0, 0, 1], (20, 1)))


def test_errors_are_distances_in_the_image_and_infinite_behind_the_camera() -> None:
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 2, 3] = -3.0  # the second camera stands three units ahead
    points = np.array([[2.0, 4.0, 4.0], [2.0, 4.0, 4.0], [0.0, 0.0, 2.0]])
    rays = np.array([[0.5, 1.0], [2.3, 4.4], [0.0, 0.0]])
    found = reprojection_errors(poses, points, np.array([0, 1, 1]), rays)
    np.testing.assert_allclose(found, [0.0, 0.5, np.inf])


def test_derivatives_are_those_of_small_changes() -> None:
    poses, points, seen = scene(views=3, points=4)
    points = points[seen.point] + 0.05
    _, by_pose, by_point, before = _linearised(poses, points, seen.view, seen.rays)
    assert before.tolist() == [1.0] * len(points)
    small = 1e-6
    for number in range(6):
        twist = np.zeros((1, 6))
        twist[0, number] = small
        plus, minus = (
            _linearised(exponential(sign * twist) @ poses, points, seen.view, seen.rays)[0] for sign in (1, -1)
        )
        np.testing.assert_allclose(by_pose[:, :, number], (plus - minus) / (2 * small), atol=1e-6)
    for axis in range(3):
        step = small * np.eye(3)[axis]
        plus, minus = (_linearised(poses, points + sign * step, seen.view, seen.rays)[0] for sign in (1, -1))
        np.testing.assert_allclose(by_point[:, :, axis], (plus - minus) / (2 * small), atol=1e-6)
    behind = points.copy()
    behind[0, 2] = -5.0
    assert _linearised(poses, behind, seen.view, seen.rays)[3][0] == 0.0


def test_mistakes_count_linearly_and_no_more_than_a_clear_one() -> None:
    """Huber's estimator in standard deviations: squares up to 1.5, then lines; at 100 it ends."""
    sizes = np.array([0.5, 1.5, 4.0, 99.0, 5000.0])
    poses, points = np.eye(4)[None], np.array([[0.0, 0.0, 1.0]])
    for size in sizes:
        seen = Observations(np.array([0]), np.array([0]), np.array([[size / 10, 0.0]]), np.array([10.0]))
        counted = min(size, 100.0)
        expected = counted**2 if counted <= 1.5 else 1.5 * (2 * counted - 1.5)
        assert _cost(poses, points, seen, 1.0, 0.0) == pytest.approx(expected)
    seen = Observations(np.array([0]), np.array([0]), np.zeros((1, 2)), np.ones(1))
    assert _cost(poses, points, seen, np.exp(0.3), 0.1) == pytest.approx(9)  # three standard deviations of doubt
    behind = np.array([[0.0, 0.0, -1.0]])
    assert _cost(poses, behind, seen, 1.0, 0.0) == pytest.approx(1.5 * (200 - 1.5))
    weights = _robust(np.array([[0.03, 0.04], [0.3, 0.4]]), np.array([20.0, 20.0]))
    np.testing.assert_allclose(weights, [20.0, 20 * np.sqrt(1.5 / 10)])


def test_views_and_points_come_back_to_where_they_were() -> None:
    poses, points, seen = scene()
    rng = np.random.default_rng(1)
    shaken = exponential(0.02 * rng.normal(size=(len(poses), 6))) @ poses
    shaken[:2] = poses[:2]
    found, cloud, focal = adjust(shaken, points + 0.1 * rng.normal(size=points.shape), seen, 2, iterations=30)
    assert focal == 1.0
    np.testing.assert_array_equal(found[:2], poses[:2])
    np.testing.assert_allclose(found, poses, atol=1e-5)
    np.testing.assert_allclose(cloud, points, atol=1e-4)


def test_of_one_view_that_is_held_the_scale_is_free_and_nothing_else() -> None:
    poses, points, seen = scene()
    rng = np.random.default_rng(2)
    shaken = exponential(0.02 * rng.normal(size=(len(poses), 6))) @ poses
    shaken[0] = poses[0]
    found, cloud, _ = adjust(shaken, points + 0.05 * rng.normal(size=points.shape), seen, 1, iterations=40)
    scale = np.linalg.norm(cloud) / np.linalg.norm(points)
    assert scale == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(cloud / scale, points, atol=1e-3)
    np.testing.assert_allclose(found[:, :3, 3] / scale, poses[:, :3, 3], atol=1e-3)


def test_one_clear_mistake_moves_little() -> None:
    poses, points, seen = scene()
    rays = seen.rays.copy()
    rays[70] += 0.3
    wrong = Observations(seen.view, seen.point, rays, seen.weights)
    found, cloud, _ = adjust(poses, points, wrong, 2, iterations=30)
    np.testing.assert_allclose(found, poses, atol=2e-3)
    others = np.arange(len(points)) != seen.point[70]
    np.testing.assert_allclose(cloud[others], points[others], atol=0.02)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_focal_length_in_doubt_is_found(share: float) -> None:
    """Rays that were made with a focal length too short are too long, by as much."""
    poses, points, seen = scene(views=8, points=100)
    # A way that turns and goes ahead, without which the focal length could be any.
    poses = poses.copy()
    poses[:, 2, 3] += -0.3 * np.arange(8)
    poses[:, :3, :3] = Rotation.from_euler("y", -4 * np.arange(8)[:, None], degrees=True).as_matrix().reshape(-1, 3, 3)
    local = np.einsum("kij,kj->ki", poses[seen.view, :3, :3], points[seen.point]) + poses[seen.view, :3, 3]
    assert (local[:, 2] > 0.5).all()
    rays = local[:, :2] / local[:, 2:]
    wrong = Observations(seen.view, seen.point, rays * share, seen.weights)
    _, _, focal = adjust(poses, points, wrong, 1, iterations=60, doubt=0.2)
    assert focal == pytest.approx(share, rel=5e-3)
    _, _, held = adjust(poses, points, wrong, 1, iterations=10, doubt=1e-5)
    assert held == pytest.approx(1, abs=1e-3)


def test_a_focal_length_that_is_hardly_in_doubt_keeps_no_view_from_its_place() -> None:
    poses, points, seen = scene()
    rng = np.random.default_rng(1)
    shaken = exponential(0.02 * rng.normal(size=(len(poses), 6))) @ poses
    shaken[:2] = poses[:2]
    moved = points + 0.1 * rng.normal(size=points.shape)
    found, cloud, focal = adjust(shaken, moved, seen, 2, iterations=30, doubt=1e-6)
    assert focal == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found, poses, atol=1e-5)
    np.testing.assert_allclose(cloud, points, atol=1e-4)


def test_a_view_is_placed_by_points_that_are_known() -> None:
    poses, points, seen = scene()
    mine = seen.view == 3
    start = exponential(np.array([[0.1, -0.1, 0.05, 0.03, -0.05, 0.02]]))[0] @ poses[3]
    found = adjust_view(start, points[seen.point[mine]], seen.rays[mine], seen.weights[mine])
    np.testing.assert_allclose(found, poses[3], atol=1e-6)
    assert rotation_angle(found[:3, :3] @ start[:3, :3].T) > 0.05


def test_two_views_make_points_and_the_angle_between_their_rays() -> None:
    """Cameras two apart, both looking ahead; a point four before their middle, one aside that is farther."""
    other = np.eye(4)
    other[:3, :3] = Rotation.from_euler("y", 10, degrees=True).as_matrix()
    other[:3, 3] = -other[:3, :3] @ [2.0, 0, 0]
    points = np.array([[1.0, 0.0, 4.0], [-3.0, 2.0, 9.0]])
    local = points @ other[:3, :3].T + other[:3, 3]
    found, angles = triangulated(np.eye(4), other, points[:, :2] / points[:, 2:], local[:, :2] / local[:, 2:])
    np.testing.assert_allclose(found, points, atol=1e-9)
    lines = points, points - [2.0, 0, 0]
    cosines = (lines[0] * lines[1]).sum(axis=1) / np.prod([np.linalg.norm(line, axis=1) for line in lines], axis=0)
    np.testing.assert_allclose(angles, np.arccos(cosines))
    assert np.degrees(angles[0]) == pytest.approx(2 * np.degrees(np.arctan(1 / 4)))


def test_an_error_explains_the_less_the_larger_it_is() -> None:
    assert explained(np.array([0.0, 1.0, 2.0, 3.0, np.inf]), 2.0) == pytest.approx(1 + 0.75)


FOCAL = 300.0


def pair(
    count: int, apart: float, wrong: int = 0, depth: tuple[float, float] = (4.0, 8.0), slope: float | None = None
) -> Any:
    """Two views of a cloud, ``apart`` beside each other; the features of the second come in the reverse order.

    ``wrong``: matches, the last ones, that are none. ``slope``: degrees by which a plane, in place of the cloud,
    goes away to the right.
    """
    rng = np.random.default_rng(0)
    cloud = np.column_stack([rng.uniform(-2, 2, (count, 2)), rng.uniform(*depth, count)])
    if slope is not None:
        cloud[:, 2] = 5 + np.tan(np.radians(slope)) * cloud[:, 0]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec([0.02, -0.05, 0.03]).as_matrix()
    motion[:3, 3] = apart * np.array([-0.8, 0.0, 0.6])
    local = cloud @ motion[:3, :3].T + motion[:3, 3]
    rays, others = cloud[:, :2] / cloud[:, 2:], (local[:, :2] / local[:, 2:])[::-1].copy()
    others[:wrong] += rng.choice([-0.4, 0.4], (wrong, 2))
    views = [
        View(number, seen, np.empty(0), np.ones(count), FOCAL, np.full(count, -1))
        for number, seen in enumerate((rays, others))
    ]
    rows = np.arange(count)
    cv2 = pytest.importorskip("cv2")
    cv2.setRNGSeed(0)
    return cloud / apart, motion, two_views(cv2, *views, rows, rows[::-1].copy())


def test_two_views_that_see_enough_have_one_explanation_whose_way_is_of_length_one() -> None:
    cloud, motion, (found,) = pair(200, 0.5, wrong=40)
    np.testing.assert_allclose(found.motion[:3, :3], motion[:3, :3], atol=1e-4)
    np.testing.assert_allclose(found.motion[:3, 3], [-0.8, 0.0, 0.6], atol=2e-3)
    assert found.matches == 200
    assert found.score == pytest.approx(160, abs=3)
    assert len(found.first) == pytest.approx(160, abs=3)
    np.testing.assert_array_equal(found.first + found.second, np.full(len(found.first), 199))
    np.testing.assert_allclose(found.points, cloud[found.first], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ({"count": 60, "apart": 0.5}, True),
        ({"count": 49, "apart": 0.5}, False),  # of fifty points a map is made
        ({"count": 200, "apart": 0.25}, True),  # rays meet at 2°
        ({"count": 200, "apart": 0.12}, False),  # at 1°
        ({"count": 200, "apart": 0.2, "depth": (2.0, 16.0)}, False),  # some at 4°, half of them below 1°
        ({"count": 200, "apart": 0.5, "wrong": 90}, True),
        ({"count": 200, "apart": 0.5, "wrong": 120}, False),  # most of what matches should fit
    ],
)
def test_two_views_that_say_too_little_have_no_explanation(given: dict[str, Any], there: bool) -> None:
    *_, found = pair(**given)
    assert bool(found) is there


@pytest.mark.parametrize(
    ("slope", "apart", "turned", "aside"),
    [
        (30, 0.8, 3.4, 18.9),  # the turn alone tells them apart
        (15, 0.8, 5.1, 32.9),
    ],
)
def test_two_views_of_a_plane_have_two_explanations(slope: float, apart: float, turned: float, aside: float) -> None:
    """Both fit alike, and they differ by more than 2° of turn or more than 20° of way."""
    _, motion, found = pair(300, apart, slope=slope)
    assert len(found) == 2
    true, other = sorted(found, key=lambda each: -(each.motion[:3, 3] @ motion[:3, 3]))
    np.testing.assert_allclose(true.motion[:3, 3], motion[:3, 3] / apart, atol=0.01)
    assert true.score == pytest.approx(other.score, rel=0.01)
    turns = Rotation.from_matrix([each.motion[:3, :3] for each in (true, other)])
    assert np.degrees((turns[0] * turns[1].inv()).magnitude()) == pytest.approx(turned, abs=0.3)
    assert np.degrees(np.arccos(true.motion[:3, 3] @ other.motion[:3, 3])) == pytest.approx(aside, abs=1)


@pytest.mark.parametrize("keys", [5, SOUGHT, SOUGHT + 1, 200])
def test_a_lost_frame_is_looked_for_in_the_latest_keyframes_and_some_of_the_others(
    monkeypatch: pytest.MonkeyPatch, keys: int
) -> None:
    seeds: list[int] = []
    opencv: Any = SimpleNamespace(SIFT_create=lambda *_, **__: None, setRNGSeed=seeds.append)
    odometry: Any = Odometry(opencv, seed=7)
    assert seeds == [7]
    # Keyframe k sees the points 100 k …; every seventh sees too few.
    odometry.keyframes = [
        SimpleNamespace(point=np.concatenate([[-1], 100 * k + np.arange(3 if k % 7 == 6 else FEWEST)]))
        for k in range(keys)
    ]
    asked: list[int] = []

    def tracked(view: object, rows: FloatArray, foretold: object) -> bool:
        assert foretold is None
        assert len(rows) == FEWEST
        asked.append(int(rows[0]) // 100)
        return len(asked) == stop

    monkeypatch.setattr(odometry, "_tracked", tracked)
    stop = -1
    assert not odometry._found_again(None)
    assert odometry.relocated == 0
    assert asked == sorted(asked, reverse=True)
    usable = [k for k in range(keys) if k % 7 != 6]
    if keys <= SOUGHT:
        assert asked == usable[::-1]
    else:
        assert len(asked) <= SOUGHT
        assert [k for k in asked if k >= keys - SOUGHT // 2] == [k for k in usable[::-1] if k >= keys - SOUGHT // 2]
        assert min(asked) < keys - SOUGHT // 2
    asked.clear()
    stop = 2
    assert odometry._found_again(None)
    assert (odometry.relocated, asked) == (1, usable[::-1][:2])


def test_features_are_rays_by_the_focal_length_of_each_axis() -> None:
    """Pixels of 400 across and 500 down; a feature of the second octave is told to 1.4 pixels, no finer one below 1."""
    asked: list[Any] = []
    keys = [SimpleNamespace(pt=point, octave=octave) for point, octave in (((170.0, 80.0), 1), ((90.0, 130.0), 255))]
    histograms = np.array([[9.0, 16.0, 0.0, 0.0], [0.0, 0.0, 1.0, 3.0]], np.float32)
    sift = SimpleNamespace(detectAndCompute=lambda grey, mask: asked.append(grey) or (keys, histograms))
    opencv: Any = SimpleNamespace(
        SIFT_create=lambda **_: sift,
        setRNGSeed=lambda _: None,
        COLOR_RGB2GRAY="grey of RGB",
        COLOR_BGR2GRAY="grey of BGR",
        cvtColor=lambda image, kind: kind,
    )
    odometry = Odometry(opencv, focal=1.1)
    camera = np.array([[400.0, 0, 150], [0, 500.0, 100], [0, 0, 1]])
    view = odometry._seen(3, np.zeros((200, 300, 3), np.uint8), camera)
    assert asked == ["grey of RGB"]
    np.testing.assert_allclose(view.rays, [[20 / 440, -20 / 550], [-60 / 440, 30 / 550]])
    assert (view.index, view.focal, view.point.tolist()) == (3, pytest.approx(495), [-1, -1])
    np.testing.assert_allclose(view.sizes * view.focal, [1.4, 1.0])
    np.testing.assert_allclose(view.descriptors, [[0.6, 0.8, 0, 0], [0, 0, 0.5, np.sqrt(0.75)]], atol=1e-6)


def odometry_with(views: list[View]) -> Any:
    opencv: Any = SimpleNamespace(SIFT_create=lambda *_, **__: None, setRNGSeed=lambda _: None)
    made = Odometry(opencv)
    made.keyframes = views
    return made


def view_of(*points: int, rays: Any = 0.0, focal: float = 200.0) -> View:
    count = len(points)
    return View(
        0,
        np.zeros((count, 2)) + rays,
        np.eye(max(count, 2), 128, dtype=np.float32)[:count],
        0.01 * (1 + np.arange(count)),
        focal,
        np.array(points),
        np.eye(4),
    )


@pytest.mark.parametrize(
    ("shared", "moved", "key"),
    [(60, 39.0, False), (60, 41.0, True), (50, 0.0, False), (49, 0.0, True)],
)
def test_a_frame_is_a_keyframe_where_it_moved_far_or_sees_little_of_the_last(
    shared: int, moved: float, key: bool
) -> None:
    """Of the last one's hundred points; pixels, of the middle one of the features."""
    last = view_of(*[-1] * 60, *range(100))
    last.rays[:60] = 9.0  # of no point
    odometry = odometry_with([last])
    odometry._kept = 100
    # Points come in another order, between features that are none.
    view = view_of(-1, *range(shared)[::-1], -1, *range(500, 540), rays=[0.0, moved / 200])
    view.rays[1 : shared // 3] = 9.0
    assert odometry._is_key(view) is key


def test_what_two_views_see_is_an_observation_and_what_one_alone_sees_is_none() -> None:
    views = [view_of(5, -1, 9, 7), view_of(7, 3, 5), view_of(3, -1, 8)]
    for number, view in enumerate(views):
        view.rays = 10.0 * number + np.arange(2 * len(view.point), dtype=float).reshape(-1, 2)
    rows, feature, seen = odometry_with(views)._observed(views)
    assert rows.tolist() == [3, 5, 7]
    assert [rows[place] for place in seen.point] == [5, 7, 7, 3, 5, 3]
    assert seen.view.tolist() == [0, 0, 1, 1, 1, 2]
    assert feature.tolist() == [0, 3, 0, 1, 2, 0]
    assert seen.rays[:, 0].tolist() == [0, 6, 10, 12, 14, 20]
    np.testing.assert_allclose(seen.weights, [100, 25, 100, 50, 100 / 3, 100])
    assert odometry_with(views)._observed([view_of(1), view_of(2)]) is None


def seen_along(*across: float) -> View:
    """A view whose features lie beside each other, each told apart."""
    view = view_of(*[-1] * len(across))
    view.rays = np.column_stack([across, np.zeros(len(across))])
    return view


def test_features_are_those_that_look_most_like_what_should_be_where_they_are() -> None:
    """Within eight pixels of 200 a unit, 0.04; of two that claim one feature the more alike, not the nearer."""
    view = seen_along(0.0, 0.02, 0.5, 1.0, -0.5)
    told = np.eye(10, 128)
    mapped = [
        (0.01, 2.0, told[1]),  # between two features, and like the second
        (0.539, 2.0, told[2]),
        (0.5, 2.0, 0.8 * told[2] + 0.6 * told[9]),
        (1.041, 2.0, told[3]),  # too far
        (-0.5, -2.0, told[4]),  # behind the camera
        (-0.5, 2.0, 0.74 * told[4] + 0.67 * told[9]),  # too little like it
        (0.0, 2.0, 0.76 * told[0] + 0.65 * told[9]),
    ]
    turn = Rotation.from_euler("y", 30, degrees=True).as_matrix()
    view.pose[:3, :3], view.pose[:3, 3] = turn, [0.5, -0.25, 1.0]
    local = np.array([[ray * depth, 0.0, depth] for ray, depth, _ in mapped])
    odometry = odometry_with([])
    odometry._points = np.concatenate([np.full((2, 3), 7.0), (local - view.pose[:3, 3]) @ turn])
    odometry._descriptors = np.concatenate([told[:2], [like for *_, like in mapped]])
    features, rows = odometry._guided(view, np.arange(2, 9)[::-1].copy())
    assert sorted(zip(rows.tolist(), features.tolist(), strict=True)) == [(2, 1), (3, 2), (8, 0)]
    assert [len(each) for each in odometry._guided(view, np.array([6]))] == [0, 0]


def test_two_keyframes_make_points_of_what_they_see_well_and_the_map_lacks() -> None:
    """Cameras one apart. Rays must meet at more than 0.8°, and pass each by two standard deviations at most."""
    points = np.array([[0.5, 0, 4], [0.5, 0, 100], [0.5, 0, 50], *[[0.5, 0, 4]] * 3, [0.5, 0.5, 4], [0.5, 0.5, 4]])
    other, view = (view_of(*[-1] * 8) for _ in range(2))
    view.pose[0, 3] = -1.0
    for each, place in ((other, 0.0), (view, 1.0)):
        each.rays = (points - [place, 0, 0])[:, :2] / points[:, 2:]
        each.sizes[:] = 0.01
    # Rays that pass each other by 0.03, which is 0.015 for each of them.
    view.rays[3:6, 1] += 0.03
    view.sizes[3], other.sizes[3] = 0.005, 0.1
    view.sizes[4], other.sizes[4] = 0.1, 0.005
    view.point[6] = 3
    other.point[7] = 4
    other.descriptors[0] = 0.9 * other.descriptors[0] + np.sqrt(0.19) * np.eye(128)[20]
    # The other has them in the reverse order.
    for name in ("rays", "sizes", "point", "descriptors"):
        setattr(other, name, getattr(other, name)[::-1].copy())
    odometry = odometry_with([])
    odometry._points, odometry._descriptors = np.zeros((10, 3)), np.zeros((10, 128), np.float32)
    odometry._triangulate(other, view)
    assert view.point.tolist() == [10, -1, 11, -1, -1, 12, 3, -1]
    assert other.point.tolist() == [4, -1, 12, -1, -1, 11, -1, 10]
    np.testing.assert_allclose(odometry._points[10:12], points[[0, 2]], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(odometry._descriptors[10:], view.descriptors[[0, 2, 5]])
    view.point[:] = 0
    odometry._triangulate(other, view)
    assert len(odometry._points) == 13


def keyframes_of(count: int) -> tuple[list[View], FloatArray]:
    """Views of one cloud, all of which each sees; and the cloud."""
    poses, cloud, seen = scene(views=count)
    everything = np.arange(len(cloud))
    views = []
    for number, pose in enumerate(poses):
        views.append(view_of(*everything, rays=seen.rays[seen.view == number], focal=500.0))
        views[-1].world_to_camera, views[-1].sizes = pose.copy(), np.full(len(cloud), 1 / 500)
    return views, cloud


def test_the_last_keyframes_are_adjusted_and_forget_what_does_not_fit() -> None:
    """Eight of ten, the oldest three of which stay; what is 3 standard deviations off, six thousandths, is no more."""
    views, cloud = keyframes_of(10)
    places = [view.pose.copy() for view in views]
    for number, point, off in ((0, 3, 0.3), (6, 11, 0.3), (7, 20, 0.0071), (8, 21, 0.004)):
        views[number].rays[point, 1] += off
    views[5].world_to_camera = exponential(np.full((1, 6), 0.01))[0] @ places[5]
    odometry = odometry_with(views)
    odometry._points = cloud.copy()
    odometry._adjust()
    forgotten = [(number, point) for number, view in enumerate(views) for point in np.flatnonzero(view.point < 0)]
    assert forgotten == [(6, 11), (7, 20)]
    for number in range(5):
        np.testing.assert_array_equal(views[number].pose, places[number])
    np.testing.assert_allclose(views[5].pose, places[5], atol=2e-3)
    np.testing.assert_allclose(
        np.delete(odometry._points, [11, 20, 21], axis=0), np.delete(cloud, [11, 20, 21], 0), atol=0.02
    )


def test_the_first_map_has_a_median_depth_of_one() -> None:
    (first, second), cloud = keyframes_of(2)
    way, depth = second.pose[:3, 3].copy(), float(np.median(cloud[:, 2]))
    motion = second.pose.copy()
    motion[:3, 3] /= np.linalg.norm(way)
    second.rays, rows = second.rays[::-1].copy(), np.arange(len(cloud))
    for view in (first, second):
        view.point[:], view.world_to_camera = -1, None
    odometry = odometry_with([])
    pair = TwoViews(motion, rows, rows[::-1].copy(), cloud / np.linalg.norm(way), 60.0, 60)
    odometry._first_map(first, second, pair)
    assert odometry.keyframes == [first, second]
    np.testing.assert_array_equal(first.pose, np.eye(4))
    np.testing.assert_allclose(second.pose[:3, 3], way / depth, atol=1e-5)
    np.testing.assert_allclose(odometry._points, cloud / depth, atol=1e-4)
    assert np.median(odometry._points[:, 2]) == pytest.approx(1)
    assert (first.point.tolist(), second.point.tolist()) == (rows.tolist(), rows[::-1].tolist())
    assert odometry._kept == 60


def test_a_keyframe_meets_the_last_four_and_an_old_one_keeps_its_points_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A focal length in doubt is estimated at the sixth, the ninth and the thirteenth."""
    views = [view_of(-1, number, -1, 99) for number in range(14)]
    for number, view in enumerate(views):
        view.rays[:], view.index = np.arange(4)[:, None], number
    odometry = odometry_with(views[:4])
    odometry.doubt = 0.3
    met: list[int] = []
    calibrated: list[int] = []
    monkeypatch.setattr(odometry, "_triangulate", lambda other, view: met.append(other.index))
    monkeypatch.setattr(odometry, "_adjust", lambda: None)
    monkeypatch.setattr(odometry, "_calibrate", lambda: calibrated.append(len(odometry.keyframes)))
    for count, view in enumerate(views[4:], start=5):
        met.clear()
        odometry._add_key(view)
        assert met == [count - 2, count - 3, count - 4, count - 5]
        assert odometry._kept == 2
        assert [len(view.rays) for view in odometry.keyframes] == [2] * (count - 12) + [4] * min(count, 12)
    assert calibrated == [6, 9, 13]
    old = views[1]
    assert (old.point.tolist(), old.rays[:, 0].tolist(), len(old.descriptors)) == ([1, 99], [1, 3], 0)
    np.testing.assert_allclose(old.sizes, [0.02, 0.04])


@pytest.mark.parametrize(
    ("scores", "best", "clear"),
    [
        ((), None, False),
        ((20.0,), 0, True),
        ((80.0, 90.0, 70.0), 1, True),
        # A tenth is not explained: another must leave more than 1.3 tenths and a hundredth.
        ((90.0, 85.5), 0, True),
        ((86.5, 90.0), 1, False),
    ],
)
def test_an_explanation_is_chosen_where_no_other_fits_nearly_as_well(
    scores: tuple[float, ...], best: int | None, clear: bool
) -> None:
    none = np.empty(0, np.int64)
    found = [TwoViews(np.eye(4), none, none, np.empty((0, 3)), score, 100) for score in scores]
    odometry = odometry_with([])
    odometry._first = view_of(-1)
    odometry._awaiting.extend([(0, None), (1, view_of(-1))])
    chosen, is_clear = odometry._chosen(found)
    assert (chosen, is_clear) == (None if best is None else found[best], clear)


def test_a_frame_is_looked_for_where_the_steady_motion_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """On from the last two frames; after a lost one, or one whose neighbour was, where the last one was seen."""
    places = np.tile(np.eye(4), (7, 1, 1))
    places[:, :3, :3] = Rotation.from_rotvec(np.outer(np.arange(7) ** 1.5, [0.02, -0.01, 0.03])).as_matrix()
    places[:, 0, 3] = np.arange(7) ** 2 / 10
    odometry = odometry_with([view_of(1)])
    expected: list[FloatArray] = []
    keys: list[int] = []

    def tracked(view: View, rows: FloatArray, guess: FloatArray) -> bool:
        np.testing.assert_allclose(guess, expected[-1], atol=1e-12)
        view.world_to_camera = places[view.index]
        return view.index != 4

    monkeypatch.setattr(odometry, "_tracked", tracked)
    monkeypatch.setattr(odometry, "_found_again", lambda view: False)
    monkeypatch.setattr(odometry, "_is_key", lambda view: True)
    monkeypatch.setattr(odometry, "_add_key", lambda view: keys.append(view.index))
    on = places[2] @ np.linalg.inv(places[1]) @ places[2]
    for index, place in enumerate([np.eye(4), places[1], on, None, places[3], places[5]], start=1):
        expected.append(places[3] @ np.linalg.inv(places[2]) @ places[3] if place is None else place)
        view = view_of(1)
        view.index = index
        found = odometry._placed(view, becoming_key=index != 2)
        if index == 4:
            assert found is None
        else:
            np.testing.assert_allclose(found, np.linalg.inv(places[index]), atol=1e-12)
    assert (odometry.lost, keys) == (1, [1, 3, 5, 6])


PINHOLE = np.array([[200.0, 0, 159.5], [0, 200.0, 119.5], [0, 0, 1]])


class PointsForFeatures:
    """OpenCV, but that the features of picture n are points all around, each told apart, as camera n sees them."""

    def __init__(self, camera_to_world: FloatArray, count: int) -> None:
        rng = self.rng = np.random.default_rng(0)
        directions = rng.normal(size=(count, 3))
        self.poses = camera_to_world
        self.cloud = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.uniform(4, 8, (count, 1))
        self.histograms = (rng.exponential(size=(count, 128)) ** 3).astype(np.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(pytest.importorskip("cv2"), name)

    def SIFT_create(self, **_: object) -> Any:  # noqa: N802
        return self

    def cvtColor(self, image: int, _: object) -> int:  # noqa: N802
        return image

    def detectAndCompute(self, image: int, _: object) -> Any:  # noqa: N802
        local = (self.cloud - self.poses[image][:3, 3]) @ self.poses[image][:3, :3]
        pixels = (local / local[:, 2:] @ PINHOLE.T)[:, :2] + 0.1 * self.rng.normal(size=(len(local), 2))
        seen = (local[:, 2] > 0.1) & (pixels > 0).all(axis=1) & (pixels < [319, 239]).all(axis=1)
        return [self.KeyPoint(float(x), float(y), 1.0) for x, y in pixels[seen]], self.histograms[seen]


def walked(turns: Rotation, positions: FloatArray, focal: float = 1.0, doubt: float = 0.0) -> tuple[Odometry, Any]:
    """What odometry says of a camera's way. focal: the one that it is told, as a share of the true one."""
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = turns.as_matrix(), positions
    opencv: Any = PointsForFeatures(poses, 1500)
    odometry, found = Odometry(opencv, doubt), []
    told = np.where(np.eye(3, dtype=bool), PINHOLE * [focal, focal, 1.0], PINHOLE)
    for index in range(len(poses)):
        picture: Any = index
        found += odometry.step(index, picture, told)
    found += odometry.finish()
    assert [index for index, _ in found] == list(range(len(poses)))
    assert odometry.lost == 0
    return odometry, np.stack([pose for _, pose in found])


def test_after_the_first_frame_went_out_of_sight_the_world_is_still_its_camera() -> None:
    """Turned by 80° about one axis, the camera goes to its right and nods: about two axes no order is as good."""
    aside = Rotation.from_euler("y", 80, degrees=True)
    turns = Rotation.concatenate(
        [
            Rotation.from_euler("y", 20.0 * np.arange(5)[:, None], degrees=True),
            aside * Rotation.from_euler("x", 5.0 * np.arange(1, 6)[:, None], degrees=True),
        ]
    )
    positions = np.concatenate([np.zeros((5, 3)), aside.apply(np.outer(np.arange(1, 6), [0.2, 0, 0]))])
    _, found = walked(turns, positions)
    assert np.degrees((Rotation.from_matrix(found[:, :3, :3]) * turns.inv()).magnitude()).max() < 1
    ways = found[5:, :3, 3] / np.linalg.norm(found[5:, :3, 3], axis=1, keepdims=True)
    assert np.degrees(np.arccos(ways @ aside.apply([1.0, 0, 0]))).max() < 5


def test_a_focal_length_that_is_mended_leaves_the_steps_as_long_as_they_were() -> None:
    """It was a tenth too short; what is mended at the sixth keyframe, frame 9, is 1/0.9."""
    count = np.arange(13)
    turns = Rotation.from_euler("y", 6.0 * count[:, None], degrees=True)
    odometry, found = walked(turns, np.outer(count, [0.3, 0, 0.15]), focal=0.9, doubt=0.3)
    assert odometry.focal == pytest.approx(1 / 0.9, rel=0.01)
    assert len(odometry.keyframes) < 9, "mended once"
    steps = np.linalg.norm(np.diff(found[:, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(steps[9:], steps[8], rtol=0.1)


def test_of_a_camera_that_stands_each_frame_is_decided_32_frames_later() -> None:
    """The first is kept to compare with; what still waits at the end is where it is."""
    places = np.tile(np.eye(4), (36, 1, 1))
    opencv: Any = PointsForFeatures(places, 1000)
    odometry = Odometry(opencv)
    pictures: Any = range(36)
    decided = [[index for index, _ in odometry.step(index, pictures[index], PINHOLE)] for index in range(36)]
    assert decided == [[]] * 32 + [[0], [1], [2], [3]]
    rest = list(odometry.finish())
    assert [index for index, _ in rest] == list(range(4, 36))
    for _, pose in rest:
        np.testing.assert_array_equal(pose, np.eye(4))
    assert odometry.lost == 0
    assert list(odometry.finish()) == []


@pytest.mark.parametrize(
    ("count", "off", "ahead", "there"),
    [
        (40, 0.0, 0.0, True),
        (40, 0.8, 0.0, True),
        (40, 1.3, 0.0, False),  # pixels, of most features
        (40, 0.0, 0.2, False),  # it has left its place
        (FEWEST, 0.0, 0.0, True),
        (FEWEST - 1, 0.0, 0.0, False),
    ],
)
def test_a_camera_has_turned_where_a_rotation_tells_all_that_moved(
    count: int, off: float, ahead: float, there: bool
) -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-2, 2, (count, 2)), rng.uniform(3, 9, count)])
    turn = Rotation.from_rotvec([0.05, -0.2, 0.1]).as_matrix()
    first, view = (view_of(*[-1] * count) for _ in range(2))
    local = (points - [0, 0, ahead]) @ turn.T
    first.rays, view.rays = points[:, :2] / points[:, 2:], local[:, :2] / local[:, 2:]
    # Half of them up, half of them down, in no order: no turn can tell it.
    view.rays[:, 1] += rng.permutation(np.resize([1, -1], count)) * off / view.focal
    odometry = odometry_with([])
    odometry._first = first
    found = odometry._turned(view)
    assert (found is not None) is there
    if found is not None:
        np.testing.assert_array_equal(found[:3, 3], np.zeros(3))
        np.testing.assert_allclose(found[:3, :3], turn, atol=0.003 if off else 1e-9)


class Kept:
    """A method, its settings, and what was done with it."""

    def __init__(self, name: str, log: list[str], fails: BaseException | None = None, takes_over: bool = False) -> None:
        self.name, self.log, self.fails, self.takes_over = name, log, fails, takes_over

    def create(self) -> Kept:
        self.log.append(f"create {self.name}")
        return self

    def create_from(self, other: Kept) -> Kept | None:
        return self if self.takes_over else None

    def close(self) -> None:
        self.log.append(f"close {self.name}")
        if self.fails is not None:
            raise self.fails


def test_one_method_is_open_at_a_time() -> None:
    log: list[str] = []
    a, b, c = Kept("a", log), Kept("b", log), Kept("c", log, takes_over=True)
    held: Any = OpenMethod()
    held.close()
    assert held.get(a) is held.get(a) is a
    assert held.get(b) is b
    assert held.get(c) is c
    held.close()
    held.close()
    assert log == ["create a", "close a", "create b", "close b", "close c"]


@pytest.mark.parametrize("error", [RuntimeError("no\nmore"), SystemExit(3)])
def test_a_method_that_fails_to_close_is_let_go_of(error: BaseException) -> None:
    log: list[str] = []
    held: Any = OpenMethod()
    held.get(Kept("a", log, error))
    with pytest.raises(StreamError, match=r"^method 'a' failed to close: ") as refusal:
        held.close()
    assert "\n" not in str(refusal.value)
    held.close()
    assert log == ["create a", "close a"]
