"""Notes on what poses mean: named where another reading clearly fits, never on good trajectories."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from lingbot_eval.files.times import associate
from lingbot_eval.files.trajectories import read_kitti, read_tum
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.geometry.pose_reading import OPENGL, PoseReading, camera_in_body
from lingbot_eval.geometry.poses import inverse, pose_matrix, quaternion_from_rotation, rotation_from_quaternion
from lingbot_eval.metrics.matching import match_poses
from lingbot_eval.metrics.meaning import match_notes, pose_notes
from lingbot_eval.types import FloatArray, Trajectory

REAL = Path(__file__).parents[3] / "shared" / "data" / "trajectories"


def smooth(rng: np.random.Generator, count: int, waves: int, size: float = 1.0) -> FloatArray:
    time = np.linspace(0, 1, count)[:, None]
    parts = [rng.normal(size=3) * np.sin(2 * np.pi * k * time + rng.uniform(0, 6.3, 3)) / k for k in range(1, waves)]
    return size * np.sum(parts, axis=0)


def poses(turns: FloatArray, positions: FloatArray) -> FloatArray:
    return pose_matrix(Rotation.from_rotvec(turns).as_matrix(), positions)


def hand(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(smooth(rng, count, 4, 0.6), smooth(rng, count, 5))


def nearly_fixed_axes(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(smooth(rng, count, 4, 0.05), smooth(rng, count, 5))


def walk(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(np.cumsum(0.05 * rng.normal(size=(count, 3)), 0), np.cumsum(rng.normal(size=(count, 3)), 0))


def car(rng: np.random.Generator, count: int) -> FloatArray:
    turn = Rotation.from_rotvec(np.cumsum(0.1 * rng.normal(size=count))[:, None] * [0.0, 1, 0])
    return pose_matrix(turn.as_matrix(), np.cumsum(turn.apply([0.0, 0, 1]), axis=0))


def straight(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(np.zeros((count, 3)), np.arange(count)[:, None] * [0, 0, 1.0] + 1e-3 * rng.normal(size=(count, 3)))


def exactly_straight(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(np.zeros((count, 3)), np.arange(count)[:, None] * [0.3, 0, 1.0])


def panning(rng: np.random.Generator, count: int) -> FloatArray:
    way = np.arange(count)[:, None] * [0, 0, 1.0] + 1e-3 * rng.normal(size=(count, 3))
    return poses(np.linspace(0, 1, count)[:, None] * [0, 1.0, 0], way)


def standing(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(0.002 * rng.normal(size=(count, 3)), 0.002 * rng.normal(size=(count, 3)))


def turning_on_the_spot(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(smooth(rng, count, 3, 0.6), 1e-3 * smooth(rng, count, 3))


def circling(rng: np.random.Generator, count: int) -> FloatArray:
    turn = Rotation.from_rotvec(np.linspace(0, 4, count)[:, None] * [0.0, 1, 0])
    return pose_matrix(turn.as_matrix(), turn.apply([0.0, 0, -2]) + np.array([0, 0.3, 0]))


def around_an_object(rng: np.random.Generator, count: int) -> FloatArray:
    turn = Rotation.from_rotvec(smooth(rng, count, 3, 0.7))
    return pose_matrix(turn.as_matrix(), turn.apply([0.0, 0, -2]))


def fixed_axes(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(np.zeros((count, 3)), smooth(rng, count, 5))


def planar(rng: np.random.Generator, count: int) -> FloatArray:
    return poses(smooth(rng, count, 4)[:, :1] * [0.0, 1, 0], smooth(rng, count, 5) * [1.0, 0, 1])


MOTIONS = (hand, nearly_fixed_axes, walk, car, straight, exactly_straight, panning, standing)
MOTIONS += (turning_on_the_spot, circling, around_an_object, fixed_axes, planar)


def estimated(truth: FloatArray, rng: np.random.Generator, noise: float, turn: float, drift: float) -> FloatArray:
    """A good estimate: noisy, drifting in rotation and scale, in a world and a scale of its own."""
    count, found = len(truth), truth.copy()
    spread = float(np.sqrt(np.mean(np.sum((truth[:, :3, 3] - truth[:, :3, 3].mean(0)) ** 2, axis=1))))
    if drift:
        steps = inverse(truth[:-1]) @ truth[1:]
        wander = Rotation.from_rotvec(drift * rng.normal(size=(count - 1, 3)) / np.sqrt(count)).as_matrix()
        steps[:, :3, :3] = wander @ steps[:, :3, :3]
        steps[:, :3, 3] *= np.exp(np.cumsum(drift * rng.normal(size=count - 1) / np.sqrt(count)))[:, None]
        for row in range(count - 1):
            found[row + 1] = found[row] @ steps[row]
    found[:, :3, 3] += noise * spread * rng.normal(size=(count, 3))
    found[:, :3, :3] = found[:, :3, :3] @ Rotation.from_rotvec(turn * rng.normal(size=(count, 3))).as_matrix()
    world = Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix()
    return Sim3(float(np.exp(rng.normal())), world, 5 * spread * rng.normal(size=3)).apply_poses(found)


def notes(truth: FloatArray, estimate: FloatArray) -> tuple[str, ...]:
    indices = np.arange(len(truth))
    return pose_notes(match_poses(*(Trajectory(indices, indices * 0.1, p) for p in (truth, estimate))))


def asked(note: str) -> PoseReading:
    """The reading that a note's options ask for, as do its settings."""
    words = shlex.split(re.search(r"; (--est.*?) \(for saved", note)[1])  # type: ignore[index]
    pairs = zip(words[::2], words[1::2], strict=True)
    read = PoseReading.model_validate({name.removeprefix("--est-").replace("-", "_"): value for name, value in pairs})
    settings = re.search(r"\(for saved poses in an experiment, (.*?)\) reads them so", note)
    assert settings is not None, note
    assert PoseReading.model_validate(yaml.safe_load(f"{{{settings[1]}}}")) == read
    return read


