"""The settings check: equal to what real streams hold, to the figures of model.md section 7, and it warns when due."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lingbot_eval.model.build import PRECISIONS, build_model
from lingbot_eval.model.config import CONFIGS, ConfigName
from lingbot_eval.model.network import GeometricContextTransformer, camera_tokens
from lingbot_eval.streaming import estimate as estimate_module
from lingbot_eval.streaming.estimate import (
    WORKSPACES_BYTES,
    Machine,
    NetworkSize,
    check,
    estimate,
    kept_frame_bytes,
    this_machine,
    weights_bytes,
)
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings, WindowedSettings
from lingbot_eval.streaming.windowed import open_session
from lingbot_eval.types import CACHE_KINDS
from tests.streaming.networks import TINY, made_up_outputs, tiny_network

HEIGHT, WIDTH = 28, 42
TINY_SIZE = NetworkSize(TINY, "float32")
FULL = NetworkSize(CONFIGS["full"], "bfloat16")
STORES = st.sampled_from(["sdpa", "paged"])
CACHES = st.sampled_from([None, 8])
H100 = Machine("H100", (9, 0), 80 * 2**30, bfloat16=True)


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(count))


def warnings(frames: int, machine: Machine = H100, network: NetworkSize = FULL, **changes: Any) -> tuple[str, ...]:
    settings = StreamSettings(**changes)
    return check(estimate(network, settings, 378, 518, frames), settings, network.precision, machine)


@hypothesis_settings(max_examples=25)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 20),
    st.sampled_from(["sdpa", "paged"]),
    CACHES,
)
def test_a_whole_stream_holds_what_was_predicted(
    scale: int, window: int, k: int, count: int, backend: str, cache_precision: Literal[8] | None
) -> None:
    settings = StreamSettings(
        scale_frames=scale, window=window, keyframe_interval=k, backend=backend, cache_precision=cache_precision
    )
    session = open_session(tiny_network(), settings, frames=count, camera_iterations=4)
    with made_up_outputs():
        for image in images(count):
            session.step(image)
        session.finish()
    predicted = estimate(TINY_SIZE, settings, HEIGHT, WIDTH, count)
    assert predicted.cache_bytes == session.used_bytes()
    assert predicted.cache_allocated == session.allocated_bytes()
    assert (predicted.windows, predicted.frames, predicted.interval) == (1, count, k)


@hypothesis_settings(max_examples=15)
@given(st.integers(3, 6), st.integers(1, 3), st.integers(1, 30), st.integers(1, 8))
def test_windows_hold_no_more_than_predicted(size: int, k: int, count: int, overlap: int) -> None:
    settings = StreamSettings(
        scale_frames=2,
        window=2,
        keyframe_interval=k,
        windowed=WindowedSettings(size=size, overlap_size=overlap),
        backend="sdpa",
    )
    session = open_session(tiny_network(), settings, frames=count, camera_iterations=4)
    totals: list[Mapping[str, int]] = []
    with made_up_outputs():
        for image in images(count):
            session.step(image)
            totals.append(session.used_bytes())
        session.finish()
    totals.append(session.used_bytes())
    predicted = estimate(TINY_SIZE, settings, HEIGHT, WIDTH, count)
    assert predicted.cache_bytes == max(totals, key=lambda used: sum(used.values()))
    assert predicted.windows == session.windows  # type: ignore[attr-defined]


def test_flow_keyframes_are_bounded_on_both_sides() -> None:
    for threshold, bound in ((1e-9, "kept"), (1e9, "kept_least")):
        settings = StreamSettings(scale_frames=2, window=3, flow=FlowSettings(threshold=threshold, max_gap=4))
        session = open_session(tiny_network(), settings, frames=19, camera_iterations=4)
        kinds = [out.frame_type.name for image in images(19) for out in session.step(image)]
        predicted = estimate(TINY_SIZE, settings, HEIGHT, WIDTH, 19)
        assert getattr(predicted, bound) == len(kinds) - kinds.count("UNKEPT")
        assert sum(session.used_bytes().values()) <= sum(predicted.cache_bytes.values())


@pytest.mark.parametrize(("overlap", "windows", "at_most"), [(2, 5, 5), (5, 8, 15)])
def test_flow_windows_are_no_more_than_predicted(overlap: int, windows: int, at_most: int) -> None:
    """Every frame is kept: windows of 6 frames. They go on by 4, or, as they share no scale frames, by 2 and not 1."""
    flow = FlowSettings(threshold=1e-9, max_gap=1)
    windowed = WindowedSettings(size=6, overlap_size=overlap)
    settings = StreamSettings(scale_frames=2, window=2, flow=flow, windowed=windowed)
    session = open_session(tiny_network(), settings, frames=20, camera_iterations=4)
    with made_up_outputs():
        for image in images(20):
            session.step(image)
        session.finish()
    assert session.windows == windows  # type: ignore[union-attr]
    assert estimate(TINY_SIZE, settings, HEIGHT, WIDTH, 20).windows == at_most


@pytest.mark.parametrize("name", ["mini", "ci"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_of_real_models(name: ConfigName, precision: str) -> None:
    model, _ = build_model(
        name, checkpoint=None, seed=0, point_head=True, device=torch.device("cpu"), precision=precision
    )
    held = sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
    assert weights_bytes(NetworkSize(CONFIGS[name], precision, point_head=True)) == held


def test_weights_of_the_public_checkpoints() -> None:
    """1.158 B parameters (model.md): the trunk's matrices in two bytes, heads and norms in four."""
    assert weights_bytes(NetworkSize(CONFIGS["full"], "float32")) == pytest.approx(1.158e9 * 4, rel=1e-3)
    trunk = 2 * 1024 * 1024 * 12 * (24 + 24 + 24)  # 12·C² a block; patch projection and biases are the rest
    saved = weights_bytes(NetworkSize(CONFIGS["full"], "float32")) - weights_bytes(FULL)
    assert saved == pytest.approx(trunk, rel=2e-3)


