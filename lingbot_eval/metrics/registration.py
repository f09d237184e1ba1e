"""Nearest neighbours and point-to-point ICP on large clouds, by SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import KDTree

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import umeyama
from lingbot_eval.types import FloatArray

MAX_ITERATIONS = 30
CONVERGED = 1e-6  # relative change of the share of pairs and of their RMSE, Open3D's criteria
_CHUNK = 1 << 18  # points a query: bounds what a query allocates, whatever the size of the cloud
_WORKERS = 2


def tree_of(points: FloatArray) -> KDTree:
    """A tree over (N, 3) points; built by sliding midpoints, several times faster than by medians."""
    return KDTree(points, balanced_tree=False, compact_nodes=False)


def nearest(target: FloatArray, points: FloatArray) -> FloatArray:
    """(M,) distances of (M, 3) points to the nearest of (N, 3) target points."""
    tree = tree_of(target)
    distances = np.empty(len(points))
    for start in range(0, len(points), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        distances[chunk] = tree.query(points[chunk], workers=_WORKERS)[0]
    return distances


def icp(source: FloatArray, target: FloatArray, farthest: float) -> FloatArray:
    """(4, 4) rigid motion from (M, 3) source to (N, 3) target points, from the identity.

    farthest: pairs further apart than this count for nothing. Raises UnscorableError where there are too few pairs
    or they lie on a line.
    """
    tree = tree_of(target)
    moved, motion = source, np.eye(4)
    last_share, last_rmse = 0.0, 0.0
    for _ in range(MAX_ITERATIONS):
        rows, partners, rmse = _pairs(tree, moved, farthest)
        share = len(rows) / len(source)
        if abs(share - last_share) < CONVERGED and abs(rmse - last_rmse) < CONVERGED:
            break
        last_share, last_rmse = share, rmse
        step = umeyama(moved[rows], target[partners], with_scale=False)
        moved = step.apply_points(moved)
        motion = step.matrix() @ motion
    return motion


def _pairs(tree: KDTree, moved: FloatArray, farthest: float) -> tuple[Any, Any, float]:
    """Rows of source and target that are pairs, and the RMSE of their distances."""
    rows, partners, squares = [], [], 0.0
    for start in range(0, len(moved), _CHUNK):
        found = tree.query(moved[start : start + _CHUNK], distance_upper_bound=farthest, workers=_WORKERS)
        distances, indices = np.asarray(found[0]), np.asarray(found[1])
        near = np.flatnonzero(np.isfinite(distances))
        rows.append(near + start)
        partners.append(indices[near])
        squares += float(np.sum(distances[near] ** 2))
    count = sum(len(part) for part in rows)
    if count < 3:
        raise UnscorableError(f"ICP: only {count} predicted points lie within {farthest:g} m of a true one")
    return np.concatenate(rows), np.concatenate(partners), float(np.sqrt(squares / count))
