"""From a floor plan to textured, lit rectangles: walls, floor, ceiling, furniture, pictures, lamps."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.datasets.synthetic.lighting import LightMaps, bake
from lingbot_eval.datasets.synthetic.materials import TextureSet, build_textures
from lingbot_eval.datasets.synthetic.paths import Walk
from lingbot_eval.datasets.synthetic.plans import PLANS, Plan, Wall, contains, walls_around
from lingbot_eval.types import FloatArray

Generator = np.random.Generator

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
            along = np.subtract(wall.end, wall.start)
            self.add((*wall.start, height), (*along, 0.0), (0, 0, -height), "wall", texture)
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
    start, end = np.array(wall.start), np.array(wall.end)
    length = float(np.linalg.norm(end - start))
    return start, (end - start) / length, length
