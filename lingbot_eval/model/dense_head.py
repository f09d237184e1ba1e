"""The dense prediction head (DPT): patch tokens of four depths → a map at image size (model.md section 5)."""

from __future__ import annotations

from typing import NamedTuple, cast

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


class PositionMap(NamedTuple):
    """Sinusoids of the pixel's place: its first half of channels depends on the column alone, the other on the row.

    across: (1, channels / 2, 1, columns). down: (1, channels / 2, rows, 1). In full it would be as large as what it is
    added to.
    """

    across: Tensor
    down: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.down.shape[2], self.across.shape[3]

    def add_to(self, x: Tensor) -> Tensor:
        """``x``, (S, channels, rows, columns), which is changed."""
        half = self.across.shape[1]
        x[:, :half] += self.across
        x[:, half:] += self.down
        return x


def position_map(channels: int, rows: int, columns: int, aspect: float) -> PositionMap:
    """Of a map of an image of aspect W/H, in float32."""
    diagonal = (aspect**2 + 1) ** 0.5
    omega = POSITION_BASE ** (-torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))

    def waves(count: int, span: float) -> Tensor:
        last = span * (count - 1) / count
        phase = omega[:, None] * torch.linspace(-last, last, count, dtype=torch.float64)
        return POSITION_WEIGHT * torch.cat([phase.sin(), phase.cos()]).float()

    return PositionMap(waves(columns, aspect / diagonal)[None, :, None, :], waves(rows, 1 / diagonal)[None, :, :, None])


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
        self._positions: dict[tuple[int, int, torch.device], tuple[PositionMap, ...]] = {}

    def position_maps(self) -> tuple[Tensor, ...]:
        """What of them is kept now, of the last sizes."""
        return tuple(tensor for maps in self._positions.values() for known in maps for tensor in known)

    def positions(self, height: int, width: int) -> tuple[PositionMap, ...]:
        """What :meth:`decode` adds for H×W images: a map a level, and one at image size."""
        device = self.norm.weight.device
        key = height, width, device
        known = self._positions.get(key)
        if known is None:
            if len(self._positions) >= SIZES_KEPT:
                self._positions.clear()  # other image sizes: the maps of the last ones are not needed again
            grid = (height // PATCH_SIZE, width // PATCH_SIZE)
            sizes = zip(self._widths, (*[grid] * len(self.projects), (height, width)), strict=True)
            known = tuple(
                PositionMap(*(half.to(device) for half in position_map(channels, *sides, width / height)))
                for channels, sides in sizes
            )
            self._positions[key] = known
        return known

    def decode(self, tokens: list[Tensor], positions: tuple[PositionMap, ...]) -> Tensor:
        """Four (S, T, 2C) tensors and :meth:`positions` of their images → (S, outputs, H, W) float32.

        A function of its arguments and the weights alone.
        """
        maps = []
        for level, project, resize, place in zip(
            tokens, self.projects, self.resize_layers, positions[:-1], strict=True
        ):
            x = self.norm(level[:, SPECIAL_TOKENS:]).transpose(1, 2).unflatten(2, place.size)
            maps.append(resize(place.add_to(project(x))))
        s = self.scratch
        fine, medium, coarse = s.layer1_rn(maps[0]), s.layer2_rn(maps[1]), s.layer3_rn(maps[2])
        x = s.refinenet4(s.layer4_rn(maps[3]), None, coarse.shape[-2:])
        x = s.refinenet3(x, coarse, medium.shape[-2:])
        x = s.refinenet2(x, medium, fine.shape[-2:])
        x = s.refinenet1(x, fine, (2 * fine.shape[-2], 2 * fine.shape[-1]))
        x = s.output_conv1(x)  # a line each: what was there before goes before the next, larger one comes
        x = positions[-1].add_to(_upsample(x, positions[-1].size))
        return cast(Tensor, s.output_conv2(x))

    def forward(self, tokens: list[Tensor], height: int, width: int) -> Tensor:
        """Four (S, T, 2C) tensors of H×W images → (S, outputs, H, W) float32."""
        return self.decode(tokens, self.positions(height, width))