def test_the_arithmetic_that_matters() -> None:
    """The figures of model.md section 7, for 518×378 in bfloat16."""
    settings = StreamSettings(keyframe_interval=1)
    filled = estimate(FULL, settings, 378, 518, 72)
    whole = filled.cache_bytes["anchor"] + filled.cache_bytes["window"]
    assert whole / 72 == pytest.approx(98.8e6, rel=1e-3)
    assert whole == pytest.approx(7.1e9, rel=5e-3)
    assert filled.cache_bytes["memory"] == 0
    long = estimate(FULL, settings, 378, 518, 10_072)
    assert long.cache_bytes["memory"] == pytest.approx(5.9e9, rel=2e-3)
    assert long.cache_bytes["memory"] / 10_000 == pytest.approx(0.59e6, rel=1e-2)
    camera = long.cache_bytes["camera_head"] / 10_072
    assert camera == 16 * 2 * 2048 * 4
    assert kept_frame_bytes(FULL, settings) == pytest.approx(0.59e6 + 0.262e6, rel=1e-2)


def test_8_bits_take_a_little_more_than_half_of_half_precision() -> None:
    """64 numbers of one byte and a scale of two, where they were 64 of two; a layer's copy is in the peak."""
    settings = StreamSettings(keyframe_interval=1, backend="triton")
    half, reduced = (
        estimate(FULL, settings.model_copy(update={"cache_precision": cache}), 378, 518, 1000) for cache in (None, 8)
    )
    for kind in ("anchor", "window", "memory"):
        assert reduced.cache_bytes[kind] / half.cache_bytes[kind] == 66 / 128
    assert reduced.cache_bytes["camera_head"] == half.cache_bytes["camera_head"]
    copy = 79_509 * 2 * 1024 * 2  # tokens of two parts of 1,024 numbers of two bytes
    assert reduced.step_bytes - half.step_bytes in range(copy + 1)


