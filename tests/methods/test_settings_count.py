"""Every setting of a kind of method has an effect: none is accepted, stated in the record and ignored."""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from test_replay import Recording

import lingbot_eval as lb
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.geometry.structure import Structure
from lingbot_eval.methods import baselines
from lingbot_eval.methods import model as model_module
from lingbot_eval.methods.base import METHODS, BaseMethod, OpenMethod, WeightFile, _settings_type
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.replay import ReplayConfig, ReplayMethod
from lingbot_eval.model.build import PRECISIONS, resolve_precision
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame

FRAMES = 12
ROTATIONS = Rotation.from_rotvec([[0.1 + 0.05 * i, -0.4 + 0.02 * i, 0.7 - 0.06 * i] for i in range(FRAMES)])
POSITIONS = np.stack([np.arange(FRAMES), np.arange(FRAMES) % 3, np.arange(FRAMES) ** 1.5], axis=1)


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, Any]:
    """Settings of a replay in which everything differs: stamps a little late, depth in units of 2 mm, every number."""
    stamps = np.arange(FRAMES) / 10 + 0.015
    rows = np.column_stack([stamps, POSITIONS, ROTATIONS.as_quat()])
    np.savetxt(tmp_path / "a.txt", rows)
    np.savetxt(tmp_path / "b.txt", rows[:, [0, 2, 1, 3, 4, 5, 6, 7]])
    for number in range(0, FRAMES, 2):
        (tmp_path / "depth").mkdir(exist_ok=True)
        depth = np.full((3, 4), 1000 + number, np.uint16)
        Image.fromarray(depth).save(tmp_path / "depth" / f"{number:06d}.png")
    return {"trajectory": f"{tmp_path}/a.txt", "depth": f"{tmp_path}/depth"}


def outcome(settings: dict[str, Any]) -> list[tuple[int, list[float] | None, float | None]] | str:
    """All that a replay predicts, or what it says instead."""
    method = ReplayMethod(validated(ReplayConfig, {"kind": "replay", **settings}, "test"))
    sequence = Recording(FRAMES)
    try:
        method.open(sequence)
        return [
            (
                found.index,
                None if found.camera_to_world is None else found.camera_to_world.ravel().tolist(),
                None if found.depth is None else float(found.depth[0, 0]),
            )
            for found in method.predict(sequence.frames(images=False))
        ]
    except DataError as error:
        return str(error)


REPLAY: dict[str, Any] = {
    "trajectory": None,
    "format": "kitti",
    "max_time_difference_s": 0.01,
    "time_scale": 2.0,
    "time_offset": 0.1,
    "poses": "world-to-camera",
    "quaternion": "wxyz",
    "handedness": "left",
    "to_camera": "opengl",
    "depth": None,
    "depth_units_per_metre": 500.0,
    "frame_numbers": {"start": 2, "stride": 2},
}


def test_every_setting_of_a_replay_is_here() -> None:
    assert set(REPLAY) == set(ReplayConfig.model_fields) - {"kind", "name"}


@pytest.mark.parametrize("name", REPLAY)
def test_every_setting_of_a_replay_changes_what_is_replayed(name: str, saved: dict[str, Any], tmp_path: Path) -> None:
    value = f"{tmp_path}/b.txt" if name == "trajectory" else REPLAY[name]
    assert outcome(saved | {name: value}) != outcome(saved)


def test_quaternions_and_units_are_what_the_settings_say(saved: dict[str, Any]) -> None:
    plain = outcome(saved)
    assert not isinstance(plain, str)
    assert [depth for _, _, depth in plain[:3]] == [1.0, None, pytest.approx(1.002)]
    for order, columns in (("xyzw", [0, 1, 2, 3]), ("wxyz", [1, 2, 3, 0])):
        found = outcome(saved | {"quaternion": order, "depth_units_per_metre": 500.0})
        assert not isinstance(found, str)
        expected = Rotation.from_quat(ROTATIONS.as_quat()[:, columns]).as_matrix()
        poses = np.array([pose for _, pose, _ in found]).reshape(-1, 4, 4)
        np.testing.assert_allclose(poses[:, :3, :3], expected, atol=1e-9)
        np.testing.assert_allclose(poses[:, :3, 3], POSITIONS)
        assert [depth for _, _, depth in found[:3]] == [2.0, None, pytest.approx(2.004)]


