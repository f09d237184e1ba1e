"""Depth and clouds against evaluations written here as the papers' own code describes theirs: loops, nothing shared.

Video depth: CUT3R, eval/video_depth. Clouds: CUT3R, eval/mv_recon, and Spann3R before it, with Open3D's parts.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lingbot_eval.metrics.depth import DepthScorer, DepthSettings
from lingbot_eval.metrics.points import PointSettings, score_points

MAX_DEPTH = 6.0


def video(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three small frames; truth beyond the range and holes in it, predictions whose scale drifts."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for k in range(3):
        truth = rng.uniform(0.5, 7.5, (15, 20)).astype(np.float32)
        prediction = (0.5 * 1.05**k * truth * np.exp(0.2 * rng.normal(size=truth.shape)) + 0.2).astype(np.float32)
        truth[rng.random(truth.shape) < 0.1] = 0
        truths.append(truth)
        predictions.append(prediction)
    return truths, predictions


def papers_depth(truths: list[np.ndarray], predictions: list[np.ndarray], align: str) -> dict[str, float]:
    """``depth_evaluation`` of the whole video at once: align, clip, then means over the pixels."""
    pairs = [
        (float(t), float(p))
        for truth, prediction in zip(truths, predictions, strict=True)
        for t, p in zip(truth.ravel(), prediction.ravel(), strict=True)
        if 0 < t < MAX_DEPTH
    ]
    scale, shift = 1.0, 0.0
    if align == "video_scale":
        scale = sum(t for t, _ in pairs) / sum(p for _, p in pairs)
        for _ in range(10):
            above = sum(p * t / (abs(scale * p - t) + 1e-8) for t, p in pairs)
            below = sum(p * p / (abs(scale * p - t) + 1e-8) for t, p in pairs)
            scale = above / below
    elif align == "video_scale_shift":
        t_all, p_all = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
        s = torch.tensor([np.median(t_all) / np.median(p_all)], requires_grad=True)
        t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([s, t], lr=1e-4)
        for _ in range(1000):
            optimiser.zero_grad()
            torch.sum(torch.abs(s * p_all + t - t_all)).backward()
            optimiser.step()
        scale, shift = s.item(), t.item()
    relative, squared, logs, near = 0.0, 0.0, 0.0, 0
    for truth, prediction in pairs:
        moved = min(scale * prediction + shift, MAX_DEPTH)
        relative += abs(moved - truth) / truth
        squared += (moved - truth) ** 2
        moved = max(moved, 1e-5)
        logs += (math.log(moved) - math.log(truth)) ** 2
        near += max(moved / truth, truth / moved) < 1.25
    count = len(pairs)
    return {
        "abs_rel": relative / count,
        "rmse": math.sqrt(squared / count),
        "log_rmse": math.sqrt(logs / count),
        "delta_1_25": 100 * near / count,
    }


WORDS = {
    "video_metric": "as it is, then clipped",
    "video_scale": "multiplied by one scale of the whole sequence, that of least absolute deviations",
    "video_scale_shift": "moved by one scale and shift of the whole sequence, sought as in CUT3R's evaluation",
}


@pytest.mark.parametrize("align", ["video_metric", "video_scale", "video_scale_shift"])
def test_video_depth(align: str) -> None:
    for seed in (0, 1):
        truths, predictions = video(seed)
        settings = DepthSettings.model_validate({"max_depth": MAX_DEPTH, "sequence_alignments": [align]})
        scorer = DepthScorer(settings)
        for index, pair in enumerate(zip(truths, predictions, strict=True)):
            scorer.update(index, *pair)
        found = {m.name: m for m in scorer.compute() if m.variant == align}
        for name, expected in papers_depth(truths, predictions, align).items():
            assert found[name].value == pytest.approx(expected, rel=1e-6), (name, align)
        assert "clipped at 6 m" in found["abs_rel"].convention
        assert f"; every prediction {WORDS[align]}" in found["abs_rel"].convention


def test_each_alignment_of_video_depth_says_something_else() -> None:
    truths, predictions = video(0)
    found = [
        papers_depth(truths, predictions, f"video_{kind}")["abs_rel"] for kind in ("metric", "scale", "scale_shift")
    ]
    assert found[0] > 2 * found[1]
    assert found[1] > found[2]


def papers_cloud(truth: np.ndarray, prediction: np.ndarray, voxel: float, farthest: float) -> dict[str, float]:
    """Similarity on the pairs, voxels, ICP, normals of 30 neighbours, then ``accuracy`` and ``completion``."""
    moved = similarity(prediction, truth, prediction, scaled=True)
    truth, moved = thinned(truth, voxel), thinned(moved, voxel)
    for _ in range(30):
        rows, partners = [], []
        for row, point in enumerate(moved):
            distances = [math.dist(point, other) for other in truth]
            if min(distances) < farthest:
                rows.append(row)
                partners.append(int(np.argmin(distances)))
        moved = similarity(moved[rows], truth[partners], moved, scaled=False)
    ours, theirs = normals(moved), normals(truth)
    to_truth, cosines = sides(moved, ours, truth, theirs)
    to_prediction, cosines_back = sides(truth, theirs, moved, ours)
    return {
        "accuracy": float(np.mean(to_truth)),
        "accuracy median": float(np.median(to_truth)),
        "completeness": float(np.mean(to_prediction)),
        "completeness median": float(np.median(to_prediction)),
        "normal_consistency": float(np.mean(cosines) + np.mean(cosines_back)) / 2,
        "normal_consistency median": float(np.median(cosines) + np.median(cosines_back)) / 2,
    }


def similarity(source: np.ndarray, target: np.ndarray, points: np.ndarray, *, scaled: bool) -> np.ndarray:
    """``points`` moved as the pairs of source and target say (Umeyama 1991)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = np.trace(np.diag(singular) @ sign) / np.mean(np.sum(a**2, axis=1)) if scaled else 1.0
    return scale * (points - source.mean(axis=0)) @ (u @ sign @ vt).T + target.mean(axis=0)


