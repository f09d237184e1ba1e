"""Whether an estimate's poses mean what they are read as: other readings are tried, and named where one clearly fits.

Nothing is changed by it: numbers stay as the poses are read, a note stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import aligned_rmse, umeyama
from lingbot_eval.geometry.pose_reading import OPENGL, PoseReading, camera_in_body, mirrored, reordered
from lingbot_eval.geometry.poses import (
    inverse,
    nearest_rotation,
    pose_matrix,
    quaternion_from_rotation,
    rotation_angle,
    rotation_from_vector,
    rotation_vector,
    spread,
)
from lingbot_eval.metrics.matching import MatchedPoses
from lingbot_eval.types import FloatArray

MIN_POSES = 6
MIN_POSES_LEVER = 12  # ten unknowns are fitted
MOST_POSES = 500  # spread evenly over the trajectory: enough to see a meaning
POOR = 0.1
"""Misfit from which a reading is in doubt: RMSE of positions over the reference's spread, and rotations in radians."""
POOR_ARM = 0.02  # likewise where only a lever arm is tried, whose trace in the positions is small
GOOD = 0.35  # misfit up to which another reading explains the poses
CLEARLY = 3.0  # how many times better another reading must fit than the poses as they are
TIE = 1.5  # of the best misfit: up to here the simpler reading is taken
ROUNDING = np.radians(0.3)
LARGEST = 1e100  # metres beyond which sums of squares leave float64
LONGEST_ARM = 2.0  # of the spread of the positions
TURNING_DEG = 3.0
WANDERING_DEG = 30.0
FEW_PERCENT = 50.0
FEW_POSES = 10


_Arm = tuple[FloatArray, FloatArray, float, float]  # world rotation, camera in the body, scale, residual or misfit


@dataclass(frozen=True, eq=False)
class _Hypothesis:
    """A reading of the poses, and the poses under it. cost: how far-fetched it is."""

    reading: PoseReading
    poses: FloatArray
    cost: float
    misfit: float = np.inf


def pose_notes(matched: MatchedPoses) -> tuple[str, ...]:
    """Notes on what matched poses likely mean, one sentence each; none where they fit, or where nothing is clear."""
    rows = np.unique(np.linspace(0, len(matched) - 1, min(len(matched), MOST_POSES)).astype(np.int64))
    truth, guess = matched.reference[rows], matched.estimate[rows]
    if len(truth) < MIN_POSES or not _moves(truth) or float(np.abs(guess[:, :3, 3]).max()) >= LARGEST:
        return ()
    if matched.without_orientation is not None:
        return _mirror_note(matched, truth, guess)
    best = _best(truth, guess)
    if best is not None and not _is_mirror_image_as_well(truth, guess, best):
        return (_words(matched, best.reading),)
    return (
        _mirror_note(matched, truth, guess)
        or _reference_note(matched, truth, guess)
        or _wandering_note(matched, truth, guess)
        or _two_frames_note(matched, truth, guess)
    )


def _is_mirror_image_as_well(truth: FloatArray, guess: FloatArray, best: _Hypothesis) -> bool:
    """Whether mirrored positions beside the rotations as they are explain the poses about as well.

    Where a camera hardly turns, inverse poses, a mirror image and a turned body look alike. A mirror image of a flat
    path is a turned one, which a reading without numbers in it explains better.
    """
    reading = best.reading
    fitted = reading.to_camera not in (None, OPENGL)
    if reading.handedness == "left" or not (
        fitted or _ate(truth[:, :3, 3], guess[:, :3, 3]) > POOR * spread(truth[:, :3, 3])
    ):
        return False
    return _as_well(truth, mirrored(guess), guess, best.poses)


def _as_well(truth: FloatArray, positions: FloatArray, rotations: FloatArray, best: FloatArray) -> bool:
    """Whether the positions of some poses and the rotations of others fit about as well as the best poses do."""
    share, best_share = (
        _ate(truth[:, :3, 3], poses[:, :3, 3]) / spread(truth[:, :3, 3]) for poses in (positions, best)
    )
    turns, best_turns = (_rotation_misfit(truth, poses) for poses in (rotations, best))
    return share < max(CLEARLY * best_share, POOR / 2) and turns < CLEARLY * best_turns + ROUNDING


