"""What several views of points say by NumPy: matches, triangulation, two views, and bundle adjustment of a few.

The adjustment is Levenberg–Marquardt on the Schur complement. What two views may be asks OpenCV, whose module is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.geometry.poses import pose_matrix, rotation_angle
from lingbot_eval.types import FloatArray

Rows = NDArray[np.int64]

RATIO = 0.8  # of the nearest descriptor's distance to the second's: Lowe's
PIXELS = 2.0  # how far a point may be seen from where it should be
FIRST_ANGLE = np.radians(1.5)  # median angle of rays at which the first map is made
POINT_ANGLE = np.radians(0.8)  # of the rays to a new point
FIRST_POINTS = 50
CLEAR = 0.9  # of the best explanation's score: below that another one is none
HUBER = 1.5
"""Residuals, in standard deviations of a feature's place, from which on an observation counts linearly."""


@dataclass(eq=False)
class View:
    """A frame as odometry keeps it.

    rays: (N, 2) x/z and y/z of its features. descriptors: (N, 128) of length 1. sizes: (N,) standard deviation of a
    feature's place in ``rays``. focal: pixels. point: (N,) the mapped point that each feature is, −1 for none.
    world_to_camera: (4, 4), None while it is not known.
    """

    index: int
    rays: FloatArray
    descriptors: NDArray[np.float32]
    sizes: FloatArray
    focal: float
    point: Rows
    world_to_camera: FloatArray | None = None

    @property
    def pose(self) -> FloatArray:
        """World-to-camera of a view that has one."""
        assert self.world_to_camera is not None
        return self.world_to_camera


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


def matched(mine: NDArray[np.float32], its: NDArray[np.float32]) -> tuple[Rows, Rows]:
    """Rows of (N, D) and (M, D) descriptors of length 1 that are each other's nearest, much nearer than the next."""
    none = np.empty(0, np.int64)
    if len(mine) < 2 or len(its) < 2:
        return none, none
    alike = mine @ its.T
    nearest = alike.argmax(axis=1)
    rows = np.arange(len(mine))
    first = alike[rows, nearest].copy()
    back = alike.argmax(axis=0)
    alike[rows, nearest] = -1.0
    second = alike.max(axis=1)
    # Distances of descriptors of length 1: d² = 2 − 2 · cosine.
    good = (back[nearest] == rows) & (1 - first < RATIO**2 * (1 - second)) & (first > 0.6)
    return rows[good], nearest[good]


