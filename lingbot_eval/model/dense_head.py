"""The dense prediction head (DPT): patch tokens of four depths → a map at image size (model.md section 5)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS, ModelConfig

EPS = 1e-5
POSITION_BASE = 100.0
POSITION_WEIGHT = 0.1
OUTPUT_WIDTH = 32
SIZES_KEPT = 2
"""Image sizes whose position maps stay: a stream never changes its own."""


def position_map(channels: int, rows: int, columns: int, aspect: float) -> Tensor:
    """(channels, rows, columns) float32 sinusoids of the pixel's place in an image of aspect W/H."""
    diagonal = (aspect**2 + 1) ** 0.5
    span_x, span_y = aspect / diagonal, 1 / diagonal
    last_x, last_y = span_x * (columns - 1) / columns, span_y * (rows - 1) / rows
    u = torch.linspace(-last_x, last_x, columns, dtype=torch.float64)
    v = torch.linspace(-last_y, last_y, rows, dtype=torch.float64)
    quarter = channels // 4
    omega = POSITION_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    across = (omega[:, None] * u)[:, None, :].expand(-1, rows, -1)
    down = (omega[:, None] * v)[:, :, None].expand(-1, -1, columns)
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()]).float()


def _upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """conv2(relu(conv1(relu x))) + relu x: the skip is the rectified input, as the original's in-place ReLU made it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return cast(Tensor, self.conv2(F.relu(self.conv1(x), inplace=True)) + x)


class Fusion(nn.Module):
    """Adds a finer map to a coarser one and brings the sum to the next size."""

    def __init__(self, features: int, *, has_skip: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualUnit(features) if has_skip else None
        self.resConfUnit2 = ResidualUnit(features)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        if self.resConfUnit1 is not None and skip is not None:
            x = x + self.resConfUnit1(skip)
        # In this order it reads a quarter of the pixels; to mix channels of each pixel and to interpolate pixels with
        # weights that sum to one commute.
        return _upsample(self.out_conv(self.resConfUnit2(x)), size)


class Scratch(nn.Module):
    """The fusion part, named as in the checkpoints."""

    def __init__(self, channels: tuple[int, int, int, int], features: int, outputs: int) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(channels[0], features, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(channels[1], features, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(channels[2], features, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(channels[3], features, 3, padding=1, bias=False)
        self.refinenet1 = Fusion(features, has_skip=True)
        self.refinenet2 = Fusion(features, has_skip=True)
        self.refinenet3 = Fusion(features, has_skip=True)
        self.refinenet4 = Fusion(features, has_skip=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, OUTPUT_WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(OUTPUT_WIDTH, outputs, 1),
        )


class DenseHead(nn.Module):
    """Four token tensors → raw outputs (S, outputs, H, W); what they mean is the caller's."""

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        dim, channels = config.token_dim, config.dpt_channels
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(channels, config.dpt_features, outputs)
        self._widths = (*channels, config.dpt_features // 2)
        self._positions: dict[tuple[int, int, torch.device], tuple[Tensor, ...]] = {}

    def position_maps(self) -> tuple[Tensor, ...]:
        """The maps that are kept now, of the last sizes."""
        return tuple(known for maps in self._positions.values() for known in maps)

    def positions(self, height: int, width: int) -> tuple[Tensor, ...]:
        """What :meth:`decode` adds for H×W images: one (1, channels, rows, columns) a level, and one at image size."""
        device = self.norm.weight.device
        key = height, width, device
        known = self._positions.get(key)
        if known is None:
            if len(self._positions) >= SIZES_KEPT:
                self._positions.clear()  # other image sizes: the maps of the last ones are not needed again
            grid = (height // PATCH_SIZE, width // PATCH_SIZE)
            known = tuple(
                (POSITION_WEIGHT * position_map(channels, *sides, width / height))[None]
                .to(device)
                # The layout in which tokens come.
                .contiguous(memory_format=torch.channels_last)
                for channels, sides in zip(self._widths, (*[grid] * len(self.projects), (height, width)), strict=True)
            )
            self._positions[key] = known
        return known

    def decode(self, tokens: list[Tensor], positions: tuple[Tensor, ...]) -> Tensor:
        """Four (S, T, 2C) tensors and :meth:`positions` of their images → (S, outputs, H, W) float32.

        A function of its arguments and the weights alone.
        """
        maps = []
        for level, project, resize, place in zip(
            tokens, self.projects, self.resize_layers, positions[:-1], strict=True
        ):
            x = self.norm(level[:, SPECIAL_TOKENS:]).transpose(1, 2).unflatten(2, place.shape[-2:])
            maps.append(resize(project(x) + place))
        s = self.scratch
        fine, medium, coarse = s.layer1_rn(maps[0]), s.layer2_rn(maps[1]), s.layer3_rn(maps[2])
        x = s.refinenet4(s.layer4_rn(maps[3]), None, coarse.shape[-2:])
        x = s.refinenet3(x, coarse, medium.shape[-2:])
        x = s.refinenet2(x, medium, fine.shape[-2:])
        x = s.refinenet1(x, fine, (2 * fine.shape[-2], 2 * fine.shape[-1]))
        height, width = positions[-1].shape[-2:]
        x = _upsample(s.output_conv1(x), (height, width))
        return cast(Tensor, s.output_conv2(x + positions[-1]))

    def forward(self, tokens: list[Tensor], height: int, width: int) -> Tensor:
        """Four (S, T, 2C) tensors of H×W images → (S, outputs, H, W) float32."""
        return self.decode(tokens, self.positions(height, width))
