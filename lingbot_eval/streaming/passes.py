"""Runs one pass: launch by launch, or as one CUDA graph where the stores' memory stays put.

A step of the full model is more than a thousand small launches, which cost more time on the host than on the device.
Its shapes do not depend on the past, and the stores keep what changes (places, ranges, tables) in fixed buffers, so one
captured pass serves every frame until a store grows.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from lingbot_eval.model.aggregator import PassInputs
from lingbot_eval.model.blocks import Rotation
from lingbot_eval.model.network import DenseOutput, GeometricContextTransformer, camera_tokens
from lingbot_eval.streaming.stores import StreamStores


@dataclass(frozen=True)
class PassOutput:
    """One pass of S frames: (S, 9) pose encodings and the dense maps, on the device.

    in_range: see `GeometricContextTransformer.in_range`; to be read before the next pass.
    """

    poses: Tensor
    dense: DenseOutput
    in_range: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """What is said of the frames, in one order."""
        dense = self.dense
        found = self.poses, dense.depth, dense.depth_confidence, dense.points, dense.points_confidence
        return [tensor for tensor in found if tensor is not None]


class PassRunner:
    """Runs passes of one stream; captures the second of those that have the same shape, and replays it from then on."""

    def __init__(self, model: GeometricContextTransformer, camera_iterations: int) -> None:
        self._model = model
        self._iterations = camera_iterations
        self._warm: set[torch.Size] = set()
        self._key: Hashable = None
        self._captured: CapturedPass | None = None

    def run(self, inputs: PassInputs, stores: StreamStores) -> PassOutput:
        """A pass whose step ``stores`` have begun."""
        # Float32 means float32, not torch's default on a GPU, TF32; the dense heads say themselves what they may use.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._run(inputs, stores)

    def _run(self, inputs: PassInputs, stores: StreamStores) -> PassOutput:
        state = stores.capture_key()
        if state is None:
            return launch(self._model, inputs, stores, self._iterations)
        shape = inputs.images.shape
        if shape not in self._warm:
            # The first of its kind runs as it is, which also compiles and plans what a capture must find ready.
            self._warm.add(shape)
            return launch(self._model, inputs, stores, self._iterations)
        if self._captured is None or self._key != (state, shape):
            self._captured = None  # its memory goes before the next one takes as much
            self._captured = CapturedPass(self._model, inputs, stores, self._iterations)
            self._key = (state, shape)
        return self._captured.replay(inputs)


def launch(model: GeometricContextTransformer, inputs: PassInputs, stores: StreamStores, iterations: int) -> PassOutput:
    """The pass, operation by operation."""
    height, width = inputs.images.shape[-2:]
    tokens = model.trunk(inputs, stores.blocks)
    dense = model.maps(tokens, height, width)
    poses = model.poses(camera_tokens(tokens), stores.camera, iterations)[-1]
    return PassOutput(poses, dense, model.in_range(tokens))


class CapturedPass:
    """One pass as a CUDA graph, with inputs and outputs of its own. The model's device must be the current one."""

    def __init__(
        self, model: GeometricContextTransformer, inputs: PassInputs, stores: StreamStores, iterations: int
    ) -> None:
        images, special, cos, sin = (tensor.clone() for tensor in inputs.tensors())
        self._inputs = PassInputs(images, special, Rotation(cos, sin, inputs.rotation.interleaved))
        self._graph = torch.cuda.CUDAGraph()
        capture, beside = _streams(images.device)
        height, width = images.shape[-2:]
        # Frames are decoded in another thread meanwhile; only this one must keep to what can be captured.
        with torch.cuda.graph(self._graph, stream=capture, capture_error_mode="thread_local"):
            tokens = model.trunk(self._inputs, stores.blocks)
            # The camera head reads gigabytes of weights for one token, the dense heads multiply: side by side.
            beside.wait_stream(capture)
            with torch.cuda.stream(beside):
                poses = model.poses(camera_tokens(tokens), stores.camera, iterations)[-1]
            dense = model.maps(tokens, height, width)
            capture.wait_stream(beside)
            self._output = PassOutput(poses, dense, model.in_range(tokens))
        # A graph keeps nothing alive that it reads, and the model forgets these when it meets another image size.
        self._constants = model.constants(height, width)

    def replay(self, inputs: PassInputs) -> PassOutput:
        """The same pass over new inputs. The output is the caller's own: the next replay leaves it alone."""
        for mine, theirs in zip(self._inputs.tensors(), inputs.tensors(), strict=True):
            mine.copy_(theirs)
        self._graph.replay()
        dense = self._output.dense
        return PassOutput(
            self._output.poses.clone(),
            DenseOutput(
                depth=dense.depth.clone(),
                depth_confidence=dense.depth_confidence.clone(),
                points=None if dense.points is None else dense.points.clone(),
                points_confidence=None if dense.points_confidence is None else dense.points_confidence.clone(),
            ),
            self._output.in_range,
        )


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """To capture on, and beside it: two of a device for the whole process. What runs beside goes first.

    The camera head is hundreds of small launches, each of which would wait for one of the dense head's large ones to
    leave: measured on an H100, sdpa, variants in turn: 40.84 ms a step instead of 41.16.

    The matrix library keeps a workspace of tens of megabytes for every stream it met, and torch's own stream for
    captures is one of a process, on whichever device captured first.
    """
    capture = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return capture, torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
