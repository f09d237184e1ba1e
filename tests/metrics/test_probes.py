"""Standstill, turning on the spot, coming back: what is measured is what was put in, and reasons where nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.geometry.poses import relative, rotation_angle
from lingbot_eval.metrics import probes
from lingbot_eval.metrics.base import SceneContext, ScoredScene
from lingbot_eval.metrics.probes import ProbeFamily, ProbeSettings, score_probes
from lingbot_eval.types import Trajectory

FRAMES = 90


def walk(motion: str) -> Trajectory:
    """The synthetic room's reference; nothing is rendered."""
    sequence = open_adapter("synthetic", None, {"frames": FRAMES, "motion": motion}).open("room", Selection())
    reference = sequence.reference()
    assert reference is not None
    return reference


def in_another_world(reference: Trajectory) -> Trajectory:
    """The same path, turned, moved and a quarter of the size."""
    turn, poses = Rotation.random(random_state=0).as_matrix(), reference.camera_to_world.copy()
    poses[:, :3, :3] = turn @ poses[:, :3, :3]
    poses[:, :3, 3] = 0.25 * poses[:, :3, 3] @ turn.T + [1.0, 2.0, 3.0]
    return replace(reference, camera_to_world=poses)


def found(reference: Trajectory, estimate: Trajectory, **settings: float) -> dict[str, float | str | None]:
    measured = score_probes(reference, estimate, ProbeSettings.model_validate(settings))
    assert {m.variant for m in measured} == {"sim3"}
    return {m.name: m.reason if m.value is None else m.value for m in measured}


def moving_on(reference: Trajectory, begin: int, end: int, step: float, degrees: float) -> Trajectory:
    """An estimate that goes on by ``step`` metres and ``degrees`` a frame between two frames, and goes back in one."""
    poses = reference.camera_to_world.copy()
    for k in range(begin + 1, end + 1):
        poses[k] = poses[k] @ pose(step * (k - begin), degrees * (k - begin))
    return replace(reference, camera_to_world=poses)


def pose(metres: float, degrees: float) -> np.ndarray:
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    moved[0, 3] = metres
    return moved


def test_the_middle_third_stands_and_the_rest_walks() -> None:
    poses = walk("standstill").camera_to_world
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert (steps[30:60] == 0).all()
    assert (steps[:30] > 0.01).all()
    assert (steps[60:] > 0.01).all()
    # What is skipped is time, not way.
    plain = walk("walk").camera_to_world
    np.testing.assert_array_equal(poses[60:], plain[30:60])


def test_a_turn_is_once_around_on_the_spot() -> None:
    poses = walk("rotation").camera_to_world
    assert np.ptp(poses[30:61, :3, 3], axis=0).max() == 0
    angles = np.degrees(rotation_angle(relative(poses[30:60], poses[31:61])[:, :3, :3]))
    np.testing.assert_allclose(angles, 12.0, atol=1e-9)
    np.testing.assert_allclose(poses[60], poses[30], atol=1e-12)


def test_a_return_sees_every_view_again() -> None:
    poses = walk("revisit").camera_to_world
    np.testing.assert_array_equal(poses, poses[::-1])


def test_motion_that_is_reported_while_nothing_moves() -> None:
    reference = walk("standstill")
    estimate = in_another_world(moving_on(reference, 30, 60, step=0.002, degrees=0.1))
    measured = found(reference, estimate)
    # The alignment over all frames takes a little of it: the scale is not exactly 4.
    assert measured["standstill_translation"] == pytest.approx(0.002, rel=0.05)
    assert measured["standstill_rotation"] == pytest.approx(0.1, rel=1e-6)
    assert measured["standstill_drift"] == pytest.approx(0.06, rel=0.05)
    assert measured["rotation_translation"] == (
        "the reference never turns on the spot for 10 frames (steps of at most 0.001 m and at least 0.2°)"
    )
    exact = found(reference, in_another_world(reference))
    assert exact["standstill_translation"] == pytest.approx(0, abs=1e-9)
    assert exact["standstill_drift"] == pytest.approx(0, abs=1e-9)


def test_translation_that_is_invented_while_the_camera_turns() -> None:
    reference = walk("rotation")
    poses = reference.camera_to_world.copy()
    poses[31:61, :3, 3] += np.arange(1, 31)[:, None] * [0.0, 0.003, 0.0]
    measured = found(reference, in_another_world(replace(reference, camera_to_world=poses)))
    assert measured["rotation_translation"] == pytest.approx(0.003, rel=0.05)
    assert measured["rotation_drift"] == pytest.approx(0.09, rel=0.05)
    assert measured["rotation_error"] == pytest.approx(0, abs=1e-6)
    assert measured["standstill_translation"] == (
        "the reference never stands for 10 frames (steps of at most 0.001 m and 0.05°)"
    )
    # A turn that is seen too small by a tenth.
    axis = Rotation.from_matrix(relative(reference.camera_to_world[30], reference.camera_to_world[31])[:3, :3])
    poses = reference.camera_to_world.copy()
    for k in range(31, 61):
        poses[k, :3, :3] = poses[30, :3, :3] @ Rotation.from_rotvec(0.9 * (k - 30) * axis.as_rotvec()).as_matrix()
    measured = found(reference, in_another_world(replace(reference, camera_to_world=poses)))
    assert measured["rotation_error"] == pytest.approx(36, rel=1e-6)


