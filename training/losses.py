"""What training minimises: depth with confidence, pose encodings of every refinement iteration, relative poses.

As DUSt3R, VGGT and LingBot-Map have it: lengths in units of the mean distance that the anchor frames see, poses from
the first camera, confidence c weighing an error e as c·e − α·log c, refinement iterations weighted by γ^(n−1−i).

Beside them stand linear heads that exist in training alone and give every patch token something to say; they are not
exported. World points (as DUSt3R and VGGT supervise them) make the tokens know where the camera is; displacements
between frames make the global blocks find correspondences, on which both poses and depth rest. Displacements alone are
learned slowly: as long as no token finds its match their gradient says only where things usually are. Being told which
patch is the match says what to look for. Source: the contrastive loss of CPC (van den Oord et al. 2018), among the
patches of one frame, with the known geometry of the scene as the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lingbot_eval.model.blocks import grid_positions
from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS
from training.clips import Clips, conjugate, product, rotate_back, turned
from training.forward import ClipOutput

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
    features: (S, P, MATCH_DIM), alike where the same thing is seen (`training.losses`)."""

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


TEMPERATURE = 0.1


def matching_loss(features: Tensor, truth: Displacements, grid: tuple[int, int]) -> Tensor:
    """(B, F, P, d) features of the patches of a (rows, columns) grid → mean cross-entropy in nats, a scalar.

    A match between patches is shared among its four neighbours, as bilinear interpolation shares. Patches whose match
    is hidden or out of view do not count.
    """
    rows, columns = grid
    features = F.normalize(features.float(), dim=-1)
    own = grid_positions(rows, columns, features.device).flip(-1)  # (P, 2): u, v
    total, count = features.new_zeros(()), features.new_zeros(())
    for number, lag in enumerate(LAGS):
        if lag >= features.shape[1]:
            continue
        logits = features[:, lag:] @ features[:, :-lag].transpose(-1, -2) / TEMPERATURE
        match, share = _neighbours(own + truth.patches[:, lag:, :, number], grid)
        found = -(share * logits.log_softmax(dim=-1).gather(-1, match)).sum(-1)
        counted = truth.seen[:, lag:, :, number]
        total = total + torch.where(counted, found / share.sum(-1).clamp(min=0.25), 0.0).sum()
        count = count + counted.sum()
    return total / count.clamp(min=1)


