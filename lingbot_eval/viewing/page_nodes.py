"""A scene in the browser: viser's nodes for clouds, paths and cameras, brought up to what the controls ask for.

Points are sent once. Each block of them is a node of its own, under nodes of its class of confidence and of depth::

    /0 METHOD/cloud/confidence 70-100 pct/depth 90-100 pct/block 12.0

so that filters, time, level of detail and the number of points show and hide nodes, and send nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.geometry.poses import quaternion_from_rotation
from lingbot_eval.types import FloatArray, Image
from lingbot_eval.viewing.cloud import VoxelCloud
from lingbot_eval.viewing.kept import shrunk
from lingbot_eval.viewing.layers import (
    METHOD_COLOURS,
    RANGES,
    SURENESS,
    TRUTH_COLOUR,
    Block,
    Colouring,
    Cutter,
    LayeredScene,
    Placed,
    colours_of,
    ramp,
    surroundings,
    worst_of,
)

if TYPE_CHECKING:
    import viser

_PIECE = 64  # frames of a piece of a path
_MOST_FRUSTA = 40  # more hide the scene
_FRUSTUM_PIXELS = 100
_TRUTH_POINTS = 2000
_TRUTH_POINTS_LIVE = 300  # it is fitted, and sent, anew while the path grows
NOW_COLOUR = (226, 0, 150)  # of no method
Eye = tuple[float, ...]
_SKY = (-1,)  # key of the sky's class
_FINEST = 1 / 1000
"""Radians between two points as they are looked at: about a pixel. Where they are nearer a finer level is not shown."""


@dataclass(frozen=True)
class Look:
    """What the controls ask for. now: the frame. history: frames before it that are shown, 0 = all. colouring: of
    points. sureness: least class of confidence (index into SURENESS). ranges: first and last class of depth (into
    RANGES). sky: whether it is shown. budget: points of all layers that are shown at most, or None. size: of a point,
    in voxels. frustum: of a camera, as a share of the scene's extent. hidden: labels of layers, ``""`` for the truth.
    """

    now: int
    history: int = 0
    colouring: Colouring = "picture"
    sureness: int = 2
    ranges: tuple[int, int] = (0, len(RANGES) - 1)
    sky: bool = False
    budget: int | None = None
    size: float = 1.0
    frustum: float = 0.03
    trail: bool = True
    frusta: bool = True
    hidden: frozenset[str] = frozenset()

    def shows(self, first: Any, last: Any) -> Any:
        """Whether something that frames ``first`` to ``last`` brought is seen; of arrays an array."""
        return (first <= self.now) & ((not self.history) | (last > self.now - self.history))

    def shows_class(self, key: tuple[int, ...]) -> bool:
        """Whether points of a class are: of confidence, of confidence and depth, or the sky."""
        if key == _SKY:
            return self.sky
        return key[0] >= self.sureness and (len(key) == 1 or self.ranges[0] <= key[1] <= self.ranges[1])


_ROW = np.dtype(
    [
        *(("first", np.int64), ("last", np.int64), ("count", np.int64), ("level", np.int64), ("base", np.bool_)),
        *(("low", np.float64, 3), ("high", np.float64, 3)),  # of the box around its points, in the shown world
        ("edge", np.float64),  # of a voxel there
        ("group", np.int64),  # the same for all levels of one class and time
        *(("visible", np.bool_), ("size", np.float64)),  # of the node, as it was sent
    ]
)
"""What is known of each block that was sent, so that all of them can be judged at once."""


@dataclass(eq=False)
class _Sent:
    """A block and its node. layer: its number."""

    layer: int
    block: Block
    key: tuple[int, ...]
    handle: viser.PointCloudHandle


@dataclass(eq=False)
class _Drawn:
    """The nodes of one layer."""

    name: str
    root: viser.FrameHandle
    cutters: tuple[Cutter, Cutter] = field(default_factory=lambda: (Cutter(), Cutter(classes=False)))
    classes: dict[tuple[int, ...], viser.FrameHandle] = field(default_factory=dict)
    pieces: list[tuple[int, int, viser.LineSegmentsHandle]] = field(default_factory=list)
    tail: viser.LineSegmentsHandle | None = None
    tail_is: tuple[object, ...] = ()
    frusta: dict[int, viser.CameraFrustumHandle] = field(default_factory=dict)
    head: viser.CameraFrustumHandle | None = None
    head_is: int | None = None


class Nodes:
    """A scene's nodes.

    Attributes:
        placed: the layers where they are shown.
        surroundings: up, centre, extent.
        points: that were sent and are there.
        shown: of them, those that are seen.
        eyes: where it is looked at from.
    """

    def __init__(self, api: viser.SceneApi, scene: LayeredScene) -> None:
        self._api = api
        self.scene = scene
        self._drawn = [
            _Drawn(name := f"/{number} {_component(layer.label)}", api.add_frame(name, show_axes=False))
            for number, layer in enumerate(scene.layers)
        ]
        self._truth: viser.LineSegmentsHandle | None = None
        self._look: Look | None = None
        self._whole = False
        self._surveyed = -1
        self.placed: tuple[Placed, ...] = ()
        self.truth: FloatArray | None = None
        self.surroundings = surroundings((), None)
        self.points = self.shown = 0
        self.eyes: list[Eye] = []
        self._sent: list[_Sent] = []
        self._rows = np.empty(0, _ROW)
        self._groups = 0

    @property
    def has_sky(self) -> bool:
        """Whether anything was taken for sky."""
        return any(_SKY in drawn.classes for drawn in self._drawn)

    def draw(self, look: Look, *, eyes: Sequence[Eye] = ()) -> None:
        """Bring the nodes up to what is asked for, and to what is there.

        Args:
            look: what is asked for.
            eyes: where it is looked at from; from nowhere all levels of detail are shown.
        """
        grew = not self._whole
        if grew:
            self._whole = self.scene.complete  # before it is looked at: what comes later is seen next time
            self._place()
        before, self._look = self._look, look
        for number, (drawn, placed) in enumerate(zip(self._drawn, self.placed, strict=True)):
            drawn.root.visible = placed.layer.label not in look.hidden
            if grew:
                self._add_blocks(number, drawn, placed, look)
                self._add_frusta(number, drawn, placed, look)
            if before is not None and before.colouring != look.colouring:
                with placed.layer.lock:
                    for sent in self._sent:
                        # What is void is sent anew, in these colours, when new points are looked for.
                        if sent.layer == number and not sent.block.void:
                            sent.handle.colors = self._colours(number, sent.block, look)
            for key, node in drawn.classes.items():
                node.visible = look.shows_class(key)
            self._draw_path(number, drawn, placed, look)
            for index, frustum in drawn.frusta.items():
                frustum.visible = look.frusta and look.shows(index, index)
            if grew or before is None or before.frustum != look.frustum:
                for frustum in drawn.frusta.values():
                    frustum.scale = look.frustum * self.surroundings.extent
            self._draw_head(drawn, placed, look)
        self._choose(look, eyes)
        if self._truth is not None:
            self._truth.visible = "" not in look.hidden

    def look_from(self, eyes: Sequence[Eye]) -> None:
        """What was asked for last, from elsewhere."""
        if self._look is not None:
            self._choose(self._look, eyes)

    def remove(self) -> None:
        """Take everything out of the scene."""
        for drawn in self._drawn:
            drawn.root.remove()
        if self._truth is not None:
            self._truth.remove()

    def nearest(self, origin: FloatArray, direction: FloatArray) -> FloatArray | None:
        """(3,) the visible point that a ray meets: of those within 0.5° of it the nearest, else the one at the smallest
        angle; None where nothing is shown."""
        if self._look is None:
            return None
        seen = np.flatnonzero(self._open(self._look) & self._rows["visible"]).tolist()
        best: tuple[tuple[bool, float], FloatArray] | None = None
        for number, placed in enumerate(self.placed):
            with placed.layer.lock:
                blocks = [self._sent[at].block for at in seen if self._sent[at].layer == number]
                chosen = [block.cloud.positions[block.voxels] for block in blocks if not block.void]
            if not chosen:
                continue
            points = placed.move.apply_points(np.concatenate(chosen).astype(np.float64))
            along = (points - origin) @ direction
            aside = np.linalg.norm(points - origin - along[:, None] * direction, axis=1)
            angle = np.arctan2(aside, along)
            close = angle < np.radians(0.5)
            at = int(np.argmin(np.where(close, along, np.inf))) if close.any() else int(np.argmin(angle))
            key = (not close[at], float(along[at] if close[at] else angle[at]))
            if best is None or key < best[0]:
                best = key, points[at]
        return None if best is None else best[1]

    def _place(self) -> None:
        self.placed, self.truth = self.scene.placed()
        size = sum(len(placed.index) + len(placed.layer.cloud) for placed in self.placed)
        if self._whole or size > 1.2 * self._surveyed:
            self._surveyed = size
            self.surroundings = surroundings(self.placed, self.truth)
        if self.truth is not None and len(self.truth) > 1:
            step = -(-len(self.truth) // (_TRUTH_POINTS_LIVE if self.scene.live else _TRUTH_POINTS))
            segments = _segments(self.truth[::step, :3, 3])
            if self._truth is None:
                self._truth = self._api.add_line_segments(
                    "/ground truth", segments, TRUTH_COLOUR, thickness=2, thickness_units="screen"
                )
            else:
                self._truth.points = segments.astype(np.float32)

    def _add_blocks(self, number: int, drawn: _Drawn, placed: Placed, look: Look) -> None:
        layer = placed.layer
        ready: list[tuple[Block, FloatArray, Image]] = []
        with layer.lock:
            for cloud, cutter in zip((layer.cloud, layer.sky), drawn.cutters, strict=True):
                if cutter.generation != cloud.generation:
                    self._take_away(number, cloud)
                for block in cutter.cut(layer, cloud, whole=self._whole):
                    moved = placed.move.apply_points(cloud.positions[block.voxels].astype(np.float64))
                    ready.append((block, moved, self._colours(number, block, look)))
        rows = np.zeros(len(ready), _ROW)
        for at, (block, points, colours) in enumerate(ready):
            self._groups += block.base
            low, high = points.min(axis=0), points.max(axis=0)
            edge = placed.move.scale * (block.cloud.voxel_size or 1.0)
            rows[at] = (
                *(block.first, block.last, len(points), block.level, block.base, low, high),
                *(edge, self._groups, look.shows(block.first, block.last), look.size * edge),
            )
            # Positions travel as float16: near the block's own middle they are exact to a part of a voxel.
            middle = (low + high) / 2
            key = _SKY if block.cloud is layer.sky else (block.sureness, block.range)
            handle = self._api.add_point_cloud(
                f"{self._class_name(drawn, key, look)}/block {block.number}.{block.level}",
                points - middle,
                colours,
                point_size=look.size * edge,
                point_shape="circle",
                point_shading="flat",
                position=middle,
                visible=bool(rows[at]["visible"]),
            )
            self._sent.append(_Sent(number, block, key, handle))
        self._rows = np.concatenate([self._rows, rows])
        self.points = int(self._rows["count"].sum())

    def _take_away(self, number: int, cloud: VoxelCloud) -> None:
        """The nodes of a cloud whose voxels doubled."""
        stays = [sent.layer != number or sent.block.cloud is not cloud for sent in self._sent]
        for sent, stay in zip(self._sent, stays, strict=True):
            if not stay:
                sent.handle.remove()
        self._sent = list(compress(self._sent, stays))
        self._rows = self._rows[np.array(stays, np.bool_)]

    def _open(self, look: Look) -> NDArray[np.bool_]:
        """(B,) whether the nodes above each block are visible."""
        hidden = [placed.layer.label in look.hidden for placed in self.placed]
        return np.array([not hidden[sent.layer] and look.shows_class(sent.key) for sent in self._sent], np.bool_)

    def _choose(self, look: Look, eyes: Sequence[Eye]) -> None:
        """Show the blocks of the time whose points are apart as they are looked at, the nearest and coarsest of them
        first, as many as the budget lets; where finer ones are not shown points are larger."""
        rows, open_ = self._rows, self._open(look)
        wanted = look.shows(rows["first"], rows["last"]) & open_
        apart = 2.0 ** (rows["level"] + 1) * rows["edge"]  # points without this block
        self.eyes = list(eyes)
        if len(eyes):
            away = [np.maximum(np.maximum(rows["low"] - eye, eye - rows["high"]), 0) for eye in eyes]
            apart = apart / np.maximum(np.linalg.norm(away, axis=2).min(axis=0), rows["edge"])
            wanted &= rows["base"] | (apart > _FINEST)
        if look.budget is not None:
            order = np.lexsort((-apart, ~rows["base"], ~wanted))
            wanted[order] &= np.cumsum(rows["count"][order]) <= look.budget
        self.shown = int(rows["count"][wanted].sum())
        # On surfaces the distance between points goes with the root of their number.
        every = np.bincount(rows["group"], rows["count"])
        larger = np.sqrt(every / np.maximum(np.bincount(rows["group"], rows["count"] * wanted), 1))
        size = np.where(wanted, look.size * rows["edge"] * larger[rows["group"]], rows["size"])
        # Below a node that is hidden nothing has to be told.
        visible = np.where(open_, wanted, rows["visible"])
        for at in np.flatnonzero(visible != rows["visible"]).tolist():
            self._sent[at].handle.visible = bool(visible[at])
        for at in np.flatnonzero(size != rows["size"]).tolist():
            self._sent[at].handle.point_size = float(size[at])
        rows["visible"], rows["size"] = visible, size

    def _class_name(self, drawn: _Drawn, key: tuple[int, ...], look: Look) -> str:
        """The node above the blocks of a class; it is made where it is not there."""
        if key == _SKY:
            name = f"{drawn.name}/sky"
        else:
            above = f"{drawn.name}/cloud" if len(key) == 1 else self._class_name(drawn, key[:-1], look)
            starts, what = (SURENESS, "confidence") if len(key) == 1 else (RANGES, "depth")
            ends = (*starts[1:], 1.0)
            name = f"{above}/{what} {100 * starts[key[-1]]:.0f}-{100 * ends[key[-1]]:.0f} pct"
        if key not in drawn.classes:
            drawn.classes[key] = self._api.add_frame(name, show_axes=False, visible=look.shows_class(key))
        return name

    def _colours(self, number: int, block: Block, look: Look) -> Image:
        return colours_of(look.colouring, self.placed, number, block, self.surroundings.up)

    def _add_frusta(self, number: int, drawn: _Drawn, placed: Placed, look: Look) -> None:
        if not placed.layer.oriented or not len(placed.index):
            return
        with placed.layer.lock:
            pictures: dict[int, Image | None] = dict(placed.layer.pictures)
            views = list(placed.layer.views)
        if not pictures and not self.scene.live:
            pictures = dict.fromkeys(placed.index.tolist())
        every = 1
        while len(pictures) > every * _MOST_FRUSTA:
            every *= 2  # so that, as frames come, half of those that are there stay
        pictures = dict(list(pictures.items())[::every])
        for index in [index for index in drawn.frusta if index not in pictures]:
            drawn.frusta.pop(index).remove()
        for index, picture in pictures.items():
            at = int(np.searchsorted(placed.index, index))
            if index in drawn.frusta or at == len(placed.index) or placed.index[at] != index:
                continue
            fov, aspect = views[at]
            drawn.frusta[index] = self._api.add_camera_frustum(
                f"{drawn.name}/cameras/{index}",
                fov,
                aspect,
                scale=look.frustum * self.surroundings.extent,
                thickness=1,
                thickness_units="screen",
                color=METHOD_COLOURS[number % len(METHOD_COLOURS)],
                image=None if picture is None else shrunk(picture, _FRUSTUM_PIXELS),
                wxyz=_wxyz(placed.rotations[at]),
                position=placed.positions[at],
                cast_shadow=False,
                receive_shadow=False,
            )

    def _draw_path(self, number: int, drawn: _Drawn, placed: Placed, look: Look) -> None:
        """Whole pieces of the path are sent once; the piece at the current frame grows and shrinks with it."""
        count = int(np.searchsorted(placed.index, look.now, side="right"))
        by_error = look.colouring == "error"
        whole = max(0, (len(placed.index) - 1) // _PIECE)
        while len(drawn.pieces) < whole:
            part = slice(len(drawn.pieces) * _PIECE, (len(drawn.pieces) + 1) * _PIECE + 1)
            first, last = int(placed.index[part.start]), int(placed.index[part.stop - 1])
            name = f"{drawn.name}/path/{len(drawn.pieces)}"
            drawn.pieces.append((first, last, self._line(name, number, placed, part, by_error)))
        for first, last, handle in drawn.pieces:
            handle.visible = look.trail and last <= look.now and look.shows(first, last)
        start = (count - 1) // _PIECE * _PIECE if count else 0
        if look.history:
            start = max(start, int(np.searchsorted(placed.index, look.now - look.history, side="right")))
        state = (start, count, by_error, look.trail)
        if state == drawn.tail_is:
            return
        recolour = bool(drawn.tail_is) and drawn.tail_is[2] != by_error
        drawn.tail_is = state
        if recolour:
            for piece, (_, _, handle) in enumerate(drawn.pieces):
                part = slice(piece * _PIECE, (piece + 1) * _PIECE + 1)
                handle.colors = self._line_colours(number, placed, part, by_error)
        part = slice(start, count)
        if drawn.tail is not None:
            drawn.tail.remove()
            drawn.tail = None
        if look.trail and count - start > 1:
            drawn.tail = self._line(f"{drawn.name}/path/now", number, placed, part, by_error)

    def _line(self, name: str, number: int, placed: Placed, part: slice, by_error: bool) -> viser.LineSegmentsHandle:
        colours = self._line_colours(number, placed, part, by_error)
        return self._api.add_line_segments(
            name, _segments(placed.positions[part]), colours, thickness=2.5, thickness_units="screen"
        )

    def _line_colours(self, number: int, placed: Placed, part: slice, by_error: bool) -> Image:
        segments = max(0, len(placed.positions[part]) - 1)
        if not by_error:
            return np.broadcast_to(np.array(METHOD_COLOURS[number % len(METHOD_COLOURS)], np.uint8), (segments, 2, 3))
        colours = ramp(placed.error[part] / worst_of(self.placed), "turbo")
        return np.stack([colours[:-1], colours[1:]], axis=1)

    def _draw_head(self, drawn: _Drawn, placed: Placed, look: Look) -> None:
        """The camera of the current frame, larger, with its picture where one is there."""
        at = int(np.searchsorted(placed.index, look.now, side="right")) - 1
        if at < 0 or not placed.layer.oriented:
            if drawn.head is not None:
                drawn.head.visible = False
            return
        index = int(placed.index[at])
        if drawn.head is None:
            fov, aspect = placed.layer.views[at]
            drawn.head = self._api.add_camera_frustum(
                f"{drawn.name}/now",
                fov,
                aspect,
                thickness=3,
                thickness_units="screen",
                color=NOW_COLOUR,
                cast_shadow=False,
                receive_shadow=False,
            )
        drawn.head.visible = True
        drawn.head.scale = 2 * look.frustum * self.surroundings.extent
        if drawn.head_is != index:
            drawn.head_is = index
            drawn.head.wxyz = _wxyz(placed.rotations[at])
            drawn.head.position = placed.positions[at]


def _segments(points: FloatArray) -> FloatArray:
    """(N − 1, 2, 3) segments between (N, 3) points."""
    return np.stack([points[:-1], points[1:]], axis=1)


def _wxyz(rotation: FloatArray) -> FloatArray:
    return np.roll(quaternion_from_rotation(rotation), 1)


def _component(text: str) -> str:
    """A name from outside as one part of a node's path."""
    plain = "".join(c if c.isprintable() and c != "/" else "_" for c in text)
    return plain[:60]
