"""Live: one network streamed in turn with and without a planted slow-down; minutes, skipped on a restless machine."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from lingbot_eval.comparison.contenders import Bench, Contender
from lingbot_eval.comparison.frames import PreparedFrames, select
from lingbot_eval.comparison.outcome import Side
from lingbot_eval.comparison.race import race
from lingbot_eval.gate.timing import judge_rounds
from lingbot_eval.gate.tolerances import Statistical
from lingbot_eval.runs.experiment import load_experiment
from lingbot_eval.streaming.open import Session

ROUNDS, PLANTED = 10, 0.15
DEFAULT = Statistical(kind="statistical", match="*")


class Slowed:
    """A session that waits, busily, for a share of each step's own time inside the step."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def step(self, image: torch.Tensor) -> Any:
        start = time.perf_counter()
        outputs = self._session.step(image)
        until = time.perf_counter() + PLANTED * (time.perf_counter() - start)
        while time.perf_counter() < until:
            pass
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.mark.slow
def test_the_same_code_holds_and_a_planted_slow_down_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sides in turn: one is the baseline, one is the same again, one is slowed by 15 %."""
    open_session = Bench.open

    def opened(self: Bench, contender: Contender) -> Any:
        session = open_session(self, contender)
        return Slowed(session) if contender.name == "slowed" else session

    monkeypatch.setattr(Bench, "open", opened)
    selected = select(load_experiment("ci_gate"), None, 64)
    frames = PreparedFrames(selected.unit)
    bench = Bench(selected.method, torch.device("cpu"), frames.sequence.length)
    names = ("baseline", "again", "slowed")
    sides = {name: Side(Contender(name, "sdpa", "float32")) for name in names}
    race(bench, list(sides.values()), frames, ROUNDS, lambda: None)
    scale = selected.method.streaming.scale_frames
    steps = {name: [times[scale:] for times in side.step_ms] for name, side in sides.items()}
    again, slowed = (
        judge_rounds(steps["baseline"], steps[name], DEFAULT.min_effect, DEFAULT.alpha, in_turn=True)
        for name in ("again", "slowed")
    )
    assert again.status != "regression", again.reason
    assert slowed.status not in ("held", "better"), slowed.reason
    if slowed.status == "incomparable":
        pytest.skip(slowed.reason)
    assert slowed.effect == pytest.approx(PLANTED, abs=0.05), slowed.reason
