"""Live: one network streamed with and without a planted slow-down, frames in turn; minutes, skipped where restless."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lingbot_eval.comparison.contenders import Bench, Contender, PreparedFrames, select
from lingbot_eval.gating.judge import Statistical
from lingbot_eval.methods.stepper import WARM_UP_STEPS, Stepper
from lingbot_eval.runs.experiment import load_experiment
from lingbot_eval.statistics import judge_rounds
from lingbot_eval.types import FloatArray, Frame

ROUNDS, FRAMES, PLANTED = 10, 64, 0.15
SIDES = ("baseline", "again", "slowed")
DEFAULT = Statistical(kind="statistical", match="*")


def step_ms(stepper: Stepper, frame: Frame, planted: float) -> float:
    """Milliseconds of one step, of which a share of its own time is waited away, busily."""
    start = time.perf_counter()
    stepper.step(frame)
    until = time.perf_counter() + planted * (time.perf_counter() - start)
    while time.perf_counter() < until:
        pass
    return 1e3 * (time.perf_counter() - start)


def one_round(bench: Bench, frames: list[Frame], scale: int) -> dict[str, FloatArray]:
    """(N,) times of the step frames of every side.

    The sides take turns frame by frame, in the six orders one after another: what befalls the machine for longer than a
    frame befalls all of them, and each side comes first, second and last nearly equally often.
    """
    streams = {side: bench.open(Contender(side, "sdpa", "float32")) for side in SIDES}
    orders = itertools.cycle(itertools.permutations(SIDES))
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for frame, order in zip(frames, orders, strict=False):
        for side in order:
            found[side].append(step_ms(streams[side], frame, PLANTED if side == "slowed" else 0.0))
    return {side: np.array(times[scale:]) for side, times in found.items()}


@pytest.mark.slow
def test_the_same_code_holds_and_a_planted_slow_down_is_caught(record_property: Callable[[str, object], None]) -> None:
    """Three sides in turn: one is the baseline, one is the same again, one is slowed by 15 %."""
    selected = select(load_experiment("ci_gate"), None, FRAMES)
    frames = list(PreparedFrames(selected.unit).frames())
    bench = Bench(selected.method, torch.device("cpu"), len(frames))
    scale = selected.method.streaming.scale_frames
    one_round(bench, frames[: scale + WARM_UP_STEPS], scale)
    measured = [one_round(bench, frames, scale) for _ in range(ROUNDS)]
    steps = {side: [times[side] for times in measured] for side in SIDES}
    again, slowed = (
        judge_rounds(steps["baseline"], steps[side], DEFAULT.min_effect, DEFAULT.alpha, in_turn=True)
        for side in ("again", "slowed")
    )
    record_property("again", again.reason)
    record_property("slowed", slowed.reason)
    assert again.status != "regression", again.reason
    assert slowed.status not in ("held", "better"), slowed.reason
    # No pass without both verdicts: what could not be judged is said so.
    for found in (again, slowed):
        if found.status == "incomparable":
            pytest.skip(found.reason)
    assert (again.status, slowed.status) == ("held", "regression"), (again.reason, slowed.reason)
    assert slowed.effect == pytest.approx(PLANTED, abs=0.05), slowed.reason
