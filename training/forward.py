"""The batch forward: B clips of F frames through the network in one pass, equal to streaming each of them.

Nothing of the network is written again: its own aggregator and heads run on all frames, with tokens and rotary clocks
placed as a stream places them and caches that mask. What every frame of a clip sees comes from the cache's own policy
(model.md section 6): `lingbot_eval.streaming.policy.CachePolicy`, which streaming obeys, is asked frame by frame; its
answers are laid out as a matrix of frames. A test compares it with `lingbot_eval.streaming.session`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot_eval.model.aggregator import PassInputs
from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.policy import CachePolicy, Step, is_keyframe

HIDDEN, SPECIALS, WHOLE = 0, 1, 2


@dataclass(frozen=True)
class StreamShape:
    """A clip as a stream: its frames, the first scale_frames of which enter together; window and interval as usual."""

    frames: int
    scale_frames: int
    window: int
    interval: int


@dataclass(frozen=True, eq=False)
class Visibility:
    """seen: (F, F) uint8; row f says of every frame whether f sees nothing, the special tokens, or all of it.

    clocks: (F,) int64 keyframe clock. kept: (F,) whether the frame enters the cache.
    """

    shape: StreamShape
    seen: NDArray[np.uint8]
    clocks: NDArray[np.int64]
    kept: NDArray[np.bool_]


Ablated = Callable[[Visibility], Visibility]
"""A change of what a stream sees, as `training.ablations` makes them."""


def unchanged(seen: Visibility) -> Visibility:
    """No ablation."""
    return seen


def visibility(shape: StreamShape) -> Visibility:
    """Run the policy over a clip."""
    policy = CachePolicy(shape.window)
    seen = np.full((shape.frames, shape.frames), HIDDEN, np.uint8)
    clocks, kept = np.zeros(shape.frames, np.int64), np.zeros(shape.frames, bool)
    frame_of: list[int] = []  # kept frames by ordinal
    while policy.frames < shape.frames:
        step = _next_step(policy, shape)
        frames = range(step.frame, step.frame + step.count)
        if step.kept:
            frame_of += frames
        for ordinals, what in ((step.view.memory, SPECIALS), (step.view.anchor, WHOLE), (step.view.window, WHOLE)):
            seen[np.ix_(frames, [frame_of[ordinal] for ordinal in ordinals])] = what
        for offset, frame in enumerate(frames):
            seen[frame, frame] = WHOLE
            clocks[frame], kept[frame] = step.clock + offset, step.kept
    return Visibility(shape, seen, clocks, kept)


def _next_step(policy: CachePolicy, shape: StreamShape) -> Step:
    if not policy.frames:
        return policy.enter_scale(min(shape.scale_frames, shape.frames))
    if is_keyframe(policy.frames, shape.scale_frames, shape.interval):
        return policy.keep()
    return policy.pass_by()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some frames as queries. Keys: the special tokens of the pieces before ``special_pieces``, then the patch tokens
    of ``pieces``; a piece is as many frames as a chunk. mask: (queries, keys) additive, 0 or -inf."""

    special_pieces: int
    pieces: tuple[int, ...]
    mask: Tensor


