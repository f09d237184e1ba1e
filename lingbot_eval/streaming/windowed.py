"""Windowed mode: one session a window, joined as they come; only an overlap is held back (model.md section 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lingbot_eval.errors import StreamError
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.geometry.poses import decode_rotation, quaternion_from_rotation
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.session import FrameOutput, StreamingSession
from lingbot_eval.streaming.settings import StreamSettings, WindowedSettings, overlap_frames, window_span
from lingbot_eval.types import FloatArray, FrameType

SMALLEST_SCALE, LARGEST_SCALE = 1e-3, 1e3


def join_to(previous: Sequence[FrameOutput], current: Sequence[FrameOutput]) -> Sim3:
    """What brings ``current`` into the first window's world, from the overlap's frames, joined and as they came.

    The pose at the latest frame kept in both gives rotation and place, the depths of all frames kept in both the
    scale. Where no frame is kept in both, the first one of the overlap gives all three.
    """
    both = [i for i, (p, c) in enumerate(zip(previous, current, strict=True)) if _kept(p) and _kept(c)]
    anchor = both[-1] if both else 0
    scale = _depth_scale([(previous[i].depth, current[i].depth) for i in (both or [0])])
    before, now = _pose(previous[anchor]), _pose(current[anchor])
    rotation = decode_rotation(before[3:7]) @ decode_rotation(now[3:7]).T
    return Sim3(scale, rotation, before[:3] - scale * rotation @ now[:3])


def apply_join(out: FrameOutput, join: Sim3) -> FrameOutput:
    """One output in the first window's world: unit quaternion with w ≥ 0; confidences and fields of view unchanged."""
    pose = _pose(out)
    rotation = join.rotation @ decode_rotation(pose[3:7])
    if np.isfinite(rotation).all():
        pose[3:7] = quaternion_from_rotation(rotation)
    pose[:3] = join.scale * join.rotation @ pose[:3] + join.translation
    points = out.points
    if points is not None:
        turn, shift = (torch.from_numpy(a).to(points) for a in (join.scale * join.rotation, join.translation))
        points = points @ turn.T + shift
    return replace(out, pose=torch.from_numpy(pose).to(out.pose), depth=out.depth * join.scale, points=points)


def _kept(out: FrameOutput) -> bool:
    return out.frame_type is not FrameType.UNKEPT


def _pose(out: FrameOutput) -> FloatArray:
    return out.pose.double().cpu().numpy()


