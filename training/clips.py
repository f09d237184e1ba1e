"""Training clips: frames of banked sequences with varied stride, light and handedness, and what is true of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lingbot_eval.model.config import PATCH_SIZE
from training.bank import Bank, Sequences
from training.rigid import quaternion_of, relative_to_first, turned


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


@dataclass(frozen=True)
class ClipShape:
    """clips: B. frames: F. size: (height, width), the bank's or half of it. strides: inclusive range of frames apart.
    scale_frames: the anchor."""

    clips: int
    frames: int
    size: tuple[int, int]
    strides: tuple[int, int]
    scale_frames: int


@torch.no_grad()
def draw_clips(bank: Bank, length: int, shape: ClipShape, generator: torch.Generator) -> Clips:
    """Random clips of a bank of sequences of ``length`` frames. generator: on the CPU, decides everything but noise."""
    count = shape.clips
    which = torch.randint(len(bank), (count,), generator=generator)
    low, high = shape.strides
    high = max(low, min(high, (length - 1) // max(shape.frames - 1, 1)))
    stride = torch.randint(low, high + 1, (count,), generator=generator)
    room = length - (shape.frames - 1) * stride
    start = (torch.rand(count, generator=generator) * room).long()
    frames = start[:, None] + stride[:, None] * torch.arange(shape.frames)
    device = bank.device
    mirror = (torch.rand(count, generator=generator) < 0.5).to(device)
    clips = true_clips(_mirrored(bank.take(which.to(device), frames.to(device)), mirror), shape)
    return replace(clips, images=_relit(clips.images, generator))


@torch.no_grad()
def true_clips(sequences: Sequences, shape: ClipShape) -> Clips:
    """Sequences of F frames as they are."""
    images, depths = sequences.images.float() / 255, sequences.depths.float()
    fold = images.shape[-1] // shape.size[1]
    if fold > 1:
        images = torch.unflatten(F.avg_pool2d(images.flatten(0, 1), fold), 0, images.shape[:2])
        depths = F.avg_pool2d(depths, fold)
    poses = relative_to_first(sequences.poses).float()
    focal = sequences.focals.float() / fold
    anchor = min(shape.scale_frames, images.shape[1])
    every = 4
    near = _world_points(depths[:, :anchor], poses[:, :anchor], focal, every, every // 2)
    scale = near.norm(dim=-1).mean(dim=(1, 2))
    poses[..., :3, 3] /= scale[:, None, None]
    depths = depths / scale[:, None, None, None]
    height, width = shape.size
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