def _moves(poses: FloatArray) -> bool:
    largest = float(np.abs(poses[:, :3, 3]).max())
    return largest < LARGEST and spread(poses[:, :3, 3]) > 1e-9 * largest


def _best(truth: FloatArray, guess: FloatArray) -> _Hypothesis | None:
    """The simplest reading that clearly fits better than the poses as they are."""
    plain = _misfit(truth, guess)
    simple = [_tried(h, _misfit(truth, h.poses)) for h in _readings(guess)]
    best: _Hypothesis | None = None
    if plain > POOR:
        turned = [found for h in simple if (found := _turned(truth, h)) is not None]
        best = _accepted(truth, guess, _simplest([*simple, *turned]), plain)
    if plain <= POOR_ARM or len(truth) < MIN_POSES_LEVER or (best is not None and best.reading.to_camera is None):
        return best
    if best is not None:
        return _with_arm(truth, best, [h for h in simple if _without_camera(best) == h.reading])
    bodies = _bodies(truth, simple if plain > POOR else simple[:1], min(GOOD, plain / CLEARLY))
    if bodies and (body := _accepted(truth, guess, _simplest(bodies), plain)) is not None:
        return body
    return _with_arm(truth, simple[0], simple[:1]) if plain <= POOR else None


def _without_camera(hypothesis: _Hypothesis) -> PoseReading:
    return hypothesis.reading.model_copy(update={"to_camera": None})


def _with_arm(truth: FloatArray, so_far: _Hypothesis, hypotheses: list[_Hypothesis]) -> _Hypothesis | None:
    """The hypothesis with an arm, where that explains the positions much better; else itself, None for the first one.

    An arm shows in the positions alone, so the rotations' own errors must not drown it.
    """
    otherwise = so_far if so_far.reading.changes else None
    before = _ate(truth[:, :3, 3], so_far.poses[:, :3, 3]) / spread(truth[:, :3, 3])
    if before <= POOR_ARM / 2 or not (bodies := _bodies(truth, hypotheses, so_far.misfit)):
        return otherwise
    body = _simplest(bodies)
    raised = np.sqrt(len(truth) / (len(truth) - 13 / 3))
    after = raised * _ate(truth[:, :3, 3], body.poses[:, :3, 3]) / spread(truth[:, :3, 3])
    told = _from_rotations(truth, body.poses) > CLEARLY * after
    return body if told and after < before / CLEARLY and body.misfit < so_far.misfit else otherwise


def _accepted(truth: FloatArray, guess: FloatArray, found: _Hypothesis, so_far: float) -> _Hypothesis | None:
    """The hypothesis where it fits, and clearly better than what is there so far, by evidence that can tell."""
    if found.misfit > min(GOOD, so_far / CLEARLY):
        return None
    truth_positions = truth[:, :3, 3]
    before, then = (_ate(truth_positions, poses[:, :3, 3]) for poses in (guess, found.poses))
    if then > 1.2 * before + 0.01 * spread(truth_positions):
        return None
    turns, turns_found = (_rotation_misfit(truth, poses) for poses in (guess, found.poses))
    if turns_found > TIE * turns + ROUNDING:
        return None  # rotations that fit as they are speak against it
    if turns > max(POOR, CLEARLY * turns_found):
        return found
    # The rotations fitted before, so the positions must tell. Where the camera circles a point they follow from the
    # rotations: an arm of the right length makes any positions fit.
    return found if _from_rotations(truth, found.poses) > CLEARLY * found.misfit else None


def _rotation_misfit(truth: FloatArray, guess: FloatArray) -> float:
    world = _mean_rotation(truth[:, :3, :3] @ np.swapaxes(guess[:, :3, :3], 1, 2))
    return _rotation_rms(truth, guess, world)


def _rotation_rms(truth: FloatArray, guess: FloatArray, world: FloatArray) -> float:
    angles = rotation_angle(np.swapaxes(truth[:, :3, :3], 1, 2) @ world @ guess[:, :3, :3])
    return float(np.sqrt(np.mean(angles**2)))