@pytest.mark.parametrize("motion", MOTIONS)
@settings(max_examples=6)
@given(
    st.integers(0, 2**31),
    st.sampled_from([3, 5, 6, 8, 12, 20, 60]),
    st.sampled_from([0, 1e-3, 0.02, 0.2, 1]),
    st.sampled_from([0, 1e-3, 0.03, 0.2]),
    st.sampled_from([0, 0.1, 0.6]),
)
def test_good_trajectories_have_no_note(
    motion: Callable[..., FloatArray], seed: int, count: int, noise: float, turn: float, drift: float
) -> None:
    rng = np.random.default_rng(seed)
    truth = motion(rng, count)
    assert notes(truth, estimated(truth, rng, noise, turn, drift)) == ()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real trajectories are not beside this checkout")
@pytest.mark.parametrize("name", ["rgbdslam", "rgbdslam_drift", "ORB_kf_mono"])
def test_real_trajectories_have_no_note(name: str) -> None:
    truth, found = (read_tum(REAL / f"freiburg1_xyz-{which}.txt") for which in ("groundtruth", name))
    assert truth.timestamps is not None
    assert found.timestamps is not None
    rows, own = associate(truth.timestamps, found.timestamps, 0.02)
    assert notes(truth.camera_to_world[rows], found.camera_to_world[own]) == ()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real trajectories are not beside this checkout")
def test_kitti_has_no_note() -> None:
    assert notes(*(read_kitti(REAL / f"KITTI_00_{which}.txt").camera_to_world for which in ("gt", "ORB"))) == ()


def scalar_order(first: bool) -> Callable[[FloatArray], FloatArray]:
    """Quaternions written in the one order and read in the other."""

    def misread(given: FloatArray) -> FloatArray:
        written = np.roll(quaternion_from_rotation(given[:, :3, :3]), 1 if first else -1, axis=1)
        return pose_matrix(rotation_from_quaternion(written), given[:, :3, 3])

    return misread


