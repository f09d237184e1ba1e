"""A ring of rendered sequences on the device, which new scenes keep replacing while training goes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.raycast import NOTHING, RayCaster
from training.scene_jobs import SceneJob

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
