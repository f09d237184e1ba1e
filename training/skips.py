"""Counts the steps that were passed over because their gradient was not finite, and says when there are too many."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from lingbot_eval.errors import LingbotEvalError

RECENT_STEPS = 1_000
MOST_RECENT_SKIPS = 10
"""1 % of the recent steps; a share of fewer steps would make one bad batch early on the end of a run."""
MOST_IN_A_ROW = 20


class TrainingError(LingbotEvalError):
    """Training that cannot go on: too many gradients are no longer numbers."""


@dataclass(frozen=True)
class SkipCount:
    """skipped: of the steps since the last reading. longest: steps skipped one after another, the longest such row."""

    skipped: int
    longest: int


class SkipCounter:
    """On the device, so that counting stalls nothing; reading it waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._skipped, self._row, self._longest = torch.zeros((3,), dtype=torch.int64, device=device).unbind()

    def count(self, finite: Tensor) -> None:
        """A step with a gradient that is finite () bool, or not."""
        bad = (~finite).long()
        self._skipped = self._skipped + bad
        self._row = (self._row + bad) * bad
        self._longest = torch.maximum(self._longest, self._row)

    def read(self) -> SkipCount:
        """What was counted since the last reading; a row that still goes on is carried over."""
        skipped, longest = torch.stack([self._skipped, self._longest]).tolist()
        self._skipped, self._longest = torch.zeros_like(self._skipped), self._row
        return SkipCount(skipped, longest)


class SkipLimit:
    """Remembers the readings of the last RECENT_STEPS or so."""

    def __init__(self) -> None:
        self._readings: deque[tuple[int, int]] = deque()

    def check(self, step: int, steps: int, found: SkipCount) -> None:
        """A reading after ``steps`` steps, at ``step``. Raises TrainingError where too many were skipped."""
        self._readings.append((steps, found.skipped))
        while sum(n for n, _ in self._readings) - self._readings[0][0] >= RECENT_STEPS:
            self._readings.popleft()
        recent, skipped = (sum(part) for part in zip(*self._readings, strict=True))
        allowed = max(MOST_RECENT_SKIPS, recent * MOST_RECENT_SKIPS // RECENT_STEPS)
        if found.longest >= MOST_IN_A_ROW or skipped > allowed:
            raise TrainingError(
                f"step {step}: {skipped} of the last {recent} steps had a gradient that is not finite ({found.longest}"
                f" in a row; at most {allowed}, {MOST_IN_A_ROW - 1} in a row); start again in another folder with a"
                " lower learning rate or another seed"
            )
