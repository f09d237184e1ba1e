"""A stream put at some frame without computing the frames before it: caches full of random keys, ready to be timed."""

from __future__ import annotations

import torch
from torch import Tensor

from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.cache import CacheShape, CacheStore
from lingbot_eval.streaming.passes import PassOutput, PassRunner
from lingbot_eval.streaming.policy import CachePolicy
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.streaming.stores import block_cache_shape, build_stores, camera_cache_shape

IMAGES = 4
"""Inputs that take turns."""


class StreamBench:
    """Kept frames of one stream from ``frame`` on; to be used in inference mode, the model's device the current one."""

    def __init__(
        self, model: GeometricContextTransformer, settings: StreamSettings, size: tuple[int, int], frame: int
    ) -> None:
        """Raises ConfigError where the backend cannot be had."""
        iterations = 4
        self.model = model
        self.size = size
        self.iterations = iterations
        self.stores = build_stores(model, size, settings, iterations)
        self.policy = CachePolicy(settings.window or model.config.window)
        self.runner = PassRunner(model, iterations)
        generator = torch.Generator().manual_seed(0)
        self.images = [torch.rand(1, 3, *size, generator=generator).to(model.device) for _ in range(IMAGES)]
        self.block_shape = block_cache_shape(
            model.config, size, model.trunk_dtype, model.device, settings.cache_precision
        )
        self._fill(settings.scale_frames, frame)

    def step(self, index: int) -> PassOutput:
        """One kept frame, as the session runs it."""
        step = self.policy.keep()
        self.stores.begin(step)
        return self.runner.run(self.model.aggregator.place(self.images[index % IMAGES], step.clock), self.stores)

    def visible_tokens(self) -> int:
        """Tokens that a kept frame sees now."""
        return self.policy.view().tokens(self.block_shape.frame_tokens, self.block_shape.special_tokens)

    def _fill(self, scale: int, frame: int) -> None:
        camera_shape = camera_cache_shape(self.model.config, self.iterations, self.model.device)
        keys = {name: _random_keys(shape, scale) for name, shape in (("b", self.block_shape), ("c", camera_shape))}
        while self.policy.frames < frame:
            step = self.policy.keep() if self.policy.frames else self.policy.enter_scale(scale)
            self.stores.begin(step)
            _remember(self.stores.blocks, self.block_shape, keys["b"], step.count)
            _remember(self.stores.camera, camera_shape, keys["c"], step.count)


def _random_keys(shape: CacheShape, frames: int) -> Tensor:
    generator = torch.Generator(shape.device).manual_seed(1)
    size = (2, frames * shape.frame_tokens, shape.heads, shape.head_dim)
    return torch.randn(size, generator=generator, device=shape.device).to(shape.dtype)


def _remember(store: CacheStore, shape: CacheShape, keys: Tensor, frames: int) -> None:
    key, value = keys[:, : frames * shape.frame_tokens]
    for layer in range(shape.layers):
        store.remember(layer, key, value)
