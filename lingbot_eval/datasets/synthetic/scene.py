"""From a floor plan to a place: textured rectangles with light baked on them, and the way of the camera through it.

Walls, floor, ceiling, furniture, pictures, lamps. Light is baked once a scene into a small brightness map for every
rectangle: it does not depend on the view, so that a point has the same colour in every frame. The way is a smooth
closed walk with a wandering gaze, of any distance, every frame by itself.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from lingbot_eval.datasets.synthetic.materials import TextureSet, build_textures, fractal_noise
from lingbot_eval.datasets.synthetic.plans import PLANS, Plan, Wall, contains, walls_around
from lingbot_eval.types import FloatArray

Generator = np.random.Generator

TABLE_SPACING = 0.02  # metres between the points of a walk


@dataclass(frozen=True, eq=False)
class Walk:
    """A closed smooth curve on the floor. points: (K, 2) metres, about TABLE_SPACING apart; length: metres a lap."""

    points: FloatArray
    length: float

    @classmethod
    def along(cls, corners: FloatArray, rounding: float) -> Walk:
        """The closed polygon through ``corners`` (M, 2), its corners rounded over about ``rounding`` metres."""
        dense = _resample(corners, TABLE_SPACING)
        for axis in (0, 1):
            dense[:, axis] = gaussian_filter1d(dense[:, axis], rounding / TABLE_SPACING, mode="wrap")
        points = _resample(dense, TABLE_SPACING)
        length = float(np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1).sum())
        return cls(points, length)


def _resample(corners: FloatArray, spacing: float) -> FloatArray:
    closed = np.concatenate([corners, corners[:1]])
    distance = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    count = max(16, round(distance[-1] / spacing))
    at = np.arange(count) * (distance[-1] / count)
    return np.stack([np.interp(at, distance, closed[:, axis]) for axis in (0, 1)], axis=1)


class CameraPath:
    """Poses along a walk as a function of the distance walked; laps follow each other with other small motions."""

    def __init__(self, walk: Walk, seed: int) -> None:
        self.walk = walk
        count = len(walk.points)
        knots = np.arange(count + 1) * (walk.length / count)
        closed = np.concatenate([walk.points, walk.points[:1]])
        self._position = CubicSpline(knots, closed, bc_type="periodic")
        step = self._position(knots[:-1], 1)
        heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        turn = _wrapped(heading[0] - heading[-1]) + heading[-1] - heading[0]  # ±2π a lap, or 0
        ramp = turn * np.arange(count) / count
        # The head turns before and after the feet do: a wider smoothing than the walk's own corners.
        smooth = gaussian_filter1d(heading - ramp, 0.35 / TABLE_SPACING, mode="wrap")
        self._heading = CubicSpline(knots, np.append(smooth, smooth[0]), bc_type="periodic")
        self._turn = turn
        rng = np.random.default_rng(np.random.SeedSequence([seed, 77]))
        # amplitude, and the wavelengths in metres of walking that it is spread over
        self._yaw = _wander(rng, np.radians(24.0), (2.5, 9.0))
        self._pitch = _wander(rng, np.radians(9.0), (2.0, 7.0), offset=np.radians(rng.uniform(2.0, 10.0)))
        self._roll = _wander(rng, np.radians(2.0), (1.2, 4.0))
        self._side = _wander(rng, 0.09, (2.0, 6.0))
        self._height = _wander(rng, 0.05, (0.9, 3.0), offset=rng.uniform(1.35, 1.65))

    def camera_to_world(self, distance: float) -> FloatArray:
        """(4, 4) pose, OpenCV camera axes, after walking ``distance`` metres."""
        at = distance % self.walk.length
        x, y = self._position(at)
        heading = float(self._heading(at)) + self._turn * distance / self.walk.length
        side = self._side(distance)
        tangent = self._position(at, 1)
        tangent = tangent / np.hypot(*tangent)
        yaw, pitch, roll = heading + self._yaw(distance), self._pitch(distance), self._roll(distance)
        # Camera axes for a level gaze along the yaw, then pitched down and rolled about the optical axis.
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        down = np.cross(forward, right)
        pose = np.eye(4)
        pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
        pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
        pose[:3, 2] = forward
        pose[:3, 3] = (x - side * tangent[1], y + side * tangent[0], self._height(distance))
        return pose


def _wander(
    rng: Generator, amplitude: float, wavelengths: tuple[float, float], offset: float = 0.0
) -> Callable[[float], float]:
    """A smooth endless function that stays within ``offset ± amplitude``: a few sines of unrelated wavelengths."""
    frequency: FloatArray = 2 * np.pi / rng.uniform(*wavelengths, 4)
    phase = rng.uniform(0, 2 * np.pi, 4)
    weights = rng.uniform(0.5, 1.0, 4)
    weights = amplitude * weights / weights.sum()
    return lambda distance: offset + float(weights @ np.sin(frequency * distance + phase))


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


LAMP_REACH = 7.0  # metres; beyond it a lamp's share is below what an 8-bit picture shows
AMBIENT = 0.45
BRIGHTEST = 1.1


@dataclass(frozen=True, eq=False)
class LightMaps:
    """Brightness at grid points of every face, bilinear between them, all in one array.

    values: (total,) float32 factors on the colour. offset, columns: (N,) where a face's row-major map starts and
    its row length. density: (N, 2) grid steps a metre along right and down.
    """

    values: NDArray[np.float32]
    offset: NDArray[np.int32]
    columns: NDArray[np.int32]
    density: NDArray[np.float64]


def bake(faces: Faces, lamps: FloatArray, walls: Sequence[Wall], footprints: FloatArray, rng: Generator) -> LightMaps:
    """Brightness maps of all faces. lamps: (L, 4) position and power; footprints: (F, 3) x, y, radius on the floor."""
    stains = fractal_noise(rng, (512, 512), 1.4)
    normals = faces.normal
    maps: list[NDArray[np.float32]] = []
    for number, size in enumerate(faces.size):
        steps = np.maximum(np.ceil(size / (0.12 if number == 0 else 0.2)).astype(int), 1)
        shape = (int(steps[1]) + 2, int(steps[0]) + 2)  # a spare row and column, so that look-ups never leave the map
        if faces.glow[number]:
            maps.append(np.full(shape, 1.35, np.float32))
            continue
        right = np.arange(shape[1], dtype=np.float32) * (size[0] / steps[0])
        down = np.arange(shape[0], dtype=np.float32) * (size[1] / steps[1])
        light = np.full(shape, AMBIENT, np.float32)
        centre = faces.origin[number] + (faces.right[number] * size[0] + faces.down[number] * size[1]) / 2
        near = np.linalg.norm(lamps[:, :3] - centre, axis=1) < LAMP_REACH + float(np.hypot(*size)) / 2
        for lamp in lamps[near]:
            _add_lamp(light, lamp, faces, number, (right, down, normals[number]))
        light = BRIGHTEST * np.tanh(light / BRIGHTEST)  # lamps close together must not burn out to white
        shift = rng.integers(0, 512, 2)
        rows, columns = (shift[0] + np.arange(shape[0])) % 512, (shift[1] + np.arange(shape[1])) % 512
        light *= 1.0 + 0.07 * stains[rows[:, None], columns[None, :]]
        edge_s, edge_t = np.minimum(right, size[0] - right), np.minimum(down, size[1] - down)
        light *= (1 - 0.22 * np.exp(-edge_t / 0.2))[:, None] * (1 - 0.15 * np.exp(-edge_s / 0.2))[None, :]
        maps.append(light)
    _shade_floor(maps[0], faces, walls, footprints)
    counts = np.array([m.size for m in maps])
    shapes = np.array([m.shape for m in maps])
    return LightMaps(
        np.concatenate([m.ravel() for m in maps]),
        np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32),
        shapes[:, 1].astype(np.int32),
        (shapes[:, ::-1] - 2) / faces.size,
    )


def _add_lamp(
    light: NDArray[np.float32],
    lamp: FloatArray,
    faces: Faces,
    number: int,
    frame: tuple[NDArray[np.float32], NDArray[np.float32], FloatArray],
) -> None:
    right, down, normal = frame
    offset = lamp[:3] - faces.origin[number]
    height = float(offset @ normal)
    if not -0.1 < height < LAMP_REACH:
        return
    s, t = float(offset @ faces.right[number]), float(offset @ faces.down[number])
    s0, s1 = np.searchsorted(right, (s - LAMP_REACH, s + LAMP_REACH))
    t0, t1 = np.searchsorted(down, (t - LAMP_REACH, t + LAMP_REACH))
    if s0 == s1 or t0 == t1:
        return
    squared = (right[None, s0:s1] - s) ** 2 + (down[t0:t1, None] - t) ** 2 + np.float32(height**2)
    # Half of it regardless of the angle: light that has bounced off the other walls.
    facing = 0.45 + 0.55 * max(height, 0.0) / np.sqrt(squared + 1e-3)
    fade = np.clip(1.0 - squared / LAMP_REACH**2, 0.0, 1.0)
    light[t0:t1, s0:s1] += (lamp[3] * 2.8) * facing * fade / (squared + 1.3)


def _shade_floor(light: NDArray[np.float32], faces: Faces, walls: Sequence[Wall], footprints: FloatArray) -> None:
    """Darken the floor (face 0) near walls and around whatever stands on it."""
    x0, y1 = faces.origin[0, :2]
    step = faces.size[0] / (np.array(light.shape[::-1]) - 2)
    x = x0 + np.arange(light.shape[1]) * step[0]
    y = y1 - np.arange(light.shape[0]) * step[1]
    reach = 0.8

    def darken(low: FloatArray, high: FloatArray, strength: float) -> None:
        columns = slice(*np.searchsorted(x, (low[0] - reach, high[0] + reach)))
        rows = slice(*np.searchsorted(-y, (-high[1] - reach, -low[1] + reach)))
        dx = np.clip(np.maximum(low[0] - x[columns], x[columns] - high[0]), 0, None)
        dy = np.clip(np.maximum(low[1] - y[rows], y[rows] - high[1]), 0, None)
        light[rows, columns] *= 1 - strength * np.exp(-np.hypot(dy[:, None], dx[None, :]) / 0.18)

    for wall in walls:
        ends = np.array(wall)
        darken(ends.min(axis=0), ends.max(axis=0), 0.35)
    for centre_x, centre_y, radius in footprints:
        centre = np.array([centre_x, centre_y])
        darken(centre - 0.7 * radius, centre + 0.7 * radius, 0.45)


PICTURE_GAP = 0.02  # metres between a wall and what hangs on it


@dataclass(frozen=True, eq=False)
class Faces:
    """N one-sided rectangles in space.

    origin: (N, 3) the corner that is top left for who looks at it. right, down: (N, 3) unit edge directions.
    size: (N, 2) metres along right and down. texture: (N,). tiling: (N, 4) texture repeats a metre along right,
    offset, the same along down. tint: (N, 3) factor on the texture's colour. glow: (N,) True = lit by itself.
    """

    origin: FloatArray
    right: FloatArray
    down: FloatArray
    size: FloatArray
    texture: NDArray[np.int32]
    tiling: FloatArray
    tint: NDArray[np.float32]
    glow: NDArray[np.bool_]

    @property
    def normal(self) -> FloatArray:
        """(N, 3) unit normals towards the visible side."""
        return np.cross(self.down, self.right)


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything the renderer and the camera path need of one place."""

    plan: Plan
    walk: Walk
    faces: Faces
    textures: TextureSet
    light_maps: LightMaps


