"""Windowed mode and flow keyframes: what leaves when, and what the joining does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import StreamError
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.geometry.poses import decode_camera_to_world, decode_rotation
from lingbot_eval.model.aggregator import PassInputs
from lingbot_eval.model.network import DenseOutput
from lingbot_eval.streaming.passes import PassOutput, PassRunner
from lingbot_eval.streaming.session import FrameOutput, StreamingSession, Viewpoint, mean_displacement
from lingbot_eval.streaming.settings import (
    FlowSettings,
    StreamSettings,
    WindowedSettings,
    overlap_frames,
    window_span,
)
from lingbot_eval.streaming.stores import StreamStores
from lingbot_eval.streaming.windowed import WindowedSession, apply_join, join_to, open_session
from lingbot_eval.types import FrameType
from tests.streaming.networks import made_up_outputs, tiny_network

HEIGHT, WIDTH = 28, 42


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(count))


def run(stream: StreamSettings, count: int) -> tuple[list[list[int]], list[FrameOutput], WindowedSession]:
    """Indices by step, all outputs, and the session."""
    session = open_session(tiny_network(), stream, frames=count, camera_iterations=1)
    assert isinstance(session, WindowedSession)
    steps = [list(session.step(image)) for image in images(count)]
    steps.append(list(session.finish()))
    return [[out.index for out in step] for step in steps], [out for step in steps for out in step], session


def windowed(scale: int, size: int, interval: int = 1, **changes: object) -> StreamSettings:
    return StreamSettings(
        scale_frames=scale,
        window=3,
        keyframe_interval=interval,
        windowed=WindowedSettings(size=size, overlap_size=changes.get("overlap_size")),  # type: ignore[arg-type]  # int
        flow=changes.get("flow"),  # type: ignore[arg-type]  # FlowSettings
    )


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.none() | st.integers(1, 12),
    st.integers(1, 30),
    st.booleans(),
)
@example(3, 1, 1, 1, 2, True)  # ends among its scale frames, of which the last is held back
def test_every_frame_leaves_once_and_in_order(
    scale: int, more: int, interval: int, overlap: int | None, count: int, flow: bool
) -> None:
    stream = windowed(
        scale,
        scale + more,
        interval,
        overlap_size=overlap,
        flow=FlowSettings(threshold=5.0, max_gap=3) if flow else None,
    )
    with made_up_outputs():
        steps, outputs, session = run(stream, count)
    assert [out.index for out in outputs] == list(range(count))
    # No more than an overlap (and a scale phase, which enters at once) is ever held back.
    held, longest = 0, 0
    for step in steps[:-1]:
        held += 1 - len(step)
        longest = max(longest, held)
    assert longest <= overlap_frames(stream, session.interval) + scale


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.none() | st.integers(1, 12), st.integers(1, 40))
def test_windows_start_where_the_specification_says(
    scale: int, more: int, interval: int, overlap: int | None, count: int
) -> None:
    stream = windowed(scale, scale + more, interval, overlap_size=overlap)
    with made_up_outputs():
        _, _, session = run(stream, count)
    span = scale + more * interval
    assert window_span(stream, interval) == span
    shared = min(overlap if overlap is not None else scale, max(1, count - 1))
    starts = [0]
    while starts[-1] + span < count:
        starts.append(starts[-1] + max(1, span - shared))
    assert session.windows == len(starts) == len(session.joins)


def test_overlap_in_keyframes_counts_the_interval() -> None:
    stream = StreamSettings(scale_frames=3, windowed=WindowedSettings(size=8, overlap_keyframes=2))
    assert overlap_frames(stream, 4) == 8
    assert overlap_frames(stream, 1) == 3


@pytest.mark.parametrize(("count", "starts"), [(6, [0, 3]), (7, [0, 3]), (8, [0, 3, 6]), (12, [0, 3, 6, 9])])
def test_flow_windows_never_start_among_the_scale_frames_of_the_one_before(count: int, starts: list[int]) -> None:
    """Every frame is kept, so a window of 4 takes 4 frames; an overlap that reaches far back is held at 3 of them."""
    stream = windowed(3, 4, overlap_size=12, flow=FlowSettings(threshold=5.0, max_gap=1))
    _, outputs, session = run(stream, count)
    assert session.windows == len(starts)
    assert [out.index for out in outputs] == list(range(count))


@pytest.mark.parametrize("count", [3, 4])
def test_no_window_opens_after_the_end(count: int) -> None:
    """Nor where the last one is full."""
    _, _, session = run(windowed(2, 4), count)
    with pytest.raises(StreamError, match="the stream is finished"):
        session.step(images(1)[0])
    assert session.finish() == ()
    assert session.windows == 1


@pytest.mark.parametrize("taken", range(1, 8))
@pytest.mark.parametrize("flow", [None, FlowSettings(threshold=5.0, max_gap=1)])
def test_an_image_that_is_refused_leaves_the_windows_as_they_are(taken: int, flow: FlowSettings | None) -> None:
    """Its place is told in the stream, whichever window is open and however full it is."""
    frames = images(9)

    def indices(refused: int | None) -> tuple[list[list[int]], int]:
        session = open_session(tiny_network(), windowed(2, 4, flow=flow), frames=None, camera_iterations=1)
        assert isinstance(session, WindowedSession)
        leaving = []
        for number, image in enumerate(frames):
            if number == refused:
                with pytest.raises(StreamError, match=f"^frame {number}: the stream is 42×28, found 56×42; "):
                    session.step(torch.zeros(3, 42, 56))
            leaving.append([out.index for out in session.step(image)])
        leaving.append([out.index for out in session.finish()])
        return leaving, session.windows

    with made_up_outputs():
        assert indices(taken) == indices(None)


def test_a_single_window_is_the_plain_stream() -> None:
    stream = windowed(2, 9)
    _, outputs, session = run(stream, 9)
    plain = open_session(tiny_network(), stream.model_copy(update={"windowed": None}), frames=9, camera_iterations=1)
    expected = [out for image in images(9) for out in plain.step(image)]
    assert session.windows == 1
    assert all(
        torch.equal(a.pose, b.pose) and torch.equal(a.depth, b.depth) for a, b in zip(outputs, expected, strict=True)
    )


@pytest.mark.parametrize(("count", "windows"), [(4, 1), (5, 2)])
@pytest.mark.parametrize("flow", [None, FlowSettings(threshold=1e-9, max_gap=1)])
def test_turns_of_several_windows_are_unit_quaternions(count: int, windows: int, flow: FlowSettings | None) -> None:
    """A window that is the only one is as the network gave it; where one frame more comes, all are alike."""
    with made_up_outputs():
        _, outputs, session = run(windowed(2, 4, flow=flow), count)
    lengths = [float(out.pose[3:7].norm()) for out in outputs]
    assert session.windows == windows
    assert (lengths == pytest.approx([1] * count)) is (windows > 1)
    assert all(out.pose[6] >= 0 for out in outputs) is (windows > 1)


def output(index: int, pose: np.ndarray, depth: float, kind: FrameType = FrameType.KEPT) -> FrameOutput:
    maps = torch.full((4, 5), depth)
    points = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(index))
    return FrameOutput(index, kind, torch.from_numpy(pose).float(), maps, torch.ones(4, 5), points, torch.ones(4, 5))


def encoding(rng: np.random.Generator) -> np.ndarray:
    quaternion = Rotation.random(random_state=int(rng.integers(1 << 30))).as_quat() * rng.uniform(0.5, 2)
    return np.concatenate([rng.normal(size=3), quaternion, [1.0, 1.2]])


@pytest.mark.parametrize("seed", range(5))
def test_joining_recovers_a_known_similarity(seed: int) -> None:
    """Windows that see the same world through a similarity are brought together exactly."""
    rng = np.random.default_rng(seed)
    truth = Sim3(float(rng.uniform(0.2, 4)), Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3))
    current = [output(i, encoding(rng), depth=1.0 + i) for i in range(4)]
    previous = [apply_join(out, truth) for out in current]
    found = join_to(previous, current)
    assert found.scale == pytest.approx(truth.scale, rel=1e-5)
    np.testing.assert_allclose(found.rotation, truth.rotation, atol=1e-5)
    np.testing.assert_allclose(found.translation, truth.translation, atol=1e-5)
    for out, moved in zip(current, previous, strict=True):
        pose = decode_camera_to_world(out.pose.numpy())
        joined = decode_camera_to_world(moved.pose.numpy())
        np.testing.assert_allclose(
            joined[:3, 3], truth.scale * truth.rotation @ pose[:3, 3] + truth.translation, atol=1e-5
        )
        np.testing.assert_allclose(joined[:3, :3], truth.rotation @ pose[:3, :3], atol=1e-5)
        assert moved.pose[6] >= 0
        assert float(moved.pose[3:7].norm()) == pytest.approx(1, abs=1e-6)
        assert out.points is not None
        assert moved.points is not None
        wanted = truth.scale * out.points.double().numpy() @ truth.rotation.T + truth.translation
        np.testing.assert_allclose(moved.points.numpy(), wanted, atol=1e-5)
        assert torch.equal(moved.pose[7:], out.pose[7:])
        assert torch.equal(moved.depth_confidence, out.depth_confidence)


def test_joining_takes_the_latest_frame_kept_in_both_and_all_their_depths() -> None:
    rng = np.random.default_rng(0)
    unkept, kept = FrameType.UNKEPT, FrameType.KEPT
    previous = [output(i, encoding(rng), depth) for i, depth in enumerate([2.0, 6.0, 8.0, 100.0])]
    kinds = [kept, kept, kept, unkept]
    current = [output(i, encoding(rng), 1.0, kind) for i, kind in enumerate(kinds)]
    found = join_to(previous, current)
    assert found.scale == pytest.approx(6.0)  # the median of 2, 6, 8; not the frame that was not kept
    moved = apply_join(current[2], found)
    np.testing.assert_allclose(moved.pose[:3], previous[2].pose[:3], atol=1e-4)
    np.testing.assert_allclose(
        decode_rotation(moved.pose[3:7].numpy()), decode_rotation(previous[2].pose[3:7].numpy()), atol=1e-5
    )


def test_joining_without_a_common_keyframe_takes_the_first_frame() -> None:
    rng = np.random.default_rng(1)
    previous = [output(i, encoding(rng), 3.0 + i, FrameType.UNKEPT) for i in range(3)]
    current = [output(i, encoding(rng), 1.0) for i in range(3)]
    found = join_to(previous, current)
    assert found.scale == pytest.approx(3.0)
    np.testing.assert_allclose(apply_join(current[0], found).pose[:3], previous[0].pose[:3], atol=1e-4)


@pytest.mark.parametrize(
    ("depth", "current", "scale"),
    [
        (1e9, 1.0, 1e3),
        (1e-9, 1.0, 1e-3),
        *((depth, 1.0, 1.0) for depth in (float("nan"), float("inf"))),
        *((2.0, current, 1.0) for current in (float("nan"), float("inf"), 0.0, 1e-8)),
    ],
)
def test_the_scale_of_a_join_is_bounded(depth: float, current: float, scale: float) -> None:
    rng = np.random.default_rng(2)
    before, now = output(0, encoding(rng), depth), output(0, encoding(rng), current)
    assert join_to([before], [now]).scale == scale
    # Where one pixel of the two is known, that one tells.
    before.depth[1, 2], now.depth[1, 2] = 6.0, 4.0
    assert join_to([before], [now]).scale == (scale if depth in (1e9, 1e-9) else 1.5)


def test_of_two_scales_with_as_many_pixels_the_smaller_is_taken() -> None:
    rng = np.random.default_rng(4)
    previous = [output(index, encoding(rng), depth) for index, depth in enumerate((8.0, 2.0))]
    assert join_to(previous, [output(index, encoding(rng), 1.0) for index in range(2)]).scale == 2.0


def test_flow_keeps_by_displacement_gap_and_first_step() -> None:
    def types(threshold: float, gap: int) -> list[int]:
        stream = StreamSettings(scale_frames=2, window=3, flow=FlowSettings(threshold=threshold, max_gap=gap))
        session = open_session(tiny_network(), stream, frames=None, camera_iterations=1)
        return [int(out.frame_type) for image in images(12) for out in session.step(image)]

    assert types(1e9, 4) == [0, 0, 1, 2, 2, 2, 1, 2, 2, 2, 1, 2]
    assert types(1e-9, 30) == [0, 0] + [1] * 10


@pytest.mark.parametrize("backend", ["sdpa", "paged"])
def test_a_keyframe_by_flow_is_in_view_at_once(backend: Any) -> None:
    settings = StreamSettings(scale_frames=2, window=3, backend=backend, flow=FlowSettings(threshold=1e-9))
    session = StreamingSession(tiny_network(), settings, camera_iterations=1)
    frames_in_window: list[float | None] = []
    camera: list[int] = []
    for image in images(7):
        session.step(image)
        used = session.used_bytes()
        frames_in_window.append(2 * used["window"] / used["anchor"] if "anchor" in used else None)
        camera.append(used.get("camera_head", 0))
    assert frames_in_window == [None, 0, 1, 2, 3, 3, 3]
    assert camera == [camera[1] // 2 * kept for kept in (0, 2, 3, 4, 5, 6, 7)]


def as_read(value: Any) -> Any:
    """A state as it comes back from a file: tensors when they are asked for."""
    if isinstance(value, torch.Tensor):
        return value.clone
    if isinstance(value, dict):
        return {key: as_read(inner) for key, inner in value.items()}
    return [as_read(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("at", [3, 5, 6])
def test_a_stream_by_flow_goes_on_as_if_it_had_not_stopped(at: int) -> None:
    """Its last keyframe is where it was: the gap to it goes on."""
    settings = StreamSettings(scale_frames=2, window=3, flow=FlowSettings(threshold=1e9, max_gap=4))
    first, second = (StreamingSession(tiny_network(), settings, camera_iterations=1) for _ in range(2))
    for image in images(at):
        first.step(image)
    state = first.state()
    with pytest.raises(StreamError, match="no frame has entered yet"):
        second.state()
    second.restore(as_read(state))
    assert second.state()["last_kept"] == state["last_kept"]
    with pytest.raises(StreamError, match=f"frame {at}: the stream is 42×28, found 56×42"):
        second.step(torch.zeros(3, 42, 56))
    rest = [int(out.frame_type) for image in images(12)[at:] for out in second.step(image)]
    assert rest == [0, 0, 1, 2, 2, 2, 1, 2, 2, 2, 1, 2][at:]


def test_displacement_of_a_sideways_step() -> None:
    """Moving t sideways in front of a wall at depth z shifts every pixel by f·t/z."""
    intrinsics = np.array([[50.0, 0, 21], [0, 40.0, 14], [0, 0, 1]])
    moved = np.eye(4)
    moved[0, 3] = 0.3
    depth = torch.full((HEIGHT, WIDTH), 2.0)
    here, there = Viewpoint(moved, intrinsics), Viewpoint(np.eye(4), intrinsics)
    assert mean_displacement(depth, here, there) == pytest.approx(50 * 0.3 / 2)
    assert mean_displacement(depth, here, here) == pytest.approx(0)
    near = depth.clone()
    near[:, :8] = 0.5  # one of six columns of samples shifts by four times as much
    assert mean_displacement(near, here, there) == pytest.approx(50 * 0.3 * (5 / 2 + 1 / 0.5) / 6)
    assert mean_displacement(torch.zeros(HEIGHT, WIDTH), here, there) == 0
    # Each camera has its own: one that sees the same at twice the size moves a pixel away from the middle by as much.
    doubled = intrinsics * [[2], [2], [1]] - [[0, 0, 21], [0, 0, 14], [0, 0, 0]]
    v, u = np.mgrid[0:HEIGHT:8, 0:WIDTH:8]
    outward = np.hypot(u - intrinsics[0, 2], v - intrinsics[1, 2]).mean()
    assert mean_displacement(depth, here, Viewpoint(here.camera_to_world, doubled)) == pytest.approx(outward)
    assert mean_displacement(depth, Viewpoint(here.camera_to_world, doubled), here) == pytest.approx(outward / 2)
    # Straight ahead, a pixel without depth is where the camera was, in front of the other; it counts as little.
    ahead = np.eye(4)
    ahead[2, 3] = 0.5
    beside = intrinsics - [[0, 0, 8], [0, 0, 0], [0, 0, 0]]  # of the image without its first eight columns
    shrinks = mean_displacement(depth[:, 8:], Viewpoint(ahead, beside), Viewpoint(np.eye(4), beside))
    holes = depth.clone()
    holes[:, :8] = 0
    assert mean_displacement(holes, Viewpoint(ahead, intrinsics), there) == pytest.approx(shrinks)
    behind = np.diag([-1.0, 1, -1, 1])  # looks the other way: no point in front of both
    assert mean_displacement(depth, here, Viewpoint(behind, intrinsics)) == 0


@pytest.mark.parametrize(
    "settings_",
    [
        {"size": 8, "overlap_size": 2, "overlap_keyframes": 2},
        {"size": 8, "overlap_size": 3, "overlap_keyframes": 2},
        {"size": 0},
        {"size": 8, "overlap_size": 0},
        {"size": 8, "overlap_keyframes": 0},
        {"size": 8, "speed": 1},
    ],
)
def test_settings_that_cannot_work(settings_: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        WindowedSettings.model_validate(settings_)


def test_a_window_must_go_on_after_its_scale_frames() -> None:
    with pytest.raises(ValidationError, match="the smallest that works is 9"):
        StreamSettings(scale_frames=8, windowed=WindowedSettings(size=8))


@pytest.mark.parametrize("overlap", [2, 5, 30])
def test_a_stream_that_fits_one_window_is_not_held_back(overlap: int) -> None:
    """However much windows share: none comes that could repeat a frame."""
    steps, _, session = run(windowed(2, 12, overlap_size=overlap), 6)
    assert steps == [[], [0, 1], [2], [3], [4], [5], []]
    assert session.windows == 1


@pytest.mark.parametrize("quaternion", [[0.0, 0, 0, 0], [float("nan"), 0, 0, 1]])
def test_a_turn_that_is_none_stays_as_the_network_gave_it(quaternion: list[float]) -> None:
    rng = np.random.default_rng(3)
    pose = encoding(rng)
    pose[3:7] = quaternion
    join = Sim3(2.0, Rotation.random(random_state=1).as_matrix(), np.array([1.0, 2, 3]))
    moved = apply_join(output(0, pose, 1.5), join)
    np.testing.assert_array_equal(moved.pose[3:7].numpy(), np.array(quaternion, np.float32))
    np.testing.assert_allclose(moved.pose[:3].numpy(), 2.0 * join.rotation @ pose[:3] + [1, 2, 3], atol=1e-5)
    assert torch.equal(moved.depth, torch.full((4, 5), 3.0))


def test_a_stream_of_which_nothing_is_said() -> None:
    """As docs say; what a run's record compares with is made of these."""
    assert StreamSettings().model_dump() == {
        "scale_frames": 8,
        "window": None,
        "keyframe_interval": "auto",
        "flow": None,
        "windowed": None,
        "backend": "auto",
        "cache_precision": None,
    }
    assert FlowSettings(threshold=2.0).model_dump() == {"threshold": 2.0, "max_gap": 30}
    assert WindowedSettings().model_dump() == {"size": 64, "overlap_size": None, "overlap_keyframes": None}
    with pytest.raises(ValidationError):
        FlowSettings(threshold=0.0)