def _from_rotations(truth: FloatArray, guess: FloatArray) -> float:
    """RMSE of the true positions, as a share of their spread, that is left by the estimate's rotations and an arm."""
    alone = pose_matrix(guess[:, :3, :3], np.zeros((len(guess), 3)))
    return float(np.sqrt(_arm(truth, alone, np.eye(3))[3] / len(truth))) / spread(truth[:, :3, 3])


def _simplest(found: list[_Hypothesis]) -> _Hypothesis:
    limit = TIE * min(h.misfit for h in found) + 1e-3
    return min((h for h in found if h.misfit <= limit), key=lambda h: (h.cost, h.misfit))


def _tried(hypothesis: _Hypothesis, misfit: float) -> _Hypothesis:
    return _Hypothesis(hypothesis.reading, hypothesis.poses, hypothesis.cost, misfit)


def _readings(poses: FloatArray) -> Iterator[_Hypothesis]:
    """Every reading that has no numbers in it and is not too far-fetched, the poses as they are first."""
    turning = _rotation_misfit(np.broadcast_to(np.eye(4), poses.shape), poses) > np.radians(TURNING_DEG)
    # Where nothing turns, any order of the quaternion is but another constant turn: it must fit better than that.
    far = 1.0 if turning else 2.5
    for order in (None, "wxyz", "xyzw"):
        ordered = poses if order is None else reordered(poses, order == "wxyz")
        yield _Hypothesis(PoseReading(quaternion=order), ordered, 0.0 if order is None else far)
        inverted = inverse(ordered)
        reading = PoseReading(poses="world-to-camera", quaternion=order)
        yield _Hypothesis(reading, inverted, 1.0 if order is None else 1.0 + far)
        if order is None:
            yield _Hypothesis(PoseReading(handedness="left"), mirrored(poses), 2.0)
            turned = pose_matrix(inverted[:, :3, :3], poses[:, :3, 3])
            yield _Hypothesis(PoseReading(poses="world-to-camera-rotations"), turned, far + 0.5)


def _misfit(truth: FloatArray, guess: FloatArray) -> float:
    """How badly (N, 4, 4) poses fit under one similarity whose rotation is taken from their rotations.

    Root of the squared RMSE of positions over the reference's spread, and of rotations in radians. The rotation of the
    similarity comes from the rotations, so that a straight path, which leaves it open, is no reason for doubt.
    """
    world = _mean_rotation(truth[:, :3, :3] @ np.swapaxes(guess[:, :3, :3], 1, 2))
    return float(np.hypot(*_errors(truth, guess, world)))


def _errors(truth: FloatArray, guess: FloatArray, world: FloatArray) -> tuple[float, float]:
    """Position misfit (share of the spread) and rotation misfit (radians) under the rotation ``world``."""
    turned = guess[:, :3, 3] @ world.T
    target = truth[:, :3, 3] - truth[:, :3, 3].mean(axis=0)
    turned = turned - turned.mean(axis=0)
    size = float(np.sum(turned**2))
    scale = max(0.0, float(np.sum(turned * target)) / size) if size > 0 else 0.0
    positions = float(np.sqrt(np.mean(np.sum((scale * turned - target) ** 2, axis=1)))) / spread(truth[:, :3, 3])
    return positions, _rotation_rms(truth, guess, world)


def _mean_rotation(rotations: FloatArray) -> FloatArray:
    return nearest_rotation(rotations.mean(axis=0))


def _turned(truth: FloatArray, hypothesis: _Hypothesis) -> _Hypothesis | None:
    """With a constant rotation from body to camera; on a straight path, which tells none, OpenGL's axes."""
    guess = hypothesis.poses
    if not (_is_broad(truth[:, :3, 3]) and _is_broad(guess[:, :3, 3])):
        cameras = guess @ camera_in_body(OPENGL)
        reading = hypothesis.reading.model_copy(update={"to_camera": OPENGL})
        return _Hypothesis(reading, cameras, hypothesis.cost + 2.0, _misfit(truth, cameras))
    try:
        world = umeyama(guess[:, :3, 3], truth[:, :3, 3], with_scale=True).rotation
    except UnscorableError:
        return None
    turn = _mean_rotation(np.swapaxes(world @ guess[:, :3, :3], 1, 2) @ truth[:, :3, :3])
    return _with_camera(truth, hypothesis, world, pose_matrix(turn, np.zeros(3)), 2.0, 3)


