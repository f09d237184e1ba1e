"""Training clips: frames of banked sequences with varied stride, light and handedness, and what is true of them.

Rotations, quaternions and relative poses are of tensors and differentiable; quaternions are scalar last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lingbot_eval.model.config import PATCH_SIZE
from training.raycast import NOTHING, RayCaster
from training.scene_jobs import SceneJob


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


POSES_AT_ONCE = 80
FARTHEST = 0.01 / NOTHING
"""Metres, far beyond every scene, that a ray which hits something stays below; half precision holds them."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """N sequences of L frames.

    images: (N, L, 3, H, W) uint8. depths: (N, L, H, W) float16 metres along z. poses: (N, L, 4, 4) float64
    camera-to-world, metres. focals: (N,) float64 pixels, square, the principal point in the middle of the image.
    """

    images: Tensor
    depths: Tensor
    poses: Tensor
    focals: Tensor


class Bank:
    """At most ``capacity`` sequences of one size; the oldest are overwritten."""

    def __init__(self, capacity: int, frames: int, size: tuple[int, int], device: torch.device) -> None:
        """size: (height, width)."""
        height, width = size
        self._size = size
        self._capacity = capacity
        self.frames = frames
        self.device = device
        self._written = 0
        self.refused = 0
        """Walks that were not taken because a ray hit nothing: one infinite depth would spoil every batch it is in."""
        self._held = Sequences(
            images=torch.empty((capacity, frames, 3, height, width), dtype=torch.uint8, device=device),
            depths=torch.empty((capacity, frames, height, width), dtype=torch.float16, device=device),
            poses=torch.empty((capacity, frames, 4, 4), dtype=torch.float64, device=device),
            focals=torch.empty((capacity,), dtype=torch.float64, device=device),
        )

    def __len__(self) -> int:
        return min(self._written, self._capacity)

    @torch.no_grad()
    def add(self, job: SceneJob) -> None:
        """Render every walk of a job into the ring."""
        height, width = self._size
        caster = RayCaster(job.scene, self.device)
        for poses, fov in zip(torch.from_numpy(job.poses).to(self.device), job.fovs, strict=True):
            focal = width / 2 / float(torch.tan(torch.tensor(fov / 2, dtype=torch.float64)))
            parts = [caster.render(part, focal, (width, height)) for part in torch.split(poses, POSES_AT_ONCE)]
            images, depths = (torch.cat(part) for part in zip(*parts, strict=True))
            if not float(depths.max()) < FARTHEST:
                self.refused += 1
                continue
            slot = self._written % self._capacity
            self._held.images[slot] = images
            self._held.depths[slot] = depths.half()
            self._held.poses[slot] = poses
            self._held.focals[slot] = focal
            self._written += 1

    def take(self, which: Tensor, frames: Tensor) -> Sequences:
        """Sequences ``which`` (B,), of each its frames (B, F): copies."""
        held, row = self._held, which[:, None]
        return Sequences(
            held.images[row, frames], held.depths[row, frames], held.poses[row, frames], held.focals[which]
        )


@dataclass(frozen=True, eq=False)
class Clips:
    """B clips of F frames at H×W, lengths in units of each clip's ``scale``.

    images: (B, F, 3, H, W) float32 in [0, 1]. log_depth: (B, F, H, W) natural logarithm. poses: (B, F, 4, 4) float32
    camera-to-world, the first camera the world. encoding: (B, F, 9) as the network's. points: (B, F, P, 3) seen in
    the middle of each patch, in world axes. scale: (B,) metres: mean distance of what the anchor frames see from the
    first camera.
    """

    images: Tensor
    log_depth: Tensor
    poses: Tensor
    encoding: Tensor
    points: Tensor
    scale: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Clips:
        """The same clips with every tensor changed."""
        return Clips(**{name: change(value) for name, value in vars(self).items()})

    @property
    def focal(self) -> Tensor:
        """(B,) pixels."""
        return self.images.shape[-1] / 2 / (self.encoding[:, 0, 8] / 2).tan()


@torch.no_grad()
def draw_clips(
    bank: Bank,
    generator: torch.Generator,
    *,
    clips: int,
    frames: int,
    size: tuple[int, int],
    strides: tuple[int, int],
    anchor: int,
) -> Clips:
    """Random clips of a bank.

    Args:
        bank: the sequences.
        generator: on the CPU, decides everything but noise.
        clips: how many.
        frames: of each.
        size: (height, width), the bank's or half of it.
        strides: inclusive range of frames apart.
        anchor: frames that the unit of length is taken from.
    """
    which = torch.randint(len(bank), (clips,), generator=generator)
    low, high = strides
    high = max(low, min(high, (bank.frames - 1) // max(frames - 1, 1)))
    stride = torch.randint(low, high + 1, (clips,), generator=generator)
    room = bank.frames - (frames - 1) * stride
    start = (torch.rand(clips, generator=generator) * room).long()
    taken = start[:, None] + stride[:, None] * torch.arange(frames)
    device = bank.device
    mirror = (torch.rand(clips, generator=generator) < 0.5).to(device)
    found = true_clips(_mirrored(bank.take(which.to(device), taken.to(device)), mirror), size, anchor)
    return replace(found, images=_relit(found.images, generator))


@torch.no_grad()
def true_clips(sequences: Sequences, size: tuple[int, int], anchor: int) -> Clips:
    """Sequences of F frames as they are, at ``size``; the first ``anchor`` frames give the unit of length."""
    images, depths = sequences.images.float() / 255, sequences.depths.float()
    fold = images.shape[-1] // size[1]
    if fold > 1:
        images = torch.unflatten(F.avg_pool2d(images.flatten(0, 1), fold), 0, images.shape[:2])
        depths = F.avg_pool2d(depths, fold)
    poses = relative_to_first(sequences.poses).float()
    focal = sequences.focals.float() / fold
    anchor = min(anchor, images.shape[1])
    every = 4
    near = _world_points(depths[:, :anchor], poses[:, :anchor], focal, every, every // 2)
    scale = near.norm(dim=-1).mean(dim=(1, 2))
    poses[..., :3, 3] /= scale[:, None, None]
    depths = depths / scale[:, None, None, None]
    height, width = size
    fov = torch.stack([2 * torch.atan(height / 2 / focal), 2 * torch.atan(width / 2 / focal)], dim=-1)
    encoding = torch.cat(
        [poses[..., :3, 3], quaternion_of(poses[..., :3, :3]), fov[:, None].expand(-1, poses.shape[1], -1)], dim=-1
    )
    points = _world_points(depths, poses, focal, PATCH_SIZE, PATCH_SIZE // 2)
    return Clips(images, depths.log(), poses, encoding, points, scale)


def _world_points(depths: Tensor, poses: Tensor, focal: Tensor, every: int, first: int) -> Tensor:
    """(B, F, n, 3) world points of every ``every``-th pixel in both directions, row-major."""
    height, width = depths.shape[-2:]
    v = torch.arange(first, height, every, device=depths.device)
    u = torch.arange(first, width, every, device=depths.device)
    z = depths[..., v[:, None], u]
    x = (u - (width - 1) / 2) / focal[:, None, None, None] * z
    y = (v[:, None] - (height - 1) / 2) / focal[:, None, None, None] * z
    local = torch.stack([x, y, z], dim=-1).flatten(2, 3)
    return turned(poses[..., :3, :3], local) + poses[..., None, :3, 3]


def _mirrored(sequences: Sequences, which: Tensor) -> Sequences:
    """Sequences ``which`` (B,) as a mirror shows them: images flipped, poses reflected in the first axis."""
    sign = torch.ones(4, dtype=torch.float64, device=which.device)
    sign[0] = -1.0
    mask = which[:, None, None, None]
    return Sequences(
        images=torch.where(mask[..., None], sequences.images.flip(-1), sequences.images),
        depths=torch.where(mask, sequences.depths.flip(-1), sequences.depths),
        poses=torch.where(mask, sign[:, None] * sequences.poses * sign, sequences.poses),
        focals=sequences.focals,
    )


def _relit(images: Tensor, generator: torch.Generator) -> Tensor:
    """Colour, contrast, a brightness that drifts along the clip, and noise, of each clip its own."""
    count, frames = images.shape[:2]

    def draw() -> Tensor:
        """(B, 1, 1, 1, 1) in [-1, 1)."""
        return (torch.rand(count, 1, 1, 1, 1, generator=generator) * 2 - 1).to(images.device)

    colour = torch.cat([draw() for _ in range(3)], dim=2)
    time = torch.linspace(0, 1, frames, device=images.device).view(1, -1, 1, 1, 1)
    gain = torch.exp(0.12 * colour + 0.2 * draw() + 0.1 * draw() * torch.sin(6 * draw() + 9 * draw() * time))
    images = images.clamp(min=1e-4) ** torch.exp(0.15 * draw()) * gain
    return (images + 0.012 * (1 + draw()) * torch.randn_like(images)).clamp(0.0, 1.0)
