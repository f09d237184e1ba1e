"""Renders a scene of rectangles: exact depth by ray-plane intersection, colour by filtered texture look-ups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.datasets.synthetic.materials import MIP_LEVELS, TEXTURE_SIZE
from lingbot_eval.datasets.synthetic.scene import Scene
from lingbot_eval.types import DepthMap, FloatArray, Image

NEAR = 0.02  # metres; nothing in a scene comes nearer to the camera than the clearance of its walk

CRACK = 1e-3  # pixels by which rectangles overlap, so that rounding leaves no gap between two that share an edge

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _View:
    """The faces as one camera sees them; every plane quantity is linear in the pixel (u, v).

    With X a face's coordinate along ``right`` and z the depth, both X/z and 1/z are ``a·u + b·v + c``.
    inverse_depth, right_over_z, down_over_z: (N, 3) such (a, b, c). plane_distance: (N,) of the camera.
    order: visible faces, nearest first. boxes: (N, 4) pixel bounds u0, u1, v0, v1 (half open).
    """

    inverse_depth: FloatArray
    right_over_z: FloatArray
    down_over_z: FloatArray
    plane_distance: FloatArray
    order: NDArray[np.int64]
    boxes: NDArray[np.int64]
    nearest: FloatArray


class Renderer:
    """Pictures and depth of one scene for one pinhole camera; frames do not depend on each other.

    intrinsics: (3, 3) with pixel (0, 0) the centre of the top left pixel. size: (width, height) in pixels.
    """

    def __init__(self, scene: Scene, intrinsics: FloatArray, size: tuple[int, int]) -> None:
        self.scene = scene
        self.intrinsics = intrinsics
        self.size = size
        width, height = size
        self._inverse = np.linalg.inv(intrinsics)
        self._u = np.arange(width, dtype=np.float32)
        self._v = np.arange(height, dtype=np.float32)
        rays = np.stack([*np.meshgrid(self._u, self._v), np.ones((height, width))], axis=-1) @ self._inverse.T
        self._log_ray = np.log2(np.linalg.norm(rays, axis=-1)).astype(np.float32).ravel()
        faces = scene.faces
        self._normal = faces.normal
        corners = (0, 0), (1, 0), (1, 1), (0, 1)
        self._corners = np.stack(
            [
                faces.origin + i * faces.size[:, :1] * faces.right + j * faces.size[:, 1:] * faces.down
                for i, j in corners
            ],
            axis=1,
        )
        self._texels = scene.textures.texels.view(np.uint32).ravel()

    def depth(self, camera_to_world: FloatArray) -> DepthMap:
        """(H, W) float32 metres along the optical axis; every pixel hits something."""
        inverse_depth, _ = self._trace(self._view(camera_to_world))
        return np.reciprocal(inverse_depth)

    def image_and_depth(self, camera_to_world: FloatArray, exposure: float = 1.0) -> tuple[Image, DepthMap]:
        """(H, W, 3) uint8 RGB, whose colours ``exposure`` multiplies before they are clipped, and the depth."""
        view = self._view(camera_to_world)
        inverse_depth, hit = self._trace(view)
        depth = np.reciprocal(inverse_depth)
        return self._shade(view, depth, hit, exposure), depth

    def _view(self, camera_to_world: FloatArray) -> _View:
        faces = self.scene.faces
        rotation, centre = camera_to_world[:3, :3], camera_to_world[:3, 3]
        to_pixel = rotation @ self._inverse  # world direction of pixel (u, v, 1), of unit depth
        offset = centre - faces.origin
        distance = np.einsum("nk,nk->n", offset, self._normal)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse_depth = -(self._normal @ to_pixel) / distance[:, None]
        s = np.einsum("nk,nk->n", offset, faces.right)
        t = np.einsum("nk,nk->n", offset, faces.down)
        right_over_z = s[:, None] * inverse_depth + faces.right @ to_pixel
        down_over_z = t[:, None] * inverse_depth + faces.down @ to_pixel
        local = (self._corners - centre) @ rotation
        boxes, nearest = self._bounds(local)
        seen = (distance > 1e-9) & (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])
        order = np.flatnonzero(seen)
        order = order[np.argsort(nearest[order], kind="stable")]
        return _View(inverse_depth, right_over_z, down_over_z, distance, order, boxes, nearest)

    def _bounds(self, local: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
        """Pixel bounds and least depth of (N, 4, 3) rectangles in camera axes, cut at the near plane."""
        z = local[..., 2]
        following = np.roll(local, -1, axis=1)
        z_next = following[..., 2]
        crosses = (z > NEAR) != (z_next > NEAR)
        share = np.where(crosses, (NEAR - z) / np.where(crosses, z_next - z, 1.0), 0.0)
        cut = local + share[..., None] * (following - local)
        points = np.concatenate([local, cut], axis=1)
        valid = np.concatenate([z > NEAR, crosses], axis=1)
        depth = np.where(valid, points[..., 2], 1.0)
        fx, fy, cx, cy = (self.intrinsics[i] for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        u = fx * points[..., 0] / depth + cx
        v = fy * points[..., 1] / depth + cy
        limits = [
            np.ceil(np.where(valid, u, np.inf).min(axis=1)),
            np.floor(np.where(valid, u, -np.inf).max(axis=1)) + 1,
            np.ceil(np.where(valid, v, np.inf).min(axis=1)),
            np.floor(np.where(valid, v, -np.inf).max(axis=1)) + 1,
        ]
        width, height = self.size
        boxes = np.stack(
            [limits[0].clip(0, width), limits[1].clip(0, width), limits[2].clip(0, height), limits[3].clip(0, height)],
            axis=1,
        )
        return boxes.astype(np.int64), np.where(valid, points[..., 2], np.inf).min(axis=1)

    def _trace(self, view: _View) -> tuple[Floats, NDArray[np.int32]]:
        """Nearest face of every pixel: (H, W) inverse depth and face number."""
        width, height = self.size
        best = np.full((height, width), np.float32(1e-6))
        hit = np.zeros((height, width), np.int32)
        sizes = self.scene.faces.size
        for number in view.order:
            u0, u1, v0, v1 = view.boxes[number]
            window = best[v0:v1, u0:u1]
            # Nearest first: a face that lies wholly behind what its window holds already needs no more work.
            if window.min() * view.nearest[number] >= 1.0:
                continue
            u, v = self._u[u0:u1], self._v[v0:v1]
            inverse = _plane(view.inverse_depth[number], u, v)
            inside = inverse > window
            low, high = self._span(view, number, sizes[number], v)
            inside &= u >= low[:, None]
            inside &= u <= high[:, None]
            np.copyto(window, inverse, where=inside)
            np.copyto(hit[v0:v1, u0:u1], number, where=inside)
        return best, hit

    def _span(self, view: _View, number: int, size: FloatArray, v: Floats) -> tuple[Floats, Floats]:
        """First and last u inside the rectangle, for each row v: its four edges are lines a·u + b·v + c >= 0."""
        s, t, w = view.right_over_z[number], view.down_over_z[number], view.inverse_depth[number]
        edges = np.stack([s, t, size[0] * w - s, size[1] * w - t])
        slope, rest = edges[:, :1], edges[:, 1:2] * v + edges[:, 2:]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = -rest / slope
        flat = np.where(rest >= 0, -np.inf, np.inf)  # an edge parallel to the rows: all of the row or nothing
        low = np.where(slope > 0, crossing, np.where(slope == 0, flat, -np.inf)).max(axis=0)
        high = np.where(slope < 0, crossing, np.inf).min(axis=0)
        return (low - CRACK).astype(np.float32), (high + CRACK).astype(np.float32)

    def _shade(self, view: _View, depth: Floats, hit: NDArray[np.int32], exposure: float) -> Image:
        faces = self.scene.faces
        width, height = self.size
        index = hit.ravel().astype(np.intp)
        z = depth.ravel()

        def coordinate(coefficients: FloatArray) -> Floats:
            a, b, c = (np.take(column.astype(np.float32), index) for column in coefficients.T)
            value = a.reshape(height, width) * self._u + b.reshape(height, width) * self._v[:, None]
            value += c.reshape(height, width)
            return np.asarray(value.ravel() * z)

        s, t = coordinate(view.right_over_z), coordinate(view.down_over_z)
        light = self._light(index, s, t)
        tiling = faces.tiling.astype(np.float32)
        across = s * np.take(tiling[:, 0], index) + np.take(tiling[:, 1], index)
        down = t * np.take(tiling[:, 2], index) + np.take(tiling[:, 3], index)
        # Texels under a pixel: grows with z / f, and with 1/sqrt(cos) of the angle that the surface is seen at,
        # where cos = plane distance / (z · |ray|).
        texels_a_metre = np.sqrt(faces.tiling[:, 0] * faces.tiling[:, 2]) * TEXTURE_SIZE
        constant = np.log2(texels_a_metre / self.intrinsics[0, 0]) - 0.5 * np.log2(
            np.maximum(view.plane_distance, 1e-9)
        )
        level = 1.5 * np.log2(z) + 0.5 * self._log_ray + np.take(constant.astype(np.float32), index)
        colour = self._texture(np.take(faces.texture, index), across, down, level)
        colour *= np.take(faces.tint * np.float32(exposure), index, axis=0)
        colour *= light[:, None]
        np.clip(colour, 0.0, 255.0, out=colour)
        colour += np.float32(0.5)
        return colour.astype(np.uint8).reshape(height, width, 3)

    def _light(self, index: NDArray[np.intp], s: Floats, t: Floats) -> Floats:
        maps = self.scene.light_maps
        density = maps.density.astype(np.float32)
        x, y = s * np.take(density[:, 0], index), t * np.take(density[:, 1], index)
        np.maximum(x, 0, out=x)
        np.maximum(y, 0, out=y)
        # Floors stay float32 for the differences: float32 minus int32 would be computed in float64.
        left, upper = np.floor(x), np.floor(y)
        column, row = left.astype(np.int32), upper.astype(np.int32)
        x -= left
        y -= upper
        stride = np.take(maps.columns, index)
        at = row * stride
        at += column
        at += np.take(maps.offset, index)
        top, below = maps.values.take(at), maps.values.take(at + stride)
        top += x * (maps.values.take(at + 1) - top)
        below += x * (maps.values.take(at + stride + 1) - below)
        return np.asarray(top + y * (below - top))

    def _texture(self, texture: NDArray[np.int32], across: Floats, down: Floats, level: Floats) -> Floats:
        """Trilinear look-up: (P, 3) float32 colours of 0 … 255."""
        np.clip(level, 0.0, MIP_LEVELS - 1.001, out=level)
        whole = np.floor(level)
        lower = whole.astype(np.int32)
        share = (level - whole)[:, None]
        colour = self._bilinear(texture, across, down, lower)
        finer = self._bilinear(texture, across, down, lower + 1)
        finer -= colour
        finer *= share
        colour += finer
        return colour[:, :3]

    def _bilinear(self, texture: NDArray[np.int32], across: Floats, down: Floats, level: NDArray[np.int32]) -> Floats:
        shift = np.int32(TEXTURE_SIZE.bit_length() - 1) - level
        size = np.left_shift(np.int32(1), shift)
        base = np.take(self.scene.textures.level_offset, level) + np.left_shift(texture, 2 * shift)
        scale = size.astype(np.float32)
        x, y = across * scale, down * scale
        x -= np.float32(0.5)
        y -= np.float32(0.5)
        column, row = np.floor(x), np.floor(y)
        x -= column
        y -= row
        mask = size - 1
        c0, r0 = column.astype(np.int32), row.astype(np.int32)
        c1, r1 = (c0 + 1) & mask, ((r0 + 1) & mask) << shift
        c0 &= mask
        r0 = (r0 & mask) << shift
        r0 += base
        r1 += base
        x, y = x[:, None], y[:, None]
        top = self._take(r0 + c0)
        top += x * (self._take(r0 + c1) - top)
        below = self._take(r1 + c0)
        below += x * (self._take(r1 + c1) - below)
        below -= top
        below *= y
        top += below
        return top

    def _take(self, at: NDArray[np.int32]) -> Floats:
        return self._texels.take(at).view(np.uint8).reshape(-1, 4).astype(np.float32)


def _plane(coefficients: FloatArray, u: Floats, v: Floats) -> Floats:
    a, b, c = coefficients
    return np.asarray(np.add.outer((b * v + c).astype(np.float32), np.float32(a) * u), np.float32)