def _is_broad(positions: FloatArray) -> bool:
    """Whether points leave the line that they lie along by a tenth of their spread."""
    centred = positions - positions.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    return bool(singular[1] > 0.1 * singular[0])


def _with_camera(
    truth: FloatArray, hypothesis: _Hypothesis, world: FloatArray, camera: FloatArray, cost: float, unknowns: int
) -> _Hypothesis:
    """The hypothesis with a camera in a body. unknowns: numbers that were fitted, for which the misfit is raised."""
    cameras = hypothesis.poses @ camera
    numbers = (*camera[:3, 3].tolist(), *quaternion_from_rotation(camera[:3, :3]).tolist())
    if not camera[:3, 3].any() and _apart(camera, camera_in_body(OPENGL)) < np.radians(3.0):
        numbers = OPENGL
    raised = np.sqrt(len(truth) / (len(truth) - (7 + unknowns) / 3))
    misfit = float(np.hypot(*_errors(truth, cameras, world)) * raised)
    reading = hypothesis.reading.model_copy(update={"to_camera": numbers})
    return _Hypothesis(reading, cameras, hypothesis.cost + cost, misfit)


def _apart(first: FloatArray, second: FloatArray) -> float:
    return float(rotation_angle(first[:3, :3].T @ second[:3, :3]))


def _bodies(truth: FloatArray, hypotheses: list[_Hypothesis], limit: float) -> list[_Hypothesis]:
    """With a camera at an arm's length in a turned body, where a first guess comes near the limit of the misfit."""
    first = [(h, arm) for h in hypotheses if (arm := _first_arm(truth, h.poses)) is not None and arm[3] < 3 * limit]
    found = []
    for hypothesis, (world, camera, scale, _) in sorted(first, key=lambda guess: guess[1][3])[:2]:
        world, camera = _refined(truth, hypothesis.poses, world, camera, scale)
        body = _with_camera(truth, hypothesis, world, camera, 3.0, 6)
        near = np.linalg.norm(camera[:3, 3]) < LONGEST_ARM * spread(hypothesis.poses[:, :3, 3])
        if near and _from_rotations(truth, body.poses) > CLEARLY * body.misfit:  # see _accepted
            found.append(body)
    return found


def _first_arm(truth: FloatArray, guess: FloatArray) -> _Arm | None:
    """A first guess of body and arm from the rotations; None where the body hardly turns, which tells no arm."""
    turns, true_turns = _turn_vectors(guess), _turn_vectors(truth)
    sizes = np.linalg.svd(turns, compute_uv=False) / np.sqrt(len(turns))
    if sizes[0] < np.radians(5.0):
        return None
    # Steps in the body and in the camera turn by the same angles about axes that differ by the constant rotation.
    turn = _constant_turn(turns, true_turns)
    starts = [turn]
    if sizes[1] < 0.05 * sizes[0]:  # turns about one axis leave the angle about it open
        axis = np.linalg.svd(turns)[2][0]
        starts = [rotation_from_vector(angle * axis) @ turn for angle in np.radians(np.arange(0, 360, 30))]
    arms = [arm for start in starts if (arm := _arm(truth, guess, start))[2] > 0]
    if not arms:
        return None
    world, camera, scale, _ = min(arms, key=lambda found: found[3])
    return world, camera, scale, float(np.hypot(*_errors(truth, guess @ camera, world)))


def _constant_turn(turns: FloatArray, true_turns: FloatArray) -> FloatArray:
    """The rotation X from camera to body with turns ≈ X · true_turns, by least squares."""
    return nearest_rotation(turns.T @ true_turns)