K = np.array([[300.0, 0, 160], [0, 310.0, 120], [0, 0, 1]])


def frames(*, given: bool, count: int = 2) -> Iterator[Frame]:
    for index in range(count):
        Clock.now += 100  # to wait for a frame is no cost of the method
        yield Frame(index, 3 + index / 8, np.zeros((240, 320, 3), np.uint8), "", intrinsics=K if given else None)


def method_of(kind: str, *, nominal: bool = False, **settings: Any) -> Any:
    found = validated(METHODS.get(kind), {"kind": kind, **settings}, "test").create()
    scene = SimpleNamespace(facts=lambda: {"intrinsics_source": "nominal"} if nominal else {})
    found.open(scene)
    return found


class Seen:
    """Stands where odometry or COLMAP would: what was it asked to do?"""

    asked: dict[str, Any]

    def __init__(self, cv2: object = None, doubt: float = 0.0, seed: int = 0) -> None:
        type(self).asked = {"doubt": doubt, "seed": seed}
        self.focal, self.lost, self.relocated, self.points, self.keyframes = 1.1, 2, 3, 400, range(5)
        self.now = -1

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None: ...

    def add(self, image: object) -> None: ...

    def step(self, index: int, *_: object) -> Iterator[tuple[int, np.ndarray | None]]:
        """Every frame is decided with the one after it."""
        Clock.now += 4 + index
        if index:
            yield index - 1, np.eye(4)

    def finish(self) -> Iterator[tuple[int, np.ndarray | None]]:
        yield 1, None

    def structure(self, camera: object, **asked: Any) -> Structure:
        type(self).asked = {"camera": camera, **asked}
        Clock.now += 6
        return Structure({0: np.eye(4)}, {0: K}, (7, 2), 500, 0.123456)


class Clock:
    """Moves where something is done; see `Seen`, and `frames`."""

    now = 0.0

    @classmethod
    def perf_counter(cls) -> float:
        return cls.now


@pytest.mark.parametrize(
    ("settings", "given", "nominal", "doubted"),
    [
        ({}, True, False, "not"),
        ({}, True, True, "little"),
        ({}, False, False, "much"),
        ({"intrinsics": "refined"}, True, False, "little"),
        ({"intrinsics": "fixed"}, True, True, "not"),
        ({"intrinsics": "fixed"}, False, False, "not"),
    ],
)
def test_odometry_doubts_a_focal_length_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], given: bool, nominal: bool, doubted: str
) -> None:
    """A guess is doubted more than what a maker of cameras says."""
    monkeypatch.setattr(baselines, "Odometry", Seen)
    monkeypatch.setattr(baselines, "opencv", lambda: SimpleNamespace(__version__="1"))
    method = method_of("vo", nominal=nominal, seed=7, **settings)
    list(method.predict(frames(given=given)))
    assert Seen.asked["seed"] == 7
    doubt = Seen.asked["doubt"]
    assert doubt == {"not": 0, "little": 0.05, "much": 0.3}[doubted], "standard deviation as a share of it"
    assert ("estimated along" in method.describe()["camera"]) is (doubted != "not")


