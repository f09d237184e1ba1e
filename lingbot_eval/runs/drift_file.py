"""The drift series of a unit and their file, ``drift.npz``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.files.arrays import load_arrays
from lingbot_eval.files.atomic import atomic_open
from lingbot_eval.types import DriftSeries

DRIFT_FILE = "drift.npz"
# Arrays of one length, by the first of them.
_GROUPS = {
    "frame": ("step_error_m", "local_scale", "anchored_error_m"),
    "prefix_frame": ("prefix_ate_m",),
    "segment_frame": ("segment_length_m", "segment_translation", "segment_rotation"),
    "jump_frame": (),
    "collapse_frame": (),
}


def save_drift(path: Path, series: DriftSeries) -> None:
    """Write the series, whole or not at all. Raises StoreError."""
    with atomic_open(path, "wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **vars(series))


def load_drift(path: Path) -> DriftSeries:
    """Read ``drift.npz``. Raises StoreError naming the file when it is damaged or not what it should be."""
    return load_arrays(path, [field.name for field in fields(DriftSeries)], "drift series", _series)


def _series(arrays: dict[str, NDArray[Any]]) -> DriftSeries:
    for first, others in _GROUPS.items():
        if arrays[first].dtype.kind != "i" or arrays[first].ndim != 1:
            raise ValueError(f"array {first} of {arrays[first].dtype}, shape {arrays[first].shape}")
        for name in others:
            if arrays[name].dtype.kind != "f" or arrays[name].shape != arrays[first].shape:
                raise ValueError(f"array {name} of {arrays[name].dtype}, shape {arrays[name].shape}")
    return DriftSeries(**arrays)
