"""Pictures of a cloud without a graphics library: each voxel is a square of pixels, and the nearest one wins.

Deterministic: of two points at one depth the earlier one wins. NumPy draws on a CPU, torch on any other device.
Cameras are pinholes in OpenCV axes (x right, y down, z forward); pixel (0, 0) is the centre of the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import DepthMap, FloatArray, Image

# Edges of squares, pixels: a voxel is drawn as the smallest that covers it, the largest where none does.
_EDGES = (1, 3, 5, 9, 17, 33)
_MARGIN = _EDGES[-1] // 2  # pixels around the picture in which the centre of a square may lie
_AWAY = 2**63 - 1  # the key of a pixel that no point covers
_NEAREST = 1e-6  # depth below which nothing is drawn, in the cloud's unit
_EYE_DOME_GAIN = 300.0  # the shade falls by e^-300 where a neighbour is half as far, at strength 1


@dataclass(frozen=True, eq=False)
class View:
    """A camera that looks at a cloud.

    camera_to_world: (4, 4). focal: pixels, the same along both axes. width, height: of the picture in pixels; the
    optical axis goes through its middle.
    """

    camera_to_world: FloatArray
    focal: float
    width: int
    height: int

    @classmethod
    def of_angle(cls, camera_to_world: FloatArray, angle: float, width: int, height: int) -> View:
        """A view by its vertical angle in degrees."""
        return cls(camera_to_world, height / 2 / float(np.tan(np.radians(angle) / 2)), width, height)

    def project(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Pixels (N, 2) and depths (N,) of world points (N, 3); behind the camera depths are below 0."""
        seen = (np.asarray(points, np.float64) - self.camera_to_world[:3, 3]) @ self.camera_to_world[:3, :3]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = seen[:, :2] / seen[:, 2:] * self.focal
        return pixels + np.array([(self.width - 1) / 2, (self.height - 1) / 2]), seen[:, 2]


@dataclass(frozen=True)
class Style:
    """How points are drawn.

    background: RGB. eye_dome: strength of the shading by depth between neighbours, 0 for none. radius: pixels to those
    neighbours. point_scale: of a voxel's edge. near, far: depths between which points are drawn, in the cloud's unit.
    """

    background: tuple[int, int, int] = (0, 0, 0)
    eye_dome: float = 0.1
    radius: int = 2
    point_scale: float = 1.0
    near: float = 0.0
    far: float = np.inf


@dataclass(frozen=True, eq=False)
class Picture:
    """What a view sees. image: (H, W, 3) uint8 RGB. depth: (H, W) float32 along z, inf where there is no point."""

    image: Image
    depth: DepthMap


