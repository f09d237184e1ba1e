"""Runs the dense part of a pass: launch by launch, or as one CUDA graph where the store's memory stays put.

A step of the full model is a few thousand small launches, which cost more time on the host than on the device. The
shapes of its dense part do not depend on the past, and a paged store keeps its table in fixed buffers, so one captured
pass serves until the store grows. The camera head, whose past is a prefix that grows by a token, stays outside.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch

from lingbot_eval.cache.protocol import CacheStore
from lingbot_eval.model.aggregator import PassInputs
from lingbot_eval.model.network import DenseOutput, GeometricContextTransformer
from lingbot_eval.model.rope import Rotation


class PassRunner:
    """Runs passes of one stream; captures the second of those that have the same key, and replays it from then on."""

    def __init__(self, model: GeometricContextTransformer) -> None:
        self._model = model
        self._seen: Hashable = None
        self._captured: CapturedPass | None = None

    def run(self, inputs: PassInputs, store: CacheStore) -> DenseOutput:
        """The dense part of a pass whose step ``store`` has begun."""
        key = (store.capture_key(), inputs.images.shape)
        if key[0] is None:
            return self._model.dense(inputs, store)
        if key != self._seen:
            # The first of its kind runs as it is, which also warms the kernels up for the capture.
            self._seen, self._captured = key, None
            return self._model.dense(inputs, store)
        if self._captured is None:
            self._captured = CapturedPass(self._model, inputs, store)
        return self._captured.replay(inputs)


class CapturedPass:
    """One pass as a CUDA graph, with inputs and outputs of its own."""

    def __init__(self, model: GeometricContextTransformer, inputs: PassInputs, store: CacheStore) -> None:
        images, special, cos, sin = (tensor.clone() for tensor in inputs.tensors())
        self._inputs = PassInputs(images, special, Rotation(cos, sin))
        self._graph = torch.cuda.CUDAGraph()
        # Frames are decoded in another thread meanwhile; only this one must keep to what can be captured.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = model.dense(self._inputs, store)

    def replay(self, inputs: PassInputs) -> DenseOutput:
        """The same pass over new inputs. The output is the caller's own: the next replay leaves it alone."""
        for mine, theirs in zip(self._inputs.tensors(), inputs.tensors(), strict=True):
            mine.copy_(theirs)
        self._graph.replay()
        out = self._output
        return DenseOutput(
            camera_tokens=out.camera_tokens.clone(),
            depth=out.depth.clone(),
            depth_confidence=out.depth_confidence.clone(),
            points=None if out.points is None else out.points.clone(),
            points_confidence=None if out.points_confidence is None else out.points_confidence.clone(),
        )
