"""Rotations, quaternions and relative poses on tensors, differentiable; quaternions are scalar last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rotation_of(quaternion: Tensor) -> Tensor:
    """(..., 4) quaternions of any length but zero → (..., 3, 3)."""
    x, y, z, w = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.unflatten(torch.stack(rows, dim=-1), -1, (3, 3))


def quaternion_of(rotation: Tensor) -> Tensor:
    """(..., 3, 3) → (..., 4) unit quaternions, w ≥ 0; of four formulas the one with the largest divisor."""
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    yz, zx, xy = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    sxy, sxz, syz = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    candidates = torch.stack(
        [
            torch.stack([1 + xx - yy - zz, sxy, sxz, yz], dim=-1),
            torch.stack([sxy, 1 - xx + yy - zz, syz, zx], dim=-1),
            torch.stack([sxz, syz, 1 - xx - yy + zz, xy], dim=-1),
            torch.stack([yz, zx, xy, 1 + xx + yy + zz], dim=-1),
        ],
        dim=-2,
    )
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    picked = candidates.take_along_dim(best[..., None, None], dim=-2)[..., 0, :]
    unit = F.normalize(picked, dim=-1)
    return torch.where(unit[..., 3:] < 0, -unit, unit)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Quaternion product: the rotation b, then a."""
    av, aw, bv, bw = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    vector = aw * bv + bw * av + torch.linalg.cross(av, bv)
    return torch.cat([vector, aw * bw - (av * bv).sum(-1, keepdim=True)], dim=-1)


def conjugate(quaternion: Tensor) -> Tensor:
    """The inverse of a unit quaternion."""
    return torch.cat([-quaternion[..., :3], quaternion[..., 3:]], dim=-1)


def rotate_back(quaternion: Tensor, vector: Tensor) -> Tensor:
    """Rᵀ v for unit quaternions."""
    u, w = -quaternion[..., :3], quaternion[..., 3:]
    twice: Tensor = 2 * torch.linalg.cross(u, torch.linalg.cross(u, vector) + w * vector)
    return vector + twice


def relative_to_first(poses: Tensor) -> Tensor:
    """(B, F, 4, 4) camera-to-world → the same with each first frame's camera as the world."""
    first = poses[:, :1]
    turned = first[..., :3, :3].transpose(-1, -2)
    out = poses.clone()
    out[..., :3, :3] = turned @ poses[..., :3, :3]
    out[..., :3, 3:] = turned @ (poses[..., :3, 3:] - first[..., :3, 3:])
    return out


def turned(rotation: Tensor, vectors: Tensor) -> Tensor:
    """(..., 3, 3) rotations of (..., n, 3) vectors, without the matrix units, which would round the truth to TF32."""
    products: Tensor = rotation[..., None, :, :] * vectors[..., None, :]
    return products.sum(-1)
