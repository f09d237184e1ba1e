"""How a noisy series changes along something: a slope that outliers do not move, with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.types import FloatArray

BLOCKS = 40
"""A slope is looked for in medians of this many stretches: neighbouring values err alike, stretches hardly."""
FEWEST_BLOCKS = 8
BLOCK_VALUES = 4
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Slope:
    """Theil–Sen slope over block medians, with its interval at CONFIDENCE; in units of y a unit of x."""

    value: float
    low: float
    high: float


def robust_slope(x: NDArray[np.int64] | FloatArray, y: FloatArray) -> Slope | None:
    """Slope of finite ``y`` (N,) along rising ``x`` (N,); None for fewer than FEWEST_BLOCKS · BLOCK_VALUES of them.

    Theil–Sen, because times have outliers in one direction only; its interval (Sen 1968) assumes independent values,
    which the medians of up to BLOCKS stretches nearly are.
    """
    from scipy.stats import theilslopes

    blocks = min(BLOCKS, len(y) // BLOCK_VALUES)
    if blocks < FEWEST_BLOCKS:
        return None
    medians = np.array([np.median(block) for block in np.array_split(y, blocks)])
    centres = np.array([np.mean(block) for block in np.array_split(x, blocks)])
    slope, _, low, high = theilslopes(medians, centres, alpha=CONFIDENCE)
    return Slope(float(slope), float(low), float(high))
