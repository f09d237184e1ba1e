"""Builds the stores of a stream for a backend."""

from __future__ import annotations

from dataclasses import dataclass

from lingbot_eval.cache.append import AppendStore
from lingbot_eval.cache.policy import Step
from lingbot_eval.cache.protocol import CacheShape, CacheStore
from lingbot_eval.cache.sdpa import SdpaStore
from lingbot_eval.model.config import HEAD_DIM, PATCH_SIZE, SPECIAL_TOKENS
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.settings import Backend


@dataclass(frozen=True)
class StreamStores:
    """The two stores that every pass writes: the global blocks' and the camera head's."""

    blocks: CacheStore
    camera: CacheStore

    def begin(self, step: Step) -> None:
        """Make room in both."""
        self.blocks.begin(step)
        self.camera.begin(step)

    def keep_last(self, step: Step) -> None:
        """Keep the last pass's frame in both."""
        self.blocks.keep_last(step)
        self.camera.keep_last(step)

    def used_bytes(self) -> dict[str, int]:
        """Bytes in view by kind: anchor, window, memory, camera_head."""
        return {**self.blocks.used_bytes(), **self.camera.used_bytes()}

    def allocated_bytes(self) -> int:
        """Bytes that both hold on the device, headroom included."""
        return self.blocks.allocated_bytes() + self.camera.allocated_bytes()


def block_cache_shape(model: GeometricContextTransformer, height: int, width: int) -> CacheShape:
    """Shape of the global blocks' store for H×W images."""
    patches = (height // PATCH_SIZE) * (width // PATCH_SIZE)
    return CacheShape(
        layers=model.config.groups,
        heads=model.config.heads,
        head_dim=HEAD_DIM,
        frame_tokens=SPECIAL_TOKENS + patches,
        special_tokens=SPECIAL_TOKENS,
        dtype=model.trunk_dtype,
        device=model.device,
    )


def camera_cache_shape(model: GeometricContextTransformer, iterations: int) -> CacheShape:
    """Shape of the camera head's store: one token a frame, one layer an (iteration, block)."""
    config = model.config
    return CacheShape(
        layers=iterations * config.camera_blocks,
        heads=config.camera_heads,
        head_dim=config.token_dim // config.camera_heads,
        frame_tokens=1,
        special_tokens=1,
        dtype=model.camera_head.embed_pose.weight.dtype,
        device=model.device,
    )


def build_stores(
    model: GeometricContextTransformer, size: tuple[int, int], window: int, iterations: int, backend: Backend
) -> StreamStores:
    """Empty stores for a stream of (height, width) images."""
    shape = block_cache_shape(model, *size)
    builders = {"sdpa": SdpaStore}
    return StreamStores(
        blocks=builders[backend](shape, window), camera=AppendStore(camera_cache_shape(model, iterations))
    )