def in_body(camera: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Poses of a body, in which the camera has this pose, in place of the camera's."""
    return lambda given: given @ inverse(camera)


def left_handed(given: FloatArray) -> FloatArray:
    flip = np.diag([1.0, -1, 1, 1])
    return flip @ given @ flip


SPOILT = {
    "world-to-camera": (inverse, {"poses": "world-to-camera"}),
    "scalar first": (scalar_order(first=True), {"quaternion": "wxyz"}),
    "scalar last": (scalar_order(first=False), {"quaternion": "xyzw"}),
    "left-handed": (left_handed, {"handedness": "left"}),
    "opengl": (in_body(np.diag([1.0, -1, -1, 1])), {"to_camera": "opengl"}),
    "rotations alone": (
        lambda given: pose_matrix(np.swapaxes(given[:, :3, :3], 1, 2), given[:, :3, 3]),
        {"poses": "world-to-camera-rotations"},
    ),
    "inverse and scalar first": (
        lambda given: scalar_order(first=True)(inverse(given)),
        {"poses": "world-to-camera", "quaternion": "wxyz"},
    ),
    "inverse opengl": (
        lambda given: inverse(given @ np.diag([1.0, -1, -1, 1])),
        {"poses": "world-to-camera", "to_camera": "opengl"},
    ),
}


OF_THE_REFERENCE = "; the same fits where it is the reference that is so (--gt-… instead)"
SAID = {
    "world-to-camera": ("inverse (world-to-camera)", OF_THE_REFERENCE),
    "scalar first": ("with the quaternions' scalar first (w x y z)", "(--gt-quaternion xyzw)"),
    "scalar last": ("with the quaternions' scalar last (x y z w)", "(--gt-quaternion wxyz)"),
    "left-handed": ("in left-handed axes (mirror images)", OF_THE_REFERENCE),
    "opengl": ("of a camera with OpenGL's axes (y up, z backward)", "--gt-to-camera takes the inverse of that pose"),
    "rotations alone": ("camera positions with inverse rotations", " reads them so"),
    "inverse and scalar first": (
        "inverse (world-to-camera), with the quaternions' scalar first (w x y z)",
        OF_THE_REFERENCE,
    ),
    "inverse opengl": (
        "inverse (world-to-camera), of a camera with OpenGL's axes (y up, z backward)",
        OF_THE_REFERENCE,
    ),
}


@pytest.mark.parametrize("case", SPOILT)
@pytest.mark.parametrize("motion", [hand, walk, around_an_object])
def test_another_reading_is_named(case: str, motion: Callable[..., FloatArray]) -> None:
    spoil, expected = SPOILT[case]
    rng = np.random.default_rng(11)
    truth = motion(rng, 40)
    (note,) = notes(truth, spoil(estimated(truth, rng, 0.003, 0.005, 0)))
    assert asked(note) == PoseReading.model_validate(expected)
    begins, ends = SAID[case]
    assert note.startswith(f"the poses look {begins}: read so, ATE would be ")
    assert note.endswith(ends)


BODY = pose_matrix(Rotation.from_euler("xyz", [70, -20, 100], degrees=True).as_matrix(), np.array([0.3, -0.1, 0.2]))


@pytest.mark.parametrize(
    ("motion", "arm", "unit"),
    [
        *((motion, arm, 1) for motion in (hand, walk, planar) for arm in (0, 1)),
        (around_an_object, 0, 1),
        (hand, 1, 50),
        (walk, 1, 0.02),
    ],
)
def test_a_body_in_place_of_the_camera_is_measured(motion: Callable[..., FloatArray], arm: int, unit: float) -> None:
    """The note's numbers are the camera in the body, and read with them the poses are right again."""
    rng = np.random.default_rng(5)
    truth = motion(rng, 60)
    camera = BODY.copy()
    camera[:3, 3] *= arm
    spoilt = in_body(camera)(truth)
    for scaled in (spoilt, camera):
        scaled[..., :3, 3] *= unit
    (note,) = notes(truth, spoilt)
    found = asked(note)
    assert found.to_camera is not None
    assert camera_in_body(found.to_camera)[:3, :3] == pytest.approx(camera[:3, :3], abs=2e-3)
    if motion is not planar:  # turns about one axis leave the arm along it open
        assert found.to_camera[:3] == pytest.approx(camera[:3, 3], abs=5e-3 * unit)
    assert notes(truth, found.apply(spoilt)) == ()
    # A turn from the camera by 127.5°, and the length of the arm, where there is one.
    away = "of a body turned from the camera's axes by a constant 127.5°, {} from its centre (in the estimate's unit)"
    words = (
        away.format({1: "0.374", 50: "18.7", 0.02: "0.00748"}[unit])
        if arm
        else "turned from the camera's axes by a constant 127.5°"
    )
    assert note.startswith(f"the poses look {words}:") or motion is planar
    assert note.endswith("; where it is the reference that is of a body, --gt-to-camera takes the inverse of that pose")


@pytest.mark.parametrize("case", ["world-to-camera", "left-handed"])
@pytest.mark.parametrize(("count", "told"), [(5, False), (6, True)])
def test_six_poses_are_enough_to_tell(case: str, count: int, told: bool) -> None:
    truth = hand(np.random.default_rng(11), count)
    assert len(notes(truth, SPOILT[case][0](truth))) == told


def test_an_arm_alone_is_measured() -> None:
    truth = hand(np.random.default_rng(5), 60)
    camera = pose_matrix(np.eye(3), np.array([0.4, 0.3, -0.2]))
    (note,) = notes(truth, in_body(camera)(truth))
    assert asked(note).to_camera == pytest.approx((0.4, 0.3, -0.2, 0, 0, 0, 1), abs=1e-3)


def test_an_arm_is_seen_below_the_noise_of_rotations() -> None:
    """Rotations off by 2° say nothing against an arm of a tenth of the path, which shows in the positions."""
    rng = np.random.default_rng(5)
    truth = hand(rng, 80)
    camera = pose_matrix(BODY[:3, :3], np.array([0.1, 0.1, -0.1]))
    estimate = truth.copy()
    estimate[:, :3, :3] = estimate[:, :3, :3] @ Rotation.from_rotvec(0.02 * rng.normal(size=(80, 3))).as_matrix()
    (note,) = notes(truth, in_body(camera)(estimate))
    assert asked(note).to_camera == pytest.approx((*camera[:3, 3], *quaternion_from_rotation(camera[:3, :3])), abs=0.02)


@pytest.mark.parametrize("first", [True, False])
def test_quaternions_of_the_reference_are_named(first: bool) -> None:
    rng = np.random.default_rng(9)
    truth = hand(rng, 40)
    (note,) = notes(scalar_order(first=first)(truth), estimated(truth, rng, 0.003, 0.005, 0))
    assert f"--gt-quaternion {'wxyz' if first else 'xyzw'} reads them so" in note


@pytest.mark.parametrize(("first", "own", "other"), [(True, "wxyz", "xyzw"), (False, "xyzw", "wxyz")])
def test_quaternions_of_the_estimate_are_named_and_what_else_would_fit(first: bool, own: str, other: str) -> None:
    rng = np.random.default_rng(9)
    truth = hand(rng, 40)
    (note,) = notes(truth, scalar_order(first=first)(estimated(truth, rng, 0.003, 0.005, 0)))
    assert f"--est-quaternion {own} " in note
    turns = re.search(r"rotations would be off by (\S+)° instead of (\S+)° \(RMS\)", note)
    assert turns is not None, note
    assert float(turns[1]) < 1 < 20 < float(turns[2])  # its noise is 0.5° a pose
    assert note.endswith(f"; the same fits where the reference's are the other way round (--gt-quaternion {other})")


def test_figures_of_the_note_are_those_of_the_scores() -> None:
    """A quarter circle of 1 m, inverse poses of an estimate that is right: ATE would be 0, rotations off by nothing."""
    angles = np.linspace(0, np.pi / 2, 10)
    truth = poses(angles[:, None] * [0.0, 0, 1], np.stack([np.cos(angles), np.sin(angles), angles], axis=1))
    (note,) = notes(truth, inverse(truth))
    figures = r"ATE would be (\S+) m instead of (\S+) m, and rotations would be off by (\S+)° instead of (\S+)°"
    found = re.search(figures, note)
    assert found is not None, note
    ate, ate_as_it_is, turn, turn_as_it_is = map(float, found.groups())
    assert (ate, turn) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-5))
    # The inverse poses lie on a line, which fits nothing: as far off as an estimate that never moves. Their turns run
    # from 0 to -90° where the truth's run to 90°: with the best turn of the world 90, 70, … 90 degrees apart.
    centre = truth[:, :3, 3].mean(axis=0)
    assert ate_as_it_is == pytest.approx(np.sqrt(np.mean(np.sum((truth[:, :3, 3] - centre) ** 2, axis=1))), rel=1e-3)
    assert turn_as_it_is == pytest.approx(np.sqrt(np.mean(np.arange(-90.0, 91, 20) ** 2)), rel=1e-2)
    assert "the reference that is so" in note


