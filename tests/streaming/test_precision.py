"""Half precision and 8-bit caches along a stream: what leaves float16's range is noticed, and what comes then."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import ConfigError, StreamError
from lingbot_eval.methods.lingbot_config import LingbotConfig, ModelSettings
from lingbot_eval.methods.model import LingbotMethod
from lingbot_eval.model.build import fill_by_formula, resolve_precision
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.settings import validated
from lingbot_eval.streaming.estimate import distance
from lingbot_eval.streaming.session import FrameOutput, StreamingSession
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings, WindowedSettings
from lingbot_eval.streaming.windowed import open_session
from tests.streaming.networks import TINY, tiny_network

BRIGHT = 9


def network(dtype: torch.dtype, *, leaves: bool = False) -> GeometricContextTransformer:
    model = copy.deepcopy(tiny_network())
    model.set_trunk_dtype(dtype)
    model.leaves_float16 = leaves
    return model


def images() -> Tensor:
    """One of them is so bright that the patches' projection leaves float16's range, and that of no other type."""
    found = torch.rand(14, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    found[BRIGHT] *= 1e6
    return found


def stream(
    model: GeometricContextTransformer, settings: StreamSettings, *, late: bool = False
) -> tuple[list[FrameOutput], int | None]:
    session = open_session(model, settings, frames=14, camera_iterations=1, checks_late=late)
    outputs = [out for image in images() for out in session.step(image)]
    return [*outputs, *session.finish()], session.bfloat16_from


def settings(**changes: object) -> StreamSettings:
    return StreamSettings.model_validate({"scale_frames": 2, "window": 3, "keyframe_interval": 2, **changes})


def apart(found: Sequence[FrameOutput], wanted: Sequence[FrameOutput]) -> list[float]:
    """Relative difference of each frame's depth."""
    pairs = zip(found, wanted, strict=True)
    return [float((one.depth - other.depth).norm() / other.depth.norm()) for one, other in pairs]


def test_a_stream_stops_where_a_value_leaves_float16() -> None:
    with pytest.raises(StreamError, match=f"frame {BRIGHT}: a value left the range of float16 .65,504.; set precision"):
        stream(network(torch.float16), settings())


@pytest.mark.parametrize("backend", ["sdpa", "paged"])
@pytest.mark.parametrize("cache_precision", [None, 8])
@pytest.mark.parametrize("late", [False, True])
def test_or_goes_on_in_bfloat16(backend: str, cache_precision: int | None, late: bool) -> None:
    """The bright frame is computed again; nothing of the first try stays, and the past is still seen."""
    chosen = settings(backend=backend, cache_precision=cache_precision)
    model = network(torch.float16, leaves=True)
    found, left_at = stream(model, chosen, late=late)
    wanted, never = stream(network(torch.bfloat16), chosen)
    assert (left_at, never) == (BRIGHT, None)
    assert model.trunk_dtype is torch.bfloat16
    assert [out.index for out in found] == list(range(14))
    assert all(out.depth.isfinite().all() and out.pose.isfinite().all() for out in found)
    assert max(apart(found, wanted)) < 0.05


def test_outputs_that_are_checked_late_are_right_once_it_is_settled() -> None:
    session = open_session(
        network(torch.float16, leaves=True), settings(), frames=14, camera_iterations=1, checks_late=True
    )
    for image in images()[:BRIGHT]:
        session.step(image)
    (out,) = session.step(images()[BRIGHT])
    assert not out.depth.isfinite().all()
    assert session.bfloat16_from is None
    assert session.settle()
    assert out.depth.isfinite().all()
    assert out.pose.isfinite().all()
    assert session.bfloat16_from == BRIGHT
    assert not session.settle()


def test_nothing_of_the_first_try_stays_in_an_output_that_is_checked_late() -> None:
    """Every map and the pose, each in its own place: as where the range is asked at once."""

    def bright_frame(*, late: bool) -> FrameOutput:
        with torch.inference_mode(mode=False), torch.no_grad():
            model = GeometricContextTransformer(TINY, point_head=True)
            fill_by_formula(model)
        model.eval().set_trunk_dtype(torch.float16)
        model.leaves_float16 = True
        session = open_session(model, settings(), frames=14, camera_iterations=1, checks_late=late)
        (out,) = [session.step(image) for image in images()[[0, 1, BRIGHT]]][-1]
        assert session.settle() is late
        return out

    found, wanted = bright_frame(late=True), bright_frame(late=False)
    for field in ("pose", "depth", "depth_confidence", "points", "points_confidence"):
        assert torch.equal(getattr(found, field), getattr(wanted, field)), field


def test_flow_keyframes_are_never_judged_by_an_output_that_is_checked_late() -> None:
    chosen = StreamSettings(scale_frames=2, window=3, flow=FlowSettings(threshold=1e-9))
    model = network(torch.float16, leaves=True)
    session = open_session(model, chosen, frames=14, camera_iterations=1, checks_late=True)
    (out,) = [session.step(image) for image in images()[[0, 1, BRIGHT]]][-1]
    assert session.bfloat16_from == 2
    assert out.depth.isfinite().all()
    assert out.flow_pixels is not None
    assert out.flow_pixels > 0