@pytest.mark.parametrize("kind", ["vo", "sfm"])
def test_the_next_scene_knows_nothing_of_the_last(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(baselines, "Odometry", Seen)
    monkeypatch.setattr(baselines, "Images", Seen)
    for module in ("opencv", "pycolmap"):
        monkeypatch.setattr(baselines, module, lambda: SimpleNamespace(__version__="1"))
    method = method_of(kind, nominal=True)
    list(method.predict(frames(given=True)))
    assert "estimated along" in method.describe()["camera"]
    assert "found" in method.describe()
    method.open(SimpleNamespace(facts=dict))
    assert "found" not in method.describe()
    list(method.predict(frames(given=True)))
    assert method.describe()["camera"] == "the dataset's, calibrated; focal length held"


@pytest.mark.parametrize(
    ("settings", "given", "nominal", "refine"),
    [
        ({}, True, False, False),
        ({"mapper": "incremental", "seed": 9}, True, True, True),
        ({"mapper": "global"}, False, False, True),
        ({"intrinsics": "fixed"}, True, True, False),
        ({"intrinsics": "refined", "seed": 3}, True, False, True),
    ],
)
def test_structure_from_motion_is_asked_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], given: bool, nominal: bool, refine: bool
) -> None:
    monkeypatch.setattr(baselines, "pycolmap", lambda: SimpleNamespace(__version__="1"))
    monkeypatch.setattr(baselines, "Images", Seen)
    method = method_of("sfm", nominal=nominal, **settings)
    found = list(method.predict(frames(given=given)))
    assert [prediction.camera_to_world is None for prediction in found] == [False, True]
    asked = dict(Seen.asked)
    camera = asked.pop("camera")
    assert (camera is not None) is given
    assert asked == {
        "refine": refine,
        "mapper": settings.get("mapper", "global"),
        "seed": settings.get("seed", 0),
    }


def test_odometry_says_what_it_found_and_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "Odometry", Seen)
    monkeypatch.setattr(baselines, "opencv", lambda: SimpleNamespace(__version__="4.9"))
    monkeypatch.setattr(baselines, "time", Clock)
    method = method_of("vo")
    assert method.describe()["camera"] == "not known before the first frame"
    found = list(method.predict(frames(given=True)))
    assert [(p.index, p.timestamp, p.camera_to_world is None) for p in found] == [(0, 3.0, False), (1, 3.125, True)]
    assert [p.cost and p.cost.forward_s for p in found] == [4.0, 5.0]
    # The focal length as it is estimated by then, of both axes; the principal point stays.
    np.testing.assert_allclose(found[0].intrinsics, [[330.0, 0, 160], [0, 341.0, 120], [0, 0, 1]])
    assert method.warm_up(next(frames(given=True))) == 4.0, "seconds"
    facts = method.describe()
    assert facts["opencv"] == "4.9"
    assert facts["camera"] == "the dataset's, calibrated; focal length held"
    assert facts["found"] == {
        "focal_px": 330.0,
        "keyframes": 5,
        "points": 400,
        "lost_frames": 2,
        "frames_found_again": 3,
    }
    method.open(SimpleNamespace(facts=dict))
    assert "found" not in method.describe(), "of another scene"
    guessed = list(method.predict(frames(given=False)))
    # 0.7 of the longer side, and the middle of the picture.
    np.testing.assert_allclose(guessed[0].intrinsics, [[246.4, 0, 159.5], [0, 246.4, 119.5], [0, 0, 1]])
    assert method.describe()["found"]["focal_px"] == pytest.approx(1.1 * 0.7 * 320)


def test_structure_from_motion_says_what_it_found_and_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "pycolmap", lambda: SimpleNamespace(__version__="3.12"))
    monkeypatch.setattr(baselines, "Images", Seen)
    monkeypatch.setattr(baselines, "time", Clock)
    method = method_of("sfm", nominal=True)
    found = list(method.predict(frames(given=True)))
    assert [(p.index, p.timestamp) for p in found] == [(0, 3.0), (1, 3.125)]
    assert [p.intrinsics is None for p in found] == [False, True]
    assert [p.cost and p.cost.forward_s for p in found] == [3.0, 3.0], "the whole by the frames"
    facts = method.describe()
    assert facts["pycolmap"] == "3.12"
    assert facts["camera"] == "the dataset's, nominal; focal length estimated along with the poses"
    assert facts["found"] == {"models": [7, 2], "points": 500, "reprojection_px": 0.1235, "focal_px": [300.0, 310.0]}
    # Frames that differ have no camera in common.
    mixed = [next(frames(given=True)), *list(frames(given=True))[1:]]
    mixed[1] = replace(mixed[1], intrinsics=K + np.diag([1.0, 0, 0]))
    list(method.predict(mixed))
    assert Seen.asked["camera"] is None
    assert method.describe()["camera"].startswith("COLMAP's guess, as the frames' own differ; focal length estimated")
    # Nor have they where one of them has none.
    assert len(list(method.predict([next(frames(given=True)), *list(frames(given=False))[1:]]))) == 2
    assert Seen.asked["camera"] is None
    assert method.describe()["camera"].startswith("COLMAP's guess, as the frames' own differ; focal length estimated")
    assert list(method.predict(())) == [], "nothing comes of nothing"
    list(method.predict(frames(given=False)))
    assert method.describe()["camera"].startswith("COLMAP's guess; focal length estimated")


