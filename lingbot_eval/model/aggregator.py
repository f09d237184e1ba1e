"""The aggregator: alternating frame and global blocks over backbone tokens (model.md sections 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lingbot_eval.model.backbone import Backbone
from lingbot_eval.model.blocks import Block
from lingbot_eval.model.config import PATCH_SIZE, REGISTER_TOKENS, ModelConfig
from lingbot_eval.model.protocols import KVCache, Placement
from lingbot_eval.model.rope import Rotation, StreamRotary, frame_rotation

EPS = 1e-5


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

    def place(self, images: Tensor, placement: Placement) -> PassInputs:
        """The inputs of a pass of (S, 3, H, W) images that stand at ``placement``."""
        count, _, height, width = images.shape
        grid = self.constants(height, width)
        return PassInputs(
            images=images,
            special=self._special_tokens(count, placement),
            rotation=grid.stream_rotary.at(placement.clock, count),
        )

    def _special_tokens(self, count: int, placement: Placement) -> Tensor:
        """(S, 6, C): camera and registers by whether a frame is the stream's first, scale by the phase."""
        variants = torch.cat([self.camera_token[0], self.register_token[0]], dim=1)  # (2, 5, C)
        if placement.starts_stream:
            opening = torch.cat([variants[:1], variants[1:].expand(count - 1, -1, -1)])
        else:
            opening = variants[1:].expand(count, -1, -1)
        scale = self.scale_token[0, 0 if placement.scale_phase else 1].expand(count, -1, -1)
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
