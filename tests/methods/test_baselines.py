"""Baselines on made-up frames: what they are worth where the truth is known, and what they say where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lingbot_eval as lb
from lingbot_eval.errors import ConfigError, DataError, DependencyError
from lingbot_eval.geometry.poses import relative, rotation_angle
from lingbot_eval.methods.base import METHODS, Method
from lingbot_eval.metrics.trajectory import score_trajectory
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame, Prediction, Trajectory

SIZE = (336, 252)


def scene(kind: str, frames: int, **options: Any) -> lb.Scene:
    dataset = lb.open_dataset("synthetic", frames=frames, width=SIZE[0], height=SIZE[1], **options)
    return dataset.scene(kind)


def opened(kind: str, of: Any = None, **settings: Any) -> Method:
    config = validated(METHODS.get(kind), {"kind": kind, **settings}, "test")
    method = config.on_this_machine().create()
    method.open(of.sequence if of is not None else scene("room", 4).sequence)
    return method


def predicted(kind: str, frames: Iterable[Frame], **settings: Any) -> tuple[list[Prediction], dict[str, Any]]:
    method = opened(kind, **settings)
    found = list(method.predict(iter(frames)))
    return found, dict(method.describe())


def posed(predictions: Iterable[Prediction]) -> Trajectory:
    there = [p for p in predictions if p.camera_to_world is not None]
    poses = np.stack([p.camera_to_world for p in there if p.camera_to_world is not None])
    return Trajectory(np.array([p.index for p in there]), np.array([p.timestamp for p in there]), poses)


def values(frames: list[Frame], predictions: list[Prediction]) -> dict[str, float | None]:
    truth = Trajectory(
        np.array([frame.index for frame in frames]),
        np.array([frame.timestamp for frame in frames]),
        np.stack([frame.camera_to_world for frame in frames if frame.camera_to_world is not None]),
    )
    found = score_trajectory(truth, posed(predictions), len(frames)).measurements
    return {m.name: m.value for m in found if m.variant in ("sim3", "")}


@pytest.fixture(scope="module")
def room() -> list[Frame]:
    return list(scene("room", 16, step=0.1))


@pytest.fixture(scope="module")
def walk() -> list[Frame]:
    """A longer way, from which a focal length can be told."""
    return list(scene("room", 24, step=0.15))


@pytest.fixture(scope="module")
def way(room: list[Frame]) -> tuple[list[Prediction], dict[str, Any]]:
    return predicted("vo", room)


def test_odometry_follows_a_camera_through_a_room(
    room: list[Frame], way: tuple[list[Prediction], dict[str, Any]]
) -> None:
    predictions, facts = way
    assert [p.index for p in predictions] == list(range(16))
    assert values(room, predictions)["coverage"] == 100.0
    assert (values(room, predictions)["ate_share_of_motionless"] or 100.0) < 5.0
    assert facts["camera"] == "the dataset's, calibrated; focal length held"
    assert facts["found"]["lost_frames"] == 0
    assert all(p.depth is None and p.cost is not None for p in predictions)


def test_odometry_is_the_same_twice(room: list[Frame], way: tuple[list[Prediction], dict[str, Any]]) -> None:
    again, _ = predicted("vo", room)
    np.testing.assert_array_equal(posed(again).camera_to_world, posed(way[0]).camera_to_world)


def test_before_a_plane_odometry_waits_until_the_frames_between_tell() -> None:
    """Two views of a wall have two explanations; the wrong one turns the first cameras by 7°."""
    frames = list(scene("corridor", 8, step=0.15))
    predictions, _ = predicted("vo", frames)
    truth, found = (posed(p).camera_to_world for p in (_as_predictions(frames), predictions))
    assert len(found) == 8
    wrong = relative(truth[:-1], truth[1:])[:, :3, :3].swapaxes(1, 2) @ relative(found[:-1], found[1:])[:, :3, :3]
    assert np.degrees(rotation_angle(wrong)).max() < 3.0


@pytest.mark.parametrize("spoil", ["dark", "blurred"])
def test_a_bad_picture_costs_no_frame(room: list[Frame], spoil: str) -> None:
    cv2 = pytest.importorskip("cv2")

    def spoiled(image: Any) -> Any:
        return (0.2 * image).astype(np.uint8) if spoil == "dark" else cv2.GaussianBlur(image, (0, 0), 3.0)

    frames = [replace(frame, image=spoiled(frame.image)) for frame in room]
    found = values(frames, predicted("vo", frames)[0])
    assert found["coverage"] == 100.0
    assert (found["ate_share_of_motionless"] or 100.0) < 8.0


def _as_predictions(frames: Iterable[Frame]) -> list[Prediction]:
    return [Prediction(frame.index, frame.timestamp, frame.camera_to_world) for frame in frames]


def test_a_camera_that_stands_stays_where_it_is(room: list[Frame]) -> None:
    still = [replace(room[0], index=index, timestamp=float(index)) for index in range(2)]
    predictions, _ = predicted("vo", still)
    np.testing.assert_array_equal(posed(predictions).camera_to_world, np.tile(np.eye(4), (2, 1, 1)))
    long = [replace(room[0], index=index, timestamp=float(index)) for index in range(36)]
    assert len(posed(predicted("vo", long)[0])) == 36, "standing costs no frame, however long"


TURNS = {
    "away": np.linspace(0, 25, 40),
    "there and back": np.concatenate(
        [np.linspace(0, 20, 12), np.linspace(20, 0, 12), np.zeros(3), np.linspace(2, 25, 12)]
    ),
}


@pytest.mark.parametrize("way", TURNS)
def test_a_camera_that_only_turns_is_where_it_stood(room: list[Frame], way: str) -> None:
    cv2 = pytest.importorskip("cv2")
    image, camera = room[0].image, room[0].intrinsics
    assert image is not None
    assert camera is not None
    frames = []
    for index, angle in enumerate(np.radians(TURNS[way])):
        (turn, _), pose = cv2.Rodrigues(np.array([0.0, angle, 0.0])), np.eye(4)
        picture = cv2.warpPerspective(image, camera @ turn @ np.linalg.inv(camera), SIZE, borderMode=cv2.BORDER_REFLECT)
        pose[:3, :3] = turn.T
        frames.append(replace(room[0], index=index, timestamp=float(index), image=picture, camera_to_world=pose))
    found = posed(predicted("vo", frames)[0])
    assert len(found) == len(frames)
    assert np.abs(found.positions).max() == 0
    true = np.stack([frame.camera_to_world for frame in frames if frame.camera_to_world is not None])
    apart = np.swapaxes(true[:, :3, :3], 1, 2) @ found.camera_to_world[:, :3, :3]
    assert np.degrees(rotation_angle(apart)).max() < 0.3


def test_standing_in_the_middle_moves_nothing(room: list[Frame]) -> None:
    order = [*range(8), 7, 7, 7, *range(8, 12)]
    frames = [replace(room[source], index=index, timestamp=float(index)) for index, source in enumerate(order)]
    predictions, _ = predicted("vo", frames)
    poses = posed(predictions).camera_to_world
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert steps[7:10].max() < 0.05 * np.median(steps)


@pytest.mark.parametrize("frames", [1, 2])
def test_few_images(room: list[Frame], frames: int) -> None:
    predictions, _ = predicted("vo", room[:frames])
    assert len(predictions) == frames
    np.testing.assert_array_equal(posed(predictions).camera_to_world[0], np.eye(4))


@pytest.mark.parametrize("side", [14, 28])
def test_images_too_small_for_features_have_no_pose_but_one(side: int) -> None:
    rng = np.random.default_rng(0)
    frames = [Frame(index, float(index), rng.integers(0, 255, (side, side, 3), np.uint8), "made") for index in range(4)]
    predictions, facts = predicted("vo", frames)
    assert [p.index for p in predictions] == [0, 1, 2, 3]
    assert len(posed(predictions)) == 1
    assert facts["found"]["lost_frames"] == 3


def test_lost_frames_have_no_pose_and_the_way_goes_on(room: list[Frame]) -> None:
    black = np.zeros_like(room[0].image)
    frames = [replace(frame, image=black) if frame.index in (9, 10) else frame for frame in room]
    predictions, facts = predicted("vo", frames)
    assert [p.index for p in predictions if p.camera_to_world is None] == [9, 10]
    assert facts["found"]["lost_frames"] == 2
    assert (values(room, predictions)["ate_share_of_motionless"] or 100.0) < 5.0, "no jump"


def test_another_place_is_lost_rather_than_a_jump(room: list[Frame]) -> None:
    other = list(scene("corridor", 3, step=0.1, seed=3))
    frames = [*room[:10], *(replace(f, index=10 + f.index, timestamp=1.0 + f.timestamp) for f in other)]
    predictions, _ = predicted("vo", frames)
    assert [p.index for p in predictions if p.camera_to_world is None] == [10, 11, 12]


def test_a_focal_length_that_nobody_gave_is_guessed_and_estimated(walk: list[Frame]) -> None:
    frames = [replace(frame, intrinsics=None) for frame in walk]
    predictions, facts = predicted("vo", frames)
    assert facts["camera"].startswith("guessed: focal length 0.7 of the longer side")
    assert facts["camera"].endswith("estimated along with the poses")
    true = walk[0].intrinsics
    assert true is not None
    # The guess is 2 % off; each estimate begins with what those before it found.
    assert facts["found"]["focal_px"] == pytest.approx(true[0, 0], rel=0.008)
    assert facts["found"]["focal_px"] != pytest.approx(0.7 * max(SIZE), abs=0.01), "the guess was kept"
    last = predictions[-1].intrinsics
    assert last is not None
    assert last[0, 0] == pytest.approx(facts["found"]["focal_px"], abs=0.01)
    assert last[0, 2] == (SIZE[0] - 1) / 2, "the principal point stays"


@pytest.mark.slow
def test_a_wrong_focal_length_is_mended_where_it_is_in_doubt(walk: list[Frame]) -> None:
    frames = walk
    true = frames[0].intrinsics
    assert true is not None
    short = np.where(np.eye(3, dtype=bool), true * [0.9, 0.9, 1.0], true)
    wrong = [replace(frame, intrinsics=short) for frame in frames]
    held, of_held = predicted("vo", wrong, intrinsics="fixed")
    mended, of_mended = predicted("vo", wrong, intrinsics="refined")
    assert of_held["found"]["focal_px"] == pytest.approx(short[0, 0], abs=0.01)
    assert of_mended["found"]["focal_px"] == pytest.approx(true[0, 0], rel=0.04)
    better, worse = (values(frames, found)["ate_rmse"] for found in (mended, held))
    assert better is not None
    assert worse is not None
    assert better < worse


@pytest.mark.parametrize(("kind", "module"), [("vo", "cv2"), ("sfm", "pycolmap")])
def test_a_missing_extra_is_one_line(kind: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=r"pip install 'lingbot-eval\[(baselines|sfm)\]'") as caught:
        validated(METHODS.get(kind), {"kind": kind}, "test").on_this_machine()
    assert "\n" not in str(caught.value)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="mapper"):
        validated(METHODS.get("sfm"), {"kind": "sfm", "mapper": "glomap"}, "test")
    with pytest.raises(ConfigError, match="intrinsics"):
        validated(METHODS.get("vo"), {"kind": "vo", "intrinsics": "guessed"}, "test")


def test_a_frame_without_an_image_is_refused(room: list[Frame]) -> None:
    for kind in ("vo", "sfm"):
        with pytest.raises(DataError, match=r"frame 0: .* needs images, found none"):
            predicted(kind, [replace(room[0], image=None)])


def test_floors_by_hand() -> None:
    times = [2.0, 2.5, 4.0]
    frames = [Frame(index, time, None, "none") for index, time in enumerate(times)]
    still, _ = predicted("motionless", frames)
    np.testing.assert_array_equal(posed(still).camera_to_world, np.tile(np.eye(4), (3, 1, 1)))
    moving, _ = predicted("constant_velocity", frames)
    np.testing.assert_array_equal(posed(moving).positions, [[0, 0, 0], [0, 0, 0.5], [0, 0, 2.0]])
    assert np.array_equal(posed(moving).camera_to_world[2, :3, :3], np.eye(3))


@pytest.fixture(scope="module")
def model() -> tuple[list[Frame], list[Prediction], dict[str, Any]]:
    frames = list(scene("room", 8, step=0.15))
    return frames, *predicted("sfm", frames)


def test_structure_from_motion_of_a_room(model: tuple[list[Frame], list[Prediction], dict[str, Any]]) -> None:
    frames, predictions, facts = model
    assert [p.index for p in predictions] == list(range(8))
    assert values(frames, predictions)["coverage"] == 100.0
    assert (values(frames, predictions)["ate_share_of_motionless"] or 100.0) < 3.0
    assert facts["camera"] == "the dataset's, calibrated; focal length held"
    assert facts["causal"].startswith("no")
    assert facts["found"]["models"] == [8]
    true, used = frames[0].intrinsics, predictions[0].intrinsics
    assert true is not None
    assert used is not None
    np.testing.assert_allclose(used, true, atol=1e-9)
    assert {p.cost.forward_s for p in predictions if p.cost is not None} == {predictions[0].cost.forward_s}  # type: ignore[union-attr]


def test_what_is_fixed_is_not_estimated_though_nobody_gave_it(room: list[Frame]) -> None:
    frames = [replace(frame, intrinsics=None) for frame in room[::3]]
    guess = {"vo": 0.7 * SIZE[0], "sfm": 1.2 * SIZE[0]}
    for kind, focal in guess.items():
        _, facts = predicted(kind, frames, intrinsics="fixed")
        assert facts["camera"].endswith("; focal length held")
        assert np.allclose(facts["found"]["focal_px"], focal, atol=0.01)


@pytest.mark.slow
def test_structure_from_motion_is_the_same_twice(
    model: tuple[list[Frame], list[Prediction], dict[str, Any]],
) -> None:
    frames, predictions, _ = model
    again, _ = predicted("sfm", frames)
    np.testing.assert_array_equal(posed(again).camera_to_world, posed(predictions).camera_to_world)


def test_images_that_belong_to_no_model_have_no_pose() -> None:
    frames = list(scene("room", 10, step=0.3))
    noise = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    frames[3] = replace(frames[3], image=noise)
    predictions, facts = predicted("sfm", frames, mapper="incremental")
    there = [p.index for p in predictions if p.camera_to_world is not None]
    assert [p.index for p in predictions] == list(range(10))
    assert 4 <= len(there) <= 9
    assert 3 not in there
    assert facts["found"]["models"][0] == len(there), "every model is named, the largest gives the poses"
    found = values([frame for frame in frames if frame.index in there], predictions)
    assert (found["ate_share_of_motionless"] or 100.0) < 3.0


def test_one_image_makes_no_structure(room: list[Frame]) -> None:
    with pytest.raises(DataError, match="expected two images at least, found 1"):
        predicted("sfm", room[:1])


def test_two_identical_images_make_no_structure(room: list[Frame]) -> None:
    with pytest.raises(DataError, match="no model of the 2 images"):
        predicted("sfm", [room[0], replace(room[0], index=1, timestamp=1.0)])


def test_a_run_of_all_baselines(tmp_path: Path) -> None:
    run = lb.run(
        {
            "name": "small",
            "datasets": [
                {
                    "name": "synthetic",
                    "scenes": ["room"],
                    "options": {"frames": 6, "width": SIZE[0], "height": SIZE[1], "step": 0.15},
                    "size": {"mode": "exact", "width": SIZE[0], "height": SIZE[1]},
                }
            ],
            "methods": [{"kind": kind} for kind in ("vo", "sfm", "motionless", "constant_velocity")],
        },
        out=tmp_path,
    )
    table = run.measurements()
    depth = table[(table["family"] == "depth") & (table["name"] == "abs_rel")]
    assert set(depth["method"]) == {"vo", "sfm", "motionless", "constant_velocity"}
    assert depth["value"].isna().all()
    assert set(depth["reason"]) == {"the method gives no depth"}
    ate = table[(table["name"] == "ate_share_of_motionless") & (table["variant"] == "sim3")].set_index("method")
    assert ate.loc["vo", "value"] < 5
    assert ate.loc["sfm", "value"] < 5
    assert ate.loc["motionless", "value"] == pytest.approx(100)
    assert "degenerate" in ate.loc["constant_velocity", "reason"]
