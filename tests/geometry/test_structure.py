"""What COLMAP is asked, and what is made of its answer: a stand-in says what was seen."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import UnscorableError
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
    # COLMAP gives images in the order in which it registered them.
    found.images, found.cameras = dict(enumerate(seen[::-1])), {7: MagicMock()}
    # COLMAP counts pixels from the corner of the first.
    found.cameras[7].calibration_matrix.return_value = K + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return found


@pytest.fixture
def colmap(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    made = MagicMock()
    made.logging.FATAL, made.logging.minloglevel = 3, 1
    models = {0: model(1, 90), 1: model(2, 50), 2: model(2, 40)}
    made.global_mapping.return_value = made.incremental_mapping.return_value = models
    monkeypatch.setitem(sys.modules, "pycolmap", made)
    return made


def structure(intrinsics: np.ndarray | None, **settings: Any) -> Structure:
    return structure_of([np.zeros((8, 9, 3), np.uint8)] * 3, intrinsics, **{"refine": False, **settings})


def test_poses_and_cameras_are_of_the_largest_model_in_our_conventions(colmap: MagicMock) -> None:
    found = structure(K)
    assert (found.models, found.points, found.reprojection_px) == ((2, 2, 1), 50, 0.25)
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
    if mapper == "global":
        assert options.mapper.bundle_adjustment.refine_extra_params is refine
        assert options.mapper.bundle_adjustment.ceres.solver_options.num_threads == 1
        seeded = options.mapper.global_positioning, options.mapper.rotation_averaging
        assert [each.random_seed for each in seeded] == [5, 5]
    else:
        assert options.ba_refine_extra_params is refine
        assert options.min_model_size == 3
    assert options.mapper.num_threads == 1
    assert (options.random_seed, options.mapper.random_seed, options.num_threads) == (5, 5, 1)
    colmap.set_random_seed.assert_called_once_with(5)
    assert colmap.match_sequential.call_args.kwargs["verification_options"].ransac.random_seed == 5


def test_images_are_matched_with_their_neighbours_on_one_thread_of_the_cpu(colmap: MagicMock) -> None:
    """As docs say: 4,096 features an image, ten images after it and those 2, 4, 8 … after it, one camera for all."""
    levels: list[int] = []
    colmap.extract_features.side_effect = lambda *_, **__: levels.append(colmap.logging.minloglevel)
    structure(None)
    database, images = colmap.extract_features.call_args.args
    extraction = colmap.extract_features.call_args.kwargs
    assert extraction["camera_mode"] is colmap.CameraMode.SINGLE
    options = extraction["extraction_options"]
    assert (options.use_gpu, options.num_threads, options.sift.max_num_features) == (False, 1, 4096)
    matching = colmap.match_sequential.call_args
    assert matching.args == (database,)
    pairs = matching.kwargs["pairing_options"]
    assert (pairs.overlap, pairs.quadratic_overlap) == (10, True)
    assert (matching.kwargs["matching_options"].use_gpu, matching.kwargs["matching_options"].num_threads) == (False, 1)
    assert extraction["device"] is matching.kwargs["device"] is colmap.Device.cpu
    # Unless told otherwise, all poses at once and seed 0; COLMAP is silent meanwhile, and speaks again afterwards.
    assert colmap.global_mapping.call_args.args[:2] == (database, images)
    colmap.set_random_seed.assert_called_once_with(0)
    assert (levels, colmap.logging.minloglevel) == ([3], 1)
    assert not images.parent.exists(), "the copies of the images are gone"


def test_colmap_speaks_again_and_nothing_is_left_where_it_fails(colmap: MagicMock) -> None:
    colmap.match_sequential.side_effect = RuntimeError("database is locked")
    with pytest.raises(RuntimeError, match="locked"):
        structure(None)
    assert colmap.logging.minloglevel == 1
    assert not colmap.extract_features.call_args.args[1].parent.exists()


def test_two_images_are_needed_and_a_model(colmap: MagicMock) -> None:
    images = [np.zeros((8, 9, 3), np.uint8)]
    with pytest.raises(UnscorableError, match="expected two images at least, found 1"):
        structure_of(images, None, refine=False)
    colmap.global_mapping.return_value = {}
    with pytest.raises(UnscorableError, match="no model of the 2 images"):
        structure_of(images * 2, None, refine=False)
