"""The whole network: aggregator and heads over one pass of frames (model.md sections 2 to 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lingbot_eval.model.aggregator import Aggregator
from lingbot_eval.model.camera_head import CameraHead
from lingbot_eval.model.config import ModelConfig
from lingbot_eval.model.dense_head import DenseHead
from lingbot_eval.model.protocols import KVCache, Placement


@dataclass(frozen=True)
class PassOutput:
    """What one pass of S frames gives, on the device, float32.

    pose_iterations: one (S, 9) a refinement iteration, the last the result: [tx ty tz, qx qy qz qw, fov_y, fov_x],
    camera-to-world, fov in radians. depth: (S, H, W) along z, relative scale; depth_confidence: (S, H, W) ≥ 1.
    points: (S, H, W, 3) world axes and points_confidence (S, H, W), None without a point head.
    """

    pose_iterations: list[Tensor]
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor | None = None
    points_confidence: Tensor | None = None

    @property
    def pose(self) -> Tensor:
        """(S, 9) pose encodings after the last iteration."""
        return self.pose_iterations[-1]


class GeometricContextTransformer(nn.Module):
    """The streaming model; it holds no state of a stream, the caches given to :meth:`forward` do."""

    def __init__(self, config: ModelConfig, *, point_head: bool = False) -> None:
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = DenseHead(config, outputs=2)
        self.point_head = DenseHead(config, outputs=4) if point_head else None

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

    def forward(
        self, images: Tensor, placement: Placement, global_cache: KVCache, camera_cache: KVCache, iterations: int
    ) -> PassOutput:
        """(S, 3, H, W) RGB in [0, 1], sides multiples of 14."""
        height, width = images.shape[-2:]
        tokens = self.aggregator(images, placement, global_cache)
        poses = self.camera_head(tokens[-1][:, 0], iterations, camera_cache)
        depth, depth_confidence = _by_frame(self.depth_head, tokens, height, width)
        points, points_confidence = None, None
        if self.point_head is not None:
            raw, points_confidence = _by_frame(self.point_head, tokens, height, width)
            points = raw.sign() * torch.expm1(raw.abs())
            return PassOutput(poses, depth[..., 0].exp(), depth_confidence, points, points_confidence)
        return PassOutput(poses, depth[..., 0].exp(), depth_confidence)


def _by_frame(head: DenseHead, tokens: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Run a dense head frame by frame: values (S, H, W, K) and confidence 1 + exp (S, H, W).

    The maps of one frame at full size are the largest activations of the model; eight scale frames at once would
    set the memory peak of the whole stream.
    """
    count = tokens[0].shape[0]
    raw = torch.cat([head([t[i : i + 1] for t in tokens], height, width) for i in range(count)])
    return raw[:, :-1].permute(0, 2, 3, 1), 1 + raw[:, -1].exp()