USUAL: dict[str, dict[str, Any]] = {
    "lingbot": {"device": "auto", "precision": "float32", "heads": "auto", "memory_gb": None}
    | {"model": {"config": "full", "checkpoint": None, "seed": 0, "camera_iterations": 4, "point_head": False}}
    | {
        "streaming": {"scale_frames": 8, "window": None, "keyframe_interval": "auto", "flow": None, "windowed": None}
        | {"backend": "auto", "cache_precision": None}
    },
    "external": {"command": ["p"], "env": {}, "mode": "pipe", "timeout_s": 3600, "frame_timeout_s": 60}
    | {"version": "unknown", "files": [], "gpu": 1, "causal": True, "depth": True},
    "replay": {"trajectory": "p", "format": "auto", "max_time_difference_s": 0.02, "time_scale": None}
    | {"time_offset": 0, "poses": "camera-to-world", "quaternion": None, "handedness": "right", "to_camera": None}
    | {"depth": None, "depth_units_per_metre": 1000, "frame_numbers": None},
    "vo": {"intrinsics": "auto", "seed": 0},
    "sfm": {"intrinsics": "auto", "seed": 0, "mapper": "global"},
    "motionless": {},
    "constant_velocity": {},
}
"""What stands where nothing is asked, as the documentation has it."""
NEEDED: dict[str, dict[str, Any]] = {"external": {"command": ["p"]}, "replay": {"trajectory": "p"}}


@pytest.mark.parametrize("kind", USUAL)
def test_where_nothing_is_asked_the_usual_is_set(kind: str) -> None:
    settings = validated(METHODS.get(kind), {"kind": kind, **NEEDED.get(kind, {})}, "test")
    assert settings.model_dump(mode="json") == {"kind": kind, "name": kind, **USUAL[kind]}


@pytest.mark.parametrize(
    ("kind", "setting", "refused", "taken"),
    [
        ("lingbot", "memory_gb", (0.7, float("inf")), (0.71, 80)),
        ("lingbot", "device", ("gpu", "cuda:", "cuda:x", "cuda0", "mps"), ("cpu", "cuda", "cuda:11")),
        ("lingbot", "model.seed", (-1,), (0,)),
        ("lingbot", "model.camera_iterations", (0,), (1,)),
        ("external", "timeout_s", (0, float("inf")), (0.1,)),
        ("external", "frame_timeout_s", (0, float("inf")), (0.1,)),
        ("external", "gpu", (-1,), (0,)),
        ("external", "version", ("",), ("0",)),
        ("external", "command", ((), "p -x", ("",), ("p\0",)), (("p", "-x"),)),
        ("external", "files", (("",), ("a\0",)), ((), ("a", "b"))),
        ("external", "env", ({"": "x"}, {"A=": "x"}, {"A\0": "x"}, {"A": "x\0"}), ({"A": ""}, {"A": "b=c"})),
        ("replay", "max_time_difference_s", (-0.01, float("inf")), (0,)),
        ("replay", "time_scale", (0, float("inf")), (1e-9,)),
        ("replay", "time_offset", (float("nan"), float("inf")), (-3.5,)),
        ("replay", "depth_units_per_metre", (0, float("inf")), (0.5,)),
        ("replay", "depth", ("", "{scen}"), ("d/{dataset}/{scene}",)),
        ("replay", "trajectory", ("",), ("{scene}",)),
        ("replay", "frame_numbers", ({"start": -1}, {"stride": 0}), ({"start": 0, "stride": 1}, {"start": 3})),
        ("vo", "seed", (-1, 2**31), (0, 2**31 - 1)),
        ("sfm", "seed", (-1, 2**31), (0, 2**31 - 1)),
        *((kind, "name", ("",), ("x",)) for kind in USUAL),
    ],
)
def test_the_first_value_that_cannot_be_is_refused_and_the_last_one_that_can_is_taken(
    kind: str, setting: str, refused: tuple[object, ...], taken: tuple[object, ...]
) -> None:
    section, _, name = setting.rpartition(".")
    for value in (*refused, *taken):
        given = {section: {name: value}} if section else {name: value}
        whole = {"kind": kind, **NEEDED.get(kind, {}), **given}
        if value in taken:
            validated(METHODS.get(kind), whole, "test")
            continue
        with pytest.raises(ConfigError, match=re.escape(f"test: {setting}")):
            validated(METHODS.get(kind), whole, "test")


