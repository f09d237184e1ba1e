"""Point clouds: the reference figures known distances, masks, and what cannot be scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.metrics import points as clouds
from lingbot_eval.metrics.points import PointSettings, aligned_clouds, icp, nearest, score_points, voxel_means
from lingbot_eval.types import Measurement

DATA = Path(__file__).parents[1] / "data"
FIGURES = json.loads((DATA / "metrics_figures.json").read_text())["points"]


def values(found: tuple[Measurement, ...]) -> dict[str, float]:
    assert all(m.value is not None for m in found), found[0].reason
    return {m.name: m.value for m in found if m.value is not None and not m.variant}


def surface(count: int, seed: int = 0) -> np.ndarray:
    """Points on two walls and a floor of a room of 4 m."""
    rng = np.random.default_rng(seed)
    points = 4 * rng.random((count, 3))
    points[np.arange(count), rng.integers(0, 3, count)] = 0
    return points


def test_reference_figures() -> None:
    with np.load(DATA / "points_case.npz", allow_pickle=False) as case:
        clouds = case["gt"], case["pred"], 2500
    settings = PointSettings(voxel_m=None)
    found = values(score_points(*clouds, settings))
    for name in ("accuracy", "completeness", "chamfer"):
        assert found[name] == pytest.approx(FIGURES[name], rel=1e-3), name
    for name in ("precision", "recall", "f1"):
        assert found[name] == pytest.approx(FIGURES[name], abs=0.05), name
    similarity, registration, *_ = aligned_clouds(*clouds, settings)
    np.testing.assert_allclose(similarity.matrix(), FIGURES["umeyama"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(registration, FIGURES["icp"], atol=2e-4)


def test_known_distances() -> None:
    """Half of the prediction is exact, half hangs 0.3 m off a wall that nothing else is near."""
    truth = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0), [0.0]), axis=-1).reshape(-1, 3)
    truth[:, 2] = 0.1 * truth[:, 0] * truth[:, 1]
    extra = truth[:100] + np.array([0.0, 0, -0.3])
    score = score_points(truth, np.concatenate([truth, extra]), len(truth), PointSettings(voxel_m=None, icp_m=None))
    found = values(score)
    expected = np.linalg.norm(extra[:, None] - truth[None], axis=2).min(axis=1)
    assert found["accuracy"] == pytest.approx(expected.sum() / 500)
    assert found["completeness"] == pytest.approx(0, abs=1e-12)
    assert found["chamfer"] == pytest.approx(found["accuracy"] / 2)
    assert found["precision"] == pytest.approx(100 * 400 / 500)
    assert found["recall"] == 100
    assert found["f1"] == pytest.approx(2 * 80 * 100 / 180)


def test_world_and_scale_of_the_prediction_do_not_matter() -> None:
    truth = surface(3000)
    guess = truth[:2000] + 0.01 * np.random.default_rng(1).normal(size=(2000, 3))
    world = Sim3(0.2, Rotation.random(random_state=2).as_matrix(), np.array([3.0, -1, 7]))
    plain = values(score_points(truth, guess, 2000))
    moved = values(score_points(truth, world.apply_points(guess), 2000))
    assert moved == pytest.approx(plain, rel=1e-6)


def test_voxels_hold_the_mean_of_their_points() -> None:
    points = surface(5000, 3)
    means = voxel_means(points, 0.25)
    corner = points.min(axis=0) - 0.125
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in points:
        cells.setdefault(tuple(((point - corner) // 0.25).astype(int)), []).append(point)
    expected = np.array([np.mean(members, axis=0) for _, members in sorted(cells.items())])
    np.testing.assert_allclose(means, expected, atol=1e-12)


def test_registration_recovers_a_small_motion() -> None:
    target = surface(4000, 4) + np.array([100.0, 50, 0])
    turn = Rotation.from_rotvec([0.0, 0.004, -0.003]).as_matrix()
    centre = target.mean(axis=0)
    source = (target - centre) @ turn.T + centre + [0.01, -0.02, 0.005]
    motion = icp(source, target, 0.1)
    np.testing.assert_allclose(source @ motion[:3, :3].T + motion[:3, 3], target, atol=2e-3)


def test_registration_of_several_steps_that_turn_is_one_motion() -> None:
    """Far from the origin, so that steps in the wrong order lead elsewhere."""
    target = surface(4000, 4) + np.array([30.0, 20, 0])
    turn, centre = Rotation.from_rotvec([0.03, -0.05, 0.04]).as_matrix(), target.mean(axis=0)
    source = (target - centre) @ turn.T + centre + [0.03, -0.02, 0.04]
    motion = icp(source, target, 0.5)
    np.testing.assert_allclose(source @ motion[:3, :3].T + motion[:3, 3], target, atol=2e-3)


def test_nearest_in_chunks() -> None:
    rng = np.random.default_rng(5)
    target, points = rng.random((50, 3)), rng.random((300_000, 3))
    found, partners = nearest(target, points)
    rows = rng.integers(0, len(points), 200)
    expected = np.linalg.norm(points[rows, None] - target[None], axis=2).min(axis=1)
    np.testing.assert_allclose(found[rows], expected)
    np.testing.assert_allclose(np.linalg.norm(points - target[partners], axis=1), found)


@pytest.mark.parametrize(
    ("clouds", "reason"),
    [
        ((np.empty((0, 3)), np.empty((0, 3)), 0), "only 0 points valid in both"),
        ((surface(500), surface(500)[:1], 1), "only 1 points valid in both"),
        (
            (surface(500), surface(500), 99),
            "only 99 points valid in both truth and prediction, at least 100 are needed",
        ),
        ((surface(500), np.full((500, 3), np.nan), 500), "only 0 points valid in both"),
        ((surface(500), np.outer(np.arange(500.0), [1.0, 2, 3]), 500), "degenerate covariance"),
        (
            (1e12 * surface(500), surface(500), 500),
            "the cloud spans 3.99e+12 m, too much for voxels of 0.0078125 m: the alignment or some depth is far off",
        ),
    ],
)
def test_what_cannot_be_scored_has_its_reason(clouds: tuple[np.ndarray, np.ndarray, int], reason: str) -> None:
    found = score_points(*clouds)
    assert len(found) == 10
    assert all(m.reason is not None and reason in m.reason for m in found)
    assert {m.samples for m in found} == {0}


def test_a_hundred_pairs_are_enough() -> None:
    assert values(score_points(surface(500), surface(500), 100))["accuracy"] == pytest.approx(0, abs=1e-9)


def test_points_that_are_not_finite_are_of_neither_cloud() -> None:
    """Nor are their pairs, which are of the same rows in both."""
    truth, guess = surface(500), surface(500)
    truth[:5], guess[100:107, 1] = np.nan, np.inf
    found = {m.name: m for m in score_points(truth, guess, 500, PointSettings(voxel_m=None, icp_m=None))}
    assert (found["accuracy"].samples, found["completeness"].samples) == (493, 495)
    # Of what the other side lacks the nearest is another point.
    assert 0 < (found["accuracy"].value or 0) < 0.01
    assert 0 < (found["completeness"].value or 0) < 0.01
    few = truth.copy()
    few[:50], guess[50:94] = np.nan, np.nan
    assert "only 99 points" in str(score_points(few, guess[:200], 200)[0].reason)


def test_a_registration_needs_three_pairs() -> None:
    cloud = surface(50)
    far = cloud + np.array([100.0, 0, 0])
    far[:2] = cloud[:2]
    with pytest.raises(UnscorableError, match=r"ICP: only 2 predicted points lie within 0.1 m of a true one"):
        icp(far, cloud, 0.1)
    far[2] = cloud[2]
    np.testing.assert_allclose(icp(far, cloud, 0.1), np.eye(4), atol=1e-9)


@pytest.mark.parametrize("name", ["true", "predicted"])
def test_clouds_have_three_columns(name: str) -> None:
    right, wrong = np.zeros((5, 3)), np.zeros((5, 2))
    clouds = (wrong, right) if name == "true" else (right, wrong)
    with pytest.raises(ValueError, match=rf"expected {name} points of shape \(N, 3\), found \(5, 2\)"):
        score_points(*clouds, 5)


def test_a_registration_of_a_share_of_the_points_moves_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the pairs is off by half a metre, which Umeyama takes for a motion of all; ICP sees it."""
    monkeypatch.setattr(clouds, "ICP_POINTS", 500)
    truth = surface(2000)
    guess = truth.copy()
    guess[:200] += [0.3, 0.3, 0.3]
    found = score_points(truth, guess, 2000, PointSettings(voxel_m=0.011, icp_m=0.15, normal_neighbours=None))
    plain = score_points(truth, guess, 2000, PointSettings(voxel_m=0.011, icp_m=None, normal_neighbours=None))
    assert found[0].samples == plain[0].samples
    assert (found[0].samples or 0) > 1900
    assert found[0].convention.endswith(
        "; Umeyama on corresponding points, voxels of 0.011 m, point-to-point ICP within 0.15 m (scipy, of at most 500"
        " predicted points)"
    )
    medians = [{(m.name, m.variant): m.value for m in each}["accuracy", "median"] for each in (found, plain)]
    assert (medians[0] or 0) < 0.5 * (medians[1] or 0)


