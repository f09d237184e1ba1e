"""What the viewer shows of one scene: layers (a method each), moved onto the truth, their clouds cut into blocks.

Nothing here knows how it is drawn: `lingbot_eval.viewing.page` does.
"""

from __future__ import annotations

import functools
import math
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import StoreError, UnscorableError
from lingbot_eval.files.times import associate
from lingbot_eval.geometry.alignment import Sim3, umeyama
from lingbot_eval.types import FloatArray, Frame, FrameType, Image, Prediction, Trajectory
from lingbot_eval.viewing.cloud import VoxelCloud
from lingbot_eval.viewing.kept import SKY_FILE, Reconstruction, SmallPictures, add_frame, pixel_step, sky_cloud
from lingbot_eval.viewing.masks import SkyMasks

Colouring = Literal["picture", "error", "confidence", "height", "frame", "method"]
COLOURINGS: tuple[Colouring, ...] = get_args(Colouring)

SURENESS = (0.0, 0.1, 0.3, 0.5, 0.7)
"""Where the classes of confidence begin: shares of the cloud's voxels that are less sure."""
RANGES = (0.0, 0.25, 0.6, 0.9)
"""Where the classes of depth begin: shares of the voxels that were nearer to the camera that saw them first."""

DOUBLINGS = 3
"""How often a cloud's voxels are doubled for its coarsest level of detail."""

_SHARE_OF_A_BLOCK = 1 / 10
"""The blocks of one step of time hold at least this share of what is there before them, so that the number of blocks
grows with the logarithm of the number of points, and a cloud that grows is behind by at most so much."""
_LEAST_SPLIT = 256  # points of a class: fewer are one block of all levels of detail

METHOD_COLOURS = ((31, 119, 180), (255, 127, 14), (148, 103, 189), (214, 39, 40), (23, 190, 207), (140, 86, 75))
TRUTH_COLOUR = (44, 140, 60)
_NEUTRAL = (128, 128, 128)
_SAME_FRAME_S = 1e-6  # estimates and truth carry the frames' own timestamps, with all their digits


@dataclass(frozen=True, eq=False)
class Block:
    """Points that appear together: voxels that frames ``first`` to ``last`` saw first, of one class of confidence
    (index into SURENESS) and of depth (index into RANGES), and of one level of detail.

    cloud: of them. number: of the step of time. level: with it and the coarser ones of its class and time, points are
    as far apart as voxels doubled so often. base: there is no coarser one. voxels: (n,) their numbers in the cloud,
    which are of its ``generation``.
    """

    cloud: VoxelCloud
    number: int
    first: int
    last: int
    sureness: int
    range: int
    level: int
    base: bool
    voxels: NDArray[np.int64]
    generation: int

    @property
    def void(self) -> bool:
        """Whether the cloud's voxels doubled since: the numbers mean others, or none. Its layer's lock must be held."""
        return self.generation != self.cloud.generation


@dataclass(frozen=True, eq=False)
class Newest:
    """What the viewer shows of the newest frame. image: (H, W, 3) or None; depth: (H, W) or None."""

    index: int
    image: Image | None
    depth: NDArray[np.float32] | None


