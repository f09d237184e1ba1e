"""Nearest neighbours, normals and point-to-point ICP on large clouds, by SciPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import umeyama
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    from scipy.spatial import KDTree

MAX_ITERATIONS = 30
CONVERGED = 1e-6  # relative change of the share of pairs and of their RMSE, Open3D's criteria
_CHUNK = 1 << 18  # points a query: bounds what a query allocates, whatever the size of the cloud
_WORKERS = 2


def tree_of(points: FloatArray) -> KDTree:
    """A tree over (N, 3) points; built by sliding midpoints, several times faster than by medians."""
    # Slow to load, and its families are asked for what they declare where nothing of theirs is measured.
    from scipy.spatial import KDTree

    return KDTree(points, balanced_tree=False, compact_nodes=False)


def nearest(target: FloatArray, points: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """(M,) distances of (M, 3) points to the nearest of (N, 3) target points, and (M,) rows of those."""
    tree = tree_of(target)
    distances, rows = np.empty(len(points)), np.empty(len(points), dtype=np.int64)
    for start in range(0, len(points), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        distances[chunk], rows[chunk] = tree.query(points[chunk], workers=_WORKERS)
    return distances, rows


def normals_at(points: FloatArray, rows: NDArray[np.int64], neighbours: int) -> FloatArray:
    """(K, 3) unit normals, of either sign, at ``rows`` (K,) of (N, 3) points: across the plane of each point's nearest
    ``neighbours``, itself among them. Open3D's ``estimate_normals`` does the same, with 30 unless told otherwise.
    """
    tree = tree_of(points)
    normals = np.empty((len(rows), 3))
    for start in range(0, len(rows), _CHUNK // 8):
        chunk = slice(start, start + _CHUNK // 8)
        _, near = tree.query(points[rows[chunk]], k=range(1, min(neighbours, len(points)) + 1), workers=_WORKERS)
        around = points[near] - points[near].mean(axis=1, keepdims=True)
        # Eigenvalues ascend: the first vector is the direction in which the neighbours spread least.
        normals[chunk] = np.linalg.eigh(np.swapaxes(around, 1, 2) @ around)[1][:, :, 0]
    return normals


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
