"""The only streaming loop of the project: ``session.step(image)`` for every frame, ``session.finish()`` at the end.

Evaluation, benchmarks, verification and demos all call this; windowed mode runs one session a window. Source:
model.md section 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lingbot_eval.errors import StreamError
from lingbot_eval.geometry.poses import decode_camera_to_world, decode_intrinsics
from lingbot_eval.machine.gpu import on_device
from lingbot_eval.model.aggregator import PassInputs
from lingbot_eval.model.config import PATCH_SIZE
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.passes import PassOutput, PassRunner
from lingbot_eval.streaming.policy import CachePolicy, Step, is_keyframe
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings, stream_interval
from lingbot_eval.streaming.stores import StreamStores, build_stores
from lingbot_eval.types import FloatArray, FrameType


@dataclass(frozen=True)
class FrameOutput:
    """What the stream says of one frame, on the model's device, float32.

    index: position in the stream. pose: (9,) camera-to-world encoding [t, quaternion scalar last, fov_y, fov_x].
    depth, depth_confidence: (H, W). points: (H, W, 3) and points_confidence (H, W), None without a point head.
    flow_pixels: displacement that a flow keyframe was judged by, None where nothing was judged.
    """

    index: int
    frame_type: FrameType
    pose: Tensor
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor | None = None
    points_confidence: Tensor | None = None
    flow_pixels: float | None = None


class StreamingSession:
    """One stream through the model. Images of one size go in, outputs come out as soon as they are known.

    The scale phase holds back its first frames until all of them are there; after it every step returns its frame.

    Whether a pass stayed in float16's range is known when the device is done with it. A session that checks late does
    not wait for that before ``step`` returns, but before the next one begins: its outputs are to be read after
    ``settle``.
    """

    def __init__(
        self,
        model: GeometricContextTransformer,
        settings: StreamSettings,
        *,
        frames: int | None = None,
        camera_iterations: int = 4,
        checks_late: bool = False,
        first_frame: int = 0,
    ) -> None:
        """``frames``: length of the stream, needed for the ``auto`` interval alone. Raises ConfigError without it.

        ``first_frame``: what messages count from, of a window its first frame's place in the stream.
        """
        self._model = model
        self._settings = settings
        self._iterations = camera_iterations
        self._first_frame = first_frame
        self.interval = stream_interval(settings, frames)
        self._policy = CachePolicy(settings.window or model.config.window)
        self._passes = PassRunner(model, camera_iterations)
        self._stores: StreamStores | None = None
        self._size: tuple[int, int] | None = None
        self._waiting: list[Tensor] = []
        self._last_kept: tuple[int, Viewpoint] | None = None
        self._finished = False
        # Flow keyframes read the outputs at once.
        self._checks_late = checks_late and not settings.flow
        self._unchecked: tuple[int, PassInputs, PassOutput] | None = None
        # The frame from which on the stream is computed in bfloat16, having left float16's range.
        self.bfloat16_from: int | None = None

    @torch.inference_mode()
    def step(self, image: Tensor) -> tuple[FrameOutput, ...]:
        """Take the next frame, (3, H, W) RGB in [0, 1]; returns the outputs that are ready, in order.

        Raises StreamError for a size that cannot be used or that differs from the stream's, after ``finish``, and where
        a value leaves float16's range, unless the model may leave it, too.
        """
        if self._finished:
            raise StreamError("the stream is finished; open a new session for more frames")
        self.settle()
        self.check(image)
        image = image.to(self._model.device, torch.float32)
        if self._policy.frames:
            return self._run(image[None], self._next_step())
        self._waiting.append(image)
        return self._enter_scale() if len(self._waiting) == self._settings.scale_frames else ()

    def check(self, image: Tensor) -> None:
        """Raise StreamError for an image that cannot come next; the first one decides the size."""
        frame = self._first_frame + self._policy.frames + len(self._waiting)
        if image.ndim != 3 or image.shape[0] != 3:
            raise StreamError(f"frame {frame}: expected an image (3, H, W), found {tuple(image.shape)}")
        height, width = image.shape[1:]
        if height % PATCH_SIZE or width % PATCH_SIZE or not height or not width:
            nearest = tuple(max(1, round(side / PATCH_SIZE)) * PATCH_SIZE for side in (width, height))
            raise StreamError(
                f"frame {frame}: sides must be multiples of {PATCH_SIZE}, found {width}×{height}; "
                f"nearest is {nearest[0]}×{nearest[1]}"
            )
        if self._size is not None and (height, width) != self._size:
            raise StreamError(
                f"frame {frame}: the stream is {self._size[1]}×{self._size[0]}, found {width}×{height}; "
                "resize all frames alike or open a new session"
            )
        self._size = (height, width)

    @torch.inference_mode()
    def finish(self) -> tuple[FrameOutput, ...]:
        """End the stream: the outputs still held back (a stream shorter than its scale phase)."""
        self.settle()
        self._finished = True
        return self._enter_scale() if self._waiting else ()

    @torch.inference_mode()
    def settle(self) -> bool:
        """Wait until it is known that the last pass stayed in float16's range; nothing is to be waited for in others.

        Returns:
            Whether its outputs were computed again, in bfloat16 and in place.

        Raises:
            StreamError: it did not, and the model may not leave float16.
        """
        unchecked, self._unchecked = self._unchecked, None
        if unchecked is None:
            return False
        frame, inputs, out = unchecked
        if out.in_range:
            return False
        with on_device(self._model.device):
            stores = self._stores_of_stream()
            self._leave_float16(frame, stores)
            again = self._passes.run(inputs, stores)
            for mine, theirs in zip(out.tensors(), again.tensors(), strict=True):
                mine.copy_(theirs)
        return True

    def state(self) -> dict[str, Any]:
        """All that later frames rest on, between two steps after the scale phase: plain values and the caches' tensors.

        The tensors are the session's own: the next step changes them.
        """
        stores = self._stores_of_stream()
        last = self._last_kept
        return {
            "size": self._size,
            "policy": self._policy.state(),
            "blocks": stores.blocks.state(),
            "camera": stores.camera.state(),
            "last_kept": None
            if last is None
            else [last[0], last[1].camera_to_world.tolist(), last[1].intrinsics.tolist()],
            "bfloat16_from": self.bfloat16_from,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on, before the first step, from where another session of the same model and settings was."""
        self.bfloat16_from = state["bfloat16_from"]
        if self.bfloat16_from is not None:
            self._model.set_trunk_dtype(torch.bfloat16)
        self._size = (state["size"][0], state["size"][1])
        self._policy.restore(state["policy"])
        stores = self._open_stores(self._size)
        stores.blocks.restore(state["blocks"])
        stores.camera.restore(state["camera"])
        if state["last_kept"] is not None:
            index, *viewed = state["last_kept"]
            self._last_kept = (index, Viewpoint(*(np.array(each, np.float64) for each in viewed)))

    def used_bytes(self) -> dict[str, int]:
        """Cache bytes in view by kind: anchor, window, memory, camera_head."""
        return self._stores.used_bytes() if self._stores else {}

    def allocated_bytes(self) -> int:
        """Cache bytes held on the device, headroom included."""
        return self._stores.allocated_bytes() if self._stores else 0

    @property
    def kept_frames(self) -> int:
        """Frames in the cache: the keyframe clock."""
        return self._policy.kept

    def _enter_scale(self) -> tuple[FrameOutput, ...]:
        images = torch.stack(self._waiting)
        self._waiting.clear()
        return self._run(images, self._policy.enter_scale(len(images)))

    def _next_step(self) -> Step:
        # With flow keyframes every frame passes by first: its own prediction decides whether it is kept.
        if not self._settings.flow and is_keyframe(self._policy.frames, self._settings.scale_frames, self.interval):
            return self._policy.keep()
        return self._policy.pass_by()

    def _run(self, images: Tensor, step: Step) -> tuple[FrameOutput, ...]:
        with on_device(self._model.device):
            outputs = self._pass(images, step)
            return self._judge(outputs, self._settings.flow) if self._settings.flow else outputs

    def _pass(self, images: Tensor, step: Step) -> tuple[FrameOutput, ...]:
        stores = self._open_stores((images.shape[-2], images.shape[-1]))
        self._follow_precision(step.frame, stores)
        stores.begin(step)
        inputs = self._model.aggregator.place(images, step.clock)
        out = self._passes.run(inputs, stores)
        if out.in_range is not None:
            self._unchecked = step.frame, inputs, out
        if not self._checks_late:
            self.settle()
        dense = out.dense
        return tuple(
            FrameOutput(
                index=step.frame + i,
                frame_type=step.frame_type,
                pose=out.poses[i],
                depth=dense.depth[i],
                depth_confidence=dense.depth_confidence[i],
                points=None if dense.points is None else dense.points[i],
                points_confidence=None if dense.points_confidence is None else dense.points_confidence[i],
            )
            for i in range(step.count)
        )

    def _leave_float16(self, frame: int, stores: StreamStores) -> None:
        """Go on in bfloat16: the pass is computed again and writes to the same places."""
        if not self._model.leaves_float16:
            raise StreamError(
                f"frame {self._first_frame + frame}: a value left the range of float16 (65,504); set precision to "
                "bfloat16, or to auto, with which the stream goes on in bfloat16"
            )
        self._model.set_trunk_dtype(torch.bfloat16)
        self._follow_precision(frame, stores)

    def _follow_precision(self, frame: int, stores: StreamStores) -> None:
        """Where this stream, or another one of the model's, has left float16, its keys and values follow."""
        if stores.blocks.dtype is not self._model.trunk_dtype:
            self.bfloat16_from = frame
            stores.blocks.cast(self._model.trunk_dtype)
            self._passes = PassRunner(self._model, self._iterations)

    def _judge(self, outputs: tuple[FrameOutput, ...], flow: FlowSettings) -> tuple[FrameOutput, ...]:
        """Keep the frame that passed by if it moved enough since the last kept one, at first the last scale frame."""
        out = outputs[-1]
        here = viewpoint(out.pose, *out.depth.shape)
        if self._last_kept is None:
            self._last_kept = (out.index, here)
            return outputs
        index, there = self._last_kept
        moved = mean_displacement(out.depth, here, there)
        first_step = self._policy.kept == self._settings.scale_frames
        if first_step or moved > flow.threshold or out.index - index >= flow.max_gap:
            self._stores_of_stream().keep_last(self._policy.keep_last())
            self._last_kept = (out.index, here)
            out = replace(out, frame_type=FrameType.KEPT)
        return (replace(out, flow_pixels=moved),)

    def _stores_of_stream(self) -> StreamStores:
        if self._stores is None:
            raise StreamError("no frame has entered yet")
        return self._stores

    def _open_stores(self, size: tuple[int, int]) -> StreamStores:
        if self._stores is None:
            self._stores = build_stores(self._model, size, self._settings, self._iterations)
        return self._stores