def test_where_nothing_is_near_enough_f1_is_none_at_all() -> None:
    guess = surface(500) + 0.1 * np.random.default_rng(0).normal(size=(500, 3))
    settings = PointSettings(voxel_m=None, icp_m=None, threshold_m=1e-6, normal_neighbours=None)
    found = values(score_points(surface(500), guess, 500, settings))
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)


def test_medians_are_of_the_points_of_their_own_side() -> None:
    """Two thirds of the predicted points hover 30 cm above the true ones, none of which lacks its own."""
    across, along = np.meshgrid(np.arange(12), np.arange(12))
    plane = np.stack([across, along, 0 * across], axis=-1).reshape(-1, 3) * 1.0
    up = np.array([0, 0, 0.3])
    hovering = np.concatenate([plane + up, plane - up])
    clouds = plane, np.concatenate([plane, hovering]), len(plane)
    score = score_points(*clouds, PointSettings(voxel_m=None, icp_m=None, threshold_m=0.1, normal_neighbours=None))
    found = {(m.name, m.variant): m for m in score}
    assert found["accuracy", "median"].value == pytest.approx(0.3)
    assert found["accuracy", ""].value == pytest.approx(0.2)
    assert found["completeness", "median"].value == found["completeness", ""].value == pytest.approx(0)
    assert found["chamfer", ""].value == pytest.approx(0.1)
    assert found["precision", ""].value == pytest.approx(100 / 3)
    assert found["recall", ""].value == 100
    assert found["f1", ""].value == pytest.approx(50)
    assert found["precision", ""].convention == (
        "share of predicted points closer than 0.1 m to a true one; Umeyama on corresponding points"
    )
    wider = PointSettings(voxel_m=None, icp_m=None, threshold_m=0.301, normal_neighbours=None)
    assert values(score_points(*clouds, wider, "of two frames"))["precision"] == 100
    assert {m.convention.partition("; ")[2] for m in score_points(*clouds, wider, "of two frames")} == {
        "Umeyama on corresponding points; of two frames"
    }
    samples = {name: m.samples for (name, _), m in found.items()}
    assert samples == {
        "accuracy": 432,
        "completeness": 144,
        "chamfer": 576,
        "precision": 432,
        "recall": 144,
        "f1": 576,
    }


