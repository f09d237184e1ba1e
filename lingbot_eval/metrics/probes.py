"""What an estimate does where little can be seen: the camera stands still, turns on the spot, or comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_RETURNS = 2000  # frames that are looked at for a return, spread evenly

_Rows = NDArray[np.int64]


class ProbeSettings(StrictModel):
    """What counts as standing, turning and coming back; of the reference, between consecutive matched frames.

    still_m, still_deg: the camera stands where a step is no longer and turns no further. turn_deg: it turns on the spot
    where a step is no longer than still_m and turns at least so far. frames: steps in a row that make a standstill or
    a turn. return_m, return_deg: a frame is a return where it is as near as that to one of at least ``away`` frames
    before.
    """

    still_m: Positive = 0.001
    still_deg: Positive = 0.05
    turn_deg: Positive = 0.2
    frames: Annotated[int, Field(ge=2)] = 10
    return_m: Positive = 0.05
    return_deg: Positive = 5.0
    away: Annotated[int, Field(ge=2)] = 30


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
    scored = _Scored(matched.reference, aligned, settings)
    found = []
    for quantity, errors, part, combine in _quantities(settings):
        try:
            values = errors(scored)[part]
        except UnscorableError as error:
            found.append(quantity.failed(str(error), 0))
        else:
            found.append(quantity.value(float(combine(values)), len(values)))
    return tuple(found)


class _Scored:
    """A matched pair of trajectories in metres, and where the reference stands, turns and comes back."""

    def __init__(self, reference: FloatArray, aligned: FloatArray, settings: ProbeSettings) -> None:
        self.reference, self.aligned, self.settings = reference, aligned, settings
        steps = relative(reference[:-1], reference[1:])
        moved = np.linalg.norm(steps[:, :3, 3], axis=1)
        turned = np.degrees(rotation_angle(steps[:, :3, :3]))
        on_the_spot = moved <= settings.still_m
        self.runs = {
            "standing": _runs(on_the_spot & (turned <= settings.still_deg), settings.frames),
            "turning": _runs(on_the_spot & (turned >= settings.turn_deg), settings.frames),
        }

    def steps(self, kind: str, what: str) -> tuple[FloatArray, FloatArray]:
        """Errors (metres, degrees) of every step in runs of a kind. Raises UnscorableError where there is none."""
        rows = [np.arange(a, b) for a, b in self.runs[kind]]
        first = self._checked(np.concatenate(rows or [np.empty(0, np.int64)]), what)
        return pair_errors(self.reference, self.aligned, first, first + 1)

    def ends(self, kind: str, what: str) -> tuple[FloatArray, FloatArray]:
        """Errors from the beginning to the end of each such run. Raises UnscorableError where there is none."""
        first, last = self._checked(self.runs[kind], what).T
        return pair_errors(self.reference, self.aligned, first, last)

    def returns(self) -> tuple[FloatArray, FloatArray]:
        """Errors between frames and their first visit to the place. Raises UnscorableError where there is none."""
        from scipy.spatial import KDTree

        settings, poses = self.settings, self.reference
        tree = KDTree(poses[:, :3, 3])
        first, last = [], []
        for row in np.unique(np.linspace(0, len(poses) - 1, min(len(poses), MOST_RETURNS)).astype(np.int64)):
            near = np.array(tree.query_ball_point(poses[row, :3, 3], settings.return_m), np.int64)
            near = np.sort(near[near <= row - settings.away])
            angles = np.degrees(rotation_angle(np.swapaxes(poses[near, :3, :3], 1, 2) @ poses[row, :3, :3]))
            alike = near[angles <= settings.return_deg]
            if len(alike):
                first.append(alike[0])
                last.append(row)
        what = (
            f"never comes back within {settings.return_m:g} m and {settings.return_deg:g}° after {settings.away} frames"
        )
        return pair_errors(
            poses, self.aligned, self._checked(np.array(first, np.int64), what), np.array(last, np.int64)
        )

    @staticmethod
    def _checked(rows: _Rows, what: str) -> _Rows:
        if not len(rows):
            raise UnscorableError(f"the reference {what}")
        return rows


def _runs(mask: NDArray[np.bool_], least: int) -> NDArray[np.int64]:
    """(K, 2) first and last frame of every stretch of at least ``least`` steps that are in the mask."""
    runs = stretches(mask)
    return runs[runs[:, 1] - runs[:, 0] >= least]


_Errors = Callable[[_Scored], tuple[FloatArray, FloatArray]]
_Combine = Callable[[FloatArray], float]


def _quantities(settings: ProbeSettings) -> Iterator[tuple[Quantity, _Errors, int, _Combine]]:
    """What is measured, whose errors it is of, metres (0) or degrees (1), and what is made of them."""
    s = settings
    still = f"at most {s.still_m:g} m and {s.still_deg:g}°"
    turned = f"at most {s.still_m:g} m and at least {s.turn_deg:g}°"
    standing = f"where the reference stands for {s.frames} frames or more (steps of {still})"
    turning = f"where the reference turns on the spot for {s.frames} frames or more (steps of {turned})"
    back = (
        f"between each frame and the first of those, {s.away} frames before it or more, whose true pose is within"
        f" {s.return_m:g} m and {s.return_deg:g}° of its own"
    )
    stands = f"never stands for {s.frames} frames (steps of {still})"
    turns = f"never turns on the spot for {s.frames} frames (steps of {turned})"

    still_steps, still_ends = (partial(of, kind="standing", what=stands) for of in (_Scored.steps, _Scored.ends))
    turn_steps, turn_ends = (partial(of, kind="turning", what=turns) for of in (_Scored.steps, _Scored.ends))
    entries: tuple[tuple[str, str, str, _Errors, int, _Combine], ...] = (
        ("standstill_translation", "m/frame", f"mean motion a frame {standing}", still_steps, 0, np.mean),
        ("standstill_rotation", "deg/frame", f"mean rotation a frame {standing}", still_steps, 1, np.mean),
        ("standstill_drift", "m", f"largest motion from beginning to end {standing}", still_ends, 0, np.max),
        ("rotation_translation", "m/frame", f"mean motion a frame {turning}", turn_steps, 0, np.mean),
        ("rotation_drift", "m", f"largest motion from beginning to end {turning}", turn_ends, 0, np.max),
        ("rotation_error", "deg", f"largest rotation error from beginning to end {turning}", turn_ends, 1, np.max),
        (
            "revisit_translation",
            "m",
            f"mean translation of the relative pose error {back}",
            _Scored.returns,
            0,
            np.mean,
        ),
        ("revisit_rotation", "deg", f"mean rotation of the relative pose error {back}", _Scored.returns, 1, np.mean),
    )
    for name, unit, words, errors, part, combine in entries:
        convention = f"{words}, after Sim(3) alignment over all matched frames"
        yield Quantity("probes", name, "sim3", unit, convention), errors, part, combine


class ProbeFamily(MetricFamily):
    """Standstills, turns on the spot and returns. Off unless asked for: few sequences have them."""

    Settings = ProbeSettings
    on = False

    def compute(self, scene: ScoredScene) -> list[Measurement]:
        return scene.explained(score_probes(scene.truth, scene.estimate, self.settings))