def test_rotations_that_wander_are_in_doubt() -> None:
    rng = np.random.default_rng(2)
    truth = hand(rng, 60)
    spoilt = truth.copy()
    spoilt[:, :3, :3] = Rotation.random(60, random_state=3).as_matrix()
    (note,) = notes(truth, spoilt)
    assert "no constant turn" in note
    spoilt[::2, :3, 3] += [0.02, 0, 0]
    (note,) = notes(truth, spoilt)
    assert note.startswith("positions agree (ATE 0.01 m) while rotations differ by 121° (RMS)")


def test_a_mirror_image_of_positions_alone_is_named() -> None:
    truth = hand(np.random.default_rng(2), 60)
    spoilt = truth.copy()
    spoilt[:, 0, 3] *= -1
    assert "mirror image" in notes(truth, spoilt)[0]
    assert "too little" not in notes(truth, spoilt)[0]
    positions = [Trajectory(np.arange(60), np.arange(60.0), p, has_orientation=False) for p in (truth, spoilt)]
    (note,) = pose_notes(match_poses(*positions))
    assert "--est-handedness left" in note
    assert note.endswith("(--gt-… instead)")


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("large", [1e160, 1e308])
def test_numbers_beyond_float64_are_no_fault(large: float) -> None:
    truth = hand(np.random.default_rng(2), 20)
    estimate = inverse(truth)
    estimate[5, :3, 3] = large
    assert notes(truth, estimate) == ()


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((40, 40, 40, 40), ""),
        ((40, 40, 4000, 40), ""),  # keyframes against a dense reference
        ((40, 1200, 40, 1200), ""),  # a sparse reference
        ((40, 40, 40, 1200), ""),  # keyframes against a reference as sparse
        ((4, 40, 40, 40), "few poses match: 4 of 40 estimated and 40 reference poses"),
        ((19, 40, 40, 40), "few poses match: 19 of 40"),
        ((20, 40, 40, 40), ""),
        ((5, 5, 5, 5), "few poses match: 5 of 5"),
        ((12, 12, 100, 100), "few frames have a pose: 12 of 100"),
        ((10, 10, 10, 10), ""),
        ((9, 9, 9, 9), "few poses match: 9 of 9"),
        ((3, 3, 3, 3), "few poses match: 3 of 3"),
        ((2, 2, 2, 2), ""),  # too few for any number, which says so itself
        ((12, 40, 30, 60), "12 of 40 estimated and 30 reference poses are scored"),
        ((49, 49, 100, 100), "few frames have a pose: 49 of 100; the numbers"),
        ((50, 50, 100, 100), ""),
        ((12, 12, 80, 100), "few frames have a pose: 12 of 100"),
        ((40, 40, 300, 60), ""),  # of a sequence that was cut
        ((0, 0, 100, 100), ""),  # nothing is scored: every number says so itself
    ],
)
def test_few_matches(counts: tuple[int, int, int, int], words: str) -> None:
    found = "; ".join(match_notes(*counts))
    assert (words in found) if words else not found


