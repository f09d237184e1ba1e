"""Point cloud accuracy: clouds of depth maps, Umeyama, voxels, ICP, distances both ways (protocol.md section 1)."""

from __future__ import annotations

from dataclasses import dataclass
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
Mask = NDArray[np.bool_]

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


@dataclass(frozen=True, eq=False)
class PointScore:
    """Measurements of family ``points``, and the motions that brought the prediction to the truth (None: not scored).

    umeyama: from the prediction's world to the truth's. icp: (4, 4) rigid, applied after it.
    """

    measurements: tuple[Measurement, ...]
    umeyama: Sim3 | None = None
    icp: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class PointPairs:
    """Two clouds and which of their points belong together.

    truth: (N, 3) metres. prediction: (M, 3), in any world and scale. pairs: row i of the first ``pairs`` rows of both
    belongs to row i. truth_mask, prediction_mask: (N,), (M,) coverage: which points are compared at the end; points
    outside still serve as neighbours. None is all of them. sampled: a word on thinning, for the convention.
    """

    truth: FloatArray | DepthMap
    prediction: FloatArray | DepthMap
    pairs: int
    truth_mask: Mask | None = None
    prediction_mask: Mask | None = None
    sampled: str = ""


def score_points(clouds: PointPairs, settings: PointSettings | None = None) -> PointScore:
    """Accuracy, completeness, chamfer, precision, recall, F1 and normal consistency of a predicted cloud.

    Points that are not finite are left out before anything else. Too few points or pairs, or pairs on one line, come
    back as the reason.
    """
    settings = settings or PointSettings()
    quantities = _quantities(settings, clouds.sampled)
    try:
        transform, moved, aligned, truth = _aligned(clouds, settings)
    except UnscorableError as error:
        return PointScore(tuple(quantity.failed(str(error), 0) for quantity in quantities.values()))
    # Coverage decides which points are asked about; the whole other cloud answers.
    to_truth, true_rows = nearest(truth.points, aligned.points[aligned.mask])
    to_prediction, rows = nearest(aligned.points, truth.points[truth.mask])
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
    measurements = tuple(quantities[name].value(*result) for name, result in found.items())
    return PointScore(measurements, transform, moved)


