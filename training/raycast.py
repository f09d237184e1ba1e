"""The synthetic renderer on a torch device, many poses of one scene at once.

The same planes, rectangles, light maps and textures as `lingbot_eval.datasets.synthetic.render`, whose pictures it
repeats to within rounding (a test holds it): training sees what the evaluation's generator makes, three orders of
magnitude faster on a GPU. Every visible rectangle is intersected with every pixel; the largest inverse depth wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot_eval.datasets.synthetic.materials import MIP_LEVELS, TEXTURE_SIZE
from lingbot_eval.datasets.synthetic.render import CRACK, NEAR
from training.scene_jobs import SCENE_PARTS

FACES_AT_ONCE = 16
NOTHING = 1e-6
"""Inverse depth in 1/m of a pixel whose ray hits no face: half precision knows no such depth."""


@dataclass(frozen=True, eq=False)
class Planes:
    """The faces as each of M cameras sees them, K of them a camera; linear in the pixel (u, v) as in `render._View`.

    inverse_depth, right_over_z, down_over_z: (M, K, 3) float64 coefficients (a, b, c). distance: (M, K) float32, of the
    camera from the plane. face: (M, K) face numbers. seen: (M, K) False where a camera has fewer than K faces in view.
    """

    inverse_depth: Tensor
    right_over_z: Tensor
    down_over_z: Tensor
    distance: Tensor
    face: Tensor
    seen: Tensor


class RayCaster:
    """Pictures and depth of one scene. arrays: of `scene_arrays`."""

    def __init__(self, arrays: dict[str, NDArray[np.generic]], device: torch.device) -> None:
        part = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])).to(device) for name in SCENE_PARTS}
        self._origin, self._right, self._down = part["origin"], part["right"], part["down"]
        self._size, self._tint = part["size"], part["tint"]
        self._texture = part["texture"].long()
        self._tiling = part["tiling"].float()
        self._light, self._density = part["light"], part["light_density"].float()
        self._light_offset, self._light_columns = part["light_offset"].long(), part["light_columns"].long()
        self._texels, self._level_offset = part["texels"], part["level_offset"].long()
        self._normal = torch.linalg.cross(self._down, self._right)
        self._device = device

    def render(self, camera_to_world: Tensor, focal: float, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(M, 4, 4) float64 poses → (M, 3, H, W) uint8 RGB and (M, H, W) float32 depth along z, metres.

        A pinhole of ``focal`` pixels whose principal point is the middle of the image; size: (width, height).
        """
        width, height = size
        u = torch.arange(width, device=self._device, dtype=torch.float32)
        v = torch.arange(height, device=self._device, dtype=torch.float32)
        planes = self._planes(camera_to_world, focal, size)
        inverse, slot = self._trace(planes, u, v)
        depth = inverse.reciprocal()
        return self._shade(planes, depth, slot, (u, v), focal), depth

    def _planes(self, poses: Tensor, focal: float, size: tuple[int, int]) -> Planes:
        width, height = size
        cx, cy = (width - 1) / 2, (height - 1) / 2
        rotation, centre = poses[:, :3, :3], poses[:, :3, 3]
        back = poses.new_tensor([[1 / focal, 0.0, -cx / focal], [0.0, 1 / focal, -cy / focal], [0.0, 0.0, 1.0]])
        to_pixel = rotation @ back  # world direction of pixel (u, v, 1), of unit depth
        offset = centre[:, None] - self._origin
        distance = (offset * self._normal).sum(-1)
        face = self._in_view(poses, distance, focal, size)
        seen = face >= 0
        face = face.clamp(min=0)

        def pick(values: Tensor) -> Tensor:
            return values[face]  # (M, K, 3)

        offset = centre[:, None] - pick(self._origin)
        distance = (offset * pick(self._normal)).sum(-1)
        inverse_depth = -(pick(self._normal) @ to_pixel) / torch.where(seen, distance, 1.0)[..., None]
        along = (offset * pick(self._right)).sum(-1, keepdim=True)
        below = (offset * pick(self._down)).sum(-1, keepdim=True)
        right_over_z = along * inverse_depth + pick(self._right) @ to_pixel
        down_over_z = below * inverse_depth + pick(self._down) @ to_pixel
        return Planes(inverse_depth, right_over_z, down_over_z, distance.float(), face, seen)

    def _in_view(self, poses: Tensor, distance: Tensor, focal: float, size: tuple[int, int]) -> Tensor:
        """(M, K) numbers of the faces that can be seen: turned to the camera and not wholly beyond one side of its
        frustum; -1 where a camera sees fewer than K."""
        corners = torch.stack(
            [
                self._origin + i * self._size[:, :1] * self._right + j * self._size[:, 1:] * self._down
                for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
            ],
            dim=1,
        )
        local = (corners[None] - poses[:, None, None, :3, 3]) @ poses[:, None, :3, :3]
        x, y, z = local.unbind(-1)
        half_x, half_y = (size[0] / 2 + 1) / focal, (size[1] / 2 + 1) / focal
        outside = (z <= NEAR).all(-1)
        for side in (x - half_x * z, -x - half_x * z, y - half_y * z, -y - half_y * z):
            outside |= (side > 0).all(-1)
        seen = (distance > 1e-9) & ~outside
        count = int(seen.sum(-1).max())
        order = torch.argsort((~seen).to(torch.uint8), dim=-1, stable=True)[:, :count]
        return torch.where(seen.gather(1, order), order, -1)

    def _trace(self, planes: Planes, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest face of every pixel: (M, H, W) inverse depth and slot in ``planes``."""
        cameras, faces = planes.face.shape
        best = u.new_full((cameras, len(v), len(u)), NOTHING)
        hit = torch.zeros((cameras, len(v), len(u)), dtype=torch.int64, device=self._device)
        for first in range(0, faces, FACES_AT_ONCE):
            part = slice(first, first + FACES_AT_ONCE)
            low, high = self._spans(planes, part, v)
            inside = u >= low[..., None]
            inside &= u <= high[..., None]
            inverse = _linear(planes.inverse_depth[:, part].float(), u, v)
            inverse *= inside
            nearest, slot = inverse.max(dim=1)
            closer = nearest > best
            best = torch.where(closer, nearest, best)
            hit = torch.where(closer, slot + first, hit)
        return best, hit

    def _spans(self, planes: Planes, part: slice, v: Tensor) -> tuple[Tensor, Tensor]:
        """(M, K, H) first and last u of each row inside the rectangle: its four edges are a·u + b·v + c >= 0.

        In float64, which is nothing at this size, and with CRACK pixels of slack both across and down: two rectangles
        that share an edge leave no pixel between them, whichever way the edge runs.
        """
        w, s, t = (p[:, part] for p in (planes.inverse_depth, planes.right_over_z, planes.down_over_z))
        size = self._size[planes.face[:, part]]
        edges = torch.stack([s, t, size[..., :1] * w - s, size[..., 1:] * w - t], dim=2)  # (M, K, 4, 3)
        slope = edges[..., :1]
        rest = edges[..., 1:2] * v + edges[..., 2:] + CRACK * edges[..., :2].abs().sum(-1, keepdim=True)
        crossing = -rest / slope
        # An edge parallel to the rows: all of the row or nothing.
        flat = torch.where(rest >= 0, -torch.inf, torch.inf)
        low = torch.where(slope > 0, crossing, torch.where(slope == 0, flat, -torch.inf)).amax(dim=2)
        high = torch.where(slope < 0, crossing, torch.inf).amin(dim=2)
        return torch.where(planes.seen[:, part, None], low, torch.inf).float(), high.float()

    def _shade(
        self, planes: Planes, depth: Tensor, slot: Tensor, pixels: tuple[Tensor, Tensor], focal: float
    ) -> Tensor:
        u, v = pixels
        height, width = depth.shape[1:]
        flat = slot.flatten(1)

        def at(values: Tensor) -> Tensor:
            return values.gather(1, flat).view(depth.shape)

        def coordinate(coefficients: Tensor) -> Tensor:
            a, b, c = (at(part) for part in coefficients.float().unbind(-1))
            return (a * u + b * v[:, None] + c) * depth

        s, t = coordinate(planes.right_over_z), coordinate(planes.down_over_z)
        face = at(planes.face)
        light = self._lit(face, s, t)
        tiling = self._tiling[face]
        across, down = s * tiling[..., 0] + tiling[..., 1], t * tiling[..., 2] + tiling[..., 3]
        ray = torch.sqrt(((u - (width - 1) / 2) / focal) ** 2 + ((v[:, None] - (height - 1) / 2) / focal) ** 2 + 1.0)
        # Texels under a pixel, as in render._shade.
        texels = (self._tiling[:, 0] * self._tiling[:, 2]).sqrt() * TEXTURE_SIZE
        level = 1.5 * depth.log2() + 0.5 * ray.log2() + (texels[face] / focal).log2()
        level = level - 0.5 * at(planes.distance.clamp(min=1e-9)).log2()
        colour = self._textured(self._texture[face], across, down, level) * self._tint[face] * light[..., None]
        return (colour.clamp(0.0, 255.0) + 0.5).to(torch.uint8).permute(0, 3, 1, 2)

    def _lit(self, face: Tensor, s: Tensor, t: Tensor) -> Tensor:
        density = self._density[face]
        x, y = (s * density[..., 0]).clamp(min=0), (t * density[..., 1]).clamp(min=0)
        left, upper = x.floor(), y.floor()
        stride = self._light_columns[face]
        index = upper.long() * stride + left.long() + self._light_offset[face]
        x, y = x - left, y - upper

        def take(where: Tensor) -> Tensor:
            # The slack at a far edge may step past the very last map.
            return self._light[where.clamp(max=len(self._light) - 1)]

        top = torch.lerp(take(index), take(index + 1), x)
        below = torch.lerp(take(index + stride), take(index + stride + 1), x)
        return torch.lerp(top, below, y)

    def _textured(self, texture: Tensor, across: Tensor, down: Tensor, level: Tensor) -> Tensor:
        level = level.clamp(0.0, MIP_LEVELS - 1.001)
        whole = level.floor()
        lower = whole.long()
        finer = self._bilinear(texture, across, down, lower)
        coarser = self._bilinear(texture, across, down, lower + 1)
        return torch.lerp(finer, coarser, (level - whole)[..., None])

    def _bilinear(self, texture: Tensor, across: Tensor, down: Tensor, level: Tensor) -> Tensor:
        size = torch.bitwise_right_shift(torch.full_like(level, TEXTURE_SIZE), level)
        base = self._level_offset[level] + texture * size * size
        x, y = across * size - 0.5, down * size - 0.5
        column, row = x.floor(), y.floor()
        x, y = (x - column)[..., None], (y - row)[..., None]
        mask = size - 1
        c0, r0 = column.long(), row.long()
        c1, r1 = (c0 + 1) & mask, ((r0 + 1) & mask) * size + base
        c0, r0 = c0 & mask, (r0 & mask) * size + base
        top = torch.lerp(self._texel(r0 + c0), self._texel(r0 + c1), x)
        below = torch.lerp(self._texel(r1 + c0), self._texel(r1 + c1), x)
        return torch.lerp(top, below, y)

    def _texel(self, index: Tensor) -> Tensor:
        return self._texels[index][..., :3].float()


def _linear(coefficients: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """a·u + b·v + c for (M, K, 3) coefficients: (M, K, H, W)."""
    a, b, c = coefficients.unbind(-1)
    rows = b[..., None] * v + c[..., None]
    return a[..., None, None] * u + rows[..., None]
