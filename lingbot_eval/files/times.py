"""What the stamps of a file mean, and which of two series belong together.

A format's name says which unit is usual. The stamps themselves can contradict it: nanoseconds have no fractions, nobody
stores 10,000 poses a second, and no recording is of the year 5000. Where two series do not pair, they say why.
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


def read_stamps(
    words: Sequence[str], usual: TimeUnit, scale: float | None = None, offset: float = 0.0
) -> tuple[FloatArray, TimeUnit | None, str | None]:
    """Stamps as a file writes them, in seconds.

    Args:
        words: finite numbers.
        usual: the unit of the file's format, believed unless the stamps contradict it.
        scale: seconds to one unit of the stamps where the user says so; then nothing is concluded.
        offset: seconds that are added.

    Returns:
        (N,) seconds; their unit in the file, None where the user gave a scale; what contradicts the usual one, or None.
    """
    values = np.array([float(word) for word in words])
    unit, why = evident_unit(values, usual) if scale is None else (None, None)
    if unit == "s":
        seconds = values
    else:
        factor = Decimal(10) ** -EXPONENT[unit] if unit is not None else Decimal(repr(scale))
        seconds = _scaled(words, factor)
    return (seconds + offset if offset else seconds), unit, why


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


def associate(
    reference_times: FloatArray, times: FloatArray, max_difference: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of stamps that belong together: ``(reference_index, index)``, both increasing.

    Rule: the closest pair is taken first, each stamp is used once, pairs never cross in time, and no pair is further
    apart than ``max_difference`` seconds (inclusive); of equally close pairs the earlier one. Since pairs do not
    cross, only stamps that are neighbours in the common time order can ever pair, so this is one sort and one
    pass. reference_times (N,), times (M,): seconds, strictly increasing; otherwise DataError.
    """
    for name, series in (("reference timestamps", reference_times), ("timestamps", times)):
        if not (np.isfinite(series).all() and (np.diff(series) > 0).all()):
            raise DataError(f"expected strictly increasing {name} to associate, found some out of order, equal or NaN")
    merged = np.concatenate([reference_times, times])
    order = np.argsort(merged, kind="stable")
    is_reference = order < len(reference_times)
    gap = np.diff(merged[order])
    candidates = np.flatnonzero((is_reference[1:] != is_reference[:-1]) & (gap <= max_difference))
    used = bytearray(len(merged))
    pairs = []
    for first in candidates[np.argsort(gap[candidates], kind="stable")].tolist():
        if not (used[first] or used[first + 1]):
            used[first] = used[first + 1] = 1
            pairs.append(first)
    left = np.sort(np.asarray(pairs, dtype=np.int64))
    a, b = order[left], order[left + 1]
    reference_index = np.minimum(a, b)  # reference stamps come first in ``merged``
    index = np.maximum(a, b) - len(reference_times)
    return reference_index.astype(np.int64), index.astype(np.int64)


FACTORS = (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9)
_ENOUGH = 3
"""Pairs without which no trajectory can be scored."""
_SAME_DURATION = 0.02
_CHANCE = 0.2
"""Share of the shorter series up to which pairs may be chance: seconds meet milliseconds and frame numbers, too."""
_LIKELY = 0.5
"""Share of the shorter series that must pair under a factor before it is named."""


@dataclass(frozen=True, eq=False)
class Clock:
    """A series of stamps and what is known of it.

    name: in messages, such as a file. what: ``"poses"`` or ``"frames"``. seconds: (N,), strictly increasing. unit: as
    the file has them. why: what contradicts the unit that the format says, or None. told: the user gave the scale.
    """

    name: str
    seconds: FloatArray
    what: str = "poses"
    unit: str = "s"
    why: str | None = None
    told: bool = False

    def span(self) -> str:
        """``gt.txt: 40 poses from 1000.000 to 1019.500 s``, with the file's unit where it is another."""
        if not len(self.seconds):
            return f"{self.name}: no {self.what}"
        stored = "" if self.unit == "s" else f" (stamps in {self.unit})"
        first, last = self.seconds[0], self.seconds[-1]
        return f"{self.name}: {len(self.seconds)} {self.what} from {first:.3f} to {last:.3f} s{stored}"