@pytest.mark.parametrize("then", ["step", "finish"])
def test_a_stream_that_is_checked_late_stops_before_anything_follows(then: str) -> None:
    session = open_session(network(torch.float16), settings(), frames=14, camera_iterations=1, checks_late=True)
    for image in images()[: BRIGHT + 1]:
        session.step(image)
    with pytest.raises(StreamError, match=f"frame {BRIGHT}: a value left the range"):
        session.step(images()[0]) if then == "step" else session.finish()


def test_windows_say_the_frame_of_the_stream() -> None:
    chosen = settings(keyframe_interval=1, windowed=WindowedSettings(size=6, overlap_size=2))
    _, left_at = stream(network(torch.float16, leaves=True), chosen)
    assert left_at == BRIGHT
    with pytest.raises(StreamError, match=f"^frame {BRIGHT}: a value left the range"):
        stream(network(torch.float16), chosen)


def test_another_stream_of_the_model_follows() -> None:
    model = network(torch.float16, leaves=True)
    first, second = (open_session(model, settings(), frames=14, camera_iterations=1) for _ in range(2))
    for image in images()[:4]:
        first.step(image)
        second.step(image)
    first.step(images()[BRIGHT])
    (out,) = second.step(images()[4])
    assert out.depth.isfinite().all()
    assert second.bfloat16_from == 4


def test_a_stream_that_goes_on_is_still_in_bfloat16_and_says_since_when() -> None:
    first, second = (
        StreamingSession(network(torch.float16, leaves=True), settings(), frames=14, camera_iterations=1)
        for _ in range(2)
    )
    for image in images()[: BRIGHT + 2]:
        first.step(image)
    state = first.state()
    for store in ("blocks", "camera"):
        tensors = [tensor.clone().flatten().view(torch.uint8) for tensor in state[store]["tensors"]]
        state[store] |= {"tensors": [tensor.clone for tensor in tensors]}
    second.restore(state)
    assert second.bfloat16_from == BRIGHT
    outputs = [session.step(images()[0])[0] for session in (first, second)]
    assert apart(outputs[:1], outputs[1:])[0] < 0.01
    assert second.bfloat16_from == BRIGHT


def test_8_bits_stay_near_and_say_what_they_hold() -> None:
    """Of the memory of float32 a little more than a quarter, with a scale of two bytes for 64 numbers of one."""
    chosen = settings(keyframe_interval=1)
    outputs, sessions = [], []
    for precision in (None, 8):
        session = open_session(
            tiny_network(), chosen.model_copy(update={"cache_precision": precision}), frames=9, camera_iterations=1
        )
        outputs.append([out for image in images()[:9] for out in session.step(image)])
        sessions.append(session)
    assert 0 < max(apart(*outputs)) < 0.02
    full, reduced = (session.used_bytes() for session in sessions)
    assert {kind: reduced[kind] * 256 // 66 for kind in ("anchor", "window", "memory")} == {
        kind: full[kind] for kind in ("anchor", "window", "memory")
    }
    assert reduced["camera_head"] == full["camera_head"]


def test_flashinfer_reads_no_8_bit_numbers() -> None:
    with pytest.raises(ConfigError, match=r"streaming: FlashInfer reads no 8-bit numbers .* use backend triton"):
        validated(StreamSettings, {"backend": "flashinfer", "cache_precision": 8}, "streaming")


def test_auto_is_the_nearest_that_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", torch.device("cuda", 0)) == "float16"
    assert resolve_precision("bfloat16", torch.device("cuda", 0)) == "bfloat16"
    for multiplies, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("lingbot_eval.model.build.multiplies_bfloat16", lambda found=multiplies: found)
        assert resolve_precision("auto", torch.device("cpu")) == wanted


def test_the_distance_from_float32_is_said_where_it_was_measured() -> None:
    assert distance("float32", None) is None
    ends = " of depth from float32 (medians, untrained full network; compare measures it on your frames)"
    assert [distance(precision, cache) for precision in ("bfloat16", "float16") for cache in (None, 8)] == [
        words + ends
        for words in (
            "bfloat16: 0.91° of rotation, 0.27 % of the extent and 0.19 %",
            "bfloat16, keys and values in 8 bits: 0.93° of rotation, 0.27 % of the extent and 0.19 %",
            "float16: 0.085° of rotation, 0.03 % of the extent and 0.053 %",
            "float16, keys and values in 8 bits: 0.092° of rotation, 0.031 % of the extent and 0.052 %",
        )
    ]


def test_the_record_notes_it_and_the_next_scene_begins_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lingbot_eval.methods.model.resolve_precision", lambda name, device: "float16")
    method = LingbotMethod(
        LingbotConfig(
            kind="lingbot", model=ModelSettings(config="mini"), streaming=settings(), device="cpu", precision="auto"
        )
    )
    scene = open_adapter("synthetic", None, {"frames": 4, "width": 56, "height": 42}).open("room", Selection())
    method.open(scene)
    network = method._model().network
    network.aggregator.global_blocks[1].norm2.weight *= 1e6
    assert len(list(method.predict(scene.frames()))) == 4
    record = method.describe()
    assert record["precision"] == "float16"
    assert "computed in bfloat16 from frame 0 on, where a value left the range of float16" in record["notes"]
    assert network.trunk_dtype is torch.bfloat16
    method.open(scene)
    assert method._model().network.trunk_dtype is torch.float16
    assert not method.describe()["notes"]
