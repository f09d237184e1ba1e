"""Events in the errors of single steps: jumps, as at window boundaries, and the frame of collapse."""

from __future__ import annotations

from bisect import insort

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.geometry.poses import relative
from lingbot_eval.types import FloatArray

SURROUNDINGS = 25  # steps before and after that a jump stands out from
MIN_JUMP = 0.5  # of the motion: smaller ones are noise of a very good trajectory
MIN_COLLAPSE = 0.2


def step_errors(reference: FloatArray, aligned: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Translation errors and true motions (M − 1,) in metres of the steps of (M, 4, 4) poses.

    The error is the distance between the true and the estimated step, both seen from their own camera. The motion of a
    step is at least the median motion, so that standstills do not make errors look large.
    """
    true_steps, steps = (relative(poses[:-1], poses[1:])[:, :3, 3] for poses in (reference, aligned))
    motion = np.linalg.norm(true_steps, axis=1)
    moving = motion[motion > 0]
    floor = float(np.median(moving)) if len(moving) else 1.0
    return np.asarray(np.linalg.norm(steps - true_steps, axis=1)), np.maximum(motion, floor)


def jump_steps(errors: FloatArray, motion: FloatArray, factor: float) -> NDArray[np.int64]:
    """Steps whose error is above ``factor`` × the median of their surroundings and above half of their motion."""
    candidates = np.flatnonzero(errors > MIN_JUMP * motion)
    found = []
    for step in candidates:
        start = max(0, step - SURROUNDINGS)
        around = np.concatenate([errors[start:step], errors[step + 1 : step + 1 + SURROUNDINGS]])
        if len(around) and errors[step] > factor * float(np.median(around)):
            found.append(step)
    return np.array(found, dtype=np.int64)


def collapse_step(errors: FloatArray, motion: FloatArray, window: int, factor: float) -> int | None:
    """The first step of a lasting breakdown; None when there is none.

    With e = errors / motion: the first step k ≥ window with e_k above limit_k = max(``factor`` × median(e_0 … e_{k−1}),
    0.2) where the median of the ``window`` steps from k on is above limit_k as well. A single jump does not pass the
    median; a fault that lasts does.
    """
    shares = errors / motion
    past = sorted(shares[:window].tolist())
    for step in range(window, len(shares) - window + 1):
        middle = len(past) // 2
        median = past[middle] if len(past) % 2 else (past[middle - 1] + past[middle]) / 2
        limit = max(factor * median, MIN_COLLAPSE)
        if shares[step] > limit and float(np.median(shares[step : step + window])) > limit:
            return step
        insort(past, float(shares[step]))
    return None