def test_every_setting_of_the_baselines_is_here() -> None:
    for kind, known in (("vo", {"intrinsics", "seed"}), ("sfm", {"mapper", "intrinsics", "seed"})):
        assert set(METHODS.get(kind).model_fields) - {"kind", "name"} == known


MODEL = {"kind": "lingbot", "device": "cpu", "model": {"config": "ci"}, "streaming": {"scale_frames": 3}}
LINGBOT: dict[str, tuple[str, object]] = {
    "seed": ("model", 1),
    "checkpoint": ("model", "shipped"),
    "camera_iterations": ("model", 1),
    "precision": ("", "bfloat16"),
    "scale_frames": ("streaming", 5),
    "window": ("streaming", 1),
    "keyframe_interval": ("streaming", 3),
    "flow": ("streaming", {"threshold": 1e6, "max_gap": 3}),
    "windowed": ("streaming", {"size": 5}),
    "cache_precision": ("streaming", 8),
}
"""By the section in which it stands. What is not here changes no number on a CPU, or is `config`: another network."""


@pytest.fixture(scope="module")
def seen() -> list[Frame]:
    rng = np.random.default_rng(0)
    return [Frame(n, n / 10, rng.integers(0, 255, (28, 42, 3)).astype(np.uint8), "") for n in range(9)]


def streamed(settings: dict[str, Any], seen: list[Frame]) -> np.ndarray:
    """Poses and a pixel of depth of every frame."""
    method = validated(METHODS.get("lingbot"), settings, "test").create()
    method.open(SimpleNamespace(length=len(seen)))  # type: ignore[arg-type]
    found = [(p.camera_to_world, p.depth) for p in method.predict(seen)]
    return np.array([[*pose.ravel(), depth[3, 5]] for pose, depth in found if pose is not None and depth is not None])


def test_every_setting_of_the_model_changes_what_it_predicts(seen: list[Frame]) -> None:
    plain = streamed(MODEL, seen)
    np.testing.assert_array_equal(streamed(MODEL, seen), plain)
    for name, (section, value) in LINGBOT.items():
        changed = {**MODEL, section: {**MODEL[section], name: value}} if section else {**MODEL, name: value}  # type: ignore[dict-item]
        other = streamed(changed, seen)
        assert other.shape == plain.shape
        assert np.abs(other - plain).max() > 1e-6, f"{name} changes nothing"


def test_every_setting_of_the_model_is_here() -> None:
    settings = METHODS.get("lingbot").model_fields
    fields = set(settings) | set(settings["model"].annotation.model_fields)  # type: ignore[union-attr]
    fields |= set(settings["streaming"].annotation.model_fields)  # type: ignore[union-attr]
    assert fields - set(LINGBOT) == {
        *("kind", "name", "model", "streaming", "config"),
        *("device", "memory_gb", "heads", "backend", "point_head"),
    }


class FakeModel:
    """Stands where weights would be loaded; counts how often they were."""

    loaded = 0

    def __init__(self, settings: LingbotConfig) -> None:
        type(self).loaded += 1
        device = torch.device(settings.device)
        precision = PRECISIONS[resolve_precision(settings.precision, device)]
        self.network = SimpleNamespace(trunk_dtype=precision)


