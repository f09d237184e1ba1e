"""What a comparison of backends found out, as plain values: sides, pairs, speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch

from lingbot_eval.comparison.contenders import Contender
from lingbot_eval.reports.agreement import Differences
from lingbot_eval.statistics import FEWEST_ROUNDS, judge_rounds
from lingbot_eval.types import FloatArray

Stage = Literal["warm-up", "alone", "together"]


@dataclass(frozen=True)
class Failure:
    """A side ran out of device memory. frame: the one that it could not take, None while the network was loaded.

    stage: on its own (``warm-up``, ``alone``), or only beside the others (``together``), which says nothing against it.
    """

    stage: Stage
    frame: int | None
    reason: str

    def text(self) -> str:
        """In words."""
        where = "while loading the network" if self.frame is None else f"at frame {self.frame}"
        how = {"warm-up": "in the warm-up", "alone": "on its own", "together": "beside the others"}[self.stage]
        return f"out of device memory {where}, {how}: {self.reason}"


class Failing(Protocol):
    """What can run out of device memory."""

    failure: Failure | None


@contextmanager
def memory_guarded(failing: Failing, stage: Stage, frame: Callable[[], int | None]) -> Iterator[None]:
    """Turns the device's refusal of memory inside the block into the failure of whom it befell, at ``frame()``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        failing.failure = Failure(stage, frame(), " ".join(str(error).split()).partition(". ")[0])


@dataclass
class Side:
    """One contender and what was measured of it.

    weights_bytes: of its network. warm_up_s: first streams of a few frames, compilation included.
    step_ms: one (N,) a round, milliseconds of every frame, device synchronised, NaN from the frame on that it failed
    at; scale frames carry equal shares of their pass.
    cache_bytes: in view at its fullest, by kind; cache_allocated: the most that was held.
    device_bytes: peak above what was there before its own pass, None on a CPU. failure: why it has no full measurement.
    """

    contender: Contender
    weights_bytes: int | None = None
    warm_up_s: float | None = None
    step_ms: list[FloatArray] = field(default_factory=list)
    cache_bytes: dict[str, int] = field(default_factory=dict)
    cache_allocated: int | None = None
    device_bytes: int | None = None
    failure: Failure | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """Two sides held against each other, frame by frame.

    keyframes_differ: frames that one kept and the other did not. ended: why they could not be compared to the end.
    """

    first: Contender
    second: Contender
    differences: Differences
    keyframes_differ: int
    ended: Failure | None


_VERDICTS = {"held": "no difference", "better": "faster", "regression": "slower", "incomparable": None}


@dataclass(frozen=True)
class Ratio:
    """Time of B / time of A, of the step frames, over rounds in turn; what the gate would say of it.

    low, high: what it may be by chance, each end missed with the chance `statistics.ALPHA`. verdict: ``slower`` or
    ``faster`` (B, by more than `statistics.MIN_EFFECT` and by more than chance), ``no difference``. All None where
    reason says why there is none.
    """

    value: float
    low: float | None = None
    high: float | None = None
    verdict: str | None = None
    reason: str | None = None


def step_median(step_ms: FloatArray, scale_frames: int) -> float | None:
    """Median of a round's (N,) milliseconds without its scale frames; None when no step frame was reached."""
    steps = step_ms[scale_frames:]
    steps = steps[np.isfinite(steps)]
    return float(np.median(steps)) if len(steps) else None


def time_ratio(first: Side, second: Side, scale_frames: int) -> Ratio | str:
    """How long ``second`` takes against ``first``, or why that cannot be said."""
    for side in (first, second):
        if side.failure is not None:
            return f"{side.contender.label}: {side.failure.text()}"
    ratios = []
    for one, other in zip(first.step_ms, second.step_ms, strict=True):
        before, after = step_median(one, scale_frames), step_median(other, scale_frames)
        if before is None or after is None:
            return "the stream ends with its scale phase: there is no step to time"
        ratios.append(after / before)
    value = float(np.median(ratios))
    if len(ratios) < FEWEST_ROUNDS:
        return Ratio(value, reason=f"an interval needs {FEWEST_ROUNDS} rounds, there are {len(ratios)}")
    first_ms, second_ms = ([step_ms[scale_frames:] for step_ms in side.step_ms] for side in (first, second))
    found = judge_rounds(first_ms, second_ms, in_turn=True)
    if found.effect is None or found.low is None or found.high is None:
        return Ratio(value, reason=found.reason)
    reason = found.reason if found.status == "incomparable" else None
    return Ratio(1 + found.effect, 1 + found.low, 1 + found.high, _VERDICTS[found.status], reason)
