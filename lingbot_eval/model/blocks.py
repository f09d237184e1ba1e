"""The transformer block that backbone, aggregator and camera head share.

Source: model.md section 2 (shape), section 4 (query/key norm and rotary). Weights of the matrix products may be
in a lower precision than the residual stream, which stays in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot_eval.model.fused import add_and_norm, norm_and_rotate, scaled_add, to_norm
from lingbot_eval.model.rope import Rotation

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