@dataclass(eq=False)
class Layer:
    """What one method made of a scene, whole or as it grows.

    label: of the method. cloud: in the method's own world. sky: what was taken for sky, apart from it. network: says
    where the sky is, None for the heuristic. Of frames that have a pose: ``index``, ``timestamps``, ``poses`` (camera-
    to-world, 16 numbers each, the method's world), ``views`` (vertical field of view in radians, width over height).
    pictures: small ones, by frame. length: frames that will come, where that is known. complete: no more will come.
    status: how it grows, a line. notes: what is missing, a line each. lock: held while any of it changes.
    """

    label: str
    cloud: VoxelCloud = field(default_factory=VoxelCloud)
    sky: VoxelCloud = field(default_factory=sky_cloud)
    network: SkyMasks | None = None
    index: array[int] = field(default_factory=lambda: array("q"))
    timestamps: array[float] = field(default_factory=lambda: array("d"))
    poses: array[float] = field(default_factory=lambda: array("d"))
    views: list[tuple[float, float]] = field(default_factory=list)
    pictures: SmallPictures[Image] = field(default_factory=SmallPictures)
    newest: Newest | None = None
    reconstruction: Reconstruction | None = None
    length: int | None = None
    complete: bool = False
    status: str = ""
    oriented: bool = True
    notes: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def stored(cls, label: str, kept: Reconstruction) -> Layer:
        """What a run kept. Raises StoreError where that is damaged, or nothing that can be shown."""
        poses, cloud, cameras = kept.poses, kept.cloud(), kept.cameras()
        layer = cls(label, reconstruction=kept, complete=True)
        if poses is None and cloud is None:
            raise StoreError(f"{kept.folder}: expected poses or a cloud to show, found neither; run that scene again")
        if cloud is None:
            layer.notes.append("no cloud was kept (keep.cloud, or a method without depth)")
        else:
            layer.cloud = cloud
            layer.sky = kept.cloud(SKY_FILE) or layer.sky
        if poses is None:
            layer.notes.append("no poses were kept")
        else:
            layer.index.extend(poses.indices.tolist())
            layer.timestamps.extend(poses.timestamps.tolist())
            layer.poses.frombytes(np.ascontiguousarray(poses.camera_to_world, np.float64).tobytes())
            layer.oriented = poses.has_orientation
            views = {}
            if cameras is not None:
                for index, matrix, (width, height) in zip(
                    cameras.index.tolist(), cameras.intrinsics, cameras.size.tolist(), strict=True
                ):
                    views[index] = _view(matrix, width, height)
            layer.views.extend(views.get(index, _USUAL_VIEW) for index in layer.index)
        layer.pictures.update((picture.index, picture.image) for picture in kept.thumbnails())
        return layer

    def add(self, frame: Frame, prediction: Prediction, *, pictured: bool = True) -> None:
        """Take a frame, as the method saw it, and its prediction. pictured: image and depth are shown as pictures."""
        pose, depth, intrinsics = prediction.camera_to_world, prediction.depth, prediction.intrinsics
        if intrinsics is None:
            intrinsics = frame.intrinsics
        sound = pose is not None and bool(np.isfinite(pose).all())
        above = None
        if self.network is not None and depth is not None and frame.image is not None:
            above = self.network.mask(frame.image, depth, prediction.depth_confidence)
        with self.lock:
            if pictured:
                self.newest = Newest(prediction.index, frame.image, depth)
            if pose is None or not sound:
                return
            self.index.append(prediction.index)
            self.timestamps.append(prediction.timestamp)
            self.poses.frombytes(np.ascontiguousarray(pose, np.float64).tobytes())
            pixels = frame.image if depth is None else depth
            view = self.views[-1] if self.views else _USUAL_VIEW
            if pictured and intrinsics is not None and pixels is not None:
                view = _view(intrinsics, pixels.shape[1], pixels.shape[0])
            self.views.append(view)
            self.oriented &= prediction.has_orientation
            if depth is not None and intrinsics is not None and prediction.has_orientation:
                step = pixel_step(depth.shape[1], depth.shape[0], self.length)
                confidence = prediction.depth_confidence
                given = depth, confidence, frame.image, intrinsics, pose, prediction.index, step
                add_frame(self.cloud, *given, sky=self.sky, above=above)
            if pictured and frame.image is not None and prediction.frame_type is not FrameType.UNKEPT:
                self.pictures.offer(prediction.index, frame.image, np.copy)

    def trajectory(self) -> Trajectory:
        """The path so far, in the method's world; takes the lock."""
        with self.lock:
            poses = np.array(self.poses).reshape(-1, 4, 4)
            return Trajectory(np.array(self.index, np.int64), np.array(self.timestamps), poses, self.oriented)

    def some_points(self, count: int) -> FloatArray:
        """About so many points of the cloud, evenly; takes the lock."""
        with self.lock:
            return self.cloud.positions[:: max(1, len(self.cloud) // count)].astype(np.float64)

    def depths(self, cloud: VoxelCloud, voxels: NDArray[np.int64]) -> FloatArray:
        """(n,) distance of voxels from the camera that saw them first; 0 where its pose is not known."""
        index = np.array(self.index, np.int64)
        if not len(index):
            return np.zeros(len(voxels))
        frames = cloud.first_frame[voxels]
        at = np.searchsorted(index, frames).clip(max=len(index) - 1)
        centres = np.array(self.poses).reshape(-1, 4, 4)[at, :3, 3]
        return np.where(index[at] == frames, np.linalg.norm(cloud.positions[voxels] - centres, axis=1), 0.0)


@dataclass(frozen=True, eq=False)
class Placed:
    """A layer where it is shown. move: from the method's world into the shown one. positions: (N, 3) there, rotations:
    (N, 3, 3). error: (N,) metres from the truth after Sim(3), NaN where there is none. why: the reason where the layer
    could not be aligned."""

    layer: Layer
    move: Sim3
    index: NDArray[np.int64]
    positions: FloatArray
    rotations: FloatArray
    error: FloatArray
    why: str | None


@dataclass(frozen=True, eq=False)
class LayeredScene:
    """Layers beside each other, and the truth.

    title: in words. truth: poses in metres, or None. live: frames come while it is shown; then everything is shown in
    the world of the first layer, so that nothing that was sent must move, and the truth is moved there; else in the
    truth's.
    """

    title: str
    layers: Sequence[Layer]
    truth: Trajectory | None = None
    live: bool = False

    @classmethod
    def stored(cls, title: str, kept: Sequence[tuple[str, Reconstruction]]) -> LayeredScene:
        """What runs kept of a scene, by label. Raises StoreError as `Layer.stored`."""
        truth = next((each for _, one in kept if (each := one.reference) is not None), None)
        return cls(title, [Layer.stored(label, one) for label, one in kept], truth)

    @property
    def complete(self) -> bool:
        """Whether no more frames will come."""
        return all(layer.complete for layer in self.layers)

    @property
    def shows_sky(self) -> bool:
        """Whether the sky is seen until somebody hides it: where nobody asked for it to be left out."""
        return self.live and all(layer.network is None for layer in self.layers)

    @property
    def unit(self) -> str:
        """Of what is shown."""
        return "m" if self.truth is not None and not self.live else "units of the model"

    def placed(self) -> tuple[tuple[Placed, ...], FloatArray | None]:
        """The layers where they are shown, and the (M, 4, 4) truth there, None without one."""
        truth = self.truth if self.truth is not None and len(self.truth) else None
        paths = [layer.trajectory() for layer in self.layers]
        found = []
        for layer, path in zip(self.layers, paths, strict=True):
            move, error, why = _aligned(path, truth)
            if self.live:
                move = Sim3.identity()
            elif truth is None and path is not paths[0]:
                fitted = _fit(path, paths[0])
                move, why = (
                    fitted or Sim3.identity(),
                    None if fitted else f"its path cannot be fitted to that of {self.layers[0].label}",
                )
            poses = move.apply_poses(path.camera_to_world)
            found.append(Placed(layer, move, path.indices, poses[:, :3, 3], poses[:, :3, :3], error, why))
        if truth is None or not self.live:
            return tuple(found), None if truth is None else truth.camera_to_world
        home = _fit(truth, paths[0])
        return tuple(found), None if home is None else home.apply_poses(truth.camera_to_world)


def _fit(source: Trajectory, target: Trajectory) -> Sim3 | None:
    """Sim(3) from one path onto another by Umeyama; None where it is not determined."""
    try:
        a, b = associate(target.timestamps, source.timestamps, _SAME_FRAME_S)
        if len(a) < 3:
            return None
        return umeyama(source.positions[b], target.positions[a], with_scale=True)
    except UnscorableError:
        return None


def _aligned(path: Trajectory, truth: Trajectory | None) -> tuple[Sim3, FloatArray, str | None]:
    """The move onto the truth, (N,) metres between them afterwards, and why there is none."""
    error = np.full(len(path), np.nan)
    if truth is None or not len(path):
        return Sim3.identity(), error, None
    in_truth, in_path = associate(truth.timestamps, path.timestamps, _SAME_FRAME_S)
    if len(in_truth) < 3:
        return Sim3.identity(), error, f"only {len(in_truth)} frames have both poses"
    try:
        move = umeyama(path.positions[in_path], truth.positions[in_truth], with_scale=True)
    except UnscorableError as reason:
        return Sim3.identity(), error, str(reason)
    moved = move.apply_points(path.positions[in_path])
    error[in_path] = np.linalg.norm(moved - truth.positions[in_truth], axis=1)
    return move, error, None


class Cutter:
    """Cuts a cloud, as it grows, into blocks of voxels that were not cut before.

    The level of a voxel never changes: of the voxels in a cell of a coarser grid the one that was seen first stands for
    all, at whatever frame the cloud is looked at.

    Attributes:
        generation: of the cloud that the blocks are of. Where the cloud's is another, all blocks are void.
        edges: least confidence of each class, and least depth.
    """

    def __init__(self, *, classes: bool = True) -> None:
        """Begin. classes: part points by confidence and depth, too."""
        self._classes = classes
        self.generation = 0
        self.edges: tuple[FloatArray, FloatArray] | None = None
        self._done = 0
        self._blocks = 0
        self._taken: list[NDArray[np.int64]] = []  # cells that have a voxel, of each coarser grid, sorted

    def cut(self, layer: Layer, cloud: VoxelCloud, *, whole: bool) -> Iterator[Block]:
        """Blocks of what is new, of each class the coarsest first. The layer's lock must be held.

        Args:
            layer: whose cameras tell the depth.
            cloud: of the layer: it is cut from where the last call ended; from the start where voxels doubled.
            whole: take everything; else the last voxels wait until they are enough for a block.
        """
        if cloud.generation != self.generation or not self._taken:
            self.generation, self.edges, self._done = cloud.generation, None, 0
            self._taken = [np.empty(0, np.int64)] * DOUBLINGS
        frames, confidence = cloud.first_frame, cloud.confidence
        if self._done == len(cloud):
            return
        # Where each frame's voxels end: a block never parts a frame.
        ends = np.append(self._done + 1 + np.flatnonzero(np.diff(frames[self._done :])), len(cloud))
        while self._done < len(cloud):
            least = self._done + max(1.0, self._done * _SHARE_OF_A_BLOCK)
            at = int(np.searchsorted(ends, least))
            if at == len(ends) and not whole:
                return
            # Of a stream everything new is one step: more of them would cost it more.
            at = min(at, len(ends) - 1) if whole else len(ends) - 1
            voxels = np.arange(self._done, int(ends[at]))
            depths = layer.depths(cloud, voxels)
            if self.edges is None:
                all_depths = layer.depths(cloud, np.arange(0, len(cloud), max(1, len(cloud) // 100_000)))
                self.edges = (
                    np.quantile(confidence, SURENESS, method="lower"),
                    np.quantile(all_depths, RANGES, method="lower"),
                )
            sure = np.searchsorted(self.edges[0][1:], confidence[voxels], side="right")
            far = np.searchsorted(self.edges[1][1:], depths, side="right")
            levels = self._levels(cloud, voxels)
            first, last = int(frames[voxels[0]]), int(frames[voxels[-1]])
            classes = sure * len(RANGES) + far if self._classes else np.zeros_like(sure)
            for key in np.unique(classes).tolist():
                chosen = voxels[classes == key]
                of = levels[classes == key] if len(chosen) >= _LEAST_SPLIT else np.zeros(len(chosen), np.int64)
                for level in np.unique(of)[::-1].tolist():
                    part, (sureness, range_) = chosen[of == level], divmod(key, len(RANGES))
                    step = self._blocks, first, last
                    yield Block(cloud, *step, sureness, range_, level, level == of.max(), part, self.generation)
            self._blocks += 1
            self._done = int(ends[at])

    def _levels(self, cloud: VoxelCloud, voxels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) how often the grid can be doubled so that each voxel is still the first in its cell."""
        levels = np.zeros(len(voxels), np.int64)
        for number, taken in enumerate(self._taken):
            cells, first = np.unique(cloud.cells(voxels, number + 1), return_index=True)
            at = np.searchsorted(taken, cells)
            new = np.append(taken, -1)[at] != cells
            levels[first[new]] = number + 1
            self._taken[number] = np.insert(taken, at[new], cells[new])
        return levels


def coarser(cloud: VoxelCloud, limit: int) -> VoxelCloud:
    """The cloud with voxels doubled until at most ``limit`` are left; itself where it has no more."""
    if len(cloud) <= limit:
        return cloud
    fewer = VoxelCloud(limit, cloud.voxel_size)
    positions, colours, confidence = cloud.positions, cloud.colours, cloud.confidence
    bounds = np.searchsorted(cloud.first_frame, np.unique(cloud.first_frame), side="right")
    start = 0
    for end in bounds.tolist():
        part = slice(start, end)
        fewer.add(positions[part], colours[part], confidence[part], int(cloud.first_frame[start]))
        start = end
    return fewer


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The world that is shown. up: (3,) unit. forward, right: (3,) unit, level. centre: (3,). extent: a length."""

    up: FloatArray
    forward: FloatArray
    right: FloatArray
    centre: FloatArray
    extent: float


def surroundings(placed: Sequence[Placed], truth: FloatArray | None) -> Surroundings:
    """Which way is up, and where things are: up is the median over the cameras of their −y axes, the box holds the
    middle 96 % of the points and all cameras."""
    rotations = [p.rotations for p in placed if p.layer.oriented and len(p.rotations)]
    if truth is not None:
        rotations = [truth[:, :3, :3]]
    every = np.concatenate(rotations) if rotations else np.eye(3)[None]
    up = _unit(np.median(-every[:, :, 1], axis=0), np.array([0.0, -1.0, 0.0]))
    ahead = every[0, :, 2]
    forward = _unit(ahead - (ahead @ up) * up, _unit(np.cross(up, every[0, :, 0]), np.array([0.0, 0.0, 1.0])))
    boxes = [p.positions[[np.argmin(p.positions[:, a]) for a in range(3)]] for p in placed if len(p.positions)]
    boxes += [p.positions[[np.argmax(p.positions[:, a]) for a in range(3)]] for p in placed if len(p.positions)]
    if truth is not None:
        boxes.append(truth[:, :3, 3])
    for p in placed:
        some = p.layer.some_points(20_000)
        if len(some):
            boxes.append(np.percentile(p.move.apply_points(some), (2, 98), axis=0))
    corners = np.concatenate(boxes) if boxes else np.zeros((1, 3))
    low, high = corners.min(axis=0), corners.max(axis=0)
    extent = float(np.linalg.norm(high - low)) or 1.0
    return Surroundings(up, forward, np.cross(forward, up), (low + high) / 2, extent)


def colours_of(how: Colouring, every: Sequence[Placed], number: int, block: Block, up: FloatArray) -> Image:
    """(n, 3) uint8 colours of a block's points. every: the layers; number: the place of the block's among them."""
    placed = every[number]
    cloud, points, voxels = placed.layer.cloud, block.cloud, block.voxels
    if how == "picture":
        return points.colours_at(voxels)
    if how == "method":
        return np.broadcast_to(np.array(METHOD_COLOURS[number % len(METHOD_COLOURS)], np.uint8), (len(voxels), 3))
    if how == "confidence":
        # By rank: confidence has no unit, and a few voxels have very much of it.
        ranks = np.sort(cloud.confidence[:: max(1, len(cloud) // 10_000)])
        return ramp(np.searchsorted(ranks, points.confidence[voxels]) / max(1, len(ranks) - 1), "viridis")
    if how == "height":
        some = (cloud if len(cloud) else points).positions
        low, high = np.percentile(some[:: max(1, len(some) // 50_000)] @ (up @ placed.move.rotation), (1, 99))
        heights = points.positions[voxels] @ (up @ placed.move.rotation)
        return ramp((heights - low) / (high - low or 1.0), "turbo")
    frames = points.first_frame[voxels]
    if how == "frame":
        last = placed.layer.length or (int(placed.index[-1]) if len(placed.index) else int(frames.max()))
        return ramp(frames / max(1, last), "plasma")
    at = np.searchsorted(placed.index, frames).clip(max=max(0, len(placed.index) - 1))
    errors = placed.error[at] if len(placed.index) else np.full(len(frames), np.nan)
    return ramp(errors / worst_of(every), "turbo")


def worst_of(placed: Sequence[Placed]) -> float:
    """The largest error of any layer, metres: the end of the error's colours. 1 where there is no error."""
    known = np.concatenate([p.error[np.isfinite(p.error)] for p in placed] or [np.empty(0)])
    return float(known.max()) if len(known) and known.max() > 0 else 1.0


def ramp(values: FloatArray, name: str) -> Image:
    """(..., 3) uint8 of a colour map over [0, 1]; grey where there is no value."""
    known = np.isfinite(values)
    picked: Image = _table(name)[np.rint(np.where(known, values, 0).clip(0, 1) * 255).astype(np.int64)]
    picked[~known] = _NEUTRAL
    return picked


@functools.cache
def _table(name: str) -> Image:
    """(256, 3) of a colour map."""
    from matplotlib import colormaps

    return np.asarray(np.rint(np.asarray(colormaps[name](np.arange(256)))[:, :3] * 255), np.uint8)


def depth_picture(depth: NDArray[np.float32]) -> Image:
    """(H, W, 3): near is red, far is blue, between the 2nd and the 98th percentile; grey where there is none."""
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        return np.full((*depth.shape, 3), _NEUTRAL[0], np.uint8)
    low, high = np.percentile(depth[known], (2, 98))
    return ramp(np.where(known, 1 - (depth - low) / (high - low or 1.0), np.nan), "turbo")


_USUAL_VIEW = (math.radians(60), 4 / 3)


def _view(intrinsics: FloatArray, width: int, height: int) -> tuple[float, float]:
    focal = float(intrinsics[1, 1])
    if not (np.isfinite(focal) and focal > 0):
        return _USUAL_VIEW
    return 2 * math.atan(height / (2 * focal)), width / height


def _unit(vector: FloatArray, otherwise: FloatArray) -> FloatArray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-6 else otherwise