def test_the_peak_at_frame_300_is_below_twelve_gigabytes() -> None:
    """Issue 3: at most 12 GB at frame 300 in bfloat16, where the original needed 14.6."""
    for backend in ("sdpa", "paged", "flashinfer"):
        settings = StreamSettings(keyframe_interval=1, backend=backend)
        assert 10e9 < estimate(FULL, settings, 378, 518, 300).peak_bytes < 12e9


@pytest.mark.parametrize(
    ("backend", "frames", "cache_allocated", "peak"),
    [
        ("sdpa", 165, 7_497_285_632, 11_127_403_520),
        ("sdpa", 1085, 8_218_705_920, 11_876_504_064),
        ("triton", 165, 7_497_285_632, 10_954_387_968),
        ("triton", 1085, 8_218_705_920, 11_738_091_520),
        ("flashinfer", 301, 7_401_439_232, 11_153_560_576),
        ("flashinfer", 1981, None, 12_390_975_488),
    ],
)
def test_the_peak_that_an_h100_measured(backend: str, frames: int, cache_allocated: int | None, peak: int) -> None:
    """Samples of reports/measurements/h100_2000_frames_interval_1.csv: torch's own count of what was allocated.

    The depth head kept its position maps in full then: 128 channels of the image's size, and 2,816 of the patches'.
    """
    predicted = estimate(FULL, StreamSettings(keyframe_interval=1, backend=backend), 378, 518, frames)
    if cache_allocated is not None:
        assert predicted.cache_allocated == cache_allocated
    maps = 4 * (128 * 378 * 518 + 2816 * 27 * 37)
    assert predicted.peak_bytes + maps + WORKSPACES_BYTES == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize(
    ("frames", "window", "late", "grows"), [(40, 50, False, False), (600, 700, True, False), (20_000, 2, True, True)]
)
def test_the_peak_is_the_scale_phase_s_or_comes_with_full_caches(
    frames: int, window: int, late: bool, grows: bool
) -> None:
    """Late it is the larger of a step and of a growing store, whose old and new buffer of one layer are there together
    before a pass, whose tensors are not there yet."""
    settings = StreamSettings(scale_frames=4, window=window, keyframe_interval=1, backend="sdpa")
    found = estimate(TINY_SIZE, settings, HEIGHT, WIDTH, frames)
    assert (found.growth_bytes > found.step_bytes) is grows
    early = found.cache_at_first + found.activation_bytes
    later = found.cache_allocated + (found.growth_bytes if grows else found.step_bytes)
    assert (later > early) is late
    assert found.peak_bytes == found.weights_bytes + (later if late else early)


class LiveTensors(TorchDispatchMode):
    """Bytes of the storages made by operators and still alive: now, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for leaf in tree_leaves(out):
            if torch.is_tensor(leaf) and leaf.untyped_storage()._cdata not in inputs:
                storage = leaf.untyped_storage()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, size: int) -> None:
        self.now -= size


class NoCache:
    """Attention's output alone."""

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(query)


def live_bytes(network: NetworkSize, height: int, width: int, scale: int) -> int:
    """Most bytes alive in a scale phase, counted on the meta device: nothing is computed."""
    with torch.device("meta"):
        model = GeometricContextTransformer(network.config, point_head=network.point_head)
    model.set_trunk_dtype(PRECISIONS[network.precision])
    model.requires_grad_(requires_grad=False).eval()
    frames = torch.empty(scale, 3, height, width, device="meta")
    with torch.inference_mode():
        model.constants(height, width)  # what is kept for the size is there before
        model.depth_head.positions(height, width)
        if model.point_head is not None:
            model.point_head.positions(height, width)
        with LiveTensors() as live:
            inputs = model.aggregator.place(frames, 0)
            tokens = model.trunk(inputs, NoCache())
            maps = model.maps(tokens, height, width)
            model.poses(camera_tokens(tokens), NoCache(), network.camera_iterations)
            del inputs, tokens, maps
    return live.peak


