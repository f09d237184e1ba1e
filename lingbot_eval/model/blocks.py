"""The transformer block that backbone, aggregator and camera head share, its rotary and its small operations.

Source: model.md section 2 (shape), section 4 (query/key norm and rotary: 2-D half-split inside a frame, 3-D interleaved
across the stream; angles are computed in float64 and their cosines and sines cast to float32). Weights of the matrix
products may be in a lower precision than the residual stream, which stays in float32.

The small operations between matrix products are one launch each on a CUDA device, plain torch elsewhere. A step of the
full model has some 1,500 of them when every addition, norm and rotation is a launch of its own; each moves a few
megabytes and costs more in waiting than in work. Both forms compute in float32 and are the same function: the fused one
runs where gradients are off for good (inference mode) and Triton can be had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot_eval.machine.gpu import runs_triton
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


def fuses(x: Tensor) -> bool:
    """Whether the one-launch form runs on this tensor."""
    return x.is_cuda and torch.is_inference_mode_enabled() and runs_triton(x.device)


def to_norm(x: Tensor, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """LayerNorm of (..., C) float32 in ``dtype``."""
    if not fuses(x):
        return norm(x).to(dtype)  # type: ignore[no-any-return]  # a module's call is Any
    x = x.contiguous()
    out = torch.empty_like(x, dtype=dtype)
    _rows((x, x, norm.weight), norm, (x, out), adds=False)
    return out


def add_and_norm(x: Tensor, y: Tensor, gamma: Tensor, norm: nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + gamma · y of (..., C) float32 x, and its LayerNorm in ``dtype``."""
    if not fuses(x):
        total = x + y * gamma
        return total, norm(total).to(dtype)
    x, y = x.contiguous(), y.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    _rows((x, y, gamma), norm, (total, normed), adds=True)
    return total, normed


def scaled_add(x: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """x + gamma · y of (..., C) float32 x."""
    if not fuses(x):
        return x + y * gamma
    x, y = x.contiguous(), y.contiguous()
    total = torch.empty_like(x)
    _rows((x, y, gamma), None, (total, total), adds=True)
    return total


def norm_and_rotate(
    qkv: Tensor, q_norm: nn.LayerNorm, k_norm: nn.LayerNorm, rotation: Rotation
) -> tuple[Tensor, Tensor]:
    """Queries and keys of a (..., N, 3, heads, 64) product, each head normalised, then rotated; the dtype is kept."""
    if not fuses(qkv):
        query, key, _ = qkv.unbind(-3)
        # In float32 throughout: the norm's parameters are, and the rotation would lose a clock in bfloat16.
        return rotation(q_norm(query.float())).to(qkv.dtype), rotation(k_norm(key.float())).to(qkv.dtype)
    import triton

    from lingbot_eval.model.triton_kernels import norm_rotate_kernel

    qkv = qkv.contiguous()
    heads = qkv.shape[-2]
    tokens = qkv.numel() // (3 * heads * 64)
    query, key = (torch.empty((*qkv.shape[:-3], heads, 64), dtype=qkv.dtype, device=qkv.device) for _ in range(2))
    norm_rotate_kernel[(tokens, 2)](
        qkv,
        q_norm.weight,
        q_norm.bias,
        k_norm.weight,
        k_norm.bias,
        rotation.cos,
        rotation.sin,
        query,
        key,
        rotation.cos.shape[0],
        q_norm.eps,
        heads=heads,
        block=triton.next_power_of_2(heads),
        interleaved=rotation.interleaved,
        num_warps=4,
    )
    return query, key


def _rows(
    operands: tuple[Tensor, Tensor, Tensor], norm: nn.LayerNorm | None, outputs: tuple[Tensor, Tensor], *, adds: bool
) -> None:
    """One program a row of C channels; what a form does not use is not read or written."""
    import triton

    from lingbot_eval.model.triton_kernels import residual_norm_kernel

    x, y, gamma = operands
    width = x.shape[-1]
    residual_norm_kernel[(x.numel() // width,)](
        x,
        y,
        gamma,
        gamma if norm is None else norm.weight,
        gamma if norm is None else norm.bias,
        *outputs,
        0.0 if norm is None else norm.eps,
        width=width,
        block=triton.next_power_of_2(width),
        adds=adds,
        norms=norm is not None,
        num_warps=8 if width >= 1024 else 4,
    )


class KVCache(Protocol):
    """Keys and values of the past, seen by one attention layer at a time."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of this pass's tokens over all that they may see, their own keys and values included.

        query, key, value: (N, heads, head_dim) of the N = frames·tokens of the pass, keys already rotated.
        Returns (N, heads, head_dim). Called once a layer and pass, layers in order.
        """
        ...


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query, key, value), each (..., N, heads, head_dim) → the same shape."""

KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""In order of preference. cuDNN plans once a length, which here never changes; measured on an H100 for a frame of 1,005
tokens: 15.5 µs, flash 22.5."""


def full_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Unmasked attention of (B, N, heads, head_dim) over its own tokens."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    if not (query.is_cuda and torch.is_inference_mode_enabled()):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    with sdpa_kernel(KERNELS, set_priority=True):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention with one ``qkv`` linear; what is attended to is the caller's (``attend``)."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        # Their parameters stay in float32 when the products run in a lower precision.
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads, eps=1e-5) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotation: Rotation | None = None, attend: Attend = full_attention) -> Tensor:
        """(..., N, dim) in the products' precision → the same. Queries and keys are rotated where they are normed."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.unbind(-3)
        if rotation is not None and isinstance(self.q_norm, nn.LayerNorm) and isinstance(self.k_norm, nn.LayerNorm):
            query, key = norm_and_rotate(qkv, self.q_norm, self.k_norm, rotation)
        out = attend(query, key, value)
        return cast(Tensor, self.proj(out.flatten(-2)))


class Mlp(nn.Module):
    """fc1 → exact GELU → fc2."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) in the products' precision → (..., out)."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class LayerScale(nn.Module):
    """A learned factor a channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))


class Block(nn.Module):
    """``x += ls1·attn(norm1(x)); x += ls2·mlp(norm2(x))``."""

    def __init__(self, dim: int, heads: int, *, eps: float, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim, dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rotation: Rotation | None = None, attend: Attend = full_attention) -> Tensor:
        """(..., N, dim) float32 → the same."""
        dtype = self.attn.qkv.weight.dtype
        seen = self.attn(to_norm(x, self.norm1, dtype), rotation, attend)
        x, normed = add_and_norm(x, seen, self.ls1.gamma, self.norm2, dtype)
        return scaled_add(x, self.mlp(normed), self.ls2.gamma)
