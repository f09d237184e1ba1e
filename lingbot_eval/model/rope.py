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


def grid_positions(rows: int, columns: int) -> Tensor:
    """(rows·columns, 2) int64 patch positions (row, column), row-major."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)


class FrameRotary:
    """Rotation of the frame blocks: first half of the channels by row, last half by column.

    Special tokens stand at (0, 0), patch (r, c) at (r + 1, c + 1). Rotate-half form within each half.
    """

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        patches = grid_positions(rows, columns) + 1
        positions = torch.cat([torch.zeros(SPECIAL_TOKENS, 2, dtype=torch.int64), patches]).double()
        angles = positions[:, :, None] * _frequencies(FRAME_BASE, HEAD_DIM // 2)  # (T, 2, 16)
        # Both members of a rotated pair (i, i + 16) take the same angle.
        angles = torch.cat([angles, angles], dim=-1)[:, None]  # (T, 1, 2, 32): broadcasts over heads
        self._cos = angles.cos().float().to(device)
        self._sin = angles.sin().float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate queries or keys (..., T, heads, 64); the dtype is kept."""
        halves = torch.unflatten(x, -1, (2, HEAD_DIM // 2)).float()
        a, b = halves.chunk(2, dim=-1)
        rotated = halves * self._cos + torch.cat([-b, a], dim=-1) * self._sin
        return torch.flatten(rotated, -2).to(x.dtype)


class StreamRotary:
    """Rotation of the global blocks by (keyframe clock, row, column).

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
        angles = angles.flatten(0, 1)[:, None]  # (S·T, 1, 32): broadcasts over heads
        return Rotation(angles.cos().float(), angles.sin().float())


@dataclass(frozen=True, eq=False)
class Rotation:
    """Interleaved rotation of (N, heads, 64) queries or keys by fixed angles: (N, 1, 32) cosines and sines."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate queries or keys; the dtype is kept."""
        real, imaginary = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
        rotated = torch.stack([real * self.cos - imaginary * self.sin, real * self.sin + imaginary * self.cos], dim=-1)
        return rotated.flatten(-2).to(x.dtype)
