"""The whole network: aggregator and heads over one pass of frames (model.md sections 2 to 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lingbot_eval.model.aggregator import Aggregator, PassInputs
from lingbot_eval.model.camera_head import CameraHead
from lingbot_eval.model.config import ModelConfig
from lingbot_eval.model.dense_head import DenseHead
from lingbot_eval.model.protocols import KVCache, Placement

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

    def place(self, images: Tensor, placement: Placement) -> PassInputs:
        """The inputs of a pass of (S, 3, H, W) images that stand at ``placement``; sides are multiples of 14."""
        return self.aggregator.place(images, placement)

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
