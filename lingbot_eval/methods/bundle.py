"""Bundle adjustment of a few views and their points: Levenberg–Marquardt on the Schur complement, by NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import FloatArray

HUBER = 1.5
"""Residuals, in standard deviations of a feature's place, from which on an observation counts linearly."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Which point was seen where, in which view; each pair of view and point once.

    view, point: (K,) rows of the views and points. rays: (K, 2) where it was seen, x/z and y/z in the camera. weights:
    (K,) one over the standard deviation of that place, in the unit of ``rays``.
    """

    view: NDArray[np.int64]
    point: NDArray[np.int64]
    rays: FloatArray
    weights: FloatArray


def adjust(
    world_to_camera: FloatArray,
    points: FloatArray,
    seen: Observations,
    fixed: int,
    iterations: int = 8,
    doubt: float = 0.0,
) -> tuple[FloatArray, FloatArray, float]:
    """Views and points with the least robust reprojection error.

    Args:
        world_to_camera: (V, 4, 4) poses to start from; the first ``fixed`` stay as they are.
        points: (P, 3) world coordinates to start from.
        seen: what was observed.
        fixed: views that hold position, orientation and scale; of one alone the scale is free.
        iterations: at most so many.
        doubt: standard deviation of the focal length that the rays were made with, as a share of it; 0: it is right.

    Returns:
        (V, 4, 4) poses, (P, 3) points, and the focal length as a share of that which the rays were made with.
    """
    damping, focal = 1e-4, 1.0
    cost = _cost(world_to_camera, points, seen, focal, doubt)
    for _ in range(iterations):
        step = _step(world_to_camera, points, seen, fixed, damping, focal, doubt)
        if step is None:
            damping *= 10
            continue
        poses, moved = world_to_camera.copy(), points + step[1]
        poses[fixed:] = exponential(step[0]) @ poses[fixed:]
        other = focal * float(np.exp(step[2]))
        found = _cost(poses, moved, seen, other, doubt)
        if not found < cost:
            damping *= 10
            if damping > 1e3:
                break
            continue
        gained, cost = (cost - found) / cost, found
        world_to_camera, points, focal, damping = poses, moved, other, max(damping / 5, 1e-9)
        if gained < 1e-4:
            break
    return world_to_camera, points, focal


def adjust_view(
    world_to_camera: FloatArray, points: FloatArray, rays: FloatArray, weights: FloatArray, iterations: int = 10
) -> FloatArray:
    """The (4, 4) pose with the least robust reprojection error of (K, 3) fixed points seen along (K, 2) rays."""
    for _ in range(iterations):
        residuals, of_pose, _, scale = _linearised(world_to_camera[None], points, np.zeros(len(points), int), rays)
        weighted = _robust(residuals, weights) * scale
        jacobian = of_pose * weighted[:, None, None]
        normal = np.einsum("kai,kaj->ij", jacobian, jacobian) + 1e-12 * np.eye(6)
        step = -np.linalg.solve(normal, np.einsum("kai,ka->i", jacobian, residuals * weighted[:, None]))
        world_to_camera = exponential(step[None])[0] @ world_to_camera
        if np.abs(step).max() < 1e-7:
            break
    return world_to_camera


def exponential(twists: FloatArray) -> FloatArray:
    """(N, 4, 4) motions: each of (N, 6) turns by a rotation vector (last three) and then moves (first three)."""
    turn = twists[:, 3:]
    angle = np.linalg.norm(turn, axis=1)[:, None, None]
    cross = np.zeros((len(twists), 3, 3))
    cross[:, 2, 1], cross[:, 0, 2], cross[:, 1, 0] = turn.T
    cross -= np.swapaxes(cross, 1, 2)
    # sin a / a and (1 − cos a) / a² without dividing by 0: numpy's sinc is sin(πx) / πx.
    sine, half = np.sinc(angle / np.pi), np.sinc(angle / (2 * np.pi))
    motion = np.tile(np.eye(4), (len(twists), 1, 1))
    motion[:, :3, :3] += sine * cross + 0.5 * half**2 * (cross @ cross)
    motion[:, :3, 3] = twists[:, :3]
    return motion


def reprojection_errors(
    world_to_camera: FloatArray, points: FloatArray, view: NDArray[np.int64], rays: FloatArray
) -> FloatArray:
    """(K,) distances, in the unit of ``rays``, between where points are seen and where they should be.

    Infinite for a point that is not before the camera.
    """
    poses = world_to_camera[view]
    local = np.einsum("kij,kj->ki", poses[:, :3, :3], points) + poses[:, :3, 3]
    before = local[:, 2] > 1e-6
    depth = np.where(before, local[:, 2], 1.0)
    return np.where(before, np.linalg.norm(local[:, :2] / depth[:, None] - rays, axis=1), np.inf)


def _linearised(
    world_to_camera: FloatArray, points: FloatArray, view: NDArray[np.int64], rays: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(K, 2) residuals, (K, 2, 6) and (K, 2, 3) derivatives by pose and point, (K,) 1 where the point is in front."""
    rotation = world_to_camera[view, :3, :3]
    local = np.einsum("kij,kj->ki", rotation, points) + world_to_camera[view, :3, 3]
    before = local[:, 2] > 1e-6
    depth = np.where(before, local[:, 2], 1.0)
    x, y = local[:, 0] / depth, local[:, 1] / depth
    by_local = np.zeros((len(points), 2, 3))
    by_local[:, 0, 0] = by_local[:, 1, 1] = 1 / depth
    by_local[:, 0, 2], by_local[:, 1, 2] = -x / depth, -y / depth
    by_pose = np.empty((len(points), 2, 6))
    by_pose[:, :, :3] = by_local
    # d(ω × p)/dω = −[p]×, and by_local · −[p]× row by row is p × row.
    by_pose[:, :, 3:] = np.cross(local[:, None, :], by_local)
    return np.stack([x, y], axis=1) - rays, by_pose, by_local @ rotation, before.astype(float)


