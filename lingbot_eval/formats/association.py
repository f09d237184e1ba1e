"""Pairing two series of timestamps, one to one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import DataError
from lingbot_eval.types import FloatArray


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