@pytest.mark.parametrize(
    ("changes", "loads"),
    [
        ({}, 1),
        ({"name": "other", "streaming": {"window": 3, "cache_precision": 8}}, 1),
        ({"model": {"config": "ci", "seed": 1}}, 2),
        ({"model": {"config": "ci", "camera_iterations": 1}}, 2),
        ({"precision": "bfloat16"}, 2),
        ({"heads": "tf32"}, 2),
        ({"memory_gb": 8.0}, 2),
        ({"device": "cuda:1"}, 2),
    ],
)
def test_weights_are_loaded_again_only_for_another_model(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], loads: int
) -> None:
    monkeypatch.setattr(model_module, "Model", FakeModel)
    monkeypatch.setattr(model_module, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(FakeModel, "loaded", 0)
    methods = OpenMethod()
    for settings in (MODEL, MODEL, {**MODEL, **changes}):
        method = methods.get(validated(METHODS.get("lingbot"), settings, "test"))
        method.open(SimpleNamespace(length=9))  # type: ignore[arg-type]
    assert FakeModel.loaded == loads
    # Nothing is kept once it is closed, nor of weights that have lost bits on the way.
    weights = weakref.ref(method._loaded)  # type: ignore[attr-defined]
    methods.close()
    assert weights() is None
    method = methods.get(validated(METHODS.get("lingbot"), MODEL, "test"))
    method.open(SimpleNamespace(length=9))  # type: ignore[arg-type]
    assert FakeModel.loaded == loads + 1
    method._loaded.network.trunk_dtype = torch.bfloat16  # type: ignore[attr-defined]
    method.open(SimpleNamespace(length=9))  # type: ignore[arg-type]
    assert FakeModel.loaded == loads + 2


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_every_setting_of_the_model_reaches_what_loads_it(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    asked: dict[str, Any] = {}
    network = SimpleNamespace(choose_heads=lambda heads: asked.update(heads=heads), leaves_float16=None)
    source = SimpleNamespace(name="w.pt", notes=["a note"])

    def build(config: str, **settings: Any) -> tuple[Any, Any]:
        asked.update(config=config, **settings)
        return network, source

    monkeypatch.setattr(model_module, "build_model", build)
    monkeypatch.setattr(model_module, "resolve_checkpoint", lambda name: asked.update(resolved=name))
    monkeypatch.setattr(model_module, "choose_device", torch.device)
    monkeypatch.setattr(model_module, "limit_memory", lambda device, size: asked.update(limit=(str(device), size)))
    settings = {"config": "mini", "checkpoint": "w.pt", "seed": 5, "point_head": True, "camera_iterations": 2}
    given = {"model": settings, "device": "cuda:1", "precision": precision, "heads": "tf32", "memory_gb": 24.5}
    model = model_module.Model(validated(LingbotConfig, {"kind": "lingbot", **given}, "test"))
    assert asked == {
        "config": "mini",
        "checkpoint": "w.pt",
        "resolved": "w.pt",
        "seed": 5,
        "point_head": True,
        "device": torch.device("cuda:1"),
        "precision": "float16" if precision == "auto" else "bfloat16",
        "heads": "tf32",
        "limit": ("cuda:1", 24_500_000_000),
    }
    assert network.leaves_float16 is (precision == "auto"), "what somebody asked for is not left"
    assert (model.config, model.weights, model.device, model.notes) == ("mini", "w.pt", "cuda:1", ("a note",))
    asked.clear()
    model_module.Model(validated(LingbotConfig, {"kind": "lingbot", **given, "device": "cpu"}, "test"))
    assert "limit" not in asked, "of a GPU alone"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"weights": "shipped"}, {"model": {"config": "ci", "checkpoint": "shipped"}}),
        ({"weights": "w.pt"}, {"model": {"config": "full", "checkpoint": "w.pt"}}),
        (
            {"weights": None, "config": "mini", "seed": 7, "device": "cuda:1", "precision": "bfloat16"},
            {
                "model": {"config": "mini", "checkpoint": None, "seed": 7},
                "device": "cuda:1",
                "precision": "bfloat16",
            },
        ),
        (
            {"weights": "w.pt", "config": "ci", "backend": "paged", "cache_precision": 8},
            {
                "model": {"config": "ci", "checkpoint": "w.pt"},
                "streaming": {"backend": "paged", "cache_precision": 8},
            },
        ),
    ],
)
def test_load_model_asks_for_what_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    monkeypatch.setattr(model_module, "Model", lambda settings: settings)
    found: Any = model_module.load_model(**given)
    assert found == validated(LingbotConfig, {"kind": "lingbot", "precision": "float32", **expected}, "test")