@pytest.mark.parametrize(
    ("network", "height", "width", "scale"),
    [
        (FULL, 168, 224, 8),
        (NetworkSize(CONFIGS["full"], "float32"), 168, 224, 8),
        (NetworkSize(CONFIGS["mini"], "float32"), 168, 224, 2),
        (NetworkSize(CONFIGS["ci"], "float32", point_head=True), 168, 224, 8),
        (NetworkSize(CONFIGS["ci"], "bfloat16"), 378, 518, 8),
    ],
)
def test_activations_cover_what_is_alive(
    network: NetworkSize, height: int, width: int, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On the meta device attention falls back to a form that writes out all scores, which no real kernel does.
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda query, key, value: torch.empty_like(query))
    predicted = estimate(network, StreamSettings(scale_frames=scale), height, width, 100).activation_bytes
    alive = live_bytes(network, height, width, scale)
    assert alive <= predicted <= 1.15 * alive


def test_nothing_to_warn_about() -> None:
    assert warnings(2000) == ()
    assert warnings(320, keyframe_interval=1) == ()
    assert warnings(5000, windowed=WindowedSettings(), keyframe_interval=1) == ()
    assert warnings(65, windowed=WindowedSettings(), keyframe_interval=1) == ()
    assert warnings(121, windowed=WindowedSettings(), keyframe_interval=2) == ()
    # Half of a window again: every frame twice, which is what an overlap is for.
    assert warnings(500, windowed=WindowedSettings(overlap_size=32), keyframe_interval=1) == ()


@pytest.mark.parametrize(
    ("frames", "settings", "says"),
    [
        (321, {"keyframe_interval": 1}, "keeps 321 of 321 frames in view .* trained on 320; use auto .here 2."),
        (1000, {"keyframe_interval": 2}, "interval 2 keeps 504 of 1000 frames in view .* use auto .here 4."),
        (700, {"flow": FlowSettings(threshold=5.0)}, "keep 32 to 700 frames"),
        (
            5000,
            {"flow": FlowSettings(threshold=5.0), "windowed": WindowedSettings(size=400)},
            "flow keyframes keep 175 to 400 frames in one clock",
        ),
        # Eight scale frames, and every second of 112.
        (120, {"windowed": WindowedSettings(), "keyframe_interval": 2}, "120 frames fit one window, which spans 120"),
        (
            5000,
            {"windowed": WindowedSettings(size=400), "keyframe_interval": 1},
            "windowed.size 400 keeps 400 frames",
        ),
        (64, {"windowed": WindowedSettings(), "keyframe_interval": 1}, "the 64 frames fit one window, which spans 64"),
        (
            500,
            {"windowed": WindowedSettings(overlap_size=33), "keyframe_interval": 1},
            "window of 64 frames goes on by 31 only, so most frames are computed 2.1 times",
        ),
        (
            500,
            {"windowed": WindowedSettings(overlap_size=48), "keyframe_interval": 1},
            "window of 64 frames goes on by 16 only, so most frames are computed 4.0 times",
        ),
    ],
)
def test_settings_worth_a_warning(frames: int, settings: dict[str, Any], says: str) -> None:
    (line,) = warnings(frames, **settings)
    assert "\n" not in line
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(line)