def thinned(points: np.ndarray, voxel: float) -> np.ndarray:
    """The mean of each voxel, in the order of the voxels."""
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in points:
        cells.setdefault(tuple(np.floor((point - points.min(axis=0) + voxel / 2) / voxel).astype(int)), []).append(
            point
        )
    return np.array([np.mean(inside, axis=0) for _, inside in sorted(cells.items())])


def normals(points: np.ndarray) -> np.ndarray:
    """Of each point: the last right singular vector of its 30 nearest, itself among them, about their mean."""
    found = []
    for point in points:
        near = points[np.argsort([math.dist(point, other) for other in points])[:30]]
        found.append(np.linalg.svd(near - near.mean(axis=0))[2][-1])
    return np.array(found)


def sides(
    points: np.ndarray, own: np.ndarray, others: np.ndarray, theirs: np.ndarray
) -> tuple[list[float], list[float]]:
    """Distance of each point to the nearest of the others, and |cosine| of the two normals."""
    distances, cosines = [], []
    for point, normal in zip(points, own, strict=True):
        each = [math.dist(point, other) for other in others]
        distances.append(min(each))
        cosines.append(abs(float(np.dot(normal, theirs[int(np.argmin(each))]))))
    return distances, cosines


def test_clouds_with_normals() -> None:
    """Two walls and a floor, seen with noise, in another world and scale."""
    rng = np.random.default_rng(3)
    truth = 2 * rng.random((300, 3))
    truth[np.arange(300), rng.integers(0, 3, 300)] = 0
    world = Rotation.random(random_state=4).as_matrix()
    prediction = 0.3 * (truth + 0.03 * rng.normal(size=truth.shape)) @ world.T + [1.0, -2.0, 0.5]
    settings = PointSettings(voxel_m=0.2, icp_m=0.5)
    score = score_points(truth, prediction, len(truth), settings)
    found = {f"{m.name} {m.variant}".strip(): m.value for m in score}
    for name, expected in papers_cloud(truth, prediction, 0.2, 0.5).items():
        assert found[name] == pytest.approx(expected, rel=1e-6), name


def test_normals_are_those_of_the_surface() -> None:
    """A plane agrees with itself whatever its normals' signs; beside a wall across it, the cosine is 0."""
    floor = np.array([[x, y, 0.0] for x, y in product(np.arange(12.0), repeat=2)])
    plain = PointSettings(voxel_m=None, icp_m=None, normal_neighbours=9)
    score = score_points(floor, floor.copy(), len(floor), plain)
    found = {(m.name, m.variant): m.value for m in score}
    assert found["normal_consistency", ""] == pytest.approx(1, abs=1e-9)
    off = score_points(floor, floor.copy(), len(floor), plain.model_copy(update={"normal_neighbours": None}))
    assert "normal_consistency" not in {m.name for m in off}