def _turn_vectors(poses: FloatArray) -> FloatArray:
    """(K, 3) rotation vectors of steps over a twentieth of the poses, and from each to the middle one."""
    rotations = poses[:, :3, :3]
    step = max(1, len(poses) // 20)
    pairs = np.concatenate(
        [
            np.swapaxes(rotations[:-step], 1, 2) @ rotations[step:],
            rotations[len(poses) // 2].T @ rotations,
        ]
    )
    return rotation_vector(pairs)


def _arm(truth: FloatArray, guess: FloatArray, turn: FloatArray) -> _Arm:
    """World rotation, camera in the body, scale, and the squared residual of positions, for a turn of the camera."""
    world = _mean_rotation(truth[:, :3, :3] @ np.swapaxes(guess[:, :3, :3] @ turn, 1, 2))
    count = len(truth)
    columns = np.zeros((count, 3, 7))
    columns[:, :, 0] = guess[:, :3, 3] @ world.T
    columns[:, :, 1:4] = world @ guess[:, :3, :3]
    columns[:, :, 4:] = np.eye(3)
    target = truth[:, :3, 3].reshape(-1)
    matrix = columns.reshape(-1, 7)
    solution = np.linalg.lstsq(matrix, target, rcond=1e-9)[0]
    residual = float(np.sum((matrix @ solution - target) ** 2))
    scale = float(solution[0])
    arm = np.asarray(solution[1:4] / scale) if scale > 0 else np.zeros(3)
    return world, pose_matrix(turn, arm), scale, residual


def _refined(
    truth: FloatArray, guess: FloatArray, world: FloatArray, camera: FloatArray, scale: float
) -> tuple[FloatArray, FloatArray]:
    """World rotation and camera that fit positions and rotations together, by least squares from a first guess."""
    some = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), 100)).astype(np.int64))
    truth, guess = truth[some], guess[some]
    size = spread(truth[:, :3, 3])
    centre = truth[:, :3, 3].mean(axis=0)

    def parts(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        turned_world = rotation_from_vector(x[:3]) @ world
        turn = camera[:3, :3] @ rotation_from_vector(x[3:6])
        return turned_world, pose_matrix(turn, camera[:3, 3] + x[6:9] * size / scale)

    def residuals(x: FloatArray) -> FloatArray:
        turned_world, moved = parts(x)
        cameras = guess @ moved
        turned = cameras[:, :3, 3] @ turned_world.T
        off = (x[9] + 1) * scale * (turned - turned.mean(axis=0)) - (truth[:, :3, 3] - centre)
        turns = rotation_vector(np.swapaxes(truth[:, :3, :3], 1, 2) @ turned_world @ cameras[:, :3, :3])
        return np.concatenate([(off / size).ravel(), turns.ravel()])

    return parts(_gauss_newton(residuals, np.zeros(10)))


def _gauss_newton(residuals: Callable[[FloatArray], FloatArray], x: FloatArray) -> FloatArray:
    """Where the sum of squared residuals is least, near ``x``; a step that does not lessen it is halved."""
    left = residuals(x)
    for _ in range(15):
        slopes = np.column_stack([(residuals(x + nudge) - left) / 1e-7 for nudge in 1e-7 * np.eye(len(x))])
        step = np.linalg.lstsq(slopes, -left, rcond=1e-9)[0]
        tried = ((moved, residuals(moved)) for moved in (x + step * 0.5**halved for halved in range(8)))
        better = next((found for found in tried if found[1] @ found[1] < left @ left), None)
        if better is None:
            break
        before, (x, left) = left @ left, better
        if before - left @ left < 1e-8 * before:
            break
    return x


_SAYS = {
    "world-to-camera": "inverse (world-to-camera)",
    "world-to-camera-rotations": "camera positions with inverse rotations",
    "wxyz": "with the quaternions' scalar first (w x y z)",
    "xyzw": "with the quaternions' scalar last (x y z w)",
    "left": "in left-handed axes (mirror images)",
}


def _words(matched: MatchedPoses, reading: PoseReading) -> str:
    """What the poses look like, what would come of reading them so, and how to ask for it."""
    found = [_SAYS[word] for word in (reading.poses, reading.quaternion, reading.handedness) if word in _SAYS]
    if reading.to_camera == OPENGL:
        found.append("of a camera with OpenGL's axes (y up, z backward)")
    elif reading.to_camera is not None:
        camera = camera_in_body(reading.to_camera)
        arm = float(np.linalg.norm(camera[:3, 3]))
        angle = np.degrees(rotation_angle(camera[:3, :3]))
        turned = f"turned from the camera's axes by a constant {angle:.1f}°"
        found.append(f"of a body {turned}, {arm:.3g} from its centre (in the estimate's unit)" if arm else turned)
    reference, estimate = matched.reference, matched.estimate
    read = reading.apply(estimate, "wxyz" if reading.quaternion == "xyzw" else "xyzw")
    (ate, turn), (then, turn_then) = (_figures(reference, poses) for poses in (estimate, read))
    either = ""
    if reading.poses == "world-to-camera" or reading.handedness == "left":
        either = "; the same fits where it is the reference that is so (--gt-… instead)"
    elif reading.quaternion is not None:
        other = "xyzw" if reading.quaternion == "wxyz" else "wxyz"
        either = f"; the same fits where the reference's are the other way round (--gt-quaternion {other})"
    elif reading.to_camera is not None:
        either = "; where it is the reference that is of a body, --gt-to-camera takes the inverse of that pose"
    return (
        f"the poses look {', '.join(found)}: read so, ATE would be {then:.4g} m instead of {ate:.4g} m, and rotations"
        f" would be off by {turn_then:.3g}° instead of {turn:.3g}° (RMS); {_asked(reading)} reads them so{either}"
    )


def _asked(reading: PoseReading) -> str:
    """Options of ``score`` and settings of ``replay``."""
    options, settings = [], []
    for name, value in reading.changes.items():
        text = " ".join(f"{number:.6g}" for number in value) if isinstance(value, list) else str(value)
        if value == list(OPENGL):
            text = "opengl"
        quoted = f'"{text}"' if " " in text else text
        options.append(f"--est-{name.replace('_', '-')} {quoted}")
        settings.append(f"{name}: {quoted}")
    return f"{' '.join(options)} (for saved poses in an experiment, {', '.join(settings)})"


def _figures(reference: FloatArray, estimate: FloatArray) -> tuple[float, float]:
    """ATE in metres and the RMS of rotation differences in degrees, after Sim(3) alignment as the scores have it."""
    truth, guess = reference[:, :3, 3], estimate[:, :3, 3]
    try:
        world = umeyama(guess, truth, with_scale=True).rotation
    except UnscorableError:
        world = _mean_rotation(reference[:, :3, :3] @ np.swapaxes(estimate[:, :3, :3], 1, 2))
    return _ate(truth, guess), float(np.degrees(_rotation_rms(reference, estimate, world)))


def _ate(truth: FloatArray, guess: FloatArray) -> float:
    """RMSE in metres after Sim(3) alignment; that of an estimate in one point where there is none."""
    try:
        return aligned_rmse(guess, truth)
    except UnscorableError:
        return spread(truth)


def _mirror_note(matched: MatchedPoses, truth: FloatArray, guess: FloatArray) -> tuple[str, ...]:
    """For positions that only a mirror image fits, whatever the rotations say."""
    positions, size = truth[:, :3, 3], spread(truth[:, :3, 3])
    proper, image = (_ate(positions, poses[:, :3, 3]) / size for poses in (guess, mirrored(guess)))
    if not (proper > POOR and image < min(GOOD, proper / CLEARLY)):
        return ()
    ate, then = (_ate(matched.reference[:, :3, 3], p[:, :3, 3]) for p in (matched.estimate, mirrored(matched.estimate)))
    back, turned = inverse(guess), pose_matrix(guess[:, :3, :3], mirrored(guess)[:, :3, 3])
    alike = matched.without_orientation is None and _as_well(truth, back, back, turned)
    or_inverse = (
        "; so would inverse poses (--est-poses world-to-camera): the camera turns too little to tell them apart"
    )
    return (
        f"the positions look like a mirror image (left-handed axes): read so, ATE would be {then:.4g} m instead of"
        f" {ate:.4g} m; {_asked(PoseReading(handedness='left'))} reads them so; the same fits where it is the reference"
        f" that is so (--gt-… instead){or_inverse if alike else ''}",
    )


def _reference_note(matched: MatchedPoses, truth: FloatArray, guess: FloatArray) -> tuple[str, ...]:
    """For a reference whose quaternions were read in the other order: no reading of the estimate makes up for that."""
    plain = _misfit(truth, guess)
    if plain <= POOR or _ate(truth[:, :3, 3], guess[:, :3, 3]) > POOR * spread(truth[:, :3, 3]):
        return ()
    for order, words in (("wxyz", "first (w x y z)"), ("xyzw", "last (x y z w)")):
        if _misfit(reordered(truth, order == "wxyz"), guess) < min(POOR, plain / CLEARLY):
            return (
                f"the reference's poses look with the quaternions' scalar {words}: read so, they agree with the"
                f" estimate's; --gt-quaternion {order} reads them so",
            )
    return ()


def _wandering_note(matched: MatchedPoses, truth: FloatArray, guess: FloatArray) -> tuple[str, ...]:
    """For positions that agree while rotations do not, under no constant turn."""
    share = _ate(truth[:, :3, 3], guess[:, :3, 3]) / spread(truth[:, :3, 3])
    cameras = guess @ pose_matrix(_constant_turn(_turn_vectors(guess), _turn_vectors(truth)), np.zeros(3))
    world = _mean_rotation(truth[:, :3, :3] @ np.swapaxes(cameras[:, :3, :3], 1, 2))
    off = float(np.degrees(_errors(truth, cameras, world)[1]))
    if share > POOR / 2 or off < WANDERING_DEG:
        return ()
    ate = _ate(matched.reference[:, :3, 3], matched.estimate[:, :3, 3])
    return (
        f"positions agree (ATE {ate:.4g} m) while rotations differ by {off:.3g}° (RMS) and by no constant turn: what"
        " the rotations mean is in doubt, and so is what rests on them (RPE, segments, AUC)",
    )


def _two_frames_note(matched: MatchedPoses, truth: FloatArray, guess: FloatArray) -> tuple[str, ...]:
    """For positions that agree, and rotations that agree, but under different turns of the world."""
    share = _ate(truth[:, :3, 3], guess[:, :3, 3]) / spread(truth[:, :3, 3])
    world = _mean_rotation(truth[:, :3, :3] @ np.swapaxes(guess[:, :3, :3], 1, 2))
    positions, rotations = _errors(truth, guess, world)
    if share > POOR / 2 or rotations > np.radians(WANDERING_DEG) or positions < np.sin(np.radians(WANDERING_DEG)):
        return ()
    ate = _ate(matched.reference[:, :3, 3], matched.estimate[:, :3, 3])
    turn = f"{np.degrees(np.arcsin(positions)):.3g}°" if positions < 0.99 else "90° or more"
    return (
        f"positions agree (ATE {ate:.4g} m) and rotations agree, but not in one frame: the camera seems to move in"
        f" directions that are off by {turn}; what the axes of the poses mean is in doubt, and so is what rests on both"
        " (RPE, segments, AUC); --est-to-camera (in an experiment, to_camera) takes the camera's pose in its body",
    )


def match_notes(matched: int, estimate_poses: int, reference_poses: int, total_frames: int) -> tuple[str, ...]:
    """Notes on how little of the trajectories the numbers rest on.

    matched: poses that are scored. estimate_poses, reference_poses: that there are, finite. total_frames: of the
    sequence. Where one side is sparse by nature, as keyframes are, it is held against that side alone.
    """
    fewer = min(estimate_poses, reference_poses)
    notes = []
    if 3 <= matched < FEW_POSES or 0 < 100 * matched < FEW_PERCENT * fewer:
        notes.append(
            f"few poses match: {matched} of {estimate_poses} estimated and {reference_poses} reference poses are"
            " scored, and every number rests on these alone"
        )
    if reference_poses and 0 < 100 * estimate_poses < FEW_PERCENT * min(total_frames, reference_poses):
        notes.append(
            f"few frames have a pose: {estimate_poses} of {total_frames}; the numbers say nothing of the others"
        )
    return tuple(notes)