class Splats:
    """Draws fronts of one cloud, as often as asked.

    Args:
        positions: (N, 3) float32.
        colours: (N, 3) uint8 RGB.
        edge: of each point's cube, in the unit of the positions.
        device: ``cpu`` draws with NumPy, any other with torch there.
    """

    def __init__(self, positions: DepthMap, colours: Image, edge: float, device: str = "cpu") -> None:
        self._arrays: _Arrays = _NumpyArrays() if device == "cpu" else _TorchArrays(device)
        # Coordinates in rows: what is done to each runs over memory in order.
        self._positions = self._arrays.take(np.ascontiguousarray(np.asarray(positions, np.float32).T))
        self._colours = colours
        self._edge = edge

    def draw(self, view: View, style: Style, count: int | None = None) -> Picture:
        """What the view sees of the first ``count`` points (None: of all)."""
        keys = self._arrays.give(self._nearest(view, style, count))
        covered = keys != _AWAY
        image = np.empty((view.height, view.width, 3), np.uint8)
        image[:] = style.background
        image[covered] = self._colours[keys[covered] & 0xFFFFFFFF]
        depth = np.full(covered.shape, np.inf, np.float32)
        depth[covered] = (keys[covered] >> 32).astype(np.int32).view(np.float32)
        return Picture(_shaded(image, depth, style), depth)

    def _nearest(self, view: View, style: Style, count: int | None) -> Any:
        """(H, W) int64: depth and number of the nearest point at each pixel."""
        arrays = self._arrays
        rotation = view.camera_to_world[:3, :3]
        place = (view.camera_to_world[:3, 3] @ rotation).astype(np.float32)
        seen = arrays.take(np.ascontiguousarray(rotation.T, np.float32)) @ self._positions[:, :count]
        seen -= arrays.take(place[:, None])
        depth = seen[2]
        scale = view.focal / arrays.positive(depth)
        height, width = view.height + 2 * _MARGIN, view.width + 2 * _MARGIN
        columns = seen[0] * scale + ((view.width - 1) / 2 + _MARGIN + 0.5)
        rows = seen[1] * scale + ((view.height - 1) / 2 + _MARGIN + 0.5)
        drawn = (depth > max(style.near, _NEAREST)) & (depth < style.far)
        drawn &= (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        numbers = arrays.where(drawn)
        depth, wide = depth[numbers], scale[numbers] * (self._edge * style.point_scale)
        # Above 0 cutting off is rounding down, and the half is in it.
        cells = arrays.whole(rows[numbers]) * width + arrays.whole(columns[numbers])
        # float32 above 0 sort as their bits do; the point's number below them decides between equals.
        keys = (arrays.whole(arrays.bits(depth)) << 32) | numbers
        nearest = arrays.away(height, width)
        # From large squares to small ones: one of 33 pixels is one of 17 that grew by 8, and so on.
        last, count = len(_EDGES) - 1, 0
        for position in range(last, -1, -1):
            smaller = _EDGES[position - 1] if position else 0
            chosen = wide > smaller if position == last else (wide > smaller) & (wide <= _EDGES[position])
            chosen_keys = keys[chosen]
            arrays.lower(nearest, cells[chosen], chosen_keys)
            count += len(chosen_keys)
            if position and count:
                reach = (_EDGES[position] - smaller) // 2
                nearest = _least_around(arrays, _least_around(arrays, nearest, reach).T, reach).T
        return nearest[_MARGIN : _MARGIN + view.height, _MARGIN : _MARGIN + view.width]


class _Arrays(Protocol):
    """What drawing asks of an array library beyond what NumPy and torch write alike."""

    def take(self, values: NDArray[Any]) -> Any: ...
    def give(self, values: Any) -> NDArray[np.int64]: ...
    def positive(self, depth: Any) -> Any: ...
    def where(self, mask: Any) -> Any: ...
    def whole(self, values: Any) -> Any: ...
    def bits(self, values: Any) -> Any: ...
    def away(self, height: int, width: int) -> Any: ...
    def lower(self, keys: Any, cells: Any, values: Any) -> None: ...
    def empty_like(self, keys: Any) -> Any: ...
    def least(self, one: Any, other: Any, out: Any) -> None: ...


class _NumpyArrays:
    def take(self, values: NDArray[Any]) -> Any:
        return values

    def give(self, values: Any) -> NDArray[np.int64]:
        return np.asarray(values)

    def positive(self, depth: Any) -> Any:
        return np.maximum(depth, np.float32(_NEAREST))

    def where(self, mask: Any) -> Any:
        return np.flatnonzero(mask)

    def whole(self, values: Any) -> Any:
        return values.astype(np.int64)

    def bits(self, values: Any) -> Any:
        return values.view(np.int32)

    def away(self, height: int, width: int) -> Any:
        return np.full((height, width), _AWAY, np.int64)

    def lower(self, keys: Any, cells: Any, values: Any) -> None:
        flat = keys if keys.flags.c_contiguous else np.ascontiguousarray(keys)
        np.minimum.at(flat.reshape(-1), cells, values)
        if flat is not keys:
            keys[:] = flat

    def empty_like(self, keys: Any) -> Any:
        return np.empty_like(keys)

    def least(self, one: Any, other: Any, out: Any) -> None:
        np.minimum(one, other, out=out)


class _TorchArrays:
    def __init__(self, device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)

    def take(self, values: NDArray[Any]) -> Any:
        return self._torch.from_numpy(values).to(self._device)

    def give(self, values: Any) -> NDArray[np.int64]:
        return np.asarray(values.cpu().numpy())

    def positive(self, depth: Any) -> Any:
        return depth.clamp(min=_NEAREST)

    def where(self, mask: Any) -> Any:
        return mask.nonzero().reshape(-1)

    def whole(self, values: Any) -> Any:
        return values.long()

    def bits(self, values: Any) -> Any:
        return values.contiguous().view(self._torch.int32)

    def away(self, height: int, width: int) -> Any:
        return self._torch.full((height, width), _AWAY, dtype=self._torch.int64, device=self._device)

    def lower(self, keys: Any, cells: Any, values: Any) -> None:
        flat = keys.contiguous()
        flat.view(-1).scatter_reduce_(0, cells, values, "amin")
        if flat.data_ptr() != keys.data_ptr():
            keys.copy_(flat)

    def empty_like(self, keys: Any) -> Any:
        return self._torch.empty_like(keys)

    def least(self, one: Any, other: Any, out: Any) -> None:
        self._torch.minimum(one, other, out=out)


def _least_around(arrays: _Arrays, keys: Any, reach: int) -> Any:
    """The least of the ``2·reach + 1`` rows around each."""
    found, length, window = keys, 1, 2 * reach + 1
    while length < window:
        step = min(length, window - length)
        wider = arrays.empty_like(found)
        arrays.least(found[:-step], found[step:], wider[:-step])
        wider[-step:] = found[-step:]
        found, length = wider, length + step
    # Each row now holds the least of itself and those after it; half of them belong before it. The first rows lie in
    # the margin, where what they get cannot reach the picture before the point itself does.
    centred = arrays.empty_like(found)
    centred[reach:], centred[:reach] = found[:-reach], found[:1]
    return centred


def _shaded(image: Image, depth: DepthMap, style: Style) -> Image:
    """Eye-dome lighting: a pixel darkens by how much nearer its eight neighbours are, in doublings of depth."""
    if not style.eye_dome or not np.isfinite(depth).any():
        return image
    reach = style.radius
    with np.errstate(divide="ignore"):
        doublings = np.log2(depth)
    # Beyond the edge there is nothing in front.
    padded = np.pad(doublings, reach, constant_values=np.inf)
    height, width = depth.shape
    covered = np.isfinite(doublings)
    zeros = np.zeros_like(depth)
    nearer = zeros.copy()
    for row in (0, reach, 2 * reach):
        for column in (0, reach, 2 * reach):
            if (row, column) != (reach, reach):
                neighbour = padded[row : row + height, column : column + width]
                nearer += np.maximum(np.subtract(doublings, neighbour, out=zeros.copy(), where=covered), 0)
    shade = np.where(covered, np.exp(-_EYE_DOME_GAIN * style.eye_dome * nearer / 8), 1)
    return np.rint(image * shade[..., None]).astype(np.uint8)
