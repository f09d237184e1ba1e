"""Linear heads that exist in training alone and give every patch token something to say; they are not exported.

World points (as DUSt3R and VGGT supervise them) make the tokens know where the camera is; displacements between frames
make the global blocks find correspondences, on which both poses and depth rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS
from lingbot_eval.model.rope import grid_positions
from training.clips import Clips
from training.rigid import turned

LAGS = (1, 4, 12)
"""Frames back to which displacements are asked for."""
MATCH_LEVEL, FLOW_LEVEL, POINT_LEVEL = 1, 2, 3
"""Which of the aggregator's four outputs each head reads."""
MATCH_DIM = 64
NEAR = 0.02
OCCLUDED = 0.05
"""Share of its depth by which a point may miss the surface that the other frame shows there."""


@dataclass(frozen=True, eq=False)
class Auxiliary:
    """What the heads say of S frames of P patches. points: (S, P, 3) world axes. flow: (S, P, LAGS, 2) patches.
    features: (S, P, MATCH_DIM), alike where the same thing is seen (`training.matching`)."""

    points: Tensor
    flow: Tensor
    features: Tensor


class AuxiliaryHeads(nn.Module):
    """Patch tokens → world point (3), displacement in patches to each earlier frame (2 · LAGS), matching features."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.norm_points, self.norm_flow = nn.LayerNorm(token_dim), nn.LayerNorm(token_dim)
        self.points = nn.Linear(token_dim, 3)
        self.flow = nn.Linear(token_dim, 2 * len(LAGS))
        self.features = nn.Linear(token_dim, MATCH_DIM)

    def forward(self, tokens: list[Tensor]) -> Auxiliary:
        """Of the four (S, T, 2C) outputs of the aggregator."""
        points = self.points(self.norm_points(tokens[POINT_LEVEL][:, SPECIAL_TOKENS:]))
        flow = self.flow(self.norm_flow(tokens[FLOW_LEVEL][:, SPECIAL_TOKENS:]))
        features = self.features(tokens[MATCH_LEVEL][:, SPECIAL_TOKENS:])
        return Auxiliary(points.float(), torch.unflatten(flow.float(), -1, (len(LAGS), 2)), features.float())


@dataclass(frozen=True, eq=False)
class Displacements:
    """pixels: (B, F, P, LAGS, 2) right and down in patches. seen: (B, F, P, LAGS) where the earlier frame shows it."""

    patches: Tensor
    seen: Tensor


@torch.no_grad()
def true_displacements(clips: Clips) -> Displacements:
    """Where the point in each patch's middle was in earlier frames, relative to where it is now."""
    height, width = clips.images.shape[-2:]
    focal = clips.focal[:, None, None]
    rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
    grid = grid_positions(rows, columns, focal.device)
    here = (grid.flip(-1) * PATCH_SIZE + PATCH_SIZE // 2).float()  # (P, 2): u, v
    patches, seen = [], []
    for lag in LAGS:
        poses, log_depth = (torch.roll(part, lag, dims=1) for part in (clips.poses, clips.log_depth))
        local = turned(poses[..., :3, :3].transpose(-1, -2), clips.points - poses[..., None, :3, 3])
        z = local[..., 2].clamp(min=NEAR)
        u = focal * local[..., 0] / z + (width - 1) / 2
        v = focal * local[..., 1] / z + (height - 1) / 2
        inside = (local[..., 2] > NEAR) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        pixel = v.round().long().clamp(0, height - 1) * width + u.round().long().clamp(0, width - 1)
        surface = log_depth.flatten(2).gather(2, pixel)
        inside &= (z.log() - surface).abs() < OCCLUDED
        inside[:, :lag] = False  # what rolled in from the end of the clip
        patches.append((torch.stack([u, v], dim=-1) - here) / PATCH_SIZE)
        seen.append(inside)
    return Displacements(torch.stack(patches, dim=3), torch.stack(seen, dim=3))
