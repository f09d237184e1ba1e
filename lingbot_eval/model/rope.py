"""Rotary position embeddings: 2-D half-split inside a frame, 3-D interleaved across the stream.

Source: model.md section 4. Angles are computed in float64 and their cosines and sines cast to float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lingbot_eval.model.config import HEAD_DIM, SPECIAL_TOKENS

FRAME_BASE = 100.0
GLOBAL_BASE = 10000.0
TEMPORAL_DIM, ROW_DIM, COLUMN_DIM = 20, 22, 22


def _frequencies(base: float, dim: int) -> Tensor:
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def grid_positions(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """(rows·columns, 2) int64 patch positions (row, column), row-major."""
    sides = (torch.arange(rows, device=device), torch.arange(columns, device=device))
    return torch.cartesian_prod(*sides).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotation of (..., N, heads, 64) queries or keys, channel pair by channel pair: a·cos − b·sin, b·cos + a·sin.

    cos, sin: (rows, 32) float32, contiguous; token n of the N takes row n mod rows. interleaved: pair i is channels
    2i and 2i + 1 (global blocks), else channels i and i + 16 of each half (frame blocks).
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate queries or keys; the dtype is kept. The N tokens are as many as there are rows."""
        cos, sin = self.cos[:, None], self.sin[:, None]
        if self.interleaved:
            a, b = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
            return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)
        halves = torch.unflatten(x.float(), -1, (2, 2, -1))
        a, b = halves[..., 0, :].flatten(-2), halves[..., 1, :].flatten(-2)
        rotated = torch.stack([torch.unflatten(p, -1, (2, -1)) for p in (a * cos - b * sin, b * cos + a * sin)], dim=-2)
        return rotated.flatten(-3).to(x.dtype)


def frame_rotation(rows: int, columns: int, device: torch.device) -> Rotation:
    """Rotation of the frame blocks: first half of the channels by row, last half by column.

    Special tokens stand at (0, 0), patch (r, c) at (r + 1, c + 1). Rotate-half form within each half.
    """
    patches = grid_positions(rows, columns) + 1
    positions = torch.cat([torch.zeros(SPECIAL_TOKENS, 2, dtype=torch.int64), patches]).double()
    angles = (positions[:, :, None] * _frequencies(FRAME_BASE, HEAD_DIM // 2)).flatten(1)  # (T, 2·16)
    return Rotation(angles.cos().float().to(device), angles.sin().float().to(device), interleaved=False)


class StreamRotary:
    """Rotations of the global blocks by (keyframe clock, row, column).

    Special token i stands at (f, i, i), patch (r, c) at (f, 6 + r, 6 + c). Interleaved pairs. The temporal angles
    are computed for the clock values at hand, so there is no table to run out of.
    """

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        special = torch.arange(SPECIAL_TOKENS)[:, None].expand(-1, 2)
        positions = torch.cat([special, grid_positions(rows, columns) + SPECIAL_TOKENS]).double()
        spatial = [
            positions[:, :1] * _frequencies(GLOBAL_BASE, ROW_DIM),
            positions[:, 1:] * _frequencies(GLOBAL_BASE, COLUMN_DIM),
        ]
        self._spatial = torch.cat(spatial, dim=-1).to(device)  # (T, 22) float64
        self._temporal = _frequencies(GLOBAL_BASE, TEMPORAL_DIM).to(device)

    def at(self, clock: int, count: int) -> Rotation:
        """The rotation of ``count`` frames whose clocks are ``clock``, ``clock + 1`` …, their tokens in a row."""
        clocks = torch.arange(clock, clock + count, dtype=torch.float64, device=self._spatial.device)
        temporal = clocks[:, None, None] * self._temporal  # (S, 1, 10)
        tokens = self._spatial.shape[0]
        angles = torch.cat([temporal.expand(-1, tokens, -1), self._spatial.expand(count, -1, -1)], dim=-1)
        angles = angles.flatten(0, 1)  # (S·T, 32)
        return Rotation(angles.cos().float(), angles.sin().float(), interleaved=True)
