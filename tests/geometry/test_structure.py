"""What COLMAP is asked, and what is made of its answer: a stand-in says what was seen."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.geometry.structure import Structure, structure_of

K = np.array([[300.0, 0, 161.25], [0, 310.0, 119.0], [0, 0, 1]])
ROTATION, CENTRE = Rotation.from_rotvec([0.1, -0.4, 0.7]).as_matrix(), np.array([1.0, 2, 5])


def model(images: int, points: int) -> MagicMock:
    """Of so many registered images, the first of which is the sequence's second; one further has no pose."""
    seen = [
        SimpleNamespace(
            name=f"{(number + 1) % 3:06d}.png",
            has_pose=number < images,
            camera_id=7,
            cam_from_world=lambda: SimpleNamespace(matrix=lambda: np.column_stack([ROTATION.T, -ROTATION.T @ CENTRE])),
        )
        for number in range(images + 1)
    ]
    found = MagicMock()
    found.num_reg_images.return_value, found.num_points3D.return_value = images, points
    found.compute_mean_reprojection_error.return_value = 0.25
    found.images, found.cameras = dict(enumerate(seen)), {7: MagicMock()}
    # COLMAP counts pixels from the corner of the first.
    found.cameras[7].calibration_matrix.return_value = K + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return found


@pytest.fixture
def colmap(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    made = MagicMock()
    made.logging.FATAL = made.logging.minloglevel = 3
    models = {0: model(1, 90), 1: model(2, 50)}
    made.global_mapping.return_value = made.incremental_mapping.return_value = models
    monkeypatch.setitem(sys.modules, "pycolmap", made)
    return made


def structure(intrinsics: np.ndarray | None, **settings: Any) -> Structure:
    return structure_of([np.zeros((8, 9, 3), np.uint8)] * 3, intrinsics, **{"refine": False, **settings})


def test_poses_and_cameras_are_of_the_largest_model_in_our_conventions(colmap: MagicMock) -> None:
    found = structure(K)
    assert (found.models, found.points, found.reprojection_px) == ((2, 1), 50, 0.25)
    assert list(found.camera_to_world) == [1, 2]
    np.testing.assert_allclose(found.camera_to_world[1], pose_matrix(ROTATION, CENTRE), atol=1e-12)
    np.testing.assert_allclose(found.intrinsics[1], K)
    reader = colmap.extract_features.call_args.kwargs["reader_options"]
    assert reader.camera_model == "PINHOLE"
    assert [float(word) for word in reader.camera_params.split(",")] == [300, 310, 161.75, 119.5]


@pytest.mark.parametrize("mapper", ["global", "incremental"])
@pytest.mark.parametrize("refine", [False, True])
def test_settings_reach_the_mapper_that_they_name(colmap: MagicMock, mapper: Any, refine: bool) -> None:
    structure(None, mapper=mapper, refine=refine, seed=5)
    one, other = colmap.global_mapping, colmap.incremental_mapping
    used, idle = (one, other) if mapper == "global" else (other, one)
    assert not idle.called
    options = used.call_args.args[3]
    refined = (
        options.mapper.bundle_adjustment.refine_focal_length if mapper == "global" else options.ba_refine_focal_length
    )
    assert refined is refine
    assert (options.random_seed, options.mapper.random_seed, options.num_threads) == (5, 5, 1)
    colmap.set_random_seed.assert_called_once_with(5)
    assert colmap.match_sequential.call_args.kwargs["verification_options"].ransac.random_seed == 5