@pytest.mark.parametrize(
    ("device", "memory_gb", "preset", "words"),
    [
        ("cpu", None, "16GB", ""),
        ("cuda:0", None, "16GB", "; try --fit 16GB"),
        ("cuda:1", 12.0, "8GB", "; try --fit 8GB"),
        ("cuda:0", 6.0, None, "; no smaller preset is known: use smaller images or windows"),
    ],
)
def test_where_memory_lacks_a_smaller_card_is_named(
    monkeypatch: pytest.MonkeyPatch, device: str, memory_gb: float | None, preset: str | None, words: str
) -> None:
    def properties(device: str) -> Any:
        assert device == "cuda:0"
        return SimpleNamespace(total_memory=24_000_000_000)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    settings = {"kind": "lingbot", "device": device, "memory_gb": memory_gb}
    config = validated(LingbotConfig, settings, "test")
    assert config.when_memory_lacks == words
    assert config.leaves_the_cpu_free is (device != "cpu")


def test_windows_alone_save_no_streams_and_untrained_weights_have_their_seed() -> None:
    plain = validated(LingbotConfig, {"kind": "lingbot", "model": {"seed": 3}}, "test")
    windows = validated(LingbotConfig, {"kind": "lingbot", "streaming": {"windowed": {"size": 32}}}, "test")
    assert (plain.saves_streams, windows.saves_streams) == (True, False)
    assert plain.weights() == WeightFile("untrained (seed 3)", None)


@pytest.mark.parametrize("head", [False, True])
def test_weights_are_checked_as_those_of_the_network_and_known_by_their_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: bool
) -> None:
    file = tmp_path / "w.pt"
    file.write_bytes(b"weights")
    checked: list[Any] = []
    monkeypatch.setattr(
        "lingbot_eval.model.build.check_checkpoint", lambda *given, point_head: checked.append((*given, point_head))
    )
    model = {"config": "mini", "checkpoint": str(file), "point_head": head}
    digest = hashlib.sha256(b"weights").hexdigest()
    found = validated(LingbotConfig, {"kind": "lingbot", "model": model}, "test").weights()
    assert found == WeightFile(f"w.pt, SHA-256 {digest}", digest)
    assert checked == [("mini", file, head)]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"config": "ci", "checkpoint": "lingbot-map"}, "'lingbot-map' is of config 'full'.* found config 'ci'"),
        ({"config": "mini", "checkpoint": "lingbot-map-long"}, "is of config 'full'.* found config 'mini'"),
        ({"config": "full", "checkpoint": "shipped"}, "'shipped' is of config 'ci'.* found config 'full'"),
        ({"config": "ci", "checkpoint": "shipped", "point_head": True}, "without a point head.* point_head true"),
        ({"config": "full", "checkpoint": "lingbot-map"}, None),
        ({"config": "ci", "checkpoint": "shipped"}, None),
        ({"config": "mini", "checkpoint": "w.pt", "point_head": True}, None),
        ({"config": "ci", "checkpoint": None, "point_head": True}, None),
    ],
)
def test_weights_that_have_a_name_are_of_one_network(model: dict[str, Any], says: str | None) -> None:
    if says is None:
        validated(LingbotConfig, {"kind": "lingbot", "model": model}, "test")
        return
    with pytest.raises(ConfigError, match=says):
        validated(LingbotConfig, {"kind": "lingbot", "model": model}, "test")


