"""What an estimate does where little can be seen: the camera stands still, turns on the spot, or comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.poses import relative, rotation_angle
from lingbot_eval.metrics.base import MetricFamily, Quantity, ScoredScene
from lingbot_eval.metrics.matching import alignment_of, match_poses
from lingbot_eval.metrics.segments import pair_errors
from lingbot_eval.settings import StrictModel
from lingbot_eval.statistics import stretches
from lingbot_eval.types import Declaration, FloatArray, Measurement, Trajectory

DECLARED = (
    Declaration("standstill_translation", "lower", "sim3", title="moves at standstill (m/frame)"),
    Declaration("rotation_translation", "lower", "sim3", title="moves while turning (m/frame)"),
    Declaration("revisit_translation", "lower", "sim3", title="error on return (m)"),
    Declaration("*", "lower"),
)

STILL_M, STILL_DEG = 0.001, 0.05
"""A camera stands where a step is no longer and turns no further."""
TURN_DEG = 0.2
"""It turns on the spot where a step is no longer than STILL_M and turns at least so far."""
RETURN_M, RETURN_DEG, AWAY = 0.05, 5.0, 30
"""A frame is a return where it is as near as that to one of at least AWAY frames before."""
_STILL = f"at most {STILL_M:g} m and {STILL_DEG:g}°"
_TURNED = f"at most {STILL_M:g} m and at least {TURN_DEG:g}°"
MOST_RETURNS = 2000  # frames that are looked at for a return, spread evenly

_Rows = NDArray[np.int64]


class ProbeSettings(StrictModel):
    """frames: steps in a row that make a standstill or a turn, of the reference, between consecutive matched frames."""

    frames: Annotated[int, Field(ge=2)] = 10


def score_probes(
    reference: Trajectory, estimate: Trajectory, settings: ProbeSettings | None = None
) -> tuple[Measurement, ...]:
    """Motion that an estimate reports where the reference stands or only turns, and its error where that comes back.

    After the Sim(3) alignment over all matched frames, which gives lengths in metres; frames are matched by index. What
    the reference does not do is the reason of what it would have measured.
    """
    settings = settings or ProbeSettings()
    matched = match_poses(reference, estimate)
    try:
        if matched.without_orientation is not None:
            raise UnscorableError(matched.without_orientation)
        aligned = alignment_of(matched, "sim3").apply_poses(matched.estimate)
    except UnscorableError as error:
        return tuple(quantity.failed(str(error), 0) for quantity, *_ in _quantities(settings))
    errors = _errors(matched.reference, aligned, settings)
    found = []
    for quantity, kind, part, combine in _quantities(settings):
        pairs = errors[kind]
        if isinstance(pairs, str):
            found.append(quantity.failed(f"the reference {pairs}", 0))
        else:
            found.append(quantity.value(float(combine(pairs[part])), len(pairs[part])))
    return tuple(found)


_Errors = tuple[FloatArray, FloatArray] | str
"""Metres and degrees of pairs of poses; where the reference has no such pair, what it never does."""


def _errors(reference: FloatArray, aligned: FloatArray, settings: ProbeSettings) -> dict[str, _Errors]:
    """Errors of every step and of the ends of runs in which the reference stands or turns, and of its returns."""
    steps = relative(reference[:-1], reference[1:])
    moved = np.linalg.norm(steps[:, :3, 3], axis=1)
    turned = np.degrees(rotation_angle(steps[:, :3, :3]))
    on_the_spot = moved <= STILL_M
    found: dict[str, _Errors] = {}

    def add(kind: str, first: _Rows, last: _Rows, never: str) -> None:
        found[kind] = pair_errors(reference, aligned, first, last) if len(first) else never

    for kind, mask, never in (
        (
            "standing",
            on_the_spot & (turned <= STILL_DEG),
            f"never stands for {settings.frames} frames (steps of {_STILL})",
        ),
        (
            "turning",
            on_the_spot & (turned >= TURN_DEG),
            f"never turns on the spot for {settings.frames} frames (steps of {_TURNED})",
        ),
    ):
        runs = stretches(mask)
        runs = runs[runs[:, 1] - runs[:, 0] >= settings.frames]
        rows = np.concatenate([np.empty(0, np.int64), *(np.arange(a, b) for a, b in runs)])
        add(f"{kind} steps", rows, rows + 1, never)
        add(f"{kind} ends", runs[:, 0], runs[:, 1], never)
    words = f"within {RETURN_M:g} m and {RETURN_DEG:g}° after {AWAY} frames"
    first, last = _returns(reference)
    add("returns", first, last, f"never comes back {words}")
    return found


def _returns(poses: FloatArray) -> tuple[_Rows, _Rows]:
    """Frames that come back, each with the first visit to its place before it."""
    from scipy.spatial import KDTree

    tree = KDTree(poses[:, :3, 3])
    first, last = [], []
    for row in np.unique(np.linspace(0, len(poses) - 1, min(len(poses), MOST_RETURNS)).astype(np.int64)):
        near = np.array(tree.query_ball_point(poses[row, :3, 3], RETURN_M), np.int64)
        near = np.sort(near[near <= row - AWAY])
        angles = np.degrees(rotation_angle(np.swapaxes(poses[near, :3, :3], 1, 2) @ poses[row, :3, :3]))
        alike = near[angles <= RETURN_DEG]
        if len(alike):
            first.append(alike[0])
            last.append(row)
    return np.array(first, np.int64), np.array(last, np.int64)


def _quantities(settings: ProbeSettings) -> Iterator[tuple[Quantity, str, int, Callable[[FloatArray], float]]]:
    """What is measured, whose errors it is of, metres (0) or degrees (1), and what is made of them."""
    s = settings
    standing = f"where the reference stands for {s.frames} frames or more (steps of {_STILL})"
    turning = f"where the reference turns on the spot for {s.frames} frames or more (steps of {_TURNED})"
    back = (
        f"between each frame and the first of those, {AWAY} frames before it or more, whose true pose is within"
        f" {RETURN_M:g} m and {RETURN_DEG:g}° of its own"
    )
    entries: tuple[tuple[str, str, str, str, int, Callable[[FloatArray], float]], ...] = (
        ("standstill_translation", "m/frame", f"mean motion a frame {standing}", "standing steps", 0, np.mean),
        ("standstill_rotation", "deg/frame", f"mean rotation a frame {standing}", "standing steps", 1, np.mean),
        ("standstill_drift", "m", f"largest motion from beginning to end {standing}", "standing ends", 0, np.max),
        ("rotation_translation", "m/frame", f"mean motion a frame {turning}", "turning steps", 0, np.mean),
        ("rotation_drift", "m", f"largest motion from beginning to end {turning}", "turning ends", 0, np.max),
        ("rotation_error", "deg", f"largest rotation error from beginning to end {turning}", "turning ends", 1, np.max),
        ("revisit_translation", "m", f"mean translation of the relative pose error {back}", "returns", 0, np.mean),
        ("revisit_rotation", "deg", f"mean rotation of the relative pose error {back}", "returns", 1, np.mean),
    )
    for name, unit, words, kind, part, combine in entries:
        convention = f"{words}, after Sim(3) alignment over all matched frames"
        yield Quantity("probes", name, "sim3", unit, convention), kind, part, combine


class ProbeFamily(MetricFamily):
    """Standstills, turns on the spot and returns. Off unless asked for: few sequences have them."""

    Settings = ProbeSettings
    on = False

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        return scene.explained(score_probes(scene.truth, scene.estimate, self.settings))
