"""Brings the windows of windowed mode into the first one's frame (model.md section 6, "Joining")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.geometry.poses import decode_rotation, quaternion_from_rotation
from lingbot_eval.streaming.session import FrameOutput
from lingbot_eval.types import FloatArray, FrameType

SMALLEST_SCALE, LARGEST_SCALE = 1e-3, 1e3


def join_to(previous: Sequence[FrameOutput], current: Sequence[FrameOutput]) -> Sim3:
    """What brings ``current`` into the first window's world, from the overlap's frames, joined and as they came.

    The pose at the latest frame kept in both gives rotation and place, the depths of all frames kept in both the
    scale. Where no frame is kept in both, the first one of the overlap gives all three.
    """
    both = [i for i, (p, c) in enumerate(zip(previous, current, strict=True)) if _kept(p) and _kept(c)]
    anchor = both[-1] if both else 0
    scale = _depth_scale([(previous[i].depth, current[i].depth) for i in (both or [0])])
    before, now = _pose(previous[anchor]), _pose(current[anchor])
    rotation = decode_rotation(before[3:7]) @ decode_rotation(now[3:7]).T
    return Sim3(scale, rotation, before[:3] - scale * rotation @ now[:3])


def apply_join(out: FrameOutput, join: Sim3) -> FrameOutput:
    """One output in the first window's world: unit quaternion with w ≥ 0; confidences and fields of view unchanged."""
    pose = _pose(out)
    rotation = join.rotation @ decode_rotation(pose[3:7])
    if np.isfinite(rotation).all():
        pose[3:7] = quaternion_from_rotation(rotation)
    pose[:3] = join.scale * join.rotation @ pose[:3] + join.translation
    points = out.points
    if points is not None:
        turn, shift = (torch.from_numpy(a).to(points) for a in (join.scale * join.rotation, join.translation))
        points = points @ turn.T + shift
    return replace(out, pose=torch.from_numpy(pose).to(out.pose), depth=out.depth * join.scale, points=points)


def _kept(out: FrameOutput) -> bool:
    return out.frame_type is not FrameType.UNKEPT


def _pose(out: FrameOutput) -> FloatArray:
    return out.pose.double().cpu().numpy()


def _depth_scale(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Lower median of previous / current depth over finite pixels whose current depth is not zero."""
    ratios = []
    for before, now in pairs:
        usable = torch.isfinite(before) & torch.isfinite(now) & (now.abs() > torch.finfo(torch.float32).eps)
        ratios.append(before[usable] / now[usable])
    ratio = torch.cat(ratios)
    if not len(ratio):
        return 1.0
    return min(max(float(ratio.median()), SMALLEST_SCALE), LARGEST_SCALE)
