"""Which patch of an earlier frame shows the same thing: a contrastive loss on features of the patch tokens.

Displacements alone are learned slowly: as long as no token finds its match their gradient says only where things
usually are. Being told which patch is the match says what to look for. Source: the contrastive loss of CPC (van den
Oord et al. 2018), among the patches of one frame, with the known geometry of the scene as the truth.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lingbot_eval.model.rope import grid_positions
from training.auxiliary import LAGS, Displacements

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
