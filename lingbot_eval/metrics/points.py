"""Point cloud accuracy: clouds of depth maps, Umeyama, voxels, ICP, distances both ways (protocol.md section 1)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lingbot_eval.errors import DataError, UnscorableError
from lingbot_eval.geometry.alignment import Sim3, umeyama
from lingbot_eval.geometry.cameras import world_points
from lingbot_eval.metrics.base import MetricFamily, Quantity, SceneContext, ScoredScene, because
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import Declaration, DepthMap, FloatArray, Frame, Measurement, Prediction

if TYPE_CHECKING:
    from scipy.spatial import KDTree


Metres = Annotated[float, Field(gt=0, allow_inf_nan=False)]

MIN_POINTS = 100
ICP_POINTS = 200_000  # six numbers are sought: more points only take longer
NORMAL_POINTS = 100_000  # of each cloud: the mean of so many cosines is known to three digits


DECLARED = (
    Declaration("accuracy", "lower", "", title="Acc (m)", published="accuracy_m"),
    Declaration("completeness", "lower", "", title="Comp (m)", published="completeness_m"),
    Declaration("normal_consistency", "higher", "", title="NC", published="normal_consistency"),
    Declaration("f1", "higher", "", title="F1 (%)", published="f1_percent"),
    Declaration("accuracy", "lower", "median", published="accuracy_median_m"),
    Declaration("completeness", "lower", "median", published="completeness_median_m"),
    Declaration("normal_consistency", "higher", "median", published="normal_consistency_median"),
    Declaration("chamfer", "lower", "", published="chamfer_m"),
    Declaration("precision", "higher", "", published="precision_percent"),
    Declaration("recall", "higher", "", published="recall_percent"),
)


class PointSettings(StrictModel):
    """How clouds are compared; lengths in metres.

    voxel_m: edge of the voxels that both clouds are thinned to, None for none. icp_m: farthest pair of the
    registration, None for no registration. threshold_m: of precision, recall and F1. normal_neighbours: points that a
    normal rests on, itself among them; None for no normals. max_points: a cloud that is collected from depth maps
    keeps at most that many points of each side.
    """

    voxel_m: Metres | None = 4 / 512
    icp_m: Metres | None = 0.1
    threshold_m: Metres = 0.05
    normal_neighbours: Annotated[int, Field(ge=3, le=1000)] | None = 30
    max_points: Annotated[int, Field(ge=1000, le=20_000_000)] = 10_000_000


def score_points(
    truth: FloatArray | DepthMap,
    prediction: FloatArray | DepthMap,
    pairs: int,
    settings: PointSettings | None = None,
    sampled: str = "",
) -> tuple[Measurement, ...]:
    """Accuracy, completeness, chamfer, precision, recall, F1 and normal consistency of a predicted cloud.

    Points that are not finite are left out before anything else. Too few points or pairs, or pairs on one line, come
    back as the reason.

    Args:
        truth: (N, 3) metres.
        prediction: (M, 3), in any world and scale.
        pairs: so many first rows of both belong together, row by row.
        settings: how they are compared.
        sampled: a word on thinning, for the convention.

    Returns:
        Measurements of family ``points``.
    """
    settings = settings or PointSettings()
    quantities = _quantities(settings, sampled)
    try:
        _, _, truth, aligned = aligned_clouds(truth, prediction, pairs, settings)
    except UnscorableError as error:
        return tuple(quantity.failed(str(error), 0) for quantity in quantities.values())
    to_truth, true_rows = nearest(truth, aligned)
    to_prediction, rows = nearest(aligned, truth)
    accuracy, completeness = float(np.mean(to_truth)), float(np.mean(to_prediction))
    precision, recall = (100.0 * float(np.mean(d < settings.threshold_m)) for d in (to_truth, to_prediction))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    both = len(to_truth) + len(to_prediction)
    found = {
        ("accuracy", ""): (accuracy, len(to_truth)),
        ("accuracy", "median"): (float(np.median(to_truth)), len(to_truth)),
        ("completeness", ""): (completeness, len(to_prediction)),
        ("completeness", "median"): (float(np.median(to_prediction)), len(to_prediction)),
        ("chamfer", ""): ((accuracy + completeness) / 2, both),
        ("precision", ""): (precision, len(to_truth)),
        ("recall", ""): (recall, len(to_prediction)),
        ("f1", ""): (f1, both),
    }
    if settings.normal_neighbours is not None:
        agree = (
            _agreement(aligned, truth, true_rows, settings.normal_neighbours),
            _agreement(truth, aligned, rows, settings.normal_neighbours),
        )
        looked_at = sum(map(len, agree))
        found["normal_consistency", ""] = float(np.mean([np.mean(side) for side in agree])), looked_at
        found["normal_consistency", "median"] = float(np.mean([np.median(side) for side in agree])), looked_at
    return tuple(quantities[name].value(*result) for name, result in found.items())


def _agreement(cloud: FloatArray, other: FloatArray, partners: NDArray[np.int64], neighbours: int) -> FloatArray:
    """(K,) |cosines| between normals of a cloud and of their partners in the other, of an even sample of its points."""
    every = -(-len(cloud) // NORMAL_POINTS)
    own = normals_at(cloud, np.arange(0, len(cloud), every), neighbours)
    return np.asarray(np.abs(np.einsum("ki,ki->k", own, normals_at(other, partners[::every], neighbours))))


def aligned_clouds(
    truth: FloatArray | DepthMap, prediction: FloatArray | DepthMap, pairs: int, settings: PointSettings
) -> tuple[Sim3, FloatArray, FloatArray, FloatArray]:
    """From the prediction's world to the truth's a similarity and, after it, a rigid (4, 4) registration; and both
    clouds in the truth's world, thinned, the true one first. Raises UnscorableError for too few pairs or pairs on one
    line."""
    for name, points in (("true", truth), ("predicted", prediction)):
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"expected {name} points of shape (N, 3), found {points.shape}")
    known, usable = (np.asarray(np.isfinite(points).all(axis=1)) for points in (truth, prediction))
    both = np.flatnonzero(known[:pairs] & usable[:pairs])
    if len(both) < MIN_POINTS:
        raise UnscorableError(
            f"only {len(both)} points valid in both truth and prediction, at least {MIN_POINTS} are needed"
        )
    transform = umeyama(prediction[both].astype(np.float64), truth[both].astype(np.float64), with_scale=True)
    target = truth[known].astype(np.float64)
    moved = transform.apply_points(prediction[usable].astype(np.float64))
    if settings.voxel_m is not None:
        target, moved = voxel_means(target, settings.voxel_m), voxel_means(moved, settings.voxel_m)
    if settings.icp_m is None:
        return transform, np.eye(4), target, moved
    motion = icp(moved[:: -(-len(moved) // ICP_POINTS)], target, settings.icp_m)
    return transform, motion, target, moved @ motion[:3, :3].T + motion[:3, 3]


def voxel_means(points: FloatArray, edge: float) -> FloatArray:
    """One point a voxel, the mean of the (N, 3) points in it.

    Voxels are cubes of ``edge`` from the cloud's lower corner less half an edge, as Open3D cuts them. Raises
    UnscorableError where the cloud is so large that its voxels cannot be numbered.
    """
    corner = points.min(axis=0) - edge / 2
    extent = np.floor((points.max(axis=0) - corner) / edge) + 1
    if not np.prod(extent) < 2**62:
        raise UnscorableError(
            f"the cloud spans {np.ptp(points, axis=0).max():.3g} m, too much for voxels of {edge:g} m:"
            " the alignment or some depth is far off"
        )
    cells = np.zeros(len(points), dtype=np.int64)
    for axis in range(3):  # one axis at a time: no second copy of the cloud
        cells *= int(extent[axis])
        cells += ((points[:, axis] - corner[axis]) / edge).astype(np.int64)
    _, voxel, count = np.unique(cells, return_inverse=True, return_counts=True)
    return np.stack([np.bincount(voxel, points[:, axis]) / count for axis in range(3)], axis=1)


def _quantities(settings: PointSettings, sampled: str) -> dict[tuple[str, str], Quantity]:
    steps = ["Umeyama on corresponding points"]
    if settings.voxel_m is not None:
        steps.append(f"voxels of {settings.voxel_m:.4g} m")
    if settings.icp_m is not None:
        steps.append(
            f"point-to-point ICP within {settings.icp_m:g} m (scipy, of at most {ICP_POINTS} predicted points)"
        )
    how = ", ".join(steps) + (f"; {sampled}" if sampled else "")
    limit = f"closer than {settings.threshold_m:g} m"
    words: dict[tuple[str, str], tuple[Literal["m", "%", "1"], str]] = {
        ("accuracy", ""): ("m", "mean distance of predicted points to the nearest true one"),
        ("accuracy", "median"): ("m", "median distance of predicted points to the nearest true one"),
        ("completeness", ""): ("m", "mean distance of true points to the nearest predicted one"),
        ("completeness", "median"): ("m", "median distance of true points to the nearest predicted one"),
        ("chamfer", ""): ("m", "mean of accuracy and completeness"),
        ("precision", ""): ("%", f"share of predicted points {limit} to a true one"),
        ("recall", ""): ("%", f"share of true points {limit} to a predicted one"),
        ("f1", ""): ("%", "harmonic mean of precision and recall"),
    }
    if settings.normal_neighbours is not None:
        rest = (
            "|cosine| between the normal of a point and that of the nearest point of the other cloud, for predicted and"
            f" for true points, then the mean of both; normals across the {settings.normal_neighbours} nearest points,"
            f" of at most {NORMAL_POINTS} points of each cloud"
        )
        for variant, statistic in (("", "mean"), ("median", "median")):
            words["normal_consistency", variant] = ("1", f"{statistic} {rest}")
    return {key: Quantity("points", *key, unit, f"{text}; {how}") for key, (unit, text) in words.items()}


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


_NEEDED = ("true depth", "predicted depth", "reference pose", "estimated pose", "reference intrinsics")


class PointFamily(MetricFamily):
    """Point clouds of all frames against each other (protocol.md section 1, "Point cloud"): the pixels valid in both
    truth and prediction, back-projected. Off unless asked for: it keeps up to 10 million points a scene, 240 MB, and
    takes up to a minute and 2 GB to compare them.

    Every k-th pixel is kept; k doubles each time there are more than ``max_points``, 24 bytes each.
    """

    Settings = PointSettings
    on = False

    def __init__(self, settings: PointSettings, context: SceneContext) -> None:
        super().__init__(settings, context)
        self._clouds: list[tuple[DepthMap, DepthMap]] = []  # (n, 3) float32: truth, prediction
        self._every = 1
        self._kept = 0
        self._without: Counter[str] = Counter()

    def add(self, frame: Frame, prediction: Prediction) -> dict[str, float | None]:
        """Take one frame; one that lacks something is counted with it. A method without intrinsics uses the frame's.

        Raises DataError when the shapes of the depth maps differ.
        """
        if not self.context.gives_depth:
            return {}
        truth, true_pose, true_intrinsics = frame.depth, frame.camera_to_world, frame.intrinsics
        guess = prediction.depth
        pose = prediction.camera_to_world if prediction.has_orientation else None
        if truth is None or guess is None or true_pose is None or pose is None or true_intrinsics is None:
            needed = (truth, guess, true_pose, pose, true_intrinsics)
            self._without[next(name for name, value in zip(_NEEDED, needed, strict=True) if value is None)] += 1
            return {}
        if truth.shape != guess.shape:
            raise DataError(
                f"frame {frame.index}: predicted depth of shape {guess.shape} does not match the true depth of shape"
                f" {truth.shape}; both must be at the prepared image size"
            )
        near, far = self.context.depth_limits
        valid = (truth > near) & (truth < far) & (guess > 0) & np.isfinite(guess)
        offset = int(len(self._clouds) * 0.6180339887 % 1 * self._every)
        pixels = np.flatnonzero(valid)[offset :: self._every]
        if not len(pixels):
            return {}
        own = true_intrinsics if frame.depth_intrinsics is None else frame.depth_intrinsics
        true_points = world_points(truth, pixels, own, true_pose)
        intrinsics = true_intrinsics if prediction.intrinsics is None else prediction.intrinsics
        points = world_points(guess, pixels, intrinsics, pose)
        self._clouds.append((true_points, points))
        self._kept += len(pixels)
        while self._kept > self.settings.max_points:
            self._every *= 2
            self._clouds = [(t[::2].copy(), p[::2].copy()) for t, p in self._clouds]
            self._kept = sum(len(t) for t, _ in self._clouds)
        return {}

    def clouds(self) -> tuple[DepthMap, DepthMap]:
        """True and predicted points so far, row by row from the same pixels."""
        nothing = np.empty((0, 3), np.float32)
        truth, points = (np.concatenate([nothing, *(cloud[side] for cloud in self._clouds)]) for side in range(2))
        return truth, points

    @property
    def sampled(self) -> str:
        """What the clouds were thinned to, and which frames are not in them."""
        words = [f"every {self._every}th valid pixel"] if self._every > 1 else []
        words += [f"{count} frames without {name} left out" for name, count in self._without.items()]
        return ", ".join(words)

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        truth, points = self.clouds()
        found = score_points(truth, points, len(truth), self.settings, self.sampled)
        return list(found) if self.context.gives_depth else because(found, "the method gives no depth")
