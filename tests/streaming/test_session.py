"""The streaming session: equal to the dense masked oracle, flat in memory, and clear about what it cannot take."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.errors import ConfigError, StreamError
from lingbot_eval.model.network import DenseOutput, camera_tokens
from lingbot_eval.streaming.policy import CachePolicy, is_keyframe
from lingbot_eval.streaming.session import FrameOutput, StreamingSession
from lingbot_eval.streaming.settings import Backend, StreamSettings, resolve_interval
from lingbot_eval.types import FrameType
from tests.streaming.dense import DenseMaskedStore
from tests.streaming.networks import tiny_network

HEIGHT, WIDTH = 28, 42
TOKENS = 6 + 2 * 3


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(count))


def stream(settings: StreamSettings, frames: torch.Tensor) -> tuple[list[FrameOutput], StreamingSession]:
    session = StreamingSession(tiny_network(), settings, frames=len(frames))
    outputs = [out for image in frames for out in session.step(image)]
    return outputs + list(session.finish()), session


@torch.inference_mode()
def dense_stream(settings: StreamSettings, frames: torch.Tensor) -> list[tuple[torch.Tensor, DenseOutput]]:
    """The same stream, written out over the oracle: the same policy object decides, a mask does the rest."""
    model, policy = tiny_network(), CachePolicy(settings.window or 0)
    blocks = DenseMaskedStore(model.config.groups, TOKENS, 6)
    camera = DenseMaskedStore(4 * model.config.camera_blocks, 1, 1)
    interval = resolve_interval(settings.keyframe_interval, len(frames))
    scale = min(settings.scale_frames, len(frames))
    outputs = []
    frame = 0
    while frame < len(frames):
        if frame == 0:
            step = policy.enter_scale(scale)
        elif is_keyframe(frame, settings.scale_frames, interval):
            step = policy.keep()
        else:
            step = policy.pass_by()
        blocks.begin(step)
        camera.begin(step)
        tokens = model.trunk(model.aggregator.place(frames[frame : frame + step.count], step.clock), blocks)
        poses = model.poses(camera_tokens(tokens), camera, 4)[-1]
        outputs.append((poses, model.maps(tokens, HEIGHT, WIDTH)))
        frame += step.count
    return outputs


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 14), st.sampled_from(["sdpa", "paged"]))
def test_streaming_equals_the_dense_masked_oracle(
    scale: int, window: int, interval: int, count: int, backend: Backend
) -> None:
    settings_ = StreamSettings(scale_frames=scale, window=window, keyframe_interval=interval, backend=backend)
    found, _ = stream(settings_, images(count))
    wanted = dense_stream(settings_, images(count))
    for name, expected in (
        ("pose", torch.cat([pose for pose, _ in wanted])),
        ("depth", torch.cat([out.depth for _, out in wanted])),
        ("depth_confidence", torch.cat([out.depth_confidence for _, out in wanted])),
    ):
        torch.testing.assert_close(torch.stack([getattr(out, name) for out in found]), expected, rtol=1e-4, atol=1e-5)


def test_a_long_past_changes_the_answer() -> None:
    """The oracle test would pass on a model that ignores its cache; this one would not."""
    frames = images(12)
    whole, _ = stream(StreamSettings(scale_frames=2, window=3, keyframe_interval=1), frames)
    short, _ = stream(StreamSettings(scale_frames=2, window=1, keyframe_interval=1), frames)
    other = frames.clone()
    other[2] = 1 - other[2]  # long out of the window at the end: only its special tokens are left
    changed, _ = stream(StreamSettings(scale_frames=2, window=3, keyframe_interval=1), other)
    assert not torch.allclose(whole[-1].pose, short[-1].pose, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(whole[-1].pose, changed[-1].pose, rtol=1e-6, atol=1e-7)


def test_outputs_leave_as_soon_as_they_are_known() -> None:
    session = StreamingSession(tiny_network(), StreamSettings(scale_frames=3, keyframe_interval=2))
    assert (session.used_bytes(), session.allocated_bytes(), session.kept_frames) == ({}, 0, 0)
    leaving = [[out.index for out in session.step(image)] for image in images(6)]
    assert leaving == [[], [], [0, 1, 2], [3], [4], [5]]
    assert session.finish() == ()
    with pytest.raises(StreamError, match="finished"):
        session.step(images(1)[0])


def test_frame_types_follow_the_interval() -> None:
    outputs, session = stream(StreamSettings(scale_frames=2, keyframe_interval=3), images(9))
    scale, kept, unkept = FrameType.SCALE, FrameType.KEPT, FrameType.UNKEPT
    assert [o.frame_type for o in outputs] == [scale, scale, kept, unkept, unkept, kept, unkept, unkept, kept]
    assert session.kept_frames == 5


def test_a_stream_shorter_than_its_scale_phase() -> None:
    outputs, session = stream(StreamSettings(scale_frames=8), images(3))
    assert [out.index for out in outputs] == [0, 1, 2]
    assert session.kept_frames == 3
    assert session.finish() == ()


def test_cache_bytes_follow_the_formula() -> None:
    _, session = stream(StreamSettings(scale_frames=2, window=3, keyframe_interval=1), images(20))
    config = tiny_network().config
    token = 2 * config.groups * config.embed_dim * 4
    camera = 2 * 4 * config.camera_blocks * config.token_dim * 4
    assert session.used_bytes() == {
        "anchor": 2 * TOKENS * token,
        "window": 3 * TOKENS * token,
        "memory": 15 * 6 * token,
        "camera_head": 20 * camera,
    }
    assert session.allocated_bytes() >= sum(session.used_bytes().values())


@pytest.mark.parametrize(("frames", "interval"), [(1, 1), (320, 1), (321, 2), (640, 2), (641, 3), (10_000, 32)])
def test_auto_interval(frames: int, interval: int) -> None:
    assert resolve_interval("auto", frames) == interval
    assert resolve_interval(7, frames) == 7


def test_auto_needs_a_length() -> None:
    with pytest.raises(ConfigError, match="needs the number of frames"):
        resolve_interval("auto", None)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 30, 42), r"frame 0: sides must be multiples of 14, found 42×30; nearest is 42×28"),
        (torch.zeros(3, 6, 42), "found 42×6; nearest is 42×14"),
        (torch.zeros(3, 28, 0), "found 0×28; nearest is 14×28"),
        (torch.zeros(1, 28, 42), r"expected an image \(3, H, W\), found \(1, 28, 42\)"),
        (torch.zeros(28, 42), r"expected an image"),
    ],
)
def test_unusable_images(image: torch.Tensor, message: str) -> None:
    session = StreamingSession(tiny_network(), StreamSettings(keyframe_interval=1))
    with pytest.raises(StreamError, match=message):
        session.step(image)


@pytest.mark.parametrize(("scale", "ready"), [(1, [3]), (2, [3]), (4, [0, 1, 2, 3])])
def test_a_change_of_size_inside_a_stream_names_the_frame(scale: int, ready: list[int]) -> None:
    session = StreamingSession(tiny_network(), StreamSettings(scale_frames=scale, keyframe_interval=1))
    for image in images(3):
        session.step(image)
    with pytest.raises(StreamError, match="frame 3: the stream is 42×28, found 56×42"):
        session.step(torch.zeros(3, 42, 56))
    # The stream itself is unharmed.
    assert [out.index for out in session.step(images(1)[0])] == ready
