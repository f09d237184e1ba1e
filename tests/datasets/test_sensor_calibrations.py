"""Calibrations as EuRoC and Kalibr write them: every name of a lens, and which number is which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingbot_eval.datasets.walks import sensor_of
from lingbot_eval.errors import DataError
from lingbot_eval.geometry.cameras import LensCamera

PATH = Path("sensor.yaml")
NUMBERS, LENS = [458.5, 457.25, 367.0, 248.0], [-0.28, 0.07, 0.001, -0.002]
POSE = [[0, -1, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, 0.3], [0, 0, 0, 1]]


def document(**changes: Any) -> dict[str, Any]:
    found = {"resolution": [752, 480], "intrinsics": NUMBERS, "bend": LENS, "pose": {"rows": 4, "data": POSE}}
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def sensor(**changes: Any) -> tuple[LensCamera, np.ndarray]:
    return sensor_of(document(**changes), PATH, "pose", "bend")


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ("radial-tangential", "OPENCV"),
        ("radtan", "OPENCV"),
        ("plumb_bob", "OPENCV"),
        ("Plumb_Bob", "OPENCV"),
        ("equidistant", "OPENCV_FISHEYE"),
        ("equi", "OPENCV_FISHEYE"),
        ("fisheye", "OPENCV_FISHEYE"),
        (None, "OPENCV"),
    ],
)
def test_every_name_of_a_lens_is_known(said: str | None, model: str) -> None:
    lens, pose = sensor(distortion_model=said)
    assert lens == LensCamera(model, (752, 480), (*NUMBERS, *LENS))
    np.testing.assert_array_equal(pose, POSE)


def test_numbers_come_in_lists_or_in_rows_and_a_fifth_that_is_nothing_is_passed_over() -> None:
    plain = sensor()
    lens, pose = sensor(pose=[number for row in POSE for number in row], bend=[*LENS, 0.0])
    assert lens == plain[0]
    np.testing.assert_array_equal(pose, plain[1])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"distortion_model": "omni"}, "expected distortion_model radial-tangential or equidistant, found 'omni'"),
        ({"resolution": [752]}, "expected resolution as 2 finite numbers"),
        ({"intrinsics": [458.5, -457.25, 367.0, 248.0]}, "expected positive focal lengths, found"),
        ({"intrinsics": NUMBERS[:3]}, "expected intrinsics as 4 finite numbers"),
        ({"bend": [*LENS, 0.5]}, "expected bend as 4 finite numbers"),
        ({"bend": [*LENS[:3], float("nan")]}, "expected bend as 4 finite numbers"),
        ({"pose": None}, "expected pose as 16 finite numbers"),
        ({"pose": np.diag([2.0, 2, 2, 1]).tolist()}, "pose: expected a rigid 4x4 pose"),
    ],
)
def test_a_calibration_that_is_none_is_one_line(changes: dict[str, Any], says: str) -> None:
    if changes == {"pose": None}:
        changes = {"pose": "none"}
    with pytest.raises(DataError) as refusal:
        sensor(**changes)
    assert str(refusal.value).startswith("sensor.yaml: ")
    assert says in str(refusal.value)
