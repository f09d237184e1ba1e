"""What a comparison of backends found out, as plain values: sides, pairs, speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from scipy.stats import bootstrap

from lingbot_eval.comparison.agreement import Differences
from lingbot_eval.comparison.contenders import Contender
from lingbot_eval.metrics.slope import CONFIDENCE
from lingbot_eval.types import FloatArray

Stage = Literal["warm-up", "alone", "together"]

FEWEST_ROUNDS = 3
"""Of fewer, an interval would be made up."""


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


class OutOfMemory(Exception):  # noqa: N818 - a result that travels, not an error
    """Carries a `Failure` from where it happened to the side that it belongs to."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text())
        self.failure = failure


@contextmanager
def memory_guarded(stage: Stage, frame: int | None) -> Iterator[None]:
    """Turns the device's refusal of memory inside the block into :class:`OutOfMemory`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        # The traceback holds the frames whose tensors are to go.
        raise OutOfMemory(Failure(stage, frame, reason)) from None


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


@dataclass(frozen=True)
class Ratio:
    """Time of B / time of A: median over rounds of the ratio of the rounds' medians over step frames.

    low, high: 95 % bootstrap interval over rounds, None where reason says why there is none.
    """

    value: float
    low: float | None
    high: float | None
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
        return Ratio(value, None, None, f"an interval needs {FEWEST_ROUNDS} rounds, there are {len(ratios)}")
    # The percentile form: the corrected ones break down on a handful of rounds.
    drawn = bootstrap(
        (np.array(ratios),),
        np.median,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    return Ratio(value, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))
