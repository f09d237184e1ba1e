"""Light baked once a scene into a small brightness map for every rectangle: lamps, corners, stains.

Baked light does not depend on the view, so that a point has the same colour in every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.datasets.synthetic.materials import fractal_noise
from lingbot_eval.datasets.synthetic.plans import Wall
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    from lingbot_eval.datasets.synthetic.scene import Faces

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


def bake(
    faces: Faces, lamps: FloatArray, walls: Sequence[Wall], footprints: FloatArray, rng: np.random.Generator
) -> LightMaps:
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
        ends = np.array([wall.start, wall.end])
        darken(ends.min(axis=0), ends.max(axis=0), 0.35)
    for centre_x, centre_y, radius in footprints:
        centre = np.array([centre_x, centre_y])
        darken(centre - 0.7 * radius, centre + 0.7 * radius, 0.45)
