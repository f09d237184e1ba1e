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

Rotate = Callable[[Tensor], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query, key, value), each (..., N, heads, head_dim) → the same shape."""


def full_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Unmasked attention of (B, N, heads, head_dim) over its own tokens."""
    out = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention with one ``qkv`` linear; what is attended to is the caller's (``attend``)."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads, eps=1e-5) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotate: Rotate | None = None, attend: Attend = full_attention) -> Tensor:
        """(..., N, dim) → (..., N, dim)."""
        dtype = self.qkv.weight.dtype
        qkv = self.qkv(x.to(dtype)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.unbind(-3)
        if isinstance(self.q_norm, nn.LayerNorm):
            # The norm's parameters stay in float32 when the products run in a lower precision.
            query, key = self.q_norm(query.float()), self.k_norm(key.float())
        if rotate is not None:
            query, key = rotate(query), rotate(key)
        out = attend(query.to(dtype), key.to(dtype), value)
        return cast(Tensor, self.proj(out.flatten(-2)))


class Mlp(nn.Module):
    """fc1 → exact GELU → fc2."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype)))))


class LayerScale(nn.Module):
    """A learned factor a channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


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

    def forward(self, x: Tensor, rotate: Rotate | None = None, attend: Attend = full_attention) -> Tensor:
        """(..., N, dim) float32 → the same."""
        x = x + self.ls1(self.attn(self.norm1(x), rotate, attend))
        return cast(Tensor, x + self.ls2(self.mlp(self.norm2(x))))
