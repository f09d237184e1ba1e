"""Steps as CUDA graphs, one a kind of batch: of a small network a GPU waits for launches, not for arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from training.clips import Clips
from training.forward import ClipPlan

Gradients = Callable[[Clips, ClipPlan, Tensor], dict[str, Tensor]]
"""Clips, their plan, the frames whose depth is supervised → named scalars; fills the gradients on its way."""
Update = Callable[[], dict[str, Tensor]]
"""Lets the gradients change the weights → named scalars; what it writes beside them exists before."""
WARM_UPS = 3
"""Launched passes before the captured one, in which libraries choose and allocate what they need."""


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, what it reads, what it writes, and what else must live as long as it does."""

    graph: torch.cuda.CUDAGraph
    clips: Clips
    depth_frames: Tensor
    found: dict[str, Tensor]
    kept: object


class CapturedSteps:
    """Gradients and update, replayed: a plan's first batch is captured, and its number of supervised frames is that of
    all its batches. What is returned is valid until the next call."""

    def __init__(
        self, gradients: Gradients, update: Update, constants: Callable[[int, int], object], device: torch.device
    ) -> None:
        """constants: what the network keeps of images of a height and width and reads beside weights."""
        self._gradients, self._update = gradients, update
        self._constants = constants
        # One stream and one pool for all: a matrix library takes a workspace for every stream, and of graphs that
        # are never replayed together the memory of one serves the next.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._pool = torch.cuda.graph_pool_handle()
        self._of_plan: dict[ClipPlan, _Captured] = {}

    def prepare(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor) -> _Captured:
        """Capture the plan unless it is; changes no weight."""
        if plan not in self._of_plan:
            self._of_plan[plan] = self._capture(clips, plan, depth_frames)
        return self._of_plan[plan]

    def __call__(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor) -> dict[str, Tensor]:
        captured = self.prepare(clips, plan, depth_frames)
        for field in fields(clips):
            getattr(captured.clips, field.name).copy_(getattr(clips, field.name))
        captured.depth_frames.copy_(depth_frames)
        captured.graph.replay()
        return captured.found

    def _capture(self, clips: Clips, plan: ClipPlan, depth_frames: Tensor) -> _Captured:
        clips = clips.each(torch.clone)
        depth_frames = depth_frames.clone()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                self._gradients(clips, plan, depth_frames)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            found = self._gradients(clips, plan, depth_frames) | self._update()
        # Without its history: a gradient's way back, kept, would tie the next capture to this thread's own stream.
        with torch.no_grad():
            constants = self._constants(*plan.size)
        return _Captured(graph, clips, depth_frames, found, (plan, constants))