def pair_times(
    reference: Clock, estimate: Clock, max_difference: float, advice: str | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `associate`, for two files whose clocks may be strangers to each other.

    advice: what to do where the user cannot scale or shift the estimate's times (``--time-scale``, ``--time-offset``).
    Raises DataError, one line with both spans, when nothing pairs, when next
    to nothing pairs and a factor explains it, and when one file's stamps are of a unit that its format does not have
    while the other's are not.
    """
    if advice is None and _unit_is_open(reference, estimate):
        odd, other = (estimate, reference) if estimate.why else (reference, estimate)
        scale = scale_of(estimate.unit)
        between = scale_of(other.unit) / scale_of(odd.unit)
        guessed = (
            f"a likely factor of {between:g} between them; if that is so, read the estimate with"
            f" {_option('time-scale', scale)}"
        )
        # Stamps that count from a start of their own may be of yet another unit: what pairs is better evidence.
        paired = _likely(reference, estimate, max_difference, 0, adjustable=True)
        raise DataError(
            f"the clocks differ: {reference.span()}, {estimate.span()}; stamps of {odd.name} are in {odd.unit}"
            f" ({odd.why}), those of {other.name} in {other.unit}: {paired or guessed}"
        )
    pairs = associate(reference.seconds, estimate.seconds, max_difference)
    fewer = min(len(reference.seconds), len(estimate.seconds))
    if len(pairs[0]) >= max(_ENOUGH, _CHANCE * fewer) or not fewer:
        return pairs
    likely = _likely(reference, estimate, max_difference, len(pairs[0]), adjustable=advice is None)
    if len(pairs[0]) and likely is None:
        return pairs
    matched = f"only {len(pairs[0])}" if len(pairs[0]) else "none"
    units = [f"stamps of {c.name} are read as {c.unit} ({c.why})" for c in (reference, estimate) if c.why]
    raise DataError(
        f"{matched} of {len(estimate.seconds)} {estimate.what} of {estimate.name} lies within {max_difference:g} s of"
        f" {'a frame' if reference.what == 'frames' else 'a pose'} of {reference.name}; {reference.span()},"
        f" {estimate.span()}: {'; '.join([*units, likely or _apart(reference, estimate)])}"
        f"{'' if advice is None else '; ' + advice}"
    )


def _unit_is_open(reference: Clock, estimate: Clock) -> bool:
    """Whether one file's stamps are of a unit that its format does not have, the other's are not, and no user said."""
    return reference.unit != estimate.unit and bool(reference.why or estimate.why) and not estimate.told


def _option(name: str, value: float) -> str:
    # The same line stands in a run's record, where settings have the same names.
    return f"--{name} {value:.12g} (in an experiment {name.replace('-', '_')}: {value:.12g})"


def _likely(reference: Clock, estimate: Clock, max_difference: float, now: int, *, adjustable: bool) -> str | None:
    """What the stamps themselves say is the matter; None where they say nothing."""
    truth, guess = reference.seconds, estimate.seconds
    fewer = min(len(truth), len(guess))
    factors = [*FACTORS, *_of_frame_numbers(truth, guess)]
    counts = {factor: _matched(truth, guess * factor, max_difference) for factor in factors}
    best = max(counts, key=lambda factor: counts[factor])
    if counts[best] >= max(_ENOUGH, 2 * now, _LIKELY * fewer):
        told = f"times {best:g}, {counts[best]} of them would pair"
        return f"{told}: {_option('time-scale', _in_file(estimate, best))}" if adjustable else told
    if now or _overlap(truth, guess) or fewer < _ENOUGH:
        return None
    long, short = float(np.ptp(truth)), float(np.ptp(guess))
    for factor in (1.0, *FACTORS, 0.5, 2.0):
        if abs(short * factor - long) > _SAME_DURATION * long:
            continue
        offset = float(truth[0] - guess[0] * factor)
        if _matched(truth, guess * factor + offset, max_difference) < max(_ENOUGH, _LIKELY * fewer):
            continue
        scaled = "" if factor == 1.0 else f" times {factor:g}"
        told = f"both last as long{scaled}; if they begin together, the estimate's clock is {-offset:.12g} s ahead"
        if offset > 0:
            told = f"both last as long{scaled}; if they begin together, the estimate's clock is {offset:.12g} s behind"
        # A shift alone would leave the question of the unit, which the next attempt would ask.
        named = factor != 1.0 or _unit_is_open(reference, estimate)
        scale = f"{_option('time-scale', _in_file(estimate, factor))} and " if named else ""
        return f"{told}: {scale}{_option('time-offset', offset)}" if adjustable else told
    return None


def _of_frame_numbers(truth: FloatArray, guess: FloatArray) -> tuple[float, ...]:
    """The reference's interval, where the estimate counts frames in place of seconds."""
    if (
        len(truth) < _ENOUGH
        or len(guess) < _ENOUGH
        or (guess != np.floor(guess)).any()
        or np.median(np.diff(guess)) < 1
    ):
        return ()
    interval = float(np.ptp(truth)) / (len(truth) - 1)
    return (interval,) if 0 < interval < 0.5 else ()


def _matched(truth: FloatArray, moved: FloatArray, max_difference: float) -> int:
    """Pairs of a trial; none where stamps that were different fall together."""
    return len(associate(truth, moved, max_difference)[0]) if (np.diff(moved) > 0).all() else 0


def _in_file(estimate: Clock, factor: float) -> float:
    """The scale that reads the file's own stamps: seconds to one of their units."""
    return scale_of(estimate.unit) * factor


def scale_of(unit: str) -> float:
    """Seconds to one unit of stamps; ``"0.5 s"`` is what a user gave."""
    known = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}.get(unit)
    return float(unit.partition(" ")[0]) if known is None else known


def _overlap(a: FloatArray, b: FloatArray) -> bool:
    return bool(a[0] <= b[-1] and b[0] <= a[-1])


def _apart(reference: Clock, estimate: Clock) -> str:
    """Facts without a guess."""
    truth, guess = reference.seconds, estimate.seconds
    if not _overlap(truth, guess):
        gap = guess[0] - truth[-1] if guess[0] > truth[-1] else truth[0] - guess[-1]
        return f"the spans are {gap:.3f} s apart; are both of one recording and one clock?"
    after = np.searchsorted(truth, guess).clip(1, max(len(truth) - 1, 1))
    nearest = min(np.abs(truth[after - 1] - guess).min(), np.abs(truth[after.clip(max=len(truth) - 1)] - guess).min())
    return (
        f"the spans overlap, but the two nearest stamps are {nearest:.3g} s apart: they were sampled at other moments;"
        " raise the largest time difference if that is meant"
    )