STRIDE, NEAREST = 8, 1e-6
"""Pixels between those of which flow keyframes ask how far they moved, and the least depth of a point."""


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """The camera of one frame: (4, 4) camera-to-world in the model's scale, (3, 3) intrinsics in pixels."""

    camera_to_world: FloatArray
    intrinsics: FloatArray


def viewpoint(pose: Tensor, height: int, width: int) -> Viewpoint:
    """The camera of a (9,) pose encoding of an H×W image."""
    encoding = pose.double().cpu().numpy()
    return Viewpoint(decode_camera_to_world(encoding), decode_intrinsics(encoding, height, width))


def mean_displacement(depth: Tensor, here: Viewpoint, there: Viewpoint) -> float:
    """Mean Euclidean displacement in pixels of every 8th pixel of (H, W) ``depth`` seen from ``there``.

    Over points with depth > 1e-6 in both cameras; 0 when there is none.
    """
    z = depth[::STRIDE, ::STRIDE].double().cpu().numpy()
    v, u = np.mgrid[0 : depth.shape[0] : STRIDE, 0 : depth.shape[1] : STRIDE].astype(np.float64)
    # A collapsed field of view (infinite focal length) gives NaN here, which keeps nothing: the gap rule decides.
    with np.errstate(invalid="ignore", over="ignore"):
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(here.intrinsics).T
        points = rays * z[..., None]
        world = points @ here.camera_to_world[:3, :3].T + here.camera_to_world[:3, 3]
        seen = (world - there.camera_to_world[:3, 3]) @ there.camera_to_world[:3, :3]
        pixels = seen @ there.intrinsics.T
        projected = pixels[..., :2] / np.maximum(pixels[..., 2:], NEAREST)
        distance = np.hypot(projected[..., 0] - u, projected[..., 1] - v)
    valid = (z > NEAREST) & (seen[..., 2] > NEAREST)
    return float(distance[valid].mean()) if valid.any() else 0.0
