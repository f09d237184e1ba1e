"""A scene in the browser: viser's nodes for clouds, paths and cameras, brought up to what the controls ask for.

Points are sent once. Each block of them is a node of its own, under nodes of its class of confidence and of depth::

    /0 METHOD/cloud/surest 70-100/farthest 90-100/block 12

so that filters and time show and hide nodes, and send nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lingbot_eval.geometry.quaternions import quaternion_from_rotation
from lingbot_eval.types import FloatArray, Image
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
    shrunk,
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
_NOW_COLOUR = (255, 140, 0)
_NOTHING: tuple[int, ...] = ()


@dataclass(frozen=True)
class Look:
    """What the controls ask for. now: the frame. history: frames before it that are shown, 0 = all. colouring: of
    points. sureness: least class of confidence (index into SURENESS). ranges: first and last class of depth (into
    RANGES). size: of a point, in voxels. frustum: of a camera, as a share of the scene's extent. hidden: labels of
    layers, ``""`` for the truth."""

    now: int
    history: int = 0
    colouring: Colouring = "picture"
    sureness: int = 2
    ranges: tuple[int, int] = (0, len(RANGES) - 1)
    size: float = 1.0
    frustum: float = 0.03
    trail: bool = True
    frusta: bool = True
    hidden: frozenset[str] = frozenset()

    def shows(self, first: int, last: int) -> bool:
        """Whether something that frames ``first`` to ``last`` brought is seen."""
        return first <= self.now and (not self.history or last > self.now - self.history)


@dataclass(eq=False)
class _Sent:
    """A block and its node. shown: by the time, whatever the filters say."""

    block: Block
    handle: viser.PointCloudHandle
    shown: bool


@dataclass(eq=False)
class _Drawn:
    """The nodes of one layer."""

    name: str
    root: viser.FrameHandle
    cutter: Cutter = field(default_factory=Cutter)
    blocks: list[_Sent] = field(default_factory=list)
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
        self.points = 0

    def draw(self, look: Look, *, grow: bool = True) -> None:
        """Bring the nodes up to what is asked for, and to what is there if ``grow``."""
        grew = grow and not self._whole
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
                    for sent in drawn.blocks:
                        sent.handle.colors = self._colours(number, placed, sent.block, look)
            if before is not None and before.size != look.size:
                for sent in drawn.blocks:
                    sent.handle.point_size = self._point_size(placed, look)
            for key, node in drawn.classes.items():
                node.visible = key[0] >= look.sureness if len(key) == 1 else look.ranges[0] <= key[1] <= look.ranges[1]
            for sent in drawn.blocks:
                shown = look.shows(sent.block.first, sent.block.last)
                if shown != sent.shown:
                    sent.handle.visible = sent.shown = shown
            self._draw_path(number, drawn, placed, look)
            for index, frustum in drawn.frusta.items():
                frustum.visible = look.frusta and look.shows(index, index)
            if grew or before is None or before.frustum != look.frustum:
                for frustum in drawn.frusta.values():
                    frustum.scale = look.frustum * self.surroundings.extent
            self._draw_head(drawn, placed, look)
        if grew:
            self.points = sum(len(sent.block.voxels) for drawn in self._drawn for sent in drawn.blocks)
        if self._truth is not None:
            self._truth.visible = "" not in look.hidden

    def remove(self) -> None:
        """Take everything out of the scene."""
        for drawn in self._drawn:
            drawn.root.remove()
        if self._truth is not None:
            self._truth.remove()

    def nearest(self, origin: FloatArray, direction: FloatArray) -> FloatArray | None:
        """(3,) the visible point that a ray meets: of those within 0.5° of it the nearest, else the one at the smallest
        angle; None where nothing is shown."""
        look = self._look
        best: tuple[tuple[bool, float], FloatArray] | None = None
        for drawn, placed in zip(self._drawn, self.placed, strict=True):
            if look is None or placed.layer.label in look.hidden:
                continue
            chosen = [
                sent.block.voxels
                for sent in drawn.blocks
                if sent.shown and sent.block.sureness >= look.sureness
                if look.ranges[0] <= sent.block.range <= look.ranges[1]
            ]
            if not chosen:
                continue
            with placed.layer.lock:
                positions = placed.layer.cloud.positions[np.concatenate(chosen)]
            points = placed.move.apply_points(positions.astype(np.float64))
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
            void = drawn.cutter.generation != layer.cloud.generation
            for block in drawn.cutter.cut(layer, whole=self._whole):
                moved = placed.move.apply_points(layer.cloud.positions[block.voxels].astype(np.float64))
                ready.append((block, moved, self._colours(number, placed, block, look)))
        if void:
            for sent in drawn.blocks:
                sent.handle.remove()
            drawn.blocks.clear()
        for block, points, colours in ready:
            # Positions travel as float16: near the block's own middle they are exact to a part of a voxel.
            middle = (points.min(axis=0) + points.max(axis=0)) / 2
            shown = look.shows(block.first, block.last)
            handle = self._api.add_point_cloud(
                f"{self._class_name(drawn, (block.sureness, block.range))}/block {block.number}",
                points - middle,
                colours,
                point_size=self._point_size(placed, look),
                point_shape="circle",
                point_shading="flat",
                position=middle,
                visible=shown,
            )
            drawn.blocks.append(_Sent(block, handle, shown))

    def _class_name(self, drawn: _Drawn, key: tuple[int, ...]) -> str:
        """The node above the blocks of a class; it is made where it is not there."""
        above = f"{drawn.name}/cloud" if len(key) == 1 else self._class_name(drawn, key[:-1])
        starts, what = (SURENESS, "confidence") if len(key) == 1 else (RANGES, "depth")
        ends = (*starts[1:], 1.0)
        name = f"{above}/{what} {100 * starts[key[-1]]:.0f}-{100 * ends[key[-1]]:.0f} pct"
        if key not in drawn.classes:
            drawn.classes[key] = self._api.add_frame(name, show_axes=False)
        return name

    def _colours(self, number: int, placed: Placed, block: Block, look: Look) -> Image:
        return colours_of(look.colouring, placed, number, block.voxels, self.surroundings.up)

    def _point_size(self, placed: Placed, look: Look) -> float:
        return look.size * placed.move.scale * (placed.layer.cloud.voxel_size or 1.0)

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
                color=_NOW_COLOUR,
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
