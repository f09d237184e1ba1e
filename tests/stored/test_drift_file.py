"""``drift.npz``: comes back as it was, and a damaged one is one line that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lingbot_eval.errors import StoreError
from lingbot_eval.stored.unit_files import load_drift, save_drift
from lingbot_eval.types import DriftSeries


def series() -> DriftSeries:
    rows, some = np.arange(5), np.arange(2)
    return DriftSeries(
        rows, *(rows * k for k in (0.1, 0.2, 0.3)), some, some * 0.5, some, *([some * 0.1] * 3), some[:1], some[:0]
    )


def test_comes_back(tmp_path: Path) -> None:
    save_drift(tmp_path / "drift.npz", series())
    found = load_drift(tmp_path / "drift.npz")
    for name, values in vars(series()).items():
        np.testing.assert_array_equal(getattr(found, name), values)


@pytest.mark.parametrize("spoil", ["missing", "shape", "last shape", "kind", "kind of values", "text"])
def test_damage_is_one_line(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "drift.npz"
    arrays = dict(vars(series()))
    if spoil == "missing":
        del arrays["jump_frame"]
    elif spoil == "shape":
        arrays["local_scale"] = np.ones(3)
    elif spoil == "last shape":
        arrays["segment_rotation"] = np.ones(3)
    elif spoil == "kind of values":
        arrays["prefix_ate_m"] = np.arange(2)
    elif spoil == "kind":
        arrays["frame"] = np.ones(5)
    np.savez(path, **arrays)
    if spoil == "text":
        path.write_text("no archive")
    with pytest.raises(StoreError, match=r"drift\.npz, found a damaged file") as caught:
        load_drift(path)
    assert "\n" not in str(caught.value)
