"""The least work of each stage: operations and bytes, counted from the network and the cache's view.

Operations of matrix products and convolutions are counted by torch on the meta device, where nothing is computed;
attention over the cache by its formula 4 · queries · keys · channels. Bytes: every weight, input and output once; the
camera head's weights once an iteration, because those of the full model fit no cache (those of a small one may, and its
floor is then too high).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lingbot_eval.model.build import PRECISIONS
from lingbot_eval.model.config import PATCH_SIZE, SPECIAL_TOKENS, ModelConfig
from lingbot_eval.model.network import GeometricContextTransformer

STAGES = ("backbone", "frame blocks", "global attention", "global rest", "camera head", "depth head")


@dataclass(frozen=True)
class Work:
    """Operations, bytes, and the arithmetic that the operations are done in (a key of `Rates.flops`)."""

    flops: float
    bytes: float
    arithmetic: str


@dataclass(frozen=True)
class StepShape:
    """One step: image size, cached tokens in view (its own included), frames in the camera head's cache."""

    height: int
    width: int
    visible_tokens: int
    camera_frames: int

    @property
    def tokens(self) -> int:
        """Tokens of the frame."""
        return SPECIAL_TOKENS + (self.height // PATCH_SIZE) * (self.width // PATCH_SIZE)


class _Identity:
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query


def least_work(config: ModelConfig, shape: StepShape, precision: str, heads: str, iterations: int) -> dict[str, Work]:
    """The work of every stage of one step. precision: of the trunk; heads: ``float32`` or ``tf32``."""
    with torch.device("meta"):
        model = GeometricContextTransformer(config)
    dtype = PRECISIONS[precision]
    model.set_trunk_dtype(dtype)
    # Under no_grad alone a view of a parameter still says that it requires gradients, which the counter follows.
    model.requires_grad_(requires_grad=False)
    aggregator = model.aggregator
    image = torch.empty(1, 3, shape.height, shape.width, device="meta")
    stream = torch.empty(1, shape.tokens, config.embed_dim, device="meta")
    tokens = [torch.empty(1, shape.tokens, config.token_dim, device="meta") for _ in range(4)]
    inputs = model.aggregator.place(image, 1)
    grid = aggregator.constants(shape.height, shape.width)

    def rest() -> None:
        for block in aggregator.global_blocks:
            block(stream[0], inputs.rotation, lambda query, key, value: query)

    residual = _size(stream)
    key_bytes = 2 * shape.visible_tokens * config.embed_dim * dtype.itemsize
    camera_cache = iterations * config.camera_blocks * 2 * shape.camera_frames * config.token_dim * 4
    maps = 2 * 4 * shape.height * shape.width
    return {
        "backbone": Work(
            _flops(lambda: aggregator.patch_embed(image, grid.positions)),
            _weights(aggregator.patch_embed) + _size(image) + residual,
            precision,
        ),
        "frame blocks": Work(
            _flops(lambda: [block(stream, grid.frame_rotation) for block in aggregator.frame_blocks]),
            _weights(aggregator.frame_blocks) + 2 * config.groups * residual,
            precision,
        ),
        "global attention": Work(
            4.0 * config.groups * shape.tokens * shape.visible_tokens * config.embed_dim,
            config.groups * (key_bytes + 2 * shape.tokens * config.embed_dim * dtype.itemsize),
            precision,
        ),
        "global rest": Work(_flops(rest), _weights(aggregator.global_blocks) + 2 * config.groups * residual, precision),
        "camera head": Work(
            _flops(lambda: model.poses(tokens[-1][:, 0], _Identity(), iterations)),
            iterations * _weights(model.camera_head) + camera_cache,
            "float32",
        ),
        "depth head": Work(
            _flops(lambda: model.maps(tokens, shape.height, shape.width)),
            _weights(model.depth_head) + sum(_size(t) for t in tokens) + maps,
            heads,
        ),
    }


def _flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _weights(module: torch.nn.Module) -> int:
    return sum(_size(parameter) for parameter in module.parameters())


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
