"""Which timed frames of a round are kept: all of a short scene, stretches spread over a long one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lingbot_eval.statistics import BLOCK_FRAMES
from lingbot_eval.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd

MOST_BLOCKS = 48
"""Stretches of BLOCK_FRAMES frames kept of a round: enough for a test, in a file that one can still read."""
DIGITS = 4


def round_of(frames: pd.DataFrame, column: str) -> FloatArray | None:
    """(N,) milliseconds of the step frames of one pass, thinned; None where the method told none.

    Scale frames enter together and the first output has the start-up in it: neither is the pace. N depends only on
    the number of frames, so repeats keep the same ones.
    """
    steps = (frames["frame_type"] != "scale").to_numpy() & (np.arange(len(frames)) > 0)
    times = frames[column].to_numpy(np.float64)[steps]
    if not np.isfinite(times).any():
        return None
    return thinned(times)


def thinned(times: FloatArray) -> FloatArray:
    """``times``, or of more than MOST_BLOCKS blocks that many, evenly spread from the first to the last."""
    blocks = len(times) // BLOCK_FRAMES
    if blocks <= MOST_BLOCKS:
        return times
    chosen = np.linspace(0, blocks - 1, MOST_BLOCKS).round().astype(np.int64)
    kept: FloatArray = times[: blocks * BLOCK_FRAMES].reshape(blocks, BLOCK_FRAMES)[chosen].ravel()
    return kept


def to_text(times: FloatArray) -> str:
    """One line of numbers with four significant digits."""
    return " ".join(f"{time:.{DIGITS}g}" for time in times)


def from_text(text: str) -> FloatArray:
    """The numbers of a line. Raises ValueError for anything else, and for what is no duration."""
    times = np.array([float(word) for word in text.split()], dtype=np.float64)
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError("expected durations in milliseconds")
    return times