def _depth_scale(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Lower median of previous / current depth over finite pixels whose current depth is not zero."""
    ratios = []
    for before, now in pairs:
        usable = torch.isfinite(before) & torch.isfinite(now) & (now.abs() > torch.finfo(torch.float32).eps)
        ratios.append(before[usable] / now[usable])
    ratio = torch.cat(ratios)
    if not len(ratio):
        return 1.0
    return min(max(float(ratio.median()), SMALLEST_SCALE), LARGEST_SCALE)


class WindowedSession:
    """A stream cut into windows of fresh caches; same calls as `StreamingSession`.

    A window that is full stays open until the next frame comes, so that the last window is the one that reaches the
    end. Then the frames of the overlap go through the next window again, and its similarity is taken from them.
    """

    def __init__(
        self, settings: StreamSettings, open_session: Callable[[int], StreamingSession], frames: int | None = None
    ) -> None:
        """``open_session`` makes the session of the window that starts at a frame; ``frames`` is the stream's length
        where it is known."""
        self._settings = settings
        self._windowed = settings.windowed or WindowedSettings()
        self._open_session = open_session
        self._frames = frames
        self._session = open_session(0)
        self.interval = self._session.interval
        self._span = window_span(settings, self.interval)
        overlap = overlap_frames(settings, self.interval)
        self._overlap = overlap if frames is None else min(overlap, max(1, frames - 1))
        self._images: deque[Tensor] = deque(maxlen=self._overlap)
        self._start = 0
        self._taken = 0
        # Joined outputs of the open window that the next one may repeat.
        self._held: list[FrameOutput] = []
        # Of the window before: what the open one repeats; and the open one's outputs until the similarity is known.
        self._before: list[FrameOutput] = []
        self._unjoined: list[FrameOutput] = []
        self._finished = False
        self.joins: list[Sim3] = [Sim3.identity()]
        self.bfloat16_from: int | None = None

    @property
    def windows(self) -> int:
        """Windows opened so far."""
        return len(self.joins) if not self._before else len(self.joins) + 1

    @property
    def kept_frames(self) -> int:
        """Frames in the open window's cache."""
        return self._session.kept_frames

    def used_bytes(self) -> dict[str, int]:
        """Cache bytes in view of the open window, by kind."""
        return self._session.used_bytes()

    def allocated_bytes(self) -> int:
        """Cache bytes that the open window holds."""
        return self._session.allocated_bytes()

    @torch.inference_mode()
    def step(self, image: Tensor) -> tuple[FrameOutput, ...]:
        """Take the next frame; returns joined outputs that no later window will repeat."""
        if self._finished:
            raise StreamError("the stream is finished; open a new session for more frames")
        # Before a window closes: an image that is refused leaves the stream as it is.
        self._session.check(image)
        ready = self._next_window() if self._full() else []
        ready += self._feed(image)
        self._images.append(image)
        return tuple(ready)

    @torch.inference_mode()
    def finish(self) -> tuple[FrameOutput, ...]:
        """End the stream: the outputs still held back."""
        self._finished = True
        ready = self._place(list(self._session.finish()))
        ready, self._held = ready + self._held, []
        return tuple(ready)

    def settle(self) -> bool:
        """False: every pass is checked at once."""
        return False

    def _full(self) -> bool:
        if self._settings.flow:
            return self._session.kept_frames >= self._windowed.size
        return self._taken >= self._span

    def _next_window(self) -> list[FrameOutput]:
        """Close the open window and run the overlap through a new one."""
        end = self._start + self._taken
        earliest = self._start + (self._settings.scale_frames if self._settings.flow else 1)
        start = max(end - self._overlap, earliest)
        repeated = end - start
        ready = self._held[: len(self._held) - repeated]
        self._before = self._held[len(self._held) - repeated :]
        self._held = []
        images = list(self._images)[len(self._images) - repeated :]
        # The old caches go before the new window makes its own.
        del self._session
        self._session = self._open_session(start)
        self._start, self._taken = start, 0
        for image in images:
            ready += self._feed(image)
        return ready

    def _feed(self, image: Tensor) -> list[FrameOutput]:
        self._taken += 1
        outputs = self._session.step(image)
        if self._session.bfloat16_from is not None:
            self.bfloat16_from = self._start + self._session.bfloat16_from
        return self._place(list(outputs))

    def _place(self, outputs: list[FrameOutput]) -> list[FrameOutput]:
        """Bring outputs of the open window into the first one's world and release what will not be repeated."""
        outputs = [replace(out, index=self._start + out.index) for out in outputs]
        if self._before:
            self._unjoined += outputs
            if len(self._unjoined) < len(self._before):
                return []
            self.joins.append(join_to(self._before, self._unjoined[: len(self._before)]))
            outputs, self._unjoined, self._before = self._unjoined, [], []
        self._held += [self._joined(out) for out in outputs]
        # A flow window may end at any frame; at a fixed interval only its last frames can be repeated.
        keep = self._overlap
        if not self._settings.flow:
            keep = max(0, self._overlap - (self._span - self._held_until()))
        release = max(0, len(self._held) - keep)
        ready, self._held = self._held[:release], self._held[release:]
        return ready

    def _held_until(self) -> int:
        """Frames of the open window that have an output, joined."""
        return self._held[-1].index - self._start + 1 if self._held else 0

    def _joined(self, out: FrameOutput) -> FrameOutput:
        if len(self.joins) == 1 and self._single():
            return out
        return apply_join(out, self.joins[-1])

    def _single(self) -> bool:
        """Whether it is certain that this stream has one window alone, which is returned as it is."""
        if self._frames is None:
            return False
        return self._frames <= (self._windowed.size if self._settings.flow else self._span)


Session = StreamingSession | WindowedSession
"""One stream: frames in, outputs as soon as they are known."""


def open_session(
    model: GeometricContextTransformer,
    settings: StreamSettings,
    *,
    frames: int | None,
    camera_iterations: int,
    checks_late: bool = False,
) -> Session:
    """A stream of ``frames`` images (None where the length is not known), whole or in windows.

    checks_late: see `StreamingSession`; windows, which read what they join, check at once.

    Raises ConfigError for interval ``auto`` without a length.
    """

    def whole(first_frame: int = 0, *, checks_late: bool = False) -> StreamingSession:
        return StreamingSession(
            model,
            settings,
            frames=frames,
            camera_iterations=camera_iterations,
            checks_late=checks_late,
            first_frame=first_frame,
        )

    return WindowedSession(settings, whole, frames) if settings.windowed else whole(checks_late=checks_late)