def test_readings_undo_what_was_done() -> None:
    rng = np.random.default_rng(0)
    right = hand(rng, 7)
    for spoil, settings_of_it in SPOILT.values():
        reading = PoseReading.model_validate(settings_of_it)
        if reading.quaternion == "xyzw":
            assert reading.apply(spoil(right), "wxyz") == pytest.approx(right)
            assert reading.apply(right) is right
        else:
            assert reading.apply(spoil(right)) == pytest.approx(right)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("opengl", OPENGL),
        (" OpenGL\n", OPENGL),
        (None, None),
        ("1 2 3 0 0 0.63 0.84", (1, 2, 3, 0, 0, 0.6, 0.8)),  # of length 1.05: few digits
        ("1 2 3 0 0 0.57 0.76", (1, 2, 3, 0, 0, 0.6, 0.8)),
        ("1 0 0 4 0 -1 0 5 0 0 -1 6 0 0 0 1", (4, 5, 6, 1, 0, 0, 0)),
        ("1 2 3 0 0 0 1", (1, 2, 3, 0, 0, 0, 1)),
        ("1, 2, 3, 0, 0, 0, 1", (1, 2, 3, 0, 0, 0, 1)),
        ([[1, 0, 0, 4], [0, -1, 0, 5], [0, 0, -1, 6], [0, 0, 0, 1]], (4, 5, 6, 1, 0, 0, 0)),
        ("1 0 0 4 0 1 0 5 0 0 1 6", (4, 5, 6, 0, 0, 0, 1)),
    ],
)
def test_a_camera_in_a_body_is_written_in_several_ways(given: object, expected: tuple[float, ...]) -> None:
    assert PoseReading.model_validate({"to_camera": given}).to_camera == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("1 2 3", "7 numbers"),
        ("a b c d e f g", "7 numbers"),
        ([1, 2, 3, 0, 0, 0, float("nan")], "7 numbers"),
        ([float("inf"), 2, 3, 0, 0, 0, 1], "7 numbers"),
        ([1, 2, 3, 0, 0, 0, True], "7 numbers"),
        ("1_0 2 3 0 0 0 1", "7 numbers"),
        ("1 2 3 0 0 0 1 0 0 0 0 0 1", "7 numbers"),
        ("1 2 3 0 0 0 1.12", "unit quaternion"),
        ("1 2 3 0 0 0 0.88", "unit quaternion"),
        ("1 0 0 0 0 1 0 0 0 0 1 0 0 0 1 1", "rigid"),
        ("1 2 3 0 0 0 3", "unit quaternion"),
        ([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], "rigid"),
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], "rigid"),
    ],
)
def test_what_is_no_camera_in_a_body_is_refused(given: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PoseReading.model_validate({"to_camera": given})


@pytest.mark.parametrize("case", ["scalar first", "rotations alone", "inverse and scalar first", "opengl"])
def test_small_rotations_tell_a_reading_from_a_constant_turn(case: str) -> None:
    """Rotations of 2°: any order of the quaternion is nearly a constant turn, and the right one fits better."""
    spoil, expected = SPOILT[case]
    rng = np.random.default_rng(3)
    truth = poses(smooth(rng, 80, 4, 0.02), smooth(rng, 80, 5))
    (note,) = notes(truth, spoil(estimated(truth, rng, 1e-3, 1e-3, 0)))
    assert asked(note) == PoseReading.model_validate(expected)


@pytest.mark.parametrize("case", ["scalar first", "opengl", "inverse opengl"])
def test_readings_are_named_on_a_straight_road(case: str) -> None:
    """A path along one line tells no constant turn by itself; named readings are tried all the same."""
    spoil, expected = SPOILT[case]
    rng = np.random.default_rng(4)
    truth = straight(rng, 60)
    (note,) = notes(truth, spoil(estimated(truth, rng, 1e-3, 1e-3, 0)))
    assert asked(note) == PoseReading.model_validate(expected)


def test_travel_in_another_direction_than_the_camera_is_said() -> None:
    """A body with x forward on a straight road: ATE is right, what rests on the camera's axes is not."""
    rng = np.random.default_rng(4)
    truth = straight(rng, 60)
    camera = np.eye(4)
    camera[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    (note,) = notes(truth, in_body(camera)(estimated(truth, rng, 1e-3, 1e-3, 0)))
    assert "not in one frame: the camera seems to move in directions that are off by 90° or more" in note
    assert "--est-to-camera" in note


@pytest.mark.parametrize("degrees", [25, 35, 60])
def test_how_far_the_direction_of_travel_is_off_is_said(degrees: int) -> None:
    """From 30° on; of so few poses that no body is measured."""
    rng = np.random.default_rng(0)
    truth = straight(rng, 10)
    truth[:, :3, :3] = Rotation.from_rotvec(np.radians(8) * rng.normal(size=(10, 3))).as_matrix()
    camera = np.eye(4)
    camera[:3, :3] = Rotation.from_rotvec([0, np.radians(degrees), 0]).as_matrix()
    found = notes(truth, in_body(camera)(truth))
    told = re.search(r"off by (\S+)°;", found[0]) if found else None
    assert (told is None) is (degrees < 30)
    if told is not None:
        assert float(told[1]) == pytest.approx(degrees, abs=1.0)


@pytest.mark.parametrize(("count", "measured"), [(11, False), (12, True)])
def test_twelve_poses_are_enough_for_an_arm(count: int, measured: bool) -> None:
    truth = hand(np.random.default_rng(5), count)
    (note,) = notes(truth, in_body(BODY)(truth))
    assert ("0.374 from its centre" in note) is measured


@pytest.mark.parametrize("amplitude", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_mirrored_positions_of_a_camera_that_hardly_turns_are_called_nothing_else(amplitude: float, seed: int) -> None:
    """Inverse poses, bodies and quaternion orders look alike then: no note may name one of them alone."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 6, 60)
    turns = np.radians(amplitude) * np.stack([np.sin(k * time + k) for k in (1.0, 1.7, 2.3)], axis=1)
    positions = np.stack([np.sin(time), np.cos(1.6 * time), np.sin(2.1 * time + 1)], axis=1)
    truth = pose_matrix(Rotation.from_rotvec(turns).as_matrix(), positions)
    noise = Rotation.from_rotvec(np.radians(0.7) * rng.normal(size=(60, 3))).as_matrix()
    world = Rotation.random(random_state=seed).as_matrix()
    guess = pose_matrix(world @ truth[:, :3, :3] @ noise, positions @ world.T + 0.01 * rng.normal(size=(60, 3)))
    frames, seconds = np.arange(60), time
    matched = match_poses(Trajectory(frames, seconds, truth), Trajectory(frames, seconds, guess))
    assert pose_notes(matched) == ()
    guess[:, 0, 3] *= -1
    (note,) = pose_notes(match_poses(Trajectory(frames, seconds, truth), Trajectory(frames, seconds, guess)))
    assert "left-handed axes" in note
    assert "--est-handedness left" in note
    # Which of the two it is shows from some degrees on.
    assert note.endswith("the camera turns too little to tell them apart") is (amplitude < 3)
    found = re.search(r"read so, ATE would be (\S+) m instead of (\S+) m; --est", note)
    assert found is not None, note
    assert float(found[1]) < 0.02  # the noise
    assert 0.8 < float(found[2]) < 0.9
