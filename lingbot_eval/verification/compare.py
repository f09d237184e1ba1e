"""How near is near enough: the verdict on one array (docs/reference-cases.md, "Agreement wanted")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FLOAT32_TOLERANCE = 1e-4
"""Largest absolute difference in float32."""
LOW_PRECISION_TOLERANCE = 1e-2
"""Median relative difference in bfloat16 or float16."""
CACHE_TOLERANCE = 2e-3
"""Median relative difference in float32 with keys and values in 8 bits; in low precision its own holds for both."""
GROWTH_FACTOR = 2.0
"""In low precision the last quarter of the frames may differ by no more than this many times the first quarter."""
FEWEST_FRAMES_FOR_GROWTH = 8

FRAME_ARRAYS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")
"""Outputs with one entry a frame along the first axis, whose difference must not grow along one stream."""
FLOW_TOLERANCE = 5e-2
"""Median relative difference of ``flow_pixels`` in low precision: a difference of nearly equal camera positions."""

Verdict = Literal["pass", "fail", "unsupported", "incomparable"]
"""``unsupported``: this version cannot run the case. ``incomparable``: low precision chose other keyframes."""


@dataclass(frozen=True)
class Comparison:
    """One array of one case: its largest absolute and median relative difference, and the verdict with its reason."""

    case: str
    array: str
    largest: float | None
    median_relative: float | None
    verdict: Verdict
    reason: str = ""


def compare(
    case: str,
    name: str,
    found: NDArray[Any] | None,
    wanted: NDArray[Any],
    precision: str,
    *,
    cache_precision: int | None = None,
    one_stream: bool = True,
) -> Comparison:
    """Compare one array with its reference. Integers must be equal, NaN must meet NaN.

    precision, cache_precision: of the products, and of keys and values where it is another.
    one_stream: False for windowed cases, where each window rightly inherits the difference of every join before it.
    """
    if found is None:
        return Comparison(case, name, None, None, "fail", "no array of this name is produced")
    if found.shape != wanted.shape:
        return Comparison(case, name, None, None, "fail", f"shape {found.shape}, reference {wanted.shape}")
    if np.issubdtype(wanted.dtype, np.integer):
        differing = int((found != wanted).sum())
        largest = float(np.abs(found.astype(np.int64) - wanted.astype(np.int64)).max(initial=0))
        return Comparison(
            case,
            name,
            largest,
            None,
            "fail" if differing else "pass",
            f"{differing} entries differ" if differing else "",
        )
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    if (np.isfinite(found) != np.isfinite(wanted)).any():
        return Comparison(case, name, None, None, "fail", "not finite where the reference is, or the other way round")
    finite = np.isfinite(wanted)
    difference = np.where(finite, np.abs(found - np.where(finite, wanted, 0)), 0)
    relative = _relative(difference, wanted, finite)
    largest, median = float(difference.max(initial=0)), float(np.median(relative[finite])) if finite.any() else 0.0
    if precision == "float32" and cache_precision is None:
        # Written so that a NaN difference fails.
        fault = "" if largest <= FLOAT32_TOLERANCE else f"largest difference above {FLOAT32_TOLERANCE:g}"
    else:
        tolerance = CACHE_TOLERANCE if precision == "float32" else LOW_PRECISION_TOLERANCE
        tolerance = FLOW_TOLERANCE if name == "flow_pixels" else tolerance
        fault = "" if median <= tolerance else f"median relative difference above {tolerance:g}"
        if name in FRAME_ARRAYS and one_stream:
            fault = fault or _growth(relative)
    return Comparison(case, name, largest, median, "fail" if fault else "pass", fault)


def other_keyframes(found: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]]) -> str:
    """Where two flow runs chose different keyframes: one line, or "" where they chose the same.

    A flow keyframe is a threshold on a prediction. Low precision may fall on its other side, and from there on the two
    are different streams, whose difference says nothing of the arithmetic.
    """
    ours, theirs = found.get("frame_type"), wanted.get("frame_type")
    if ours is None or theirs is None or ours.shape != theirs.shape or (ours == theirs).all():
        return ""
    return f"low precision chose other keyframes, first at row {int(np.argmax(ours != theirs))}"


def _relative(difference: NDArray[Any], wanted: NDArray[Any], finite: NDArray[np.bool_]) -> NDArray[Any]:
    """Differences against the array's own typical size, so that entries near zero do not blow up."""
    typical = float(np.median(np.abs(wanted[finite]))) if finite.any() else 1.0
    return np.asarray(difference / np.maximum(np.abs(np.where(finite, wanted, 1)), typical or 1.0))


def _growth(relative: NDArray[Any]) -> str:
    """Whether the difference grows along the frames."""
    frames = len(relative)
    if frames < FEWEST_FRAMES_FOR_GROWTH:
        return ""
    a_frame = np.median(relative.reshape(frames, -1), axis=1)
    first, last = float(np.median(a_frame[: frames // 4])), float(np.median(a_frame[-(frames // 4) :]))
    if last > GROWTH_FACTOR * first and last > 0.1 * LOW_PRECISION_TOLERANCE:
        return f"difference grows along the frames: {first:.1e} in the first quarter, {last:.1e} in the last"
    return ""
