"""Sizes of the network, and the named configurations: ``full``, ``mini`` and ``ci``. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lingbot_eval.settings import StrictModel

PATCH_SIZE = 14
HEAD_DIM = 64
"""Channels a head in backbone and aggregator; the 3-D rotary split 20 + 22 + 22 rests on it."""
REGISTER_TOKENS = 4
SPECIAL_TOKENS = 1 + REGISTER_TOKENS + 1
"""Camera token, register tokens, scale token: the head of every frame (model.md section 3)."""

ConfigName = Literal["full", "mini", "ci"]
Positive = Annotated[int, Field(ge=1)]
Quartered = Annotated[int, Field(ge=4, multiple_of=4)]
"""Channels that the position map fills in four equal parts."""


class ModelConfig(StrictModel):
    """Sizes of one network; every configuration has the same code paths and key names.

    embed_dim: C, channels of backbone and aggregator (heads of 64). groups: pairs of frame and global blocks.
    output_groups: the four groups whose outputs feed the heads. trained_grid: side of the square patch grid of
    ``pos_embed``. dpt_channels, dpt_features: widths of the depth (and point) head.
    window: the pose-reference window that a stream of this configuration has unless told otherwise.
    """

    embed_dim: Annotated[int, Field(ge=HEAD_DIM, multiple_of=HEAD_DIM)]
    groups: Positive
    output_groups: tuple[int, int, int, int]
    backbone_blocks: Positive
    trained_grid: Positive
    camera_blocks: Positive = 4
    camera_heads: Positive = 16
    dpt_channels: tuple[Quartered, Quartered, Quartered, Quartered] = (256, 512, 1024, 1024)
    dpt_features: Annotated[int, Field(ge=8, multiple_of=8)] = 256
    window: Positive = 64

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        rising = list(self.output_groups) == sorted(set(self.output_groups))
        if not rising or any(not 0 <= group < self.groups for group in self.output_groups):
            raise ValueError(f"output_groups {self.output_groups} must rise within 0…{self.groups - 1}")
        if self.token_dim % self.camera_heads:
            raise ValueError(f"camera_heads {self.camera_heads} must divide 2·embed_dim = {self.token_dim}")
        return self

    @property
    def heads(self) -> int:
        """Attention heads of backbone and aggregator."""
        return self.embed_dim // HEAD_DIM

    @property
    def token_dim(self) -> int:
        """Channels that reach the heads: frame and global block outputs side by side."""
        return 2 * self.embed_dim


CONFIGS: dict[ConfigName, ModelConfig] = {
    # The public checkpoints, 1.158 B parameters (model.md).
    "full": ModelConfig(embed_dim=1024, groups=24, output_groups=(4, 11, 17, 23), backbone_blocks=24, trained_grid=37),
    # The reference cases (docs/reference-cases.md).
    "mini": ModelConfig(
        embed_dim=128, groups=4, output_groups=(0, 1, 2, 3), backbone_blocks=3, trained_grid=5, window=8
    ),
    # 10 frames a second at 224×168 on two CPU cores, 20 MB in half precision (reports/ci_checkpoint.md).
    "ci": ModelConfig(
        embed_dim=192,
        groups=4,
        output_groups=(0, 1, 2, 3),
        backbone_blocks=4,
        trained_grid=16,
        camera_blocks=2,
        camera_heads=6,
        dpt_channels=(32, 64, 96, 96),
        dpt_features=32,
        window=16,
    ),
}
