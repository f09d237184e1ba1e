"""Procedural textures: small tileable pictures of wall, floor, furniture and poster, and their mip levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Texture = NDArray[np.float32]
Generator = np.random.Generator

TEXTURE_SIZE = 256
MIP_LEVELS = 8  # 256 … 2 texels


@dataclass(frozen=True, eq=False)
class TextureSet:
    """All textures of a scene, every mip level, in one flat table.

    texels: (total, 4) uint8 RGB and a zero, level after level, textures in order inside a level, row-major.
    level_offset: (MIP_LEVELS,) first texel of each level. groups: what a texture may be used for → texture numbers.
    """

    texels: NDArray[np.uint8]
    level_offset: NDArray[np.int32]
    groups: dict[str, tuple[int, ...]]


def build_textures(rng: Generator) -> TextureSet:
    """The textures of one scene; which colours and patterns they have is decided by ``rng`` alone."""
    wall_makers = (_plaster, _wallpaper, _bricks, _concrete, _tiles)
    floor_makers = (_planks, _tiles, _carpet, _concrete)
    recipes: dict[str, list[Callable[[Generator], Texture]]] = {
        "wall": [wall_makers[i] for i in rng.choice(len(wall_makers), 3, replace=False)],
        "floor": [floor_makers[rng.integers(len(floor_makers))]],
        "rug": [_carpet, _rug],
        "ceiling": [_panels if rng.random() < 0.5 else _plaster],
        "picture": [_poster] * 10,
        "door": [_door, _door],
        "window": [_window],
        "furniture": [_books, _books, _cabinet, _planks, _concrete, _cabinet],
        "light": [_light],
    }
    textures: list[Texture] = []
    groups: dict[str, tuple[int, ...]] = {}
    for group, makers in recipes.items():
        groups[group] = tuple(range(len(textures), len(textures) + len(makers)))
        textures += [maker(rng) for maker in makers]
    level = np.clip(np.stack(textures), 0.0, 1.0)
    parts: list[NDArray[np.uint8]] = []
    offsets: list[int] = []
    total = 0
    for _ in range(MIP_LEVELS):
        packed = np.zeros((level[..., 0].size, 4), np.uint8)
        packed[:, :3] = np.rint(level.reshape(-1, 3) * 255.0)
        offsets.append(total)
        parts.append(packed)
        total += len(packed)
        count, size = level.shape[:2]
        level = level.reshape(count, size // 2, 2, size // 2, 2, 3).mean(axis=(2, 4))
    return TextureSet(np.concatenate(parts), np.array(offsets, np.int32), groups)


def fractal_noise(rng: Generator, shape: tuple[int, int], roughness: float) -> Texture:
    """Periodic noise of mean 0 and deviation 1 whose spectrum falls as frequency^-roughness."""
    rows, columns = (np.fft.fftfreq(n) * n for n in shape)
    frequency = np.hypot(rows[:, None], columns[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.fft2(rng.standard_normal(shape)) * frequency**-roughness
    spectrum[0, 0] = 0.0
    noise = np.fft.ifft2(spectrum).real
    return np.asarray(noise / noise.std(), np.float32)


def colour(rng: Generator, saturation: tuple[float, float], value: tuple[float, float]) -> NDArray[np.float32]:
    """(3,) RGB of a random hue with saturation and value in the given ranges."""
    hue, sat, val = rng.random() * 6.0, rng.uniform(*saturation), rng.uniform(*value)
    ramp = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0, 0.0, 1.0)
    return np.asarray(val * (1.0 - sat + sat * ramp), np.float32)


def _grid() -> tuple[Texture, Texture]:
    """Row and column coordinate in [0, 1) of every texel centre."""
    axis = (np.arange(TEXTURE_SIZE) + 0.5) / TEXTURE_SIZE
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    return rows.astype(np.float32), columns.astype(np.float32)


def _noise(rng: Generator, roughness: float) -> Texture:
    return fractal_noise(rng, (TEXTURE_SIZE, TEXTURE_SIZE), roughness)


def _plain(rng: Generator, base: NDArray[np.float32], strength: float, roughness: float = 1.0) -> Texture:
    return base * (1.0 + strength * _noise(rng, roughness)[..., None])


def _plaster(rng: Generator) -> Texture:
    return _plain(rng, colour(rng, (0.03, 0.35), (0.6, 0.9)), 0.07, 1.1) * (1 + 0.04 * _noise(rng, 0.3)[..., None])


def _concrete(rng: Generator) -> Texture:
    stains = np.clip(_noise(rng, 1.6), -1.5, 1.5)[..., None]
    return _plain(rng, colour(rng, (0.0, 0.12), (0.4, 0.65)), 0.08, 0.6) * (1.0 + 0.13 * stains)


def _carpet(rng: Generator) -> Texture:
    patches = np.where(_noise(rng, 1.8) > 0.4, 0.8, 1.0)[..., None].astype(np.float32)
    return _plain(rng, colour(rng, (0.2, 0.7), (0.3, 0.6)), 0.16, 0.35) * patches


def _wallpaper(rng: Generator) -> Texture:
    rows, columns = _grid()
    across, down = rng.integers(4, 14), rng.integers(0, 10)
    wave = np.sin(2 * np.pi * (across * columns + rng.uniform(0, 0.4) * np.sin(2 * np.pi * down * rows)))
    if rng.random() < 0.5:
        wave = wave * np.cos(2 * np.pi * down * rows)
    pattern = (1.0 / (1.0 + np.exp(-6.0 * wave)))[..., None].astype(np.float32)
    first, second = colour(rng, (0.1, 0.5), (0.6, 0.9)), colour(rng, (0.1, 0.6), (0.35, 0.8))
    return np.asarray(
        (first * pattern + second * (1 - pattern)) * (1.0 + 0.05 * _noise(rng, 0.9)[..., None]), np.float32
    )


def _blocks(rng: Generator, shape: tuple[int, int], stagger: bool, joint: float) -> tuple[Texture, Texture]:
    """Bond of ``shape`` = (courses, bricks a course): brightness of each brick, and 1 on joints."""
    rows, columns = _grid()
    courses, across = shape
    row = np.floor(rows * courses).astype(int)
    shifted = columns * across + (0.5 * (row % 2) if stagger else 0.0)
    column = np.floor(shifted).astype(int) % across
    edge = np.minimum((rows * courses) % 1.0, (shifted % 1.0) * courses / across)
    tone = rng.normal(0.0, 1.0, shape).astype(np.float32)
    return tone[row, column], (edge < joint).astype(np.float32)


def _bricks(rng: Generator) -> Texture:
    tone, joints = _blocks(rng, (2 * int(rng.integers(5, 9)), int(rng.integers(3, 6)) * 2), True, 0.12)
    brick = _plain(rng, colour(rng, (0.25, 0.6), (0.45, 0.75)), 0.09, 0.5) * (1.0 + 0.13 * tone[..., None])
    mortar = _plain(rng, colour(rng, (0.0, 0.1), (0.55, 0.75)), 0.06, 0.4)
    return brick * (1 - joints[..., None]) + mortar * joints[..., None]


def _tiles(rng: Generator) -> Texture:
    count = int(rng.integers(3, 7))
    tone, joints = _blocks(rng, (count, count), False, 0.04)
    checks = np.where(tone > rng.uniform(-0.2, 1.2), rng.uniform(0.5, 0.9), 1.0)[..., None].astype(np.float32)
    tile = _plain(rng, colour(rng, (0.05, 0.4), (0.5, 0.85)), 0.06, 1.0) * (1.0 + 0.06 * tone[..., None]) * checks
    return tile * (1 - 0.5 * joints[..., None])


def _planks(rng: Generator) -> Texture:
    tone, joints = _blocks(rng, (8, 2), True, 0.03)
    rows, columns = _grid()
    grain = np.sin(2 * np.pi * (40 * rows + 1.2 * _noise(rng, 1.6) + 2 * columns.round()))
    wood = colour(rng, (0.35, 0.6), (0.45, 0.75))
    wood = np.sort(wood)[::-1].copy()  # red above green above blue: some kind of brown
    shade = 1.0 + 0.14 * tone + 0.06 * grain + 0.05 * _noise(rng, 0.4)
    return np.asarray(wood * (shade * (1 - 0.5 * joints))[..., None].astype(np.float32), np.float32)


def _panels(rng: Generator) -> Texture:
    _, joints = _blocks(rng, (4, 4), False, 0.04)
    return _plain(rng, colour(rng, (0.0, 0.08), (0.75, 0.92)), 0.06, 0.25) * (1 - 0.35 * joints[..., None])


def _rug(rng: Generator) -> Texture:
    rows, columns = _grid()
    ring = np.maximum(np.abs(rows - 0.5), np.abs(columns - 0.5)) * 2.0
    bands = rng.integers(0, 4, 9)
    shades = np.stack([colour(rng, (0.3, 0.8), (0.25, 0.75)) for _ in range(4)])
    diamonds = (np.floor(6 * rows + 6 * columns) + np.floor(6 * rows - 6 * columns)).astype(int)
    picked = np.where(ring > 0.6, bands[np.minimum((ring * 9).astype(int), 8)], diamonds % 4)
    return np.asarray(shades[picked] * (1.0 + 0.1 * _noise(rng, 0.3)[..., None]), np.float32)


def _poster(rng: Generator) -> Texture:
    rows, columns = _grid()
    sky, ground = colour(rng, (0.1, 0.8), (0.4, 1.0)), colour(rng, (0.1, 0.8), (0.2, 0.9))
    picture = sky + (ground - sky) * np.clip(rows + 0.15 * _noise(rng, 1.5), 0, 1)[..., None]
    for _ in range(int(rng.integers(4, 10))):
        y, x, size = rng.random(), rng.random(), rng.uniform(0.05, 0.3)
        if rng.random() < 0.5:
            inside = np.hypot(rows - y, columns - x) < size
        else:
            inside = (np.abs(rows - y) < size * rng.uniform(0.2, 1.0)) & (np.abs(columns - x) < size)
        picture[inside] = colour(rng, (0.2, 1.0), (0.1, 1.0))
    if rng.random() < 0.4:  # lines of print
        rows_of_print = (rows > 0.6) & ((rows * 20) % 1.0 < 0.5) & (_noise(rng, 0.2) > -0.6)
        picture[rows_of_print & (np.abs(columns - 0.5) < 0.4)] = colour(rng, (0.0, 0.3), (0.0, 0.25))
    border = np.maximum(np.abs(rows - 0.5), np.abs(columns - 0.5)) > 0.5 - rng.uniform(0.02, 0.07)
    picture[border] = colour(rng, (0.0, 0.5), (0.05, 0.95))
    return np.asarray(picture, np.float32)


def _door(rng: Generator) -> Texture:
    rows, columns = _grid()
    leaf = _plain(rng, colour(rng, (0.1, 0.6), (0.35, 0.8)), 0.05, 0.8)
    for low, high in ((0.08, 0.45), (0.55, 0.92)):
        inside = (rows > low) & (rows < high) & (np.abs(columns - 0.5) < 0.34)
        rim = inside & ~((rows > low + 0.02) & (rows < high - 0.02) & (np.abs(columns - 0.5) < 0.3))
        leaf[inside] *= 0.9
        leaf[rim] *= 0.7
    leaf[np.abs(columns - 0.5) > 0.46] *= 0.6
    leaf[rows < 0.02] *= 0.6
    leaf[(np.abs(columns - 0.86) < 0.04) & (np.abs(rows - 0.52) < 0.012)] = 0.85
    return leaf


def _window(rng: Generator) -> Texture:
    rows, columns = _grid()
    clouds = np.clip(0.5 + 0.35 * _noise(rng, 1.7), 0, 1)[..., None]
    sky = np.array([0.55, 0.75, 1.0], np.float32)
    view = sky + (1.0 - sky) * clouds
    skyline = 0.55 + 0.12 * rng.random(16)[(columns * 16).astype(int)]
    view[rows > skyline] = colour(rng, (0.1, 0.5), (0.3, 0.5))
    view[rows > 0.8] = colour(rng, (0.4, 0.7), (0.3, 0.5))
    frame = (np.abs(rows - 0.5) > 0.46) | (np.abs(columns - 0.5) > 0.46) | (np.abs(columns - 0.5) < 0.02)
    view[frame] = 0.92
    return np.asarray(view, np.float32)


def _books(rng: Generator) -> Texture:
    rows, columns = _grid()
    shelves, spines = 4, 24
    shelf = np.minimum((rows * shelves).astype(int), shelves - 1)
    book = np.minimum((columns * spines).astype(int), spines - 1)
    covers = np.stack([colour(rng, (0.2, 0.9), (0.2, 0.85)) for _ in range(shelves * spines)])
    tops = rng.uniform(0.12, 0.4, shelves * spines).astype(np.float32)
    number = shelf * spines + book
    within = (rows * shelves) % 1.0
    picture = covers[number] * (1.0 - 0.25 * ((columns * spines) % 1.0 > 0.85))[..., None]
    picture[np.abs(within - 0.55) < 0.03] *= 1.3
    wood = colour(rng, (0.3, 0.6), (0.3, 0.5))
    picture[within < tops[number]] = wood * 0.4
    picture[within > 0.92] = wood
    return np.asarray(picture, np.float32)


def _cabinet(rng: Generator) -> Texture:
    tone, joints = _blocks(rng, (int(rng.integers(1, 5)), int(rng.integers(1, 4))), False, 0.03)
    body = _plain(rng, colour(rng, (0.0, 0.6), (0.3, 0.85)), 0.04, 1.0)
    return np.asarray(body * (1.0 + 0.04 * tone[..., None]) * (1 - 0.55 * joints[..., None]), np.float32)


def _light(rng: Generator) -> Texture:
    del rng
    rows, columns = _grid()
    edge = np.maximum(np.abs(rows - 0.5), np.abs(columns - 0.5)) > 0.45
    return np.where(edge, 0.7, 1.0)[..., None].astype(np.float32) * np.ones(3, np.float32)
