"""What training minimises: depth with confidence, pose encodings of every refinement iteration, relative poses.

As DUSt3R, VGGT and LingBot-Map have it: lengths in units of the mean distance that the anchor frames see, poses from
the first camera, confidence c weighing an error e as c·e − α·log c, refinement iterations weighted by γ^(n−1−i).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lingbot_eval.model.config import PATCH_SIZE
from training.auxiliary import Auxiliary, true_displacements
from training.clips import Clips
from training.forward import ClipOutput
from training.matching import matching_loss
from training.rigid import conjugate, product, rotate_back

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
