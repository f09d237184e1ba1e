"""The small operations between matrix products, one launch each on a CUDA device, plain torch elsewhere.

A step of the full model has some 1,500 of them when every addition, norm and rotation is a launch of its own; each
moves a few megabytes and costs more in waiting than in work. Both forms compute in float32 and are the same function:
the fused one runs where gradients are off for good (inference mode) and Triton can be had.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lingbot_eval.machine.gpu import runs_triton
from lingbot_eval.model.rope import Rotation


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
