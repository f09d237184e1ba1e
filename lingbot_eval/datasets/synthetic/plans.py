"""Floor plans: free rectangles on the ground, walls around their union, and a closed walk inside it.

World axes: x and y on the floor, z up, metres; the floor is z = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lingbot_eval.statistics import stretches
from lingbot_eval.types import FloatArray

Generator = np.random.Generator
Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1
Wall = tuple[tuple[float, float], tuple[float, float]]
"""A straight piece of wall from a start to an end on the floor, the interior to the right of that direction seen from
above, so that for somebody inside who looks at it the start is on the left."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Where one can stand and where one walks.

    free: rectangles of floor whose union is the interior. height: of the ceiling. doorways: free rectangles
    under a lintel at ``door_height``. walk: (M, 2) corners of the closed walk. rounding: metres over which its
    corners are rounded. clearance: metres from the walk that stay free of furniture. light_spacing: metres.
    """

    free: tuple[Rectangle, ...]
    height: float
    walk: FloatArray
    rounding: float
    clearance: float
    doorways: tuple[Rectangle, ...] = ()
    door_height: float = 2.1
    light_spacing: float = 3.0


def walls_around(free: tuple[Rectangle, ...]) -> Iterator[Wall]:
    """Walls around the union of rectangles, collinear neighbours merged."""
    x_lines = sorted({x for r in free for x in (r[0], r[2])})
    y_lines = sorted({y for r in free for y in (r[1], r[3])})
    inside = np.zeros((len(x_lines) + 1, len(y_lines) + 1), bool)  # a ring of solid cells around the plan
    for x0, y0, x1, y1 in free:
        inside[x_lines.index(x0) + 1 : x_lines.index(x1) + 1, y_lines.index(y0) + 1 : y_lines.index(y1) + 1] = True
    for i, x in enumerate(x_lines):
        for a, b in stretches(inside[i + 1, 1:-1] & ~inside[i, 1:-1]):  # interior towards +x
            yield (x, y_lines[a]), (x, y_lines[b])
        for a, b in stretches(inside[i, 1:-1] & ~inside[i + 1, 1:-1]):
            yield (x, y_lines[b]), (x, y_lines[a])
    for j, y in enumerate(y_lines):
        for a, b in stretches(inside[1:-1, j + 1] & ~inside[1:-1, j]):  # interior towards +y
            yield (x_lines[b], y), (x_lines[a], y)
        for a, b in stretches(inside[1:-1, j] & ~inside[1:-1, j + 1]):
            yield (x_lines[a], y), (x_lines[b], y)


def contains(free: tuple[Rectangle, ...], points: FloatArray) -> np.ndarray:
    """Which of the (N, 2) points lie in the union of the rectangles; (N,) bool."""
    inside = np.zeros(len(points), bool)
    for x0, y0, x1, y1 in free:
        inside |= (points[:, 0] >= x0) & (points[:, 0] <= x1) & (points[:, 1] >= y0) & (points[:, 1] <= y1)
    return inside


def _room(rng: Generator) -> Plan:
    width, depth = rng.uniform(5.0, 9.0), rng.uniform(5.0, 9.0)
    angle = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    wobble = 0.14 * np.sin(2 * angle + rng.uniform(0, 6.3)) + 0.1 * np.sin(3 * angle + rng.uniform(0, 6.3))
    radius = 0.76 + wobble
    walk = np.stack(
        [
            width / 2 + (width / 2 - 1.1) * radius * np.cos(angle),
            depth / 2 + (depth / 2 - 1.1) * radius * np.sin(angle),
        ],
        axis=1,
    )
    return Plan(((0.0, 0.0, width, depth),), rng.uniform(2.5, 3.4), walk, 0.3, 0.5)


def _corridor(rng: Generator) -> Plan:
    length, width = rng.uniform(14.0, 24.0), rng.uniform(2.8, 3.6)
    low, high = width / 2 - 0.45, width / 2 + 0.45
    walk = np.array([[1.6, low], [length - 1.6, low], [length - 1.6, high], [1.6, high]])
    return Plan(((0.0, 0.0, length, width),), rng.uniform(2.4, 3.0), walk, 0.35, 0.5)


def _along(corners: FloatArray, width: float, rng: Generator) -> Plan:
    """Corridors along a closed axis-parallel polygon."""
    half = width / 2
    free = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = np.minimum(a, b) - half, np.maximum(a, b) + half
        free.append((float(low[0]), float(low[1]), float(high[0]), float(high[1])))
    return Plan(tuple(free), rng.uniform(2.4, 3.0), corners, 0.45, 0.5)


def _loop(rng: Generator) -> Plan:
    x, y = rng.uniform(8.0, 14.0), rng.uniform(6.0, 11.0)
    return _along(np.array([[0.0, 0.0], [x, 0.0], [x, y], [0.0, y]]), rng.uniform(2.0, 2.8), rng)


def _long_corridor(rng: Generator) -> Plan:
    teeth = int(rng.integers(3, 6))
    base = rng.uniform(7.0, 10.0)
    corners = [(0.0, 0.0)]
    x = 0.0
    for tooth in range(teeth):
        top = base + rng.uniform(14.0, 34.0)
        start, end = x, x + rng.uniform(8.0, 14.0)
        corners += [(start, top), (end, top)]
        x = end
        if tooth < teeth - 1:
            x = end + rng.uniform(8.0, 14.0)
            corners += [(end, base), (x, base)]
    corners.append((x, 0.0))
    return _along(np.array(corners), rng.uniform(2.2, 3.0), rng)


def _office(rng: Generator) -> Plan:
    columns = int(rng.integers(2, 4))
    thickness = 0.16
    widths, depths = rng.uniform(4.0, 6.0, columns), rng.uniform(3.8, 5.5, 2)
    left = np.concatenate([[0.0], np.cumsum(widths + thickness)])
    bottom = np.concatenate([[0.0], np.cumsum(depths + thickness)])
    rooms = {
        (i, j): (float(left[i]), float(bottom[j]), float(left[i] + widths[i]), float(bottom[j] + depths[j]))
        for i in range(columns)
        for j in range(2)
    }
    circuit = [(i, 0) for i in range(columns)] + [(i, 1) for i in reversed(range(columns))]
    doorways: list[Rectangle] = []
    walk: list[tuple[float, float]] = []
    for here, there in zip(circuit, circuit[1:] + circuit[:1], strict=True):
        a, b = rooms[here], rooms[there]
        half = rng.uniform(0.55, 0.7)
        if here[1] == there[1]:  # through a wall of constant x
            middle = (a[1] + a[3]) / 2 + rng.uniform(-0.6, 0.6)
            x0, x1 = min(a[2], b[2]), max(a[0], b[0])
            doorways.append((x0, middle - half, x1, middle + half))
            steps = [(x0 - 0.7, middle), (x1 + 0.7, middle)]
        else:
            middle = (a[0] + a[2]) / 2 + rng.uniform(-0.6, 0.6)
            y0, y1 = min(a[3], b[3]), max(a[1], b[1])
            doorways.append((middle - half, y0, middle + half, y1))
            steps = [(middle, y0 - 0.7), (middle, y1 + 0.7)]
        centre = ((a[0] + a[2]) / 2, (a[1] + a[3]) / 2)
        steps.sort(key=lambda p, c=centre: (p[0] - c[0]) ** 2 + (p[1] - c[1]) ** 2)  # type: ignore[misc]
        walk += steps
    return Plan(
        (*rooms.values(), *doorways), rng.uniform(2.5, 3.1), np.array(walk), 0.35, 0.45, doorways=tuple(doorways)
    )


PLANS: dict[str, Callable[[Generator], Plan]] = {
    "room": _room,
    "corridor": _corridor,
    "loop": _loop,
    "office": _office,
    "long_corridor": _long_corridor,
}
