"""The two KVCaches of training: a whole batch of clips in one pass, attention masked as streaming would see it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot_eval.model.config import SPECIAL_TOKENS
from training.visibility import HIDDEN, WHOLE, Visibility


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
