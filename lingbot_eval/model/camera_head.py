"""The camera head: iterative refinement of a pose encoding, causal over time (model.md section 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lingbot_eval.model.blocks import Block, Mlp
from lingbot_eval.model.config import ModelConfig
from lingbot_eval.model.protocols import KVCache

POSE_NUMBERS = 9
EPS = 1e-5
ADAPTIVE_EPS = 1e-6


class CameraHead(nn.Module):
    """Camera tokens → pose encodings [t (3), quaternion (4, scalar last), fov_y, fov_x], camera-to-world."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.token_dim
        self.trunk = nn.ModuleList(Block(dim, config.camera_heads, eps=EPS) for _ in range(config.camera_blocks))
        self.token_norm = nn.LayerNorm(dim, eps=EPS)
        self.trunk_norm = nn.LayerNorm(dim, eps=EPS)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_NUMBERS))
        self.embed_pose = nn.Linear(POSE_NUMBERS, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.pose_branch = Mlp(dim, dim // 2, POSE_NUMBERS)

    def forward(self, camera_tokens: Tensor, iterations: int, cache: KVCache) -> list[Tensor]:
        """(S, 2C) camera tokens of a pass → one (S, 9) encoding an iteration, fields of view rectified.

        The cache has one layer per (iteration, block), iterations outermost, one token a frame.
        """
        tokens = self.token_norm(camera_tokens)
        encoding: Tensor | None = None
        outputs = []
        for iteration in range(iterations):
            state = self.empty_pose_tokens[0].expand(len(tokens), -1) if encoding is None else encoding
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(state)).chunk(3, dim=-1)
            normed = F.layer_norm(tokens, tokens.shape[-1:], eps=ADAPTIVE_EPS)
            x = gate * (normed * (1 + scale) + shift) + tokens
            for index, block in enumerate(self.trunk):
                layer = iteration * len(self.trunk) + index

                def attend(query: Tensor, key: Tensor, value: Tensor, layer: int = layer) -> Tensor:
                    return cache.attend(layer, query, key, value)

                x = block(x, None, attend)
            delta = self.pose_branch(self.trunk_norm(x))
            encoding = delta if encoding is None else encoding + delta
            outputs.append(torch.cat([encoding[:, :7], F.relu(encoding[:, 7:])], dim=-1))
        return outputs