def test_normals_are_compared_on_both_sides_and_their_means_averaged() -> None:
    """A third of the predicted points stands upright far away: its normals lie across those of the true plane."""
    across, along = np.meshgrid(np.arange(12), np.arange(12))
    plane = np.stack([across, along, 0 * across], axis=-1).reshape(-1, 3) * 1.0
    wall = np.stack([0 * across + 40, along, across], axis=-1).reshape(-1, 3)[:72] * 1.0
    clouds = plane, np.concatenate([plane, wall]), len(plane)
    score = score_points(*clouds, PointSettings(voxel_m=None, icp_m=None, normal_neighbours=8))
    found = {m.variant: m for m in score if m.name == "normal_consistency"}
    assert found[""].value == pytest.approx((2 / 3 + 1) / 2)
    assert found["median"].value == pytest.approx(1)
    assert found[""].samples == found["median"].samples == 216 + 144


def test_normals_of_a_share_of_the_points_are_held_against_their_own_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third point of a floor and then of a wall, of as many as there are."""
    across, along = (each.ravel() for each in np.meshgrid(np.arange(12.0), np.arange(12.0)))
    floor, wall = np.stack([across, along, 0 * across], axis=1), np.stack([0 * across + 40, along, across], axis=1)
    room = np.concatenate([floor, wall])
    monkeypatch.setattr(clouds, "NORMAL_POINTS", 100)
    settings = PointSettings(voxel_m=None, icp_m=None, normal_neighbours=8)
    found = {m.variant: m for m in score_points(room, room, 288, settings) if m.name == "normal_consistency"}
    assert found[""].value == pytest.approx(1)
    assert found[""].samples == found["median"].samples == 96 + 96
    assert "across the 8 nearest points, of at most 100 points of each cloud" in found[""].convention
    # More neighbours than there are points: all of them.
    every = PointSettings(voxel_m=None, icp_m=None, normal_neighbours=1000)
    assert values(score_points(floor, floor, 144, every))["normal_consistency"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "least", "most", "wrong"),
    [
        ("normal_neighbours", 3, 1000, (2, 1001)),
        ("max_points", 1000, 20_000_000, (999, 20_000_001)),
        ("voxel_m", 1e-9, 1e9, (0.0, float("inf"))),
        ("icp_m", 1e-9, 1e9, (0.0, float("inf"))),
        ("threshold_m", 1e-9, 1e9, (0.0, float("inf"), None)),
    ],
)
def test_settings_have_their_ends(name: str, least: float, most: float, wrong: tuple[float | None, ...]) -> None:
    for right in (least, most):
        assert getattr(PointSettings.model_validate({name: right}), name) == right
    for each in wrong:
        with pytest.raises(ValidationError):
            PointSettings.model_validate({name: each})


def test_a_registration_in_pieces_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = surface(2000)
    moved = cloud + np.array([0.02, -0.01, 0.015])
    whole = icp(moved, cloud, 0.1)
    monkeypatch.setattr(clouds, "_CHUNK", 300)
    np.testing.assert_allclose(icp(moved, cloud, 0.1), whole, atol=1e-12)
