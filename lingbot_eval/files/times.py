"""What the stamps of a file mean: their unit from evidence, and seconds without losing the digits that tell them apart.

A format's name says which unit is usual. The stamps themselves can contradict it: nanoseconds have no fractions, nobody
stores 10,000 poses a second, and no recording is of the year 5000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import DataError
from lingbot_eval.types import FloatArray

TimeUnit = Literal["s", "ms", "us", "ns"]

WORDS: Mapping[TimeUnit, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EXPONENT: Mapping[TimeUnit, int] = {"s": 0, "ms": 3, "us": 6, "ns": 9}

_EPOCH = (3e8, 4.2e9)  # seconds since 1970: 1979 to 2103
_LATEST = 1e11  # seconds: the year 5138
_SHORTEST_STEP = 1e-4  # seconds between poses: 10,000 a second
_LONGEST_STEP = 1e4  # seconds between poses that count from the start of a recording
_USUAL_STEPS = (1e-3, 1e3)


@dataclass(frozen=True, eq=False)
class Stamps:
    """Times of a file.

    seconds: (N,). unit: as the file has them, None where the user gave a scale. why: what contradicts the usual unit,
    or None.
    """

    seconds: FloatArray
    unit: TimeUnit | None
    why: str | None = None


def read_stamps(words: Sequence[str], usual: TimeUnit, scale: float | None = None, offset: float = 0.0) -> Stamps:
    """Stamps as a file writes them, in seconds.

    usual: the unit of the file's format, believed unless the stamps contradict it. scale: seconds to one unit of the
    stamps where the user says so; then nothing is concluded. offset: seconds that are added. All words are finite
    numbers.
    """
    values = np.array([float(word) for word in words])
    if scale is not None:
        seconds = _scaled(words, Decimal(repr(scale)))
        return Stamps(seconds + offset if offset else seconds, None)
    unit, why = evident_unit(values, usual)
    seconds = values if unit == "s" else _scaled(words, Decimal(10) ** -EXPONENT[unit])
    return Stamps(seconds + offset if offset else seconds, unit, why)


def evident_unit(values: FloatArray, usual: TimeUnit) -> tuple[TimeUnit, str | None]:
    """The unit of (N,) stamps, and what contradicts ``usual`` where it is another one."""
    against = _contradiction(values, usual)
    if against is None and not _is_date(values, usual) and any(_is_date(values, unit) for unit in WORDS):
        against = _contradiction(values, usual, _USUAL_STEPS[0])  # dates of another unit need less to be believed
    if against is None:
        return usual, None
    fitting = [unit for unit in WORDS if unit != usual and _contradiction(values, unit) is None]
    by_date = [unit for unit in fitting if _is_date(values, unit)]
    step = _step(values)
    if by_date:
        return by_date[0], against
    if step is not None:
        lowest, highest = _USUAL_STEPS
        usual_rate = [unit for unit in fitting if lowest <= step * _factor(unit) <= highest]
        if usual_rate:  # the one whose rate is nearest to 20 poses a second
            return min(usual_rate, key=lambda unit: abs(np.log(step * _factor(unit) / 0.05))), against
    return usual, None


def indistinguishable(words: Sequence[str], seconds: FloatArray) -> tuple[int, int] | None:
    """Two positions whose stamps differ in the file but are one float64; None where there are none."""
    order = np.argsort(seconds, kind="stable")
    equal: NDArray[np.int64] = np.flatnonzero(np.diff(seconds[order]) == 0)
    for position in equal.tolist():
        a, b = int(order[position]), int(order[position + 1])
        if words[a] != words[b] and _exact(words[a]) != _exact(words[b]):
            return a, b
    return None


def checked_scale(scale: float | None, offset: float) -> None:
    """Raises DataError unless scale is positive and finite and offset finite."""
    if scale is not None and not 0 < scale < float("inf"):
        raise DataError(f"time scale: expected seconds to one unit of the stamps, more than 0, found {scale}")
    if not np.isfinite(offset):
        raise DataError(f"time offset: expected seconds, found {offset}")


def _scaled(words: Sequence[str], factor: Decimal) -> FloatArray:
    # Decimal, since nanoseconds since 1970 have more digits than float64: they are rounded once, at the end.
    return np.array([float(_exact(word) * factor) for word in words])


def _exact(word: str) -> Decimal:
    """All digits of a finite number; 0 for what float64 rounds to 0, where Decimal may refuse the exponent."""
    return Decimal(word) if float(word) else Decimal(0)


def _factor(unit: TimeUnit) -> float:
    return float(10.0 ** -EXPONENT[unit])


def _step(values: FloatArray) -> float | None:
    """The median distance of neighbouring stamps; None where there is only one time."""
    steps = np.diff(np.unique(values))
    return float(np.median(steps)) if len(steps) else None


def _is_date(values: FloatArray, unit: TimeUnit) -> bool:
    times = values * _factor(unit)
    return bool(_EPOCH[0] <= times.min() and times.max() <= _EPOCH[1])


def _contradiction(values: FloatArray, unit: TimeUnit, shortest: float = _SHORTEST_STEP) -> str | None:
    """Why the stamps cannot be of this unit; None where they can."""
    factor, step = _factor(unit), _step(values)
    if unit == "ns" and (values != np.floor(values)).any():
        return "nanoseconds have no fractions"
    latest = float(np.abs(values).max()) * factor
    if latest > _LATEST:
        return f"as {WORDS[unit]} they would be {latest / 31_556_952:.3g} years after 1970"
    if step is None:
        return None
    seconds = step * factor
    if seconds < shortest:
        span = float(np.ptp(values)) * factor
        return f"as {WORDS[unit]} {len(values)} poses would take {span:.3g} s"
    if seconds > _LONGEST_STEP and len(values) > 2 and not _is_date(values, unit):
        return f"as {WORDS[unit]} poses would be {seconds / 3600:.3g} hours apart"
    return None