def test_machines_worth_a_warning() -> None:
    cpu = Machine("the CPU", None, 80 * 2**30, bfloat16=False)
    turing = Machine("T4", (7, 5), 15 * 2**30, bfloat16=False)
    (line,) = warnings(300, cpu)
    assert line.startswith("precision bfloat16 is slow on the CPU")
    assert warnings(300, cpu, NetworkSize(CONFIGS["full"], "float32")) == ()
    able = replace(cpu, bfloat16=True)
    assert warnings(300, able) == ()
    (line,) = warnings(300, able, NetworkSize(CONFIGS["full"], "float16"))
    assert line.startswith("precision float16 is slow on the CPU")
    (line,) = warnings(300, turing)
    assert "T4 (compute capability 7.5) has no bfloat16 units" in line
    assert warnings(300, turing, NetworkSize(CONFIGS["full"], "float16")) == ()
    (line,) = warnings(300, replace(H100, free_bytes=9 * 2**30))
    assert line.startswith("predicted peak 10,")
    assert "H100 has 9,216 MiB free" in line
    needed = estimate(FULL, StreamSettings(), 378, 518, 300).peak_bytes
    assert warnings(300, replace(H100, free_bytes=needed)) == ()
    (line,) = warnings(300, replace(H100, free_bytes=needed - 1))
    assert line.startswith(f"predicted peak {round(needed / 2**20):,} MiB, but H100 has ")


