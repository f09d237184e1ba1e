"""Every setting of a kind of method has an effect: none is accepted, stated in the record and ignored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from test_replay import Recording

from lingbot_eval.errors import DataError
from lingbot_eval.geometry.structure import Structure
from lingbot_eval.methods import sfm, vo
from lingbot_eval.methods.base import METHODS
from lingbot_eval.methods.replay import ReplayMethod
from lingbot_eval.methods.replay_config import ReplayConfig
from lingbot_eval.types import Frame
from lingbot_eval.validation import validated

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
        yield Frame(index, float(index), np.zeros((240, 320, 3), np.uint8), "", intrinsics=K if given else None)


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
        self.focal, self.lost, self.relocated, self.points, self.keyframes = 1.0, 0, 0, 0, ()

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None: ...

    def add(self, image: object) -> None: ...

    def step(self, *_: object) -> tuple[()]:
        return ()

    def finish(self) -> tuple[()]:
        return ()

    def structure(self, camera: object, **asked: Any) -> Structure:
        type(self).asked = {"camera": camera, **asked}
        return Structure({0: np.eye(4)}, {0: K}, (1,), 5, 0.5)


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
    monkeypatch.setattr(vo, "Odometry", Seen)
    monkeypatch.setattr(vo, "opencv", lambda: SimpleNamespace(__version__="1"))
    method = method_of("vo", nominal=nominal, seed=7, **settings)
    list(method.predict(frames(given=given)))
    assert Seen.asked["seed"] == 7
    doubt = Seen.asked["doubt"]
    assert {"not": doubt == 0, "little": 0 < doubt < 0.15, "much": doubt > 0.15}[doubted], doubt
    assert ("estimated along" in method.describe()["camera"]) is (doubted != "not")


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
    monkeypatch.setattr(sfm, "pycolmap", lambda: SimpleNamespace(__version__="1"))
    monkeypatch.setattr(sfm, "Images", Seen)
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
