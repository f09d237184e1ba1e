"""The two KVCaches of training: a whole batch of clips in one pass, attention masked as streaming would see it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot_eval.model.config import SPECIAL_TOKENS
from lingbot_eval.training.visibility import HIDDEN, WHOLE, Visibility


@dataclass(frozen=True, eq=False)
class Chunk:
    """Frames [first, end) as queries. Keys: the special tokens of frames [0, end_specials), then the patch tokens of
    the frames in ``spans``. mask: (queries, keys) additive, 0 or -inf, in the precision of the products."""

    first: int
    end: int
    end_specials: int
    spans: tuple[range, ...]
    mask: Tensor


class ClipCache:
    """Keys and values of B clips of F frames of T tokens in global blocks; nothing is kept after a call.

    Queries are cut into chunks of frames, so that keys which none of a chunk sees cost nothing.
    """

    def __init__(self, visibility: Visibility, tokens: int, chunk_frames: int, like: Tensor) -> None:
        """tokens: T of a frame. like: its device and dtype are those of the masks."""
        self._frames = visibility.shape.frames
        self._tokens = tokens
        self._chunks = [
            _chunk(visibility, tokens, range(first, min(first + chunk_frames, self._frames)), like)
            for first in range(0, self._frames, chunk_frames)
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B·F·T, heads, 64) of all clips → the same."""
        del layer  # every layer sees alike
        shape = (-1, self._frames, self._tokens)
        query, key, value = (torch.unflatten(part, 0, shape) for part in (query, key, value))
        query, key = query.to(value.dtype), key.to(value.dtype)
        out = []
        for chunk in self._chunks:
            asked = query[:, chunk.first : chunk.end].flatten(1, 2)
            out.append(_attend(asked, _gather(key, chunk), _gather(value, chunk), chunk.mask))
        return torch.cat(out, dim=1).flatten(0, 1)


class ClipCameraCache:
    """The same for the camera head: one token a frame, every kept frame seen for ever."""

    def __init__(self, visibility: Visibility, like: Tensor) -> None:
        self._frames = visibility.shape.frames
        self._mask = _additive(visibility.seen != HIDDEN, like)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B·F, heads, head_dim) of all clips → the same."""
        del layer
        parts = (torch.unflatten(part, 0, (-1, self._frames)) for part in (query, key, value))
        return _attend(*parts, self._mask).flatten(0, 1)


def _chunk(visibility: Visibility, tokens: int, frames: range, like: Tensor) -> Chunk:
    seen = visibility.seen[frames.start : frames.stop]
    end_specials = int(np.flatnonzero((seen != HIDDEN).any(axis=0)).max()) + 1
    whole = np.flatnonzero((seen == WHOLE).any(axis=0))
    anchor = min(visibility.shape.scale_frames, visibility.shape.frames)
    later = whole[whole >= anchor]
    spans = [range(anchor)] + ([range(int(later.min()), int(later.max()) + 1)] if len(later) else [])
    patches = tokens - SPECIAL_TOKENS
    columns = [np.repeat(seen[:, :end_specials] != HIDDEN, SPECIAL_TOKENS, axis=1)]
    columns += [np.repeat(seen[:, span.start : span.stop] == WHOLE, patches, axis=1) for span in spans]
    # One row a frame; its tokens all see the same.
    mask = _additive(np.concatenate(columns, axis=1), like, repeat=tokens)
    return Chunk(frames.start, frames.stop, end_specials, tuple(spans), mask)


def _additive(visible: np.ndarray, like: Tensor, repeat: int = 1) -> Tensor:
    """(rows · repeat, columns) 0 where visible, else -inf; rows start at multiples of 16 bytes, as the kernel wants."""
    rows, columns = visible.shape
    padded = -(-columns // 8) * 8
    mask = torch.zeros((rows, padded), dtype=like.dtype, device=like.device)
    mask[:, :columns].masked_fill_(~torch.from_numpy(visible).to(like.device), -torch.inf)
    return mask.repeat_interleave(repeat, dim=0)[:, :columns]


def _gather(part: Tensor, chunk: Chunk) -> Tensor:
    """(B, F, T, heads, d) → (B, keys, heads, d) of a chunk."""
    pieces: Sequence[Tensor] = [
        part[:, : chunk.end_specials, :SPECIAL_TOKENS].flatten(1, 2),
        *(part[:, span.start : span.stop, SPECIAL_TOKENS:].flatten(1, 2) for span in chunk.spans),
    ]
    return torch.cat(list(pieces), dim=1)


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
