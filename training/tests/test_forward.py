"""The batch forward of training is streaming: one masked pass gives what a session gives frame by frame."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import StreamSettings
from tests.streaming.networks import tiny_network
from training.forward import HIDDEN, SPECIALS, WHOLE, ClipCache, ClipPlan, StreamShape, run_clips, visibility

SHAPES = st.builds(
    StreamShape,
    frames=st.integers(1, 14),
    scale_frames=st.integers(1, 4),
    window=st.integers(1, 5),
    interval=st.integers(1, 4),
)


@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_the_batch_forward_is_streaming(shape: StreamShape, seed: int) -> None:
    model = tiny_network()
    images = torch.rand(2, shape.frames, 3, 28, 42, generator=torch.Generator().manual_seed(seed))
    plan = ClipPlan(shape, (28, 42), images)
    with torch.no_grad():
        out = run_clips(model, images, plan, 3, torch.arange(2 * shape.frames))
    options = StreamSettings(
        scale_frames=shape.scale_frames, window=shape.window, keyframe_interval=shape.interval, backend="sdpa"
    )
    for clip in range(2):
        session = StreamingSession(model, options, camera_iterations=3)
        streamed = [frame for image in images[clip] for frame in session.step(image)]
        streamed += session.finish()
        poses = torch.stack([frame.pose for frame in streamed])
        torch.testing.assert_close(out.poses[-1][clip], poses, rtol=1e-4, atol=1e-4)
        depth = torch.stack([frame.depth for frame in streamed])
        batch = torch.unflatten(out.log_depth.exp(), 0, (2, shape.frames))
        torch.testing.assert_close(batch[clip], depth, rtol=1e-4, atol=1e-4)


@given(shape=SHAPES)
def test_no_frame_sees_the_future_or_what_was_not_kept(shape: StreamShape) -> None:
    seen = visibility(shape)
    for frame in range(shape.frames):
        in_scale = frame < shape.scale_frames
        for other in range(shape.frames):
            later = other > frame and not (in_scale and other < shape.scale_frames)
            gone = not seen.kept[other] and other != frame
            assert (seen.seen[frame, other] == HIDDEN) == (later or gone)


def test_anchor_window_and_memory_of_one_frame() -> None:
    row = visibility(StreamShape(frames=10, scale_frames=2, window=3, interval=1)).seen[9]
    assert row.tolist() == [WHOLE, WHOLE, *[SPECIALS] * 5, WHOLE, WHOLE, WHOLE]


@given(shape=SHAPES, chunk=st.integers(1, 6))
@settings(deadline=None)
def test_chunks_change_nothing(shape: StreamShape, chunk: int) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(2 * shape.frames * 9, 1, 64, generator=generator, dtype=torch.float64) for _ in range(3)]
    seen = visibility(shape)
    whole = ClipCache(seen, 9, shape.frames, parts[0]).attend(0, *parts)
    cut = ClipCache(seen, 9, chunk, parts[0]).attend(0, *parts)
    np.testing.assert_allclose(cut.numpy(), whole.numpy(), atol=1e-12)