class ClipCache:
    """Keys and values of B clips of F frames of T tokens in global blocks; nothing is kept after a call.

    Queries are cut into chunks of frames and keys into pieces of as many, so that pieces which none of a chunk sees
    cost nothing.
    """

    def __init__(self, visibility: Visibility, tokens: int, chunk_frames: int, like: Tensor) -> None:
        """tokens: T of a frame. like: its device and dtype are those of the masks."""
        self._frames = visibility.shape.frames
        self._tokens = tokens
        self._each = chunk_frames
        starts = range(0, self._frames, chunk_frames)
        self._chunks = [_chunk(visibility.seen, tokens, starts, number, like) for number in range(len(starts))]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B·F·T, heads, 64) of all clips → the same."""
        del layer  # every layer sees alike
        shape = (-1, self._frames, self._tokens)
        query, key, value = (torch.unflatten(part, 0, shape) for part in (query, key, value))
        keys, values = self._cut(key.to(value.dtype)), self._cut(value)
        out = []
        for asked, chunk in zip(torch.split(query.to(value.dtype), self._each, dim=1), self._chunks, strict=True):
            out.append(_attend(asked.flatten(1, 2), _gather(keys, chunk), _gather(values, chunk), chunk.mask))
        return torch.cat(out, dim=1).flatten(0, 1)

    def _cut(self, part: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(B, F, T, heads, d) → special and patch tokens of every piece, (B, tokens, heads, d). One split each: its
        gradient is one concatenation, where that of overlapping slices would be a sum of whole tensors."""
        special, patches = torch.split(part, [SPECIAL_TOKENS, self._tokens - SPECIAL_TOKENS], dim=2)
        return tuple([p.flatten(1, 2) for p in torch.split(kind, self._each, dim=1)] for kind in (special, patches))  # type: ignore[return-value]  # two of them


class ClipCameraCache:
    """The same for the camera head: one token a frame, every kept frame seen for ever."""

    def __init__(self, visibility: Visibility, like: Tensor) -> None:
        self._frames = visibility.shape.frames
        self._mask = _additive(visibility.seen != HIDDEN, like)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B·F, heads, head_dim) of all clips → the same."""
        del layer
        query, key, value = (torch.unflatten(part, 0, (-1, self._frames)) for part in (query, key, value))
        return _attend(query, key, value, self._mask).flatten(0, 1)


def _chunk(seen: NDArray[np.uint8], tokens: int, starts: range, number: int, like: Tensor) -> Chunk:
    frames = [np.arange(start, min(start + starts.step, len(seen))) for start in starts]
    rows = seen[frames[number]]
    last = int(np.flatnonzero((rows != HIDDEN).any(axis=0)).max()) // starts.step
    pieces = [i for i, columns in enumerate(frames) if (rows[:, columns] == WHOLE).any()]
    visible = [np.repeat(rows[:, np.concatenate(frames[: last + 1])] != HIDDEN, SPECIAL_TOKENS, axis=1)]
    visible += [np.repeat(rows[:, frames[i]] == WHOLE, tokens - SPECIAL_TOKENS, axis=1) for i in pieces]
    # One row a frame; its tokens all see the same.
    return Chunk(last + 1, tuple(pieces), _additive(np.concatenate(visible, axis=1), like, repeat=tokens))


def _additive(visible: NDArray[np.bool_], like: Tensor, repeat: int = 1) -> Tensor:
    """(rows · repeat, columns) 0 where visible, else -inf; rows start at multiples of 16 bytes, as the kernel wants."""
    rows, columns = visible.shape
    padded = -(-columns // 8) * 8
    mask = torch.zeros((rows, padded), dtype=like.dtype, device=like.device)
    mask[:, :columns].masked_fill_(~torch.from_numpy(visible).to(like.device), -torch.inf)
    return mask.repeat_interleave(repeat, dim=0)[:, :columns]


def _gather(cut: tuple[list[Tensor], list[Tensor]], chunk: Chunk) -> Tensor:
    """The (B, keys, heads, d) keys or values of a chunk."""
    special, patches = cut
    return torch.cat([*special[: chunk.special_pieces], *(patches[i] for i in chunk.pieces)], dim=1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """(B, N, heads, d) → the same, under a (N, keys) additive mask."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    mask = mask.to(query.dtype).expand(len(query), query.shape[1], -1, -1)
    with _kernels(query):
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2)


def _kernels(query: Tensor) -> AbstractContextManager[None]:
    """On a GPU the one that takes any mask without planning for every new length, which cuDNN's does."""
    return sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION) if query.is_cuda else nullcontext()


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
    scale = model.aggregator.place(images[0, :opening], 0)
    placed = [scale]
    if frames > opening:
        placed.append(model.aggregator.place(images[0, opening:], opening))

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
