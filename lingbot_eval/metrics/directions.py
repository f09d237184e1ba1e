"""Which way each measurement is better: the one place that says so, by family and name.

Everything that a run measures is named here: a figure with no better and worse (a scale factor, an end of an interval,
the number of the frame where something happened) is named with None,
so that a new metric cannot be forgotten in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from lingbot_eval.types import Direction

# Patterns of names; the first that fits wins.
_TABLE: Mapping[str, tuple[tuple[str, Direction | None], ...]] = {
    "trajectory": (
        ("ate_*", "lower"),
        ("rpe_*", "lower"),
        ("dropped_frames", "lower"),
        ("unmatched_frames", "lower"),
        ("coverage", "higher"),
        ("matched_frames", "higher"),
        # Of the alignment and of the reference, not of the error.
        ("scale", None),
        ("path_length", None),
    ),
    "drift": (
        # Ends of an interval around a figure that is judged itself.
        ("*_low95", None),
        ("*_high95", None),
        ("largest_step_error_frame", None),
        # Signed: 0 is best.
        ("scale_drift", None),
        ("collapse_frame", "higher"),
        ("collapsed", "lower"),
        ("jumps", "lower"),
        ("segment_*", "lower"),
        ("anchored_final_error", "lower"),
        ("loop_gap*", "lower"),
        ("largest_step_error", "lower"),
        ("rpe_*", "lower"),
    ),
    "auc": (("auc_*", "higher"), ("racc_*", "higher"), ("tacc_*", "higher")),
    "depth": (
        ("delta_*", "higher"),
        ("frames_scored", "higher"),
        ("sampling_error", None),
        ("abs_rel*", "lower"),
        ("sq_rel", "lower"),
        ("rmse", "lower"),
        ("log_rmse", "lower"),
        # −1 is a confidence that falls as the error grows.
        ("confidence_rank_correlation", "lower"),
        ("frames_skipped", "lower"),
        ("unpredicted_pixels", "lower"),
    ),
    "points": (
        ("accuracy", "lower"),
        ("completeness", "lower"),
        ("chamfer", "lower"),
        ("precision", "higher"),
        ("recall", "higher"),
        ("f1", "higher"),
    ),
    "throughput": (("*_fps", "higher"), ("*", "lower")),
    "memory": (("*", "lower"),),
}


def direction(family: str, name: str) -> Direction | None:
    """Whether lower or higher is better; None where neither is, or where nobody has said."""
    return next((entry for pattern, entry in _TABLE.get(family, ()) if fnmatchcase(name, pattern)), None)
