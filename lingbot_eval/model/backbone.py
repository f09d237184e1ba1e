"""The patch backbone: DINOv2 ViT with registers, patch tokens only (model.md section 2)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lingbot_eval.model.blocks import Block
from lingbot_eval.model.config import PATCH_SIZE, REGISTER_TOKENS, ModelConfig

EPS = 1e-6
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


class PatchProjection(nn.Module):
    """The 14×14 convolution that makes patches into tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, images: Tensor) -> Tensor:
        """(S, 3, H, W) → (S, P, dim) float32, row-major."""
        return cast(Tensor, self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2).float())


class Backbone(nn.Module):
    """RGB images in [0, 1] → normalised patch tokens."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.trained_grid = config.trained_grid
        self.patch_embed = PatchProjection(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.trained_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTER_TOKENS, dim))
        # In the checkpoint and unused when nothing is masked; kept so that keys match exactly.
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList(Block(dim, config.heads, eps=EPS) for _ in range(config.backbone_blocks))
        self.norm = nn.LayerNorm(dim, eps=EPS)
        # Constants of the formula, not weights: they follow the module's device and stay out of the state dict.
        self.register_buffer("pixel_mean", None, persistent=False)
        self.register_buffer("pixel_std", None, persistent=False)
        self.reset_constants()

    def reset_constants(self) -> None:
        """Write the pixel statistics; needed again when the module was made without memory (on torch's meta device)."""
        self.pixel_mean = torch.tensor(PIXEL_MEAN).view(3, 1, 1)
        self.pixel_std = torch.tensor(PIXEL_STD).view(3, 1, 1)

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows·columns, C): the trained map as it is on its own grid, else resized (bicubic, antialias)."""
        trained = self.trained_grid
        if (rows, columns) == (trained, trained):
            return self.pos_embed
        grid = torch.unflatten(self.pos_embed[:, 1:].float(), 1, (trained, trained)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([self.pos_embed[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, images: Tensor, positions: Tensor) -> Tensor:
        """(S, 3, H, W) in [0, 1] and :meth:`position_embedding` of its grid → (S, P, C) float32."""
        x = self.patch_embed((images - self.pixel_mean) / self.pixel_std)
        count = x.shape[0]
        x = torch.cat([self.cls_token.expand(count, -1, -1), x], dim=1) + positions
        x = torch.cat([x[:, :1], self.register_tokens.expand(count, -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.norm(x)[:, 1 + REGISTER_TOKENS :])