def _neighbours(at: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(..., 2) places u, v in patches → (..., 4) numbers of the patches around each and their bilinear shares, 0 for
    those outside."""
    rows, columns = grid
    corner = at.floor()
    rest = at - corner
    numbers, shares = [], []
    for right in (0, 1):
        for down in (0, 1):
            u, v = corner[..., 0] + right, corner[..., 1] + down
            inside = (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
            share = (1 - right - rest[..., 0]).abs() * (1 - down - rest[..., 1]).abs()
            shares.append(torch.where(inside, share, 0.0))
            numbers.append((v.clamp(0, rows - 1) * columns + u.clamp(0, columns - 1)).long())
    return torch.stack(numbers, dim=-1), torch.stack(shares, dim=-1)


RELATIVE_LAGS = (1, 3, 8, 24)
SHORTEST = 0.01
"""Length, in units of the clip's scale, below which a motion's error no longer counts relative to the motion."""


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms. gamma: discount of earlier refinement iterations. alpha: price of confidence."""

    depth: float = 0.7
    gradient: float = 0.3
    translation: float = 3.0
    rotation: float = 6.0
    fov: float = 0.5
    relative_translation: float = 1.0
    relative_rotation: float = 30.0
    points: float = 1.0
    flow: float = 2.0
    matching: float = 0.3
    gamma: float = 0.7
    alpha: float = 0.1


def losses(
    output: ClipOutput, auxiliary: Auxiliary, clips: Clips, depth_frames: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Every term, already weighted; their sum is the loss."""
    terms = _depth_terms(output, clips.log_depth.flatten(0, 1)[depth_frames], weights)
    terms |= _pose_terms(output.poses, clips.encoding, weights)
    points, flow, features = (
        part.view(*clips.points.shape[:3], *part.shape[2:])
        for part in (auxiliary.points, auxiliary.flow, auxiliary.features)
    )
    distance = clips.points.norm(dim=-1, keepdim=True)
    # Far points are worth less: their error grows with the distance.
    terms["points"] = (
        weights.points * (F.smooth_l1_loss(points, clips.points, reduction="none", beta=0.1) / (1 + distance)).mean()
    )
    truth = true_displacements(clips)
    error = F.smooth_l1_loss(flow, truth.patches, reduction="none", beta=0.2).mean(-1)
    terms["flow"] = weights.flow * _mean(error, truth.seen)
    height, width = clips.images.shape[-2:]
    grid = (height // PATCH_SIZE, width // PATCH_SIZE)
    terms["matching"] = weights.matching * matching_loss(features, truth, grid)
    return terms


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    # Selected, not multiplied: what is masked out may be infinite.
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _depth_terms(output: ClipOutput, truth: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """Of logarithms, so that near and far weigh alike and the ratio that δ < 1.25 judges is what is learned."""
    error = (output.log_depth - truth).abs()
    confident = output.confidence * error - weights.alpha * output.confidence.log()
    difference = output.log_depth - truth
    gradient = truth.new_zeros(())
    for scale in (1, 2, 4):
        part = difference[:, ::scale, ::scale]
        for axis in (-1, -2):
            # Across an edge of the scene a large error is one of position: capped, so that it does not rule.
            gradient = gradient + part.diff(dim=axis).abs().clamp(max=1.0).mean()
    return {"depth": weights.depth * confident.mean(), "gradient": weights.gradient * gradient / 3}


def _pose_terms(encodings: list[Tensor], truth: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """All iterations at once: a GPU waits for launches here, not for arithmetic."""
    count = len(encodings)
    discount = weights.gamma ** torch.arange(count - 1, -1, -1, device=truth.device)
    share = discount / discount.sum()
    guess = torch.stack(encodings)
    truth = truth.expand_as(guess)
    translation, rotation, fov = _absolute(guess, truth)
    moved, turned = _relative(guess, truth)
    errors = {
        "translation": weights.translation * translation,
        "rotation": weights.rotation * rotation,
        "fov": weights.fov * fov,
        "relative_translation": weights.relative_translation * moved,
        "relative_rotation": weights.relative_rotation * turned,
    }
    return {name: (share * error).sum() for name, error in errors.items()}


def _each(error: Tensor) -> Tensor:
    """The mean of every iteration: (n, ...) → (n,)."""
    return error.flatten(1).mean(1)


def _absolute(guess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, B, F, 9) encodings → errors (n,) of translation, rotation (the quaternion as it is, of either sign) and field
    of view against the first camera."""
    translation = F.smooth_l1_loss(guess[..., :3], truth[..., :3], beta=0.05, reduction="none")
    turn, quaternion = guess[..., 3:7], truth[..., 3:7]
    sign = torch.where((turn * quaternion).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    rotation = F.smooth_l1_loss(turn, sign * quaternion, beta=0.02, reduction="none")
    return _each(translation), _each(rotation), _each((guess[..., 7:] - truth[..., 7:]).abs())


def _relative(guess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Errors (n,) of the motion between frames some lags apart, seen from the earlier camera: translation relative to
    its length, and rotation as the vector part of the quaternion of the error."""
    position, facing = guess[..., :3], F.normalize(guess[..., 3:7], dim=-1, eps=1e-4)
    true_position, true_facing = truth[..., :3], truth[..., 3:7]
    lags = [lag for lag in RELATIVE_LAGS if lag < truth.shape[-2]]
    translation = rotation = truth.new_zeros(len(truth))
    for lag in lags:
        early, late = slice(None, -lag), slice(lag, None)
        moved = rotate_back(facing[..., early, :], position[..., late, :] - position[..., early, :])
        true_move = rotate_back(true_facing[..., early, :], true_position[..., late, :] - true_position[..., early, :])
        length = true_move.norm(dim=-1, keepdim=True).clamp(min=SHORTEST)
        error = F.smooth_l1_loss(moved / length, true_move / length, beta=0.1, reduction="none")
        translation = translation + _each(error) / len(lags)
        turn = product(conjugate(facing[..., early, :]), facing[..., late, :])
        true_turn = product(conjugate(true_facing[..., early, :]), true_facing[..., late, :])
        off = product(conjugate(true_turn), turn)
        rotation = rotation + _each((off[..., :3] * off[..., 3:].sign()).abs()) / len(lags)
    return translation, rotation
