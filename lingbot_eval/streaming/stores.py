"""Builds the stores of a stream for a backend."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch

from lingbot_eval.model.config import HEAD_DIM, PATCH_SIZE, SPECIAL_TOKENS, ModelConfig
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.cache import CacheShape, CacheStore
from lingbot_eval.streaming.contiguous import (
    AppendStore,
    ContiguousStore,
    attends_by_products,
    sdpa_attention,
    triton_attention,
    triton_why_not,
)
from lingbot_eval.streaming.paged import FlashInferExecutor, PagedStore, TorchExecutor, kernel_of
from lingbot_eval.streaming.policy import Step
from lingbot_eval.streaming.settings import Backend, StreamSettings


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

    def capture_key(self) -> Hashable | None:
        """What a captured pass depends on in both; None where one of them cannot be captured."""
        keys = self.blocks.capture_key(), self.camera.capture_key()
        return None if None in keys else keys

    def used_bytes(self) -> dict[str, int]:
        """Bytes in view by kind: anchor, window, memory, camera_head."""
        return {**self.blocks.used_bytes(), **self.camera.used_bytes()}

    def allocated_bytes(self) -> int:
        """Bytes that both hold on the device, headroom included."""
        return self.blocks.allocated_bytes() + self.camera.allocated_bytes()


def block_cache_shape(
    config: ModelConfig,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    cache_precision: int | None = None,
) -> CacheShape:
    """Shape of the global blocks' store for images of (height, width)."""
    return CacheShape(
        layers=config.groups,
        heads=config.heads,
        head_dim=HEAD_DIM,
        frame_tokens=SPECIAL_TOKENS + (size[0] // PATCH_SIZE) * (size[1] // PATCH_SIZE),
        special_tokens=SPECIAL_TOKENS,
        dtype=dtype,
        device=device,
        quantized=cache_precision is not None,
    )


def camera_cache_shape(config: ModelConfig, iterations: int, device: torch.device) -> CacheShape:
    """Shape of the camera head's store: one token a frame, one layer an (iteration, block), float32 as the head."""
    return CacheShape(
        layers=iterations * config.camera_blocks,
        heads=config.camera_heads,
        head_dim=config.token_dim // config.camera_heads,
        frame_tokens=1,
        special_tokens=1,
        dtype=torch.float32,
        device=device,
    )


def build_stores(
    model: GeometricContextTransformer, size: tuple[int, int], settings: StreamSettings, iterations: int
) -> StreamStores:
    """Empty stores for a stream of (height, width) images."""
    shape = block_cache_shape(model.config, size, model.trunk_dtype, model.device, settings.cache_precision)
    window = settings.window or model.config.window
    return StreamStores(
        blocks=_block_store(shape, window, resolve_backend(settings.backend, shape.dtype, shape.device)),
        camera=AppendStore(camera_cache_shape(model.config, iterations, model.device)),
    )


def resolve_backend(backend: Backend, dtype: torch.dtype, device: torch.device) -> Backend:
    """What ``auto`` stands for on this device; other names are what they are.

    ``auto`` is the Triton kernel on a GPU where it can be had, torch's SDPA elsewhere. Measured on an H100, one layer
    of the full model at a full window (1,005 queries, 72,360 keys, bfloat16): Triton 0.73 ms, fa3 1.01, flash 1.29.
    """
    if backend == "auto":
        return "sdpa" if triton_why_not(dtype, device) else "triton"
    return backend


def attention_name(backend: Backend, dtype: torch.dtype, device: torch.device) -> str:
    """Whose arithmetic the attention of a resolved backend is: its own name, ``torch`` or ``products`` of ``sdpa``,
    ``flashinfer-fa2`` or ``flashinfer-fa3`` of ``flashinfer``."""
    if backend == "flashinfer":
        return f"flashinfer-{kernel_of(device)}"
    if backend != "sdpa":
        return backend
    return "products" if attends_by_products(dtype, device) else "torch"


def _block_store(shape: CacheShape, window: int, backend: Backend) -> CacheStore:
    if backend == "sdpa":
        return ContiguousStore(shape, window, sdpa_attention(shape.dtype, shape.device))
    if backend == "triton":
        return ContiguousStore(shape, window, triton_attention(shape.dtype, shape.device))
    if backend == "paged":
        return PagedStore(shape, window, TorchExecutor(shape))
    return PagedStore(shape, window, FlashInferExecutor(shape))