def test_without_an_orientation_nothing_can_be_said() -> None:
    reference = walk("rotation")
    why = "the estimate has positions only: there is no orientation"
    assert set(found(reference, replace(reference, has_orientation=False)).values()) == {why}


def test_the_error_on_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way back the estimate is 0.2 m to the side."""
    reference = walk("revisit")
    poses = reference.camera_to_world.copy()
    poses[FRAMES // 2 :, :3, 3] += [0.0, 0.0, 0.2]
    with monkeypatch.context() as near:
        near.setattr(probes, "RETURN_M", 0.001)
        samples = {m.name: m.samples for m in score_probes(reference, reference)}
        near.setattr(probes, "RETURN_DEG", 0.01)
        measured = found(reference, replace(reference, camera_to_world=poses))
    assert measured["revisit_translation"] == pytest.approx(0.2, rel=0.1)
    assert measured["revisit_rotation"] == pytest.approx(0, abs=1e-6)
    # Frame 89 − k is at the place of frame k, and 30 frames behind it at least where k is below 30.
    assert samples["revisit_translation"] == 30
    assert "never comes back within 0.05 m and 5° after 30 frames" in str(
        found(walk("walk"), walk("walk"))["revisit_translation"]
    )


def test_what_has_no_alignment_has_the_reason() -> None:
    reference = walk("walk")
    still = replace(reference, camera_to_world=np.tile(np.eye(4), (FRAMES, 1, 1)))
    assert all(isinstance(reason, str) for reason in found(reference, still).values())
    nothing = Trajectory(np.empty(0, np.int64), np.empty(0), np.empty((0, 4, 4)))
    assert "matched frames" in str(found(nothing, reference)["revisit_rotation"])


def winding() -> np.ndarray:
    """A hundred poses half a metre apart, none near another."""
    poses = np.tile(np.eye(4), (100, 1, 1))
    rows = np.arange(100)
    poses[:, :3, :3] = Rotation.from_euler("y", 3 * rows[:, None], degrees=True).as_matrix().reshape(-1, 3, 3)
    poses[:, :3, 3] = np.stack([0.5 * rows, np.sin(rows / 3), np.cos(rows / 5)], axis=1)
    return poses


def returns(truth: np.ndarray, estimate: np.ndarray | None = None) -> tuple[float | None, int | None]:
    pair = [
        Trajectory(np.arange(100), np.arange(100) / 10, poses)
        for poses in (truth, truth if estimate is None else estimate)
    ]
    (measured,) = [m for m in score_probes(*pair) if m.name == "revisit_translation"]
    return measured.value, measured.samples


def test_a_return_is_near_alike_and_long_after() -> None:
    truth = winding()
    assert returns(truth)[0] is None
    truth[36] = truth[7]  # 29 frames after
    assert returns(truth)[0] is None
    turned = truth.copy()
    turned[50] = turned[10] @ pose(0.0, 6.0)  # looks elsewhere
    assert returns(turned)[0] is None
    aside = truth.copy()
    aside[50] = aside[10] @ pose(0.06, 0.0)
    assert returns(aside)[0] is None
    truth[35] = truth[5]  # 30 frames after
    truth[50] = truth[10] @ pose(0.04, 4.0)
    assert returns(truth)[1] == 2
    # The third time there is held against the first.
    truth[70] = truth[5]
    estimate = truth.copy()
    estimate[35, 1, 3] += 0.3
    found, samples = returns(truth, estimate)
    assert samples == 3
    assert found == pytest.approx(0.1, rel=0.02)


def test_of_several_standstills_and_turns_the_worst_counts() -> None:
    """Two of twelve and of fifteen frames; the estimate ends 0.1 and 0.3 m aside, and turned by 5 and 9°."""
    for degrees, kind in ((0.0, "standstill"), (1.0, "rotation")):
        truth = winding()
        for begin, end in ((20, 32), (60, 75)):
            for k in range(end - begin + 1):
                truth[begin + k] = truth[begin] @ pose(0.0, degrees * k)
        estimate = truth.copy()
        estimate[32], estimate[75] = truth[32] @ pose(0.1, 5.0), truth[75] @ pose(0.3, 9.0)
        whole, guess = (Trajectory(np.arange(100), np.arange(100) / 10, poses) for poses in (truth, estimate))
        measured = found(whole, guess)
        assert measured[f"{kind}_drift"] == pytest.approx(0.3, rel=0.02)
        assert measured[f"{kind}_translation"] == pytest.approx(0.4 / 27, rel=0.05)
        turned = measured["rotation_error" if degrees else "standstill_rotation"]
        assert turned == pytest.approx(9.0 if degrees else 14 / 27, rel=1e-3)


def test_a_longer_standstill_may_be_asked_for() -> None:
    """Of twelve steps; a turn of 1° a frame is fifteen long, and no other."""
    truth = winding()
    truth[20:33] = truth[20]
    for k in range(16):
        truth[60 + k] = truth[60] @ pose(0.0, 1.0 * k)
    whole = Trajectory(np.arange(100), np.arange(100) / 10, truth)
    plain, changed = found(whole, whole, frames=12), found(whole, whole, frames=13)
    differing = {name for name in changed if changed[name] != plain[name]}
    assert {name for name in differing if isinstance(plain[name], float)} == {
        "standstill_translation",
        "standstill_rotation",
        "standstill_drift",
    }
    assert "never stands for 13 frames" in str(changed["standstill_drift"])
    assert isinstance(changed["rotation_drift"], float)
    family = ProbeFamily(ProbeSettings(frames=13), SceneContext())
    told = {m.name: m.reason if m.value is None else m.value for m in family.compute(ScoredScene(whole, whole, 100))}
    assert told == changed
    assert ProbeSettings(frames=2).frames == 2
    with pytest.raises(ValidationError):
        ProbeSettings(frames=1)


@pytest.mark.parametrize(
    ("metres", "degrees", "kind"),
    [
        (0.0009, 0.04, "standstill"),
        (0.0011, 0.0, None),
        (0.0, 0.06, None),
        (0.0, 0.19, None),
        (0.0009, 0.21, "rotation"),
        (0.0011, 0.21, None),
    ],
)
def test_what_is_still_and_what_turns_on_the_spot(metres: float, degrees: float, kind: str | None) -> None:
    truth = winding()
    for k in range(1, 16):
        truth[40 + k] = truth[40] @ pose(0.0, degrees * k)
        truth[40 + k, 1, 3] += metres * k
    whole = Trajectory(np.arange(100), np.arange(100) / 10, truth)
    measured = found(whole, whole)
    told = {name.partition("_")[0] for name, value in measured.items() if isinstance(value, float)}
    assert told == ({kind} if kind else set())


def test_a_probe_says_what_it_is_of_and_in_what_unit() -> None:
    path = Trajectory(np.arange(100), np.arange(100) / 10, winding())
    measured = {m.name: m for m in score_probes(path, path, ProbeSettings(frames=7))}
    standing, turning = (
        f"where the reference {does} for 7 frames or more (steps of at most 0.001 m and {turn}°), after Sim(3)"
        for does, turn in (("stands", "0.05"), ("turns on the spot", "at least 0.2"))
    )
    back = (
        "between each frame and the first of those, 30 frames before it or more, whose true pose is within 0.05 m and"
        " 5° of its own, after Sim(3)"
    )
    for name, unit, words in (
        ("standstill_translation", "m/frame", f"mean motion a frame {standing}"),
        ("standstill_rotation", "deg/frame", f"mean rotation a frame {standing}"),
        ("standstill_drift", "m", f"largest motion from beginning to end {standing}"),
        ("rotation_translation", "m/frame", f"mean motion a frame {turning}"),
        ("rotation_drift", "m", f"largest motion from beginning to end {turning}"),
        ("rotation_error", "deg", f"largest rotation error from beginning to end {turning}"),
        ("revisit_translation", "m", f"mean translation of the relative pose error {back}"),
        ("revisit_rotation", "deg", f"mean rotation of the relative pose error {back}"),
    ):
        assert (measured[name].unit, measured[name].convention) == (unit, f"{words} alignment over all matched frames")


def test_of_a_long_way_frames_from_first_to_last_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred ten: the last is one of them, frame 50 is none."""
    monkeypatch.setattr(probes, "MOST_RETURNS", 10)
    truth = winding()
    truth[50] = truth[10]
    assert returns(truth)[1] == 0
    truth[99] = truth[10]
    assert returns(truth)[1] == 1


@pytest.mark.parametrize(("steps", "found"), [(9, None), (10, 10), (11, 11)])
def test_ten_steps_are_a_standstill(steps: int, found: int | None) -> None:
    truth = winding()
    truth[40 : 41 + steps] = truth[40]
    whole = Trajectory(np.arange(100), np.arange(100) / 10, truth)
    for name in ("standstill_translation", "standstill_drift"):
        (measured,) = [m for m in score_probes(whole, whole) if m.name == name]
        assert (measured.value is None) is (found is None)
        assert measured.samples == (found if name == "standstill_translation" else 1) or found is None