@functools.lru_cache(maxsize=4)
def build_scene(kind: str, seed: int) -> Scene:
    """The place called ``kind`` (a key of PLANS) of this seed; equal arguments give equal bits on one machine.

    The last few are kept: a run opens the same scene several times, and building one takes half a second.
    """
    # crc32 and not hash(): the latter differs from one process to the next.
    plan_rng, texture_rng, object_rng, light_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence([seed, zlib.crc32(kind.encode())]).spawn(4)
    )
    plan = PLANS[kind](plan_rng)
    walk = Walk.along(plan.walk, plan.rounding)
    textures = build_textures(texture_rng)
    parts = _Parts(plan, walk, textures, object_rng)
    parts.shell()
    for wall in parts.walls:
        parts.hang(wall)
        parts.line_up(wall)
    parts.scatter()
    lamps = parts.lamps()
    faces = parts.stacked()
    footprints = np.array(parts.footprints, float).reshape(-1, 3)
    return Scene(plan, walk, faces, textures, bake(faces, lamps, parts.walls, footprints, light_rng))


@dataclass(eq=False)
class _Parts:
    """Collects rectangles while a scene is furnished."""

    plan: Plan
    walk: Walk
    textures: TextureSet
    rng: Generator
    rows: list[tuple[object, ...]] = field(default_factory=list)
    footprints: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, radius of what stands there

    def __post_init__(self) -> None:
        self.walls = tuple(walls_around(self.plan.free))
        self.path = self.walk.points[::4]  # dense enough for distances in furnishing
        bounds = np.array(self.plan.free)
        self.low, self.high = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)

    def stacked(self) -> Faces:
        origin, right, down, size, texture, tiling, tint, glow = zip(*self.rows, strict=True)
        return Faces(
            np.array(origin, float),
            np.array(right, float),
            np.array(down, float),
            np.array(size, float),
            np.array(texture, np.int32),
            np.array(tiling, float),
            np.array(tint, np.float32),
            np.array(glow, bool),
        )

    def add(self, corner: object, right: object, down: object, group: str, texture: int, whole: bool = False) -> None:
        """One rectangle from its corner and two edge vectors; ``whole`` stretches the texture over it once."""
        edges = np.array([right, down], float)
        size = np.linalg.norm(edges, axis=1)
        if whole:
            tiling = (1.0 / size[0], 0.0, 1.0 / size[1], 0.0)
            tint = 1.0 + self.rng.uniform(-0.12, 0.12, 3) * (group != "light")
        else:
            repeats = {"wall": 0.45, "floor": 0.4, "ceiling": 0.35, "rug": 0.5, "furniture": 0.8}[group]
            offset = self.rng.random(2)
            tiling = (repeats, offset[0], repeats, offset[1])
            tint = np.ones(3) + self.rng.uniform(-0.05, 0.05, 3)
        row = (corner, edges[0] / size[0], edges[1] / size[1], size, texture, tiling, tint, group == "light")
        self.rows.append(row)

    def pick(self, group: str) -> int:
        return int(self.rng.choice(self.textures.groups[group]))

    def shell(self) -> None:
        """Floor and ceiling (one rectangle each: walls hide what lies outside), walls, lintels of doorways."""
        (x0, y0), (x1, y1) = self.low, self.high
        height = self.plan.height
        self.add((x0, y1, 0.0), (x1 - x0, 0, 0), (0, y0 - y1, 0), "floor", self.pick("floor"))
        self.add((x0, y0, height), (x1 - x0, 0, 0), (0, y1 - y0, 0), "ceiling", self.pick("ceiling"))
        main = self.pick("wall")
        for wall in self.walls:
            texture = main if self.rng.random() < 0.6 else self.pick("wall")
            start, end = wall
            along = np.subtract(end, start)
            self.add((*start, height), (*along, 0.0), (0, 0, -height), "wall", texture)
        for x0, y0, x1, y1 in self.plan.doorways:
            corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
            self.prism(corners, (self.plan.door_height, height), "wall", main)
            self.add((x0, y0, self.plan.door_height), (x1 - x0, 0, 0), (0, y1 - y0, 0), "wall", main)

    def prism(self, corners: FloatArray, levels: tuple[float, float], group: str, texture: int) -> None:
        """Upright prism over counter-clockwise corners: its sides, and its top when it is a box below eye level."""
        bottom, top = levels
        whole = group == "furniture" and self.rng.random() < 0.7 and len(corners) == 4
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            self.add((*a, top), (*(b - a), 0.0), (0, 0, bottom - top), group, texture, whole)
        if len(corners) == 4 and bottom == 0.0:
            a, b, _, d = corners
            self.add((*d, top), (*(b - a), 0.0), (*(a - d), 0.0), group, self.pick(group))

    def distance_to_walk(self, centre: FloatArray) -> float:
        return float(np.sqrt(((self.path - centre) ** 2).sum(axis=1).min()))

    def hang(self, wall: Wall) -> None:
        """Pictures, doors and windows along a wall, with gaps of random width."""
        start, along, length = _line(wall)
        inward = np.array([along[1], -along[0]])
        height = self.plan.height
        position = self.rng.uniform(0.1, 0.9)
        while position < length - 0.5:
            group = str(self.rng.choice(["picture", "picture", "picture", "picture", "door", "window"]))
            if group == "door":
                width, tall, top = self.rng.uniform(0.8, 1.0), 2.05, 2.05
            elif group == "window":
                width, tall, top = self.rng.uniform(0.9, 1.6), self.rng.uniform(0.9, 1.2), 2.15
            else:
                width, tall = self.rng.uniform(0.3, 1.1), self.rng.uniform(0.3, 0.9)
                top = self.rng.uniform(1.0 + tall / 2, min(2.2, height - 0.15))
            if position + width > length - 0.1:
                break
            corner = start + along * position + inward * PICTURE_GAP
            self.add((*corner, top), (*(along * width), 0.0), (0, 0, -tall), group, self.pick(group), whole=True)
            position += width + self.rng.gamma(2.0, 0.5) + 0.1

    def line_up(self, wall: Wall) -> None:
        """Cupboards, shelves and radiators against a wall, wherever they leave the walk free."""
        start, along, length = _line(wall)
        inward = np.array([along[1], -along[0]])
        position = self.rng.uniform(0.2, 2.5)
        while position < length - 0.8:
            width, deep, tall = self.rng.uniform(0.5, 1.4), self.rng.uniform(0.15, 0.55), self.rng.uniform(0.4, 2.0)
            left = start + along * position
            if position + width < length - 0.05:
                self.stand(np.array([left, left + along * width]), inward * deep, tall)
            position += width + self.rng.gamma(2.0, 0.9)

    def stand(self, back: FloatArray, depth: FloatArray, tall: float) -> None:
        """A box between a back edge (left, right) and that edge moved by ``depth``, if nobody walks there."""
        left, right = back
        # Seen from inside, the back runs left to right; counter-clockwise from above is front first.
        corners = np.array([left + depth, right + depth, right, left])
        samples = np.concatenate(
            [a + np.linspace(0, 1, 5)[:, None] * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
        )
        if not contains(self.plan.free, samples[:10]).all():
            return
        if min(self.distance_to_walk(p) for p in samples) < self.plan.clearance:
            return
        self.prism(corners, (0.0, tall), "furniture", self.pick("furniture"))
        centre = corners.mean(axis=0)
        self.footprints.append((centre[0], centre[1], float(np.linalg.norm(depth)) / 2))

    def scatter(self) -> None:
        """Tables, crates, rugs and pillars anywhere that is far enough from the walk."""
        area = sum((r[2] - r[0]) * (r[3] - r[1]) for r in self.plan.free)
        for _ in range(int(min(area * 0.8, 400))):
            room = self.plan.free[self.rng.integers(len(self.plan.free))]
            centre = self.rng.uniform(room[:2], room[2:])
            radius = self.rng.uniform(0.15, 0.75)
            box = np.array([*(centre - radius), *(centre + radius)])
            clear = self.distance_to_walk(centre) > radius + self.plan.clearance
            apart = all(np.hypot(centre[0] - x, centre[1] - y) > radius + r for x, y, r in self.footprints)
            within = room[0] < box[0] and room[1] < box[1] and box[2] < room[2] and box[3] < room[3]
            if not (clear and apart and within):
                continue
            self.footprints.append((centre[0], centre[1], radius))
            sides = 8 if radius < 0.3 else 4
            angle = self.rng.uniform(0, 2 * np.pi) + np.arange(sides) * 2 * np.pi / sides
            if sides == 4:
                lean = self.rng.uniform(0.5, 1.1)  # aspect of the box
                angle += np.array([-1, 1, -1, 1]) * (lean - np.pi / 4) / 2
            corners = centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            group, tall = ("furniture", self.rng.uniform(0.35, 1.3)) if sides == 4 else ("wall", self.plan.height)
            self.prism(corners, (0.0, tall), group, self.pick(group))
        for room in self.plan.free:
            if min(room[2] - room[0], room[3] - room[1]) > 1.5 and self.rng.random() < 0.7:
                self.rug(np.array(room))

    def rug(self, room: FloatArray) -> None:
        half = self.rng.uniform(0.2, 0.4) * (room[2:] - room[:2]).clip(max=4.0)
        centre = (room[:2] + room[2:]) / 2
        (x0, y0), (x1, y1) = centre - half, centre + half
        self.add((x0, y1, 0.01), (x1 - x0, 0, 0), (0, y0 - y1, 0), "rug", self.pick("rug"), whole=True)

    def lamps(self) -> FloatArray:
        """Lamp panels under the ceiling along the walk; (L, 4) position and power."""
        placed: list[tuple[float, float, float, float]] = []
        spacing = self.plan.light_spacing
        for point in self.path[::3]:
            if all(np.hypot(point[0] - x, point[1] - y) > spacing for x, y, _, _ in placed):
                power = 0.15 if self.rng.random() < 0.15 else self.rng.uniform(0.7, 1.3)
                placed.append((point[0], point[1], self.plan.height - 0.03, power))
        for x, y, z, _ in placed:
            half = self.rng.uniform(0.12, 0.35, 2)
            self.add(
                (x - half[0], y - half[1], z),
                (2 * half[0], 0, 0),
                (0, 2 * half[1], 0),
                "light",
                self.pick("light"),
                whole=True,
            )
        return np.array(placed)


def _line(wall: Wall) -> tuple[FloatArray, FloatArray, float]:
    start, end = np.array(wall)
    length = float(np.linalg.norm(end - start))
    return start, (end - start) / length, length
