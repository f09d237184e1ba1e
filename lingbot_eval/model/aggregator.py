"""Images of a pass become tokens: the patch backbone (DINOv2 ViT, registers), then alternating frame and global blocks.

Source: model.md sections 2 to 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lingbot_eval.model.blocks import Block, KVCache, Rotation, StreamRotary, frame_rotation
from lingbot_eval.model.config import PATCH_SIZE, REGISTER_TOKENS, ModelConfig

BACKBONE_EPS, EPS = 1e-6, 1e-5
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
        self.blocks = nn.ModuleList(Block(dim, config.heads, eps=BACKBONE_EPS) for _ in range(config.backbone_blocks))
        self.norm = nn.LayerNorm(dim, eps=BACKBONE_EPS)
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


@dataclass(frozen=True)
class GridConstants:
    """What depends on the image size alone, computed once a size; the resized position map also on the weights."""

    positions: Tensor
    frame_rotation: Rotation
    stream_rotary: StreamRotary


@dataclass(frozen=True)
class PassInputs:
    """All that differs between two passes of one size, as tensors: what a captured pass reads.

    images: (S, 3, H, W) RGB in [0, 1]. special: (S, 6, C) special tokens. rotation: of the S·T tokens in the stream.
    """

    images: Tensor
    special: Tensor
    rotation: Rotation

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, in one order."""
        return self.images, self.special, self.rotation.cos, self.rotation.sin


class Aggregator(nn.Module):
    """Images of one pass → the four pairs of frame and global block outputs that the heads read."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads = config.embed_dim, config.heads
        self.output_groups = config.output_groups
        self.patch_embed = Backbone(config)
        # Two variants each: [0] for what opens a stream, [1] for what follows.
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, REGISTER_TOKENS, dim))
        self.scale_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.frame_blocks = nn.ModuleList(Block(dim, heads, eps=EPS, qk_norm=True) for _ in range(config.groups))
        self.global_blocks = nn.ModuleList(Block(dim, heads, eps=EPS, qk_norm=True) for _ in range(config.groups))
        self._grids: dict[tuple[int, int, torch.device], GridConstants] = {}
        # The resized position map is computed from the weights, so new weights make it stale.
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            lambda module, keys: self._grids.clear()
        )

    def constants(self, height: int, width: int) -> GridConstants:
        """What passes of H×W images share; sides are multiples of 14."""
        rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
        device = self.camera_token.device
        key = (rows, columns, device)
        known = self._grids.get(key)
        if known is None:
            known = GridConstants(
                # Without its history: kept, it would hold on to the pass that asked first.
                positions=self.patch_embed.position_embedding(rows, columns).detach(),
                frame_rotation=frame_rotation(rows, columns, device),
                stream_rotary=StreamRotary(rows, columns, device),
            )
            # One size at a time: a stream never changes it, and constants of many sizes would pile up.
            self._grids.clear()
            self._grids[key] = known
        if self.training:
            # Weights in training move with every step, and the map has a gradient.
            return replace(known, positions=self.patch_embed.position_embedding(rows, columns))
        return known

    def train(self, mode: bool = True) -> Aggregator:
        """As torch's; what was computed from weights of before goes."""
        self._grids.clear()
        return super().train(mode)

    def place(self, images: Tensor, clock: int) -> PassInputs:
        """The inputs of a pass of (S, 3, H, W) images, sides multiples of 14 (model.md sections 3 and 4).

        clock: keyframe clock of the first of them, the others following; 0 is the scale phase, which opens a stream.
        """
        count, _, height, width = images.shape
        grid = self.constants(height, width)
        return PassInputs(
            images=images,
            special=self._special_tokens(count, opens=clock == 0),
            rotation=grid.stream_rotary.at(clock, count),
        )

    def _special_tokens(self, count: int, *, opens: bool) -> Tensor:
        """(S, 6, C): camera and registers by whether a frame is the stream's first, scale by the phase."""
        variants = torch.cat([self.camera_token[0], self.register_token[0]], dim=1)  # (2, 5, C)
        if opens:
            opening = torch.cat([variants[:1], variants[1:].expand(count - 1, -1, -1)])
        else:
            opening = variants[1:].expand(count, -1, -1)
        scale = self.scale_token[0, 0 if opens else 1].expand(count, -1, -1)
        return torch.cat([opening, scale], dim=1)

    def forward(self, inputs: PassInputs, cache: KVCache) -> list[Tensor]:
        """A pass → four tensors (S, T, 2C) float32: [frame block output, global block output]."""
        count, _, height, width = inputs.images.shape
        grid = self.constants(height, width)
        patches = self.patch_embed(inputs.images, grid.positions)
        x = torch.cat([inputs.special, patches], dim=1)
        tokens = x.shape[1]
        outputs = []
        for group, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            within = frame_block(x, grid.frame_rotation)

            def attend(query: Tensor, key: Tensor, value: Tensor, layer: int = group) -> Tensor:
                return cache.attend(layer, query, key, value)

            across = global_block(within.flatten(0, 1), inputs.rotation, attend)
            x = torch.unflatten(across, 0, (count, tokens))
            if group in self.output_groups:
                outputs.append(torch.cat([within, x], dim=-1))
        return outputs