def _robust(residuals: FloatArray, weights: FloatArray) -> FloatArray:
    """(K,) square roots of the weights of Huber's estimator."""
    size = np.linalg.norm(residuals, axis=1) * weights
    return weights * np.sqrt(np.where(size > HUBER, HUBER / np.maximum(size, 1e-12), 1.0))


def _cost(world_to_camera: FloatArray, points: FloatArray, seen: Observations, focal: float, doubt: float) -> float:
    # The error of a ray that a longer focal length shortens, back in the unit in which it was seen.
    size = reprojection_errors(world_to_camera, points[seen.point], seen.view, seen.rays / focal) * seen.weights * focal
    # A point that slipped behind a camera costs as much as a clear mistake, not everything.
    size = np.minimum(size, 100.0)
    prior = (np.log(focal) / doubt) ** 2 if doubt else 0.0
    return float(np.sum(np.where(size > HUBER, HUBER * (2 * size - HUBER), size**2)) + prior)


def _step(
    world_to_camera: FloatArray,
    points: FloatArray,
    seen: Observations,
    fixed: int,
    damping: float,
    focal: float,
    doubt: float,
) -> tuple[FloatArray, FloatArray, float] | None:
    """(V − fixed, 6) twists, (P, 3) moves and the change of the focal length's logarithm of one damped step.

    None where the system is singular.
    """
    residuals, by_pose, by_point, before = _linearised(
        world_to_camera, points[seen.point], seen.view, seen.rays / focal
    )
    residuals, by_pose, by_point = focal * residuals, focal * by_pose, focal * by_point
    by_focal = residuals + seen.rays  # where it should be seen
    weights = _robust(residuals, seen.weights) * before
    residuals, by_focal = residuals * weights[:, None], by_focal * weights[:, None]
    by_pose, by_point = by_pose * weights[:, None, None], by_point * weights[:, None, None]
    free = seen.view >= fixed
    views, count = len(world_to_camera) - fixed, len(points)
    view, of_view = seen.view[free] - fixed, by_pose[free]
    transposed = np.swapaxes(of_view, 1, 2)
    normal = np.zeros((views, 6, 6))
    np.add.at(normal, view, transposed @ of_view)
    gradient = np.zeros((views, 6))
    np.add.at(gradient, view, np.einsum("kai,ka->ki", of_view, residuals[free]))
    of_points = _summed(np.swapaxes(by_point, 1, 2) @ by_point, seen.point, count)
    point_gradient = _summed(np.einsum("kai,ka->ki", by_point, residuals), seen.point, count)
    diagonal = np.einsum("pii->pi", of_points)
    diagonal += damping * diagonal + 1e-9 * (diagonal.mean() + 1e-12)
    np.einsum("vii->vi", normal)[...] *= 1 + damping
    columns = views * 6 + (doubt > 0)
    coupling = np.zeros((count, 3, columns))
    of_pair = np.swapaxes(by_point[free], 1, 2) @ of_view
    coupling[seen.point[free][:, None], :, 6 * view[:, None] + np.arange(6)] = np.swapaxes(of_pair, 1, 2)
    system, right = np.zeros((columns, columns)), np.zeros(columns)
    for number in range(views):
        block = slice(6 * number, 6 * number + 6)
        system[block, block] = normal[number]
    right[: 6 * views] = gradient.reshape(-1)
    if doubt:
        coupling[:, :, -1] = _summed(np.einsum("kai,ka->ki", by_point, by_focal), seen.point, count)
        beside = np.zeros((views, 6))
        np.add.at(beside, view, np.einsum("kai,ka->ki", of_view, by_focal[free]))
        system[-1, :-1] = system[:-1, -1] = beside.reshape(-1)
        system[-1, -1] = (by_focal**2).sum() * (1 + damping) + doubt**-2
        right[-1] = (by_focal * residuals).sum() + np.log(focal) / doubt**2
    try:
        solved = np.linalg.solve(of_points, np.concatenate([coupling, point_gradient[..., None]], axis=2))
        flat, rest = coupling.reshape(-1, columns), solved.reshape(count * 3, -1)
        steps = -np.asarray(np.linalg.solve(system - flat.T @ rest[:, :-1], right - flat.T @ rest[:, -1]), np.float64)
    except np.linalg.LinAlgError:
        return None
    moves = -(solved[..., -1] + solved[..., :-1] @ steps)
    if not (np.isfinite(steps).all() and np.isfinite(moves).all()):
        return None
    turns = np.asarray(steps[: 6 * views], np.float64).reshape(views, 6)
    return turns, moves, float(np.clip(steps[-1], -0.2, 0.2)) if doubt else 0.0


def _summed(values: FloatArray, rows: NDArray[np.int64], count: int) -> FloatArray:
    """Sums of (K, …) values by row, (count, …)."""
    flat = values.reshape(len(values), -1)
    sums = np.stack([np.bincount(rows, column, count) for column in flat.T], axis=1)
    return np.asarray(sums, np.float64).reshape(count, *values.shape[1:])
