"""The batch forward: B clips of F frames through the network in one pass, equal to streaming each of them.

Nothing of the network is written again: its own aggregator and heads run on all frames, with tokens and rotary clocks
placed as a stream places them and caches that mask (`training.masked_caches`). A test compares it with
`lingbot_eval.streaming.session`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lingbot_eval.model.aggregator import PassInputs
from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.protocols import Placement
from training.masked_caches import ClipCache, ClipCameraCache
from training.visibility import Ablated, StreamShape, unchanged, visibility

WHOLE_CLIP_FRAMES = 32
"""Up to so many frames a clip is one chunk: cutting it would save little and cost launches."""
CHUNK_FRAMES = 8


@dataclass(frozen=True, eq=False)
class ClipOutput:
    """What a batch forward gives.

    tokens: the four (B·F, T, 2C) outputs of the aggregator. poses: one (B, F, 9) encoding a refinement iteration.
    log_depth, confidence: (frames asked for, H, W) float32; depth = exp(log_depth), confidence ≥ 1.
    """

    tokens: list[Tensor]
    poses: list[Tensor]
    log_depth: Tensor
    confidence: Tensor


class ClipPlan:
    """Masks and clocks of one stream shape at one image size, made once and used for many batches."""

    def __init__(self, shape: StreamShape, size: tuple[int, int], like: Tensor, ablated: Ablated = unchanged) -> None:
        """size: (height, width). like: its device and dtype are those of the block masks. ablated: what is changed of
        what a stream of this shape sees."""
        self.visibility = ablated(visibility(shape))
        self.clocks = torch.from_numpy(self.visibility.clocks).to(like.device)
        self.size = size
        tokens = SPECIAL_TOKENS + (size[0] // PATCH_SIZE) * (size[1] // PATCH_SIZE)
        chunk = shape.frames if shape.frames <= WHOLE_CLIP_FRAMES else CHUNK_FRAMES
        self.blocks = ClipCache(self.visibility, tokens, chunk, like)
        self.camera = ClipCameraCache(self.visibility, like.float())


def place_clips(model: GeometricContextTransformer, images: Tensor, plan: ClipPlan) -> PassInputs:
    """(B, F, 3, H, W) images in [0, 1] → the inputs of one pass over B·F frames."""
    clips, frames = images.shape[:2]
    opening = min(plan.visibility.shape.scale_frames, frames)
    scale = model.place(images[0, :opening], Placement(clock=0, starts_stream=True, scale_phase=True))
    placed = [scale]
    if frames > opening:
        later = Placement(clock=opening, starts_stream=False, scale_phase=False)
        placed.append(model.place(images[0, opening:], later))

    def of_all(parts: list[Tensor]) -> Tensor:
        """Placed as if every frame were kept, frame by frame; a frame takes the rows of its own clock."""
        rows = torch.unflatten(torch.cat(parts), 0, (frames, -1))[plan.clocks].flatten(0, 1)
        return rows.repeat(clips, *[1] * (rows.ndim - 1))

    return PassInputs(
        images=images.flatten(0, 1),
        special=torch.cat([part.special for part in placed]).repeat(clips, 1, 1),
        rotation=replace(
            scale.rotation,
            cos=of_all([part.rotation.cos for part in placed]),
            sin=of_all([part.rotation.sin for part in placed]),
        ),
    )


def run_clips(
    model: GeometricContextTransformer, images: Tensor, plan: ClipPlan, iterations: int, depth_frames: Tensor
) -> ClipOutput:
    """(B, F, 3, H, W) images in [0, 1]; depth_frames: indices into the B·F frames whose depth is wanted.

    Under autocast the aggregator and the depth head run in its precision; the camera head stays in float32.
    """
    clips, frames = images.shape[:2]
    height, width = plan.size
    tokens = model.aggregator(place_clips(model, images, plan), plan.blocks)
    raw = model.depth_head([level[depth_frames] for level in tokens], height, width).float()
    with torch.autocast(images.device.type, enabled=False):
        poses = model.poses(tokens[-1][:, 0].float(), plan.camera, iterations)
    return ClipOutput(
        tokens=tokens,
        poses=[torch.unflatten(pose, 0, (clips, frames)) for pose in poses],
        log_depth=raw[:, 0],
        confidence=1 + raw[:, 1].exp(),
    )