def test_a_field_of_view_that_collapsed_leaves_the_choice_to_the_gap() -> None:
    """Whatever the threshold; nothing is warned of."""

    def run_pass(runner: PassRunner, inputs: PassInputs, stores: StreamStores) -> PassOutput:
        count = len(inputs.images)
        poses = torch.zeros(count, 9)
        poses[:, 6] = 1.0
        depth = torch.full((count, HEIGHT, WIDTH), 2.0)
        return PassOutput(poses, DenseOutput(depth, torch.ones_like(depth)))

    chosen = StreamSettings(scale_frames=2, window=3, flow=FlowSettings(threshold=1e-9, max_gap=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PassRunner, "run", run_pass)
        session = open_session(tiny_network(), chosen, frames=8, camera_iterations=1)
        outputs = [out for image in images(8) for out in session.step(image)]
    assert [int(out.frame_type) for out in outputs] == [0, 0, 1, 2, 2, 1, 2, 2]


def test_the_displacement_is_of_what_the_new_frame_sees() -> None:
    """A camera that goes nearer sees its pixels move by less than they moved towards it; of its own depth."""
    ahead, depths = iter([0.0, 0.0, 0.5, 1.0]), iter([9.0, 9.0, 2.0, 3.0])

    def run_pass(runner: PassRunner, inputs: PassInputs, stores: StreamStores) -> PassOutput:
        count = len(inputs.images)
        poses = torch.zeros(count, 9)
        poses[:, 2] = torch.tensor([next(ahead) for _ in range(count)])
        poses[:, 6], poses[:, 7:] = 1.0, np.pi / 2
        depth = torch.stack([torch.full((HEIGHT, WIDTH), next(depths)) for _ in range(count)])
        return PassOutput(poses, DenseOutput(depth, torch.ones_like(depth)))

    chosen = StreamSettings(scale_frames=2, window=3, flow=FlowSettings(threshold=1e-9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PassRunner, "run", run_pass)
        session = open_session(tiny_network(), chosen, frames=4, camera_iterations=1)
        outputs = [out for image in images(4) for out in session.step(image)]
    v, u = np.mgrid[0:HEIGHT:8, 0:WIDTH:8]
    outward = np.hypot(u - WIDTH / 2, v - HEIGHT / 2).mean()
    # What is 2 m away was 2.5 m away, what is 3 m away 3.5 m: it was nearer the middle by so much.
    wanted = [outward * (1 - 2 / 2.5), outward * (1 - 3 / 3.5)]
    assert [out.flow_pixels for out in outputs[2:]] == pytest.approx(wanted, rel=1e-5)


def test_the_displacement_of_a_step_is_told_with_it() -> None:
    """None of scale frames, which nothing is held against; of a step against the last kept frame, kept or not."""
    places = iter([0.5, 0.0, 0.1, 0.3, 0.4, 0.9])  # of each frame, metres to the right

    def run_pass(runner: PassRunner, inputs: PassInputs, stores: StreamStores) -> PassOutput:
        count = len(inputs.images)
        poses = torch.zeros(count, 9)
        poses[:, 0] = torch.tensor([next(places) for _ in range(count)])
        poses[:, 6], poses[:, 7:] = 1.0, np.pi / 2
        depth = torch.full((count, HEIGHT, WIDTH), 2.0)
        return PassOutput(poses, DenseOutput(depth, torch.ones_like(depth)))

    chosen = StreamSettings(scale_frames=2, window=3, flow=FlowSettings(threshold=2.5, max_gap=30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PassRunner, "run", run_pass)
        session = open_session(tiny_network(), chosen, frames=6, camera_iterations=1)
        outputs = [out for image in images(6) for out in session.step(image)]
    assert [out.frame_type.name for out in outputs] == ["SCALE", "SCALE", "KEPT", "UNKEPT", "KEPT", "KEPT"]
    assert [out.flow_pixels for out in outputs[:2]] == [None, None]
    # Against frame 1, then 2, 2 again as frame 3 was not kept, and 4.
    moved = [0.1, 0.2, 0.3, 0.5]
    focal = WIDTH / 2  # of a field of view of a right angle
    assert [out.flow_pixels for out in outputs[2:]] == pytest.approx([focal * far / 2 for far in moved], rel=1e-5)