def triangulated(
    first: FloatArray, second: FloatArray, rays: FloatArray, others: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(K, 3) points that two views see along (K, 2) rays, by linear least squares, and (K,) angles of the rays.

    first, second: (4, 4) world-to-camera.
    """
    rows = []
    for pose, seen in ((first, rays), (second, others)):
        rows += [seen[:, :1] * pose[2] - pose[0], seen[:, 1:] * pose[2] - pose[1]]
    system = np.stack(rows, axis=1)
    _, vectors = np.linalg.eigh(np.swapaxes(system, 1, 2) @ system)
    solved = vectors[:, :, 0]
    last = solved[:, 3:]
    points = solved[:, :3] / np.where(np.abs(last) < 1e-12, 1e-12, last)
    directions = []
    for pose, seen in ((first, rays), (second, others)):
        direction = np.concatenate([seen, np.ones((len(seen), 1))], axis=1) @ pose[:3, :3]
        directions.append(direction / np.linalg.norm(direction, axis=1, keepdims=True))
    sine = np.linalg.norm(np.cross(*directions), axis=1)
    return points, np.asarray(np.arctan2(sine, np.einsum("ki,ki->k", *directions)))


@dataclass(frozen=True, eq=False)
class TwoViews:
    """What two views may be. motion: world-to-camera (4, 4) of the second where the first is the world, moved by 1.

    first, second: (K,) rows of their features. points: (K, 3). score: how many of the ``matches`` it explains, and how
    well.
    """

    motion: FloatArray
    first: Rows
    second: Rows
    points: FloatArray
    score: float
    matches: int


def two_views(cv2: ModuleType, first: View, second: View, its: Rows, mine: Rows) -> list[TwoViews]:
    """Explanations of two views that differ and fit nearly as well as the best; none without enough parallax.

    its, mine: rows of features of the first and of the second that match.
    """
    rays, others = first.rays[its], second.rays[mine]
    tolerance = PIXELS * 0.75 / second.focal
    # In pixels: OpenCV's samplers miss most of what fits where numbers are as small as rays.
    camera = np.diag([second.focal, second.focal, 1.0])
    pixels, seen, wide = rays * second.focal, others * second.focal, tolerance * second.focal
    essential, _ = cv2.findEssentialMat(pixels, seen, camera, method=cv2.USAC_MAGSAC, prob=0.9999, threshold=wide)
    candidates: list[FloatArray] = []
    if essential is not None and essential.shape == (3, 3):
        one, two, move = cv2.decomposeEssentialMat(essential)
        candidates += [pose_matrix(turn, sign * move[:, 0]) for turn in (one, two) for sign in (1, -1)]
    plane, _ = cv2.findHomography(pixels, seen, cv2.USAC_MAGSAC, 2 * wide, confidence=0.9999)
    if plane is not None and np.isfinite(plane).all():
        _, turns, moves, _ = cv2.decomposeHomographyMat(plane, camera)
        for turn, move in zip(turns, moves, strict=True):
            length = float(np.linalg.norm(move))
            if length > 1e-6:
                candidates.append(pose_matrix(turn, move[:, 0] / length))
    none = np.zeros(len(rays), int)
    found: list[tuple[float, FloatArray, NDArray[np.bool_], FloatArray, FloatArray]] = []
    for motion in candidates:
        for last in (False, True):
            points, angles = triangulated(np.eye(4), motion, rays, others)
            errors = np.maximum(
                reprojection_errors(np.eye(4)[None], points, none, rays),
                reprojection_errors(motion[None], points, none, others),
            )
            near = errors < 2 * tolerance
            if last or near.sum() < FIRST_POINTS:
                break
            motion = _refined(motion, points[near], rays[near], others[near], 1 / tolerance)
        found.append((explained(errors, 2 * tolerance), motion, near, angles, points))
    found.sort(key=lambda entry: -entry[0])
    pairs: list[TwoViews] = []
    for score, motion, near, angles, points in found:
        good = near & (angles > POINT_ANGLE / 2)
        if score < CLEAR * found[0][0] or any(_alike(motion, pair.motion) for pair in pairs):
            continue
        if good.sum() < FIRST_POINTS or near.sum() < 0.5 * len(rays) or np.median(angles[near]) < FIRST_ANGLE:
            if not pairs:
                return []
            continue
        pairs.append(TwoViews(motion, its[good], mine[good], points[good], score, len(rays)))
    return pairs


def _refined(motion: FloatArray, points: FloatArray, rays: FloatArray, others: FloatArray, weight: float) -> FloatArray:
    """The motion between two views that explains their matches best; its translation has length 1."""
    count = len(points)
    view, point = np.repeat([0, 1], count), np.tile(np.arange(count), 2)
    seen = Observations(view, point, np.concatenate([rays, others]), np.full(2 * count, weight))
    poses, _, _ = adjust(np.stack([np.eye(4), motion]), points, seen, 1, iterations=5)
    refined: FloatArray = poses[1]
    length = float(np.linalg.norm(refined[:3, 3]))
    refined[:3, 3] /= length if length > 1e-9 else 1.0
    return refined


def _alike(one: FloatArray, other: FloatArray) -> bool:
    turned = rotation_angle(one[:3, :3].T @ other[:3, :3])
    along = float(np.clip(one[:3, 3] @ other[:3, 3], -1.0, 1.0))
    return bool(turned < np.radians(2.0) and along > np.cos(np.radians(20.0)))


def explained(errors: FloatArray, largest: float) -> float:
    """How many errors are below the largest that counts, and how far."""
    return float(np.maximum(0.0, 1 - (errors / largest) ** 2).sum())
