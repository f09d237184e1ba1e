"""A stream left in its middle and gone on with by another method gives the same predictions, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lingbot_eval.methods import model as model_module
from lingbot_eval.methods.lingbot_config import LingbotConfig, ModelSettings
from lingbot_eval.methods.model import LingbotMethod, Model
from lingbot_eval.methods.replay import ReplayConfig
from lingbot_eval.resources import shipped_weights
from lingbot_eval.stored.saved import Contents, put_back, taken
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings
from lingbot_eval.types import Frame, Prediction

COUNT, LEFT_AT = 14, 8
GENERATOR = np.random.default_rng(0)
FRAMES = [
    Frame(index, float(index), GENERATOR.integers(0, 255, (28, 42, 3), dtype=np.uint8), "noise")
    for index in range(COUNT)
]
STREAMS: dict[str, dict[str, Any]] = {
    "sdpa": {"backend": "sdpa", "keyframe_interval": 2},
    "paged": {"backend": "paged", "keyframe_interval": 2},
    "8 bits": {"backend": "sdpa", "keyframe_interval": 1, "cache_precision": 8},
    "flow": {"backend": "paged", "flow": FlowSettings(threshold=1.0, max_gap=3)},
}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(config({}))


def config(streaming: dict[str, Any]) -> LingbotConfig:
    settings = StreamSettings(window=3, scale_frames=2, **streaming)
    shipped = ModelSettings(config="ci", checkpoint="shipped")
    return LingbotConfig(kind="lingbot", model=shipped, streaming=settings, device="cpu")


def opened(model: Model, streaming: dict[str, Any]) -> LingbotMethod:
    method = LingbotMethod(config(streaming), model)
    method.open(SimpleNamespace(length=COUNT))  # type: ignore[arg-type]
    return method


def same(one: Prediction, other: Prediction) -> bool:
    arrays = [(p.camera_to_world, p.depth, p.depth_confidence, p.intrinsics) for p in (one, other)]
    return (
        one.index == other.index
        and one.frame_type is other.frame_type
        and all(map(np.array_equal, *arrays))
        and one.cost is not None
        and other.cost is not None
        and one.cost.cache_bytes == other.cost.cache_bytes
        and one.cost.cache_allocated == other.cost.cache_allocated
    )


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_goes_on_to_the_same_bits(model: Model, name: str) -> None:
    whole = list(opened(model, STREAMS[name]).predict(FRAMES))
    method, states = opened(model, STREAMS[name]), []

    def frames() -> Iterator[Frame | None]:
        yield FRAMES[0]
        yield None
        assert method.stream_state() is None  # the scale phase holds its frame back
        yield from FRAMES[1:LEFT_AT]
        yield None
        contents: Contents = []
        tree = taken(method.stream_state(), contents, {})
        states.append((json.loads(json.dumps(tree)), [content().copy() for content in contents]))
        yield from FRAMES[LEFT_AT:]

    # Leaving it changes nothing for the stream itself.
    assert all(map(same, method.predict(frames()), whole))
    ((tree, arrays),) = states
    assert all(array.dtype == np.uint8 for array in arrays)
    other = opened(model, STREAMS[name])
    other.go_on_from(put_back(tree, None, arrays.__getitem__, {}))
    rest = list(other.predict(FRAMES[LEFT_AT:]))
    assert len(rest) == COUNT - LEFT_AT
    assert all(map(same, rest, whole[LEFT_AT:]))
    # The next scene of the method begins at its own beginning.
    other.open(SimpleNamespace(length=COUNT))  # type: ignore[arg-type]
    assert all(map(same, other.predict(FRAMES[:4]), whole))


def test_the_record_says_what_streamed_and_what_it_held(model: Model) -> None:
    method = opened(model, STREAMS["sdpa"])
    assert [m.value for m in method.resources() if m.name.startswith("cache")] == [0], "before the first stream"
    *_, last = method.predict(FRAMES[:5])
    assert last.cost is not None
    weights = sum(p.numel() for p in model.network.parameters())
    sizes = {"weights": 4 * weights, "cache_allocated": last.cost.cache_allocated}
    sizes |= {f"cache_{kind}": size for kind, size in last.cost.cache_bytes.items()}
    found = {m.name: m.value for m in method.resources() if m.name.startswith(("weights", "cache"))}
    assert found == {name: size / 2**20 for name, size in sizes.items()}
    assert sizes["cache_allocated"] > sum(last.cost.cache_bytes.values())
    facts = dict(method.describe())
    assert facts == config(STREAMS["sdpa"]).model_dump(mode="json") | {
        "weights": model.weights,
        "trained": True,
        "checkpoint_sha256": hashlib.sha256(shipped_weights().read_bytes()).hexdigest(),
        "notes": list(model.notes),
        "precision": "float32",
        "device": "cpu",
        "backend": "sdpa",
        "attention": facts["attention"],
        "window": 3,
        "keyframe_interval": 2,
        "scale": "relative: the model's own, not metric",
        "pose": "camera-to-world, OpenCV axes",
        "depth": "along z",
    }
    method.open(SimpleNamespace(length=COUNT))  # type: ignore[arg-type]
    assert [m.value for m in method.resources() if m.name.startswith("cache")] == [0], "the last scene's are gone"


def test_what_auto_stands_for_is_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that half precision was chosen for, with a window of its own; weights that are none."""
    network = SimpleNamespace(trunk_dtype=torch.bfloat16, config=SimpleNamespace(window=48))
    source = SimpleNamespace(name="untrained", trained=False, sha256=None, notes=["a note"])
    known: Any = SimpleNamespace(network=network, source=source)
    settings = LingbotConfig(kind="lingbot", device="cpu", precision="auto")
    method = LingbotMethod(settings, known)
    asked: list[Any] = []
    monkeypatch.setattr(model_module, "resolve_precision", lambda name, _: {"auto": "bfloat16"}[name])
    monkeypatch.setattr(model_module, "warm_up", lambda begin, *given: asked.append(given) or 2.5)
    for length, interval in ((320, 1), (700, 3)):
        method.open(SimpleNamespace(length=length))  # type: ignore[arg-type]
        facts = method.describe()
        assert facts["keyframe_interval"] == interval
        assert (facts["trained"], facts["checkpoint_sha256"], facts["notes"]) == (False, None, ["a note"])
        assert (facts["window"], facts["precision"]) == (48, "bfloat16")
        assert facts["backend"] != "auto"
    assert method.warm_up(FRAMES[0]) == 2.5
    assert asked == [(FRAMES[0], 8, torch.device("cpu"))]


def test_a_model_is_taken_over_by_settings_that_load_the_same(model: Model) -> None:
    first = LingbotMethod(config({}), model)
    taken_over = config({"backend": "paged"}).create_from(first)
    assert isinstance(taken_over, LingbotMethod)
    assert taken_over._model() is model
    shipped = ModelSettings(config="ci", checkpoint="shipped")
    for change in (
        {"model": shipped.model_copy(update={"camera_iterations": 2})},
        {"model": shipped.model_copy(update={"checkpoint": None})},
        {"device": "cuda:1"},
        {"precision": "bfloat16"},
        {"heads": "tf32"},
        {"memory_gb": 8.0},
    ):
        assert config({}).model_copy(update=change).create_from(first) is None, change
    assert config({}).create_from(ReplayConfig(kind="replay", trajectory="x").create()) is None
