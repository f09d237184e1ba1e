"""The whole network: aggregator, camera head and dense heads over one pass of frames (model.md sections 2 to 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lingbot_eval.model.aggregator import Aggregator, PassInputs
from lingbot_eval.model.blocks import Block, KVCache, Mlp
from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS, ModelConfig

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


HeadPrecision = Literal["auto", "float32", "tf32"]


@dataclass(frozen=True)
class DenseOutput:
    """The maps of one pass of S frames, on the device, float32.

    depth: (S, H, W) along z, relative scale; depth_confidence: (S, H, W) ≥ 1. points: (S, H, W, 3) world axes and
    points_confidence (S, H, W), None without a point head.
    """

    depth: Tensor
    depth_confidence: Tensor
    points: Tensor | None = None
    points_confidence: Tensor | None = None


class GeometricContextTransformer(nn.Module):
    """The streaming model; it holds no state of a stream, the caches given to its passes do.

    tf32_heads: whether the dense heads' convolutions may use the matrix units' short mantissa (10 bits).
    leaves_float16: whether a stream may take the trunk to bfloat16 where a value leaves float16's range.
    """

    def __init__(self, config: ModelConfig, *, point_head: bool = False) -> None:
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = DenseHead(config, outputs=2)
        self.point_head = DenseHead(config, outputs=4) if point_head else None
        self.tf32_heads = False
        self.leaves_float16 = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.aggregator.camera_token.device

    @property
    def trunk_dtype(self) -> torch.dtype:
        """Precision of the matrix products of backbone and aggregator, and so of the keys and values."""
        return self.aggregator.patch_embed.patch_embed.proj.weight.dtype

    def set_trunk_dtype(self, dtype: torch.dtype) -> None:
        """Cast the matrix products of backbone and aggregator; norms, LayerScale, tokens and heads stay in float32."""
        for module in self.aggregator.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)

    def choose_heads(self, precision: HeadPrecision) -> None:
        """``float32``, ``tf32``, or ``auto``: tf32 beside a trunk in half precision, which rounds more than it does."""
        self.tf32_heads = rounds_heads(precision, half=self.trunk_dtype is not torch.float32)

    def constants(self, height: int, width: int) -> tuple[object, ...]:
        """All that passes of H×W images have read beside weights: whoever replays one keeps it.

        The network itself keeps what belongs to the last sizes only.
        """
        maps = (head.position_maps() for head in (self.depth_head, self.point_head) if head is not None)
        return self.aggregator.constants(height, width), *maps

    def trunk(self, inputs: PassInputs, cache: KVCache) -> list[Tensor]:
        """Backbone and aggregator of a pass → the four tensors (S, T, 2C) that the heads read."""
        return cast(list[Tensor], self.aggregator(inputs, cache))

    def in_range(self, tokens: list[Tensor]) -> Tensor | None:
        """Whether all that the trunk computed for its tokens stayed in float16's range, on the device; None in other
        precisions, which have float32's.

        What leaves it is infinite, and no later layer makes a number of that again.
        """
        return tokens[-1].sum().isfinite() if self.trunk_dtype is torch.float16 else None

    def maps(self, tokens: list[Tensor], height: int, width: int) -> DenseOutput:
        """The dense heads over the trunk's tokens of H×W images."""
        # TF32 convolutions cost three digits; without them float32 is float32, whatever torch's default.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=self.tf32_heads):
            depth, depth_confidence = _by_frame(self.depth_head, tokens, height, width)
            points, points_confidence = None, None
            if self.point_head is not None:
                raw, points_confidence = _by_frame(self.point_head, tokens, height, width)
                points = raw.sign() * torch.expm1(raw.abs())
        return DenseOutput(depth[..., 0].exp(), depth_confidence, points, points_confidence)

    def poses(self, camera_tokens: Tensor, cache: KVCache, iterations: int) -> list[Tensor]:
        """(S, 2C) camera tokens of a pass → one (S, 9) encoding a refinement iteration, the last the result.

        [tx ty tz, qx qy qz qw, fov_y, fov_x]: camera-to-world, quaternion scalar last and not normalised, fov in rad.
        """
        return cast(list[Tensor], self.camera_head(camera_tokens, iterations, cache))


def rounds_heads(precision: HeadPrecision, *, half: bool) -> bool:
    """Whether heads of this setting may round products, beside a trunk in half precision or not."""
    return precision == "tf32" or (precision == "auto" and half)


def camera_tokens(tokens: list[Tensor]) -> Tensor:
    """(S, 2C) of the trunk's tokens: what the camera head reads."""
    return tokens[-1][:, 0]


def _by_frame(head: DenseHead, tokens: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Run a dense head frame by frame: values (S, H, W, K) and confidence 1 + exp (S, H, W).

    The maps of one frame at full size are the largest activations of the model; eight scale frames at once would
    set the memory peak of the whole stream.
    """
    count = tokens[0].shape[0]
    raw = torch.cat([head([t[i : i + 1] for t in tokens], height, width) for i in range(count)])
    return raw[:, :-1].permute(0, 2, 3, 1), 1 + raw[:, -1].exp()