def external(**settings: Any) -> Any:
    return validated(METHODS.get("external"), {"kind": "external", "command": ["p"], **settings}, "test")


def test_a_program_is_known_by_its_version_and_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode())
    assert external().weights() == WeightFile("version unknown", None)
    assert external(version="1.2").weights() == WeightFile("version 1.2", None)
    names = ["~/two", f"{tmp_path}/one"]
    whole = "".join(f"{name}\0{hashlib.sha256(name[-3:].encode()).hexdigest()}\0" for name in names)
    digest = hashlib.sha256(whole.encode()).hexdigest()
    assert external(files=names).weights() == WeightFile(f"version unknown, files {digest[:12]}", digest)
    with pytest.raises(ConfigError, match=r"^method 'mine': files: ~/three: .*; list files that are there$"):
        external(name="mine", files=["~/two", "~/three"]).weights()


def test_a_program_is_looked_for_where_it_will_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_text("#!/bin/sh\n")
    (tmp_path / "p").chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    settings = external(env={"PATH": str(tmp_path)})
    assert settings.on_this_machine() is settings
    with pytest.raises(ConfigError, match="method 'external': no program 'p' that can be run"):
        external().on_this_machine()
    monkeypatch.setenv("PATH", str(tmp_path))
    external().on_this_machine()
    with pytest.raises(ConfigError, match="no program 'p'"):
        external(env={"PATH": "/nowhere"}).on_this_machine()


def test_what_a_plan_asks_of_a_program() -> None:
    assert external(command=["a b", "-c", "x;y"]).runs_command == "'a b' -c 'x;y'"
    assert [external(gpu=count).leaves_the_cpu_free for count in (0, 1, 2)] == [False, True, True]
    assert [external(depth=gives).gives_depth for gives in (True, False)] == [True, False]


@pytest.mark.parametrize("kind", ["vo", "sfm", "motionless", "constant_velocity"])
def test_what_a_plan_asks_of_a_baseline(kind: str) -> None:
    settings = validated(METHODS.get(kind), {"kind": kind}, "test")
    floor = kind in ("motionless", "constant_velocity")
    assert settings.needs_images is not floor
    assert settings.motionless is (kind == "motionless")
    assert settings.stream_key(9) == (() if floor else None)
    assert (settings.gives_depth, settings.repeatable, settings.runs_command) == (False, True, None)
    assert (settings.saves_streams, settings.leaves_the_cpu_free) == (False, False)
    assert (settings.weights(), list(settings.input_files("d", "s")), settings.when_memory_lacks) == (None, [], "")


def test_what_a_plan_asks_of_a_method_of_a_plugin() -> None:
    class Mine(BaseMethod):
        class Settings(lb.Settings):
            name: str = "of its own"
            step: float = 2.5

    plain = _settings_type("mine_of_settings", Mine)
    settings: Any = validated(plain, {"kind": "mine_of_settings"}, "test")
    assert settings.model_dump() == {"kind": "mine_of_settings", "name": "mine_of_settings", "step": 2.5}
    assert (settings.needs_images, settings.gives_depth, settings.stream_key(9)) == (True, True, None)
    assert settings.create().describe() == settings.model_dump()
    for wrong in ({"kind": "other"}, {"name": ""}, {"steps": 1}):
        with pytest.raises(ConfigError):
            validated(plain, {"kind": "mine_of_settings", **wrong}, "test")

    class Blind(Mine):
        needs_images, gives_depth, causal = False, False, True

    blind = _settings_type("blind_of_settings", Blind)()
    assert (blind.needs_images, blind.gives_depth, blind.stream_key(9)) == (False, False, ())

    class Undecided(Mine):
        @property
        def needs_images(self) -> bool:  # type: ignore[override]
            return self.settings.step > 9

    assert _settings_type("undecided_of_settings", Undecided)().needs_images is True, "only an instance knows: it may"

    class Taken(BaseMethod):
        class Settings(lb.Settings):
            weights: int = 1

    with pytest.raises(ConfigError, match="method 'taken': a setting cannot be called 'weights'"):
        _settings_type("taken", Taken)