@pytest.mark.parametrize("bfloat16", [True, False])
def test_this_machine(monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    memory = SimpleNamespace(total=64, available=21, free=8, used=43)  # caches that can go are to be had
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(estimate_module, "multiplies_bfloat16", lambda: bfloat16)
    assert this_machine(torch.device("cpu")) == Machine("the CPU", None, 21, bfloat16=bfloat16)


@pytest.mark.parametrize(("found", "bfloat16"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_is_described_as_torch_has_it(
    monkeypatch: pytest.MonkeyPatch, found: tuple[int, int], bfloat16: bool
) -> None:
    device = torch.device("cuda:1")

    def of(*values: object) -> object:
        return lambda asked: values[int(asked == device)]

    monkeypatch.setattr(torch.cuda, "mem_get_info", of((1, 2), (30, 40)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", of((1, 0), found))
    monkeypatch.setattr(torch.cuda, "get_device_name", of("another", "NVIDIA Something"))
    assert this_machine(device) == Machine("NVIDIA Something", found, 30, bfloat16=bfloat16)


FIELDS = ("frames", "interval", "kept_least", "kept", "windows", "cache_allocated", "cache_at_first")
FIELDS += ("weights_bytes", "activation_bytes", "growth_bytes", "step_bytes")


@pytest.mark.parametrize(
    ("network", "settings", "stream", "numbers", "in_view", "totals"),
    [
        (
            ("full", "bfloat16", 4, False),
            {"keyframe_interval": 1, "backend": "triton"},
            (378, 518, 2000),
            (2000, 1, 2000, 2000, 1, 8956903424, 7346290688, 2817301456, 526909440, 350834688, 220120464),
            (790364160, 6322913280, 1137180672, 524288000),
            (12125039568, 13172418033, 851968),
        ),
        (
            ("full", "float16", 4, True),
            {"keyframe_interval": 3, "backend": "flashinfer", "window": 20},
            (378, 518, 1000),
            (1000, 3, 339, 339, 1, 3276800000, 2982182912, 2947919968, 661127168, 130940928, 360603920),
            (790364160, 1975910400, 183435264, 88866816),
            (6591230048, 7262078056, 851968),
        ),
        (
            ("full", "float32", 2, False),
            {"backend": "sdpa", "cache_precision": 8},
            (280, 518, 5000),
            (5000, 16, 320, 320, 1, 2905332736, 2827475968, 4631774160, 947240960, 118259328, 521342976),
            (302505984, 2420047872, 75423744, 41943040),
            (8406491088, 9036815642, 435200),
        ),
        (
            ("ci", "float32", 4, False),
            {"scale_frames": 4, "keyframe_interval": 2, "backend": "paged", "window": 3},
            (42, 56, 33),
            (33, 2, 19, 19, 1, 13910016, 13393920, 40159376, 1166784, 331776, 778560),
            (442368, 331776, 442368, 466944),
            (54847952, 267938714, 61440),
        ),
        (
            ("ci", "float32", 1, True),
            {"keyframe_interval": 1, "backend": "auto"},
            (42, 56, 5),
            (5, 1, 5, 5, 1, 5578752, 5578752, 41973728, 1672512, 0, 853824),
            (552960, 0, 0, 30720),
            (49224992, 261686241, 43008),
        ),
        (
            ("ci", "bfloat16", 4, False),
            {
                "keyframe_interval": 1,
                "backend": "sdpa",
                "windowed": {"size": 16, "overlap_size": 5},
                "scale_frames": 3,
                "window": 4,
            },
            (56, 42, 100),
            (100, 1, 16, 16, 9, 17743872, 13025280, 29274896, 1037376, 1290240, 778560),
            (165888, 221184, 165888, 393216),
            (48309008, 261541946, 43008),
        ),
        (
            ("ci", "bfloat16", 4, False),
            {
                "keyframe_interval": 4,
                "backend": "paged",
                "windowed": {"size": 12, "overlap_keyframes": 2},
                "scale_frames": 3,
                "window": 4,
            },
            (56, 42, 200),
            (200, 4, 12, 12, 7, 13135872, 12988416, 29274896, 1037376, 138240, 778560),
            (165888, 221184, 92160, 294912),
            (43300688, 255493946, 43008),
        ),
        (
            ("mini", "float32", 4, False),
            {"scale_frames": 3, "backend": "sdpa", "flow": {"threshold": 2.0, "max_gap": 7}},
            (56, 70, 40),
            (40, 1, 9, 40, 1, 24346624, 18055168, 133071824, 4129728, 1892352, 3854016),
            (319488, 851968, 712704, 1310720),
            (161272464, 381323056, 57344),
        ),
        (
            ("mini", "float32", 4, False),
            {
                "scale_frames": 3,
                "backend": "paged",
                "flow": {"threshold": 2.0, "max_gap": 7},
                "windowed": {"size": 12, "overlap_size": 3},
            },
            (56, 70, 40),
            (40, 1, 9, 12, 5, 18087936, 18006016, 133071824, 4129728, 327680, 3854016),
            (319488, 851968, 24576, 393216),
            (155207568, 373108528, 57344),
        ),
        (
            ("ci", "float32", 4, False),
            {"keyframe_interval": 1, "backend": "sdpa", "window": 2, "scale_frames": 2},
            (28, 28, 900),
            (900, 1, 900, 900, 1, 63221760, 12890112, 40159376, 351808, 9513984, 284096),
            (122880, 122880, 33030144, 22118400),
            (112895120, 328838176, 61440),
        ),
    ],
)
def test_every_number_of_a_prediction(
    network: tuple[Any, ...],
    settings: dict[str, Any],
    stream: tuple[int, int, int],
    numbers: tuple[int, ...],
    in_view: tuple[int, ...],
    totals: tuple[int, int, int],
) -> None:
    """As a dry run prints them. What real streams hold is asked above; these say that nothing moved, on any backend."""
    name, *rest = network
    size = NetworkSize(CONFIGS[name], *rest)
    chosen = StreamSettings.model_validate(settings)
    found = estimate(size, chosen, *stream)
    assert {field: getattr(found, field) for field in FIELDS} == dict(zip(FIELDS, numbers, strict=True))
    assert found.cache_bytes == dict(zip(CACHE_KINDS, in_view, strict=True))
    peak, reserved, kept_frame = totals
    assert (found.peak_bytes, found.reserved_bytes, kept_frame_bytes(size, chosen)) == (peak, reserved, kept_frame)
    # Late, a store grows beside what a captured pass keeps; the libraries' workspaces, and a twentieth for rounding.
    late = found.cache_allocated + found.step_bytes + found.growth_bytes
    early = found.cache_at_first + found.activation_bytes
    assert reserved == int((found.weights_bytes + max(early, late) + 200_000_000) * 1.05)