def _agreement(cloud: _Cloud, other: _Cloud, partners: NDArray[np.int64], neighbours: int) -> FloatArray:
    """(K,) |cosines| between normals of a cloud and of their partners in the other, of an even sample of its points."""
    asked = np.flatnonzero(cloud.mask)
    every = -(-len(asked) // NORMAL_POINTS)
    own = normals_at(cloud.points, asked[::every], neighbours)
    return np.asarray(np.abs(np.einsum("ki,ki->k", own, normals_at(other.points, partners[::every], neighbours))))


@dataclass(frozen=True, eq=False)
class _Cloud:
    points: FloatArray  # (K, 3)
    mask: Mask  # (K,)


def _aligned(clouds: PointPairs, settings: PointSettings) -> tuple[Sim3, FloatArray, _Cloud, _Cloud]:
    """Similarity, registration, and both clouds in the truth's world, thinned."""
    for name, points in (("true", clouds.truth), ("predicted", clouds.prediction)):
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"expected {name} points of shape (N, 3), found {points.shape}")
    rows = slice(0, clouds.pairs)
    both = np.isfinite(clouds.truth[rows]).all(axis=1) & np.isfinite(clouds.prediction[rows]).all(axis=1)
    if np.count_nonzero(both) < MIN_POINTS:
        raise UnscorableError(
            f"only {np.count_nonzero(both)} points valid in both truth and prediction, at least {MIN_POINTS} are needed"
        )
    transform = umeyama(
        clouds.prediction[rows][both].astype(np.float64), clouds.truth[rows][both].astype(np.float64), with_scale=True
    )
    truth = _thinned(_usable(clouds.truth, clouds.truth_mask, "true"), settings.voxel_m)
    guess = _usable(clouds.prediction, clouds.prediction_mask, "predicted")
    guess = _thinned(_Cloud(transform.apply_points(guess.points), guess.mask), settings.voxel_m)
    if settings.icp_m is None:
        return transform, np.eye(4), guess, truth
    every = -(-len(guess.points) // ICP_POINTS)
    moved = icp(guess.points[::every], truth.points, settings.icp_m)
    points = guess.points @ moved[:3, :3].T + moved[:3, 3]
    return transform, moved, _Cloud(points, guess.mask), truth


def _usable(points: FloatArray | DepthMap, mask: Mask | None, name: str) -> _Cloud:
    mask = np.ones(len(points), dtype=bool) if mask is None else mask
    finite = np.isfinite(points).all(axis=1)
    cloud = _Cloud(points[finite].astype(np.float64), mask[finite])
    if np.count_nonzero(cloud.mask) == 0:
        raise UnscorableError(f"no {name} point inside the coverage mask is finite")
    return cloud


def _thinned(cloud: _Cloud, voxel_m: float | None) -> _Cloud:
    if voxel_m is None:
        return cloud
    points, voxel = voxel_means(cloud.points, voxel_m)
    covered = np.zeros(len(points), dtype=bool)
    covered[voxel[cloud.mask]] = True
    return _Cloud(points, covered)


def voxel_means(points: FloatArray, edge: float) -> tuple[FloatArray, NDArray[np.int64]]:
    """One point a voxel, the mean of the (N, 3) points in it, and the voxel of each point (N,).

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
    means = np.stack([np.bincount(voxel, points[:, axis]) / count for axis in range(3)], axis=1)
    return means, voxel.astype(np.int64)


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


class CloudCollector:
    """Back-projects the pixels valid in both truth and prediction (protocol.md section 1, "Point cloud").

    Every k-th of them is kept; k doubles each time there are more than ``capacity``, 24 bytes each. limits: metres,
    true depth strictly between them is valid.
    """

    def __init__(self, capacity: int, limits: tuple[float, float]) -> None:
        self._capacity = capacity
        self._limits = limits
        self._clouds: list[tuple[DepthMap, DepthMap]] = []  # (n, 3) float32: truth, prediction
        self._every = 1
        self._kept = 0
        self._without: dict[str, int] = {}

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Take one frame; one that lacks something is counted with it. A method without intrinsics uses the frame's.

        Raises DataError when the shapes of the depth maps differ.
        """
        truth, guess = frame.depth, prediction.depth
        intrinsics = prediction.intrinsics if prediction.intrinsics is not None else frame.intrinsics
        pose = prediction.camera_to_world if prediction.has_orientation else None
        needed = {
            "true depth": truth,
            "predicted depth": guess,
            "reference pose": frame.camera_to_world,
            "estimated pose": pose,
            "reference intrinsics": frame.intrinsics,
            "intrinsics": intrinsics,
        }
        missing = next((name for name, value in needed.items() if value is None), None)
        true_pose, true_intrinsics = frame.camera_to_world, frame.intrinsics
        if truth is None or guess is None or true_pose is None or pose is None:
            self._count(str(missing))
            return
        if true_intrinsics is None or intrinsics is None:
            self._count(str(missing))
            return
        if truth.shape != guess.shape:
            raise DataError(
                f"frame {frame.index}: predicted depth of shape {guess.shape} does not match the true depth of shape"
                f" {truth.shape}; both must be at the prepared image size"
            )
        valid = (truth > self._limits[0]) & (truth < self._limits[1]) & (guess > 0) & np.isfinite(guess)
        offset = int(len(self._clouds) * 0.6180339887 % 1 * self._every)
        pixels = np.flatnonzero(valid)[offset :: self._every]
        if not len(pixels):
            return
        own = true_intrinsics if frame.depth_intrinsics is None else frame.depth_intrinsics
        true_points = world_points(truth, pixels, own, true_pose)
        points = world_points(guess, pixels, intrinsics, pose)
        self._clouds.append((true_points, points))
        self._kept += len(pixels)
        while self._kept > self._capacity:
            self._every *= 2
            self._clouds = [(t[::2].copy(), p[::2].copy()) for t, p in self._clouds]
            self._kept = sum(len(t) for t, _ in self._clouds)

    def _count(self, missing: str) -> None:
        self._without[missing] = self._without.get(missing, 0) + 1

    def pairs(self) -> PointPairs:
        """Both clouds, row by row from the same pixels; what they were thinned to is in ``sampled``."""
        truth, points = (
            np.concatenate([cloud[side] for cloud in self._clouds]) if self._clouds else np.empty((0, 3), np.float32)
            for side in range(2)
        )
        words = [f"every {self._every}th valid pixel"] if self._every > 1 else []
        words += [f"{count} frames without {name} left out" for name, count in self._without.items()]
        return PointPairs(truth, points, len(truth), sampled=", ".join(words))


class PointFamily(MetricFamily):
    """Point clouds of all frames against each other. Off unless asked for: it keeps up to 10 million points a scene,
    240 MB, and takes up to a minute and 2 GB to compare them."""

    Settings = PointSettings
    on = False

    def __init__(self, settings: PointSettings, context: SceneContext) -> None:
        super().__init__(settings, context)
        self._clouds = CloudCollector(settings.max_points, context.depth_limits) if context.gives_depth else None

    def add(self, frame: Frame, prediction: Prediction) -> dict[str, float | None]:
        if self._clouds is not None:
            self._clouds.add(frame, prediction)
        return {}

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        if self._clouds is None:
            nothing = PointPairs(np.empty((0, 3)), np.empty((0, 3)), 0)
            return because(score_points(nothing, self.settings).measurements, "the method gives no depth")
        return list(score_points(self._clouds.pairs(), self.settings).measurements)
